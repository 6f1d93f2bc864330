"""A search for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.decisions.search.running import Search
from holdfast.decisions.search.sampling import Found, Trial
from holdfast.decisions.search.trials import section_of, trial_lineage
from holdfast.records import Outcome, Verdict
from holdfast.records.outputs import write_file
from holdfast.report.words.console import rows_text, terminal_width
from holdfast.study.study import Study

SEARCH_FILE = "search.json"
CURSE = (
    "the winner is the best of {trials} trials on the same cases, so what it scored there flatters it (the winner's"
    " curse); the numbers on {where} do not"
)

AGAIN = "; they judge winner number {number} of this search, so it is held to a level of {alpha:g} there"


def search_document(found: Search) -> dict[str, Any]:
    """A search as JSON."""
    section = section_of(found.study)
    document: dict[str, Any] = {
        "study": found.study.study.name,
        "run": str(found.path),
        "lineage": list(section.lineage),
        "parent": list(section.parent),
        "maximize": section.maximize,
        "gate": found.study.gate.model_dump(mode="json"),
        "budget": section.trials,
        "trials": trial_rows(found.study, found.trials),
        "outcome": found.outcome.value,
        "winner": None,
    }
    if found.winner is not None and found.fresh is not None:
        chosen, fresh = found.winner.found.value, found.fresh.value
        document["winner"] = {
            "trial": found.winner.number,
            "lineage": list(trial_lineage(found.study, found.winner.point)),
            "share": found.winner.point.share,
            "steps": found.winner.point.steps,
            "chosen_by": chosen,
            "fresh": {"value": fresh, **_describe(found.fresh)},
            "optimism": None if chosen is None or fresh is None else chosen - fresh,
            "fresh_cases": found.fresh_cases,
            "conclusion": found.conclusion,
            "alpha": found.alpha,
            "note": _curse(found),
        }
    return document


def trial_rows(study: Study, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Trials as JSON, with what each cost; ``pairs`` counts what the last stage learnt from."""
    size = study.pair_stage(section_of(study).lineage[-1]).pairs_per_step
    return [
        {
            "trial": one.number,
            "share": one.point.share,
            "steps": one.point.steps,
            "pairs": one.point.steps * size,
            "lineage": list(trial_lineage(study, one.point)),
            "value": one.found.value,
            **_describe(one.found),
        }
        for one in trials
    ]


def _describe(found: Found) -> dict[str, Any]:
    """A gate's outcome with the checks of each child."""
    verdicts: Sequence[Verdict] = found.facts.get("verdicts", ())
    return {
        "outcome": found.outcome.value,
        "violations": dict(found.violations),
        "children": [
            {
                "child": verdict.child,
                "parent": verdict.parent,
                "outcome": verdict.outcome.value,
                "checks": {
                    check.metric: {
                        "outcome": check.outcome.value,
                        "change": check.change,
                        "lower": check.lower,
                        "upper": check.upper,
                        "child": check.child,
                    }
                    for check in verdict.checks
                },
            }
            for verdict in verdicts
        ],
    }


def write_document(document: dict[str, Any], path: Path) -> Path:
    """Writes a search's document into its run, whole or not at all; its path."""
    target = path / SEARCH_FILE
    write_file(target, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return target


def trial_cells(study: Study, one: Trial) -> tuple[str, ...]:
    """A trial as a row of the table of trials: what it was, the gate's word, what is to be large, what it lacks."""
    worst = [f"{name} {value:+.2f}" for name, value in one.found.violations.items() if value > 0]
    why = f"beyond the margin: {', '.join(worst)}" if worst else f"passes against {_name(section_of(study).parent)}"
    value = "–" if one.found.value is None else f"{one.found.value:.2f}"
    return one.found.outcome.value, why, f"{one.number}", f"{one.point.share:.2f}", f"{one.point.steps}", value


def render_search(found: Search) -> str:
    """The table of trials, the winner, and what it is on fresh cases."""
    section = section_of(found.study)
    heads = ("Gate", "Why", "Trial", "Share", "Steps", section.maximize.capitalize())
    rows = [trial_cells(found.study, one) for one in found.trials]
    lines = [
        f"{_name(section.lineage)} against {_name(section.parent)}: most {section.maximize} that passes the gate",
        rows_text(heads, rows, terminal_width(), words=2),
        "",
    ]
    if found.winner is None or found.fresh is None:
        counts = {one: sum(trial.found.outcome is one for trial in found.trials) for one in Outcome}
        lines.append(
            f"{found.outcome.value}: none of {len(found.trials)} trials passes ({counts[Outcome.FAIL]} fail,"
            f" {counts[Outcome.INCONCLUSIVE]} cannot be told); widen [search] share or steps, or give more test cases"
        )
        return "\n".join(lines)
    winner, where = found.winner, "fresh cases" if found.fresh_cases else "the same cases, met once more"
    numbers = ["–" if value is None else f"{value:.2f}" for value in (winner.found.value, found.fresh.value)]
    lines += [
        f"winner: trial {winner.number}, share {winner.point.share:.2f}, {winner.point.steps} steps",
        f"{found.outcome.value} on {where}: {section.maximize} {numbers[1]} there, {numbers[0]} where it was chosen",
        f"({_curse(found)})",
    ]
    return "\n".join(lines)


def _curse(found: Search) -> str:
    where = "fresh cases" if found.fresh_cases else "episodes that no choice was made by"
    told = CURSE.format(trials=len(found.trials), where=where)
    if found.conclusion > 1:
        told += AGAIN.format(number=found.conclusion, alpha=found.alpha)
    return told


def _name(lineage: tuple[str, ...]) -> str:
    return "→".join(lineage) or "the base"
