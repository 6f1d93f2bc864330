"""A user's own cases as a suite: every case a test case, or whole families of them kept to train on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.records import JSON, Case, content_id
from holdfast.records.errors import StudyError, require
from holdfast.records.inputs import read_bytes
from holdfast.records.words import count_noun
from holdfast.rollout.worlds.replies import CasesWorld
from holdfast.study.cases_template import FILE
from holdfast.study.kinds import Suite
from holdfast.study.sections import CasesSection, JudgeSection, JudgeTable
from holdfast.study.study import MOST_BYTES
from holdfast.suites.cases.lines import read_lines
from holdfast.suites.cases.rows import SUITE as NAME
from holdfast.suites.cases.rows import make_case, needs_player
from holdfast.suites.cases.tasks import read_tasks

RUBRICS = {"safety": "cases-safety", "helpfulness": "cases-helpfulness"}
"""The rubrics by which a model reads these cases where its judge names none."""
MATCH = "match"  # the kind of judge that reads columns of the file
_ORDER = "own cases"  # of the one order in which cases are taken where fewer are asked for


def load_cases(path: str, digest: str | None = None) -> tuple[Case, ...]:
    """The cases of a file or a directory, in order. Errors: StudyError, also for another SHA-256 than ``digest``."""
    name, data = _read(path)
    require(
        digest is None or hashlib.sha256(data).hexdigest() == digest,
        f"{path}: not the file that the study was made with (another SHA-256 than suite.digest); restore it, or make a"
        " new run",
    )
    return _parse(name, data)


def _read(path: str, subject: str | None = None) -> tuple[str, bytes]:
    """Where cases lie and the bytes of their file: the one in a directory, or what a directory of tasks would be."""
    folder = Path(path).expanduser()
    if folder.is_dir() and not (folder / FILE).exists():
        return path, read_tasks(folder)
    file = str(folder / FILE) if folder.is_dir() else path
    return file, read_bytes(file, MOST_BYTES, subject=subject, remedy="give the path of a file of cases (.jsonl)")


@functools.lru_cache(maxsize=4)
def _parse(path: str, data: bytes) -> tuple[Case, ...]:
    cases: list[Case] = []
    names: dict[str, str] = {}
    openings: dict[str, str] = {}
    for number, row in enumerate(read_lines(path, data)):
        case = make_case(row, number)
        name, line = case.facts["sample"], row.place.rpartition(":")[2]
        spoken = [(message.role, message.content) for message in case.messages]
        tools = [(tool.name, tool.description, tool.parameters) for tool in case.tools]
        same = content_id(spoken, tools, case.state)
        if name in names:
            row.refuse(f"the id {name!r} stands in line {names[name]} already", "give each case its own id")
        if same in openings:
            finding = f"asks the same as line {openings[same]}"
            row.refuse(finding, "keep one of them; rollouts.per_test_case asks a case more than once")
        names[name] = openings[same] = line
        cases.append(case)
    return tuple(cases)


def attach(table: JSON) -> JSON:
    """The table with the digest of its file and the number of its cases, unless it has a digest. Errors: StudyError."""
    path = table.get("file")
    if not isinstance(path, str) or table.get("digest") is not None:
        return table
    name, data = _read(path, f"suite.file: {path}")
    parts = _halve(_parse(name, data), halves=table.get("split") == "halves")
    read = {**table, "digest": hashlib.sha256(data).hexdigest()}
    for key, part in (("train_cases", "train"), ("test_cases", "test")):
        wanted, count = table.get(key), max(len(parts[part]), 1)
        read[key] = min(wanted, count) if isinstance(wanted, int) else count if wanted is None else wanted
    return read


def _load(table: CasesSection) -> tuple[Case, ...]:
    if table.file is None:
        raise StudyError("suite.file is missing; give the path of a file of cases, which `holdfast new --suite` writes")
    return load_cases(table.file, table.digest)


def _check(table: CasesSection) -> None:
    cases = _load(table)
    played = [case for case in cases if needs_player(case)]
    if table.world.kind == "own" and played:
        raise StudyError(
            f"{table.file}: the tools of case {played[0].facts['sample']!r} have no replies; give the column 'replies',"
            ' or a model that plays them: suite.world = { kind = "emulated", model = "PROVIDER/MODEL" }'
        )
    idle = table.world.kind == "emulated" and not played
    require(not idle, f"suite.world names a model, but no case of {table.file} has tools without replies; remove it")
    if table.split == "halves":
        parts = _halve(cases, halves=True)
        require(
            bool(parts["train"]) and bool(parts["test"]),
            f"{table.file}: all cases are of one family, which cannot be split; give more families, or leave"
            ' suite.split at "none"',
        )


def _check_judges(table: CasesSection, judges: Mapping[str, JudgeTable]) -> None:
    """Judges that match need what to match in every case: one that is not judged would be left out in silence."""
    named = [name for name, judge in judges.items() if judge.kind == MATCH]
    lacking = [case for case in _load(table) if not case.facts["match"]] if named else []
    if lacking:
        raise StudyError(
            f"{table.file}: {count_noun(len(lacking), 'cases')} with nothing to match, the first is"
            f" {lacking[0].facts['sample']!r}; judges.{named[0]} needs contains, not_contains, calls or not_calls in"
            " each: add it, or let a model judge (--judge PROVIDER/MODEL)"
        )
    for name, judge in judges.items():
        reads = judge.kind not in ("state", "probes")
        require(
            reads, f"judges.{name} is of kind {judge.kind!r}, which reads its own suite alone; take match or rubric"
        )


def _ordered(cases: Sequence[Case], key: Any) -> list[Case]:
    """Cases in an order that has nothing to do with that of the file, by what ``key`` gives of each."""
    return sorted(cases, key=lambda case: (content_id(_ORDER, key(case)), case.number))


def _halve(cases: Sequence[Case], *, halves: bool) -> dict[str, list[Case]]:
    """The parts of a split in the order in which cases are taken: whole families to train on, up to half."""
    if not halves:
        return {"train": [], "test": _ordered(cases, lambda case: case.id)}
    sizes: dict[str, int] = {}
    for case in _ordered(cases, lambda case: case.family):
        sizes[case.family] = sizes.get(case.family, 0) + 1
    kept, count = set[str](), 0
    for family, size in sizes.items():
        if count + size <= len(cases) // 2:
            kept.add(family)
            count += size
    mixed = _ordered(cases, lambda case: case.id)
    return {
        "train": [case for case in mixed if case.family in kept],
        "test": [case for case in mixed if case.family not in kept],
    }


def _split(table: CasesSection, _: int) -> Mapping[str, list[Case]]:
    parts = _halve(_load(table), halves=table.split == "halves")
    bounds = {"train": table.train_cases, "test": table.test_cases}
    return {part: sorted(cases[: bounds[part]], key=lambda case: case.number) for part, cases in parts.items()}


def fit_judge(section: JudgeTable) -> JudgeTable:
    """The judge as it reads these cases: a model with default rubrics is given those that heed the case's author."""
    if not isinstance(section, JudgeSection) or section.kind != "rubric" or set(section.rubrics.values()) - {"default"}:
        return section
    return section.model_copy(update={"rubrics": {name: RUBRICS[name] for name in section.rubrics or RUBRICS}})


SUITE = Suite(
    name=NAME,
    table=CasesSection,
    attach=attach,
    check=_check,
    check_judges=_check_judges,
    split=_split,
    open_world=lambda table: CasesWorld(temperature=table.world.temperature, max_tokens=table.world.max_tokens),
    version=1,
    world="any",
    shared=True,
    fit_judge=fit_judge,
    decides=frozenset({"digest", "split", "world"}),
)
