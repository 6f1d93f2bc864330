"""Records to bytes and back: the one place that knows how a record is laid out in the store.

Texts are JSON, compressed by Zstandard, with a dictionary trained for their kind where there is one
(published trajectories shrink by another third). A text's digest is taken before compression, so equal
texts are stored once whatever compressed them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson
import zstandard

from holdfast.records import JSON, Case, Checkpoint, Ending, Flag, Message, StageRecord, ToolCall, ToolSpec, Trajectory
from holdfast.records.errors import StoreError
from holdfast.store.weights import is_held

FLAG_BITS: Mapping[Flag, int] = {flag: 1 << position for position, flag in enumerate(Flag)}
COMPRESSION_LEVEL = 4  # level 6 saves a tenth of the space and costs a third more CPU time in an import
DICTIONARY_BYTES = 112 * 1024
SAME_AS_CASE = "case"  # stands for a world that equals the case's initial state


def flags_to_bits(flags: Sequence[Flag]) -> int:
    """The flags as one integer, a bit each."""
    return sum(FLAG_BITS[flag] for flag in set(flags))


def bits_to_flags(bits: int) -> tuple[Flag, ...]:
    """The flags that are set in ``bits``, in the order of their definition."""
    return tuple(flag for flag, bit in FLAG_BITS.items() if bits & bit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A compressed text: ``digest`` of the plain bytes, the dictionary's number (0: none), the body."""

    digest: bytes
    dictionary: int
    body: bytes


def _digest(plain: bytes) -> bytes:
    return hashlib.sha256(plain).digest()[:16]


class TextCodec:
    """Compresses and expands texts; safe to use from several threads."""

    def __init__(self, dictionaries: Mapping[int, bytes] | None = None) -> None:
        self._dictionaries = {
            number: zstandard.ZstdCompressionDict(body) for number, body in (dictionaries or {}).items()
        }
        self._local = threading.local()

    def add_dictionary(self, number: int, body: bytes) -> None:
        """Make a dictionary known under ``number`` (1 or more)."""
        self._dictionaries[number] = zstandard.ZstdCompressionDict(body)

    def pack(self, plain: bytes, dictionary: int = 0) -> Text:
        """``plain`` as a compressed text."""
        compressors = self._local.__dict__.setdefault("compressors", {})
        if dictionary not in compressors:
            compressors[dictionary] = zstandard.ZstdCompressor(
                level=COMPRESSION_LEVEL, dict_data=self._dictionaries.get(dictionary)
            )
        return Text(digest=_digest(plain), dictionary=dictionary, body=compressors[dictionary].compress(plain))

    def unpack(self, digest: bytes, dictionary: int, body: bytes) -> bytes:
        """The plain bytes of a compressed text. Errors: StoreError where they do not have the digest."""
        expanders = self._local.__dict__.setdefault("expanders", {})
        if dictionary not in expanders:
            expanders[dictionary] = zstandard.ZstdDecompressor(dict_data=self._dictionaries.get(dictionary))
        try:
            plain: bytes = expanders[dictionary].decompress(body)
        except zstandard.ZstdError as error:
            raise StoreError(f"text {digest.hex()}: damaged in the store ({error}); restore the run") from error
        if _digest(plain) != digest:
            raise StoreError(f"text {digest.hex()}: damaged in the store (another digest); restore the run")
        return plain


def train_dictionary(samples: Sequence[bytes]) -> bytes:
    """A compression dictionary for texts like ``samples``."""
    trained: bytes = zstandard.train_dictionary(DICTIONARY_BYTES, list(samples)).as_bytes()
    return trained


class telling_damage:  # a context manager of a generator costs as much as the reading of a row
    """Inside, what cannot be read as a record is a StoreError that names ``what``."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
            raise StoreError(f"{self._what}: damaged in the store ({error}); restore the run") from error


def _dump(row: JSON, what: str) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise StoreError(f"{what}: cannot be stored as JSON ({error}); make it of what JSON can hold") from error


def _message_to_json(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"r": message.role, "c": message.content}
    if message.tool_calls:
        row["t"] = [[call.name, call.arguments, call.id] for call in message.tool_calls]
    if message.name is not None:
        row["n"] = message.name
    if message.detail is not None:
        row["d"] = message.detail
    return row


def _message_from_json(row: JSON) -> Message:
    calls = tuple(ToolCall(name=name, arguments=arguments, id=key) for name, arguments, key in row.get("t", ()))
    return Message(role=row["r"], content=row["c"], tool_calls=calls, name=row.get("n"), detail=row.get("d"))


def trajectory_to_bytes(trajectory: Trajectory, case_state: JSON | None = None) -> bytes:
    """The parts of a trajectory that are not columns: messages, worlds, detail.

    A ``world_before`` equal to the case's own initial state is not written a second time.
    """
    row: dict[str, Any] = {"m": [_message_to_json(message) for message in trajectory.messages]}
    if trajectory.world_before is not None:
        row["b"] = SAME_AS_CASE if trajectory.world_before == case_state else trajectory.world_before
    if trajectory.world_after is not None:
        row["a"] = trajectory.world_after
    if trajectory.detail is not None:
        row["d"] = trajectory.detail
    return _dump(row, f"trajectory of case {trajectory.case_id}")


def trajectory_from_bytes(plain: bytes, *, case_state: JSON | None, **columns: Any) -> Trajectory:
    """A trajectory from its stored text and its columns. Errors: StoreError where they are none."""
    with telling_damage(f"trajectory {columns['id']}"):
        row = orjson.loads(plain)
        before = row.get("b")
        ending, flags = Ending(columns.pop("ending")), bits_to_flags(columns.pop("flags"))
        return Trajectory(
            messages=tuple(_message_from_json(message) for message in row["m"]),
            world_before=case_state if before == SAME_AS_CASE else before,
            world_after=row.get("a"),
            detail=row.get("d"),
            ending=ending,
            flags=flags,
            **columns,
        )


def case_to_bytes(case: Case) -> bytes:
    """A case's messages, tools, state and facts."""
    row = {
        "messages": [_message_to_json(message) for message in case.messages],
        "tools": [[tool.name, tool.description, tool.parameters] for tool in case.tools],
        "state": case.state,
        "facts": case.facts,
    }
    return _dump(row, f"case {case.id}")


def case_from_bytes(plain: bytes, **columns: Any) -> Case:
    """A case from its stored text and its columns."""
    row = orjson.loads(plain)
    return Case(
        messages=tuple(_message_from_json(message) for message in row["messages"]),
        tools=tuple(ToolSpec(name=n, description=d, parameters=p) for n, d, p in row["tools"]),
        state=row["state"],
        facts=row["facts"],
        **columns,
    )


def checkpoint_to_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as JSON."""
    lists = {"stages": checkpoint.stages} | ({"start": checkpoint.start} if checkpoint.start else {})
    row = {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint) if one.name not in ("stages", "start")}
    for name, stages in lists.items():
        row[name] = [{one.name: getattr(stage, one.name) for one in fields(stage)} for stage in stages]
    return orjson.dumps(row)


def checkpoint_from_bytes(plain: bytes) -> Checkpoint:
    """A checkpoint from JSON. Errors: StoreError where it is none, or has its weights elsewhere than in its run."""
    with telling_damage("a checkpoint"):
        row = orjson.loads(plain)
        stages, start = (
            tuple(StageRecord(**{**one, "objectives": tuple(one["objectives"])}) for one in some)
            for some in (row.pop("stages"), row.pop("start", ()))
        )
        found = Checkpoint(stages=stages, start=start, **row)
        check_place(found)
    return found


def check_place(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose weights are not under their digest in its run. Errors: StoreError."""
    if checkpoint.path is not None and (
        not is_held(checkpoint.path) or checkpoint.path != f"weights/{checkpoint.digest}"
    ):
        raise StoreError(
            f"checkpoint {checkpoint.name}: its weights are said to be at {checkpoint.path[:200]!r}, which is no place"
            " in a run (weights/DIGEST); restore the run"
        )
