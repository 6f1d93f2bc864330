"""Episodes as TRL reads them: every one once, and first those that show its reader what differs."""

from __future__ import annotations

from holdfast.exchange.trl import chats_to_trl
from holdfast.records import Case, Ending, Message, ToolCall, ToolSpec, Trajectory

LOOK = ToolSpec(name="look", description="Looks.", parameters={"type": "object", "properties": {}})


def chat(name: str, arguments: object = None, *, tools: bool = False) -> tuple[Case, Trajectory]:
    """A case and an episode, with a call of these arguments where there are any."""
    case = Case(
        id=name,
        suite="s",
        number=0,
        family="f",
        messages=(Message(role="user", content=f"ask {name}"),),
        tools=(LOOK,) if tools else (),
        facts={},
    )
    calls = (ToolCall(name="look", arguments=arguments),) if isinstance(arguments, dict) else ()
    told = (Message(role="assistant", content="", tool_calls=calls), Message(role="tool", content="seen", name="look"))
    messages = (*(told if calls else ()), Message(role="assistant", content="done"))
    episode = Trajectory(id=name, checkpoint_id="c", case_id=name, rollout=0, messages=messages, ending=Ending.FINISHED)
    return case, episode


def test_rows_that_differ_come_first_and_every_row_once() -> None:
    chats = [chat("a"), chat("b"), chat("c", {"x": 1}, tools=True), chat("d"), chat("e", {"y": 2}, tools=True)]
    rows = list(chats_to_trl(chats))
    asked = [row["messages"][0]["content"] for row in rows]
    assert sorted(asked) == [f"ask {name}" for name in "abcde"]
    assert asked[:2] == ["ask a", "ask c"]  # what differs below messages that differ is told by these
    assert [sorted(row) for row in rows[:2]] == [["messages"], ["messages", "tools"]]
    assert [message["role"] for message in rows[1]["messages"]] == ["user", "assistant", "tool", "assistant"]
    call = rows[1]["messages"][1]["tool_calls"][0]
    assert call["function"] == {"name": "look", "arguments": {"x": 1}}
    assert rows[1]["messages"][2]["tool_call_id"] == call["id"]
    assert rows[1]["tools"][0]["function"]["name"] == "look"
    assert list(chats_to_trl([])) == []
