"""The report: one HTML page that opens from disk, with figures, tables and text shards beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from holdfast.records import Analysis, Verdict
from holdfast.records.errors import MissingExtra, StudyError
from holdfast.records.outputs import new_directory
from holdfast.report.draw.figures import order_lineages
from holdfast.report.page.cases import write_cases
from holdfast.report.page.shards import hash_source
from holdfast.report.sections.approval.examples import read_users
from holdfast.report.sections.limits import limits_section
from holdfast.report.sections.summary import describe_alert, make_headlines, summarise
from holdfast.report.sections.table import make_sections
from holdfast.report.words.inert import escape_html, file_name, pack_json
from holdfast.report.words.layout import Section
from holdfast.report.words.tables import narrow, table_latex
from holdfast.store import Store

PAGE = "index.html"
SCRIPTS = ("page.js", "cases.js", "changes.js")
FOLDERS = ("shards", "figures", "tables")
ELSEWHERE = "write the report elsewhere, with `holdfast report RUN -o DIR`"


def write_report(
    store: Store, analysis: Analysis, output: Path | None = None, *, title: str, verdicts: Sequence[Verdict] = ()
) -> Path:
    """Write the report of a run, with the verdicts of its gate, and return the path of its page.

    ``output`` is the report's folder, ``<run>/report`` by default; an earlier report there is replaced in one
    rename, anything else is refused. Errors: StudyError where it cannot be written.
    """
    target = Path(output) if output is not None else store.path / "report"
    _check_target(target)
    with new_directory(target, replaces=True, remedy=ELSEWHERE) as folder:
        _write_all(store, analysis, folder, title, verdicts)
    return target / PAGE


def _check_target(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not (target / PAGE).is_file():
        raise StudyError(f"{target}: the folder is not empty and holds no report; {ELSEWHERE}")
    if target.exists() and not target.is_dir():
        raise StudyError(f"{target}: a file is in the way of the report's folder; {ELSEWHERE}")


def _write_all(store: Store, analysis: Analysis, folder: Path, title: str, verdicts: Sequence[Verdict]) -> None:
    for name in FOLDERS:
        (folder / name).mkdir()
    colors = order_lineages(analysis)
    users = read_users(store) if analysis.exploitation else None
    sections = make_sections(analysis, colors, store.checkpoints(), verdicts, users)
    pdfs: list[str] = []
    for section in sections:
        for name, svg in section.figures.items():
            (folder / "figures" / f"{file_name(name)}.svg").write_text(svg, encoding="utf-8")
            pdfs += _write_pdf(svg, folder / "figures" / f"{file_name(name)}.pdf")
        for name, table in section.tables.items():
            (folder / "tables" / f"{file_name(name)}.tex").write_text(table_latex(narrow(table)), encoding="utf-8")
            (folder / "tables" / f"{file_name(name)}-all.tex").write_text(table_latex(table), encoding="utf-8")
    index = write_cases(store, folder / "shards", colors)
    files = [f"figures/{name}" for name in pdfs]
    names = [file_name(name) for section in sections for name in section.tables]
    files += [f"tables/{name}{part}.tex" for name in names for part in ("", "-all")]
    page = render_page(store, analysis, sections, index, title=title, files=files)
    (folder / PAGE).write_text(page, encoding="utf-8")


def _write_pdf(svg: str, path: Path) -> list[str]:
    """Write a figure as PDF and return its name; a report does without them where nothing can convert."""
    from holdfast.report.draw.pdf import convert_figure

    try:
        path.write_bytes(convert_figure(svg))
    except MissingExtra:
        return []
    return [path.name]


def _keep_percent(html: str) -> str:
    return html.replace(" %", "\u00a0%")


def _asset(name: str) -> str:
    return resources.files("holdfast.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def render_page(
    store: Store,
    analysis: Analysis,
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
    limits = limits_section(analysis)
    changes = _asset("changes.html") if any(one["p"] >= 0 for one in index["checkpoints"]) else ""
    cards = "".join(
        f"<li><span>{escape_html(card.name)}</span><b>{escape_html(card.value)}</b>"
        f"<small>{escape_html(card.note)}</small></li>"
        for card in make_headlines(store, analysis)
    )
    entries = [(part.identity, part.title) for part in sections] + [("changes", "Broken and fixed")] * bool(changes)
    entries += [("cases", "Cases"), (limits.identity, limits.title)]
    entries.append(("files", "Files"))
    alert = describe_alert(analysis)
    return Template(_asset("page.html")).substitute(
        policy=policy,
        alert="" if alert is None else f'<p class="alert" role="note">{escape_html(alert)}</p>',
        title=escape_html(title),
        style=style,
        script=script,
        cards=cards,
        sentences="".join(f"<p>{escape_html(words)}</p>" for words in summarise(store, analysis)),
        caution="".join(f"<li>{escape_html(note)}</li>" for note in analysis.notes[:3]),
        links="".join(f'<a href="#{one}">{escape_html(name)}</a>' for one, name in entries),
        sections="".join(
            f'<section id="{part.identity}"><h2>{escape_html(part.title)}</h2>{_keep_percent(part.html)}</section>'
            for part in sections
        ),
        changes=changes,
        limits=limits.html,
        files="".join(f'<li><a href="{escape_html(name)}">{escape_html(name)}</a></li>' for name in files),
        size=f"{index['bytes'] / 1e6:,.1f} MB in {len(index['shards']):,} files",
        index=pack_json(index),
    )
