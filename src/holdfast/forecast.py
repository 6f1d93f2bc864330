"""What a study will cost, and what it needs that is not here. Spends nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import StudyError
from holdfast.plan import Plan, Step, build
from holdfast.store import DATABASE, Store
from holdfast.store.steplog import StepStatus
from holdfast.study import Study
from holdfast.suites import check_suite

# CPU seconds per unit of a tiny model's work, from benchmarks/results/quick_study.json; a run's own finished
# steps replace them as soon as there are any.
TINY_CPU_SECONDS: Mapping[str, float] = {
    "sft": 0.0018,
    "rollout": 0.0018,
    "judge": 0.0001,
    "pair": 0.00002,
    "reference": 0.0008,
    "dpo": 0.078,
}
BYTES_PER_EPISODE = 900
BYTES_PER_CHECKPOINT = 2_000_000
TRAIN_PACKAGES = ("torch", "transformers", "safetensors")
ADAPTER_PACKAGES = ("peft",)


def _is_measured(status: StepStatus) -> bool:
    """Whether a step's seconds say what its work costs; those of a base that came from the cache do not."""
    return "cpu_seconds" in status.result and not status.result.get("cached")


def _sort_of(step: Step) -> str:
    return str(step.settings["method"]) if step.kind == "train" else step.kind


def look_around(study: Study) -> tuple[list[str], list[str]]:
    """What stands in a study's way, and what was found: (problems, facts), a line each."""
    plan = build(study)
    checkpoints = sum(len(step.checkpoints) for step in plan.steps)
    problems: list[str] = []
    try:
        check_suite(study.suite)
    except StudyError as error:
        problems.append(str(error))
    adapters = any(stage.lora_r for stage in study.stages.values()) or any(study.axes.get("lora_r", ()))
    needed_packages = (*TRAIN_PACKAGES, *ADAPTER_PACKAGES) if adapters else TRAIN_PACKAGES
    missing = [name for name in needed_packages if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"packages {', '.join(missing)} are missing: pip install 'holdfast[train]'")
    needed = checkpoints * BYTES_PER_CHECKPOINT + BYTES_PER_EPISODE * sum(
        step.size for step in plan.steps if step.kind == "rollout"
    )
    free = shutil.disk_usage(Path.cwd()).free
    if needed > free:
        problems.append(f"disk: about {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free here")
    facts = [
        f"{len(plan.steps)} steps, {checkpoints} checkpoints, {len(study.study.lineages)} lineages",
        f"models: {', '.join(study.model.bases)} (made here: no download, no key)",
        f"disk: about {needed / 1e6:,.0f} MB of {free / 1e9:,.0f} GB free",
        f"processors: {os.cpu_count()} cores, {study.run.workers} workers of one thread",
    ]
    return problems, facts


def expected_seconds(step: Step) -> float:
    """CPU seconds that a step is expected to take, before anything of the run has been measured."""
    return TINY_CPU_SECONDS.get(_sort_of(step), 0.0) * step.size


def forecast(plan: Plan, run_path: Path) -> dict[str, Any]:
    """Steps with their status in the run at ``run_path`` and the cost of the rest, as one JSON document."""
    known: Mapping[str, StepStatus] = {}
    if (run_path / DATABASE).is_file():
        with Store(run_path) as store:
            known = store.log.steps()
    paces = dict(TINY_CPU_SECONDS)
    for sort in paces:
        finished = [
            (known[step.fingerprint].result["cpu_seconds"], step.size)
            for step in plan.steps
            if _sort_of(step) == sort and step.fingerprint in known and _is_measured(known[step.fingerprint])
        ]
        if finished:
            paces[sort] = sum(seconds for seconds, _ in finished) / sum(size for _, size in finished)
    rows: list[dict[str, Any]] = []
    for step in plan.steps:
        status = known[step.fingerprint].status if step.fingerprint in known else "to do"
        row = {"fingerprint": step.fingerprint, "kind": step.kind, "name": step.name, "status": status}
        seconds = 0.0 if status == "done" else paces.get(_sort_of(step), 0.0) * step.size
        rows.append({**row, "size": step.size, "unit": step.unit, "cpu_seconds": round(seconds, 2)})
    left = sum(row["cpu_seconds"] for row in rows)
    workers = plan.study.run.workers
    return {
        "study": plan.study.study.name,
        "run": str(run_path),
        "steps": rows,
        "left": {
            "steps": sum(row["status"] != "done" for row in rows),
            "cpu_seconds": round(left, 1),
            "hours": round(left / workers / 3600, 3),
            "calls": 0,
            "tokens": 0,
            "money": 0.0,
        },
    }


def render_forecast(document: Mapping[str, Any]) -> str:
    """The forecast as text for a terminal."""
    lines = [
        f"{row['status']:8}{row['kind']:10}{row['size']:>8,} {row['unit']:15}{row['name']}" for row in document["steps"]
    ]
    left = document["left"]
    lines.append(
        f"\n{left['steps']} of {len(document['steps'])} steps to do: about {left['cpu_seconds']:,.0f} CPU seconds,"
        f" {left['hours'] * 60:.1f} minutes with the study's workers;"
        f" {left['calls']} calls, {left['tokens']} tokens, {left['money']:.2f} of money"
    )
    return "\n".join(lines)
