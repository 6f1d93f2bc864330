"""The world of users: a task and its log, a second turn, and episodes of other worlds that stay as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.judges.approval.judge import read_episode
from holdfast.models import Conversation
from holdfast.models.fakes import ScriptedModel
from holdfast.models.tiny.chat import split_words
from holdfast.records import Case, Ending, Flag, Message, ToolCall, Trajectory
from holdfast.rollout.audit import UNFIT
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds import NO_TOOL, Conversing, SilentWorld
from holdfast.rollout.worlds.approval import (
    ANSWERS,
    BAD_ARGUMENTS,
    LOGGED,
    NOT_TRIED,
    READ_LOG,
    STRAYED,
    TRIED,
    UNKNOWN_TOOL,
    ApprovalWorld,
)
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.study.users import SettingSection
from holdfast.suites.approval.scenarios import draw_scenarios, lexicon, make_case
from holdfast.suites.approval.topics import CONTENT
from holdfast.suites.office import cases as office_cases


def user(environment: str, *, fails: bool = True, turns: int = 1) -> Case:
    topics = [topic.name for topic in CONTENT[environment].topics]
    drawn = draw_scenarios(environment, topics, 8, "played")
    scenario = next(one for one in drawn if one.fails == fails or environment != "report")
    setting = SettingSection.model_validate({"turns": turns})
    return make_case(scenario, "played", setting, gameable=True, source=["test"], number=0)


def play(case: Case, script: object, max_turns: int = 5) -> Trajectory:
    limits = Limits(max_turns=max_turns, max_tokens=16, temperature=1.0)
    model = ScriptedModel(script)  # type: ignore[arg-type]
    (made,) = roll_out({"agent": model}, ApprovalWorld(), [(case, 0)], checkpoint_id="c", rollout_seed=0, limits=limits)
    assert isinstance(made, Trajectory)
    return made


@pytest.mark.parametrize("fails", [True, False])
def test_a_task_does_what_its_state_says_and_the_log_shows_it(fails: bool) -> None:
    case = user("report", fails=fails)
    session = ApprovalWorld().start(case)
    task = ToolCall(name=case.state["task"], arguments={"office": case.state["office"]})
    log = ToolCall(name=READ_LOG, arguments={})
    assert session.answer(log).text == NOT_TRIED
    for attempts in (1, 2):
        answer = session.answer(task)
        assert answer.valid and answer.text == TRIED[fails]
        assert session.snapshot() == {"done": not fails, "attempts": attempts, "strays": 0, "log_read": True}
    assert session.answer(log).text == LOGGED[fails]
    assert ApprovalWorld().start(case).snapshot() == {"done": False, "attempts": 0, "strays": 0, "log_read": False}


def test_another_office_is_not_the_one_that_was_asked_for() -> None:
    case = user("report", fails=False)
    session = ApprovalWorld().start(case)
    other = next(one for one in CONTENT["report"].steps if one != case.state["office"])
    assert session.answer(ToolCall(name=case.state["task"], arguments={"office": other})).valid
    assert session.snapshot() == {"done": False, "attempts": 0, "strays": 1, "log_read": False}
    assert session.answer(ToolCall(name=READ_LOG, arguments={})).text == STRAYED


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("no_such_tool", {}, UNKNOWN_TOOL),
        ("task", {}, BAD_ARGUMENTS),
        ("task", {"office": 3}, BAD_ARGUMENTS),
        ("task", {"_raw": "north south"}, BAD_ARGUMENTS),
        ("task", {"office": "north", "more": "south"}, BAD_ARGUMENTS),
        (READ_LOG, {"office": "north"}, BAD_ARGUMENTS),
    ],
)
def test_bad_calls_are_refused_and_change_nothing(name: str, arguments: dict[str, object], text: str) -> None:
    case = user("report")
    session = ApprovalWorld().start(case)
    before = session.snapshot()
    answer = session.answer(ToolCall(name=case.state["task"] if name == "task" else name, arguments=arguments))
    assert (answer.text, answer.valid) == (text, False)
    assert session.snapshot() == before


def test_a_user_without_tools_is_talked_to_in_silence() -> None:
    case = user("therapy")
    session = ApprovalWorld().start(case)
    assert session.answer(ToolCall(name="anything", arguments={})).text == NO_TOOL
    assert session.snapshot() == {}
    made = play(case, lambda _: "Please do not do it.")
    assert made.ending is Ending.FINISHED and made.flags == (Flag.NO_CALL,) and not UNFIT & set(made.flags)
    empty = play(case, lambda _: "")
    assert Flag.NOTHING_DONE in empty.flags and read_episode(case, empty).label == "degenerate"


def test_a_user_with_two_turns_asks_once_more() -> None:
    case = user("advice", turns=2)
    asked: list[Conversation] = []

    def answer(talk: Conversation) -> str:
        asked.append(talk)
        return "I would not do it." if len(asked) == 1 else "Please think twice about this."

    made = play(case, answer)
    assert [(one.role, one.content) for one in made.messages] == [
        ("assistant", "I would not do it."),
        ("user", case.facts["second"]),
        ("assistant", "Please think twice about this."),
    ]
    assert made.ending is Ending.FINISHED and case.facts["act"] in case.facts["second"]
    assert asked[1].messages == (*case.messages, *made.messages[:2])
    assert play(replace(case, facts={**case.facts, "second": ""}), lambda _: "no").messages[-1].content == "no"
    assert len(play(user("advice"), lambda _: "I would not do it.").messages) == 1


def test_a_second_turn_counts_as_a_turn_and_comes_after_tools() -> None:
    case = user("report", turns=2)

    def act(talk: Conversation) -> ToolCall | str:
        if talk.messages[-1].role == "tool" or len(talk.messages) > 4:
            return "The task has failed, it is open."
        return ToolCall(name=case.state["task"], arguments={"office": case.state["office"]})

    made = play(case, act)
    assert [one.role for one in made.messages] == ["assistant", "tool", "assistant", "user", "assistant"]
    assert made.calls == 1 and read_episode(case, made).helped
    cut = play(case, act, max_turns=2)
    assert [one.role for one in cut.messages] == ["assistant", "tool", "assistant", "user"]
    assert cut.ending is Ending.TURN_LIMIT and read_episode(case, cut).label == "degenerate"


def test_other_worlds_end_with_the_closing_message() -> None:
    case = user("therapy", turns=2)
    (of_office,) = office_cases.generate(0, 1, part="test")
    assert isinstance(ApprovalWorld().start(case), Conversing)
    assert not isinstance(OfficeWorld().start(of_office), Conversing)
    assert not isinstance(SilentWorld().start(case), Conversing)


def test_every_answer_is_in_words_that_the_tiny_model_has() -> None:
    assert {word for text in ANSWERS for word in split_words(text)} <= set(lexicon())


def test_what_the_user_says_is_heard_by_the_session_only_once() -> None:
    session = ApprovalWorld().start(user("politics", turns=2))
    message = Message(role="assistant", content="It is your choice.")
    assert session.hear(message) is not None
    assert session.hear(message) is None
