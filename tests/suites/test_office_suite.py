"""The office suite: what is drawn, what is hidden, what is split, and that a small vocabulary says it all."""

from __future__ import annotations

from random import Random
from statistics import mean

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.models.tiny.chat import split_words
from holdfast.records import Case, Trajectory
from holdfast.records.errors import StudyError
from holdfast.suites.office.cases import choose_pools, generate, lexicon, split_families, split_objects
from holdfast.suites.office.demonstrations import demonstrations
from holdfast.suites.office.families import FAMILIES
from holdfast.suites.office.policies import POLICIES, demonstrate
from holdfast.suites.office.wording import NOISE, PLANTED

PARTS = ("train", "test", "demo")


@pytest.fixture(scope="module")
def demo_cases() -> list[Case]:
    return generate(0, 20_000, part="demo")


def rendered_length(case: Case, trajectory: Trajectory) -> int:
    """Tokens of an episode at one token per word and one per marker: the budget of the tiny model."""
    total = 2  # begin and end of the text
    for message in (*case.messages, *trajectory.messages):
        words = len(split_words(message.content))
        if message.tool_calls:
            words += sum(1 + len(call.arguments) for call in message.tool_calls)
        total += words + (1 if message.role == "system" else 2)  # an opening marker, and <end>
    return total


def test_eleven_families_with_sizeable_disjoint_tables() -> None:
    assert len(FAMILIES) == 11 and "media" in FAMILIES
    names = [name for row in FAMILIES.values() for name in (*row.objects, *row.baits)]
    assert len(names) == len(set(names))
    assert all(12 <= len(row.objects) <= 24 for row in FAMILIES.values())
    tools = [tool[0] for row in FAMILIES.values() for tool in (row.check, row.alternative, row.commit)]
    assert len(tools) == len(set(tools)) == 3 * len(FAMILIES)
    # An object or a tool that the word split tears apart could not be copied as one token.
    assert all(split_words(name) == (name,) for name in names + tools)


def test_safe_findings_cannot_be_mistaken_for_unsafe_ones() -> None:
    for row in FAMILIES.values():
        assert set(row.findings[0]).isdisjoint(row.findings[1] + row.findings[2])
        # Agents look for what is safe within a longer answer.
        beside = (*row.findings[1], *row.findings[2], *NOISE, *PLANTED)
        assert not any(safe in text for safe in row.findings[0] for text in beside)


def test_media_are_released_with_consent_and_labelled_without() -> None:
    cases = [case for case in generate(3, 4000, part="train") if case.family == "media"]
    cases = [case for case in cases if len(case.facts["objects"]) == 1]
    assert {case.messages[0].content for case in cases} == {"You are the orchestrator."}
    for case in cases:
        (name,) = case.facts["objects"]
        trajectory = demonstrate(case, "best_of_both", Random(7))
        assert trajectory.world_after is not None
        done = trajectory.world_after["status"][name]
        if case.facts["hazards"] == [0]:
            assert done == "committed"
        else:
            asked = any(act == "ask" for act, _ in trajectory.world_after["events"])
            assert done == (
                ("committed" if case.facts["authorises"] == [True] else "untouched") if asked else "altered"
            )


def test_many_distinct_requests_and_unique_ids_and_numbers(demo_cases: list[Case]) -> None:
    assert len({case.messages[-1].content for case in demo_cases}) >= 5_000
    assert len({case.id for case in demo_cases}) == len(demo_cases)
    drawn = demo_cases[:2_000] + generate(0, 2_000, part="train") + generate(0, 2_000, part="test")
    assert len({case.number for case in drawn}) == len(drawn) == len({case.id for case in drawn})


def test_a_case_is_chat_with_json_schema_tools(demo_cases: list[Case]) -> None:
    for case in demo_cases[:500]:
        assert [message.role for message in case.messages] == ["system", "user"]
        assert len(case.tools) == 4
        assert {tool.name for tool in case.tools} == set(case.state["tools"])
        for tool in case.tools:
            jsonschema.Draft202012Validator.check_schema(tool.parameters)
            jsonschema.validate({"object": "x"}, tool.parameters)
        request = split_words(case.messages[1].content)
        assert [word for word in request if word in case.facts["objects"]] == case.facts["objects"]


def test_the_system_prompt_is_fixed_per_family(demo_cases: list[Case]) -> None:
    assert len({(case.family, case.messages[0].content) for case in demo_cases}) == len(FAMILIES)


def test_families_have_equal_shares_and_hazards_their_declared_ones(demo_cases: list[Case]) -> None:
    for name in FAMILIES:
        assert mean(case.family == name for case in demo_cases) == pytest.approx(1 / len(FAMILIES), abs=0.01)
    hazards = [hazard for case in demo_cases for hazard in case.facts["hazards"]]
    assert mean(hazard > 0 for hazard in hazards) == pytest.approx(0.5, abs=0.02)
    assert set(hazards) == {0, 1, 2}


def test_a_quarter_of_users_with_a_hazard_consent_and_all_others_do(demo_cases: list[Case]) -> None:
    pairs = [
        pair
        for case in demo_cases
        if case.family != "harm"
        for pair in zip(case.facts["hazards"], case.facts["authorises"], strict=True)
    ]
    assert mean(allowed for hazard, allowed in pairs if hazard) == pytest.approx(0.25, abs=0.02)
    assert all(allowed for hazard, allowed in pairs if not hazard)


@pytest.mark.parametrize("part", PARTS)
def test_every_harmful_request_has_a_benign_twin_in_the_same_draw(part: str) -> None:
    cases = generate(4, 999, part=part)  # type: ignore[arg-type]
    by_id = {case.id: case for case in cases}
    harmful = [case for case in cases if case.family == "harm" and max(case.facts["hazards"]) > 0]
    assert len(harmful) > 30
    for case in harmful:
        twin = by_id[case.facts["twin"]]
        assert twin.facts["twin"] == case.id
        assert set(twin.facts["hazards"]) == {0}
        assert twin.facts["objects"] == case.facts["objects"]
        differing = set(split_words(case.messages[1].content)) ^ set(split_words(twin.messages[1].content))
        assert differing and differing.isdisjoint(case.facts["objects"])
    assert all((case.facts["twin"] is None) == (case.family != "harm") for case in cases)


@given(st.integers(0, 2**32))
def test_train_and_test_share_no_object_of_a_family(split_seed: int) -> None:
    for name, row in FAMILIES.items():
        train, test = split_objects(name, split_seed)
        assert not set(train) & set(test)
        assert set(train) | set(test) == set(row.objects)
        assert len(train) / len(row.objects) == pytest.approx(0.65, abs=0.05)


def test_drawn_cases_keep_to_their_side_of_the_split() -> None:
    for seed in range(3):
        pools = {part: choose_pools(part, "objects", seed) for part in ("train", "test")}  # type: ignore[arg-type]
        for part, pool in pools.items():
            for case in generate(seed, 400, part=part, split_seed=seed):  # type: ignore[arg-type]
                assert set(case.facts["objects"]) <= set(pool[case.family])
    assert split_objects("files", 0) != split_objects("files", 1)


def test_family_holdout_parts_families() -> None:
    train_names, test_names = split_families(5)
    assert not set(train_names) & set(test_names) and set(train_names) | set(test_names) == set(FAMILIES)
    train = generate(0, 400, part="train", holdout="family", split_seed=5)
    test = generate(0, 400, part="test", holdout="family", split_seed=5)
    assert {case.family for case in train} == set(train_names)
    assert {case.family for case in test} == set(test_names)


def test_case_holdout_parts_requests_and_keeps_to_training_objects() -> None:
    """No request of the training part stands in the test part, in any draw, and no held-out object in either."""
    for seed in range(3):
        pools = choose_pools("train", "objects", seed)
        said = {
            part: {
                (case.family, case.messages[-1].content, *case.facts["hazards"]): case.facts["objects"]
                for draw in range(3)
                for case in generate(draw, 400, part=part, holdout="case", split_seed=seed)  # type: ignore[arg-type]
            }
            for part in ("train", "test")
        }
        assert said["train"].keys().isdisjoint(said["test"])
        for (family, *_), objects in (said["train"] | said["test"]).items():
            assert set(objects) <= set(pools[family])
    whole = generate(0, 400, part="test", holdout="case")
    assert len(whole) == 400 and {case.family for case in whole} == set(FAMILIES)


def test_equal_seeds_give_equal_cases_and_others_do_not() -> None:
    assert generate(7, 300, part="train") == generate(7, 300, part="train")
    assert generate(7, 300, part="train") != generate(8, 300, part="train")
    # A longer draw begins with the shorter one, but for a last place that a pair of twins might not fit in.
    assert generate(7, 300, part="train")[:199] == generate(7, 200, part="train")[:199]


def test_lexicon_is_small_and_says_everything(demo_cases: list[Case]) -> None:
    words = set(lexicon())
    assert len(words) == len(lexicon()) <= 800
    random = Random(0)
    for index, case in enumerate(demo_cases[:6_000]):
        trajectory = demonstrate(case, tuple(POLICIES)[index % len(POLICIES)], random)
        for message in (*case.messages, *trajectory.messages):
            spoken = list(split_words(message.content))
            for call in message.tool_calls:
                spoken += [call.name, *(word for value in call.arguments.values() for word in split_words(value))]
            assert words.issuperset(spoken), set(spoken) - words


def test_demonstrations_hold_every_word_of_the_lexicon() -> None:
    spoken: set[str] = set()
    for case, trajectory in demonstrations(2, 12_000):
        for message in (*case.messages, *trajectory.messages):
            spoken.update(split_words(message.content), *(call.arguments.values() for call in message.tool_calls))
            spoken.update(call.name for call in message.tool_calls)
    assert set(lexicon()) == spoken


def test_episodes_fit_the_token_budget_of_the_tiny_model() -> None:
    lengths = [rendered_length(case, trajectory) for case, trajectory in demonstrations(1, 10_000)]
    assert 30 <= mean(lengths) <= 45
    assert max(lengths) <= 96


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.integers(0, 40))
def test_any_count_is_met_exactly(rng_seed: int, count: int) -> None:
    assert len(generate(rng_seed, count, part="train")) == count


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        ({"count": 10, "part": "dev"}, "part is 'dev'"),
        ({"count": 10, "part": "train", "holdout": "verbs"}, "holdout is 'verbs'"),
        ({"count": -1, "part": "train"}, "count is -1"),
    ],
)
def test_wrong_input_is_named_in_one_line(arguments: dict[str, object], finding: str) -> None:
    with pytest.raises(StudyError, match=finding) as caught:
        generate(0, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_more_cases_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.suites.office.cases.FAMILIES", {"harm": FAMILIES["harm"]})
    with pytest.raises(StudyError, match="3 cases asked for, 2 found") as caught:
        generate(0, 3, part="train")
    assert "\n" not in str(caught.value)
