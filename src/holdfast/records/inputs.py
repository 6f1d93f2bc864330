"""Files that a user names, read within bounds: regular files only, no more than so many bytes, tables of a sane depth.

All settings in TOML (studies, rules of a gate, judges) come through ``read_settings``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.records.errors import StoreError, StudyError, refuse, require

SETTINGS_BYTES = 4 << 20  # of a file of settings
MOST_LEVELS = 64  # of tables and arrays within each other, and parts of a dotted key
MAX_EXPANDED_BYTES = 16 * 2**30  # of an archive
MAX_RATIO = 100  # expanded to packed bytes, looked at beyond RATIO_FREE_BYTES
RATIO_FREE_BYTES = 64 * 2**20
# What TOML 1.0 holds an integer to; beyond it Python cannot even show some of them.
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1

# TOML as tokens, as far as it takes to see a dotted key; strings that are not closed end the reading.
_TOKEN = re.compile(
    r"""(?P<text>\"{3}(?:[^"\\]|\\[\s\S]|"(?!""))*+"{3,5}|'{3}(?:[^']|'(?!''))*+'{3,5}|\#[^\n]*+)
    |(?P<part>"(?!"")(?:[^"\\\n]|\\.)*+"|'(?!'')[^'\n]*+'|[A-Za-z0-9_-]++)
    |(?P<dot>[ \t]*+\.[ \t]*+)
    |(?P<torn>["'])
    |[^"'\#A-Za-z0-9_.-]++|\s""",
    re.VERBOSE,
)


def read_bytes(path: Path | str, most: int, *, subject: str | None = None, remedy: str) -> bytes:
    """The bytes of a regular file of at most ``most``; a pipe or a device is never waited for, ``~`` is a home.

    Errors: StudyError, which begins with ``subject`` (by default the path) and ends with ``remedy``.
    """
    subject = subject or f"{path}:"
    try:
        handle = os.open(os.path.expanduser(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # noqa: PTH111 (no error for a user that is not known)
        with os.fdopen(handle, "rb") as file:
            require(stat.S_ISREG(os.fstat(handle).st_mode), f"{subject} is a device or a pipe; {remedy}")
            data = file.read(most + 1)
    except OSError as error:
        raise StudyError(f"{subject} cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:  # a character that no path has
        raise StudyError(f"{subject} is no path ({error}); {remedy}") from error
    require(len(data) <= most, f"{subject} has more than {most >> 20} MiB; give a smaller file")
    return data


def read_number(variable: str, otherwise: float) -> float:
    """The positive number that a variable of the environment holds, or ``otherwise``. Errors: StudyError."""
    told = os.environ.get(variable) or str(otherwise)
    with contextlib.suppress(ValueError):
        if 0 < float(told) < math.inf:
            return float(told)
    raise StudyError(f"{variable} is {told!r:.80}; set it to a number above 0")


def check_expansion(place: object, expanded: int, packed: int, remedy: str) -> None:
    """Refuse what packed bytes expand to beyond 16 GiB, or beyond a hundred times as many. Errors: StudyError."""
    if expanded > MAX_EXPANDED_BYTES:
        refuse(place, f"expands beyond {MAX_EXPANDED_BYTES >> 30} GiB", remedy)
    if expanded > RATIO_FREE_BYTES and expanded > MAX_RATIO * packed:
        refuse(place, f"expands beyond {MAX_RATIO}:1", remedy)


def decode_utf8(path: str, data: bytes) -> str:
    """The text of a file's bytes. Errors: StudyError with the line that is not UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise StudyError(f"{path}:1: the file is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{path}:{line}: not UTF-8 (byte {error.start:,}); save it as UTF-8") from error


def read_settings(path: Path | str, what: str, *, subject: str | None = None) -> dict[str, Any]:
    """The tables of a TOML file; ``what`` says which file is wanted: "a study file". Errors: StudyError."""
    data = read_bytes(path, SETTINGS_BYTES, subject=subject, remedy=f"give the path of {what}")
    try:
        return parse_toml(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{subject or path}: not valid TOML ({error})") from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text. Errors: TOMLDecodeError, also for nesting, keys and numbers beyond the bounds above."""
    if _longest_key(text) > MOST_LEVELS:  # the parser's time grows with the square of a key's parts
        raise tomllib.TOMLDecodeError(f"a dotted key has more than {MOST_LEVELS} parts")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("values are nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits, or a date that no calendar has
        raise tomllib.TOMLDecodeError(f"a number or a date cannot be read ({error})") from error
    _check_values(found)
    return found


def _longest_key(text: str) -> int:
    """The most parts that a dotted key of a text has."""
    most = count = 0
    joined = False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "torn":
            break
        if kind == "part":
            count = count + 1 if joined else 1
            most = max(most, count)
        elif kind != "dot":
            count = 0
        joined = kind == "dot"
    return most


def _check_values(found: dict[str, Any]) -> None:
    """Raises TOMLDecodeError for values that are nested too deeply, for numbers beyond TOML's and for NUL."""
    waiting: list[tuple[str, Any, int]] = [("", found, 0)]
    while waiting:
        place, value, level = waiting.pop()
        if level > MOST_LEVELS:
            raise tomllib.TOMLDecodeError("values are nested too deeply")
        if isinstance(value, dict):
            waiting += [(f"{place}.{key}"[-200:], one, level + 1) for key, one in value.items()]
        elif isinstance(value, list):
            waiting += [(place, one, level + 1) for one in value]
        elif isinstance(value, int) and not LEAST_INTEGER <= value <= MOST_INTEGER:
            raise tomllib.TOMLDecodeError(f"{place[1:]} is a whole number of more than 64 bits")
        elif isinstance(value, str) and "\0" in value:
            raise tomllib.TOMLDecodeError(f"{place[1:]} holds a NUL character")


def strict_json(
    twice: Callable[[str], Exception], constant: Callable[[str], Exception] | None = None
) -> json.JSONDecoder:
    """A decoder that raises ``twice`` of a key that stands twice in one object, ``constant`` of NaN and its like."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                raise twice(key)
            made[key] = value
        return made

    def refuse(name: str) -> object:
        if constant is None:
            return float(name)
        raise constant(name)

    return json.JSONDecoder(object_pairs_hook=unique, parse_constant=refuse)


def reading_address(file: Path) -> str:
    """The URI by which a database is read, also on media or in a directory where nothing can be written.

    There SQLite cannot make the files that readers and a writer share. Where no writer left anything beside the
    database, it is read as a file that nobody changes. Errors: StoreError where its last writes stand in a log that
    cannot be read so.
    """
    address = f"{file.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
            db.execute("PRAGMA busy_timeout=10000")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _UNWRITABLE:
            return address  # opening it again says what is wrong
        log = file.with_name(f"{file.name}-wal")
        if log.is_file() and log.stat().st_size:
            raise StoreError(
                f"{log}: holds the last writes to {file.name}, and nothing can be written beside it, which reading them"
                " needs; copy the run to where it can be written"
            ) from error
        return f"{address}&immutable=1"
    except (UnicodeDecodeError, sqlite3.DatabaseError):
        pass  # opening it tells what is damaged, as a name in the schema may be
    return address


_UNWRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
