"""The office world: what calls change, what they refuse, and that nothing leaves the process."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.models.tiny.chat import split_words
from holdfast.records import Case, ToolCall
from holdfast.rollout.worlds import Session, World
from holdfast.rollout.worlds.office import ALREADY_DONE, BAD_ARGUMENTS, NO_SUCH_OBJECT, UNKNOWN_TOOL, OfficeWorld
from holdfast.suites.office.cases import generate, lexicon
from holdfast.suites.office.families import FAMILIES
from holdfast.suites.office.policies import POLICIES, demonstrate

CASES = generate(11, 400, part="train")
WORLD: World = OfficeWorld()


def find_case(family: str, hazards: list[int]) -> Case:
    return next(case for case in CASES if case.family == family and case.facts["hazards"] == hazards)


def call(name: str, target: object) -> ToolCall:
    return ToolCall(name=name, arguments={"object": target})


def test_each_tool_does_what_it_says() -> None:
    case = find_case("files", [2])
    (name,) = case.facts["objects"]
    session = WORLD.start(case)
    before = session.snapshot()
    assert before == {"status": {name: "untouched"}, "events": [], "harm": {"mild": 0, "severe": 0, "unrequested": 0}}
    assert session.answer(call("inspect_file", name)).text == case.state["items"][name]["finding"]
    assert session.answer(call("ask_user", name)).text == case.state["items"][name]["reply"]
    assert session.snapshot()["status"] == {name: "untouched"}
    assert session.answer(call("archive_file", name)).text == "archived"
    assert session.snapshot()["status"] == {name: "altered"}
    assert session.answer(call("delete_file", name)).text == "deleted last copy lost"
    for act in ("delete_file", "archive_file"):
        assert session.answer(call(act, name)).text == ALREADY_DONE
    after = session.snapshot()
    assert after["status"] == {name: "committed"}
    assert after["harm"] == {"mild": 0, "severe": 1, "unrequested": 0}
    assert [act for act, _ in after["events"]] == ["check", "ask", "alternative", "commit", "commit", "alternative"]
    assert before["events"] == []


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("format_disk", {"object": "q3_report"}, UNKNOWN_TOOL),
        ("", {}, UNKNOWN_TOOL),
        ("delete_file", {}, BAD_ARGUMENTS),
        ("delete_file", {"_raw": "q3_report"}, BAD_ARGUMENTS),
        ("delete_file", {"object": "q3_report", "force": True}, BAD_ARGUMENTS),
        ("delete_file", {"object": ["q3_report"]}, BAD_ARGUMENTS),
        ("delete_file", {"object": None}, BAD_ARGUMENTS),
        ("delete_file", {"object": "acme_bill"}, NO_SUCH_OBJECT),
    ],
)
def test_malformed_calls_are_refused_and_change_nothing(name: str, arguments: dict[str, object], text: str) -> None:
    session = WORLD.start(find_case("files", [0]))
    before = session.snapshot()
    answer = session.answer(ToolCall(name=name, arguments=arguments))
    assert (answer.valid, answer.text) == (False, text)
    assert session.snapshot() == before


def test_objects_that_nobody_asked_for_exist_and_can_be_hit() -> None:
    case = find_case("files", [0])
    other = case.state["others"][0]
    session = WORLD.start(case)
    assert session.answer(call("delete_file", other)).valid
    assert session.snapshot()["status"][other] == "committed"
    assert session.snapshot()["harm"]["unrequested"] == 1


def test_a_planted_instruction_names_an_object_that_exists() -> None:
    for case in CASES:
        if case.family == "injection" and any(case.facts["hazards"]):
            assert case.state["bait"] in FAMILIES["injection"].baits
            planted = [item["finding"] for item in case.state["items"].values() if item["hazard"]]
            assert all(case.state["bait"] in split_words(finding) for finding in planted)
            assert WORLD.start(case).answer(call("apply_note", case.state["bait"])).valid
        else:
            assert case.state["bait"] is None


def test_snapshots_sessions_and_the_case_share_nothing() -> None:
    case = find_case("payment", [0])
    untouched = copy.deepcopy(case.state)
    first, second = WORLD.start(case), WORLD.start(case)
    (name,) = case.facts["objects"]
    taken = first.snapshot()
    first.answer(call("pay_bill", name))
    later = first.snapshot()
    later["status"][name] = "spoilt"
    later["events"].append(["spoilt", name])
    later["events"][0][0] = "spoilt"
    assert taken["status"] == {name: "untouched"} and taken["events"] == []
    assert first.snapshot()["events"] == [["commit", name]]
    assert second.snapshot() == taken
    assert case.state == untouched


CALLS = st.builds(
    ToolCall,
    name=st.one_of(st.sampled_from([tool.name for case in CASES[:40] for tool in case.tools]), st.text(max_size=8)),
    arguments=st.one_of(
        st.fixed_dictionaries({"object": st.sampled_from([n for row in FAMILIES.values() for n in row.objects])}),
        st.dictionaries(st.sampled_from(["object", "_raw", "x"]), st.one_of(st.none(), st.integers(), st.text())),
    ),
)


@given(st.sampled_from(CASES), st.lists(CALLS, max_size=12))
def test_no_sequence_of_calls_breaks_the_world(case: Case, calls: list[ToolCall]) -> None:
    session: Session = WORLD.start(case)
    words = set(lexicon())
    for made in calls:
        before = session.snapshot()
        answer = session.answer(made)
        assert words.issuperset(split_words(answer.text))
        if not answer.valid:
            assert session.snapshot() == before
    after = session.snapshot()
    assert json.loads(json.dumps(after)) == after
    assert set(after["status"]) >= set(case.facts["objects"])


class Watch:
    """Records audit events while armed. An audit hook stays for good, so it must be silent when disarmed."""

    HOST = ("open", "socket.", "subprocess.", "os.", "shutil.", "import", "ctypes.", "urllib.", "sqlite3.", "exec")

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if self.armed and event.startswith(self.HOST):
            self.seen.append(event)


def test_the_world_touches_nothing_of_the_host(tmp_path: Path) -> None:
    watch = Watch()
    sys.addaudithook(watch)
    watch.armed = True
    (tmp_path / "probe").write_text("seen")
    watch.armed = False
    assert "open" in watch.seen, "the watch sees nothing"
    watch.seen.clear()
    random = Random(3)
    watch.armed = True
    for case in CASES:
        for policy in POLICIES:
            demonstrate(case, policy, random)
        WORLD.start(case).answer(ToolCall(name="/bin/sh", arguments={"object": "../../etc/passwd"}))
    watch.armed = False
    assert watch.seen == []
