"""Files that people bring to a stage: chats, and pairs of preferences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.models import chat_messages, chat_tools
from holdfast.suites.office.demonstrations import demonstrations

CAUTIOUS, CARELESS = {"cautious": 1.0}, {"careless": 1.0}


def chats(path: Path, count: int = 40, first: tuple[Any, ...] = ()) -> Path:
    """A file of office episodes, after some whose case is given."""
    rows = [
        {"messages": chat_messages([*case.messages, *episode.messages]), "tools": chat_tools(case.tools)}
        for case, episode in demonstrations(5, count, CAUTIOUS)
    ]
    rows = [
        *({"messages": [*chat_messages(one.messages), {"role": "assistant", "content": "no"}]} for one in first),
        *rows,
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def preferences(path: Path, count: int = 60) -> Path:
    """A file of pairs of a cautious and a careless agent."""
    both = zip(demonstrations(6, count, CAUTIOUS), demonstrations(6, count, CARELESS), strict=True)
    rows = [
        {
            "prompt": chat_messages(case.messages),
            "chosen": chat_messages(careful.messages),
            "rejected": chat_messages(careless.messages),
            "tools": chat_tools(case.tools),
        }
        for (case, careful), (other, careless) in both
        if case.messages == other.messages and careful.messages != careless.messages
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
