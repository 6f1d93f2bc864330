"""What each kind of step does: a step and a run's directory in, outcomes out.

``carry_out`` reads the run but never writes to its database: records go to the one process that writes, in
batches that it commits. Weights are written to a temporary directory that the writer adopts.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from holdfast.runs.plan.step import Step
from holdfast.runs.steps import bringing, judging, references, rollout, train
from holdfast.runs.steps.outcomes import Batch, Emit, Finished, Outcome, Progress
from holdfast.runs.steps.speakers import release_models
from holdfast.store import Store

__all__ = ["Batch", "Emit", "Finished", "Outcome", "Progress", "batch_size", "carry_out"]

WORK = {
    "train": train.train,
    "bring": bringing.bring,
    "rollout": rollout.roll_out,
    "judge": judging.judge_episodes,
    "pair": judging.make_pairs,
    "reference": references.take_reference,
}


def carry_out(step: Step, run_path: Path, emit: Emit) -> None:
    """Carry out a step and give every outcome to ``emit``, last ``Finished``. Errors: any HoldfastError."""
    started = time.process_time()
    if step.kind in ("train", "reference"):
        release_models()
    with Store(run_path, check=False) as store:  # whoever carries out the plan has checked it
        finished = WORK[step.kind](step, store, emit)
    seconds = round(time.process_time() - started, 3)
    emit(replace(finished, result={**finished.result, "cpu_seconds": seconds}))


def batch_size(step: Step) -> int:
    """How many units of a step are committed together; 0 where nothing is committed before its end."""
    fixed = {
        "judge": judging.JUDGE_BATCH,
        "reference": references.REFERENCE_BATCH,
        "bring": bringing.BRING_BATCH,
    }
    if step.kind == "rollout":
        return int(step.settings["limits"]["batch_size"])
    return fixed.get(step.kind, 0)
