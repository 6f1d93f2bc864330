"""The evidence as a page to print: no script, nothing fetched, every word escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from holdfast.records import Check, Outcome
from holdfast.report.page.page import bare_page
from holdfast.report.sections.gate import check_cells, check_heads
from holdfast.report.words.inert import escape_html
from holdfast.report.words.layout import list_html

STYLE = """
:root { --ink: #1c2330; --soft: #5a6474; --rule: #c9cfd8; --panel: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
dl { display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: .15rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
p, li { max-width: 48rem; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .9rem; }
.outcome { font-weight: 700; border: 2px solid; border-radius: 4px; padding: 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem; border-bottom: 1px solid var(--rule);
  overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; }
.digest { font: .75rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; word-break: break-all; }
pre { background: var(--panel); padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .72rem; }
@page { size: A4; margin: 16mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  tr, li { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; }
  .page { break-before: page; }
  table { font-size: 7pt; } th, td { padding: .06rem .3rem; } h3 { margin: .6rem 0 .1rem; } p { margin: .2rem 0; }
  pre { background: none; border: 1px solid var(--rule); }
}
"""
EXPLANATION = (
    "Each child is held against the parent that it was trained from, on the same cases and by the same judge. PASS says"
    " that a loss beyond the margin of the rules is ruled out; FAIL that it is shown; INCONCLUSIVE that the data cannot"
    " tell. The file evidence.json beside this page holds the same numbers in full."
)
GLOSSARY = {
    "→": "then: S→H is stage S, then stage H",
    "checkpoint": "the weights after a sequence of stages",
    "parent, child": "a checkpoint, and one that was trained from it",
    "dose": "how many steps the last stage had, in multiples of its first dose",
    "split, seed": "which cases are held out, and what else was left to chance in training",
    "margin": "the loss that was declared as bearable before the data was seen",
    "bound": "a limit that the true change passes with no more than the declared probability",
    "judge": "whoever scored the episodes; labelled all says that it also labelled the pairs that were trained on",
    "trajectory": "what an agent did in one case, from its first message to its last",
    "digest": "a number that changes where any byte of what it is of changes",
}
DIGEST = "digest"
KEEP = (
    "The SHA-256 of the run is over all its rows, texts and weights. Keep it elsewhere: `holdfast show RUN --digest"
    " KEPT` says whether a run is still that one."
)


def render_evidence(evidence: Mapping[str, Any], made: str = "") -> str:
    """The evidence document as an HTML page: no script, nothing fetched.

    Its first page says all that an auditor asks first; ``made`` is when the evidence was taken.
    """
    title = f"Evidence: {evidence['run']}"
    study = evidence["study"]
    parts = [
        f"<h1>{escape_html(title)}</h1>",
        _p(_describe_making(evidence, made), "note"),
        f'<p>Overall verdict: <span class="outcome">{escape_html(evidence["outcome"])}</span></p>',
        *map(_p, evidence["answer"]),
        list_html(evidence["summary"], "list"),
        _section("What is missing", list_html(evidence["missing"], "list")),
        _section("How to read this", _p(EXPLANATION) + _glossary(evidence["checkpoints"]), "page"),
        _section("Limits", list_html(evidence["limits"], "list")),
        _section("Verdicts", _p(evidence["several"]["sentence"] or "") + "".join(_claims(evidence))),
        _section("What was judged", _judges(evidence)),
        _section("Checkpoints", _checkpoints(evidence["checkpoints"])),
        _section("Digests and versions", _digests(evidence)),
        *([_parent_run(evidence["parent_run"])] if "parent_run" in evidence else []),
        _section("The study", _p("No study made this run.") if study is None else _study(study)),
    ]
    return bare_page(title, f"<main>{''.join(parts)}</main>", STYLE)


def _p(words: str, name: str = "") -> str:
    return f"<p{f' class={name}' if name else ''}>{escape_html(words)}</p>"


def _section(title: str, html: str, name: str = "") -> str:
    head = f"<section{f' class={name}' if name else ''}><h2>{escape_html(title)}</h2>"
    return f"{head}{html or _p('None.', 'note')}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], digests: Sequence[str] = ()) -> str:
    """A table; columns whose heads are among ``digests`` are set as code."""
    top = "".join(f'<th scope="col">{escape_html(head)}</th>' for head in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{f' class={DIGEST}' if head in digests else ''}>{escape_html('–' if cell is None else cell)}</td>"
            for head, cell in zip(heads, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    # A region that scrolls is reached with the keyboard, too.
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _describe_making(evidence: Mapping[str, Any], made: str) -> str:
    """When and with what the evidence was taken, and of how much."""
    study, every = evidence["study"], evidence["parts"]["all"]
    taken = f"Taken on {made} with" if made else "Taken with"
    about = f" of the study {study['name']}" if study else ""
    return (
        f"{taken} holdfast {evidence['versions']['holdfast']}{about}: {len(evidence['checkpoints']):,} checkpoints,"
        f" {every['cases']:,} cases, {every['trajectories']:,} trajectories, {len(evidence['claims']):,} comparisons."
        f" SHA-256 of the run {evidence['digests']['run']}."
    )


def _glossary(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """The words of the page, and the names of the stages."""
    stages: dict[str, str] = {}
    for stage in (stage for one in checkpoints for stage in one["stages"]):
        stages.setdefault(stage["name"], f"a stage of training on {' and '.join(stage['objectives']) or 'nothing'}")
    pairs = {**stages, **GLOSSARY}
    items = "".join(f"<dt>{escape_html(name)}</dt><dd>{escape_html(words)}</dd>" for name, words in pairs.items())
    return f"<dl>{items}</dl>"


def _claims(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Each verdict: its sentence, what it rests on, its checks and digests."""
    for claim in evidence["claims"]:
        verdict = evidence["verdicts"][claim["verdict"]]
        yield f"<h3>{escape_html(verdict['outcome'])} · {escape_html(verdict['child'])}</h3>" + _p(claim["sentence"])
        yield list_html(verdict["basis"], "list")
        if verdict["note"]:
            yield _p(f"{verdict['note']}.")
        rows = [{key: value for key, value in row.items() if key != "sentence"} for row in verdict["checks"]]
        checks = [Check(**{**row, "outcome": Outcome(row["outcome"])}) for row in rows]
        if checks:
            yield _table(check_heads(checks), map(check_cells, checks))
        rubrics = "; ".join(f"{objective} by {rubric}" for objective, rubric in verdict["rubrics"].items())
        noted = {"Rules": verdict["fingerprint"], "scores compared": verdict["data"], "rubrics": rubrics}
        yield _p("; ".join(f"{name} {value}" for name, value in noted.items() if value), DIGEST)


def _judges(evidence: Mapping[str, Any]) -> str:
    heads = ("Judge", "Objective", "Rubric", "Judgements", "Scores")
    rows = [
        (one["judge"], one["objective"], one["rubric"], f"{one['judgements']:,}", f"{one['scores']:,}")
        for one in evidence["judges"]
    ]
    parts = [(part, f"{one['cases']:,}", f"{one['trajectories']:,}") for part, one in evidence["parts"].items()]
    return _table(("Part", "Cases", "Trajectories"), parts) + _table(heads, rows, ("Rubric",))


def _checkpoints(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in checkpoints:
        stages = []
        for stage in one["stages"]:
            steps = "" if stage["steps"] is None else f", {stage['steps']:,} steps"
            on = " and ".join(stage["objectives"]) or "nothing"
            stages.append(f"{stage['name']} ({stage['method']} on {on}{steps})")
        rows.append((one["name"], " → ".join(stages) or "–", one["weights"], one["digest"]))
    return _table(("Name", "Trained by", "Weights", "Digest"), rows, ("Digest",))


def _digests(evidence: Mapping[str, Any]) -> str:
    digests = [(f"SHA-256 of the {name}", value) for name, value in evidence["digests"].items()]
    counts = [(name, f"{value:,}") for name, value in evidence["counts"].items()]
    return _p(KEEP, "note") + _table(("What", DIGEST), [*digests, *evidence["versions"].items(), *counts], (DIGEST,))


def _parent_run(other: Mapping[str, Any]) -> str:
    """What is known of the run that the parent is in."""
    digests = _table(
        ("What", DIGEST), [(f"SHA-256 of its {name}", value) for name, value in other["digests"].items()], (DIGEST,)
    )
    body = (
        _p(str(other["run"]))
        + list_html(other["missing"], "list")
        + _judges(other)
        + _checkpoints(other["checkpoints"])
    )
    return _section("The parent's run", body + digests)


def _study(study: Mapping[str, Any]) -> str:
    settings = json.dumps(study["settings"], indent=1, ensure_ascii=False)
    return _p(f"{study['name']}, fingerprint {study['fingerprint']}.") + f"<pre>{escape_html(settings)}</pre>"
