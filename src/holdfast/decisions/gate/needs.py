"""How many cases and rollouts the declared margins need, simulated from a pilot with no true change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from holdfast.decisions.gate.checks import MIN_DRAWS
from holdfast.decisions.gate.pairing import CASE, FAMILY, Question, ask_all, fill_absent, require_comparable
from holdfast.decisions.gate.sides import Side
from holdfast.records.arrays import Floats
from holdfast.records.errors import StudyError
from holdfast.report.words.console import rows_text, terminal_width
from holdfast.report.words.inert import show_line, wrap_line, wrap_lines
from holdfast.stats.bounded import order_cases
from holdfast.stats.power import MOST_CASES, PowerRow, plan_cases
from holdfast.store.cells import mean_by
from holdfast.study.rules import FEWEST_FAMILIES, GateSection

SEED = 0
ROLLOUTS = (1, 2, 4, 8)
DRAWS = 400
T_ROW = "t bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one check needs: a row for each number of rollouts, or the ``reason`` that nothing can be planned."""

    metric: str
    margin: float
    unit: str
    rows: tuple[PowerRow, ...] = ()
    reason: str = ""


def plan_gate(parent: Side, child: Side | None, rules: GateSection, *, power: float) -> tuple[Need, ...]:
    """For every change that the rules hold against a margin, the cases that a parent without a true change needs.

    With a ``child`` the differences of the two sides are the pilot, moved to a mean of zero; without one it is the
    parent's rollouts against each other. Under Holm's rule each check is planned at its smallest level. Where the rules
    draw families, families are planned: the pilot's are the means of their cases, and a new one has as many cases.
    Errors: StudyError where the sides are not comparable, or one side has no case with two rollouts.
    """
    if child is not None:
        parent, child = fill_absent(parent, child, "accept")  # a pilot is what there is
        require_comparable(parent, child)
    alpha = rules.alpha / (len(rules.blocking) if rules.combine == "holm" else 1)
    needs = []
    for question in ask_all(rules):
        if question.absolute:
            continue
        need = Need(metric=question.metric, margin=question.margin, unit=question.kind.unit)
        low, high = question.reach
        try:
            rows = plan_cases(
                _read_pilot(parent, child, question, rules.cluster),
                margin=question.margin,
                alpha=alpha,
                power=power,
                low=low,
                high=high,
                method=rules.bound,
                rollouts=ROLLOUTS,
                draws=DRAWS,
                rng=np.random.default_rng(SEED),
            )
            needs.append(replace(need, rows=tuple(rows)))
        except ValueError as error:
            needs.append(replace(need, reason=str(error)))
    return tuple(needs)


def _read_pilot(parent: Side, child: Side | None, question: Question, cluster: str) -> Floats:
    """Differences (cases or families, rollouts) in which a drop is negative, NaN where there are fewer rollouts.

    Raises ValueError where nothing can be planned from them.
    """
    if not all(side.has(question.metric) for side in (parent, child) if side is not None):
        raise ValueError("the pilot does not have it")
    first = _by_rollout(parent, question.metric)
    if child is not None:
        second = _by_rollout(child, question.metric)
    elif first.shape[1] > 1:
        # Rollouts of one model against each other, each in one difference only.
        first, second = first[:, ::2], first[:, 1::2]
    else:
        raise StudyError(
            f"{parent.name}: a pilot of one side needs two rollouts a case, found one; give the other side too"
        )
    width = min(first.shape[1], second.shape[1])
    changes = second[:, :width] - first[:, :width]
    if cluster == FAMILY:
        # By family and rollout the mean over the family's cases that have it.
        families = dict(zip(parent.cases, parent.families, strict=True))
        number = {name: index for index, name in enumerate(order_cases(sorted(set(parent.families))))}
        family = np.array([number[families[name]] for name in order_cases(parent.cases)], dtype=np.int64)
        case, rollout = np.nonzero(np.isfinite(changes))
        means = mean_by(changes[case, rollout], (family[case], rollout), (len(number), width))
        changes = means[np.isfinite(means).any(axis=1)]
        if len(changes) < MIN_DRAWS:
            few = "one family" if len(changes) else "no family"
            raise ValueError(f"the pilot has {few} of cases: nothing can be planned of others")
    return changes if question.kind.worse == "lower" else -changes


def _by_rollout(side: Side, metric: str) -> Floats:
    """A metric as (cases, rollouts): by the digest of the case ids, present values first."""
    rank = {name: index for index, name in enumerate(order_cases(side.cases))}
    values = side.measured[metric].value
    rows: list[list[float]] = [[] for _ in side.cases]
    for number in np.flatnonzero(np.isfinite(values)):
        rows[rank[side.cases[side.case[number]]]].append(float(values[number]))
    width = max(map(len, rows), default=0)
    return np.array([row + [np.nan] * (width - len(row)) for row in rows], dtype=np.float64).reshape(-1, width)


def plan_document(
    needs: Sequence[Need], rules: GateSection, *, power: float, fingerprint: str, families_too: bool
) -> dict[str, Any]:
    """A plan as JSON values."""
    return {
        "power": power,
        "alpha": rules.alpha,
        "bound": rules.bound,
        "drawn": FAMILY if rules.cluster == FAMILY else CASE,
        "families_too": families_too,
        "fingerprint": fingerprint,
        "checks": [{**asdict(one), "blocking": one.metric in rules.blocking} for one in needs],
    }


def render_plan(needs: Sequence[Need], rules: GateSection, *, power: float, pilot: str, families_too: bool) -> str:
    """A plan as a table: cases (or families, if those are drawn) needed by check and rollouts a case.

    Below what the declared bound needs stands what a t bound would need, which is what the guarantee costs.
    """
    drawn = "families" if rules.cluster == FAMILY else "cases"
    head = (
        f"{drawn.capitalize()} for a PASS with {100 * power:g} % probability where nothing changed ({rules.bound}"
        f" bounds, one-sided {100 * (1 - rules.alpha):g} %), each check by itself; pilot: {show_line(pilot)}"
    )
    cells: list[tuple[str, ...]] = []
    notes: dict[str, list[str]] = {}
    for need in needs:
        margin = f"{need.margin:g}" if need.unit == "points" else f"{100 * need.margin:g} pp"
        by_count = {row.rollouts: row for row in need.rows}
        known = [by_count.get(count) for count in ROLLOUTS]
        cells.append((need.metric, margin, *("–" if row is None else _cell(row.cases) for row in known)))
        if need.rows and rules.bound != "t":
            cells.append((T_ROW, "", *("–" if row is None else _cell(row.cases_t) for row in known)))
        for note in sorted({need.reason, *(row.note for row in need.rows)} - {""}):
            notes.setdefault(note, []).append(need.metric)
    heads = ("Check", "Margin", *(f"{count} a case" for count in ROLLOUTS))
    wide = terminal_width()
    lines = [*wrap_line(head, wide, "", "  "), "", rows_text(heads, cells, wide)]
    worst = [
        max((row.cases or MOST_CASES for row in rows), default=0)
        for count in ROLLOUTS
        if (rows := [row for one in needs if one.metric in rules.blocking for row in one.rows if row.rollouts == count])
    ]
    remarks = []
    if worst:
        remarks.append(f"All blocking checks together need at least {min(worst):,} {drawn}, at the cheapest column.")
    if rules.cluster == FAMILY:
        remarks.append("A family has as many cases as in the pilot; each family counts alike.")
    if families_too:
        remarks.append(
            f"The pilot has {FEWEST_FAMILIES} families or more, so that a gate asks for the bounds over families as"
            " well, which no number of cases in the same families can make good; --cluster family plans them."
        )
    if any(need.rows for need in needs) and rules.bound != "t":
        remarks.append("A t bound needs fewer, and passes falsely too often where drops are rare and severe.")
    remarks += [f"{', '.join(metrics)}: {note}" for note, metrics in notes.items()]
    return "\n".join([*lines, "", *wrap_lines(remarks, wide, "", "  ")])


def _cell(cases: int | None) -> str:
    return f"> {MOST_CASES:,}" if cases is None else f"{cases:,}"
