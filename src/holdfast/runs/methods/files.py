"""Files that stages learn from: as they were when the study was read, and without what is kept out of training."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from holdfast.exchange.datasets.rows import MOST_BYTES
from holdfast.records import Message
from holdfast.records.errors import StepError, StudyError
from holdfast.records.inputs import read_bytes
from holdfast.runs.steps.reading import cases_of
from holdfast.store import Store
from holdfast.study.stages import DataSection

OPENS_HELD_OUT = "opens as a held-out case does"
Opening = tuple[tuple[str, str], ...]


def find_data(stage: str, section: DataSection) -> Path:
    """The file of a stage's data. Errors: StepError where it is gone, or holds other than when the study was read."""
    assert section.data is not None  # as of every stage with a digest
    place = f"stages.{stage}.data: {section.data}"
    try:
        held = read_bytes(section.data, MOST_BYTES, subject=place, remedy="put the file back")
    except StudyError as error:
        raise StepError(str(error)) from error
    if hashlib.sha256(held).hexdigest() != section.digest:
        raise StepError(f"{place} has changed since the study was read; put it back, or start a new run")
    return Path(section.data)


def opening_of(messages: Sequence[Message]) -> Opening:
    """What a case opens with, by which it is known again."""
    return tuple((one.role, one.content) for one in messages)


def held_out_openings(store: Store, split_seed: int) -> Collection[Opening]:
    """How the cases of a split open that no stage may learn from: all but those of its train part."""
    cases = cases_of(store)
    parts = store.splits().get(split_seed, {})
    return {opening_of(cases[name].messages) for part, names in parts.items() if part != "train" for name in names}
