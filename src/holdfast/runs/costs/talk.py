"""How long conversations are that have not been held yet: cases as a model reads them, replies as a suite shows them.

A prompt is counted by the model's own tokenizer on some cases of the part. Replies are taken from what the suite's
scripted agents say, for a model that was taught by them; one that was not talks on, and a suite without scripted
agents has replies as long as published ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.models.calls.native import render
from holdfast.records import Case, Message
from holdfast.records.errors import StudyError
from holdfast.study.kinds import suite_of
from holdfast.study.study import Study
from holdfast.study.users import ApprovalSection
from holdfast.suites.parts import collect_cases

# Tokens that a template writes around a message.
_AROUND = 5
_SAMPLE, _DEMONSTRATIONS = 48, 64
# A model says a little more than those it was taught by, and takes more turns; of some, one says much more.
_LONGER, _LONGEST = 1.1, 2
# What a model that nobody taught says of what it may say at most, and of tokens that published agents write in a call.
_TALKS_ON, PUBLISHED_REPLY, _PUBLISHED_REPLIES = 0.85, 400, 2
_PUBLISHED_RESULT, _OWN_RESULT = 2_000, 60

# Tokens read and written in one call in talk with users.
TALK_TOKENS = (350, 120)

Count = Callable[[str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Cases of a part: of how many ``kinds`` their openings are (system message and tools).

    ``opening`` and ``own`` are tokens of the opening and of what is the case's own, on average.
    """

    cases: int
    kinds: int
    opening: float
    own: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """An episode behind its prompt, on average: ``turns`` of the agent with ``tokens`` each.

    ``heard`` are the tokens of all others in it. ``steps`` are those of sampling until the last of some episodes that
    are sampled together ends, which goes on for longer than most.
    """

    turns: float
    tokens: float
    heard: float
    steps: float

    @property
    def said(self) -> float:
        """All tokens of the episode behind its prompt."""
        return self.turns * (self.tokens + _AROUND) + self.heard


def read_prompts(cases: Sequence[Case], count: Count) -> Prompts:
    """What cases begin with, each kind of opening once and the rest of some cases."""
    openings: dict[Any, Case] = {}
    for case in cases:
        leading = tuple(message.content for message in case.messages if message.role == "system")
        openings.setdefault((leading, repr(case.tools)), case)
    some = cases[:: max(1, len(cases) // _SAMPLE)]
    kinds = list(openings.values())[:_SAMPLE]
    return Prompts(
        cases=len(cases),
        kinds=len(openings),
        opening=_mean([_count_all(_opening(case), count) for case in kinds]),
        own=_mean([_count_all([one for one in case.messages if one.role != "system"], count) for case in some]),
    )


def _opening(case: Case) -> list[Message]:
    shown = render(case.messages, case.tools)
    return [message for message in shown if message.role == "system"]


def _count_all(messages: Sequence[Message], count: Count) -> float:
    return sum(count(message.content) + _AROUND for message in messages)


def read_demonstrated(study: Study, count: Count) -> Replies | None:
    """Replies of the suite's scripted agents, with the longest one as ``steps``; None where it has none."""
    teach = suite_of(study.suite).teach
    if teach is None:
        return None
    episodes: list[tuple[Case, Any]] = []
    with contextlib.suppress(StudyError):
        episodes = list(teach(study.suite, 0, _DEMONSTRATIONS).demonstrations)
    spoken, heard = [], []
    for case, trajectory in episodes:
        opened = len(render(case.messages, case.tools))
        later = render((*case.messages, *trajectory.messages), case.tools)[opened:]
        spoken.append([count(one.content) + 1 for one in later if one.role == "assistant"])
        heard.append(_count_all([one for one in later if one.role != "assistant"], count))
    replies = [tokens for episode in spoken for tokens in episode]
    if not replies:
        return None
    turns = len(replies) / len(episodes)
    return Replies(turns=turns, tokens=_mean(replies), heard=_mean(heard), steps=max(replies))


def expect_replies(study: Study, shown: Replies | None, *, taught: bool, emulated: bool) -> Replies:
    """How a model replies, by whether it was taught by demonstrations, which are ``shown``."""
    limits = study.rollouts
    most = min(limits.max_tokens, PUBLISHED_REPLY)
    if shown is not None and taught:
        turns = min(limits.max_turns, _LONGER * shown.turns)
        tokens = min(most, _LONGER * shown.tokens)
        # One of a batch goes on to the end of each turn, and one through all turns.
        longest = min(most, _LONGEST * shown.steps)
        steps = turns * longest + (limits.max_turns - turns) * tokens
        return Replies(turns=turns, tokens=tokens, heard=shown.heard * turns / shown.turns, steps=steps)
    tokens = _TALKS_ON * most
    if shown is not None:
        return Replies(turns=1, tokens=tokens, heard=0, steps=most)
    heard, turns = _PUBLISHED_RESULT if emulated else _OWN_RESULT, min(limits.max_turns, _PUBLISHED_REPLIES)
    return Replies(turns=turns, tokens=tokens, heard=heard, steps=turns * most)


def read_parts(study: Study, split_seed: int) -> Mapping[str, Sequence[Case]]:
    """The cases of a split by part; none where the suite's files are not at hand."""
    with contextlib.suppress(StudyError):
        return collect_cases(study, split_seed)
    return {}


def replies_to_users(study: Study, users: ApprovalSection) -> Replies:
    """How a model replies to users."""
    most, turns = study.rollouts.max_tokens, calls_with_users(users)
    tokens = min(most, TALK_TOKENS[1])
    return Replies(turns=turns, tokens=tokens, heard=(turns - 1) * _OWN_RESULT, steps=turns * most)


def calls_with_users(users: ApprovalSection) -> float:
    """The agent's replies in an episode with a user, on average over settings: one a turn, and a call to report on."""
    replies: list[float] = []
    for setting in users.settings.values():
        environments = setting.environments or users.environments
        replies.append(setting.turns + environments.count("report") / len(environments))
    return sum(replies) / len(replies)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
