"""Files and directories that appear whole or not at all, and what a killed process left of them.

    .NAME.part-PID-TOKEN ─ written, synced ─▶ renamed to NAME

Whatever writes for people goes through here: pages, tables, documents, exports. A name under which something was begun
says which process did; once that has ended, whoever writes the same output next removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from holdfast.records.errors import StudyError, require
from holdfast.records.processes import began

PART = ".part-"  # in the names of what is not whole
REMEDY = "choose another output"
_UNUSUAL = re.compile(r"[^\x20-\x7e\n]")
_CLOCK_SECONDS = 2.0  # by which a file's time and a process' may be apart
_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_PLACE = ("/dev/", "/proc/")  # devices, and what a shell calls its pipes


def to_json(document: Any) -> str:
    """A document as JSON for people and programs.

    Text stands as it is, but for characters that steer a terminal or an editor instead of being seen (C0 and C1
    controls, marks of direction, separators of lines, all that Unicode does not call printable): those are escaped.
    """
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def describe_error(error: OSError, path: Path | str | None = None) -> str:
    """An error of the disk in words; where there is no room, with the bytes that are free at ``path``."""
    text = error.strerror or str(error)
    if error.errno in _FULL and path is not None and not _is_stream(Path(path)):
        text += "" if (free := free_bytes(path)) is None else f", {free:,} bytes are free there"
    return text


def free_bytes(path: Path | str) -> int | None:
    """The bytes that are free where ``path`` is or would be; None where nobody can tell."""
    with contextlib.suppress(OSError):
        place = Path(path).absolute()
        return shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free
    return None


def write_file(path: Path, data: bytes | str, *, remedy: str = REMEDY) -> None:
    """Write a file, whole or not at all. Text is UTF-8. Errors: StudyError naming the path."""
    with open_file(path, remedy=remedy) as file:
        file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)


@contextlib.contextmanager
def open_file(path: Path, *, remedy: str = REMEDY) -> Iterator[IO[bytes]]:
    """A new file to write, which takes the place of ``path`` when the block ends, and never is if it fails.

    A device or a pipe is written as it is. A link is replaced; nothing is written where it leads. Errors: StudyError
    naming the path.
    """
    target = Path(path)
    with _telling(target, remedy):
        require(not target.is_dir(), f"{target}: is a directory; give the path of a file")
        if _is_stream(target):
            with target.open("wb") as stream:
                yield stream
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        discard_parts(target)
        part = _part_of(target)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                _claim(file.fileno())
                if target.is_file() and not target.is_symlink():
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync_directory(target.parent)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def new_directory(output: Path, *, replaces: bool = False, remedy: str = REMEDY) -> Iterator[Path]:
    """A directory to fill, which becomes ``output`` when the block ends, and is removed if that fails.

    What is at ``output`` is refused, or replaced where the caller knows that it may be. Errors: StudyError.
    """
    output = Path(output)
    with _telling(output, remedy):
        require(replaces or not (output.exists() or output.is_symlink()), f"{output}: is there already; {remedy}")
        output.parent.mkdir(parents=True, exist_ok=True)
        with _own_directory(output, 0o777) as part:
            yield part
            sync_tree(part)
            old = _part_of(output)
            try:
                # Else what another process has put there meanwhile stays: a directory is not renamed onto a full one.
                if replaces and output.exists():
                    output.rename(old)
                try:
                    part.rename(output)
                except BaseException:
                    if old.exists():
                        old.rename(output)
                    raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
            sync_directory(output.parent)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for this process and user alone, among the system's temporary files, removed when the block ends.

    What a killed process left of one is removed first. Errors: StudyError naming the place.
    """
    place = Path(tempfile.gettempdir()) / "holdfast"
    with _telling(place.parent, "set TMPDIR to a directory that can be written"):
        opened = contextlib.ExitStack()
        part = opened.enter_context(_own_directory(place, 0o700))
    with opened:
        yield part


@contextlib.contextmanager
def _own_directory(path: Path, mode: int) -> Iterator[Path]:
    """A new directory under a name that says whose it is, after what is left of others; gone when the block ends."""
    discard_parts(path)
    part = _part_of(path)
    part.mkdir(mode)
    try:
        handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _claim(handle)
            yield part
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def append_file(path: Path, data: bytes | str) -> None:
    """Add to the end of a file that others write to as well, all of it or nothing. Errors: StudyError."""
    with _telling(path, REMEDY), path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        body = data.encode("utf-8", "replace") if isinstance(data, str) else data
        try:
            while body:
                body = body[file.write(body) :]
            if not _is_stream(path):
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise


def discard_parts(path: Path) -> None:
    """Remove what processes that ended left of ``path``; what one that still runs is writing stays."""
    name = re.compile(re.escape(f".{path.name}{PART}") + r"(\d+)(?:-[0-9a-f]+)?")
    with contextlib.suppress(OSError):
        for found in list(path.parent.iterdir()):
            match = name.fullmatch(found.name)
            if match and not _may_write(int(match[1]), found) and not _is_claimed(found):
                if found.is_dir() and not found.is_symlink():
                    shutil.rmtree(found, ignore_errors=True)
                else:
                    found.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Wait until all files below a directory, and their names, are on disk."""
    for found in (*path.rglob("*"), path):
        if not found.is_symlink():
            sync_directory(found)


def _part_of(path: Path) -> Path:
    """A new name under which ``path`` is written until it is whole."""
    return path.with_name(f".{path.name}{PART}{os.getpid()}-{secrets.token_hex(4)}")


def _is_stream(path: Path) -> bool:
    """Whether a path is a device or a pipe, which cannot be replaced; a shell names its own like files."""
    if str(path.absolute()).startswith(_IN_PLACE):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _claim(handle: int) -> None:
    """Lock what this process is writing, so that one that cannot see its number leaves it alone."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_claimed(path: Path) -> bool:
    with contextlib.suppress(OSError):  # gone meanwhile, or on a file system without locks
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def _may_write(process: int, part: Path) -> bool:
    """Whether a process of this number runs, whoever's it is, and not only since ``part`` was last written to.

    Numbers come round again: one that began later is another process than the one that began the part.
    """
    try:
        with contextlib.suppress(PermissionError):
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    start = began(process)
    return start is None or start <= part.lstat().st_ctime + _CLOCK_SECONDS


@contextlib.contextmanager
def _telling(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({describe_error(error, path)}); {remedy}") from error
