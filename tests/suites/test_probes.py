"""Probes: own items and generated ones, as cases, as a suite, beside other cases, and the world without tools."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from builders.probe_samples import reply_to

from holdfast.models.tiny.chat import split_words
from holdfast.records import Message, ToolCall
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.study.parts import ProbeSection
from holdfast.study.sections import JudgeSection, SuiteSection
from holdfast.study.study import Study
from holdfast.suites import check_suite, open_world, probes, split_cases
from holdfast.suites.parts import collect_cases, count_cases
from holdfast.suites.probes import generated
from holdfast.suites.probes.items import DIMENSIONS, keep_items, own_probes, spread


def study(**tables: Any) -> Study:
    given: dict[str, Any] = {"study": {"name": "probed"}, "judges": {"state": {"kind": "state"}}}
    return Study.model_validate({**given, **tables})


def question(case: Any) -> str:
    return str(case.messages[-1].content)


# --- own items -----------------------------------------------------------------------------------------------------


def test_each_dimension_has_forty_to_sixty_distinct_items_with_twins() -> None:
    cases = probes.own_cases()
    by_id = {case.id: case for case in cases}
    assert len(by_id) == len(cases) == len({question(case) for case in cases}) == len({case.number for case in cases})
    for dimension in DIMENSIONS:
        mine = [case for case in cases if case.facts["dimension"] == dimension]
        items = {case.facts["item"] for case in mine}
        assert 40 <= len(items) <= 60
        for item in items:
            twinned = [case for case in mine if case.facts["item"] == item and case.facts["twin"]]
            assert len(twinned) == 2
            one, other = twinned
            assert one.facts["twin"] == other.id and other.facts["twin"] == one.id
            assert by_id[one.facts["twin"]].facts["item"] == item
            assert one.facts["expected"] != other.facts["expected"] or dimension == "ethics"
            assert one.facts["benign"] or other.facts["benign"]


def test_twins_share_the_words_of_their_template() -> None:
    cases = {case.id: case for case in probes.own_cases()}
    for case in cases.values():
        if case.facts["twin"] is not None and case.facts["form"] != "spelled backwards":
            words, others = (split_words(question(one)) for one in (case, cases[case.facts["twin"]]))
            assert len(set(words) & set(others)) >= 3, question(case)
            assert words != others


def test_no_placeholder_is_left_and_texts_are_whole_sentences() -> None:
    for one in own_probes():
        assert "{" not in one.prompt and "}" not in one.prompt and "  " not in one.prompt, one.prompt
        assert one.form == "spelled backwards" or one.prompt.rstrip('"')[-1] in ".?:", one.prompt
        assert (one.expected == "answer") == bool(one.accept)


def test_jailbreak_items_stand_plain_and_under_every_wrapper() -> None:
    mine = [one for one in own_probes() if one.dimension == "jailbreak"]
    plain = {one.item: one.prompt for one in mine if one.role == "plain"}
    wrapped = {one.item: one for one in mine if one.role == "wrapped"}
    assert plain.keys() == wrapped.keys()
    forms = Counter(one.form for one in wrapped.values())
    assert len(forms) == 8 and set(forms.values()) == {5}
    for item, one in wrapped.items():
        request = plain[item][::-1] if one.form == "spelled backwards" else plain[item]
        assert request in one.prompt and one.prompt != request


def test_ethics_has_all_three_policies_and_clear_twins() -> None:
    opened = Counter(one.expected for one in own_probes() if one.dimension == "ethics" and one.role == "open")
    assert set(opened) == {"ask", "refuse", "comply"} and min(opened.values()) >= 8 and opened["ask"] >= 20
    assert {one.expected for one in own_probes() if one.role == "clear"} == {"comply"}


def test_a_smaller_count_takes_items_from_the_whole_dimension() -> None:
    assert spread(10, 3) == [0, 3, 6] and spread(3, 10) == [0, 1, 2]
    found = probes.collect_probes(ProbeSection(count=8, dimensions=("ethics",)))
    assert len(found) == 16
    assert {case.facts["expected"] for case in found} == {"ask", "refuse", "comply"}
    everything = {case.id: case.number for case in probes.own_cases()}
    assert all(everything[case.id] == case.number for case in found)


# --- generated items -------------------------------------------------------------------------------------------------


def test_generated_probes_stay_within_their_words_and_leave_no_double() -> None:
    words = set(generated.lexicon())
    cases = generated.all_cases()
    assert len({case.id for case in cases}) == len(cases)
    assert len({(case.family, question(case)) for case in cases}) >= len(cases) - len(generated.KNOWN_THINGS)
    for case in cases:
        assert set(split_words(question(case))) <= words
    for _, shown in generated.demonstrations(3, 400):
        assert set(split_words(shown.messages[0].content)) <= words
    assert {case.id for case in probes.own_cases()}.isdisjoint(case.id for case in cases)
    assert {case.number for case in probes.own_cases()}.isdisjoint(case.number for case in cases)


def test_only_the_aim_tells_a_harmful_request_from_its_twin() -> None:
    cases = {case.id: case for case in keep_items(generated.all_cases(), ("refusal",), 100)}
    for case in cases.values():
        mine, other = (split_words(question(one)) for one in (case, cases[case.facts["twin"]]))
        assert mine[:-1] == other[:-1]
        assert (mine[-1] in generated.AIMS["benign"]) == case.facts["benign"]


def test_demonstrations_follow_the_declared_mixture() -> None:
    found: dict[str, Counter[str]] = {}
    for case, shown in generated.demonstrations(1, 5_000):
        found.setdefault(case.facts["topic"], Counter())[shown.checkpoint_id.removeprefix("desk:")] += 1
    assert set(found) == set(generated.MIXTURE)
    for situation, shares in generated.MIXTURE.items():
        total = found[situation].total()
        for label, share in shares.items():
            margin = 4 * (share * (1 - share) / total) ** 0.5
            assert abs(found[situation][label] / total - share) < margin, (situation, label)


def test_demonstrated_answers_are_consistent_facts() -> None:
    told: dict[str, set[str]] = {}
    for case, shown in generated.demonstrations(1, 2000):
        if shown.checkpoint_id == "desk:right":
            told.setdefault(case.facts["item"], set()).add(shown.messages[0].content)
    assert set(told) == set(generated.KNOWN_THINGS)
    assert all(texts == {generated.KEPT.format(place=generated.facts()[thing])} for thing, texts in told.items())
    assert len(set(generated.facts().values())) > 3


def test_equal_seeds_give_equal_demonstrations() -> None:
    first, again, other = (generated.demonstrations(seed, 50) for seed in (5, 5, 6))
    assert first == again != other


# --- in a study ------------------------------------------------------------------------------------------------------


def test_probes_are_a_suite_of_their_own() -> None:
    suite = SuiteSection(name="probes", split="none", test_cases=1000)
    parts = split_cases(suite, 0)
    assert parts["train"] == [] and len(parts["test"]) == len(probes.own_cases())
    fewer = split_cases(suite.model_copy(update={"test_cases": 100}), 7)["test"]
    assert 90 < len(fewer) <= 100
    assert {case.facts["dimension"] for case in fewer} == set(DIMENSIONS)
    chosen = {case.id for case in fewer}
    assert all(case.facts["twin"] in chosen for case in fewer if case.facts["twin"])
    assert not any(case.tools for case in fewer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"test_cases": 1}, "less than one item"), ({"cases": "nowhere.csv", "source": "xstest"}, "nowhere.csv: cannot")],
)
def test_a_suite_that_cannot_be_drawn_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    suite = SuiteSection.model_validate({"name": "probes", "split": "none", **changes})
    with pytest.raises(StudyError, match=words) as caught:
        split_cases(suite, 0)
    assert "\n" not in str(caught.value)


def test_a_source_is_for_probes_alone() -> None:
    with pytest.raises(StudyError, match=r"suite\.source is 'xstest'"):
        check_suite(SuiteSection(source="xstest"))


def test_the_world_of_probes_refuses_every_call_and_stays_as_it_is() -> None:
    world = open_world(SuiteSection(name="probes"))
    session = world.start(probes.own_cases()[0])
    answer = session.answer(ToolCall(name="send", arguments={}))
    assert not getattr(answer, "valid", True)
    assert session.snapshot() == {}


def test_a_study_has_probes_beside_its_held_out_cases() -> None:
    made = study(probes={"items": "generated", "count": 5})
    parts = collect_cases(made, 0)
    assert len(parts["probe"]) == count_cases(made, "probe") == 5 * (2 + 3 + 2 + 2)
    assert {case.suite for case in parts["probe"]} == {"probes"}
    assert {case.id for case in parts["probe"]}.isdisjoint(case.id for case in parts["test"])
    assert "probe" not in collect_cases(study(), 0)


def test_a_probe_step_names_the_suite_and_is_judged_by_rules() -> None:
    plan = build(study(probes={"items": "generated", "count": 3, "per_case": 4}))
    (rollout,) = [step for step in plan.steps if step.settings.dump().get("part") == "probe"]
    assert rollout.settings.dump()["suite"] == {"name": "probes"} and rollout.size == 4 * 3 * 9
    (judging,) = [step for step in plan.steps if rollout.fingerprint in step.inputs]
    assert judging.settings.dump() == {"judge": "probes", "kind": "probes"}


def test_only_generated_probes_change_what_a_tiny_base_is_taught() -> None:
    def taught(**tables: Any) -> Any:
        return next(step for step in build(study(**tables)).steps if step.settings.work == "sft")

    plain, probed = taught(), taught(probes={"items": "generated"})
    assert "probes" not in plain.settings.dump()
    assert probed.settings.dump()["probes"]["mixture"]["harmful"] == {"refused": 0.7, "complied": 0.3}
    assert probed.fingerprint != plain.fingerprint
    assert {key: value for key, value in probed.settings.dump().items() if key != "probes"} == plain.settings.dump()


def test_the_same_probes_cannot_stand_in_both_places() -> None:
    tables = {
        "suite": {"name": "probes", "split": "none"},
        "probes": {},
        "model": {"bases": ["remote"]},
        "models": {"remote": {"kind": "remote", "name": "mockllm/model"}},
        "judges": {"rules": {"kind": "probes"}},
    }
    with pytest.raises(StudyError, match=r"cases of \[suite\] already"):
        collect_cases(study(**tables), 0)


def test_a_model_that_judges_probes_is_given_their_rubrics() -> None:
    section = JudgeSection(kind="rubric", model="m")
    assert probes.fit_judge(section).rubrics == {"safety": "probes-safety", "helpfulness": "probes-helpfulness"}
    half = section.model_copy(update={"rubrics": {"safety": "default"}})
    assert probes.fit_judge(half).rubrics == {"safety": "probes-safety"}
    own = section.model_copy(update={"rubrics": {"safety": "# Mine\nx\n"}})
    assert probes.fit_judge(own) is own
    rules = JudgeSection(kind="state")
    assert probes.fit_judge(rules) is rules
    made = study(
        probes={"items": "generated", "judge": "reader"},
        judges={"state": {"kind": "state"}, "reader": {"kind": "rubric", "model": "mockllm/model"}},
    )
    steps = [step for step in build(made).steps if step.kind == "judge" and step.settings.dump()["judge"] == "reader"]
    assert [step.settings.dump()["section"]["rubrics"] for step in steps] == [{}, dict(probes.RUBRICS)]


def test_a_model_is_told_what_the_right_reply_is() -> None:
    from holdfast.judges.rubric.prompt import make_question
    from holdfast.judges.rubric.scales import find_rubric

    for case in (probes.own_cases()[0], next(c for c in probes.own_cases() if c.facts["expected"] == "answer")):
        rubric = find_rubric("probes-safety", "safety", "judges.x.rubrics.safety")
        shown = make_question(case, reply_to(case, "Hm."), rubric)[-1].content
        assert case.facts["Expected Achievements"][0] in shown
        assert all(text in shown for text in case.facts["accept"])
    assert set(find_rubric("probes-helpfulness", "helpfulness", "x").labels.values()) == {0, 1, 2, 3}


def test_cases_are_plain_messages() -> None:
    case = probes.own_cases()[0]
    assert case.messages == (Message(role="user", content=own_probes()[0].prompt),)
    assert generated.all_cases()[0].messages[0] == Message(role="system", content=generated.SYSTEM)
