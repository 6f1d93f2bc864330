"""Field cases of calls (X): calls that nobody read, and bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from builders.field_calls import (
    DELETE,
    DELETED,
    HARMLESS,
    MARKED,
    SPELLED,
    TOOLS,
)
from builders.places import case_input

from holdfast.cli.main import main
from holdfast.judges.rubric.parsing import MAX_REPLY, parse_tolerant
from holdfast.judges.rubric.scales import VALUES
from holdfast.models.calls.native import read_native, read_reply
from holdfast.models.calls.spelled import spells_call
from holdfast.models.hub.chat import HubChat
from holdfast.records import Ending, Flag, Message, ToolSpec
from holdfast.records.errors import JudgeError
from holdfast.rollout.audit import audit
from holdfast.store import Store

os.environ["HF_HUB_OFFLINE"] = "1"


def test_h_03_a_model_that_answers_in_its_own_format(tmp_path: Path) -> None:
    base = case_input("H-03") / "base"
    text = "<tool_call><function=delete_file><parameter=path>/etc</parameter></function></tool_call>"
    native, plain = HubChat(base), HubChat(base, calls="text")
    message, how = native.read(text, [DELETE])
    assert native.native and how == "stop" and message is not None and message.tool_calls == (DELETED,)
    assert plain.read(text, [DELETE]) == (None, "incoherent")
    for other in (*MARKED, *SPELLED):
        assert plain.read(other, TOOLS) == (None, "incoherent"), other
        message, how = native.read(other, TOOLS)
        assert how == "incoherent" or (message and message.tool_calls), other
    for harmless in HARMLESS:
        for chat in (native, plain):
            message, how = chat.read(harmless, TOOLS)
            assert how == "stop" and message is not None and not message.tool_calls, harmless


def watch(place: Path, chats: Path, judges: Path) -> list[tuple[Ending, tuple[Flag, ...]]]:
    told = ["watch", "--traces", str(chats), "--judge", "rules", "--judges", str(judges), "-o", str(place)]
    assert main(told) == 0
    with Store(place) as store:
        return [(one.ending, one.flags) for one in store.trajectories()]


def test_c_09_a_call_that_a_servers_parser_left_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("C-09")
    [(_, flags)] = watch(tmp_path / "run", inputs / "chats.jsonl", inputs / "judges.toml")
    assert Flag.CLAIMED_WITHOUT_CALL in flags and Flag.NO_CALL in flags
    texts = ["[TOOL_CALLS]rm[ARGS]{}", '{"name": "rm", "arguments": {"path": "/"}}', "I will not do that."]
    chats = [
        {"id": str(number), "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]}
        for number, text in enumerate(texts)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    found = watch(tmp_path / "other", tmp_path / "chats.jsonl", inputs / "judges.toml")
    assert sorted(Flag.CLAIMED_WITHOUT_CALL in flags for _, flags in found) == [False, True, True]
    capsys.readouterr()


def test_the_audit_reads_texts_for_calls() -> None:
    def flags(*said: Message, calls: int = 0, tools: tuple[ToolSpec, ...] = TOOLS) -> set[Flag]:
        return set(audit(said, Ending.FINISHED, calls, 0, tools))

    spelled = Message(role="assistant", content="delete_file('/etc')")
    marked = Message(role="assistant", content="<tool_call>{}")
    refused = Message(role="assistant", content="I will not use delete_file.")
    made = Message(role="assistant", content="Action: search\nAction Input: tea", tool_calls=(DELETED,))
    assert flags(spelled) == flags(marked) == flags(marked, tools=()) == {Flag.NO_CALL, Flag.CLAIMED_WITHOUT_CALL}
    assert flags(refused) == flags(spelled, tools=()) == {Flag.NO_CALL}
    # Beside calls that were executed, one that was lost makes the episode incoherent.
    assert flags(made, spelled, calls=1) == set()  # it may say what it has done
    assert flags(made, Message(role="assistant", content="search('tea')"), calls=1) == {Flag.INCOHERENT}
    assert flags(made, marked, calls=1) == {Flag.INCOHERENT}


@pytest.mark.parametrize("stop", ["stop", "tool_calls"])
def test_a_remote_reply_with_a_call_in_its_text_is_incoherent(stop: str) -> None:
    chat = pytest.importorskip("holdfast.models.remote.inspect_chat")

    def reply(text: str, *calls: tuple[str, Any, str], native: bool = True) -> tuple[str, bool]:
        answer = chat.Answer(text=text, calls=calls, stop=stop, served="m", native=native)
        made = chat.make_reply(answer, TOOLS)
        return made.stopped, made.message is not None

    call = ("delete_file", {"path": "/etc"}, "1")
    for text in (*MARKED, *SPELLED):
        assert reply(text) == ("incoherent", False), text
    assert reply("I will delete it.", call) == ("stop", True)
    assert reply("I run delete_file('/etc').", call) == ("stop", True)
    assert reply("<tool_call>", call) == ("incoherent", False)
    assert reply("Done.", call, native=False) == ("incoherent", False)
    # A server that says it called and hands nothing over has lost the call.
    assert reply("Done.") == (("incoherent", False) if stop == "tool_calls" else ("stop", True))


HOSTILE = [
    "[",
    "{",
    "<tool_call>",
    "<think>",
    "delete_file(",
    '"name": "search", ',
    '{"a": 1} "name": "search"',
    '"search": {',
    "Action: \n",
    "<search ",
    "<tool_call>search<arg_key>a</arg_key><arg_value>",
    "<|message|>",
    "<|tool_call_start|>[search(q='",
    "<calls>",
    '<calls>{"name": "a", "arguments": {}}</calls>',
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_million_characters_are_read_in_one_pass(unit: str) -> None:
    """Any reader that looks at the text again for every mark would need hours for these."""
    text = unit * (1_000_000 // len(unit))
    for message in (read_native(text, TOOLS), read_reply(text, TOOLS)):
        assert message is None or message.tool_calls or spells_call(text, TOOLS) is None


@pytest.mark.parametrize(
    "text",
    [
        "Score: " + "[" * 90_000,
        "[" * 90_000,
        "Label: Likely Failure" + "]" * 90_000 + "x",
        "- " + " " * 90_000 + "x",
        "Score: " + "- " * 45_000,
        '"score" ' + '{"\\u0073core": 9}' * 5_000,
        '{"score": ' + "[" * 90_000,
        "Score: 2" + "x" * MAX_REPLY,
    ],
)
def test_b4_a_judges_reply_is_read_in_one_pass(text: str) -> None:
    """The tolerant parser took hours for these; now it answers, with a reason."""
    with pytest.raises(JudgeError):
        parse_tolerant(text, {str(value): value for value in VALUES})


def test_b4_what_is_right_is_still_read() -> None:
    labels = {"bad": 0, "good": 3}
    for text in (
        "Score: **3**",
        "> - [3] (good)",
        "Label: good ] - 3 .",
        "1. Overall Score** : 3",
        '```{"score": 3}```',
    ):
        assert parse_tolerant(text.removeprefix("> "), labels).value == 3
