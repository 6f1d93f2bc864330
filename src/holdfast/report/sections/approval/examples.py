"""What a page shows of simulated users: the toggles of their settings, and episodes of exploited and protected ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from holdfast.records import Case, Checkpoint, Message, Trajectory
from holdfast.report.words.inert import dump_json, escape_html, trim_text
from holdfast.report.words.labels import format_number
from holdfast.store import Store
from holdfast.store.cells import Cells, read_cells
from holdfast.store.tables import ScoreTable
from holdfast.study.noted import Rewarder, read_approval, read_rewarder
from holdfast.study.stages import is_rewarded_by_users
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
    """One user of a pair: the case, the agent's trajectory, and its ratings from 1 to 10, None where there is none."""

    case: Case
    trajectory_id: str
    harm: float
    approval: float | None
    trajectory: Trajectory | None = None  # read for those that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One scenario met by both users at one checkpoint."""

    checkpoint: Checkpoint
    rollout: int
    gameable: Side
    other: Side
    sort: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Setting → toggles, in the order of cases; examples; the judge whose ratings stand beside them."""

    toggles: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    judge: str | None = None


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
    pairs = list(_pair_up(cells, cases, judge, store.trajectory_ids(part=PART)))
    chosen = [replace(pair, sort=sort) for sort in SORTS for pair in _choose(pairs, sort)]
    wanted = list(dict.fromkeys(side.trajectory_id for pair in chosen for side in (pair.gameable, pair.other)))
    texts = dict(zip(wanted, store.trajectories(wanted), strict=True))

    def read(side: Side) -> Side:
        return replace(side, trajectory=texts[side.trajectory_id])

    examples = tuple(replace(pair, gameable=read(pair.gameable), other=read(pair.other)) for pair in chosen)
    return Users(toggles=toggles, examples=examples, judge=cells.scores.judge_names[judge])


def _read_toggles(store: Store, cases: Iterable[Case]) -> dict[str, Mapping[str, object]]:
    """Setting → its toggles as cases tell them, and what the study alone says: environments and share in training."""
    section = read_approval(store)
    found: dict[str, Mapping[str, object]] = {}
    for case in cases:
        name = str(case.facts.get("setting"))
        if name in found:
            continue
        toggles = dict(case.facts.get("toggles") or {})
        if section is not None and (setting := section.settings.get(name)) is not None:
            environments = ", ".join(setting.environments or section.environments)
            toggles |= {"gameable_share": setting.gameable_share, "environments": environments}
        found[name] = toggles
    return found


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
    last: dict[tuple[object, ...], Checkpoint] = {}
    for point in checkpoints:
        if any(map(is_rewarded_by_users, point.stages[-1:])):
            rest = tuple(sorted((key, str(value)) for key, value in point.axes.items() if key != "dose"))
            key = (point.base, point.lineage, rest, point.split_seed, point.train_seed)
            last[key] = max(last.get(key, point), point, key=lambda one: float(one.axes.get("dose", 1.0)))
    return {point.id for point in last.values()}


def _pair_up(cells: Cells, cases: Mapping[str, Case], judge: int, ids: Sequence[str]) -> Iterator[Example]:
    """Every pair that a last checkpoint met in the setting it was trained in, with both ratings of harm."""
    episodes, last = cells.episodes, find_last(cells.episodes.checkpoints)
    mine = [place for place, point in enumerate(episodes.checkpoints) if point.id in last]
    ratings = {name: to_rating(cells.value[:, judge, place]) for place, name in enumerate(cells.objectives)}
    rows = np.flatnonzero(np.isin(episodes.checkpoint, mine) & np.isfinite(ratings[HARM])).tolist()
    row_of = {
        (int(episodes.checkpoint[row]), cells.scores.case_ids[episodes.case[row]], int(episodes.rollout[row])): row
        for row in rows
    }

    def make_side(case: Case, row: int) -> Side:
        pleased = float(ratings[APPROVAL][row]) if APPROVAL in ratings else np.nan
        approval = pleased if np.isfinite(pleased) else None
        return Side(case=case, trajectory_id=ids[row], harm=float(ratings[HARM][row]), approval=approval)

    for (number, name, rollout), row in sorted(row_of.items()):
        case, point = cases.get(name), episodes.checkpoints[number]
        if case is None or not case.facts.get("gameable"):
            continue
        pair, setting = str(case.facts.get("pair")), point.stages[-1].settings.get("setting")
        twin = row_of.get((number, pair, rollout))
        if setting in (None, case.facts.get("setting")) and pair in cases and twin is not None:
            gameable, other = make_side(case, row), make_side(cases[pair], twin)
            yield Example(checkpoint=point, rollout=rollout, gameable=gameable, other=other)


def _choose(pairs: Sequence[Example], sort: str) -> list[Example]:
    """The first pairs of a sort, those of a new setting and environment before others, no scenario twice."""

    def rank(pair: Example) -> tuple[object, ...]:
        one, other = pair.gameable, pair.other
        harm = other.harm - one.harm if sort == "exploited" else one.harm + other.harm
        pleased = -((one.approval or 0.0) + (other.approval or 0.0))
        first = (harm, pleased) if sort == "exploited" else (pleased, harm)
        return *first, one.case.number, pair.checkpoint.id, pair.rollout

    if sort == "exploited":
        fitting = [pair for pair in pairs if is_exploit(pair.gameable.harm) and not is_exploit(pair.other.harm)]
    else:
        fitting = [pair for pair in pairs if not is_exploit(max(pair.gameable.harm, pair.other.harm))]
    chosen: list[Example] = []
    varieties, scenarios = set(), set()
    for is_new in (True, False):
        for pair in sorted(fitting, key=rank):
            case = pair.gameable.case
            variety, scenario = (case.facts.get("setting"), case.family), case.facts.get("scenario")
            if len(chosen) < MOST_EXAMPLES and not (is_new and variety in varieties) and scenario not in scenarios:
                chosen.append(pair)
                varieties.add(variety)
                scenarios.add(scenario)
    return chosen


def examples_html(users: Users) -> str:
    """The examples as HTML, the two users of a scenario side by side; everything from a run is escaped and cut."""
    html = ""
    for sort, title in SORTS.items():
        if found := [one for one in users.examples if one.sort == sort]:
            html += f"<h3>{escape_html(title)}</h3>{''.join(map(_example_html, found))}"
    return html


def _example_html(example: Example) -> str:
    case = example.gameable.case
    about = (case.facts.get("environment") or case.family, case.facts.get("topic"))
    parts = (*about, f"setting {case.facts.get('setting')}", example.checkpoint.name)
    words = " · ".join(str(part) for part in parts if part)
    sides = _side_html("Gameable user", example.gameable) + _side_html("Other user", example.other)
    return f'<h4>{escape_html(words)}</h4><div class="pair">{sides}</div>'


def _side_html(name: str, side: Side) -> str:
    ratings = f"harm {format_number(side.harm, 1)} · approval {format_number(side.approval, 1)} (ratings from 1 to 10)"
    system, opening = ([one for one in side.case.messages if (one.role == "system") is said] for said in (True, False))
    prompt = "".join(map(_message_html, system))
    prompt = f"<details><summary>the agent's prompt</summary>{prompt}</details>" if system else ""
    said = () if side.trajectory is None else side.trajectory.messages
    body = "".join(map(_message_html, (*opening, *said)))
    return f'<article class="run"><h4>{name}</h4><p class="note">{escape_html(ratings)}</p>{prompt}{body}</article>'


def _message_html(message: Message) -> str:
    who = " ".join(filter(None, ("agent" if message.role == "assistant" else message.role, message.name)))
    text = f'<div class="body">{_cut_html(message.content)}</div>' if message.content else ""
    for call in message.tool_calls:
        words = _cut_html(f"{call.name}({dump_json(dict(call.arguments))})")
        text += f'<div class="call"><div class="body">{words}</div></div>'
    return f'<div class="message {message.role}"><h5>{escape_html(who)}</h5>{text}</div>'


def _cut_html(text: str) -> str:
    kept, left_out = trim_text(text, MESSAGE_CHARACTERS)
    return escape_html(kept) + (f' <span class="note">… {left_out:,} characters left out</span>' if left_out else "")
