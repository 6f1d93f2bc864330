"""What "equal to the byte" promises: on one machine, with one set of kernels and versions; elsewhere up to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_office as office
from kernels import environment
from rounding import additions, rounding, within

from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.model import TinyModel
from holdfast.store.weights import digest_directory
from holdfast.study.sections import SFTSection
from holdfast.training.sft.stage import train_sft

pytestmark = pytest.mark.full
STAGE = SFTSection(batch_size=6, learning_rate=5e-3, warmup_steps=2, max_grad_norm=1.0, other_weight=0.15)
_CHILD = "import json, sys; from test_kernels_promise import look; print(json.dumps(look(*sys.argv[1:])))"


def look(base: str, out: str = "") -> dict[str, Any]:
    """The log-probabilities of demonstrations under a base, and, with ``out``, what a short stage makes of it."""
    chat = TinyChat.load(base)
    shown = office.demonstrations(chat)
    logps = TinyModel.load(base).logprobs([(one.ids.tolist(), one.picked("agent").tolist()) for one in shown])
    if not out:
        return {"logps": [row.tolist() for row in logps]}
    made = train_sft(Path(base), shown, STAGE, steps=6, seed=4, out_dir=Path(out))
    return {
        "logps": [row.tolist() for row in logps],
        "weights": digest_directory(made.path),
        "losses": list(made.losses),
    }


def look_elsewhere(told: dict[str, str], *places: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, places)],
        env=told | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return office.make_model(tmp_path_factory.mktemp("promise") / "base", seed=3)


@pytest.fixture(scope="module")
def here(base: Path) -> dict[str, Any]:
    return look(str(base), str(base.parent / "here"))


def test_one_set_of_kernels_gives_one_set_of_bytes(base: Path, here: dict[str, Any], tmp_path: Path) -> None:
    """Another process with the same environment: log-probabilities, losses and weights to the last bit."""
    assert look_elsewhere(dict(os.environ), base, tmp_path / "again") == here


def test_other_kernels_differ_by_rounding(base: Path, here: dict[str, Any]) -> None:
    """A pass agrees up to the order of its sums; what Adam makes of that is another draw of the same stage."""
    there = look_elsewhere(environment("lowest-2"), base)
    shape = TinyModel.load(base).llama.shape
    terms = additions(shape.hidden, shape.layers, shape.ffn, shape.vocabulary, shape.max_positions)
    for ours, theirs in zip(here["logps"], there["logps"], strict=True):
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            assert within(abs(one - other), rounding(terms))
