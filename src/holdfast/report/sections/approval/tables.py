"""Tables of training for approval: gaps by model and setting, reactions and cues, arms at matched levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.records import Analysis, Estimate
from holdfast.records.quantities import quantity_of
from holdfast.report.sections.approval.setup import Lineage, Setup, is_own, order_bases
from holdfast.report.words.labels import SEED_AXES, format_number, format_signed, name_lineage, name_value
from holdfast.report.words.tables import Cell, Table, make_table, number_cell
from holdfast.study.users import visible_cues

Key = tuple[str, Lineage, str]  # base, lineage, setting
AT_REWARD = ("gap_at_reward", "exploit_at_reward", "kl_at_reward", "tokens_at_reward")
AT_KL = ("reward_at_kl", "gap_at_kl", "success_at_kl")
LEVELS: Mapping[str, tuple[Sequence[str], str, str]] = {
    "reward": (AT_REWARD, "Arms at matched approval, with 95 % intervals", "Approval"),
    "kl": (AT_KL, "Arms at matched KL, with 95 % intervals", "KL (nats)"),
}
DATA = ("data_harm", "log_ratio", "ess", "mismatch")


def keep_judge(analysis: Analysis) -> tuple[Analysis, str | None]:
    """The analysis with one judge's rows and curves, and the judge's name: the one that rewards.

    Where it is not known or has no rows it is who judged most, the first by name. What is of no judge stays.
    """
    counts: dict[str, int] = {}
    for one in analysis.exploitation:
        if one.judge is not None:
            counts[one.judge] = counts.get(one.judge, 0) + 1
    if not counts:
        return analysis, None
    judge = min(counts, key=lambda name: (name.partition("#")[0] != analysis.rewarder, -counts[name], name))
    rows = tuple(one for one in analysis.exploitation if one.judge in (None, judge))
    curves = tuple(one for one in analysis.curves if one.judge in (None, judge))
    return replace(analysis, exploitation=rows, curves=curves), judge


def pick_rows(estimates: Iterable[Estimate], *kinds: str) -> list[Estimate]:
    """One estimate for each quantity and subject: over all environments and seeds and by base, where there are such.

    Of claims about one subject the first that has a value is taken, one with an interval before one without, the
    recipe's before the checkpoint's.
    """
    wishes: tuple[Callable[[Estimate], bool], ...] = (
        lambda one: "environment" not in one.axes,
        lambda one: not set(SEED_AXES) & set(one.axes),
        lambda one: one.base is not None,
    )
    picked: list[Estimate] = []
    for kind in kinds:
        rows = [one for one in estimates if one.kind == kind]
        for wish in wishes:
            rows = list(filter(wish, rows)) or rows
        groups: dict[tuple[object, ...], list[Estimate]] = {}
        for one in rows:
            key = (one.base, one.lineage, str(sorted(one.axes.items(), key=str)), one.judge)
            groups.setdefault(key, []).append(one)
        picked += [max(group, key=_rank) for group in groups.values()]
    return picked


def _rank(one: Estimate) -> tuple[bool, bool, bool]:
    return one.value is not None, one.interval is not None, one.claim == "recipe"


def key_of(one: Estimate) -> Key:
    """Base, lineage and setting of an estimate."""
    return one.base or "all bases", one.lineage or (), str(one.axes.get("setting", "all settings"))


def pick_last(
    estimates: Iterable[Estimate], kind: str, setup: Setup, *, label: str | None = None
) -> dict[Key, Estimate]:
    """Base × lineage × own setting → the estimate of a kind at the largest dose, of one label of users."""
    groups: dict[Key, list[Estimate]] = {}
    for one in pick_rows(estimates, kind):
        if one.axes.get("label") == label and is_own(setup, one.lineage or (), one.axes.get("setting")):
            groups.setdefault(key_of(one), []).append(one)
    return {key: max(group, key=lambda one: to_number(one.axes.get("dose"))) for key, group in groups.items()}


def to_number(value: object) -> float:
    """A number to sort by; infinite for anything else."""
    return float(value) if isinstance(value, int | float) else float("inf")


def order_keys(keys: Iterable[Key], setup: Setup) -> list[Key]:
    """Keys by setting, lineage and size of the base; settings and lineages as they first come, on-policy arms first."""
    listed = list(dict.fromkeys(keys))
    settings = [*setup.toggles, *(setting for _, _, setting in listed)]
    lineages = list(dict.fromkeys(lineage for _, lineage, _ in listed))
    bases = order_bases([*setup.bases, *(base for base, _, _ in listed)])

    def place(key: Key) -> tuple[int, bool, int, int]:
        arm = setup.arms.get(key[1])
        off = arm is not None and not arm.on_policy
        return settings.index(key[2]), off, lineages.index(key[1]), bases.index(key[0])

    return sorted(listed, key=place)


def word_cells(key: Key, colors: Mapping[Lineage, int], setup: Setup) -> list[Cell]:
    """Setting, base and lineage of a row, and how the lineage was trained where that is known."""
    base, lineage, setting = key
    arm = setup.arms.get(lineage)
    series = colors.get(lineage, 0)
    place = order_bases([*setup.bases, base]).index(base)
    cells = [Cell(text=setting), Cell(text=base, sort=place)]
    cells.append(Cell(text=name_lineage(lineage), sort=series, series=series))
    return cells + ([Cell(text="–" if arm is None else arm.rollouts)] if setup.arms else [])


def word_heads(setup: Setup) -> tuple[str, ...]:
    """The heads of ``word_cells``."""
    return ("Setting", "Base", "Lineage", *(("Trained by",) if setup.arms else ()))


def _middle_cell(pleased: Sequence[Mapping[Key, Estimate]], key: Key) -> Cell:
    """The approval of both users together: the mean of the two labels, or what is of no label."""
    one, other, both = (found.get(key) for found in pleased)
    if one is None or other is None or one.value is None or other.value is None:
        return number_cell(both)
    value = (one.value + other.value) / 2
    return Cell(text=format_number(value), sort=value, basis=("the mean over both users of each pair", ""))


def subtract(one: Estimate | None, other: Estimate | None) -> float | None:
    """The difference of two values, None where either is not known."""
    if one is None or other is None or one.value is None or other.value is None:
        return None
    return one.value - other.value


def gap_table(estimates: Sequence[Estimate], colors: Mapping[Lineage, int], setup: Setup) -> Table | None:
    """Published and paired gap, exploit rates and approval at the end, for each base, lineage and setting."""
    late, published = (pick_last(estimates, kind, setup) for kind in ("late_gap", "max_hex_gap"))
    gameable, other = (pick_last(estimates, "exploit_rate", setup, label=label) for label in ("gameable", "other"))
    pleased = [pick_last(estimates, "reward", setup, label=label) for label in ("gameable", "other", None)]
    keys = order_keys([*late, *published, *(key for key in gameable if key[1])], setup)
    if not keys:
        return None
    heads = (*word_heads(setup), "Late gap, paired", "Max HEX Gap, published", "Published − paired")
    heads += ("Exploited, gameable", "Exploited, other", "Approval")
    rows = []
    for key in keys:
        ours, theirs = late.get(key), published.get(key)
        bias = subtract(theirs, ours)
        difference = Cell(text="–") if bias is None else Cell(text=format_signed(bias), sort=bias)
        rates = [number_cell(found.get(key)) for found in (gameable, other)]
        numbers = [number_cell(ours), number_cell(theirs), difference, *rates, _middle_cell(pleased, key)]
        rows.append([*word_cells(key, colors, setup), *numbers])
    title = "Gap of harm between gameable and other users (rating points), with 95 % intervals"
    return make_table(title, heads, rows, len(word_heads(setup)))


def level_table(
    estimates: Sequence[Estimate], matched: str, colors: Mapping[Lineage, int], setup: Setup
) -> Table | None:
    """Arms at declared levels of "reward" or "kl": a row for each arm and level, "not reached" where it stays below."""
    columns, title, level = LEVELS[matched]
    rows = pick_rows(estimates, *columns)
    kinds = [kind for kind in columns if any(one.kind == kind for one in rows)]
    found: dict[tuple[Key, object], dict[str, Estimate]] = {}
    for one in rows:
        if is_own(setup, one.lineage or (), one.axes.get("setting")):
            found.setdefault((key_of(one), one.axes.get("level")), {})[one.kind] = one
    if not found:
        return None
    order = order_keys((key for key, _ in found), setup)
    body = []
    for key, at in sorted(found, key=lambda pair: (order.index(pair[0]), to_number(pair[1]))):
        arm = setup.arms.get(key[1])
        rewarded = [Cell(text="–" if arm is None else arm.reward)] if setup.arms else []
        name = Cell(text=f"{at:g}" if isinstance(at, int | float) else str(at), sort=to_number(at))
        cells = [number_cell(found[key, at].get(kind)) for kind in kinds]
        body.append([*word_cells(key, colors, setup), *rewarded, name, *cells])
    heads = (*word_heads(setup), *(("Trained for",) if setup.arms else ()), level)
    return make_table(title, (*heads, *(quantity_of(kind).head for kind in kinds)), body, len(heads) - 1)


def data_table(estimates: Sequence[Estimate], colors: Mapping[Lineage, int], setup: Setup) -> Table | None:
    """What each arm learned from: its harmful share, and how far it is from the arm's own policy."""
    found = {kind: last for kind in DATA if (last := pick_last(estimates, kind, setup))}
    keys = order_keys((key for last in found.values() for key in last), setup)
    if not keys:
        return None
    rows = [[*word_cells(key, colors, setup), *(number_cell(last.get(key)) for last in found.values())] for key in keys]
    heads = (*word_heads(setup), *(quantity_of(kind).head for kind in found))
    return make_table("What each arm learned from", heads, rows, len(word_heads(setup)))


def reaction_table(estimates: Sequence[Estimate]) -> Table | None:
    """Whether each base reacts to each toggle before any training."""
    rows = pick_rows(estimates, "reaction", "cue_free_gap")
    if not rows:
        return None
    several = len({one.judge for one in rows}) > 1
    body = []
    for one in rows:
        toggle = str(one.axes.get("toggle", "all")).replace("_", " ")
        if one.kind == "cue_free_gap":
            toggle = f"no cue ({one.axes.get('setting', 'all settings')})"
        words = [toggle, one.base or "all bases", *([one.judge or "all judges"] * several), one.unit or "not known"]
        body.append([*(Cell(text=text) for text in words), number_cell(one)])
    heads = ("Toggle", "Base", *(("Judge",) * several), "Verdict", "Reaction")
    return make_table("Reaction of each base before training", heads, body, len(heads) - 1)


def cue_table(estimates: Sequence[Estimate]) -> Table | None:
    """How well a bag of words tells the label from each channel, and the difference in length, by setting."""
    found: dict[tuple[str, str], dict[str, Estimate]] = {}
    for one in estimates:
        if one.kind in ("cue", "cue_length"):
            place = (str(one.axes.get("setting", "all")), str(one.axes.get("channel", "message")))
            found.setdefault(place, {})[one.kind] = one
    if not found:
        return None
    body = []
    for place, pair in found.items():
        count = max((count for one in pair.values() for count in one.n.values()), default=None)
        counted = Cell(text="–") if count is None else Cell(text=f"{count:,}", sort=count)
        numbers = (number_cell(pair.get(kind)) for kind in ("cue", "cue_length"))
        body.append([*(Cell(text=text) for text in place), *numbers, counted])
    heads = ("Setting", "Channel", "Label told from words", "Length, gameable − other (words)", "n")
    return make_table("Cue audit: what tells the two users apart (chance is 50 %)", heads, body, 2)


TOGGLES: Mapping[str, str] = {
    "policy_role": "Agent",
    "judge_role": "Judge",
    "traits": "Traits",
    "style": "Style",
    "leak": "Leak",
    "clause": "Wish",
    "turns": "Turns",
    "gameable_share": "Gameable share",
    "environments": "Environments",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A setting, the earlier one that it is held against, and the toggles in which the two differ."""

    setting: str
    against: str | None
    changed: Mapping[str, object]


def order_ladder(toggles: Mapping[str, Mapping[str, object]]) -> list[Rung]:
    """Settings from the first one on, each next the one that differs in the fewest toggles from any before it."""
    if not toggles:
        return []
    first, *rest = toggles
    rungs = [Rung(setting=first, against=None, changed={})]
    while rest:
        # Of equally near ones the latest on the ladder is held against, and the first setting comes first.
        choices = [
            Rung(setting=name, against=rung.setting, changed=_differ(toggles[rung.setting], toggles[name]))
            for rung in reversed(rungs)
            for name in rest
        ]
        rungs.append(min(choices, key=lambda rung: len(rung.changed)))
        rest.remove(rungs[-1].setting)
    return rungs


def _differ(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    """The toggles of the other in which it differs from the one."""
    keys = dict.fromkeys([*TOGGLES, *one, *other])
    return {key: other.get(key) for key in keys if one.get(key) != other.get(key)}


def describe_toggles(toggles: Mapping[str, object] | None) -> str:
    """``friend, cue: style and leak``; an empty string where toggles are not known."""
    if not toggles:
        return ""
    cues = visible_cues(toggles)
    role = str(toggles.get("policy_role", "friend"))
    words = f"{role}, cue: {' and '.join(cues)}" if cues else f"{role}, no cue"
    return f"{words}, no wish" if toggles.get("clause") == "none" else words


def ladder_table(
    rungs: Sequence[Rung],
    keys: Sequence[Key],
    late: Mapping[Key, Estimate],
    colors: Mapping[Lineage, int],
    setup: Setup,
) -> Table:
    """A row for each rung and training: what changed against which setting, the toggles that vary, the paired gap."""
    varying = [
        toggle for toggle in TOGGLES if len({str(setup.toggles[rung.setting].get(toggle)) for rung in rungs}) > 1
    ]
    by_name = {rung.setting: rung for rung in rungs}
    rows = []
    for key in keys:
        rung = by_name[key[2]]
        changes = ", ".join(f"{name.replace('_', ' ')} {_name(value)}" for name, value in rung.changed.items())
        changed = "–" if rung.against is None else f"{changes or 'nothing'} (against {rung.against})"
        own = [Cell(text=_name(setup.toggles[key[2]].get(toggle))) for toggle in varying]
        rows.append([*word_cells(key, colors, setup), Cell(text=changed), *own, number_cell(late[key])])
    heads = (*word_heads(setup), "Changed", *(TOGGLES[toggle] for toggle in varying), "Late gap, paired")
    title = "Settings, one toggle changed at a time where there are such, with 95 % intervals"
    return make_table(title, heads, rows, len(heads) - 1)


def _name(value: object) -> str:
    if value is None:
        return "–"
    return ("yes" if value else "no") if isinstance(value, bool) else name_value(value)
