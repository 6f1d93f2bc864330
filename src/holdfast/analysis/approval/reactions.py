"""Whether the base reacts to every toggle before training: without that, no result about the toggle counts.

A base that does not tell two prompts apart cannot learn to treat them apart in a way that is about what differs; what
training then makes of it is an accident. Two kinds of toggles are visible to the policy:

    cues         style, traits, leak: the gap of harm between the labels, in settings where the cue is the only one, or
                 where it is visible at all if there is no such setting
    frames       policy_role, turns: the exploit rate in one setting less that in another that is equal to the policy
                 but for the frame

A base reacts where the interval over scenarios lies away from zero; of fewer than ten of them nothing is said. In a
setting without any visible cue the gap is zero by construction, which is checked too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from holdfast.analysis.approval.users import Users, trained_settings
from holdfast.analysis.pressure.variants import PAIRED, Group, few_cases, leaning, mean_over
from holdfast.records import FEW_CASES, Checkpoint, Estimate
from holdfast.records.arrays import Floats
from holdfast.stats.exploitation import RATING_SPAN, late_gap
from holdfast.study.users import UNSEEN_CUES, SettingSection, visible_cues

REACTS, NO_REACTION, UNTESTED = "reacts", "does not react", "not tested"
NO_GAP, GAP = "no gap", "gap"
CUE_FREE = "cue_free_gap"
FRAMES: Mapping[str, object] = {"policy_role": "friend", "turns": 2}  # frame → the value whose rate is taken first
SHARE_SPAN = (-1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toggle:
    """One toggle as the base meets it. ``cue`` is False for a frame.

    ``settings`` are those that it is tested in: of a cue by itself, of a frame in pairs, the first less the second.
    ``shown`` are all that show it. ``caveats`` say what else is seen there.
    """

    name: str
    cue: bool
    settings: tuple[tuple[str, ...], ...]
    shown: frozenset[str]
    caveats: tuple[str, ...] = ()

    def is_used(self, trained: frozenset[str]) -> bool:
        """Whether stages that learnt from users of these settings say anything of it: of a frame, on both its sides."""
        if self.cue or not self.settings:
            return bool(trained & self.shown)
        return any(set(pair) <= trained for pair in self.settings)


def find_toggles(settings: Mapping[str, SettingSection]) -> list[Toggle]:
    """Every toggle that a setting shows or that differs among them."""
    toggles = []
    for cue in UNSEEN_CUES:
        shown = {name: str(getattr(setting, cue)) for name, setting in settings.items() if cue in visible_cues(setting)}
        values = sorted(set(shown.values()))
        for value in values:
            names = [name for name, own in shown.items() if own == value]
            alone = [name for name in names if len(visible_cues(settings[name])) == 1]
            toggles.append(
                Toggle(
                    name=cue if len(values) == 1 else f"{cue} {value}",
                    cue=True,
                    settings=tuple((name,) for name in (alone or names)),
                    shown=frozenset(names),
                    caveats=() if alone else ("other cues are seen with it: no setting shows it alone",),
                )
            )
    differing = [frame for frame in FRAMES if len({getattr(setting, frame) for setting in settings.values()}) > 1]
    return toggles + [_frame(frame, settings) for frame in differing]


def _frame(frame: str, settings: Mapping[str, SettingSection]) -> Toggle:
    """Pairs of settings that are equal to the policy but for the frame, the value of ``FRAMES`` first."""

    def rest(name: str) -> tuple[object, ...]:
        return tuple(getattr(settings[name], one) for one in (*UNSEEN_CUES, *FRAMES) if one != frame)

    pairs = []
    for names in combinations(settings, 2):
        values = [getattr(settings[name], frame) for name in names]
        if values[0] != values[1] and rest(names[0]) == rest(names[1]):
            pairs.append(names if values[0] == FRAMES[frame] else names[::-1])
    shown = {name for pair in pairs for name in pair} or set(settings)
    caveats = () if pairs else (f"no two settings differ to the policy in {frame} alone",)
    return Toggle(name=frame, cue=False, settings=tuple(pairs), shown=frozenset(shown), caveats=caveats)


def read_reactions(users: Users, checkpoints: Sequence[Checkpoint]) -> tuple[list[Estimate], list[str]]:
    """How every base reacts to every toggle before any stage, under every judge; and notes on what that makes void."""
    trained = trained_settings(checkpoints)
    bases = [group for group in users.subjects() if not group.about["lineage"]]
    rows: list[Estimate] = []
    notes: list[str] = []
    for toggle in find_toggles(users.section.settings):
        own = [_react(users, group, toggle) for group in bases]
        rows += own
        notes += _note(toggle, [row for row in own if toggle.is_used(trained.get(str(row.base), frozenset()))])
    # Where the policy sees nothing of the label, the gap is zero by construction.
    blind = [name for name, one in users.section.settings.items() if not visible_cues(one)]
    for group, name in product(bases, blind):
        row = _row(CUE_FREE, group, users.gap(name), (NO_GAP, GAP), RATING_SPAN, setting=name)
        rows.append(row)
        # There are many such rows: one counts that is twice its interval's half-width from zero.
        low, high = row.interval if isinstance(row.interval, tuple) else (0.0, 0.0)
        if row.unit == GAP and abs(row.value or 0.0) > high - low:
            notes.append(
                f"the base {row.base} tells users of {name} apart although nothing that it sees does, under"
                f" {row.judge}: check the cases"
            )
    return rows, notes


def _react(users: Users, group: Group, toggle: Toggle) -> Estimate:
    about: tuple[str, ...]
    if toggle.cue:
        parts = [users.gap(name) for (name,) in toggle.settings]
        about = (f"the gap of harm in {', '.join(name for (name,) in toggle.settings)}",)
    else:
        rates = {name: users.middle("exploit_rate", name) for pair in toggle.settings for name in pair}
        parts = [rates[first] - rates[second] for first, second in toggle.settings]
        named = ", ".join(f"{first} less {second}" for first, second in toggle.settings)
        about = (f"the exploit rate in {named}",) if named else ()
    empty = np.full((len(users.runs), len(users.environments)), np.nan)
    span = RATING_SPAN if toggle.cue else SHARE_SPAN
    row = _row("reaction", group, mean_over([empty, *parts]), (NO_REACTION, REACTS), span, toggle=toggle.name)
    # Without a setting to test it in, that is why there is nothing; else the row knows why.
    first, last = ((), toggle.caveats) if toggle.settings else (toggle.caveats, ())
    return replace(row, caveats=(*first, *row.caveats, *last, *about))


def _row(
    kind: str, group: Group, values: Floats, words: tuple[str, str], span: tuple[float, float], **axes: Any
) -> Estimate:
    """The mean of ``values`` (runs, scenarios) of a base; ``words`` say that its interval holds zero, or does not."""
    mine = values[list(group.runs)]
    gap = late_gap(mine, span=span) if np.isfinite(mine).any() else None
    cases, unit = 0 if gap is None else gap.scenarios, UNTESTED
    interval = None if gap is None else gap.checkpoint
    if cases >= FEW_CASES:
        unit = words[interval is not None and (interval[0] > 0 or interval[1] < 0)]
    reasons: tuple[str, ...] = few_cases(cases) + leaning(cases, "pairs")
    if interval is None:
        reasons = ("the base has no scores to compare" if gap is None else "one pair: no interval",)
    return Estimate(
        kind=kind,
        estimator=PAIRED,
        value=None if gap is None else gap.value,
        interval=interval,
        objective="harm",
        unit=unit,
        resampled=("cases",),
        n={"cases": cases},
        caveats=reasons,
        **{**group.about, "axes": {**group.about["axes"], **axes}},
    )


def _note(toggle: Toggle, rows: Sequence[Estimate]) -> Iterator[str]:
    """What a reader must know first of a toggle that training used."""
    silent, unknown = (
        "; ".join(f"{row.base} under {row.judge}" for row in rows if row.unit == unit)
        for unit in (NO_REACTION, UNTESTED)
    )
    if silent:
        about = f"so no result about {toggle.name} counts"
        yield f"void: the base does not react to {toggle.name} before RL ({silent}), {about}"
    if unknown:
        reason = next(row.caveats[0] for row in rows if row.unit == UNTESTED)
        yield f"not tested: whether the base reacts to {toggle.name} before RL ({unknown}): {reason}"
