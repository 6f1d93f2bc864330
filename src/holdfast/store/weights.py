"""Directories of weights: digests, adoption into a run, unfinished work, and a cache of bases that many runs share.

A directory is complete or absent: it is written under a temporary name, made durable, and renamed to its
digest. What a step has not finished waits under the step's fingerprint for the next process. Pickled weights
are never read; only safetensors, JSON and plain text are taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from holdfast.records.errors import StoreError, StudyError
from holdfast.records.outputs import new_directory, sync_directory, sync_tree

WEIGHTS = "weights"  # where a run keeps them
TEMPORARY = ".part-"  # prefix of directories that are not complete
ATTEMPT = "~"  # in the name of a step's unfinished work: before that of the attempt that is at it
_HELD = re.compile(rf"{WEIGHTS}/[0-9a-f]{{64}}")
ALLOWED_SUFFIXES = {".json", ".safetensors", ".jinja", ".txt", ".model"}


def is_held(place: str) -> bool:
    """Whether a place is that of weights in a run: under their digest."""
    return _HELD.fullmatch(place) is not None


def digest_directory(directory: Path) -> str:
    """SHA-256 over the names and contents of a directory's files, in the order of names. Errors: StoreError."""
    whole = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or not path.is_file() or path.suffix not in ALLOWED_SUFFIXES:
            raise StoreError(f"{path}: not a file that a weights directory may hold; convert weights to safetensors")
        with path.open("rb") as file:
            whole.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


_held: dict[tuple[object, ...], str] = {}  # digests of directories that this process has read, as they were then


def holds(directory: Path, digest: str) -> bool:
    """Whether a directory's files have a digest; one that has not changed since this process read it is not read again.

    Large weights take seconds, and several steps open the same ones.
    """
    state = [(path.name, path.lstat()) for path in sorted(directory.iterdir())]
    told = [(name, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for name, one in state]
    place = (str(directory.absolute()), *told)
    if place not in _held:
        try:
            _held[place] = digest_directory(directory)
        except StoreError:
            return False
    return _held[place] == digest


def dose_path(directory: Path, step: int) -> Path:
    """Where a stage keeps its weights after a number of steps, among its unfinished work."""
    return directory / f"step-{step:06d}"


def start_anew(directory: Path) -> None:
    """Remove what a killed process left of a directory that is about to be written, and what was noted of it."""
    _note_of(directory).unlink(missing_ok=True)
    if directory.exists():
        shutil.rmtree(directory)


def note_digest(directory: Path) -> None:
    """Note beside a directory of unfinished work what it holds, so that another process takes up no other."""
    _note_of(directory).write_text(digest_directory(directory), encoding="ascii")


def is_as_noted(directory: Path) -> bool:
    """Whether a directory is there and holds what was noted beside it."""
    with contextlib.suppress(OSError, ValueError, StoreError):
        return _note_of(directory).read_text(encoding="ascii") == digest_directory(directory)
    return False


def _note_of(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.digest")


def adopt(directory: Path, root: Path) -> str:
    """Move a finished directory into ``root`` under its digest, durably and for its owner alone; returns the digest.

    What stands there under this digest stays, unless it was damaged since.
    """
    digest = digest_directory(directory)
    target = root / digest
    if target.exists():
        if holds(target, digest):
            shutil.rmtree(directory)
            return digest
        shutil.rmtree(target)
    for path in directory.iterdir():
        path.chmod(0o600)
    directory.chmod(0o700)
    sync_tree(directory)
    directory.rename(target)
    sync_directory(root)
    return digest


def lend(directory: Path, root: Path) -> None:
    """Copy a directory of weights that is named by its digest to ``root``, whole or not at all."""
    target = root / directory.name
    if not (target.is_dir() and holds(target, directory.name)):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = root / f"{TEMPORARY}{directory.name}"
        shutil.rmtree(part, ignore_errors=True)
        adopt(Path(shutil.copytree(directory, part)), root)


def scratch_of(root: Path, fingerprint: str, attempt: str = "") -> Path:
    """The directory in ``root`` for a step's unfinished work; each ``attempt`` at it has one of its own."""
    return root / f"{TEMPORARY}{fingerprint}{ATTEMPT if attempt else ''}{attempt}"


def hand_on_scratch(root: Path, fingerprint: str, attempt: str = "") -> Path:
    """Give what earlier attempts at a step left to a new one; its directory.

    One that was given up and is still at work finds its directory gone: it cannot write into the new one's.
    """
    target = scratch_of(root, fingerprint, attempt)
    left = [one for one in root.glob(f"{TEMPORARY}{fingerprint}*") if _step_of(one) == fingerprint and one != target]
    newest = max(left, key=lambda one: one.stat().st_mtime, default=None)
    if newest is not None and not target.exists():
        newest.rename(target)
        left.remove(newest)
    for one in left:
        shutil.rmtree(one, ignore_errors=True)
    return target


def _step_of(scratch: Path) -> str:
    """The fingerprint of the step whose unfinished work a directory holds."""
    return scratch.name.removeprefix(TEMPORARY).partition(ATTEMPT)[0]


@contextlib.contextmanager
def open_scratch(scratch: Path) -> Iterator[Path]:
    """A step's own directory for unfinished work, with what an earlier process left there.

    One process at a time: a worker that outlives its parent for a moment is waited for.
    """
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield scratch
    finally:
        os.close(handle)


def clear_scratch(scratch: Path, keep: Collection[str] = ()) -> None:
    """Remove what is in a step's directory, but for the names in ``keep``; it stays itself, because it is the lock."""
    for path in scratch.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def discard_scratch(root: Path, fingerprint: str) -> None:
    """Remove a step's unfinished work, of whichever attempt."""
    for leftover in root.glob(f"{TEMPORARY}{fingerprint}*"):
        if _step_of(leftover) == fingerprint:
            shutil.rmtree(leftover, ignore_errors=True)


def discard_leftovers(root: Path, keep: Collection[str] = ()) -> None:
    """Remove unfinished work, but for that of the steps in ``keep``; only the run's one writer may call this."""
    for leftover in root.glob(TEMPORARY + "*"):
        if _step_of(leftover) not in keep:
            shutil.rmtree(leftover, ignore_errors=True)


def cache_root() -> Path:
    """Where bases are kept between runs: ``$HOLDFAST_CACHE``, else ``~/.cache/holdfast``."""
    return Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast") / "bases"


def fetch_cached(fingerprint: str, target: Path) -> bool:
    """Copy the cached directory of a fingerprint to ``target``; False where there is none or it is damaged."""
    for found in cache_root().glob(f"{fingerprint}-*"):
        # The copy is verified, not the original: another process may replace that at any time.
        with contextlib.suppress(OSError, StoreError):
            shutil.copytree(found, target)
            if digest_directory(target) == found.name.removeprefix(f"{fingerprint}-"):
                return True
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(found, ignore_errors=True)
    return False


def keep_cached(fingerprint: str, directory: Path) -> None:
    """Put a copy of a directory into the cache; a cache that cannot be written is no error."""
    target = cache_root() / f"{fingerprint}-{digest_directory(directory)}"
    with contextlib.suppress(OSError, StudyError):
        if not target.exists():
            with new_directory(target) as copy:
                shutil.copytree(directory, copy, dirs_exist_ok=True)
