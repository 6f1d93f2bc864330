"""What a forecast would have said of a finished run, held against what it took: CPU seconds, and time on a clock.

    python benchmarks/forecast.py STUDY RUN [--json]

The run may be unfinished: its finished steps count. "start" is what `holdfast plan` says before the run; "half" is
what it says of the later half of the finished steps once the first half is measured. A ratio is forecast / taken, by
kind of step and in all; the bar is a factor of 1.5 either way. The clock is compared from the first step's start to the
last one's end, for a run of one go without breaks whose steps are all done, with the study's number of workers.

This machine times a layer of the model for it, so it should be the one that the run was made on.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine import document, show

from holdfast.runs.build import build
from holdfast.runs.costs.outlook import time_on_clock
from holdfast.runs.costs.seconds import Expected, measured_seconds
from holdfast.runs.plan.settings import RolloutSettings
from holdfast.runs.plan.step import Step
from holdfast.store import Store
from holdfast.study.study import load

PACKAGES = ("torch", "transformers")
BAR = 1.5


def kind_of(step: Step) -> str:
    """What steps are told apart by."""
    return f"rollout_{step.settings.part}" if isinstance(step.settings, RolloutSettings) else step.settings.work


def compare(steps: Sequence[Step], taken: dict[str, float], told: Callable[[Step], float]) -> dict[str, float]:
    """CPU seconds that were told and taken by some steps."""
    forecast, spent = (sum(map(ask, steps)) for ask in (told, lambda step: taken[step.fingerprint]))
    return {"steps": len(steps), "forecast_cpu_s": round(forecast, 1), "taken_cpu_s": round(spent, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = build(load(options.study))
    with Store(options.run) as store:
        known = store.log.steps()
    taken = measured_seconds(known)
    done = [step for step in plan.steps if step.fingerprint in taken]
    if not done:
        raise SystemExit(f"{options.run}: no step of {options.study} is done there")
    expected = Expected(plan)
    before = expected.correct({})
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in done:
        groups[kind_of(step)].append(step)
    figures: dict[str, Any] = {
        f"start_{kind}": compare(some, taken, lambda step: before[step.fingerprint]) for kind, some in groups.items()
    }
    figures["start"] = compare(done, taken, lambda step: before[step.fingerprint])
    in_order = sorted(done, key=lambda step: known[step.fingerprint].finished or 0.0)
    first, later = in_order[: len(done) // 2], in_order[len(done) // 2 :]
    halfway = expected.correct({step.fingerprint: taken[step.fingerprint] for step in first})
    figures["half"] = compare(later, taken, lambda step: halfway[step.fingerprint])
    ratios = {
        name: round(row["forecast_cpu_s"] / row["taken_cpu_s"], 2)
        for name, row in figures.items()
        if row["taken_cpu_s"] >= 1
    }
    if len(done) == len(plan.steps):
        workers = plan.study.run.workers
        told = time_on_clock(plan.steps, lambda step: before[step.fingerprint], workers)
        ended = [one for one in known.values() if one.finished is not None and one.seconds is not None]
        begun = min((one.finished or 0.0) - (one.seconds or 0.0) for one in ended)
        wall = max(one.finished or 0.0 for one in ended) - begun
        figures["clock"] = {"forecast_s": round(told, 1), "taken_s": round(wall, 1)}
        ratios["clock"] = round(told / wall, 2)
    bars = {name: ratios[name] for name in ("start", "half", "clock") if name in ratios}
    result = document("forecast", PACKAGES, figures, ratios)
    within = all(1 / BAR <= ratio <= BAR for ratio in bars.values())
    show({**result, "study": options.study.name, "within_bar": within}, as_json=options.json)


if __name__ == "__main__":
    main()
