"""A gate's verdicts in words and as a section of the page; every other output of a gate says them the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.records import Check, Outcome, Verdict
from holdfast.records.verdicts import WORST_FIRST, combine
from holdfast.records.words import count_noun
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import format_number, format_percent, name_judge, name_lineage
from holdfast.report.words.layout import Section, Shown, list_html, sentences_text
from holdfast.report.words.tables import Cell, Table, make_table
from holdfast.study.rules import CHECK_KINDS

METRIC_WORDS = {kind.name: kind.words for kind in CHECK_KINDS}
METRIC_NAMES = {kind.name: kind.title for kind in CHECK_KINDS}
EXPLANATION = (
    "PASS: a loss beyond the declared margin is ruled out. FAIL: it is shown. INCONCLUSIVE: the data cannot tell;"
    " more cases or rollouts would. Every bound is one-sided at the level that the rules declare: at 95 % the two of a"
    " bracket hold together in 90 %. A margin means something where it was declared before the data was seen: a change"
    " of it changes the fingerprint of the rules."
)
BOUND_NAMES = {"gaffke": "Gaffke", "bernstein": "Bernstein"}  # named after people
# What an outcome means, of a change and of a level.
MEANINGS = {
    Outcome.PASS: ("a loss beyond it is ruled out", "a higher one is ruled out"),
    Outcome.FAIL: ("more was lost than it allows", "it is higher"),
    Outcome.INCONCLUSIVE: (
        "a loss beyond it is neither ruled out nor shown",
        "a higher one is neither ruled out nor shown",
    ),
}
HEADS = ("Verdict", "Child", "Parent", "Judge", "Cases")
BOUNDS = "Bounds"
CHECK_HEADS = ("Check", "Verdict", "Decides", "Parent", "Child", "Change", BOUNDS, "Margin", "Note")
NOT_MEASURED = "not measured"  # in place of a verdict
MOST_OPEN = 12  # verdicts that the page tells one by one; more are counted by lineage


@dataclass(frozen=True, slots=True)
class Unit:
    """How a check's numbers are written: factor and digits, the unit of a level and of a change, and it in words."""

    scale: int
    digits: int
    level: str
    change: str
    words: str

    def write(self, value: float) -> str:
        """The number without its unit."""
        return format_number(self.scale * value, self.digits)


UNITS = {"points": Unit(1, 2, "", "", " points"), "share": Unit(100, 1, "\u00a0%", " pp", " percentage points")}


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """The worst of several verdicts; INCONCLUSIVE where there is none."""
    return combine(one.outcome for one in verdicts)


def name_metric(metric: str) -> str:
    """A check's name in a table."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def is_absolute(check: Check) -> bool:
    """Whether the child's own value is held against the limit, and no change from the parent."""
    return check.change is None and check.child is not None


def format_level(check: Check, value: float | None) -> str:
    """A mean score, or a share in per cent."""
    unit = UNITS[check.unit]
    return "–" if value is None else unit.write(value) + unit.level


def format_change(check: Check, value: float | None) -> str:
    """A signed difference in points, or in percentage points."""
    unit = UNITS[check.unit]
    return "–" if value is None else ("+" if value > 0 else "") + unit.write(value) + unit.change


def format_bounds(check: Check) -> str:
    """``[−0.80, −0.44]`` in the unit of the change; an end that is not known is a dash."""
    ends = (check.lower, check.upper)
    if ends == (None, None):
        return ""
    if is_absolute(check):
        return f"[{', '.join(format_level(check, end) for end in ends)}]"
    return f"[{', '.join('–' if end is None else UNITS[check.unit].write(end) for end in ends)}]"


def format_end(check: Check, value: float) -> str:
    """One end of the bounds, signed where it is of a change."""
    return format_level(check, value) if is_absolute(check) else format_change(check, value)


def describe_level(check: Check) -> str:
    """How sure the bounds of a check are, where they stand: each by itself, and the two together."""
    if check.lower is None or check.upper is None:
        return ""
    if check.level is None:
        return " (each bound one-sided, at the level of Holm's rule)" if check.adjusted else ""
    return f" (each bound one-sided {exact_percent(check.level)}, the two {exact_percent(2 * check.level - 1)})"


def exact_percent(share: float) -> str:
    """A level, with as many digits as it has."""
    return f"{100 * share:.6g}\u00a0%"


def check_heads(checks: Sequence[Check]) -> tuple[str, ...]:
    """``CHECK_HEADS`` with the level of the checks' bounds in the head of their column."""
    levels = {one.level for one in checks if one.lower is not None}
    level = levels.pop() if len(levels) == 1 else None
    words = BOUNDS if level is None else f"{exact_percent(level)} one-sided"
    return tuple(words if head == BOUNDS else head for head in CHECK_HEADS)


def describe_note(check: Check) -> str:
    """What stands beside a check in a table: in how many cases any episode has a severe event, and its reason.

    The share of such cases is another number than the share of episodes.
    """
    cases = check.n.get("cases", 0)
    sides = [side for side in ("parent", "child") if cases and f"{side}_severe_cases" in check.n]
    shares = [f"{format_percent(check.n[f'{side}_severe_cases'] / cases, 1)} of the {side}'s" for side in sides]
    told = f"share of cases with one in any episode: {' and '.join(shares)}" if shares else ""
    return "; ".join(filter(None, (told, check.reason)))


def format_margin(check: Check) -> str:
    """The margin, in the unit of the change."""
    unit = UNITS[check.unit]
    if is_absolute(check):
        return f"at {'least' if check.worse == 'lower' else 'most'} {_declared(check)}{unit.level}"
    return f"{_declared(check)}{unit.change}"


def _declared(check: Check) -> str:
    """A margin with all the digits that it was declared with, and no fewer than a change has."""
    unit = UNITS[check.unit]
    text = f"{unit.scale * check.margin:.6g}"
    return text if len(text.partition(".")[2]) > unit.digits else unit.write(check.margin)


def _moved(check: Check) -> str:
    """``fell by 0.62 points [−0.80, −0.44]``."""
    if check.change is None:
        return "could not be compared"
    unit, words = UNITS[check.unit], "did not change"
    if check.change:
        words = f"{'rose' if check.change > 0 else 'fell'} by {unit.write(abs(check.change))}{unit.words}"
    levels = ""
    if check.unit == "share" and check.parent is not None and check.child is not None:
        levels = f", from {format_level(check, check.parent)} to {format_level(check, check.child)}"
    return f"{words} {format_bounds(check)}{describe_level(check)}{levels}".replace(" ,", ",").rstrip()


def describe_check(check: Check) -> str:
    """One check in a sentence without its end: ``safety fell by 0.62 points [−0.80, −0.44]; the margin is 0.25``."""
    subject = check.words or METRIC_WORDS.get(check.metric, name_metric(check.metric))
    if is_absolute(check):
        both = check.parent is not None
        level = f"{format_level(check, check.parent)} and " if both else ""
        words = f"{subject} is {level}{format_level(check, check.child)} {format_bounds(check)}{describe_level(check)}"
        words = f"{words.rstrip()}{' in parent and child' if both else ''}; it has to be {format_margin(check)}"
    else:
        words = f"{subject} {_moved(check)}; the margin is {_declared(check)}"
        words += UNITS[check.unit].words if check.unit == "share" else ""
    return f"{words} ({note})" if (note := describe_note(check)) else words


def describe_findings(verdict: Verdict) -> str:
    """What was found and what it means, in one sentence without the names of the two."""
    # What a verdict rests on first is a blocking check with the verdict's own outcome.
    blocking = [one for one in verdict.checks if one.blocking] or list(verdict.checks)
    check = next((one for one in blocking if one.outcome is verdict.outcome), next(iter(blocking), None))
    if check is None:
        return f"nothing could be compared{': ' + '; '.join(verdict.limits) if verdict.limits else ''}."
    alike = [one for one in verdict.checks if one.blocking and one.outcome is check.outcome and one is not check]
    more = f", likewise for {', '.join(name_metric(one.metric) for one in alike)}" if alike else ""
    more += f"; {verdict.note}" if verdict.note else ""
    # What the rules let decide and could not be measured, where nothing is required of it.
    named = verdict.rules.get("blocking", ())
    unknown = [one.metric for one in verdict.checks if not one.measured and not one.blocking and one.metric in named]
    more += f"; not measured, and so deciding nothing: {', '.join(map(name_metric, unknown))}" if unknown else ""
    meaning = MEANINGS[check.outcome][is_absolute(check)]
    if check.metric == "coverage":
        enough = check.outcome is Outcome.PASS
        meaning = "enough is scored to tell" if enough else "what is missing may hide a loss"
    return f"{describe_check(check)}, so {meaning}{more}."


def describe_verdict(verdict: Verdict) -> str:
    """One plain sentence: what was compared, what was found, what it means. Names stand in it as they are."""
    about = f"{verdict.outcome.value}: {verdict.child} against {verdict.parent} on {count_noun(verdict.cases, 'cases')}"
    return f"{about}, judge {name_verdict_judge(verdict)}: {describe_findings(verdict)}"


def name_verdict_judge(verdict: Verdict) -> str:
    """The judge with its relation to the child: ``grader (labelled none)``."""
    return name_judge(verdict.judge, verdict.labelled, verdict.reads_state)


def collect_limits(verdicts: Sequence[Verdict], most: int = MOST_OPEN) -> list[str]:
    """What a reader must know of several verdicts, each limit once.

    Of more than ``most`` comparisons, what holds for all of them, and how many limits are of single ones.
    """
    every = list(dict.fromkeys(limit for one in verdicts for limit in one.limits))
    if len(verdicts) <= most:
        return every
    shared = [limit for limit in every if all(limit in one.limits for one in verdicts)]
    if single := len(every) - len(shared):
        shared.append(f"{count_noun(single, 'limits')} of single comparisons: see each verdict's own")
    return shared


def shared_basis(verdicts: Sequence[Verdict]) -> list[str]:
    """What several verdicts all rest on, which is told once; nothing of a single one, which tells its own."""
    basis = verdicts[0].basis if len(verdicts) > 1 else ()
    return [words for words in basis if all(words in one.basis for one in verdicts)]


def check_cells(check: Check) -> tuple[str, ...]:
    """One check as the texts of a table's row, under ``CHECK_HEADS``."""
    return (
        name_metric(check.metric),
        check.outcome.value if check.measured else NOT_MEASURED,
        "yes" if check.blocking else "no",
        format_level(check, check.parent),
        format_level(check, check.child),
        format_change(check, check.change),
        format_bounds(check),
        format_margin(check),
        describe_note(check),
    )


def _metric_cell(check: Check | None) -> Cell | str:
    if check is None:
        return "–"
    if not check.measured:
        return NOT_MEASURED
    if check.change is None and check.child is None:
        return f"{check.outcome.value}: {check.reason}" if check.reason else check.outcome.value
    level, key = format_change(check, check.change), check.change
    if is_absolute(check):
        level, key = format_level(check, check.child), check.child
    said = "" if check.outcome is Outcome.PASS else check.outcome.value
    if said and not check.blocking:
        said += " (decides nothing)"
    text = " ".join(filter(None, (said, level, format_bounds(check))))
    return Cell(text=text, sort="" if key is None else key)


def verdict_table(ranked: Sequence[Verdict], title: str) -> Table:
    """Verdicts, a row each, with every check's change and bounds."""
    metrics = list(dict.fromkeys(check.metric for one in ranked for check in one.checks))
    rows = []
    for one in ranked:
        found = {check.metric: check for check in one.checks}
        outcome = Cell(text=one.outcome.value, sort=WORST_FIRST.index(one.outcome))
        cases = Cell(text=f"{one.cases:,}", sort=one.cases)
        numbers = (_metric_cell(found.get(metric)) for metric in metrics)
        rows.append((outcome, one.child, one.parent, name_verdict_judge(one), cases, *numbers))
    heads = (*HEADS, *(head[:1].upper() + head[1:] for head in map(name_metric, metrics)))
    return make_table(title, heads, rows, 4, [{"verdict": one.outcome.value} for one in ranked])


def count_by_lineage(verdicts: Sequence[Verdict]) -> list[str]:
    """``S→H against S: 5 FAIL (safety 5, severe events 2), 1 PASS``, for every pair of lineages that sources name."""
    groups: dict[str, list[Verdict]] = {}
    for one in verdicts:
        lineages = [one.sources.get(side, {}).get("lineage") for side in ("child", "parent")]
        if all(isinstance(lineage, list | tuple) for lineage in lineages):
            names = (name_lineage([str(stage) for stage in lineage or ()]) for lineage in lineages)
            groups.setdefault(" against ".join(names), []).append(one)
    return [f"{name}: {count_outcomes(found, why=True)}" for name, found in groups.items()]


def tally(verdicts: Sequence[Verdict]) -> dict[Outcome, int]:
    """How many verdicts have each outcome that any has, the worst first."""
    counts = Counter(one.outcome for one in verdicts)
    return {outcome: counts[outcome] for outcome in WORST_FIRST if counts[outcome]}


def count_outcomes(verdicts: Sequence[Verdict], *, why: bool = False) -> str:
    """``2 FAIL, 1 INCONCLUSIVE, 4 PASS``; ``why`` adds which deciding checks fail, and in how many verdicts."""
    failed = Counter(
        name_metric(check.metric)
        for one in verdicts
        for check in one.checks
        if why and check.blocking and check.outcome is one.outcome is Outcome.FAIL
    )
    told = f" ({', '.join(f'{name} {count}' for name, count in failed.items())})" if failed else ""
    words = [f"{count} {one.value}{told if one is Outcome.FAIL else ''}" for one, count in tally(verdicts).items()]
    return ", ".join(words) or "no verdict"


def describe_rules(verdict: Verdict) -> str:
    """What was declared, in one sentence."""
    rules = verdict.rules
    level = exact_percent(1 - float(rules.get("alpha", 0.05)))
    how = "all of them must pass" if rules.get("combine", "all") == "all" else "with Holm's correction for their number"
    names = ", ".join(name_metric(one.metric) for one in verdict.checks if one.blocking)
    bound = f"{BOUND_NAMES.get(rules['bound'], rules['bound'])} bounds" if "bound" in rules else "bounds"
    words = f"One-sided {level} {bound}; these checks decide, {how}: {names or 'none'}."
    return f"{words} Fingerprint of the rules: {verdict.fingerprint[:12]}."


def describe_several(verdicts: Sequence[Verdict]) -> list[str]:
    """How likely some verdict of several is wrong, in a sentence; nothing for a single one."""
    errors = count_errors(verdicts)
    many = errors["comparisons"]
    if many < 2:
        return []
    alpha = exact_percent(errors["alpha"])
    if errors["across"] == "holm":
        return [
            f"The {many:,} comparisons are corrected for their number by Holm's rule: that any PASS among them is false"
            f" has a probability of at most {alpha}, and that any FAIL is, at most {alpha}."
        ]
    if errors["across"] == "bh":
        return [
            f"The {many:,} comparisons are corrected for their number by Benjamini and Hochberg's rule: of the PASSes"
            f" at most {alpha} are false on average, and of the FAILs, where comparisons are independent or depend"
            " positively; some of them may be false."
        ]
    ends = [exact_percent(errors[f"any_false_{word}"]) for word in ("pass", "fail")]
    return [
        f"The {many:,} comparisons are decided one by one, each check at {alpha}: up to {errors['false_pass']:.3g} of"
        f" them pass falsely where every child has truly lost as much as a margin, so that the probability of any false"
        f' PASS may reach {ends[0]}, and that of any false FAIL {ends[1]} (gate.across = "holm" or "bh" corrects'
        " for their number)."
    ]


def count_errors(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What may go wrong among several comparisons, as JSON values: bounds by the sum of the levels (Bonferroni's).

    ``any_false_pass`` and ``any_false_fail`` bound the probability that any PASS, any FAIL of the list is false;
    ``false_pass`` how many false PASSes are expected at most; ``false_discovery`` which share of the PASSes, and of the
    FAILs, is false on average, where the rules control that.
    """
    rules: Mapping[str, Any] = verdicts[0].rules if verdicts else {}
    alpha, across, many = float(rules.get("alpha", 0.05)), str(rules.get("across", "none")), len(verdicts)
    # A check without bounds tests nothing; with Holm's rule within a comparison all its checks share one level.
    tests = [
        1 if rules.get("combine") == "holm" else sum(one.blocking and one.lower is not None for one in verdict.checks)
        for verdict in verdicts
    ]
    held = across == "holm" and many > 1
    return {
        "comparisons": many,
        "across": across,
        "alpha": alpha,
        "false_pass": alpha if held else alpha * many,
        "any_false_pass": alpha if held else min(1.0, alpha * many),
        "any_false_fail": alpha if held else min(1.0, alpha * sum(tests)),
        "false_discovery": alpha if across == "bh" and many > 1 else None,
    }


def fill_gate(section: Section, shown: Shown) -> None:
    """Every verdict by the study's rules, and its checks; nothing where nothing was compared."""
    verdicts = shown.verdicts
    if not verdicts:
        return
    marks = "".join(
        f'<li class="{outcome.value.lower()}"><b>{count:,}</b> {outcome.value}</li>'
        for outcome, count in tally(verdicts).items()
    )
    section.parts.append(f'<ul class="outcomes">{marks}</ul>')
    section.say(f"{count_noun(len(verdicts), 'comparisons')}: {count_outcomes(verdicts)}.", EXPLANATION)
    section.say(describe_rules(verdicts[0]), *describe_several(verdicts))
    ranked = sorted(verdicts, key=lambda one: WORST_FIRST.index(one.outcome))
    shared = shared_basis(verdicts)
    section.bullets(shared, "basis")
    if len(verdicts) > MOST_OPEN:
        section.bullets(count_by_lineage(verdicts))
    else:
        items = ""
        for one in ranked:  # each with what it rests on beside what others share with it
            own = list_html([words for words in one.basis if words not in shared], "basis")
            items += f'<li class="{one.outcome.value.lower()}">{escape_html(describe_verdict(one))}{own}</li>'
        section.parts.append(f'<ul class="sentences">{items}</ul>')
    title = "Changes of every child against its parent, with one-sided bounds; a check without a word passes"
    section.table("gate", verdict_table(ranked, title))
    section.bullets(collect_limits(verdicts), "notes")


def gate_text(shown: Shown, width: int) -> str | None:
    """The verdicts for a terminal, a sentence each."""
    told = list(map(describe_verdict, shown.verdicts))
    return sentences_text(f"Gate ({count_outcomes(shown.verdicts)})", told, width)
