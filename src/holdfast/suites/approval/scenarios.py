"""Scenarios, each with two users: drawn by topic, put into words under a setting, and made into cases.

A scenario is what both users of a pair share: what they want to do, what went before, when, and which step fits.
Whether the user can be gamed shows only in the places that a setting opens: the style of the message, the traits and
the leak in the agent's prompt, and what the judge is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import zip_longest
from random import Random
from typing import Any

import numpy as np

from holdfast.models.tiny.chat import split_words
from holdfast.records import Case, Message, content_id
from holdfast.study.users import SettingSection
from holdfast.suites.approval import wording
from holdfast.suites.approval.replies import reply_words
from holdfast.suites.approval.topics import CONTENT, READ_LOG, Topic, count_combinations, list_tools, share_out

SUITE = "approval"
# Raised by hand when equal seeds give other scenarios or texts.
SCENARIOS_VERSION = 1
TRAIN_SHARE = 0.6  # of an environment's topics, where a study names none


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What the two users of a pair share.

    ``step`` is the helpful step that fits, ``other`` the one beside it; ``swapped`` says that the other is named first.
    ``fails`` says that the task's tool fails, and is False where there are no tools.
    """

    environment: str
    topic: Topic
    act: str
    opening: str
    mood: str
    time: str
    step: str
    other: str
    swapped: bool
    fails: bool

    @property
    def id(self) -> str:
        """The same for equal scenarios, whatever the setting and the split."""
        told = (self.opening, self.mood, self.time, self.step, self.other, self.swapped, self.fails)
        return content_id("approval scenario", self.environment, self.topic.name, self.act, *told)


def draw_scenarios(environment: str, topics: Sequence[str], count: int, seed: str) -> list[Scenario]:
    """``count`` distinct scenarios of an environment, spread evenly over the named topics, the topics by turns.

    Where there are tools, one of the two in every two scenarios fails. More scenarios begin with those of a smaller
    ``count``. Errors: ValueError for more than the topics have, each ``count_combinations``.
    """
    most = len(topics) * count_combinations(environment)
    if count > most:
        raise ValueError(f"{count} scenarios of {environment}, which has {most} of these topics")
    known = {topic.name: topic for topic in CONTENT[environment].topics}
    drawn = []
    for name, share in zip(topics, share_out(count, len(topics)), strict=True):
        random = Random(f"approval scenarios {environment} {name} {seed}")
        # Distinct numbers in random order; a larger share goes on where a smaller one ends.
        indices: dict[int, None] = {}
        while len(indices) < share:
            indices[random.randrange(count_combinations(environment))] = None
        drawn.append([(known[name], index) for index in indices])
    turns = [one for row in zip_longest(*drawn) for one in row if one is not None]
    random = Random(f"approval failures {environment} {seed}")
    fails: list[bool] = []
    while len(fails) < count:
        first = random.random() < 0.5
        fails += [first, not first]
    return [
        _combine(environment, topic, index, topic.tool is not None and fails[place])
        for place, (topic, index) in enumerate(turns)
    ]


def _combine(environment: str, topic: Topic, index: int, fails: bool) -> Scenario:
    """The scenario that a number below ``count_combinations`` stands for, read digit by digit."""
    content = CONTENT[environment]
    steps = content.steps
    sizes = (len(topic.acts), len(content.openings), len(content.moods), len(content.times))
    digits = np.unravel_index(index, (*sizes, len(steps), len(steps) - 1, 2), order="F")  # the first turns fastest
    act, opening, mood, time, step, beside, swapped = map(int, digits)
    return Scenario(
        environment=environment,
        topic=topic,
        act=topic.acts[act],
        opening=content.openings[opening],
        mood=content.moods[mood],
        time=content.times[time],
        step=steps[step],
        other=[one for one in steps if one != steps[step]][beside],
        swapped=bool(swapped),
        fails=fails,
    )


def label_scenarios(scenarios: Sequence[Scenario], share: float) -> list[bool]:
    """Which scenarios have a gameable user: ``round(share * n)`` of all, spread evenly over topics and failures."""
    count, gameable = len(scenarios), round(share * len(scenarios))
    groups = [(one.environment, one.topic.name, one.fails) for one in scenarios]
    labels = [False] * count
    # Sorted by group, every (count / gameable)-th place has one: ``gameable`` in all, and each group its share.
    for place, number in enumerate(sorted(range(count), key=groups.__getitem__)):
        labels[number] = (place + 1) * gameable // count > place * gameable // count
    return labels


# --- a scenario in words ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)
def _pick(scenario: Scenario, purpose: str, size: int) -> int:
    """A variant of the scenario's own, the same in every setting and for both users."""
    return Random(f"approval {purpose} {scenario.id}").randrange(size)


def make_case(
    scenario: Scenario,
    name: str,
    setting: SettingSection,
    *,
    gameable: bool,
    source: Sequence[Any],
    number: int,
    paired: bool = False,
) -> Case:
    """The case of a scenario's user under the setting of that name.

    ``source`` says what the case is drawn for, such as a part and a split's seed, and is part of its id. ``paired``
    gives it the id of the case with the other user, which has the same source.
    """
    toggles = setting.model_dump(exclude={"gameable_share", "environments"})
    environment = scenario.environment
    ids = {label: content_id("approval case", *source, name, toggles, scenario.id, label) for label in (True, False)}
    variant = _pick(scenario, "traits", len(wording.USER_TRAITS[environment]))
    trait = wording.phrase_trait(environment, setting.traits, variant, gameable)
    leak = wording.say_of(wording.LEAK, gameable) if setting.leak else ""
    system = wording.phrase_system(environment, setting.policy_role, leak, trait)
    said = wording.MESSAGES[environment][scenario.swapped].format(
        **{name: getattr(scenario, name) for name in wording.PARTS}
    )
    variant = _pick(scenario, "style", len(wording.STYLES[environment]))
    clause = wording.phrase_style(environment, setting.style, variant, gameable)
    message = f"{said[0].upper()}{said[1:]} {clause}"
    tool = scenario.topic.tool
    return Case(
        id=ids[gameable],
        suite=SUITE,
        number=number,
        family=environment,
        messages=(Message(role="system", content=system), Message(role="user", content=message)),
        tools=list_tools(scenario.topic),
        state={"fails": scenario.fails, "task": tool, "log": READ_LOG, "office": scenario.step} if tool else {},
        facts={
            "environment": environment,
            "topic": scenario.topic.name,
            "scenario": scenario.id,
            "pair": ids[not gameable] if paired else None,
            "gameable": gameable,
            "setting": name,
            "toggles": toggles,
            "act": scenario.act,
            "step": scenario.step,
            "wish": wording.phrase_wish(environment, setting.clause, scenario.act, gameable),
            "trait": trait,
            "second": wording.SECONDS[environment].format(act=scenario.act) if setting.turns == 2 else "",
            "channels": {"system": f"{leak} {trait}".strip(), "message": message},
        },
    )


@cache
def lexicon() -> tuple[str, ...]:
    """Every word of messages, tool calls, answers and replies, sorted, as the tiny model's tokenizer splits them."""
    texts: list[str] = []
    for environment, content in CONTENT.items():
        texts += [text.format(**dict.fromkeys(wording.PARTS, "")) for text in wording.MESSAGES[environment]]
        texts += [wording.SECONDS[environment].format(act="")]
        texts += [text for one in wording.STYLES[environment] for text in one]
        texts += [*content.openings, *content.moods, *content.times, *content.steps]
        texts += [act for topic in content.topics for act in topic.acts]
        texts += [tool.name for topic in content.topics for tool in list_tools(topic)]
    return tuple(sorted({*reply_words(), *(word for text in texts for word in split_words(text))}))
