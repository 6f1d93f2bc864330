"""Files that stages learn from: as they were when the study was read, and without what is kept out of training.

    bytes, held by digest ─▶ rows ─▶ those of no held-out case ─▶ those that the model can read, as tokens

What is left out on the way is counted; where more than a twentieth of the rows is bad, the whole file is refused.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.exchange.datasets.chats import Chats, read_chats
from holdfast.exchange.datasets.preferences import Preferences, read_preferences
from holdfast.exchange.datasets.rows import refuse_many
from holdfast.exchange.datasets.turns import UNCOUNTED
from holdfast.records import Case, Message, Trajectory
from holdfast.records.errors import StepError, StudyError
from holdfast.records.inputs import read_bytes
from holdfast.records.words import count_noun
from holdfast.runs.steps.reading import cases_of
from holdfast.store import Store
from holdfast.study.command import CommandSection
from holdfast.study.stages import DATA_BYTES, DemonstrationSection, StageSection

if TYPE_CHECKING:
    from holdfast.training.encoding import Chat, Encoded

OPENS_HELD_OUT = "opens as a held-out case does"
UNREADABLE = "rows that the model cannot read"
TRIED = 200  # rows that are written as tokens before anything is spent
Opening = tuple[tuple[str, str], ...]
Learning = StageSection | DemonstrationSection  # what may learn from a file in this process
_WORDS = re.compile(r"\w+")
_SUFFIX = re.compile(r"\.\w{1,16}")
ATTACHED = "attached"  # in a slice, the file that its step learns from, with that file's own suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What the file that a stage learns from holds."""

    path: Path
    found: Chats | Preferences

    @property
    def episodes(self) -> list[tuple[Case, Trajectory]]:
        """Every case with what an agent did in it, or what two did."""
        if isinstance(self.found, Chats):
            return list(self.found.chats)
        return [(self.found.cases[one.case_id], one) for one in self.found.trajectories.values()]


def attached_name(section: Learning | CommandSection) -> str:
    """What the file of a stage's data is called in a slice: programs go by suffixes."""
    assert section.data is not None  # as of every stage with a digest
    suffix = Path(section.data).suffix
    return ATTACHED + (suffix if _SUFFIX.fullmatch(suffix) else "")


def locate_data(section: Learning | CommandSection, folder: Path | None) -> Path:
    """Where the file of a stage's data lies: in ``folder`` where that is a slice that has it, else where it was."""
    assert section.data is not None
    attached = None if folder is None else folder / attached_name(section)
    return attached if attached is not None and attached.is_file() else Path(section.data).expanduser()


def find_data(stage: str, section: Learning | CommandSection, folder: Path | None = None) -> tuple[Path, bytes]:
    """The file of a stage's data as the study names it, and what is in it, read from ``folder`` where that has it.

    Errors: StepError where it is gone, or holds other than when the study was read.
    """
    assert section.data is not None
    place = f"stages.{stage}.data: {section.data}"
    try:
        held = read_bytes(locate_data(section, folder), DATA_BYTES, subject=place, remedy="put the file back")
    except StudyError as error:
        raise StepError(str(error)) from error
    if hashlib.sha256(held).hexdigest() != section.digest:
        raise StepError(f"{place} has changed since the study was read; put it back, or start a new run")
    return Path(section.data).expanduser(), held


def open_data(stage: str, section: Learning, folder: Path | None = None) -> Data:
    """The rows of a stage's file. Errors: StepError as of ``find_data``, StudyError for rows that are refused."""
    path, held = find_data(stage, section, folder)
    try:
        if isinstance(section, DemonstrationSection):
            return Data(path=path, found=read_chats(path, held))
        return Data(path=path, found=read_preferences(path, section.objectives, held))
    except StudyError as error:
        raise StudyError(f"stages.{stage}.data: {error}") from error


def describe_data(stage: str, data: Data, held_out: Collection[Opening]) -> str:
    """What a stage's file holds, in a line. Errors: StudyError where nothing but held-out cases is in it."""
    found, kept_out = data.found, 0
    if isinstance(found, Chats):
        count, told = len(found.chats), count_noun(len(found.chats), "chats")
        kept_out = sum(opening_of(case.messages) in held_out for case, _ in found.chats)
    else:
        count, told = len(found.pairs), count_noun(len(found.pairs), "pairs")
        kept_out = sum(opening_of(found.cases[pair.case_id].messages) in held_out for pair in found.pairs)
        of_them = {
            "stand the other way round too": found.contradictory,
            "have equal scores": found.level,
            "have as prompt what both texts open with": found.cut,
        }
        if any(of_them.values()):
            told += f" ({', '.join(f'{number} of them {what}' for what, number in of_them.items() if number)})"
    if kept_out == count:
        raise StudyError(f"stages.{stage}.data: {data.path}: every row opens as a held-out case does; give others")
    reasons = _count_reasons(found.left_out)
    reasons += [f"{kept_out} of them left out, as held-out cases open so"] if kept_out else []
    return f"stages.{stage}.data: {', '.join([told, *reasons])}{f'; {found.first}' if found.first else ''}"


def note_counts(stage: str, count: int, what: str, left_out: Mapping[str, int]) -> str:
    """What a stage learnt from and what it left out, in a line for people."""
    reasons = ", ".join(_count_reasons(left_out))
    told = f"; left out: {reasons}" if reasons else ""
    return f"{stage} learnt from {count_noun(count, what)}{told}"


def _count_reasons(left_out: Mapping[str, int]) -> list[str]:
    """Every reason for which something was left out, with how many."""
    counted = {reason: number for reason, number in left_out.items() if number}
    return [
        f"{number} {reason.replace('rows', 'row') if number == 1 else reason}" for reason, number in counted.items()
    ]


# --- held-out cases ------------------------------------------------------------------------------------------------


def opening_of(messages: Sequence[Message]) -> Opening:
    """What is said before the agent's first turn, as words without their case, by which a case is known again."""
    before = takewhile(lambda one: one.role != "assistant", messages)
    return tuple((one.role, words) for one in before if (words := _words(one.content)))


def _words(text: str) -> str:
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def openings_of(cases: Iterable[Case]) -> Collection[Opening]:
    """How cases open, each also without its system message."""
    found = [opening_of(case.messages) for case in cases]
    asked = (tuple(one for one in opening if one[0] != "system") for opening in found)
    return {*found, *filter(None, asked)}


def held_out_openings(store: Store, split_seed: int) -> Collection[Opening]:
    """How the cases of a split open that no stage may learn from: all but those of its train part."""
    cases = cases_of(store)
    parts = store.splits().get(split_seed, {})
    return openings_of(cases[name] for part, names in parts.items() if part != "train" for name in names)


# --- rows as tokens ------------------------------------------------------------------------------------------------


def encode_rows(
    path: Path, episodes: Iterable[tuple[Case, Trajectory]], chat: Chat, section: Learning, *, reads: float
) -> tuple[dict[str, Encoded], list[str]]:
    """A file's episodes as tokens by the trajectory's id, and what is wrong with those that the model cannot read.

    Those are what its chat format cannot write, agents that say what it has no token for, and more tokens than it
    ``reads``, unless they are left out by the stage's ``max_length``. Errors: StudyError, naming the first, where that
    is more than a twentieth.
    """
    from holdfast.training.encoding import check_template

    encoded, errors, checked = {}, [], set[str]()
    for case, trajectory in episodes:
        if case.family not in checked:
            checked.add(case.family)
            check_template(chat, case.id, case.messages, case.tools)
        try:
            item = _encode(chat, case, trajectory, section)
            if reads < len(item.ids) <= (section.max_length or len(item.ids)):
                raise StudyError(f"{len(item.ids)} tokens, and the model reads {reads}; leave it out by max_length")
            encoded[trajectory.id] = item
        except StudyError as error:
            errors.append(f"{path}: {trajectory.id}: {error}")
    if errors:
        refuse_many(path, len(errors), len(encoded) + len(errors), "cannot be read by the model", errors[0])
    return encoded, errors


def try_out(stage: str, data: Data, base: str, chat: Chat, section: Learning, *, reads: float) -> str | None:
    """Writes a stage's first rows as tokens of a base; what is to be said of those that it cannot read, in a line.

    Errors: StudyError where those are too many.
    """
    every, longest = data.episodes, section.max_length
    rows = every[:TRIED]
    try:
        encoded, errors = encode_rows(data.path, rows, chat, section, reads=reads)
        if longest and len(rows) == len(every) and all(len(item.ids) > longest for item in encoded.values()):
            raise StudyError(f"{data.path}: every row has more than max_length {longest} tokens; raise it")
    except StudyError as error:
        raise StudyError(f"stages.{stage}.data: {error}") from error
    if not errors:
        return None
    return f"stages.{stage}.data: {base} cannot read {len(errors)} of the first {len(rows)} episodes; {errors[0]}"


def _encode(chat: Chat, case: Case, trajectory: Trajectory, section: Learning) -> Encoded:
    from holdfast.training.encoding import encode_episode

    item = encode_episode(chat, case.messages, trajectory.messages, case.tools)
    if any((one.detail or {}).get(UNCOUNTED) for one in trajectory.messages):
        if section.loss_mask != "agent":
            raise StudyError(
                "a turn has weight 0, and loss_mask 'completion' learns from all that follows; set 'agent'"
            )
        item = _without_uncounted(chat, case, trajectory, item)
    if not all(map(chat.shows_as_written, (one for one in trajectory.messages if one.role == "assistant"))):
        raise StudyError("the agent spells control tokens of the chat template; write its turns without them")
    if chat.unknown is not None and bool((item.ids[item.agent] == chat.unknown).any()):
        raise StudyError("the agent says words that the model has no token for; use a model that has them")
    return item


def _without_uncounted(chat: Chat, case: Case, trajectory: Trajectory, item: Encoded) -> Encoded:
    """The episode with none of the tokens of turns that its file gives weight 0."""
    agent = item.agent.copy()
    for number, message in enumerate(trajectory.messages):
        if (message.detail or {}).get(UNCOUNTED):
            before, through = (
                chat.encode([*case.messages, *trajectory.messages[:end]], case.tools)[0] for end in (number, number + 1)
            )
            if item.ids[: len(through)].tolist() != through:
                raise StudyError(
                    "its chat template writes a turn otherwise once others follow, so that no weight 0 holds"
                )
            agent[len(before) : len(through)] = False
    return replace(item, agent=agent)
