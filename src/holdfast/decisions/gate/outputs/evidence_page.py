"""The evidence as a page to print: no script, nothing fetched, every word escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast.records import Check, Labelled, Outcome
from holdfast.report.page.shards import hash_source
from holdfast.report.sections.gate import check_cells, check_heads
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import name_judge
from holdfast.report.words.layout import list_html

STYLE = """
:root { --ink: #1c2330; --soft: #5a6474; --rule: #c9cfd8; --panel: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
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
  pre { background: none; border: 1px solid var(--rule); }
}
"""
EXPLANATION = (
    "Each child is held against the parent that it was trained from, on the same cases and by the same judge. PASS says"
    " that a loss beyond the margin of the rules is ruled out; FAIL that it is shown; INCONCLUSIVE that the data cannot"
    " tell. The file evidence.json beside this page holds the same numbers in full."
)
DIGEST = "digest"
KEEP = (
    "The SHA-256 of the run is over all its rows, texts and weights. Keep it elsewhere: `holdfast show RUN --digest"
    " KEPT` says whether a run is still that one."
)


def render_evidence(found: Mapping[str, Any]) -> str:
    """The evidence document as an HTML page under a policy that allows its own style and nothing else."""
    policy = f"default-src 'none'; style-src '{hash_source(STYLE)}'; base-uri 'none'; form-action 'none'"
    title = f"Evidence: {found['run']}"
    body = "".join(
        [
            f"<h1>{escape_html(title)}</h1>",
            f'<p>Overall verdict: <span class="outcome">{escape_html(found["outcome"])}</span></p>',
            _p(EXPLANATION),
            list_html(found["summary"], "list"),
            _p(found["several"]["sentence"]) if found["several"]["sentence"] else "",
            _section("What is missing", list_html(found["missing"], "list")),
            _section("Limits", list_html(found["limits"], "list")),
            _section("Claims", list_html((claim["sentence"] for claim in found["claims"]), "list")),
            _section("Verdicts", "".join(_verdict(one) for one in found["verdicts"])),
            _section("What was judged", _judges(found)),
            _section("Checkpoints", _checkpoints(found["checkpoints"])),
            _section("Digests and versions", _digests(found)),
            _section("The study", _study(found["study"])),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape_html(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _p(words: str, name: str = "") -> str:
    return f"<p{f' class={name}' if name else ''}>{escape_html(words)}</p>"


def _section(title: str, html: str) -> str:
    return f"<section><h2>{escape_html(title)}</h2>{html or _p('None.', 'note')}</section>"


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
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _check(row: Mapping[str, Any]) -> Check:
    """A check read back from its JSON."""
    named = {key: value for key, value in row.items() if key != "sentence"}
    return Check(**{**named, "outcome": Outcome(row["outcome"])})


def _verdict(one: Mapping[str, Any]) -> str:
    judge = name_judge(one["judge"], Labelled(one["labelled"]), one["reads_state"])
    parts = [
        f"<h3>{escape_html(one['outcome'])} · {escape_html(one['child'])}</h3>",
        _p(f"Against {one['parent']} on {one['cases']:,} cases, judge {judge}."),
        list_html(one["basis"], "list"),
        _p(f"{one['note']}.") if one["note"] else "",
    ]
    if checks := [_check(row) for row in one["checks"]]:
        parts.append(_table(check_heads(checks), map(check_cells, checks)))
    rubrics = "; ".join(f"{objective} by {rubric}" for objective, rubric in one["rubrics"].items())
    noted = (("Rules", one["fingerprint"]), ("Scores compared", one["data"]), ("Rubrics", rubrics))
    return "".join(parts) + _table(("What", DIGEST), (pair for pair in noted if pair[1]), (DIGEST,))


def _judges(found: Mapping[str, Any]) -> str:
    heads = ("Judge", "Objective", "Rubric", "Judgements", "Scores")
    rows = [
        (one["judge"], one["objective"], one["rubric"], f"{one['judgements']:,}", f"{one['scores']:,}")
        for one in found["judges"]
    ]
    parts = [(part, f"{one['cases']:,}", f"{one['trajectories']:,}") for part, one in found["parts"].items()]
    return _table(("Part", "Cases", "Trajectories"), parts) + _table(heads, rows, ("Rubric",))


def _stages(checkpoint: Mapping[str, Any]) -> str:
    found = []
    for stage in checkpoint["stages"]:
        steps = "" if stage["steps"] is None else f", {stage['steps']:,} steps"
        found.append(f"{stage['name']} ({stage['method']} on {' and '.join(stage['objectives']) or 'nothing'}{steps})")
    return " → ".join(found)


def _checkpoints(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    heads = ("Name", "Trained by", "Weights", "Digest")
    rows = [(one["name"], _stages(one) or "–", one["weights"], one["digest"]) for one in checkpoints]
    return _table(heads, rows, ("Digest",))


def _digests(found: Mapping[str, Any]) -> str:
    digests = [(f"SHA-256 of the {name}", value) for name, value in found["digests"].items()]
    versions = [(name, value) for name, value in found["versions"].items()]
    counts = [(name, f"{value:,}") for name, value in found["counts"].items()]
    return _p(KEEP, "note") + _table(("What", DIGEST), [*digests, *versions, *counts], (DIGEST,))


def _study(study: Mapping[str, Any] | None) -> str:
    if study is None:
        return _p("No study made this run.")
    settings = json.dumps(study["settings"], indent=1, ensure_ascii=False)
    return _p(f"{study['name']}, fingerprint {study['fingerprint']}.") + f"<pre>{escape_html(settings)}</pre>"
