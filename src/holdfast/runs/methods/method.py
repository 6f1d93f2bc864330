"""What a way to train is made of: its table in a study, how it is planned and carried out, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.records.section import Section
from holdfast.runs.plan.costs import Cost
from holdfast.runs.plan.planner import PlanMethod
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to make checkpoints of others, by its ``name`` in a study and in a checkpoint's record.

    ``section`` is its table. ``plan`` adds the train step of a lineage's last name, given what is made so far by
    lineage, with the steps that it needs. ``carry_out`` is given the step, its settings, the run, a directory of the
    step's own, which may hold what an earlier process left, and whom to tell. ``cost`` is what a step takes;
    ``cpu_seconds`` are those of one of its units with a tiny model, before any was measured.
    """

    name: str
    section: type[Section]
    plan: PlanMethod
    carry_out: Callable[[Step, Any, Store, Path, Emit], Finished]
    cost: Callable[[Plan, Step], Cost] = lambda *_: Cost()
    cpu_seconds: float = 0.0
