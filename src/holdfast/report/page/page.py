"""The report: one HTML page that opens from disk, with figures, tables and text shards beside it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from holdfast.records import Analysis, Verdict
from holdfast.records.errors import MissingExtra, StudyError
from holdfast.records.outputs import new_directory
from holdfast.records.processes import without_collection
from holdfast.records.version import VERSION
from holdfast.report.draw.figures import order_lineages
from holdfast.report.draw.svg import convert_figure
from holdfast.report.page.shards import hash_source, write_cases
from holdfast.report.sections.approval.examples import read_users
from holdfast.report.sections.chance import limits_section
from holdfast.report.sections.summary import Headline, answer_all, describe_alert, find_cut, make_headlines, summarise
from holdfast.report.sections.table import make_sections
from holdfast.report.words.inert import dump_json, escape_html, file_name, pack_text
from holdfast.report.words.labels import names_html
from holdfast.report.words.layout import Section, Shown, paragraph
from holdfast.report.words.tables import narrow, table_latex
from holdfast.store import Store

PAGE = "index.html"
SCRIPTS = ("page.js", "cases.js", "changes.js")
FOLDERS = ("shards", "figures", "tables")
QUESTIONS = {  # what a reader asks after the answer, by the section that tells
    "frontier": "What was traded for what?",
    "gate": "Which stages stay within the declared margins?",
    "approval": "Were users exploited?",
    "dose": "What does longer training do?",
    "second_stage": "What does a second stage take for what it gives?",
    "repair": "Can it be repaired?",
    "pressure": "Does it hold under pressure?",
    "changes": "Which cases broke, which were fixed?",
    "audit": "Can the episodes be judged at all?",
    "chance": "How much of it may be chance?",
    "limits": "What do these numbers not say?",
}
ELSEWHERE = "write the report elsewhere, with `holdfast report RUN -o DIR`"


@without_collection()
def write_report(
    store: Store, analysis: Analysis, output: Path | None = None, *, title: str, verdicts: Sequence[Verdict] = ()
) -> Path:
    """Write the report of a run, with the verdicts of its gate, and return the path of its page.

    ``output`` is the report's folder, ``<run>/report`` by default; an earlier report there is replaced in one
    rename, anything else is refused. Errors: StudyError where it cannot be written.
    """
    target = Path(output) if output is not None else store.path / "report"
    if target.is_dir() and any(target.iterdir()) and not (target / PAGE).is_file():
        raise StudyError(f"{target}: the folder is not empty and holds no report; {ELSEWHERE}")
    if target.exists() and not target.is_dir():
        raise StudyError(f"{target}: a file is in the way of the report's folder; {ELSEWHERE}")
    with new_directory(target, replaces=True, remedy=ELSEWHERE) as folder:
        _write_all(store, analysis, folder, title, verdicts)
    return target / PAGE


def _write_all(store: Store, analysis: Analysis, folder: Path, title: str, verdicts: Sequence[Verdict]) -> None:
    for name in FOLDERS:
        (folder / name).mkdir()
    shown = Shown(
        analysis=analysis,
        colors=order_lineages(analysis),
        checkpoints=store.checkpoints(),
        verdicts=verdicts,
        users=read_users(store) if analysis.exploitation else None,
    )
    sections = make_sections(shown)
    files: list[str] = []
    for section in sections:
        for name, svg in section.figures.items():
            (folder / "figures" / f"{file_name(name)}.svg").write_text(svg, encoding="utf-8")
            with suppress(MissingExtra):  # a report does without PDF where nothing can convert
                (folder / "figures" / f"{file_name(name)}.pdf").write_bytes(convert_figure(svg))
                files.append(f"figures/{file_name(name)}.pdf")
    for section in sections:
        for name, table in section.tables.items():
            for part, rows in (("", narrow(table)), ("-all", table)):
                files.append(f"tables/{file_name(name)}{part}.tex")
                (folder / files[-1]).write_text(table_latex(rows), encoding="utf-8")
    index = write_cases(store, folder / "shards", shown.colors)
    page = render_page(store, shown, sections, index, title=title, files=files)
    (folder / PAGE).write_text(page, encoding="utf-8")


def _asset(name: str) -> str:
    return resources.files("holdfast.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def bare_page(title: str, body: str, style: str | None = None, more_style: str = "") -> str:
    """A page without any script, under a policy that allows its own style and nothing else.

    ``body`` is HTML, ``title`` is text. Where no ``style`` is given it is the report's, which can be dark, with
    ``more_style`` after it.
    """
    scheme = '<meta name="color-scheme" content="light dark">' if style is None else ""
    style = _asset("page.css") + more_style if style is None else style
    policy = f"default-src 'none'; style-src '{hash_source(style)}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{scheme}'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape_html(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def render_page(
    store: Store,
    shown: Shown,
    sections: Sequence[Section],
    index: Mapping[str, Any],
    *,
    title: str,
    files: Sequence[str],
) -> str:
    """The page as HTML under a policy that runs its own script and style and nothing else."""
    script, style = "".join(map(_asset, SCRIPTS)), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{hash_source(script)}'; style-src '{hash_source(style)}'; img-src data:;"
        " frame-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    limits = limits_section(shown.analysis)
    changes = _asset("changes.html") if any(one["p"] >= 0 for one in index["checkpoints"]) else ""
    entries = {"summary": "Answer", **{part.identity: part.short for part in sections}}
    entries |= {"changes": "Changes"} if changes else {}
    entries |= {"cases": "Cases", limits.identity: limits.short, "files": "Files"}
    alert = describe_alert(shown.analysis)
    body = "".join(
        f'<section id="{part.identity}"><h2>{escape_html(part.title)}</h2>{part.html}</section>' for part in sections
    )
    questions = "".join(
        f'<li><a href="#{name}">{question}</a></li>' for name, question in QUESTIONS.items() if name in entries
    )
    return Template(_asset("page.html")).substitute(
        policy=policy,
        alert="" if alert is None else f'<p class="alert" role="note">{escape_html(alert)}</p>',
        title=escape_html(title),
        made=_describe_making(store),
        style=style,
        script=script,
        answer="".join(map(paragraph, answer_all(shown.analysis, shown.verdicts))),
        cards="".join(map(_card_html, make_headlines(store, shown))),
        names=names_html(shown.checkpoints),
        questions=questions,
        sentences="".join(map(paragraph, summarise(store, shown.analysis))),
        # What the alert says stands above.
        caution="".join(
            f"<li>{escape_html(note)}</li>" for note in shown.analysis.notes[:3] if note not in find_cut(shown.analysis)
        ),
        links="".join(f'<a href="#{name}">{escape_html(words)}</a>' for name, words in entries.items()),
        sections=body.replace(" %", "\u00a0%"),
        changes=changes,
        limits=limits.html,
        files="".join(f'<li><a href="{escape_html(name)}">{escape_html(name)}</a></li>' for name in files),
        size=f"{index['bytes'] / 1e6:,.1f} MB in {len(index['shards']):,} files",
        index=pack_text(dump_json(index)),
    )


def _describe_making(store: Store) -> str:
    """When the page was made, with which version, and the command that makes it again."""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path = store.path if not store.path.is_absolute() else Path(store.path.name)
    command = shlex.join(["holdfast", "report", str(path)])
    return f"Made on {made} with holdfast {escape_html(VERSION)} by <code>{escape_html(command)}</code>"


def _card_html(card: Headline) -> str:
    """One card; its tone is said in words too, and colour only repeats it."""
    verdict = f"<strong>{escape_html(card.verdict)}</strong>" if card.verdict else ""
    numbers = "".join(f"<p><b>{escape_html(number)}</b> {escape_html(words)}</p>" for number, words in card.numbers)
    note = f"<small>{escape_html(card.note)}</small>" if card.note else ""
    return f'<li class="{card.tone}"><span>{escape_html(card.name)}</span>{verdict}{numbers}{note}</li>'
