"""One ledger for steps on many machines: one budget, every answer paid for once, nothing without the token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from pathlib import Path

import pytest

from holdfast.models.remote.clerk import Clerk, ClerkServer, FarLedger, ask_server
from holdfast.models.remote.ledger import Budget, read_spending
from holdfast.records.errors import BudgetSpent, StoreError

Open = Callable[[str], FarLedger]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Clerk, Open]]:
    clerk = Clerk(tmp_path / "calls.db", Budget(max_calls=20))
    server = ClerkServer(clerk, "token", host="127.0.0.1")
    yield clerk, lambda who: FarLedger(ask_server(server.address, "token", who))
    server.close()
    clerk.close()


async def call(ledger: FarLedger, number: int) -> str:
    """What a model does for one call: from the ledger, else paid for; "paid", "found" or "waits"."""
    if ledger.find(key(number), "judge", "m") is not None:
        return "found"
    if not await ledger.intend(key(number), "judge", "m"):
        return "waits"
    await ledger.settle(key(number), {"text": f"a{number} é"}, "m-1", tokens=(3, 4), cost=0.5, seconds=0.1, attempts=1)
    return "paid"


def test_many_steps_share_one_ledger(served: tuple[Clerk, Open], tmp_path: Path) -> None:
    _, open_ledger = served

    def work(who: int) -> list[str]:
        ledger = open_ledger(f"step-{who}")
        return [asyncio.run(call(ledger, number)) for number in range(10)]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert sum(words.count("paid") for words in done) == 10  # each call once, whoever made it
    ledger = open_ledger("another")
    assert [ledger.find(key(number), "judge", "m") for number in range(10)] == [{"text": f"a{n} é"} for n in range(10)]
    (spent,) = read_spending(tmp_path / "calls.db")
    assert (spent.calls, spent.input_tokens, spent.output_tokens, spent.cost) == (10, 30, 40, 5.0)


def test_a_call_in_flight_is_waited_for_until_its_step_is_over(served: tuple[Clerk, Open]) -> None:
    clerk, open_ledger = served
    one, two = open_ledger("one"), open_ledger("two")
    assert asyncio.run(one.intend(key(1), "judge", "m"))
    assert not asyncio.run(two.intend(key(1), "judge", "m"))
    clerk.dismiss("one")
    assert asyncio.run(two.intend(key(1), "judge", "m"))
    with pytest.raises(StoreError, match="is over"):
        asyncio.run(one.settle(key(1), {}, "m", tokens=(0, 0), cost=0.0, seconds=0.0, attempts=1))
    asyncio.run(two.withdraw(key(1)))
    assert asyncio.run(two.intend(key(1), "judge", "m"))
    two.leave(key(1))


def test_one_budget_holds_for_all(served: tuple[Clerk, Open]) -> None:
    _, open_ledger = served
    ledgers = [open_ledger(f"step-{number}") for number in range(3)]
    for number in range(20):
        assert asyncio.run(call(ledgers[number % 3], number)) == "paid"
    for ledger in ledgers:
        with pytest.raises(BudgetSpent, match="the budget of 20 calls is spent"):
            asyncio.run(call(ledger, 99))
        assert asyncio.run(call(ledger, 5)) == "found"


def test_who_knocks_and_says_nothing_or_nonsense_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "calls.db", Budget())
    server = ClerkServer(clerk, "secret", host="127.0.0.1")
    with contextlib.closing(clerk), contextlib.closing(server), contextlib.ExitStack() as open_ones:
        for said in (None, b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 200, b"\x00\x00\x00\x04abcd"):
            stranger = open_ones.enter_context(socket.create_connection(server.address))
            if said is not None:
                stranger.sendall(said)
            if said == b"":
                stranger.close()
        friend = FarLedger(ask_server(server.address, "secret", "x"))
        assert asyncio.run(call(friend, 1)) == "paid"


def test_whoever_has_not_the_token_is_not_served(served: tuple[Clerk, Open], tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "other.db", Budget())
    server = ClerkServer(clerk, "secret", host="127.0.0.1")
    with contextlib.closing(clerk), contextlib.closing(server):
        strange = FarLedger(ask_server(server.address, "guess", "x"))
        with pytest.raises(StoreError, match="cannot be reached") as told:
            strange.find(key(1), "judge", "m")
        assert isinstance(told.value.__cause__, AuthenticationError)
        friend = FarLedger(ask_server(server.address, "secret", "x"))
        assert asyncio.run(call(friend, 1)) == "paid"  # the next one is served
        with pytest.raises(StoreError, match="nothing that a ledger does"):
            ask_server(server.address, "secret", "x")("close", {"key": "00"})
    gone = FarLedger(ask_server(server.address, "secret", "y"))
    with pytest.raises(StoreError, match="cannot be reached"):
        gone.find(key(1), "judge", "m")
