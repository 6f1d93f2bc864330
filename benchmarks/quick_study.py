"""A study from nothing: wall clock, CPU by phase, rollouts and tokens a second, peak memory.

    python benchmarks/quick_study.py [--json] [--study FILE] [--set KEY=VALUE] [--output RUN]

The quick study unless another is named; one seed of the real model's is

    python benchmarks/quick_study.py --study studies/smol.toml --set 'study.train_seeds=[0]' --json

Nothing is taken from a cache. Memory is the sum over the study's processes of their proportional share (PSS), read
once a second. CPU seconds of a phase are those of its steps in the workers. The ratios compare the wall clock and the
memory with the study's bar, where it has one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import document, show

from holdfast.runs.build import build
from holdfast.runs.plan.settings import RolloutSettings
from holdfast.runs.plan.step import Step
from holdfast.store import Store
from holdfast.study.study import load

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")
# The most seconds and MB that a study may take on two cores, by its name.
BARS = {"quick": (150, 1500), "smol": (3600, 6000)}
# Reading it takes some milliseconds of a core that the study would have.
SAMPLE_SECONDS = 1.0


def descendants(root: int) -> list[int]:
    """A process and all that it started."""
    found = [root]
    for process in found:
        try:
            found += [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        except OSError:
            continue
    return found


def proportional_mb(root: int) -> float:
    """The PSS of a process and all that it started, in MB."""
    total = 0
    for process in descendants(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def run_study(study: Path, changes: Sequence[str], output: Path, cache: Path) -> dict[str, float]:
    """Run the command as a user does; wall clock, CPU and peak memory."""
    environment = {**os.environ, "HOLDFAST_CACHE": str(cache), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "holdfast", "run", str(study), "-o", str(output), "--quiet"]
    command += [word for change in changes for word in ("--set", change)]
    before, started, peak = os.times(), time.perf_counter(), 0.0
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, proportional_mb(process.pid))
        time.sleep(SAMPLE_SECONDS)
    wall, after = time.perf_counter() - started, os.times()
    if process.returncode:
        raise SystemExit(f"the study ended with {process.returncode}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_pss_mb": round(peak)}


def phase_of(step: Step) -> str:
    if isinstance(step.settings, RolloutSettings):
        return f"rollout_{step.settings.part}"
    return step.settings.work


def read_phases(study: Path, changes: Sequence[str], output: Path) -> dict[str, dict[str, float]]:
    """CPU seconds, units and rates of every phase, from what the steps noted."""
    totals: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
    with Store(output) as store:
        noted = store.log.steps()
    for step in build(load(study, changes=changes)).steps:
        result, phase = noted[step.fingerprint].result, totals[phase_of(step)]
        phase["steps"] += 1
        phase["cpu_s"] += result["cpu_seconds"]
        phase["units"] += step.size
        phase["trained_tokens"] += result.get("trained_tokens", 0)
    rows = {}
    for name, phase in totals.items():
        row = {"steps": phase["steps"], "cpu_s": round(phase["cpu_s"], 1), "units": phase["units"]}
        if name.startswith("rollout"):
            row["episodes_per_cpu_s"] = round(phase["units"] / phase["cpu_s"])
        if phase["trained_tokens"]:
            row["trained_tokens_per_cpu_s"] = round(phase["trained_tokens"] / phase["cpu_s"])
        rows[name] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "quick.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `holdfast run`")
    parser.add_argument("--output", type=Path, metavar="RUN", help="keep the run there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = options.output or Path(folder) / "run"
        whole = run_study(options.study, options.set, output, Path(folder) / "cache")
        figures = {"whole": whole, **read_phases(options.study, options.set, output)}
    name = load(options.study, changes=options.set).study.name
    seconds, megabytes = BARS.get(name, (None, None))
    ratios = {"bar_over_wall": round(seconds / whole["wall_s"], 2)} if seconds else {}
    if megabytes:
        ratios["bar_over_memory"] = round(megabytes / whole["peak_pss_mb"], 2)
    show(document(f"{name}_study", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
