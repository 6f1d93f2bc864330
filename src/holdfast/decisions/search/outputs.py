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


def search_document(result: Search) -> dict[str, Any]:
    """A search as JSON, with what each trial cost: ``pairs`` counts what its last stage learnt from."""
    section = section_of(result.study)
    size = result.study.pair_stage(section.lineage[-1]).pairs_per_step
    document: dict[str, Any] = {
        "study": result.study.study.name,
        "run": str(result.path),
        "lineage": list(section.lineage),
        "parent": list(section.parent),
        "maximize": section.maximize,
        "gate": result.study.gate.model_dump(mode="json"),
        "budget": section.trials,
        "trials": [
            {
                "trial": one.number,
                **asdict(one.point),
                "pairs": one.point.steps * size,
                "lineage": list(trial_lineage(result.study, one.point)),
                "value": one.found.value,
                **_describe(one.found),
            }
            for one in result.trials
        ],
        "outcome": result.outcome.value,
        "winner": None,
    }
    if result.winner is not None and result.fresh is not None:
        chosen, fresh = result.winner.found.value, result.fresh.value
        document["winner"] = {
            "trial": result.winner.number,
            "lineage": list(trial_lineage(result.study, result.winner.point)),
            **asdict(result.winner.point),
            "chosen_by": chosen,
            "fresh": {"value": fresh, **_describe(result.fresh)},
            "optimism": None if chosen is None or fresh is None else chosen - fresh,
            "fresh_cases": result.fresh_cases,
            "conclusion": result.conclusion,
            "alpha": result.alpha,
            "note": _curse(result),
        }
    return document


def _describe(trial: Found) -> dict[str, Any]:
    """A gate's outcome with the checks of each child."""
    return {
        "outcome": trial.outcome.value,
        "violations": dict(trial.violations),
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
            for verdict in trial.verdicts
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


def render_search(result: Search) -> str:
    """The table of trials, the winner, and what it is on fresh cases."""
    section = section_of(result.study)
    heads = ("Gate", "Why", "Trial", "Share", "Steps", section.maximize.capitalize())
    rows = [trial_cells(result.study, one) for one in result.trials]
    lines = [
        f"{name_lineage(section.lineage)} against {name_lineage(section.parent)}:"
        f" most {section.maximize} that passes the gate",
        rows_text(heads, rows, terminal_width(), words=2),
        "",
    ]
    if result.winner is None or result.fresh is None:
        counts = {one: sum(trial.found.outcome is one for trial in result.trials) for one in Outcome}
        lines.append(
            f"{result.outcome.value}: none of {len(result.trials)} trials passes ({counts[Outcome.FAIL]} fail,"
            f" {counts[Outcome.INCONCLUSIVE]} cannot be told); widen [search] share or steps, or give more test cases"
        )
        return "\n".join(lines)
    winner, where = result.winner, "fresh cases" if result.fresh_cases else "the same cases, met once more"
    numbers = ["–" if value is None else f"{value:.2f}" for value in (winner.found.value, result.fresh.value)]
    lines += [
        f"winner: trial {winner.number}, share {winner.point.share:.2f}, {winner.point.steps} steps",
        f"{result.outcome.value} on {where}: {section.maximize} {numbers[1]} there, {numbers[0]} where it was chosen",
        f"({_curse(result)})",
    ]
    return "\n".join(lines)


def _curse(result: Search) -> str:
    where = "fresh cases" if result.fresh_cases else "episodes that no choice was made by"
    told = (
        f"the winner is the best of {len(result.trials)} trials on the same cases, so what it scored there flatters it"
        f" (the winner's curse); the numbers on {where} do not"
    )
    if result.conclusion > 1:
        told += (
            f"; they judge winner number {result.conclusion} of this search, so it is held to a level of"
            f" {result.alpha:g} there"
        )
    return told
