"""How a run learned from rewards, in tables: gaps by model and setting, reactions and cues, arms at matched levels."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast.records import Analysis, Checkpoint, Estimate
from holdfast.records.quantities import quantity_of
from holdfast.report.words.labels import SEED_AXES, Lineage, format_number, format_signed, name_value
from holdfast.report.words.tables import Cell, Table, lineage_cell, make_table, number_cell
from holdfast.study.stages import is_rewarded_by_users
from holdfast.study.users import visible_cues

_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:[.p]\d+)?)\s?([kmb])(?![a-z0-9])", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}
Key = tuple[str, Lineage, str]  # base, lineage, setting
AT_REWARD = ("gap_at_reward", "exploit_at_reward", "kl_at_reward", "tokens_at_reward")
AT_KL = ("reward_at_kl", "gap_at_kl", "success_at_kl")
LEVELS: Mapping[str, tuple[Sequence[str], str, str]] = {
    "reward": (AT_REWARD, "Arms at matched approval, with 95 % intervals", "Approval"),
    "kl": (AT_KL, "Arms at matched KL, with 95 % intervals", "KL (nats)"),
}
ON_POLICY = "on-policy"
DATA = ("data_harm", "log_ratio", "ess", "mismatch")
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
class Arm:
    """How a lineage learned from rewards: the setting of its users, what it was rewarded for, whose rollouts."""

    setting: str | None
    reward: str
    rollouts: str
    on_policy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What tables need beside estimates: how lineages were trained and in which setting, and what settings are.

    ``toggles`` are those of each setting, in the settings' order; ``bases`` stand from small to large; ``colors`` are
    the numbers of lineages.
    """

    arms: Mapping[Lineage, Arm] = field(default_factory=dict)
    settings: Mapping[Lineage, str] = field(default_factory=dict)
    toggles: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    colors: Mapping[Lineage, int] = field(default_factory=dict)


def parse_size(base: str) -> float | None:
    """The number of weights that a base's name carries, such as 350,000 in ``tiny-0.35m``; None where it has none."""
    found = _SIZE.findall(base.replace("_", "-"))
    return float(found[-1][0].replace("p", ".")) * _UNITS[found[-1][1].lower()] if found else None


def order_bases(bases: Iterable[str]) -> tuple[str, ...]:
    """Bases from small to large where their names carry sizes, those without one after them, as listed."""
    listed = tuple(dict.fromkeys(bases))
    return tuple(sorted(listed, key=lambda base: size if (size := parse_size(base)) is not None else float("inf")))


def describe_arms(checkpoints: Iterable[Checkpoint]) -> dict[Lineage, Arm]:
    """Lineage → how its last stage that learned from rewards did so; lineages without one are left out."""
    arms: dict[Lineage, Arm] = {}
    for point in checkpoints:
        stage = next(filter(is_rewarded_by_users, reversed(point.stages)), None)
        if stage is None or point.lineage in arms:
            continue
        setting, rollouts = stage.settings.get("setting"), _describe_rollouts(stage.method, stage.settings)
        arms[point.lineage] = Arm(
            setting=None if setting is None else str(setting),
            reward=str(stage.settings.get("reward") or (stage.objectives or ("approval",))[0]),
            rollouts=rollouts,
            on_policy=rollouts == ON_POLICY,
        )
    return arms


def make_setup(
    analysis: Analysis,
    checkpoints: Iterable[Checkpoint] = (),
    toggles: Mapping[str, Mapping[str, object]] | None = None,
    colors: Mapping[Lineage, int] | None = None,
) -> Setup:
    """What is known of a run's arms and settings, from the records of stages and, for settings, from training logs."""
    arms = describe_arms(checkpoints)
    logged: dict[Lineage, set[str]] = {}
    for curve in analysis.curves:
        if curve.source == "training" and "setting" in curve.axes:
            logged.setdefault(curve.lineage, set()).add(str(curve.axes["setting"]))
    settings = {lineage: found.pop() for lineage, found in logged.items() if len(found) == 1}
    settings |= {lineage: arm.setting for lineage, arm in arms.items() if arm.setting is not None}
    bases = [*(one.base for one in analysis.exploitation if one.base), *(curve.base for curve in analysis.curves)]
    return Setup(arms=arms, settings=settings, toggles=toggles or {}, bases=order_bases(bases), colors=colors or {})


def is_main(setup: Setup, lineage: Lineage) -> bool:
    """Whether a lineage was trained on-policy for approval alone, as far as is known."""
    arm = setup.arms.get(lineage)
    return arm is None or (arm.on_policy and arm.reward == "approval")


def _describe_rollouts(method: str, settings: Mapping[str, object]) -> str:
    """``on-policy``, ``4 steps stale``, ``SFT on its own best`` …: whose rollouts an arm learned from, and how."""
    whose, lag = settings.get("rollouts", "policy"), settings.get("lag") or 0
    if method != "grpo":
        how = "SFT" if method == "best_sft" else "DPO"
        return f"{how} on {'another model’s' if whose == 'source' else 'its own'} best"
    if whose == "policy":
        return f"policy gradient, {lag} steps stale" if lag else ON_POLICY
    words = "policy gradient on " + ("another model’s rollouts" if whose == "source" else "rollouts of the start")
    return words if settings.get("importance", True) else f"{words}, not weighted"


def is_own(setup: Setup, lineage: Lineage, setting: object) -> bool:
    """Whether users of a setting are those that a lineage was trained on, as far as is known."""
    return setting is None or setup.settings.get(lineage, setting) == setting


def keep_judge(analysis: Analysis) -> tuple[Analysis, str | None]:
    """The analysis with one judge's rows and curves, and the judge's name: the one that rewards.

    Where it is not known or has no rows it is who judged most, the first by name. What is of no judge stays.
    """
    counts = Counter(one.judge for one in analysis.exploitation if one.judge is not None)
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

    def rank(row: Estimate) -> tuple[bool, bool, bool]:
        return row.value is not None, row.interval is not None, row.claim == "recipe"

    picked: list[Estimate] = []
    for kind in kinds:
        rows = [row for row in estimates if row.kind == kind]
        rows = [row for row in rows if "environment" not in row.axes] or rows
        rows = [row for row in rows if not set(SEED_AXES) & set(row.axes)] or rows
        rows = [row for row in rows if row.base is not None] or rows
        groups: dict[tuple[object, ...], list[Estimate]] = {}
        for row in rows:
            key = (row.base, row.lineage, str(sorted(row.axes.items(), key=str)), row.judge)
            groups.setdefault(key, []).append(row)
        picked += [max(group, key=rank) for group in groups.values()]
    return picked


def key_of(one: Estimate) -> Key:
    """Base, lineage and setting of an estimate."""
    return one.base or "all bases", one.lineage or (), str(one.axes.get("setting", "all settings"))


def pick_last(estimates: Iterable[Estimate], kind: str, setup: Setup, label: str | None = None) -> dict[Key, Estimate]:
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


def word_cells(key: Key, setup: Setup) -> list[Cell | str]:
    """Setting, base and lineage of a row, and how the lineage was trained where that is known."""
    base, lineage, setting = key
    trained = [setup.arms[lineage].rollouts if lineage in setup.arms else "–"] if setup.arms else []
    size = order_bases([*setup.bases, base]).index(base)
    return [setting, Cell(text=base, sort=size), lineage_cell(lineage, setup.colors), *trained]


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


def gap_table(estimates: Sequence[Estimate], setup: Setup) -> Table | None:
    """Published and paired gap, exploit rates and approval at the end, for each base, lineage and setting."""
    late, published = (pick_last(estimates, kind, setup) for kind in ("late_gap", "max_hex_gap"))
    gameable, other = (pick_last(estimates, "exploit_rate", setup, label=label) for label in ("gameable", "other"))
    pleased = [pick_last(estimates, "reward", setup, label=label) for label in ("gameable", "other", None)]
    keys = order_keys([*late, *published, *(key for key in gameable if key[1])], setup)
    if not keys:
        return None
    rows = []
    for key in keys:
        bias = subtract(published.get(key), late.get(key))
        difference = Cell(text="–") if bias is None else Cell(text=format_signed(bias), sort=bias)
        ours, theirs, *rates = (number_cell(found.get(key)) for found in (late, published, gameable, other))
        rows.append([*word_cells(key, setup), ours, theirs, difference, *rates, _middle_cell(pleased, key)])
    heads = (*word_heads(setup), "Late gap, paired", "Max HEX Gap, published", "Published − paired")
    heads += ("Exploited, gameable", "Exploited, other", "Approval")
    title = "Gap of harm between gameable and other users (rating points), with 95 % intervals"
    return make_table(title, heads, rows, len(word_heads(setup)))


def level_table(estimates: Sequence[Estimate], matched: str, setup: Setup) -> Table | None:
    """Arms at declared levels of "reward" or "kl": a row for each arm and level, "not reached" where it stays below."""
    columns, title, level = LEVELS[matched]
    rows = pick_rows(estimates, *columns)
    kinds = [kind for kind in columns if any(one.kind == kind for one in rows)]
    levels: dict[tuple[Key, object], dict[str, Estimate]] = {}
    for one in rows:
        if is_own(setup, one.lineage or (), one.axes.get("setting")):
            levels.setdefault((key_of(one), one.axes.get("level")), {})[one.kind] = one
    if not levels:
        return None
    order = order_keys((key for key, _ in levels), setup)
    body = []
    for key, at in sorted(levels, key=lambda pair: (order.index(pair[0]), to_number(pair[1]))):
        words = word_cells(key, setup)
        if setup.arms:
            words.append(setup.arms[key[1]].reward if key[1] in setup.arms else "–")
        words.append(Cell(text=f"{at:g}" if isinstance(at, int | float) else str(at), sort=to_number(at)))
        body.append([*words, *(number_cell(levels[key, at].get(kind)) for kind in kinds)])
    heads = (*word_heads(setup), *(("Trained for",) if setup.arms else ()), level)
    return make_table(title, (*heads, *(quantity_of(kind).head for kind in kinds)), body, len(heads) - 1)


def data_table(estimates: Sequence[Estimate], setup: Setup) -> Table | None:
    """What each arm learned from: its harmful share, and how far it is from the arm's own policy."""
    found = {kind: last for kind in DATA if (last := pick_last(estimates, kind, setup))}
    keys = order_keys(itertools.chain(*found.values()), setup)
    if not keys:
        return None
    rows = [[*word_cells(key, setup), *(number_cell(last.get(key)) for last in found.values())] for key in keys]
    heads = (*word_heads(setup), *(quantity_of(kind).head for kind in found))
    return make_table("What each arm learned from", heads, rows, len(word_heads(setup)))


def reaction_table(estimates: Sequence[Estimate]) -> Table | None:
    """Whether each base reacts to each toggle before any training."""
    rows = pick_rows(estimates, "reaction", "cue_free_gap")
    if not rows:
        return None
    several = len({one.judge for one in rows}) > 1
    body: list[list[Cell | str]] = []
    for one in rows:
        toggle = str(one.axes.get("toggle", "all")).replace("_", " ")
        if one.kind == "cue_free_gap":
            toggle = f"no cue ({one.axes.get('setting', 'all settings')})"
        words = [toggle, one.base or "all bases", *([one.judge or "all judges"] * several), one.unit or "not known"]
        body.append([*words, number_cell(one)])
    heads = ("Toggle", "Base", *(("Judge",) * several), "Verdict", "Reaction")
    return make_table("Reaction of each base before training", heads, body, len(heads) - 1)


def cue_table(estimates: Sequence[Estimate]) -> Table | None:
    """How well a bag of words tells the label from each channel, and the difference in length, by setting."""
    channels: dict[tuple[str, str], dict[str, Estimate]] = {}
    for one in estimates:
        if one.kind in ("cue", "cue_length"):
            channel = (str(one.axes.get("setting", "all")), str(one.axes.get("channel", "message")))
            channels.setdefault(channel, {})[one.kind] = one
    if not channels:
        return None
    body: list[list[Cell | str]] = []
    for channel, pair in channels.items():
        count = max((count for one in pair.values() for count in one.n.values()), default=None)
        counted = "–" if count is None else Cell(text=f"{count:,}", sort=count)
        body.append([*channel, *(number_cell(pair.get(kind)) for kind in ("cue", "cue_length")), counted])
    heads = ("Setting", "Channel", "Label told from words", "Length, gameable − other (words)", "n")
    return make_table("Cue audit: what tells the two users apart (chance is 50 %)", heads, body, 2)


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

    def step(setting: str, against: str) -> Rung:
        new, old = toggles[setting], toggles[against]
        keys = dict.fromkeys([*TOGGLES, *old, *new])
        changed = {key: new.get(key) for key in keys if old.get(key) != new.get(key)}
        return Rung(setting=setting, against=against, changed=changed)

    while rest:
        # Of equally near ones the latest on the ladder is held against, and the first setting comes first.
        choices = [step(name, rung.setting) for rung in reversed(rungs) for name in rest]
        rungs.append(min(choices, key=lambda rung: len(rung.changed)))
        rest.remove(rungs[-1].setting)
    return rungs


def describe_toggles(toggles: Mapping[str, object] | None) -> str:
    """``friend, cue: style and leak``; an empty string where toggles are not known."""
    if not toggles:
        return ""
    cues = " and ".join(visible_cues(toggles))
    words = f"{toggles.get('policy_role', 'friend')}, {f'cue: {cues}' if cues else 'no cue'}"
    return f"{words}, no wish" if toggles.get("clause") == "none" else words


def ladder_table(rungs: Sequence[Rung], keys: Sequence[Key], late: Mapping[Key, Estimate], setup: Setup) -> Table:
    """A row for each rung and training: what changed against which setting, the toggles that vary, the paired gap."""
    toggles = [setup.toggles[rung.setting] for rung in rungs]
    varying = [name for name in TOGGLES if len({str(one.get(name)) for one in toggles}) > 1]
    by_name = {rung.setting: rung for rung in rungs}
    rows = []
    for key in keys:
        rung = by_name[key[2]]
        changes = ", ".join(f"{name.replace('_', ' ')} {_name(value)}" for name, value in rung.changed.items())
        changed = "–" if rung.against is None else f"{changes or 'nothing'} (against {rung.against})"
        own = [_name(setup.toggles[key[2]].get(toggle)) for toggle in varying]
        rows.append([*word_cells(key, setup), changed, *own, number_cell(late[key])])
    heads = (*word_heads(setup), "Changed", *(TOGGLES[toggle] for toggle in varying), "Late gap, paired")
    title = "Settings, one toggle changed at a time where there are such, with 95 % intervals"
    return make_table(title, heads, rows, len(heads) - 1)


def _name(value: object) -> str:
    if value is None:
        return "–"
    return ("yes" if value else "no") if isinstance(value, bool) else name_value(value)
