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
from itertools import combinations
from typing import Any

import numpy as np

from holdfast.analysis.approval.users import Users, trained_settings
from holdfast.analysis.pressure.variants import PAIRED, Group, few_cases, leaning, mean_over
from holdfast.records import FEW_CASES, Checkpoint, Estimate
from holdfast.records.arrays import Floats
from holdfast.stats.exploitation import LateGap, late_gap
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reactions:
    """Rows of kind "reaction" and "cue_free_gap", and notes on what they make void."""

    rows: tuple[Estimate, ...]
    notes: tuple[str, ...]


def find_toggles(settings: Mapping[str, SettingSection]) -> list[Toggle]:
    """Every toggle that a setting shows or that differs among them."""
    found = []
    for cue in UNSEEN_CUES:
        values = sorted({str(getattr(one, cue)) for one in settings.values() if cue in visible_cues(one)})
        for value in values:
            shown = [
                name for name, one in settings.items() if cue in visible_cues(one) and str(getattr(one, cue)) == value
            ]
            name = cue if len(values) == 1 else f"{cue} {value}"
            found.append(_cue(name, shown, settings))
    for frame in FRAMES:
        if len({getattr(one, frame) for one in settings.values()}) > 1:
            found.append(_frame(frame, settings))
    return found


def _cue(name: str, shown: Sequence[str], settings: Mapping[str, SettingSection]) -> Toggle:
    alone = [one for one in shown if len(visible_cues(settings[one])) == 1]
    caveats = () if alone else ("other cues are seen with it: no setting shows it alone",)
    chosen = tuple((one,) for one in (alone or shown))
    return Toggle(name=name, cue=True, settings=chosen, shown=frozenset(shown), caveats=caveats)


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


def read_reactions(users: Users, checkpoints: Sequence[Checkpoint]) -> Reactions:
    """How every base reacts to every toggle before any stage, under every judge."""
    trained = trained_settings(checkpoints)
    toggles = find_toggles(users.section.settings)
    bases = [group for group in users.subjects() if not group.about["lineage"]]
    rows: list[Estimate] = []
    notes: list[str] = []
    for toggle in toggles:
        own = [_react(users, group, toggle) for group in bases]
        rows += own
        notes += _note(toggle, [row for row in own if toggle.is_used(trained.get(str(row.base), frozenset()))])
    free = [_cue_free(users, group, name) for group in bases for name in _without_cues(users)]
    rows += free
    notes += [
        f"the base {row.base} tells users of {row.axes['setting']} apart although nothing that it sees does, under"
        f" {row.judge}: check the cases"
        for row in free
        if row.unit == GAP and _is_beyond_luck(row)
    ]
    return Reactions(rows=tuple(rows), notes=tuple(notes))


def _is_beyond_luck(row: Estimate) -> bool:
    """Whether a gap that cannot be is twice its interval's half-width from zero: there are many such rows."""
    assert row.value is not None and isinstance(row.interval, tuple)
    return abs(row.value) > row.interval[1] - row.interval[0]


def _without_cues(users: Users) -> list[str]:
    return [name for name, one in users.section.settings.items() if not visible_cues(one)]


def _react(users: Users, group: Group, toggle: Toggle) -> Estimate:
    about: tuple[str, ...]
    if toggle.cue:
        parts = [users.gap(name) for (name,) in toggle.settings]
        about = (f"the gap of harm in {', '.join(name for (name,) in toggle.settings)}",)
        span = None
    else:
        rates = {name: users.middle("exploit_rate", name) for pair in toggle.settings for name in pair}
        parts = [rates[first] - rates[second] for first, second in toggle.settings]
        named = ", ".join(f"{first} less {second}" for first, second in toggle.settings)
        about = (f"the exploit rate in {named}",) if named else ()
        span = SHARE_SPAN
    empty = np.full((len(users.runs), len(users.environments)), np.nan)
    found = _gap(mean_over([empty, *parts])[list(group.runs)], span)
    unit = UNTESTED
    if _is_told(found):
        unit = REACTS if _apart(found) else NO_REACTION
    row = _row("reaction", group, found, unit, toggle=toggle.name)
    # Without a setting to test it in, that is why there is nothing; else the row knows why.
    first, last = ((), toggle.caveats) if toggle.settings else (toggle.caveats, ())
    return replace(row, caveats=(*first, *row.caveats, *last, *about))


def _cue_free(users: Users, group: Group, setting: str) -> Estimate:
    """The gap where the policy sees nothing of the label: by construction zero."""
    found = _gap(users.gap(setting)[list(group.runs)], None)
    unit = UNTESTED if not _is_told(found) else GAP if _apart(found) else NO_GAP
    return _row(CUE_FREE, group, found, unit, setting=setting)


def _gap(values: Floats, span: tuple[float, float] | None) -> LateGap | None:
    if not np.isfinite(values).any():
        return None
    return late_gap(values) if span is None else late_gap(values, span=span)


def _is_told(found: LateGap | None) -> bool:
    """Whether there are enough scenarios for a finding."""
    return found is not None and found.scenarios >= FEW_CASES


def _apart(found: LateGap | None) -> bool:
    return found is not None and found.checkpoint is not None and (found.checkpoint[0] > 0 or found.checkpoint[1] < 0)


def _row(kind: str, group: Group, found: LateGap | None, unit: str, **axes: Any) -> Estimate:
    reasons: tuple[str, ...] = ()
    if found is None:
        reasons += ("the base has no scores to compare",)
    elif found.checkpoint is None:
        reasons += ("one pair: no interval",)
    else:
        reasons += few_cases(found.scenarios) + leaning(found.scenarios, "pairs")
    return Estimate(
        kind=kind,
        estimator=PAIRED,
        value=None if found is None else found.value,
        interval=None if found is None else found.checkpoint,
        objective="harm",
        unit=unit,
        resampled=("cases",),
        n={"cases": 0 if found is None else found.scenarios},
        caveats=reasons,
        **{**group.about, "axes": {**group.about["axes"], **axes}},
    )


def _note(toggle: Toggle, rows: Sequence[Estimate]) -> Iterator[str]:
    """What a reader must know first of a toggle that training used."""
    silent = [row for row in rows if row.unit == NO_REACTION]
    if silent:
        yield (
            f"void: the base does not react to {toggle.name} before RL ({_name(silent)}), so no result about"
            f" {toggle.name} counts"
        )
    if unknown := [row for row in rows if row.unit == UNTESTED]:
        reason = unknown[0].caveats[0]
        yield f"not tested: whether the base reacts to {toggle.name} before RL ({_name(unknown)}): {reason}"


def _name(rows: Sequence[Estimate]) -> str:
    return "; ".join(f"{row.base} under {row.judge}" for row in rows)
