"""A step on a node of a cluster, whose driver is reached through its outbox alone."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.models.remote.clerk import FarLedger
from holdfast.records.errors import StoreError
from holdfast.records.extensions import allow
from holdfast.records.machine import describe_machine
from holdfast.runs.carrying.cache import Sizes, hold_weights, node_cache
from holdfast.runs.carrying.carry import admit, beating, carry
from holdfast.runs.carrying.cutting import STEP_FILE, Slice, read_slice
from holdfast.runs.carrying.envelopes import pack, unpack
from holdfast.runs.carrying.outbox import CHUNK_BYTES
from holdfast.runs.methods.files import ATTACHED
from holdfast.runs.plan.step import Means
from holdfast.runs.steps.outcomes import Finished, describe_failure
from holdfast.store import DATABASE

_STEP_DIRECTORY = "holdfast-step-"
_OLD_SECONDS = 60.0
_ATTACHED = re.compile(rf"{ATTACHED}(\.\w{{1,16}})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """A directory that nodes may share with the driver: where weights lie, and a file by which that is known."""

    weights: str
    nonce_file: str
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a node is asked to carry out: an attempt's slice, packed, with the digest that the driver wrote it with.

    ``scratch`` is the step's directory where weights are shared, ``means`` say how remote models are reached;
    ``permitted`` is what of others' code the driver's study names.
    """

    attempt: str
    packed: bytes
    digest: str
    sharing: Sharing
    scratch: str
    token: str
    means: Means
    permitted: tuple[Any, ...]


def pack_slice(path: Path) -> bytes:
    """A slice's files as bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # texts in it are compressed
        for name in (DATABASE, STEP_FILE, *(one.name for one in path.glob(f"{ATTACHED}*"))):
            archive.write(path / name, name)
    return packed.getvalue()


def unpack_slice(packed: bytes, path: Path) -> None:
    """Lay a slice's files down in an empty directory; names but its own are not looked at."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        attached = [name for name in archive.namelist() if _ATTACHED.fullmatch(name)]
        for name in (DATABASE, STEP_FILE, *attached[:1]):
            (path / name).write_bytes(archive.read(name))
            (path / name).chmod(0o600)


def look_at_node(sharing: Sharing) -> dict[str, Any]:
    """What a driver wants to know of a node before it begins: versions, clock, and whether it shares the directory."""
    shared, writable = _is_shared(sharing), False
    if shared:
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(prefix=".part-look-", dir=sharing.weights)
            os.close(handle)
            os.unlink(name)  # noqa: PTH108
            writable = True
    return {"machine": describe_machine(), "time": time.time(), "shared": shared, "writable": writable}


def _is_shared(sharing: Sharing) -> bool:
    with contextlib.suppress(OSError):
        return Path(sharing.nonce_file).read_text(encoding="ascii") == sharing.nonce
    return False


def carry_on_node(order: Order, ask: Callable[..., Any], name: str, *, allow_command: bool = False) -> bool:
    """Carry out an order's step; whether it succeeded. ``ask`` calls a method of the driver's outbox by its name.

    ``allow_command`` is the node's own word that stages by programs may be carried out on it.

    Errors: StoreError for an attempt that is over, and whatever kept the driver from being reached.
    """
    allow(order.permitted)
    with _own_directory() as root, beating(lambda: ask("beat", order.token, order.attempt)):
        return _carry(order, ask, name, root, allow_command)


@contextlib.contextmanager
def _own_directory() -> Iterator[Path]:
    """A temporary directory of a step, which is held; those of processes that were killed go."""
    for old in Path(tempfile.gettempdir()).glob(f"{_STEP_DIRECTORY}*"):
        with contextlib.suppress(OSError):  # somebody else's, or held
            held = os.open(old, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(held).st_mtime > _OLD_SECONDS:  # not one that is being made
                    shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(held)
    root = Path(tempfile.mkdtemp(prefix=_STEP_DIRECTORY))
    held = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(held)


def _carry(order: Order, ask: Callable[..., Any], name: str, root: Path, allow_command: bool) -> bool:
    shared = _is_shared(order.sharing)
    scratch = Path(order.scratch) if shared else root / "work"

    def send(data: bytes) -> None:
        if not shared:
            _hand_over(data, scratch, order, ask)
        ask("put", order.token, order.attempt, data)

    try:
        piece = _open_slice(order, root / "slice", allow_command)
    except Exception as error:
        send(pack(order.attempt, 0, describe_failure(error, root), scratch))
        return False
    with _weights(order, piece, ask, shared) as weights_root:
        means = replace(order.means, ledger=FarLedger(partial(_account, order, ask)))
        return carry(piece, send, weights_root=weights_root, scratch=scratch, means=means, node=name)


def _account(order: Order, ask: Callable[..., Any], method: str, given: Mapping[str, Any]) -> Any:
    """Ask the run's ledger, beside the driver."""
    return ask("account", order.token, order.attempt, method, given)


def _open_slice(order: Order, path: Path, allow_command: bool) -> Slice:
    path.mkdir(mode=0o700)
    unpack_slice(order.packed, path)
    piece = read_slice(path)
    piece.require(order.attempt, order.digest)
    admit(piece.step, allow_command)
    return piece


def _weights(
    order: Order, piece: Slice, ask: Callable[..., Any], shared: bool
) -> contextlib.AbstractContextManager[Path]:
    if shared:
        return contextlib.nullcontext(Path(order.sharing.weights))

    return hold_weights(node_cache(), piece.weights, _FromDriver(order, ask))


@dataclass(frozen=True, slots=True)
class _FromDriver:
    """Weights as the driver gives them out, in pieces."""

    order: Order
    ask: Callable[..., Any]

    def sizes(self, digest: str) -> Sizes:
        """The files of a digest, and how large they are."""
        return [(Path(file).name, int(size)) for file, size in self._ask("list_weights", digest)]

    def fetch(self, digest: str, files: Sizes, part: Path) -> None:
        """Write the files of a digest into the empty directory ``part``. Errors: StoreError for one that shrinks."""
        for file, size in files:
            with (part / file).open("wb") as stream:
                while (at := stream.tell()) < size:
                    if not (piece := self._ask("read_weights", digest, file, at)):
                        raise StoreError(f"{digest}: {file} ends at {at:,} of {size:,} bytes; it has changed there")
                    stream.write(piece)

    def _ask(self, method: str, *given: Any) -> Any:
        return self.ask(method, self.order.token, self.order.attempt, *given)


def _hand_over(data: bytes, scratch: Path, order: Order, ask: Callable[..., Any]) -> None:
    """Send the files that a finished step leaves, before it says that it has."""
    outcome = unpack(data, scratch).outcome
    if not isinstance(outcome, Finished):
        return
    left = [path for _, place in outcome.checkpoints if place is not None for path in sorted(place.iterdir())]
    for path in (*left, *outcome.logs.values()):
        told, offset = path.relative_to(scratch).as_posix(), 0
        with path.open("rb") as stream:
            while (part := stream.read(CHUNK_BYTES)) or not offset:
                ask("lay", order.token, order.attempt, told, offset, part)
                offset += len(part)
                if not part:
                    break
