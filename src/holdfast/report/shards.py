"""Text shards: the trajectories of a report in files beside its page, read one at a time when a reader asks.

A page opened from disk has no origin. There, Chromium refuses a script that carries ``integrity`` (the request
would have to be a CORS request, which file: does not have), and a hash in ``script-src`` matches an external
script only through its ``integrity``; fetch and workers are refused as well. What is left for plain scripts is
``'strict-dynamic'`` or ``file:``, both of which run whatever the file holds, with the page's rights. A shard is
therefore an HTML file in a frame with ``sandbox="allow-scripts"``: an opaque origin that reaches neither the page
nor the network, under its own ``default-src 'none'`` with the hash of a one-line loader. It posts its text, and
the page accepts it only if its SHA-256 is the one that the page holds. The text is JSON, deflated, in base64.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from holdfast.records import JSON, Case, Message, Score, Trajectory
from holdfast.report.inert import pack_json, trim_text

LOADER = 'parent.postMessage(document.getElementById("shard").textContent,"*")'
MESSAGE_CHARACTERS = 60_000  # of one message; a few runaway replies are megabytes long
JSON_CHARACTERS = 8_000  # of a world's state or a call's arguments
SHARD_CHARACTERS = 2_500_000  # of plain text in one shard; about 400 kB when packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One written shard: file name, SHA-256 of its packed text in base64, bytes on disk."""

    name: str
    digest: str
    size: int


def hash_source(text: str) -> str:
    """The CSP source expression that allows exactly ``text`` inline."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_shard(folder: Path, number: int, content: Any) -> Shard:
    """Write one shard and return what the page must know of it."""
    packed = pack_json(content)
    policy = f"default-src 'none'; script-src '{hash_source(LOADER)}'"
    page = (
        '<!doctype html><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>shard</title>'
        f'<script type="application/octet-stream" id="shard">{packed}</script><script>{LOADER}</script>\n'
    )
    name = f"{number:04d}.html"
    (folder / name).write_text(page, encoding="ascii")
    return Shard(name=name, digest=b64encode(hashlib.sha256(packed.encode()).digest()).decode(), size=len(page))


def _text(text: str, limit: int = MESSAGE_CHARACTERS) -> dict[str, Any]:
    kept, left_out = trim_text(text, limit)
    return {"c": kept, "x": left_out} if left_out else {"c": kept}


def _json_text(value: JSON) -> dict[str, Any]:
    return _text(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2).decode(), JSON_CHARACTERS)


def message_content(message: Message) -> dict[str, Any]:
    """A message as the page reads it; ``d`` counts the characters of a detail, which is left out."""
    content: dict[str, Any] = {"r": message.role, **_text(message.content)}
    if message.name:
        content["n"] = message.name
    if message.tool_calls:
        content["t"] = [{"n": call.name, **_json_text(call.arguments)} for call in message.tool_calls]
    if message.detail:
        content["d"] = len(orjson.dumps(message.detail, option=orjson.OPT_NON_STR_KEYS).decode())
    return content


def score_content(score: Score) -> dict[str, Any]:
    """A score as the page reads it, with the judge's reply."""
    content: dict[str, Any] = {"j": score.judge, "o": score.objective, "v": score.value, "k": score.repeat}
    content |= {key: value for key, value in (("m", score.missing), ("l", score.label)) if value is not None}
    if score.reply is not None:
        content["r"] = _text(score.reply)
    return content


def trajectory_content(trajectory: Trajectory, scores: Sequence[Score]) -> dict[str, Any]:
    """A trajectory with its scores as the page reads them."""
    content: dict[str, Any] = {
        "m": [message_content(message) for message in trajectory.messages],
        "s": [score_content(score) for score in scores],
        "e": trajectory.ending.value,
        "f": [flag.value for flag in trajectory.flags],
        "n": [trajectory.calls, trajectory.invalid_calls, trajectory.tokens],
    }
    if trajectory.world_after is not None:
        content["w"] = _json_text(trajectory.world_after)
    if trajectory.world_before is not None:
        content["b"] = _json_text(trajectory.world_before)
    return content


def case_content(case: Case) -> dict[str, Any]:
    """A case's opening messages, tool names and facts as the page reads them."""
    content: dict[str, Any] = {
        "m": [message_content(message) for message in case.messages],
        "t": [tool.name for tool in case.tools],
    }
    if case.facts:
        content["a"] = _json_text(case.facts)
    return content


def count_characters(content: Any) -> int:
    """The characters of all strings in ``content``: the size by which shards are filled."""
    total, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return total


class ShardWriter:
    """Fills shards with cases and writes each when it is full, so that memory holds one shard only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._cases: dict[str, Any] = {}
        self._runs: dict[str, Any] = {}
        self._characters = 0
        self.shards: list[Shard] = []

    @property
    def number(self) -> int:
        """The number of the shard that is being filled."""
        return len(self.shards)

    def begin_case(self, key: str, content: dict[str, Any]) -> int:
        """Put a case into the present shard, or a new one where that is half full; returns its number."""
        if self._characters > SHARD_CHARACTERS / 2:
            self._flush()
        self._cases[key] = content
        self._characters += count_characters(content)
        return self.number

    def add(self, key: str, content: dict[str, Any]) -> int:
        """Put a trajectory into the present shard; returns the shard's number."""
        size = count_characters(content)
        if self._characters and self._characters + size > SHARD_CHARACTERS:
            self._flush()
        self._runs[key] = content
        self._characters += size
        return self.number

    def _flush(self) -> None:
        self.shards.append(write_shard(self._folder, self.number, {"cases": self._cases, "runs": self._runs}))
        self._cases, self._runs, self._characters = {}, {}, 0

    def close(self) -> None:
        """Write the last shard."""
        if self._cases or self._runs:
            self._flush()
