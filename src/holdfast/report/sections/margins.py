"""The checks of a verdict as bars against their margins: one scale for all of them, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.records import Check
from holdfast.report.sections.gate import (
    NOT_MEASURED,
    describe_check,
    format_bounds,
    format_change,
    format_level,
    format_margin,
    is_absolute,
    name_metric,
)
from holdfast.report.words.inert import escape_html

WORST, BEST = -4.0, 4.0  # the ends of the scale, in margins; what lies beyond ends in an arrow
_WIDTH, _HEIGHT = 500, 24
KEY = (
    "Each bar reaches from the lower to the upper bound of a change, its mark stands at the change itself. Right is"
    " better. The upright line says that nothing changed; the shaded field on the left begins at the margin: a check"
    " passes whose bar lies wholly outside it, and fails whose bar lies wholly inside. A thin line beside a bar is"
    " where it would reach whatever the missing scores had been, and counts for the check as the bar does."
)


def margin_bars(checks: Sequence[Check]) -> str:
    """The checks as an HTML list; one without bounds has its words alone."""
    return f'<ul class="bars">{"".join(map(_bar_row, checks))}</ul>'


def _bar_row(check: Check) -> str:
    outcome = check.outcome.value if check.measured else NOT_MEASURED
    tone = check.outcome.value.lower() if check.measured else "unknown"
    decides = "" if check.blocking else " <small>decides nothing</small>"
    if check.lower is None or check.upper is None:
        told, bar = check.reason or format_level(check, check.child), '<span class="nobar"></span>'
    else:
        middle = format_level(check, check.child) if is_absolute(check) else format_change(check, check.change)
        told, bar = f"{middle} {format_bounds(check)}, margin {format_margin(check)}", _bar(check)
    return (
        f'<li class="{tone}"><b>{escape_html(name_metric(check.metric))}{decides}</b><strong>{escape_html(outcome)}'
        f"</strong>{bar}<span>{escape_html(told)}</span></li>"
    )


def _bar(check: Check) -> str:
    """The bar as SVG, in multiples of the margin; of a level held against a ceiling, nothing is where it is 0."""
    assert check.lower is not None and check.upper is not None
    sign = 1.0 if check.worse == "lower" else -1.0
    middle = check.child if is_absolute(check) else check.change
    ends = [sign * check.lower, sign * check.upper, sign * (middle or 0.0)]
    unit = abs(check.margin) or max(map(abs, ends)) or 1.0
    low, high, at = min(ends[:2]) / unit, max(ends[:2]) / unit, ends[2] / unit
    left, right, mark = (_place(value) for value in (low, high, at))
    thin = ""
    if check.lower_all is not None and check.upper_all is not None:
        most = sorted(sign * end / unit for end in (check.lower_all, check.upper_all))
        low, high = min(low, most[0]), max(high, most[1])
        thin = f'<path class="all" d="M{_place(low):.1f} {_HEIGHT / 2}H{_place(high):.1f}"/>'
    arrows = "".join(
        f'<path class="end" d="M{tip} {_HEIGHT / 2}l{way * 9} -7v14z"/>'
        for beyond, tip, way in ((low < WORST, 0, 1), (high > BEST, _WIDTH, -1))
        if beyond
    )
    lost = _place(-1.0 if check.margin else 0.0)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape_html(describe_check(check))}">'
        f'<rect class="lost" x="0" y="0" width="{lost:.1f}" height="{_HEIGHT}"/>'
        f'<path class="none" d="M{_place(0.0):.1f} 0V{_HEIGHT}"/>'
        f'{thin}<rect class="range" x="{left:.1f}" y="7" width="{max(right - left, 1.5):.1f}" height="10"/>'
        f'<path class="mark" d="M{mark:.1f} 3V{_HEIGHT - 3}"/>{arrows}</svg>'
    )


def _place(value: float) -> float:
    """Where a number of margins stands on the scale."""
    return _WIDTH * (min(max(value, WORST), BEST) - WORST) / (BEST - WORST)
