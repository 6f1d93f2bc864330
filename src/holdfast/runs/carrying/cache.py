"""Weights on a node, under their digests, within a bound: what no step uses goes first.

CACHE/DIGEST/          files as they were given out, held against the digest before they stand here
CACHE/DIGEST.lock      held by every process that uses them
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from holdfast.records.errors import StoreError
from holdfast.store import weights

VARIABLE, BOUND_VARIABLE = "HOLDFAST_NODE_CACHE", "HOLDFAST_NODE_CACHE_GB"
BOUND_GB = 200.0
Fetch = Callable[[str, Path], None]  # writes the files of a digest into an empty directory


def node_cache() -> Path:
    """Where this node keeps weights: ``$HOLDFAST_NODE_CACHE``, else a directory of the user's among temporary ones."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"holdfast-weights-{os.getuid()}"


def bound_bytes() -> float:
    """How much the cache may hold beside what is in use."""
    return float(os.environ.get(BOUND_VARIABLE) or BOUND_GB) * 1e9


@contextlib.contextmanager
def hold_weights(root: Path, digests: Sequence[str], fetch: Fetch) -> Iterator[Path]:
    """The cache's directory, with the weights of these digests in it for as long as the block lasts.

    Errors: StoreError for files that do not have the digest that they were asked for by.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise StoreError(f"{root}: is somebody else's; name another place in {VARIABLE}")
    with contextlib.ExitStack() as held:
        for digest in sorted(digests):
            held.enter_context(_hold(root, digest, fetch))
        _make_room(root)
        yield root


@contextlib.contextmanager
def _hold(root: Path, digest: str, fetch: Fetch) -> Iterator[None]:
    lock = os.open(root / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not _is_there(root / digest, digest):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_there(root / digest, digest):  # another process may have brought them meanwhile
                _bring(root, digest, fetch)
            fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(lock)
        yield
    finally:
        os.close(lock)


def _is_there(directory: Path, digest: str) -> bool:
    return directory.is_dir() and not directory.is_symlink() and weights.holds(directory, digest)


def _bring(root: Path, digest: str, fetch: Fetch) -> None:
    shutil.rmtree(root / digest, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=weights.TEMPORARY, dir=root))
    try:
        fetch(digest, part)
        if (found := weights.digest_directory(part)) != digest:
            raise StoreError(f"{digest}: other weights arrived ({found}); they are not opened")
        weights.adopt(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make_room(root: Path) -> None:
    """Remove what was used longest ago and is used by nobody, until the rest is within the bound."""
    locks = sorted(root.glob("*.lock"), key=lambda path: path.stat().st_mtime)
    sizes = {path.stem: _size(root / path.stem) for path in locks}
    for path in locks:
        if sum(sizes.values()) <= bound_bytes():
            return
        lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root / path.stem, ignore_errors=True)
            sizes[path.stem] = 0
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _size(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in directory.iterdir())
    return 0
