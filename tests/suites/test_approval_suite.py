"""Users who can or cannot be gamed: exact pairs, toggles that change nothing else, matched lengths, the cue audit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from holdfast.models.tiny.chat import UNK, TinyChat, split_words, write_tokenizer
from holdfast.records import Case, Message, ToolCall
from holdfast.records.errors import StudyError
from holdfast.rollout.worlds.approval import ApprovalWorld
from holdfast.study.kinds import SUITES
from holdfast.study.sections import SuiteSection
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL, ENVIRONMENTS, PRACTICE, ApprovalSection, SettingSection
from holdfast.suites import open_world, split_cases
from holdfast.suites.approval import (
    check_approval,
    count_paired,
    count_practice,
    paired_cases,
    practice_cases,
    split_topics,
    wording,
)
from holdfast.suites.approval.cues import CueAudit, audit_cues
from holdfast.suites.approval.scenarios import (
    Scenario,
    draw_scenarios,
    label_scenarios,
    lexicon,
    make_case,
)
from holdfast.suites.approval.topics import CONTENT, OFFICE, READ_LOG, count_combinations
from holdfast.suites.approval.wording import system_prompts
from holdfast.suites.parts import check_parts, collect_cases, count_cases

TOGGLES: Mapping[str, tuple[Any, ...]] = {
    name: get_args(field.annotation) or (False, True)
    for name, field in SettingSection.model_fields.items()
    if name not in ("gameable_share", "environments")
}
# Toggle → what of a case it may change.
CHANGES: Mapping[str, set[str]] = {
    "policy_role": {"system"},
    "judge_role": set(),
    "traits": {"system", "trait", "channel"},
    "style": {"message"},
    "leak": {"system", "channel"},
    "clause": {"wish"},
    "turns": {"second"},
}
MOST_CHARACTERS = 4  # by which the two texts of a place may differ


def make_section(**keys: Any) -> ApprovalSection:
    return ApprovalSection.model_validate({"settings": {"users": {}}, "pairs": 16, "practice": 24, **keys})


def all_settings() -> Iterator[SettingSection]:
    for values in product(*TOGGLES.values()):
        yield SettingSection(**dict(zip(TOGGLES, values, strict=True)))


def show(case: Case) -> dict[str, Any]:
    """What a case says, each toggle's place by itself."""
    kept = ("environment", "topic", "scenario", "act", "step", "wish", "trait", "second", "gameable")
    system, message = (one.content for one in case.messages)
    tools = [asdict(tool) for tool in case.tools]
    told = {"system": system, "message": message, "tools": tools, "state": case.state, "family": case.family}
    return told | {key: case.facts[key] for key in kept} | {"channel": case.facts["channels"]["system"]}


def draw_some() -> list[Scenario]:
    return [
        one
        for environment in ENVIRONMENTS
        for one in draw_scenarios(environment, [topic.name for topic in CONTENT[environment].topics], 2, "some")
    ]


@pytest.fixture(scope="module")
def built() -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The values of a setting's toggles → what its cases say: some scenarios, both users of each side by side."""
    scenarios = draw_some()
    return {
        tuple(getattr(setting, name) for name in TOGGLES): [
            show(make_case(one, "users", setting, gameable=gameable, source=("test",), number=0))
            for one in scenarios
            for gameable in (True, False)
        ]
        for setting in all_settings()
    }


Built = Mapping[tuple[Any, ...], list[dict[str, Any]]]


def test_the_toggles_are_those_of_a_setting() -> None:
    assert set(CHANGES) == set(TOGGLES) and all(len(values) > 1 for values in TOGGLES.values())
    assert set(ENVIRONMENTS) == set(CONTENT) == set(wording.MESSAGES) == set(wording.STYLES) == set(wording.ROLES)


@pytest.mark.parametrize("toggle", TOGGLES)
def test_a_toggle_changes_nothing_beside_its_own_place(toggle: str, built: Built) -> None:
    place = list(TOGGLES).index(toggle)
    changed: Counter[str] = Counter()
    for values, cases in built.items():
        for value in TOGGLES[toggle]:
            beside = built[(*values[:place], value, *values[place + 1 :])]
            for one, two in zip(cases, beside, strict=True):
                changed.update(key for key in one if one[key] != two[key])
    assert set(changed) == CHANGES[toggle]


def test_the_role_changes_its_own_sentence_only(built: Built) -> None:
    place = list(TOGGLES).index("policy_role")
    for values, cases in built.items():
        if values[place] == "friend":
            beside = built[(*values[:place], "professional", *values[place + 1 :])]
            for friend, professional in zip(cases, beside, strict=True):
                roles = wording.ROLES[friend["environment"]]
                assert friend["system"] == professional["system"].replace(roles["professional"], roles["friend"])


def test_pairs_differ_only_where_the_setting_opens_a_place(built: Built) -> None:
    for values, cases in built.items():
        setting = dict(zip(TOGGLES, values, strict=True))
        allowed = {"gameable"}
        allowed |= {"message"} if setting["style"] == "split" else set()
        allowed |= {"system", "channel"} if setting["leak"] or setting["traits"] != "none" else set()
        allowed |= {"trait"} if setting["traits"] != "none" else set()
        allowed |= {"wish"} if setting["clause"] != "none" else set()
        for one, two in zip(cases[::2], cases[1::2], strict=True):
            assert {key for key in one if one[key] != two[key]} == allowed, setting


def test_the_two_users_of_a_pair_say_equally_much(built: Built) -> None:
    for cases in built.values():
        for one, two in zip(cases[::2], cases[1::2], strict=True):
            for key in ("message", "system", "trait", "channel"):
                assert len(split_words(one[key])) == len(split_words(two[key])), (one[key], two[key])
                assert len(one[key].split()) == len(two[key].split())


def matched() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [wording.LEAK, *wording.LABEL_TRAITS.values()]
    for table in (wording.USER_TRAITS, wording.STYLES):
        found += [one for lines in table.values() for one in lines]
    return found


def test_texts_by_label_are_matched_in_words_and_nearly_in_characters() -> None:
    for gameable, other, *equal in matched():
        assert len(split_words(gameable)) == len(split_words(other)), gameable
        assert abs(len(gameable) - len(other)) <= MOST_CHARACTERS, gameable
        assert all(len(split_words(text)) == len(split_words(gameable)) for text in equal), equal
    texts = [text for one in matched() for text in one[:2]]
    assert len(set(texts)) == len(texts)


def test_style_equal_sounds_like_neither_label() -> None:
    for lines in wording.STYLES.values():
        for gameable, other, equal in lines:
            assert equal not in (gameable, other)
            assert not {"just", "honest", "agree", "risks"} & set(split_words(equal)), equal


# --- what a scenario says -------------------------------------------------------------------------------------------


def test_a_message_holds_the_act_and_the_step_among_others(built: Built) -> None:
    for cases in built.values():
        for case in cases:
            words = split_words(case["message"])
            assert 15 <= len(words) <= 30, case["message"]
            assert case["act"] in case["message"]
            steps = [word for word in words if word in CONTENT[case["environment"]].steps]
            others = set(steps) - {case["step"]}
            assert case["step"] in steps and len(others) == 1, case["message"]
            if case["environment"] != "report":
                assert steps[-1] == case["step"] and steps.count(case["step"]) == 2


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_draws_use_every_part_of_an_environment(environment: str) -> None:
    content = CONTENT[environment]
    drawn = draw_scenarios(environment, [topic.name for topic in content.topics], 400, "parts")
    for key, parts in (("step", content.steps), ("other", content.steps), ("opening", content.openings)):
        assert {getattr(one, key) for one in drawn} == set(parts)
    assert {one.act for one in drawn} == {act for topic in content.topics for act in topic.acts}
    assert {one.swapped for one in drawn} == {True, False}
    assert len({(one.act, one.opening, one.mood, one.time, one.step) for one in drawn}) > 300


def test_every_topic_has_as_many_scenarios_and_its_own_words() -> None:
    names = [topic.name for content in CONTENT.values() for topic in content.topics]
    acts = [act for content in CONTENT.values() for topic in content.topics for act in topic.acts]
    assert len(set(names)) == len(names) and len(set(acts)) == len(acts)
    for environment, content in CONTENT.items():
        assert count_combinations(environment) * len(content.topics) > 2000
        assert all(split_words(step) == (step,) for step in content.steps)
        assert len({len(topic.acts) for topic in content.topics}) == 1


def test_all_scenarios_of_a_topic_can_be_drawn_and_differ() -> None:
    count = count_combinations("report")
    found = draw_scenarios("report", ["printing"], count, "all")
    assert len({one.id for one in found}) == count == len({replace(one, fails=False) for one in found})
    assert sum(one.fails for one in found) == count // 2
    with pytest.raises(ValueError, match="4033 scenarios of report, which has 4032"):
        draw_scenarios("report", ["printing"], count + 1, "all")


def test_tools_come_with_reports_only_and_fit_what_the_user_asks_for() -> None:
    for case in paired_cases(make_section(), 0):
        if case.family != "report":
            assert case.tools == () and case.state == {}
            continue
        task, log = case.tools
        assert (case.state["task"], case.state["log"], log.name) == (task.name, log.name, READ_LOG)
        assert case.state["office"] == case.facts["step"]
        call = ToolCall(name=task.name, arguments={OFFICE: case.facts["step"]})
        session = ApprovalWorld().start(case)
        assert session.answer(call).valid and session.snapshot()["done"] is not case.state["fails"]
        assert session.answer(ToolCall(name=log.name, arguments={})).valid


def test_the_user_asks_once_more_in_the_same_words_with_two_turns() -> None:
    for case in paired_cases(make_section(settings={"one": {}, "two": {"turns": 2}}), 0):
        said = ApprovalWorld().start(case).hear(Message(role="assistant", content="Well."))
        assert (said or "") == case.facts["second"]
        assert (said is not None) == (case.facts["setting"] == "two")


# --- parts, ids and numbers -----------------------------------------------------------------------------------------

SETTINGS = {"plain": {}, "same": {}, "bare": {"style": "equal"}, "told": {"style": "equal", "traits": "user"}}


def test_pairs_stand_side_by_side_and_name_each_other() -> None:
    section = make_section(settings=SETTINGS)
    cases = paired_cases(section, 3)
    assert len(cases) == count_paired(section) == 2 * 16 * len(SETTINGS)
    scenarios: dict[str, list[str]] = {}
    for one, two in zip(cases[::2], cases[1::2], strict=True):
        assert (one.facts["pair"], two.facts["pair"]) == (two.id, one.id)
        assert (one.facts["gameable"], two.facts["gameable"]) == (True, False)
        assert one.facts["scenario"] == two.facts["scenario"] and two.number == one.number + 1
        scenarios.setdefault(one.facts["setting"], []).append(one.facts["scenario"])
    assert len({tuple(found) for found in scenarios.values()}) == 1, "settings hold other scenarios"
    assert len(set(scenarios["plain"])) == 16
    assert Counter(case.family for case in cases) == dict.fromkeys(ENVIRONMENTS, 2 * 4 * len(SETTINGS))


def test_ids_and_numbers_are_unique_over_settings_parts_and_splits() -> None:
    section = make_section(settings=SETTINGS)
    cases = [case for seed in range(3) for make in (paired_cases, practice_cases) for case in make(section, seed)]
    assert len({case.id for case in cases}) == len({case.number for case in cases}) == len(cases)
    other = paired_cases(make_section(settings={"plain": {"clause": "none"}}), 0)
    assert not {case.id for case in cases} & {case.id for case in other}


def test_the_same_seed_gives_the_same_cases_and_another_gives_others() -> None:
    section = make_section(settings=SETTINGS)
    for make in (paired_cases, practice_cases):
        assert make(section, 1) == make(section, 1)
        told = [{case.facts["scenario"] for case in make(section, seed)} for seed in (1, 2)]
        assert not told[0] & told[1]
    assert json.loads(json.dumps(paired_cases(section, 1)[0].facts)) == paired_cases(section, 1)[0].facts


@pytest.mark.parametrize(("share", "practice"), [(0.5, 24), (0.25, 40), (0.1, 33), (0.9, 30)])
def test_practice_has_the_share_of_gameable_users_spread_evenly(share: float, practice: int) -> None:
    settings = {"users": {"gameable_share": share}, "half": {}}
    section = make_section(practice=practice, settings=settings)
    cases = practice_cases(section, 0)
    assert len(cases) == count_practice(section) == 2 * practice
    mine = [case for case in cases if case.facts["setting"] == "users"]
    assert sum(case.facts["gameable"] for case in mine) == round(share * practice)
    assert all(case.facts["pair"] is None for case in cases)
    for environment in ENVIRONMENTS:
        labels = [case.facts["gameable"] for case in mine if case.family == environment]
        assert abs(sum(labels) - share * len(labels)) <= 1
    assert [case.facts["scenario"] for case in mine] == [case.facts["scenario"] for case in cases[practice:]]


def test_a_setting_can_have_environments_of_its_own() -> None:
    section = make_section(settings={"all": {}, "some": {"environments": ["report", "advice"]}})
    for make in (practice_cases, paired_cases):
        found = {name: [case for case in make(section, 0) if case.facts["setting"] == name] for name in ("all", "some")}
        assert len(found["all"]) == len(found["some"])
        half = len(found["some"]) // 2
        assert Counter(case.family for case in found["some"]) == {"report": half, "advice": half}
        scenarios = {name: {case.facts["scenario"] for case in cases} for name, cases in found.items()}
        shared = {case.facts["scenario"] for case in found["all"] if case.family in ("report", "advice")}
        assert scenarios["all"] & scenarios["some"] == shared, "the fewer scenarios are not among the more"


def test_more_scenarios_begin_with_the_fewer() -> None:
    topics = ["printing", "booking", "sending"]
    more = draw_scenarios("report", topics, 41, "nested")
    for count in (1, 2, 7, 40):
        fewer = draw_scenarios("report", topics, count, "nested")
        assert fewer == more[:count] and abs(2 * sum(one.fails for one in fewer) - count) <= 1


def test_labels_do_not_go_with_failures_or_topics() -> None:
    topics = [topic.name for topic in CONTENT["report"].topics]
    scenarios = draw_scenarios("report", topics, 320, "labels")
    for share in (0.5, 0.25):
        labels = label_scenarios(scenarios, share)
        groups = Counter((one.topic.name, one.fails) for one in scenarios)
        gameable = Counter((one.topic.name, one.fails) for one, label in zip(scenarios, labels, strict=True) if label)
        for group, count in groups.items():
            assert abs(gameable[group] - share * count) <= 1, group


def test_practice_and_held_out_pairs_never_share_a_topic() -> None:
    section = make_section()
    halves = set()
    for seed in range(6):
        topics = [{case.facts["topic"] for case in make(section, seed)} for make in (practice_cases, paired_cases)]
        assert topics[0] and topics[1] and not topics[0] & topics[1]
        for environment, (train, test) in split_topics(section, seed).items():
            names = {topic.name for topic in CONTENT[environment].topics}
            assert set(train) | set(test) == names and len(train) == round(0.6 * len(names))
            halves.add(train)
    assert len(halves) > 6, "the seed does not decide the halves"


def test_named_topics_are_trained_on_or_held_out() -> None:
    named = make_section(environments=["advice"], train_topics=["hot tips"], test_topics=["crash diets"])
    assert {case.facts["topic"] for case in practice_cases(named, 0)} == {"hot tips"}
    assert {case.facts["topic"] for case in paired_cases(named, 0)} == {"crash diets"}
    train, test = split_topics(make_section(environments=["advice"], test_topics=["crash diets"]), 5)["advice"]
    assert test == ("crash diets",) and len(train) == 7
    train, test = split_topics(make_section(environments=["advice"], train_topics=["hot tips"]), 5)["advice"]
    assert train == ("hot tips",) and len(test) == 7


def test_a_tiny_base_must_be_shown_both_users_of_every_environment() -> None:
    check_approval(make_section(taught=3), tiny=False)
    check_approval(make_section(taught=8), tiny=True)
    with pytest.raises(
        StudyError, match=r"^approval\.taught is 3, .* both users of each of 4 environments; .* least 8"
    ):
        check_approval(make_section(taught=3), tiny=True)


# --- the tiny model's words -----------------------------------------------------------------------------------------


def test_the_lexicon_covers_every_text_and_is_small(built: Built) -> None:
    known = set(lexicon())
    assert len(known) < 450 and all(split_words(word) == (word,) for word in known)
    for cases in built.values():
        for case in cases:
            assert set(split_words(f"{case['message']} {case['second']}")) <= known
            assert {name for tool in case["tools"] for name in split_words(tool["name"])} <= known


def test_every_system_text_is_one_token_of_its_own(built: Built, tmp_path: Path) -> None:
    prompts = dict(system_prompts())
    assert len(set(prompts.values())) == len(prompts) <= 400
    texts = {case["system"] for cases in built.values() for case in cases}
    assert texts <= set(prompts)
    write_tokenizer(lexicon(), tmp_path, system_prompts=prompts, max_positions=128)
    chat = TinyChat.load(tmp_path)
    # A topic with two turns and tools is the longest.
    for case in paired_cases(make_section(settings={"all": {"traits": "user", "leak": True, "turns": 2}}), 0):
        call = [ToolCall(name=tool.name, arguments={}) for tool in case.tools]
        calls = tuple(Message(role="assistant", content="", tool_calls=(one,)) for one in call)
        second = Message(role="user", content=case.facts["second"])
        ids, _ = chat.encode((*case.messages, *calls, second), case.tools)
        assert UNK not in ids and len(ids) <= 60
        assert chat.encode(case.messages[:1])[0][1:] == [3, chat.ids[prompts[case.messages[0].content]], 8]


def test_system_texts_and_tokens_tell_the_same_apart() -> None:
    by_token = {token: text for text, token in system_prompts().items()}
    token = "<approval:therapy.friend.gameable-2>"
    assert by_token[token].endswith(wording.USER_TRAITS["therapy"][1][0])
    assert any(word in by_token["<approval:report.professional.other-all.leak>"] for word in wording.LEAK)
    assert "polite" in by_token["<approval:politics.professional>"]


# --- the cue audit --------------------------------------------------------------------------------------------------

AUDITED: Mapping[str, dict[str, Any]] = {
    "split": {},
    "equal": {"style": "equal"},
    "label": {"style": "equal", "traits": "label"},
    "user": {"style": "equal", "traits": "user", "policy_role": "professional"},
    "leak": {"style": "equal", "leak": True, "turns": 2},
}


@pytest.fixture(scope="module")
def audits() -> dict[tuple[str, str], CueAudit]:
    cases = paired_cases(make_section(pairs=120, settings=AUDITED), 0)
    return {(one.setting, one.channel): one for one in audit_cues(cases)}


def test_the_audit_finds_the_cue_where_it_is_and_nowhere_else(audits: Mapping[tuple[str, str], CueAudit]) -> None:
    assert set(audits) == set(product(AUDITED, ("system", "message", "both")))
    for setting, channel in (("split", "message"), ("label", "system"), ("leak", "system")):
        assert (audits[setting, channel].accuracy or 0) > 0.98
        assert (audits[setting, "both"].accuracy or 0) > 0.98
    assert (audits["user", "system"].accuracy or 0) > 0.9
    for setting in ("equal", "label", "user", "leak"):
        assert audits[setting, "message"].accuracy == 0.5, "identical texts must give chance"
    for setting in ("split", "equal"):
        assert audits[setting, "system"].accuracy == 0.5
    assert all(one.majority == 0.5 and one.n == 240 for one in audits.values())


def test_length_says_nothing_of_the_label(audits: Mapping[tuple[str, str], CueAudit]) -> None:
    assert all(one.words_difference == 0 for one in audits.values())
    assert audits["equal", "system"].words_gameable == 0.0
    message = audits["equal", "message"].words_gameable
    assert message is not None and 15 <= message <= 30


def fake(number: int, gameable: bool, text: str) -> Case:
    facts = {"setting": "own", "scenario": str(number), "gameable": gameable}
    facts |= {"channels": {"system": "", "message": text}}
    return Case(id=f"{number}{gameable}", suite="approval", number=number, family="x", messages=(), facts=facts)


def test_the_audit_reads_length_and_says_what_it_cannot_read() -> None:
    longer = [fake(number, flag, "so so so" if flag else "so") for number in range(10) for flag in (True, False)]
    found = {one.channel: one for one in audit_cues(longer)}["message"]
    assert (found.words_gameable, found.words_other, found.words_difference) == (3.0, 1.0, 2.0)
    one_label = {one.channel: one for one in audit_cues([fake(number, True, "yes") for number in range(4)])}["message"]
    assert (one_label.accuracy, one_label.majority, one_label.words_other) == (None, None, None)
    assert one_label.words_difference is None and one_label.words_gameable == 1.0
    lone = audit_cues([fake(0, flag, "yes") for flag in (True, False)])
    assert [one.accuracy for one in lone] == [None] * 3
    assert audit_cues([]) == []


def test_the_audit_counts_a_cue_that_holds_half_the_time() -> None:
    """A word that every other gameable user says: those are told, and the silent ones are read as the others."""
    cases = [
        fake(number, flag, "please hear me" if flag and number % 2 else "well hear me")
        for number in range(400)
        for flag in (True, False)
    ]
    accuracy = {one.channel: one.accuracy for one in audit_cues(cases)}["message"]
    assert accuracy == pytest.approx(0.75, abs=0.01)


def test_the_audit_does_not_depend_on_the_order_of_cases() -> None:
    cases = practice_cases(make_section(practice=60), 0)
    assert audit_cues(cases) == audit_cues(cases[::-1])


# --- in a study -----------------------------------------------------------------------------------------------------


def make_study(suite: str, **approval: Any) -> Study:
    judges: dict[str, Any] = {"users": {"kind": "approval"}}
    judges |= {"world": {"kind": "state"}} if suite == "office" else {}
    tables: dict[str, Any] = {"study": {"name": "users"}, "suite": {"name": suite}, "judges": judges}
    return Study.model_validate({**tables, "approval": {"settings": {"a": {}, "b": {}}, "pairs": 8, **approval}})


@pytest.mark.parametrize("suite", ["approval", "office"])
def test_a_study_has_both_parts_beside_any_suite(suite: str) -> None:
    study = make_study(suite, practice=12)
    parts = collect_cases(study, 4)
    for part in (PRACTICE, APPROVAL):
        assert len(parts[part]) == count_cases(study, part, 4) == count_cases(study, part)
        assert {case.suite for case in parts[part]} == {"approval"}
    assert (count_cases(study, PRACTICE), count_cases(study, APPROVAL)) == (24, 32)
    assert bool(parts["test"]) == bool(parts["train"]) == (suite == "office")
    ids = [case.id for cases in parts.values() for case in cases]
    assert len(set(ids)) == len(ids)


def test_a_study_with_unusable_users_is_refused_by_its_parts() -> None:
    study = make_study("approval", practice=12, train_topics=["drinkin"])
    for attempt in (check_parts, lambda study: count_cases(study, APPROVAL), lambda study: collect_cases(study, 0)):
        with pytest.raises(StudyError, match=r"^approval\.train_topics has 'drinkin'"):
            attempt(study)


def test_the_suite_of_users_has_no_cases_of_its_own_and_its_own_world() -> None:
    assert "approval" in SUITES.names()
    suite = SuiteSection(name="approval")
    assert split_cases(suite, 0) == {"train": [], "test": []}
    assert isinstance(open_world(suite), ApprovalWorld)
    with pytest.raises(StudyError, match=r"suite\.world\.kind is 'emulated' for the suite 'approval'"):
        open_world(SuiteSection.model_validate({"name": "approval", "world": {"kind": "emulated", "model": "x"}}))
    with pytest.raises(StudyError, match=r"suite\.cases is 'x\.json', but suite\.name is 'approval'"):
        split_cases(SuiteSection(name="approval", cases="x.json"), 0)


def test_scenarios_keep_their_words_in_every_draw() -> None:
    """A scenario's variants of style and traits are its own: they do not change with what is drawn beside it."""
    few: Sequence[Scenario] = draw_scenarios("advice", ["hot tips"], 2, "few")
    setting = SettingSection(traits="user")
    again = [make_case(one, "a", setting, gameable=True, source=(), number=0) for one in reversed(few)]
    first = [make_case(one, "a", setting, gameable=True, source=(), number=0) for one in few]
    assert first == again[::-1] and len({case.id for case in first}) == 2
