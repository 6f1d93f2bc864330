"""Text shards: the trajectories of a report in files beside its page, read one at a time when a reader asks.

A page opened from disk has no origin. There, Chromium refuses a script that carries ``integrity`` (the request
would have to be a CORS request, which file: does not have), and a hash in ``script-src`` matches an external
script only through its ``integrity``; fetch and workers are refused as well. What is left for plain scripts is
``'strict-dynamic'`` or ``file:``, both of which run whatever the file holds, with the page's rights. A shard is
therefore an HTML file in a frame with ``sandbox="allow-scripts"``: an opaque origin that reaches neither the page
nor the network, under its own ``default-src 'none'`` with the hash of a one-line loader. It posts its text, and
the page accepts it only if its SHA-256 is the one that the page holds. The text is JSON, deflated, in base64.

Whoever can change a shard can run scripts in its frame, and there they stay. The browser test tries a shard without
its policy that reaches for the page (``parent``, ``top``, storage, navigation, a popup, the page's own messages) and
one that posts another shard's text: the first finds an opaque origin without rights, the second has another digest.
Whoever can change the page itself can change everything; that is true of any file.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from holdfast.judges.rubric.digits import show_reply
from holdfast.records import JSON, Case, Message, Score, Trajectory
from holdfast.report.words.inert import dump_json, pack_text, trim_text

LOADER = 'parent.postMessage(document.getElementById("shard").textContent,"*")'
MESSAGE_CHARACTERS = 60_000  # of one message; a few runaway replies are megabytes long
JSON_CHARACTERS = 8_000  # of a world's state or a call's arguments
SHARD_CHARACTERS = 3_000_000  # of JSON in one shard; about 400 kB when packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One written shard: file name, SHA-256 of its packed text in base64, bytes on disk."""

    name: str
    digest: str
    size: int


def hash_source(text: str) -> str:
    """The CSP source expression that allows exactly ``text`` inline."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_shard(folder: Path, number: int, content: str) -> Shard:
    """Write one shard of JSON and return what the page must know of it."""
    packed = pack_text(content)
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
        content["r"] = _text(show_reply(score.reply))
    return content


def trajectory_content(trajectory: Trajectory, scores: Sequence[Score]) -> dict[str, Any]:
    """A trajectory with its scores as the page reads them."""
    content: dict[str, Any] = {
        "i": trajectory.id,
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


def _object(members: Mapping[str, str]) -> str:
    """A JSON object of members that are JSON already."""
    return "{" + ",".join(f"{dump_json(key)}:{value}" for key, value in members.items()) + "}"


class ShardWriter:
    """Fills shards with JSON and writes each when it is full, so that memory holds one shard only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._cases: dict[str, str] = {}
        self._runs: dict[str, str] = {}
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
        self._cases[key] = dump_json(content)
        self._characters += len(self._cases[key])
        return self.number

    def add(self, key: str, content: dict[str, Any]) -> int:
        """Put a trajectory into the present shard; returns the shard's number."""
        text = dump_json(content)
        if self._characters and self._characters + len(text) > SHARD_CHARACTERS:
            self._flush()
        self._runs[key] = text
        self._characters += len(text)
        return self.number

    def _flush(self) -> None:
        content = _object({"cases": _object(self._cases), "runs": _object(self._runs)})
        self.shards.append(write_shard(self._folder, self.number, content))
        self._cases, self._runs, self._characters = {}, {}, 0

    def close(self) -> None:
        """Write the last shard."""
        if self._cases or self._runs:
            self._flush()
