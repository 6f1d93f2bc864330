"""The quick study from nothing: wall clock, CPU by phase, rollouts and tokens a second, peak memory.

    python benchmarks/quick_study.py [--json] [--study FILE]

Nothing is taken from a cache. Memory is the sum over the study's processes of their proportional share (PSS), read
once a second. CPU seconds of a phase are those of its steps in the workers. The ratio compares the wall clock
with the bar of 150 seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
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
BAR_SECONDS = 150
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


def run_study(study: Path, output: Path, cache: Path) -> dict[str, float]:
    """Run the command as a user does; wall clock, CPU and peak memory."""
    environment = {**os.environ, "HOLDFAST_CACHE": str(cache), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "holdfast", "run", str(study), "-o", str(output), "--quiet"]
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


def read_phases(study: Path, output: Path) -> dict[str, dict[str, float]]:
    """CPU seconds, units and rates of every phase, from what the steps noted."""
    totals: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
    with Store(output) as store:
        noted = store.log.steps()
    for step in build(load(study)).steps:
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = run_study(options.study, Path(folder) / "run", Path(folder) / "cache")
        figures = {"whole": whole, **read_phases(options.study, Path(folder) / "run")}
    ratios = {"bar_over_wall": round(BAR_SECONDS / whole["wall_s"], 2)}
    show(document("quick_study", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
