"""Whether what is asked, and what the agent does, has changed: shares of families, tools, words and lengths.

The distance of two mixes is the total variation distance: half the sum of the absolute differences of their shares,
0 for the same mix and 1 for nothing in common. Its p-value is the share of random relabellings of cases that give at
least this distance (all episodes of one case move together). Beside it stands what such a comparison could have seen
at all: the smallest share of the cases that, had they been of a kind which the baseline has none of, four looks in five
would have shown. Changes of another sort (the same words, asked for worse ends) may be larger and not be seen. Words
count by a hash in one of ``WORD_BINS`` bins, so that nothing of a text leaves here.
"""

from __future__ import annotations

import hashlib
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.records import Case, Trajectory
from holdfast.records.arrays import Floats

WORD_BINS = 64
PERMUTATIONS = 999
MIX_P = 0.01  # a change of a mix is told at or below it
SEEN_SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
SEEN_DRAWS, SEEN_POWER, SEEN_PERMUTATIONS = 50, 0.8, 299
MOST_CASES = 4000  # of one side that are compared
MOST_TOOLS = 12  # that are shown
NO_TOOL = "(none)"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is compared of one episode: no text is among it."""

    case: str
    family: str
    model: str
    offered: tuple[str, ...]
    tools: tuple[str, ...]
    words: tuple[int, ...]
    request_length: int
    episode_length: int


Kind = Literal["requests", "conduct"]
Reader = Callable[[Features], Sequence[Any]]
"""What of an episode is counted in one respect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixChange:
    """The distance of two mixes in one respect, with its permutation p-value; both None where a side is empty.

    ``of`` says whether the respect is one of the requests or of what the agent made of them. ``seen`` is the smallest
    share of cases of a new kind that four such comparisons in five would show; None where not even all of them would.
    """

    what: str
    of: Kind
    distance: float | None
    p: float | None
    seen: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What changed between two sets of episodes. ``tools`` has the share of episodes that used each, before and now."""

    before: int
    now: int
    changes: tuple[MixChange, ...]
    tools: tuple[tuple[str, float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        tools = [{"tool": name, "before": old, "now": new} for name, old, new in self.tools]
        return {**asdict(self), "tools": tools}


def describe_episode(case: Case, trajectory: Trajectory) -> Features:
    """What is compared of an episode."""
    request = next((message.content for message in case.messages if message.role == "user"), "")
    words = {
        int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:4], "big") % WORD_BINS
        for word in _WORD.findall(request.lower()[:20_000])
    }
    return Features(
        case=case.id,
        family=case.family,
        model=str((trajectory.detail or {}).get("model") or ""),
        offered=tuple(sorted({tool.name for tool in case.tools})),
        tools=tuple(call.name for message in trajectory.messages for call in message.tool_calls),
        words=tuple(sorted(words)),
        request_length=sum(len(message.content) for message in case.messages),
        episode_length=sum(len(message.content) for message in trajectory.messages),
    )


def compare_mixes(before: Sequence[Features], now: Sequence[Features], rng: np.random.Generator) -> Mix:
    """What changed between two sets of episodes, in each respect."""
    respects: list[tuple[str, Kind, Reader]] = [
        ("families", "requests", lambda episode: (episode.family,)),
        ("words", "requests", lambda episode: episode.words),
        ("length", "requests", lambda episode: (_length_bin(episode.request_length),)),
    ]
    if any(episode.offered for episode in (*before, *now)):
        respects.append(("tools offered", "requests", lambda episode: episode.offered or (NO_TOOL,)))
    respects += [
        ("tools used", "conduct", lambda episode: episode.tools or (NO_TOOL,)),
        ("length of the episode", "conduct", lambda episode: (_length_bin(episode.episode_length),)),
    ]
    if any(episode.model for episode in before) and any(episode.model for episode in now):
        respects.append(("models", "conduct", lambda episode: (episode.model,)))
    changes = tuple(_compare(name, of, read, (before, now), rng) for name, of, read in respects)
    return Mix(before=len(before), now=len(now), changes=changes, tools=_tool_shares(before, now))


def _length_bin(characters: int) -> int:
    """A length's bin: each is √2 as wide as the one before, the same for every look."""
    return int(2 * math.log2(characters + 1))


def _tool_shares(before: Sequence[Features], now: Sequence[Features]) -> tuple[tuple[str, float, float], ...]:
    counts = [Counter(name for one in side for name in set(one.tools) or {NO_TOOL}) for side in (before, now)]
    sizes = [max(1, len(before)), max(1, len(now))]
    shares = {name: (counts[0][name] / sizes[0], counts[1][name] / sizes[1]) for name in counts[0] | counts[1]}
    order = sorted(shares, key=lambda name: (-max(shares[name]), name))
    return tuple((name, *shares[name]) for name in order[:MOST_TOOLS])


def _compare(
    what: str, of: Kind, read: Reader, both: Sequence[Sequence[Features]], rng: np.random.Generator
) -> MixChange:
    """Distance, p-value and the smallest share that would be seen, in one respect."""
    names: dict[Any, int] = {}
    sides = [_by_case(side, read, names, rng) for side in both]
    if not names or not sides[0] or not sides[1]:
        return MixChange(what=what, of=of, distance=None, p=None)
    rows = np.zeros((len(sides[0]) + len(sides[1]), len(names)))
    for number, counts in enumerate([*sides[0], *sides[1]]):
        rows[number, list(counts)] = list(counts.values())
    first = np.arange(len(rows)) < len(sides[0])
    distance = float(_distances(rows, first[None])[0])
    shuffled = rng.permuted(np.broadcast_to(first, (PERMUTATIONS, len(first))), axis=1)
    as_far = int(np.count_nonzero(_distances(rows, shuffled) >= distance - 1e-12))
    # A spawned generator: what is drawn here moves no p-value.
    fewer, spawned = shuffled[:SEEN_PERMUTATIONS], rng.spawn(1)[0]
    least = bisect_left(SEEN_SHARES, True, key=lambda share: _shows(rows, len(sides[0]), fewer, share, spawned))
    seen = SEEN_SHARES[least] if least < len(SEEN_SHARES) else None
    return MixChange(what=what, of=of, distance=distance, p=(1 + as_far) / (1 + PERMUTATIONS), seen=seen)


def _shows(rows: Floats, before: int, shuffled: NDArray[np.bool_], share: float, rng: np.random.Generator) -> bool:
    """Whether a ``share`` of new cases of a kind that is nowhere else is shown in most comparisons.

    Both sides are drawn from all cases together, ``before`` of them for the baseline; of the others a share gives all
    its weight to a column of its own. Beyond all but the largest distances of relabellings (``shuffled``) of one such
    draw, a distance has a p-value of at most ``MIX_P``.
    """
    now = np.arange(len(rows)) >= before

    def draw() -> Floats:
        mixed = np.hstack([rows[rng.integers(0, len(rows), len(rows))], np.zeros((len(rows), 1))])
        strange = now & (rng.random(len(rows)) < share)
        mixed[strange, -1] = mixed[strange].sum(axis=1)
        mixed[strange, :-1] = 0.0
        return mixed

    critical = np.sort(_distances(draw(), shuffled))[-max(1, int(MIX_P * (1 + len(shuffled))))]
    shown = sum(float(_distances(draw(), ~now[None])[0]) > critical + 1e-12 for _ in range(SEEN_DRAWS))
    return bool(shown >= SEEN_POWER * SEEN_DRAWS)


def _by_case(
    side: Sequence[Features], read: Reader, names: dict[Any, int], rng: np.random.Generator
) -> list[dict[int, float]]:
    """For each case, how much weight each thing has in its episodes; an episode's things share a weight of 1."""
    cases: dict[str, dict[int, float]] = {}
    for episode in side:
        things = read(episode)
        weights = cases.setdefault(episode.case, {})
        for thing in things:
            column = names.setdefault(thing, len(names))
            weights[column] = weights.get(column, 0.0) + 1 / len(things)
    rows = list(cases.values())
    if len(rows) > MOST_CASES:
        rows = [rows[index] for index in np.sort(rng.choice(len(rows), MOST_CASES, replace=False))]
    return rows


def _distances(rows: Floats, first: NDArray[np.bool_]) -> Floats:
    """For each labelling (a row of ``first``), the distance of the two mixes: shape (labellings,)."""
    chosen = first.astype(np.float64)
    mine, all_of = chosen @ rows, rows.sum(axis=0)
    rest = all_of - mine
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = mine / mine.sum(axis=1, keepdims=True), rest / rest.sum(axis=1, keepdims=True)
    return np.asarray(np.nan_to_num(np.abs(one - other).sum(axis=1) / 2), dtype=np.float64)
