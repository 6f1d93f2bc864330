"""Which files of a folder are traces: every one is read or named, none is passed by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.exchange.inspect.files import find_logs, is_inspect
from holdfast.records.errors import StudyError

KINDS = ".json or .jsonl file, packed (.gz, .zst), rotated (.1) or as it is"
# Names of traces: the kind, then in any order what compression and rotation put behind it, or before the kind.
_TRACES = re.compile(
    r".*\.(?:jsonl?|ndjson|otlp|jsonlines)(?:[.\-_]?(?:\d[\d.\-_T:]*Z?|gz|gzip|zst|zstd|bak|old|log|txt))*$",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"^[._]|^(?:thumbs\.db|desktop\.ini)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What some paths hold: Inspect logs, files of traces, and files of folders that are neither.

    ``inside`` are those of the files that lie in folders.
    """

    logs: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    left_out: tuple[Path, ...] = ()
    inside: frozenset[Path] = frozenset()


def sort_paths(paths: Sequence[Path]) -> Found:
    """Inspect logs, files of traces, and what is left out; a folder stands for all files in it. Errors: StudyError.

    A file that is named by itself is read whatever its name is.
    """
    logs, files, left_out = dict[Path, None](), dict[Path, None](), dict[Path, None]()  # each path once, in order
    members: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise StudyError(f"{path}: no such file; give files or folders of traces")
        if path.is_dir():
            inside = [one for one in sorted(path.rglob("*")) if not one.is_dir()]
            held = set(find_logs(path)) if is_inspect(path) else set()
            found = [one for one in inside if one not in held and one.is_file() and _TRACES.match(one.name)]
            found = [one for one in found if not _HIDDEN.match(one.name) and one.stat().st_size]
            if not found and not held:
                names = ", ".join(one.name for one in inside[:3]) + (", …" if inside[3:] else "")
                raise StudyError(f"{path}: holds no {KINDS}{f' (but {names})' if inside else ''}; give files of traces")
            logs |= dict.fromkeys(one for one in inside if one in held)
            files |= dict.fromkeys(found)
            members.update(found)
            left_out |= dict.fromkeys(one for one in inside if one not in held and one not in found)
        elif not path.is_file():
            raise StudyError(f"{path}: a device or pipe, not a plain file; give files or folders of traces")
        elif is_inspect(path):
            logs[path] = None
        else:
            files[path] = None
    return Found(logs=tuple(logs), files=tuple(files), left_out=tuple(left_out), inside=frozenset(members))
