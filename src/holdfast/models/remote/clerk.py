"""One ledger for processes on many machines: a clerk beside the driver opens it, others ask the clerk.

So a budget is one budget and an answer is paid for once, wherever the step runs that asks. Each step that asks has a
ledger of its own in the clerk's process, so that two that ask the same wait for each other as two processes do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from holdfast.models.remote.ledger import Budget, Ledger, Spending
from holdfast.records.errors import BudgetSpent, StoreError

Ask = Callable[[str, Mapping[str, Any]], Any]  # a method of the ledger and what it is given, as JSON
_MOST_BYTES = 256 << 20  # of a message
_BACKLOG, _PAUSE_SECONDS = 128, 0.2
_WAITING = ("intend", "settle", "withdraw")


class Clerk:
    """Answers for the ledger at ``path``; its methods may be called from many threads."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        self._ledgers: dict[str, Ledger] = {}
        self._over: set[str] = set()
        self._opening = threading.Lock()

    def answer(self, who: str, method: str, given: Mapping[str, Any]) -> Any:
        """Carry out a method of the ledger for the step ``who``. Errors: BudgetSpent, StoreError."""
        with self._opening:
            if who in self._over:
                raise StoreError(f"{who[:80]} is over; nothing more is asked for it")
            if who not in self._ledgers:
                self._ledgers[who] = Ledger(self._path, self._budget)
            ledger = self._ledgers[who]
        told = dict(given)
        told["key"] = bytes.fromhex(told["key"])
        if method in _WAITING:
            if "tokens" in told:
                told["tokens"] = tuple(told["tokens"])
            return asyncio.run(getattr(ledger, method)(**told))
        if method == "find":
            return ledger.find(**told)
        if method == "leave":
            return ledger.leave(**told)
        raise StoreError(f"{method!r:.40}: nothing that a ledger does")

    def dismiss(self, who: str) -> None:
        """A step is over: what it has in flight stays in doubt."""
        with self._opening:
            self._over.add(who)
            ledger = self._ledgers.pop(who, None)
        if ledger is not None:
            ledger.close()

    def close(self) -> None:
        """Close every ledger."""
        for who in [*self._ledgers]:
            self.dismiss(who)


class FarLedger:
    """The run's ledger as a step elsewhere sees it: as ``Ledger``, through ``ask``."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def find(self, key: bytes, speaker: str, model: str) -> Any | None:
        """The recorded answer to the call, or None."""
        return self._ask("find", {"key": key.hex(), "speaker": speaker, "model": model})

    async def intend(self, key: bytes, speaker: str, model: str) -> bool:
        """Record that a call is about to be made; False where an equal one was answered or is in flight."""
        told = {"key": key.hex(), "speaker": speaker, "model": model}
        return bool(await asyncio.to_thread(self._ask, "intend", told))

    async def settle(self, key: bytes, answer: Any, served: str, **more: Any) -> None:
        """Record the answer; it is on the driver's disk when this returns."""
        await asyncio.to_thread(self._ask, "settle", {"key": key.hex(), "answer": answer, "served": served, **more})

    async def withdraw(self, key: bytes, *, sent: bool = False) -> None:
        """Forget one intent: the call was surely not billed."""
        await asyncio.to_thread(self._ask, "withdraw", {"key": key.hex(), "sent": sent})

    def leave(self, key: bytes) -> None:
        """Note that a call is no longer in flight, and stays in doubt."""
        with contextlib.suppress(Exception):  # who cannot be reached closes the ledger of this step anyway
            self._ask("leave", {"key": key.hex()})

    def summary(self) -> tuple[Spending, ...]:
        """Nothing: what was spent is read where the ledger is."""
        return ()

    def close(self) -> None:
        """The clerk closes the ledger."""


# --- over a socket, for jobs of a queue ---------------------------------------------------------------------------


class ClerkServer:
    """Lets jobs of a queue ask a clerk, over TCP, with a token that both sides prove to have."""

    def __init__(self, clerk: Clerk, token: str, *, host: str) -> None:
        self._clerk, self._closed = clerk, False
        self._token, self._listener = token.encode(), Listener((host, 0), backlog=_BACKLOG)
        port = self._listener.address[1]
        self.address = (host if host == "127.0.0.1" else socket.gethostname(), int(port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except Exception:
                if self._closed:
                    return
                time.sleep(_PAUSE_SECONDS)  # as where no more files may be open: others will end
                continue
            if self._closed:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        # Who is no step of this run, or says nothing, keeps none but this thread.
        with contextlib.suppress(EOFError, OSError, ValueError, AuthenticationError), connection:
            deliver_challenge(connection, self._token)
            answer_challenge(connection, self._token)
            while True:
                asked = json.loads(connection.recv_bytes(_MOST_BYTES))
                try:
                    told = {"answer": self._clerk.answer(asked["who"], asked["method"], asked["given"])}
                except BudgetSpent as error:
                    told = {"spent": str(error)}
                except Exception as error:
                    told = {"error": str(error) or type(error).__name__}
                connection.send_bytes(json.dumps(told).encode())

    def close(self) -> None:
        """Serve nobody any more."""
        self._closed = True  # one that is waited for now is let in, and out again
        self._listener.close()


def ask_server(address: tuple[str, int], token: str, who: str) -> Ask:
    """What asks the clerk at an address for the step ``who``, over one connection a thread. Errors: StoreError."""
    local = threading.local()

    def ask(method: str, given: Mapping[str, Any]) -> Any:
        try:
            if not hasattr(local, "connection"):
                local.connection = Client(address, authkey=token.encode())
            local.connection.send_bytes(json.dumps({"who": who, "method": method, "given": given}).encode())
            told = json.loads(local.connection.recv_bytes(_MOST_BYTES))
        except Exception as error:
            local.__dict__.clear()
            raise StoreError(f"the driver's ledger cannot be reached ({type(error).__name__}: {error})") from error
        if "spent" in told:
            raise BudgetSpent(told["spent"])
        if "error" in told:
            raise StoreError(told["error"])
        return told["answer"]

    return ask
