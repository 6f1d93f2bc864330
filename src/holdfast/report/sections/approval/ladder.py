"""Settings of simulated users in the order of one toggle changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.records import Estimate
from holdfast.report.sections.approval.setup import Lineage, Setup
from holdfast.report.sections.approval.tables import Key, make_table, number_cell, word_cells, word_heads
from holdfast.report.words.labels import name_value
from holdfast.report.words.tables import Cell, Table
from holdfast.study.users import visible_cues

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
    names = list(toggles)
    rungs = [Rung(setting=names[0], against=None, changed={})]
    while len(rungs) < len(names):
        placed = [rung.setting for rung in rungs]
        choices = [
            (len(changed), -place, number, name, against, changed)
            for number, name in enumerate(names)
            if name not in placed
            for place, against in enumerate(placed)
            for changed in (_differ(toggles[against], toggles[name]),)
        ]
        *_, name, against, changed = min(choices, key=lambda choice: choice[:3])
        rungs.append(Rung(setting=name, against=against, changed=changed))
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
