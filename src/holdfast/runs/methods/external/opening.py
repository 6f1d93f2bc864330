"""Opens checkpoints that were trained elsewhere: looked at whole, held by digest, and left where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from holdfast.records.errors import HoldfastError, StepError
from holdfast.runs.methods.external.plan import ExternalSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.runs.steps.reading import weights_of
from holdfast.store import Store


def open_checkpoints(step: Step, settings: ExternalSettings, store: Store, scratch: Path, emit: Emit) -> Finished:
    """Every checkpoint of a stage, checked as a model is that would be opened, and as one trained from its parent.

    None is taken where one is refused. Errors: StepError naming the place, the finding and the remedy.
    """
    from holdfast.models.directories.stacks import digest_opened
    from holdfast.models.hub import hub
    from holdfast.models.hub.kinship import require_kin

    parent, section = weights_of(store, settings.parent), settings.section
    made = []
    for checkpoint, place, digest in zip(step.checkpoints, section.places, section.digests, strict=True):
        told = f"stages.{settings.stage}.path"
        try:
            directory = hub.resolve(place)
            require_kin(directory, parent, calls=settings.calls or "auto")
            opened = digest_opened(directory)
        except HoldfastError as error:
            raise StepError(f"{told}: {error}") from error
        if opened != digest:
            raise StepError(
                f"{told}: {place} has changed since the study was read; put it back, or start a new run with what is"
                " there now"
            )
        found = hub.describe(directory)["digest"]
        made.append((replace(checkpoint, model=str(directory), digest=found), None))
    doses = [
        {"checkpoint": one.id, **({} if steps is None else {"steps": steps})}
        for one, steps in zip(step.checkpoints, section.counted, strict=True)
    ]
    return Finished(result={"directories": list(section.places), "doses": doses}, checkpoints=tuple(made))
