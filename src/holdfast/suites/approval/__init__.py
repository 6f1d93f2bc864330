"""Users who can or cannot be gamed: practice prompts, held-out pairs, the audit of their cues, and their words."""

from __future__ import annotations

import difflib
from functools import partial
from itertools import zip_longest
from random import Random
from typing import Literal

from holdfast.records import Case
from holdfast.records.errors import StudyError
from holdfast.study.users import ApprovalSection, SettingSection
from holdfast.suites import NUMBERS_PER_SPLIT
from holdfast.suites.approval.scenarios import TRAIN_SHARE, draw_scenarios, label_scenarios, make_case
from holdfast.suites.approval.topics import CONTENT, count_combinations, share_out

_FIRST_PAIR = 5_000_000  # practice prompts of a split are numbered from 0, held-out cases from here
_HALVES = ("train_topics", "test_topics")


def practice_cases(section: ApprovalSection, split_seed: int) -> list[Case]:
    """The prompts to train on, setting by setting: each scenario once, with a gameable user in a share of them.

    Settings of the same environments hold the same scenarios in the same order, environments by turns; of others, a
    setting of fewer environments has those of the others and more. Errors: StudyError as in ``check_approval``.
    """
    return _make_cases(section, split_seed, "practice")


def paired_cases(section: ApprovalSection, split_seed: int) -> list[Case]:
    """The held-out cases, setting by setting: both users of each scenario side by side, the gameable one first.

    Settings hold the same scenarios as those of practice do, of topics that no practice prompt has. Errors: StudyError
    as in ``check_approval``.
    """
    return _make_cases(section, split_seed, "pairs")


def _make_cases(section: ApprovalSection, split_seed: int, part: Literal["practice", "pairs"]) -> list[Case]:
    check_approval(section)
    paired, topics = part == "pairs", split_topics(section, split_seed)
    make = partial(make_case, source=(part, split_seed), paired=paired)
    first = split_seed * NUMBERS_PER_SPLIT + (_FIRST_PAIR if paired else 0)
    cases: list[Case] = []
    for name, setting in section.settings.items():
        environments = choose_environments(section, setting)
        shares = share_out(getattr(section, part), len(environments))
        drawn = [
            draw_scenarios(environment, topics[environment][paired], share, f"{part} {split_seed}")
            for environment, share in zip(environments, shares, strict=True)
        ]
        scenarios = [scenario for turn in zip_longest(*drawn) for scenario in turn if scenario is not None]
        labels = label_scenarios(scenarios, setting.gameable_share)
        for scenario, label in zip(scenarios, labels, strict=True):
            for gameable in (True, False) if paired else (label,):
                cases.append(make(scenario, name, setting, gameable=gameable, number=first + len(cases)))
    return cases


def count_practice(section: ApprovalSection) -> int:
    """How many cases ``practice_cases`` gives."""
    return section.practice * len(section.settings)


def count_paired(section: ApprovalSection) -> int:
    """How many cases ``paired_cases`` gives."""
    return 2 * section.pairs * len(section.settings)


def choose_environments(section: ApprovalSection, setting: SettingSection) -> tuple[str, ...]:
    """The environments that a setting's users live in: its own, else those of the section."""
    return setting.environments or section.environments


def split_topics(section: ApprovalSection, split_seed: int) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Environment → its topics to train on, and those held out; what the section does not name, the seed halves.

    Where one half alone is named, the other is the rest of each environment.
    """
    halves: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for environment in section.environments:
        names = [topic.name for topic in CONTENT[environment].topics]
        train = tuple(name for name in names if name in section.train_topics)
        test = tuple(name for name in names if name in section.test_topics)
        if not section.train_topics and not section.test_topics:
            Random(f"approval topics {environment} {split_seed}").shuffle(names)
            kept = round(TRAIN_SHARE * len(names))
            train, test = tuple(names[:kept]), tuple(names[kept:])
        elif not section.train_topics:
            train = tuple(name for name in names if name not in test)
        elif not section.test_topics:
            test = tuple(name for name in names if name not in train)
        halves[environment] = (train, test)
    return halves


def check_approval(section: ApprovalSection, *, tiny: bool = False) -> None:
    """Raise StudyError, naming the key, for topics, shares and counts that give no practice or no pairs.

    ``tiny`` says whether a base is tiny, which must be shown both users of every environment.
    """
    own = {f"settings.{name}.environments": setting.environments for name, setting in section.settings.items()}
    for key, names in {"environments": section.environments, **own}.items():
        if twice := [name for name in names if names.count(name) > 1]:
            raise StudyError(f"approval.{key} has {twice[0]!r} twice; name each once")
        if beyond := [name for name in names if name not in section.environments]:
            raise StudyError(
                f"approval.{key} has {beyond[0]!r}, which approval.environments lacks; add it there, or remove it"
            )
    _check_topics(section)
    _check_counts(section)
    for name, setting in section.settings.items():
        gameable = round(setting.gameable_share * section.practice)
        if gameable in (0, section.practice):
            lacking = "a gameable user" if gameable == 0 else "a user who cannot be gamed"
            raise StudyError(
                f"approval.settings.{name}.gameable_share is {setting.gameable_share:g}:"
                f" of {section.practice} practice scenarios none has {lacking}; ask for more, or change it"
            )
    least = 2 * len(section.environments)
    if tiny and section.taught < least:
        raise StudyError(
            f"approval.taught is {section.taught}, but a tiny base must be shown both users of each of"
            f" {len(section.environments)} environments; give at least {least}"
        )


def _check_topics(section: ApprovalSection) -> None:
    known = {topic.name: environment for environment, content in CONTENT.items() for topic in content.topics}
    for key in _HALVES:
        for name in getattr(section, key):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise StudyError(f"approval.{key} has {name!r}, which is no topic; did you mean {near!r}?")
            if known[name] not in section.environments:
                raise StudyError(
                    f"approval.{key} has {name!r}, a topic of {known[name]!r}, which approval.environments lacks;"
                    " remove it, or add the environment"
                )
    if shared := [name for name in section.train_topics if name in section.test_topics]:
        raise StudyError(
            f"approval.train_topics and approval.test_topics both have {shared[0]!r};"
            " a held-out topic is never trained on: remove it from one"
        )
    for environment, halves in split_topics(section, 0).items():
        for key, half in zip(_HALVES, halves, strict=True):
            if not half:
                raise StudyError(
                    f"approval.{key} leaves {environment!r} without a topic;"
                    f" give one of {', '.join(topic.name for topic in CONTENT[environment].topics)} to each half"
                )


def _check_counts(section: ApprovalSection) -> None:
    halves = split_topics(section, 0)  # of the same sizes with every seed
    for environments in dict.fromkeys(choose_environments(section, one) for one in section.settings.values()):
        for half, key in enumerate(("practice", "pairs")):
            count = getattr(section, key)
            if count < len(environments):
                raise StudyError(
                    f"approval.{key} is {count}, less than one for each of {len(environments)} environments;"
                    " give more, or name fewer environments"
                )
            for environment, share in zip(environments, share_out(count, len(environments)), strict=True):
                topics = len(halves[environment][half])
                if share > (there := count_combinations(environment) * topics):
                    raise StudyError(
                        f"approval.{key} is {count}, which takes {share} scenarios of {environment!r}, but its"
                        f" {topics} topics have {there}; ask for fewer, or name more topics"
                    )
    if (most := max(count_practice(section), count_paired(section))) > _FIRST_PAIR:
        raise StudyError(
            f"approval.settings are {len(section.settings)}, which makes {most} cases of a part, more than"
            f" {_FIRST_PAIR}; ask for fewer settings or scenarios"
        )
