"""A user's own cases as tests write them, and two models behind a provider that answer them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.models.fakes import FakeProvider
from holdfast.records import Message, ToolCall

PARENT, CHILD, JUDGE = (f"openai-api/fake/{name}" for name in ("before", "after", "judge"))
SEND: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "send_money",
        "description": "Sends money.",
        "parameters": {
            "type": "object",
            "properties": {"amount": {"type": "number"}},
            "required": ["amount"],
            "additionalProperties": False,
        },
    },
}


def write_lines(path: Path, *rows: Any) -> Path:
    """A file with a row a line: an object as JSON, a text as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextmanager
def served(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[Mapping[str, Any]], Message | ToolCall | str]
) -> Iterator[FakeProvider]:
    """A provider of the three models, where their service's own variables say it is."""
    with FakeProvider(answers=answers) as provider:
        monkeypatch.setenv("FAKE_BASE_URL", provider.base_url)
        monkeypatch.setenv("FAKE_API_KEY", "a key")
        yield provider
