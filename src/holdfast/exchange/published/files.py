"""The published study's files as strict records: archive → entries → lines → trajectories and verdicts.

An archive is read as a stream. Nothing is extracted, and an entry's name is text that is never made a path.
Whatever is not exactly as the study writes it is refused with place, finding and remedy.
"""

from __future__ import annotations

import json
import math
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tarfile import InvalidHeaderError, ReadError, TruncatedHeaderError  # type: ignore[attr-defined]
from typing import IO, Any, NoReturn, Self, cast

import zstandard

from holdfast.records.errors import refuse
from holdfast.records.inputs import check_expansion, strict_json

MAX_ENTRY_BYTES = 64 * 2**20
MAX_WINDOW_BYTES = 2**27  # memory that a frame may ask of the decompressor
READ_BYTES = 2**20
NAME_CHARACTERS = 200  # of an entry's name in a message
ARCHIVES = (".tar.zst", ".tar")
CASES = 144
STEP_PARTS = 3
TOKEN_LIMIT, OUT_OF_MEMORY = "Agent stopped: token limit exceeded", "Agent stopped: OOM"
OOM_TOOL = "[OOM]"  # stands in the place of a tool's name in the last element of an out-of-memory record
DAMAGED = "fetch the file again or correct it at its source"

_STOPPED_KEYS = frozenset({"output", "intermediate_steps", "case", "case_idx"})
_TRAJECTORY_KEYS = _STOPPED_KEYS | {"input", "underspecifications", "risky_outcome", "risky_actions"}
_FAILURE_KEYS = frozenset({"error", "error_type", "case", "case_idx"})
_VERDICT_TEXTS = ("Evaluator Thought", "Overall Qualitative Label", "Evaluator Log Summary")
_VERDICT_KEYS = frozenset({*_VERDICT_TEXTS, "Overall Quantitative Score", "eval_scores", "efficiency", "eval_id"})
_CASE_LISTS = ("Toolkits", "Expected Achievements", "Potential Risky Outcomes", "Potential Risky Actions")
_CASE_KEYS = frozenset({"name", "User Instruction", "Underspecifications", *_CASE_LISTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file's name and bytes, and how many bytes of the source are read so far."""

    name: str
    data: bytes
    bytes_read: int


class _Member(tarfile.TarInfo):
    """An entry whose header must be sound: ``tarfile`` takes a damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError) as error:
            raise ReadError(f"{error} at byte {tarfile.offset:,}") from error


class _Metered:
    """A stream that refuses to expand beyond the caps, and remembers how it ended."""

    def __init__(self, place: str, expanded: IO[bytes], compressed: IO[bytes]) -> None:
        self._place, self._expanded, self._compressed = place, expanded, compressed
        self._count = 0
        self.tail = b""

    def read(self, size: int) -> bytes:
        try:
            block = self._expanded.read(size)
        except zstandard.ZstdError as error:
            refuse(self._place, f"not a readable Zstandard archive ({error})", DAMAGED)
        self._count += len(block)
        remedy = "unpack it, look at it, and import the directory"
        check_expansion(self._place, self._count, self._compressed.tell(), remedy)
        self.tail = (self.tail + block)[-tarfile.BLOCKSIZE :]
        return block


def _check_name(source: Path, name: str) -> str:
    """Refuse a name that is no plain path; how messages call the entry."""
    place, remedy = f"{source}: entry {name[:NAME_CHARACTERS]!r}", "make the archive anew with plain names"
    if not name.isprintable():
        refuse(place, "control characters in the name", remedy)
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        refuse(place, "the name leaves the archive", remedy)
    return place


def _check_member(source: Path, member: tarfile.TarInfo) -> None:
    place = _check_name(source, member.name)
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        refuse(place, "a link or device, not a plain file", "make the archive anew with plain files")
    if member.size < 0:
        refuse(place, "a size below zero", DAMAGED)
    if member.size > MAX_ENTRY_BYTES:
        refuse(place, f"{member.size:,} bytes, beyond {MAX_ENTRY_BYTES >> 20} MiB", "split or leave out the file")


def _read_archive(source: Path) -> Iterator[File]:
    with source.open("rb") as compressed:
        expanded: IO[bytes] = compressed
        if source.name.endswith(".zst"):
            expander = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            expanded = expander.stream_reader(compressed, read_across_frames=True)
        stream = _Metered(str(source), expanded, compressed)
        try:
            reading = cast("IO[bytes]", stream)
            with tarfile.open(fileobj=reading, mode="r|", bufsize=READ_BYTES, tarinfo=_Member) as archive:
                for member in archive:
                    _check_member(source, member)
                    opened = archive.extractfile(member) if member.isreg() else None
                    if opened is not None:
                        yield File(name=member.name, data=opened.read(), bytes_read=compressed.tell())
                while rest := cast("IO[bytes]", archive.fileobj).read(READ_BYTES):
                    if any(rest):
                        refuse(str(source), "more data after the end of the archive", "make one archive of the files")
        except tarfile.TarError as error:
            refuse(str(source), f"not a readable tar archive, or cut short ({error})", DAMAGED)
        if len(stream.tail) < tarfile.BLOCKSIZE or any(stream.tail):
            refuse(str(source), "the archive is cut short", DAMAGED)


def _read_directory(source: Path) -> Iterator[File]:
    read = 0
    for path in sorted(_walk(source)):
        name = f"{source.resolve().name}/{path.relative_to(source).as_posix()}"
        place = _check_name(source, name)
        if path.is_symlink():
            refuse(place, "a link, not a plain file", "replace it by the file itself")
        if path.suffix == ".jsonl":
            if not path.is_file():
                refuse(place, "not a plain file", "leave it out")
            if path.stat().st_size > MAX_ENTRY_BYTES:
                refuse(place, f"beyond {MAX_ENTRY_BYTES >> 20} MiB", "split or leave out the file")
            data = path.read_bytes()
            read += len(data)
            yield File(name=name, data=data, bytes_read=read)


def _walk(source: Path) -> Iterator[Path]:
    """Everything under a directory except directories. Errors: OSError on one that cannot be read."""

    def fail(error: OSError) -> NoReturn:
        raise error

    for folder, inner, files in os.walk(source, onerror=fail):
        links = (name for name in inner if Path(folder, name).is_symlink())
        yield from (Path(folder, name) for name in (*files, *links))


def source_bytes(source: Path) -> int:
    """How many bytes there are to read. Errors: StudyError where the source is nothing that can be imported."""
    if source.is_dir():
        return sum(path.stat().st_size for path in _walk(source) if path.suffix == ".jsonl" and path.is_file())
    if not source.is_file():
        finding = "is a device or a pipe" if source.exists() else "no such file or directory"
        refuse(str(source), finding, "give the path of the archive or of its directory")
    if not source.name.endswith(ARCHIVES):
        readable = f"give a {' or '.join(ARCHIVES)} archive, its directory, or Inspect logs (.eval, .json)"
        refuse(str(source), "unknown kind of file", readable)
    return source.stat().st_size


def read_files(source: Path) -> Iterator[File]:
    """Every plain file of an archive or directory, in its order there. Errors: StudyError."""
    return _read_directory(source) if source.is_dir() else _read_archive(source)


_DECODER = strict_json(KeyError)


@dataclass(frozen=True, slots=True)
class Line:
    """A record's bytes with its place (the file and its number from 1) and its offset in bytes.

    ``open`` says that no newline ends it.
    """

    place: str
    number: int
    offset: int
    data: bytes
    open: bool


def split_lines(name: str, data: bytes) -> Iterator[Line]:
    """The lines of a file; only a newline ends one. Errors: StudyError."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        refuse(name, "the file is UTF-16, expected UTF-8", DAMAGED)
    offset = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    *lines, last = data[offset:].split(b"\n")
    for number, line in enumerate([*lines, last] if last else lines, 1):
        yield Line(f"{name}:{number}", number, offset, line.removesuffix(b"\r"), number > len(lines))
        offset += len(line) + 1


def parse_line(line: Line) -> dict[str, Any]:
    """The JSON object on a line. Errors: StudyError."""
    try:
        record = _DECODER.decode(line.data.decode("utf-8"))
    except KeyError as error:
        refuse(line.place, f"duplicate key {error}", DAMAGED)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        if line.open:
            refuse(line.place, f"record {line.number} is incomplete (byte {line.offset:,})", DAMAGED)
        if isinstance(error, UnicodeDecodeError):
            refuse(line.place, f"invalid UTF-8 at byte {line.offset + error.start:,}", DAMAGED)
        refuse(line.place, f"not JSON ({error.msg} at character {error.pos + 1})", DAMAGED)
    except RecursionError:
        refuse(line.place, "nested too deeply", DAMAGED)
    except ValueError:
        refuse(line.place, "a number is too long", DAMAGED)
    if not isinstance(record, dict):
        refuse(line.place, f"expected a JSON object, found {type(record).__name__}", DAMAGED)
    if b"\\ud" in line.data or b"\\uD" in line.data:  # an escaped surrogate: a pair is a character, a lone one is none
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse(line.place, "invalid Unicode (half of a surrogate pair)", DAMAGED)
    return record


def show(value: object) -> str:
    """A value as it is named in an error: JSON, cut to 40 characters."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} (not a finite number)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _expect(where: str, path: str, right: bool, expected: str, value: object) -> None:
    if not right:
        refuse(f"{where}: {path}", f"expected {expected}, found {show(value)}", DAMAGED)


def _expect_texts(where: str, record: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        _expect(where, key, isinstance(record[key], str), "text", record[key])


def _check_keys(where: str, record: Mapping[str, Any], known: frozenset[str]) -> None:
    if wrong := sorted(known ^ record.keys()):
        finding = "missing" if wrong[0] in known else "unknown"
        refuse(f"{where}: {wrong[0]}", f"{finding} key", f"expected the keys {', '.join(sorted(known))}")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _check_case(where: str, case: Any, number: int) -> None:
    _expect(where, "case", isinstance(case, dict), "an object", case)
    _check_keys(f"{where}: case", case, _CASE_KEYS)
    name, instruction, open_points = case["name"], case["User Instruction"], case["Underspecifications"]
    _expect(where, "case.name", name == f"official_{number}", f"official_{number} as case_idx says", name)
    _expect(where, "case.User Instruction", isinstance(instruction, str), "text", instruction)
    for key in _CASE_LISTS:
        _expect(where, f"case.{key}", _is_texts(case[key]), "a list of texts", case[key])
    _expect(where, "case.Toolkits", bool(case["Toolkits"]), "at least one toolkit", case["Toolkits"])
    right = isinstance(open_points, dict) and all(map(_is_texts, open_points.values()))
    _expect(where, "case.Underspecifications", right, "an object of lists of texts", open_points)


def _check_step(where: str, path: str, step: Any, last: bool) -> None:
    shaped = isinstance(step, list) and len(step) == 2
    if shaped and isinstance(step[0], dict):
        finish = step[0]
        shaped = last and set(finish) == {"return_values", "log", "type"} and finish["type"] == "AgentFinish"
        shaped = shaped and isinstance(finish["log"], str)
    elif shaped:
        shaped = all(_is_texts(part) and len(part) == STEP_PARTS for part in step)
        shaped = shaped and (not last or step[0][0] == OOM_TOOL)
    expected = "a finish or an out-of-memory element" if last else "[[tool, input, log], [observation, summary, log]]"
    _expect(where, path, shaped, expected, step)


def check_trajectory(where: str, record: Mapping[str, Any], start: int, stop: int) -> None:
    """Refuse a trajectory record that is not as the study writes it; cases must lie in ``start <= number < stop``."""
    number: Any = record.get("case_idx")
    stop = min(stop, CASES)
    right = type(number) is int and start <= number < stop
    _expect(where, "case_idx", right, f"an integer in {start}-{stop - 1} as the file name says", number)
    if "error" in record:
        _check_keys(where, record, _FAILURE_KEYS)
        _expect_texts(where, record, "error", "error_type")
    else:
        _check_keys(where, record, _STOPPED_KEYS if record.get("output") == OUT_OF_MEMORY else _TRAJECTORY_KEYS)
        _expect_texts(where, record, "output")
        steps = record["intermediate_steps"]
        _expect(where, "intermediate_steps", isinstance(steps, list) and bool(steps), "a list that is not empty", steps)
        for position, step in enumerate(steps, 1):
            _check_step(where, f"intermediate_steps[{position - 1}]", step, position == len(steps))
    _check_case(where, record["case"], number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an evaluation record says: a value in 0..3, or the reason that it is missing."""

    value: int | None
    missing: str | None
    label: str | None


def read_verdict(where: str, record: Mapping[str, Any], position: int, key: str) -> Verdict:
    """The verdict of the evaluation record at ``position`` (from 0) under the metric's ``key``. Errors: StudyError."""
    if "error" in record:
        _check_keys(where, record, frozenset({"error"}))
        _expect_texts(where, record, "error")
        return Verdict(value=None, missing=f"evaluation failed: {record['error'][:200]}", label=None)
    _check_keys(where, record, _VERDICT_KEYS)
    for name in _VERDICT_TEXTS:
        _expect(where, name, record[name] is None or isinstance(record[name], str), "text or null", record[name])
    given, scores, label = record["eval_id"], record["eval_scores"], record["Overall Qualitative Label"]
    _expect(where, "eval_id", type(given) is int and given == position, f"the line's number {position}", given)
    _expect(where, "eval_scores", isinstance(scores, dict), "an object", scores)
    if not scores:
        return Verdict(value=None, missing="no score in the evaluator's reply", label=label)
    _check_keys(f"{where}: eval_scores", scores, frozenset({key}))
    value = scores[key]
    _expect(where, f"eval_scores.{key}", type(value) is int and 0 <= value <= 3, "an integer 0-3", value)
    return Verdict(value=value, missing=None, label=label)
