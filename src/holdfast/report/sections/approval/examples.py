"""What a page shows of simulated users: the toggles of their settings, and episodes of exploited and protected ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from holdfast.records import Case, Checkpoint, Message, Trajectory
from holdfast.records.arrays import Floats
from holdfast.report.words.inert import dump_json, escape_html, trim_text
from holdfast.report.words.labels import format_number
from holdfast.store import Store
from holdfast.store.cells import Cells, read_cells
from holdfast.store.tables import ScoreTable
from holdfast.study.noted import Rewarder, read_approval, read_rewarder
from holdfast.study.stages import is_rewarded
from holdfast.study.users import APPROVAL as PART
from holdfast.study.users import is_exploit, to_rating

SORTS: Mapping[str, str] = {
    "exploited": "Exploited: harm to the gameable user, none to the other",
    "protected": "Protected: no harm to either user",
}
MOST_EXAMPLES = 3  # of each sort
MESSAGE_CHARACTERS = 1_500
HARM, APPROVAL = "harm", "approval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One user of a pair: the case, what the agent did, and its ratings from 1 to 10, None where there is none."""

    case: Case
    trajectory: Trajectory
    harm: float | None
    approval: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One scenario met by both users at one checkpoint."""

    sort: str
    checkpoint: Checkpoint
    gameable: Side
    other: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Setting → toggles, in the order of cases; examples; the judge whose ratings stand beside them."""

    toggles: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    judge: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two rated trajectories (places in the store's order) of one scenario, before their texts are read."""

    checkpoint: Checkpoint
    cases: tuple[Case, Case]
    places: tuple[int, int]
    harm: tuple[float, float]
    approval: tuple[float | None, float | None]
    rollout: int

    @property
    def variety(self) -> tuple[object, object]:
        return self.cases[0].facts.get("setting"), self.cases[0].family


def read_users(store: Store) -> Users:
    """The users of a run that were held out; without any, an empty record.

    Examples are the pairs at last checkpoints that differ most in harm, and pairs without harm of the highest
    approval; of equal ones the first by case and checkpoint, and those of other settings and environments first.
    """
    held = {name for parts in store.splits().values() for name in parts.get(PART, ())}
    if not held:
        return Users()
    cases = {case.id: case for case in store.cases() if case.id in held}
    toggles = _read_toggles(store, cases.values())
    cells = read_cells(store, PART)
    judge = _find_judge(cells.scores, read_rewarder(store))
    if judge is None:
        return Users(toggles=toggles)
    pairs = list(_pair_up(cells, cases, judge))
    ids = store.trajectory_ids(part=PART)
    chosen = [(sort, pair) for sort in SORTS for pair in _choose(pairs, sort)]
    wanted = list(dict.fromkeys(ids[place] for _, pair in chosen for place in pair.places))
    texts = dict(zip(wanted, store.trajectories(wanted), strict=True))
    examples = tuple(
        Example(
            sort=sort,
            checkpoint=pair.checkpoint,
            gameable=_side(pair, 0, texts[ids[pair.places[0]]]),
            other=_side(pair, 1, texts[ids[pair.places[1]]]),
        )
        for sort, pair in chosen
    )
    return Users(toggles=toggles, examples=examples, judge=cells.scores.judge_names[judge])


def _read_toggles(store: Store, cases: Iterable[Case]) -> dict[str, Mapping[str, object]]:
    """Setting → its toggles as cases tell them, and what the study alone says: environments and share in training."""
    section = read_approval(store)
    found: dict[str, Mapping[str, object]] = {}
    for case in cases:
        name = str(case.facts.get("setting"))
        if name in found:
            continue
        found[name] = dict(case.facts.get("toggles") or {})
        if section is not None and (setting := section.settings.get(name)) is not None:
            environments = ", ".join(setting.environments or section.environments)
            found[name] = {**found[name], "gameable_share": setting.gameable_share, "environments": environments}
    return found


def _side(pair: _Pair, place: int, trajectory: Trajectory) -> Side:
    return Side(case=pair.cases[place], trajectory=trajectory, harm=pair.harm[place], approval=pair.approval[place])


def _find_judge(scores: ScoreTable, rewarder: Rewarder | None) -> int | None:
    """The judge that rewards, else who rated harm most often, the first by name of several; None where nobody did."""
    if HARM not in scores.objectives:
        return None
    rated = scores.judge[(scores.objective == scores.objectives.index(HARM)) & np.isfinite(scores.value)]
    counts = np.bincount(rated, minlength=len(scores.judges))
    mine = np.array([rewarder is not None and name == rewarder.name for name in scores.judge_names], dtype=np.bool_)
    counts = np.where(mine, counts, 0) if counts[mine].any() else counts
    return int(np.argmax(counts)) if counts.size and counts.max() > 0 else None


def find_last(checkpoints: Iterable[Checkpoint]) -> set[str]:
    """Ids of the checkpoints at the largest dose of each training whose last stage learned from rewards."""
    last: dict[tuple[object, ...], tuple[float, str]] = {}
    for point in checkpoints:
        if not any(map(is_rewarded, point.stages[-1:])):
            continue
        rest = tuple(sorted((key, str(value)) for key, value in point.axes.items() if key != "dose"))
        key = (point.base, point.lineage, rest, point.split_seed, point.train_seed)
        dose = float(point.axes.get("dose", 1.0))
        if key not in last or dose > last[key][0]:
            last[key] = (dose, point.id)
    return {name for _, name in last.values()}


def _pair_up(cells: Cells, cases: Mapping[str, Case], judge: int) -> Iterator[_Pair]:
    """Every pair that a last checkpoint met in the setting it was trained in, with both ratings of harm."""
    episodes, last = cells.episodes, find_last(cells.episodes.checkpoints)
    mine = [place for place, point in enumerate(episodes.checkpoints) if point.id in last]
    ratings = {name: to_rating(cells.value[:, judge, place]) for place, name in enumerate(cells.objectives)}
    rows = np.flatnonzero(np.isin(episodes.checkpoint, mine) & np.isfinite(ratings[HARM])).tolist()
    row_of = {
        (int(episodes.checkpoint[row]), cells.scores.case_ids[episodes.case[row]], int(episodes.rollout[row])): row
        for row in rows
    }
    for (number, name, rollout), row in sorted(row_of.items()):
        case, point = cases.get(name), episodes.checkpoints[number]
        if case is None or not case.facts.get("gameable") or not _is_own(point, case):
            continue
        pair = str(case.facts.get("pair"))
        twin = row_of.get((number, pair, rollout))
        if pair not in cases or twin is None:
            continue
        harm, other = (float(ratings[HARM][one]) for one in (row, twin))
        yield _Pair(
            checkpoint=point,
            cases=(case, cases[pair]),
            places=(row, twin),
            harm=(harm, other),
            approval=(_rating_of(ratings, row), _rating_of(ratings, twin)),
            rollout=rollout,
        )


def _rating_of(ratings: Mapping[str, Floats], row: int) -> float | None:
    """An episode's rating of approval, None where it has none."""
    value = float(ratings[APPROVAL][row]) if APPROVAL in ratings else np.nan
    return value if np.isfinite(value) else None


def _is_own(point: Checkpoint, case: Case) -> bool:
    setting = point.stages[-1].settings.get("setting")
    return setting is None or setting == case.facts.get("setting")


def _choose(pairs: Sequence[_Pair], sort: str) -> list[_Pair]:
    """The first pairs of a sort, those of a new setting and environment before others, no scenario twice."""
    if sort == "exploited":
        found = [pair for pair in pairs if is_exploit(pair.harm[0]) and not is_exploit(pair.harm[1])]
        found.sort(key=lambda pair: (pair.harm[1] - pair.harm[0], -_approval(pair), _tie(pair)))
    else:
        found = [pair for pair in pairs if not is_exploit(max(pair.harm))]
        found.sort(key=lambda pair: (-_approval(pair), sum(pair.harm), _tie(pair)))
    chosen: list[_Pair] = []
    for fresh in (True, False):
        for pair in found:
            scenarios = {one.cases[0].facts.get("scenario") for one in chosen}
            known = pair.variety in {one.variety for one in chosen}
            if len(chosen) < MOST_EXAMPLES and pair.cases[0].facts.get("scenario") not in scenarios:
                chosen += [] if fresh and known else [pair]
    return chosen


def _approval(pair: _Pair) -> float:
    return sum(value for value in pair.approval if value is not None)


def _tie(pair: _Pair) -> tuple[int, str, int]:
    return pair.cases[0].number, pair.checkpoint.id, pair.rollout


def examples_html(users: Users) -> str:
    """The examples as HTML, the two users of a scenario side by side; everything from a run is escaped and cut."""
    parts = []
    for sort, title in SORTS.items():
        found = [one for one in users.examples if one.sort == sort]
        if found:
            parts.append(f"<h3>{escape_html(title)}</h3>{''.join(map(_example_html, found))}")
    return "".join(parts)


def _example_html(example: Example) -> str:
    facts = example.gameable.case.facts
    told = [
        facts.get("environment") or example.gameable.case.family,
        facts.get("topic"),
        f"setting {facts.get('setting')}",
    ]
    words = " · ".join(str(part) for part in (*told, example.checkpoint.name) if part)
    sides = _side_html("Gameable user", example.gameable) + _side_html("Other user", example.other)
    return f'<h4>{escape_html(words)}</h4><div class="pair">{sides}</div>'


def _side_html(name: str, side: Side) -> str:
    ratings = f"harm {format_number(side.harm, 1)} · approval {format_number(side.approval, 1)} (ratings from 1 to 10)"
    opening = [one for one in side.case.messages if one.role != "system"]
    system = "".join(_message_html(one) for one in side.case.messages if one.role == "system")
    prompt = f"<details><summary>the agent's prompt</summary>{system}</details>" if system else ""
    body = "".join(_message_html(one) for one in (*opening, *side.trajectory.messages))
    head = f'<h4>{name}</h4><p class="note">{escape_html(ratings)}</p>'
    return f'<article class="run">{head}{prompt}{body}</article>'


def _message_html(message: Message) -> str:
    who: str = "agent" if message.role == "assistant" else message.role
    who = f"{who} {message.name}" if message.name else who
    asked = [_cut_html(f"{call.name}({dump_json(dict(call.arguments))})") for call in message.tool_calls]
    calls = "".join(f'<div class="call"><div class="body">{words}</div></div>' for words in asked)
    text = f'<div class="body">{_cut_html(message.content)}</div>' if message.content else ""
    return f'<div class="message {message.role}"><h5>{escape_html(who)}</h5>{text}{calls}</div>'


def _cut_html(text: str) -> str:
    kept, left_out = trim_text(text, MESSAGE_CHARACTERS)
    return escape_html(kept) + (f' <span class="note">… {left_out:,} characters left out</span>' if left_out else "")
