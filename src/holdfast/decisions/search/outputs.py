"""A search for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from holdfast.decisions.gate.outputs.document import fields
from holdfast.decisions.search.running import Search
from holdfast.decisions.search.trials import Found, Trial, section_of, trial_lineage
from holdfast.records import Outcome
from holdfast.report.words.console import rows_text, terminal_width
from holdfast.report.words.labels import name_lineage
from holdfast.study.study import Study

SEARCH_FILE = "search.json"
CHECK_NUMBERS = ("change", "lower", "upper", "child")


def search_document(found: Search) -> dict[str, Any]:
    """A search as JSON, with what each trial cost: ``pairs`` counts what its last stage learnt from."""
    section = section_of(found.study)
    size = found.study.pair_stage(section.lineage[-1]).pairs_per_step
    document: dict[str, Any] = {
        "study": found.study.study.name,
        "run": str(found.path),
        "lineage": list(section.lineage),
        "parent": list(section.parent),
        "maximize": section.maximize,
        "gate": found.study.gate.model_dump(mode="json"),
        "budget": section.trials,
        "trials": [
            {
                "trial": one.number,
                **asdict(one.point),
                "pairs": one.point.steps * size,
                "lineage": list(trial_lineage(found.study, one.point)),
                "value": one.found.value,
                **_describe(one.found),
            }
            for one in found.trials
        ],
        "outcome": found.outcome.value,
        "winner": None,
    }
    if found.winner is not None and found.fresh is not None:
        chosen, fresh = found.winner.found.value, found.fresh.value
        document["winner"] = {
            "trial": found.winner.number,
            "lineage": list(trial_lineage(found.study, found.winner.point)),
            **asdict(found.winner.point),
            "chosen_by": chosen,
            "fresh": {"value": fresh, **_describe(found.fresh)},
            "optimism": None if chosen is None or fresh is None else chosen - fresh,
            "fresh_cases": found.fresh_cases,
            "conclusion": found.conclusion,
            "alpha": found.alpha,
            "note": _curse(found),
        }
    return document


def _describe(found: Found) -> dict[str, Any]:
    """A gate's outcome with the checks of each child."""
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
                        **fields(check, CHECK_NUMBERS),
                    }
                    for check in verdict.checks
                },
            }
            for verdict in found.verdicts
        ],
    }


def trial_cells(study: Study, one: Trial) -> tuple[str, ...]:
    """A trial as a row of the table of trials: what it was, the gate's word, what is to be large, what it lacks."""
    worst = [f"{name} {value:+.2f}" for name, value in one.found.violations.items() if value > 0]
    why = (
        f"beyond the margin: {', '.join(worst)}"
        if worst
        else f"passes against {name_lineage(section_of(study).parent)}"
    )
    value = "–" if one.found.value is None else f"{one.found.value:.2f}"
    return one.found.outcome.value, why, f"{one.number}", f"{one.point.share:.2f}", f"{one.point.steps}", value


def render_search(found: Search) -> str:
    """The table of trials, the winner, and what it is on fresh cases."""
    section = section_of(found.study)
    heads = ("Gate", "Why", "Trial", "Share", "Steps", section.maximize.capitalize())
    rows = [trial_cells(found.study, one) for one in found.trials]
    lines = [
        f"{name_lineage(section.lineage)} against {name_lineage(section.parent)}:"
        f" most {section.maximize} that passes the gate",
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
    told = (
        f"the winner is the best of {len(found.trials)} trials on the same cases, so what it scored there flatters it"
        f" (the winner's curse); the numbers on {where} do not"
    )
    if found.conclusion > 1:
        told += (
            f"; they judge winner number {found.conclusion} of this search, so it is held to a level of"
            f" {found.alpha:g} there"
        )
    return told
