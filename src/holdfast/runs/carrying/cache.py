"""Weights on a node, under their digests, within a bound: what no step uses goes first.

CACHE/DIGEST/          files as they were given out, held against the digest before they stand here
CACHE/DIGEST.lock      held by every process that uses them
CACHE/DIGEST.bring     held by the one that brings them
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from holdfast.records.errors import StoreError
from holdfast.records.inputs import read_number
from holdfast.store import weights

VARIABLE, BOUND_VARIABLE = "HOLDFAST_NODE_CACHE", "HOLDFAST_NODE_CACHE_GB"
BOUND_GB = 200.0
Sizes = Sequence[tuple[str, int]]  # of files, by their names


class Source(Protocol):
    """Where weights come from."""

    def sizes(self, digest: str) -> Sizes:
        """The files of a digest, and how large they are."""

    def fetch(self, digest: str, files: Sizes, part: Path) -> None:
        """Write the files of a digest into the empty directory ``part``."""


def node_cache() -> Path:
    """Where this node keeps weights: ``$HOLDFAST_NODE_CACHE``, else a directory of the user's among temporary ones."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"holdfast-weights-{os.getuid()}"


def bound_bytes() -> float:
    """How much the cache may hold, what is in use counted too. Errors: StudyError."""
    return read_number(BOUND_VARIABLE, BOUND_GB) * 1e9


@contextlib.contextmanager
def hold_weights(root: Path, digests: Sequence[str], source: Source) -> Iterator[Path]:
    """The cache's directory, with the weights of these digests in it for as long as the block lasts.

    Errors: StoreError for files that do not have the digest that they were asked for by.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise StoreError(f"{root}: is somebody else's; name another place in {VARIABLE}")
    with contextlib.ExitStack() as held:
        for digest in sorted(digests):
            held.enter_context(_hold(root, digest, source))
        yield root


@contextlib.contextmanager
def _hold(root: Path, digest: str, source: Source) -> Iterator[None]:
    with _locked(root / f"{digest}.lock", fcntl.LOCK_SH) as lock:
        if not _is_there(root / digest, digest):
            # Another lock than that of those who use them: these hold theirs for as long as their steps take.
            with _locked(root / f"{digest}.bring", fcntl.LOCK_EX):
                if not _is_there(root / digest, digest):  # another process may have brought them meanwhile
                    _bring(root, digest, source)
        os.utime(lock)
        yield


@contextlib.contextmanager
def _locked(file: Path, how: int) -> Iterator[int]:
    """The lock of a file, which is made where there is none. Errors: BlockingIOError where it is not waited for."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
        yield lock
    finally:
        os.close(lock)


def _is_there(directory: Path, digest: str) -> bool:
    return directory.is_dir() and not directory.is_symlink() and weights.holds(directory, digest)


def _bring(root: Path, digest: str, source: Source) -> None:
    shutil.rmtree(root / digest, ignore_errors=True)
    files = source.sizes(digest)
    _make_room(root, sum(size for _, size in files))
    part = root / f"{weights.TEMPORARY}{digest}"  # whoever was to bring them before is no more
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    try:
        source.fetch(digest, files, part)
        if (found := weights.digest_directory(part)) != digest:
            raise StoreError(f"{digest}: other weights arrived ({found}); they are not opened")
        weights.adopt(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make_room(root: Path, wanted: int) -> None:
    """Remove what was used longest ago and is used by nobody, until there is room within the bound for what is wanted.

    ``wanted`` is in bytes.
    """
    for part in root.glob(f"{weights.TEMPORARY}*"):  # of processes that were killed
        digest = part.name.removeprefix(weights.TEMPORARY)
        with contextlib.suppress(BlockingIOError), _locked(root / f"{digest}.bring", fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(part, ignore_errors=True)
    locks = sorted(root.glob("*.lock"), key=lambda path: path.stat().st_mtime)
    sizes = {path.stem: _size(root / path.stem) for path in locks}
    for path in locks:
        if sum(sizes.values()) + wanted <= bound_bytes():
            return
        with contextlib.suppress(BlockingIOError), _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(root / path.stem, ignore_errors=True)
            sizes[path.stem] = 0


def _size(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in directory.iterdir())
    return 0
