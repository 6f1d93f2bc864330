"""Training in several processes: one of them gates, and all of them stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import training_loops as loops
from builders.places import ROOT

from holdfast.integrations.ranks import join_ranks, share_word

pytest.importorskip("trl")
SCRIPT = """\
import json, os, sys
from pathlib import Path
from builders import training_loops as loops
from holdfast.integrations import SafetyGate

start, suite, output = map(Path, sys.argv[1:])
gate = SafetyGate(loops.RULES, suite=suite, workers=1)
trainer = loops.dpo(start, output, callbacks=[gate], learning_rate=1.0, lr_scheduler_type="constant", max_steps=3)
trainer.train()
found = {"verdicts": gate.verdicts, "step": trainer.state.global_step}
(output / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
"""


def test_one_process_has_nobody_to_ask() -> None:
    assert join_ranks() is None and share_word("FAIL", ("PASS", "FAIL"), None) == "FAIL"


@pytest.mark.full
def test_all_processes_stop_at_the_verdict_of_the_first(start: Path, suite: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = ":".join(str(ROOT / name) for name in ("src", "tests", "benchmarks"))
    subprocess.run(
        [*launcher, str(script), str(start), str(suite), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    found = [json.loads((tmp_path / "out" / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [{"verdicts": {"1": "FAIL"}, "step": 1}] * 2
    assert loops.read_verdict(tmp_path / "out" / "checkpoint-1")["outcome"] == "FAIL"
    assert len([*(tmp_path / "out" / "_holdfast").glob("checkpoint-*")]) == 1
