"""What tests of the field cases of traces share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builders.trace_samples import calls, user
from holdfast.records import Trajectory

Shown = tuple[int, dict[str, Any], str, list[Trajectory]]
Case = Callable[..., Shown]
USER = user("Tidy")
LISTS = calls("list_dir", "c1", path="/a")
DELETES_ALL = calls("delete_file", "c2", path="/b")
M = [{"role": "user", "content": "Tidy"}]


def told(document_: dict[str, Any]) -> str:
    return " ".join(document_["sentences"])


def mean_of(shown: Shown) -> tuple[float, int]:
    code, document_, err, _ = shown
    assert code == 0, err
    return document_["baseline"]["mean"], document_["baseline"]["n"]


OPENAI_REPLY = {
    "choices": [
        {
            "message": {
                "role": "assistant",
                "tool_calls": [{"id": "q", "function": {"name": "delete_file", "arguments": "{}"}}],
            }
        }
    ]
}
IDS = {"unique": "call_{n:05}{t}{j}", "anew every turn": "{name}:{j}", "none": ""}
# Windows can be joined where a trace or ids that are given once hold them together.
HABITS = [(habit, name, None) for habit in ("a trace each", "a trace a request", "a row a request") for name in IDS]
HABITS += [("a trace each", name, 2) for name in IDS]
HABITS += [(habit, "unique", 2) for habit in ("a trace a request", "a row a request")]
