"""Files that stages learn from: as they were when the study was read, and without what is kept out of training."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from holdfast.exchange.datasets.chats import read_chats
from holdfast.exchange.datasets.preferences import read_preferences
from holdfast.exchange.datasets.rows import MOST_BYTES
from holdfast.records import Message
from holdfast.records.errors import StepError, StudyError
from holdfast.records.inputs import read_bytes
from holdfast.records.words import count_noun
from holdfast.runs.steps.reading import cases_of
from holdfast.store import Store
from holdfast.study.command import CommandSection
from holdfast.study.stages import DataSection, DemonstrationSection, StageTable

OPENS_HELD_OUT = "opens as a held-out case does"
Opening = tuple[tuple[str, str], ...]


def find_data(stage: str, section: DataSection | CommandSection) -> Path:
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


def describe_data(stage: str, section: StageTable) -> str | None:
    """What the file that a stage learns from holds, in a line; None for a stage without one.

    Errors: StudyError for a file that the stage would refuse.
    """
    if not isinstance(section, DataSection) or section.data is None or section.digest is None:
        return None
    place = f"stages.{stage}.data"
    try:
        path = find_data(stage, section)
    except StepError as error:
        raise StudyError(str(error)) from error
    try:
        if isinstance(section, DemonstrationSection):
            chats = read_chats(path)
            count, left_out, first = count_noun(len(chats.chats), "chats"), chats.left_out, chats.first
        else:
            found = read_preferences(path)
            count, left_out, first = count_noun(len(found.pairs), "pairs"), found.left_out, found.first
            if found.contradictory:
                count += f" ({found.contradictory} of them stand the other way round too)"
    except StudyError as error:
        raise StudyError(f"{place}: {error}") from error
    told = [f"{number} {reason}" for reason, number in left_out.items() if number]
    return f"{place}: {', '.join([count, *told])}{f'; {first}' if first else ''}"


def note_counts(stage: str, count: int, what: str, left_out: Mapping[str, int]) -> str:
    """What a stage learnt from and what it left out, in a line for people."""
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number)
    told = f"; left out: {reasons}" if reasons else ""
    return f"{stage} learnt from {count_noun(count, what)}{told}"


def opening_of(messages: Sequence[Message]) -> Opening:
    """What a case opens with, by which it is known again."""
    return tuple((one.role, one.content) for one in messages)


def held_out_openings(store: Store, split_seed: int) -> Collection[Opening]:
    """How the cases of a split open that no stage may learn from: all but those of its train part."""
    cases = cases_of(store)
    parts = store.splits().get(split_seed, {})
    return {opening_of(cases[name].messages) for part, names in parts.items() if part != "train" for name in names}
