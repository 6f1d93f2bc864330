"""Everything that a gate leaves behind, in one directory: the page, and the verdicts as files for programs.

gate.html       the answer for people                 evidence.html, evidence.json   for an auditor
gate.json       as ``holdfast gate --json`` prints     gate.xml, gate.md              for CI and a pull request

Of one comparison also every_eval_ever.json; where they are asked for, model-card.md, eval_results.yaml, statement.json
and statement.dsse.json.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.outputs.answer_page import render_answer
from holdfast.decisions.gate.outputs.document import gate_document
from holdfast.decisions.gate.outputs.evidence import JSON_FILE, PAGE_FILE, collect_gate_evidence, write_evidence
from holdfast.decisions.gate.outputs.junit import render_junit
from holdfast.decisions.gate.outputs.markdown import render_markdown
from holdfast.decisions.gate.outputs.worst import find_worst, leading_metric
from holdfast.decisions.gate.passing.card import CARD, RESULTS, render_card, render_results
from holdfast.decisions.gate.passing.every_eval_ever import RECORD, make_record
from holdfast.decisions.gate.passing.signing import ENVELOPE, sign
from holdfast.decisions.gate.passing.statement import FILE, make_statement
from holdfast.decisions.gate.verdicts import Match, Place, Wanted, compare, decide
from holdfast.records import Verdict
from holdfast.records.outputs import to_json, write_file
from holdfast.runs.run import Run
from holdfast.study.rules import GateSection

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAGE, DOCUMENT, JUNIT, MARKDOWN = "gate.html", "gate.json", "gate.xml", "gate.md"
_WORDS = {
    "the verdicts as JSON": DOCUMENT,
    "as JUnit XML": JUNIT,
    "for a pull request": MARKDOWN,
    "evidence for an auditor": PAGE_FILE,
    "the evidence as JSON": JSON_FILE,
}
_RECORD = {"a record of Every Eval Ever": RECORD}
_CARD = {"for the model's README": CARD, "for the Hub's .eval_results": RESULTS}
_STATEMENT = {"an in-toto statement": FILE, "the statement, signed": ENVELOPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a gate found: its verdicts, the books that they compare, and the comparison whose cases are shown.

    ``made`` says that both models were rolled out into a run of the gate's own, in the answer's directory.
    """

    verdicts: Sequence[Verdict]
    books: Sequence[Book]
    shown: tuple[Verdict, Match] | None = None
    made: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOn:
    """What else of a gate is passed on: a model card, for a ``dataset`` of the Hub; a statement signed with a key."""

    card: bool = False
    dataset: str | None = None
    key: Ed25519PrivateKey | None = None


NOTHING_MORE = PassedOn()


def find_answer(parent: Place, child: Place, rules: GateSection, wanted: Wanted, *, rolled_out: bool) -> Answer:
    """The answer of one comparison; ``rolled_out`` says that the gate made the episodes of both sides itself.

    Errors: StudyError where the two are not comparable.
    """
    match = compare(parent, child, rules, wanted)
    verdict = decide(match, rules)
    books = (parent.book, child.book) if parent.book is not child.book else (child.book,)
    return Answer(verdicts=[verdict], books=books, shown=(verdict, match), made=rolled_out and len(books) == 1)


def new_place(today: date) -> Path:
    """A directory here that is not there yet, named after the day."""
    name = f"gate-{today.isoformat()}"
    number = 1
    while (place := Path(name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return place


def write_answer(answer: Answer, folder: Path, *, command: str, passed: PassedOn = NOTHING_MORE) -> Path:
    """Write everything into ``folder``, made where it is not there; the path of the page. Errors: StudyError."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = now.strftime("%Y-%m-%d %H:%M UTC")
    worst = None
    if answer.shown is not None:
        verdict, match = answer.shown
        worst = (verdict, *find_worst(match, leading_metric(verdict)))
    for stale in {**_RECORD, **_CARD, **_STATEMENT}.values():
        with contextlib.suppress(OSError):  # where nothing can be removed nothing can be written, which is told
            (folder / stale).unlink()  # an earlier answer's, which this one may not write anew
    links = _WORDS | _pass_on(answer, folder, now, passed)
    if answer.made:
        Run(folder).report(answer.verdicts)
    write_file(folder / DOCUMENT, to_json(gate_document(answer.verdicts)) + "\n")
    write_file(folder / JUNIT, render_junit(answer.verdicts))
    write_file(folder / MARKDOWN, render_markdown(answer.verdicts))
    write_evidence(collect_gate_evidence(answer.verdicts, answer.books), folder, made)
    signed = [*links.values(), PAGE]
    links |= _STATEMENT if passed.key is not None else {}
    links |= {"the report, with every trajectory of both models": "report/index.html"} if answer.made else {}
    page = render_answer(answer.verdicts, worst, made=made, command=command, links=links)
    write_file(folder / PAGE, page)
    if passed.key is not None:
        statement = make_statement(answer.verdicts, answer.books, folder, signed, now.isoformat())
        write_file(folder / FILE, to_json(statement) + "\n")
        write_file(folder / ENVELOPE, to_json(sign(statement, passed.key)) + "\n")
    return folder / PAGE


def _pass_on(answer: Answer, folder: Path, now: datetime, passed: PassedOn) -> dict[str, str]:
    """Write what is of one comparison: a record of its results and, where it is asked for, a model card."""
    if len(answer.verdicts) != 1:
        return {}
    verdict, suite = answer.verdicts[0], str(answer.books[-1].study.get("suite", {}).get("name") or "own cases")
    write_file(folder / RECORD, to_json(make_record(verdict, made=now, suite=suite)) + "\n")
    if not passed.card:
        return dict(_RECORD)
    write_file(folder / CARD, render_card(verdict, f"{now:%Y-%m-%d}"))
    write_file(folder / RESULTS, render_results(verdict, made=now.isoformat(), dataset=passed.dataset))
    return _RECORD | _CARD
