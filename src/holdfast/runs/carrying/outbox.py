"""The driver's side of a cluster: takes what steps say, gives out weights, and lays down files that steps leave.

It lives in a process beside the driver. Whoever speaks to it has the run's token, and of an attempt that is over
nothing is taken: one that was given up and is still at work fails with its next word.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.models.remote.clerk import Clerk
from holdfast.models.remote.ledger import Budget
from holdfast.records.errors import StoreError
from holdfast.runs.carrying.envelopes import place_below
from holdfast.store.weights import holds

CHUNK_BYTES = 32 << 20  # of a file, in one message
MOST_WAITING = 256 << 20  # bytes of outcomes that were not taken yet; whoever has more waits
WAIT_SECONDS = 60.0


class Outbox:
    """Takes the outcomes of the attempts that are open, in order of arrival; its methods may run side by side."""

    def __init__(self, token: str, weights_root: str, ledger: str = "") -> None:
        self._token, self._root = token, Path(weights_root)
        self._ledger, self._clerks = Path(ledger), dict[Budget, Clerk]()
        # attempt → where files that it leaves are laid, and what may be spent for it
        self._open: dict[str, tuple[Path, Budget]] = {}
        self._held: dict[str, threading.Lock] = {}  # by digest: weights are held against it by one at a time
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._beats: set[str] = set()
        self._changed = threading.Condition()

    def _check(self, token: str, attempt: str | None = None) -> Path:
        if not hmac.compare_digest(token, self._token):
            raise StoreError("another run's token; nothing is taken or given")
        if attempt is None:
            return self._root
        if attempt not in self._open:
            raise StoreError(f"the attempt {attempt[:80]} is over; nothing more is taken of it")
        return self._open[attempt][0]

    # --- for the driver ---------------------------------------------------------------------------------------

    def begin(self, token: str, attempt: str, scratch: str, budget: Mapping[str, Any]) -> None:
        """Take what an attempt says from now on, lay its files into ``scratch``, and hold its calls to a ``budget``."""
        self._check(token)
        with self._changed:
            self._open[attempt] = Path(scratch), Budget(**budget)

    def end(self, token: str, attempt: str) -> None:
        """Take nothing more of an attempt."""
        self._check(token)
        with self._changed:
            clerks = [*self._clerks.values()]
            self._open.pop(attempt, None)
            kept = [one for one in self._waiting if one[0] != attempt]
            self._waiting, self._bytes = deque(kept), sum(len(data) for _, data in kept)
            self._changed.notify_all()
        for clerk in clerks:
            clerk.dismiss(attempt)

    def take(self, token: str, seconds: float) -> tuple[list[tuple[str, bytes]], list[str]]:
        """What was said since the last time, waiting so long for something, and which attempts gave signs of life."""
        self._check(token)
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, seconds)
            said, self._waiting, self._bytes = list(self._waiting), deque(), 0
            beats, self._beats = sorted(self._beats), set()
            self._changed.notify_all()
        return said, beats

    # --- for steps --------------------------------------------------------------------------------------------

    def put(self, token: str, attempt: str, data: bytes) -> None:
        """An outcome of an attempt; it is taken when this returns. Errors: StoreError for one that is over."""
        until = time.monotonic() + WAIT_SECONDS
        with self._changed:
            self._check(token, attempt)
            while self._bytes > MOST_WAITING and time.monotonic() < until:
                self._changed.wait(1.0)
                self._check(token, attempt)
            self._waiting.append((attempt, data))
            self._bytes += len(data)
            self._beats.add(attempt)
            self._changed.notify_all()

    def beat(self, token: str, attempt: str) -> None:
        """A sign of life. Errors: StoreError for an attempt that is over."""
        self._check(token, attempt)
        with self._changed:
            self._beats.add(attempt)

    def lay(self, token: str, attempt: str, name: str, offset: int, data: bytes) -> None:
        """A part of a file that an attempt leaves, from ``offset`` on; ``name`` is a path in the step's directory."""
        file = place_below(Path(name), self._check(token, attempt))
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("r+b" if offset else "wb") as stream:
            if offset != stream.seek(0, 2):
                raise StoreError(f"{name[:200]}: a part at {offset} where {stream.tell()} bytes are; not taken")
            stream.write(data)
        self.beat(token, attempt)

    def account(self, token: str, attempt: str, method: str, given: Mapping[str, Any]) -> Any:
        """Carry out a method of the run's ledger for an attempt. Errors: BudgetSpent, StoreError."""
        with self._changed:
            self._check(token, attempt)
            bound = self._open[attempt][1]
            clerk = self._clerks.setdefault(bound, Clerk(self._ledger, bound))
        self.beat(token, attempt)
        return clerk.answer(attempt, method, given)

    def list_weights(self, token: str, attempt: str, digest: str) -> list[tuple[str, int]]:
        """Files of the weights of a digest, with their sizes. Errors: StoreError where they are gone or changed."""
        directory = self._weights(token, attempt, digest)
        with self._changed:
            lock = self._held.setdefault(digest, threading.Lock())
        with lock:  # nodes that ask for the same wait for one look, whose result is kept
            whole = directory.is_dir() and holds(directory, digest)
        if not whole:
            raise StoreError(f"{directory}: does not hold the weights of this digest; restore them from a copy")
        return [(path.name, path.stat().st_size) for path in sorted(directory.iterdir())]

    def read_weights(self, token: str, attempt: str, digest: str, name: str, offset: int) -> bytes:
        """A part of a file of weights."""
        with place_below(Path(name), self._weights(token, attempt, digest)).open("rb") as stream:
            stream.seek(offset)
            return stream.read(CHUNK_BYTES)

    def _weights(self, token: str, attempt: str, digest: str) -> Path:
        self._check(token, attempt)
        if len(digest) != 64 or not digest.isalnum():
            raise StoreError(f"{digest[:80]!r} is no digest of weights")
        return self._root / digest
