"""The ledger of calls: answered ones are kept, doubtful ones counted, budgets hold over processes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.models.remote.ledger import Budget, Ledger, join_ledgers, read_spending
from holdfast.records.errors import BudgetSpent, StoreError

WHO = ("judge", "some/model")


PAID = {"served": "model-1", "tokens": (10, 3), "seconds": 0.25, "attempts": 1}


async def call(ledger: Ledger, key: bytes, answer: object = "yes", cost: float = 0.5) -> None:
    """An intent and its answer."""
    await ledger.intend(key, *WHO)
    await ledger.settle(key, answer, cost=cost, **PAID)


def test_an_answer_is_given_back_and_counted(tmp_path: Path) -> None:
    answer = {"text": "naïve ☃", "sampled": [["a", -0.5, {"a": -0.5}]], "calls": []}
    ledger = Ledger(tmp_path / "deep" / "calls.db")
    assert ledger.find(b"one", *WHO) is None
    asyncio.run(call(ledger, b"one", answer))
    assert ledger.find(b"one", *WHO) == answer
    ledger.close()
    again = Ledger(tmp_path / "deep" / "calls.db")
    assert again.find(b"one", "agent", "some/model") == answer
    judge, agent = sorted(again.summary(), key=lambda one: one.from_cache)
    assert (judge.speaker, judge.calls, judge.from_cache, judge.input_tokens, judge.output_tokens) == (
        "judge",
        1,
        0,
        10,
        3,
    )
    assert (judge.cost, judge.seconds, judge.attempts, judge.in_doubt, judge.served) == (0.5, 0.25, 1, 0, ("model-1",))
    assert (agent.speaker, agent.calls, agent.from_cache) == ("agent", 0, 1)
    again.close()


def test_an_intent_without_an_answer_is_in_doubt_unless_withdrawn(tmp_path: Path) -> None:
    async def go() -> None:
        await ledger.intend(b"lost", *WHO)
        await ledger.intend(b"lost", *WHO)
        await ledger.intend(b"refused", *WHO)
        await ledger.withdraw(b"refused")
        await ledger.intend(b"late", *WHO)
        await ledger.intend(b"late", *WHO)
        await ledger.settle(b"late", "yes", cost=0.5, **PAID)

    ledger = Ledger(tmp_path / "calls.db", Budget(max_calls=4))
    asyncio.run(go())
    assert ledger.find(b"lost", *WHO) is None
    assert ledger.find(b"late", *WHO) == "yes"
    (spent,) = ledger.summary()
    assert (spent.calls, spent.in_doubt) == (1, 3)
    with pytest.raises(BudgetSpent):
        asyncio.run(ledger.intend(b"new", *WHO))
    ledger.close()


def test_the_answer_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    async def go() -> list[tuple[str, int]]:
        await ledger.intend(b"one", *WHO)
        seen = [states()]
        await ledger.settle(b"one", "yes", cost=0.5, **PAID)
        return [*seen, states()]

    def states() -> tuple[str, int]:
        with sqlite3.connect(tmp_path / "calls.db") as other:
            found: tuple[str, int] = other.execute("SELECT status, in_doubt FROM calls").fetchone()
        other.close()
        return found

    ledger = Ledger(tmp_path / "calls.db")
    assert asyncio.run(go()) == [("intent", 1), ("done", 0)]
    modes = [ledger._out.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]
    ledger.close()


@pytest.mark.parametrize(
    ("budget", "made", "option"),
    [
        (Budget(max_calls=0), 0, "--max-calls"),
        (Budget(max_cost=0), 0, "--max-cost"),
        (Budget(max_calls=3), 3, "--max-calls"),
        (Budget(max_cost=1.2), 3, "--max-cost"),
    ],
)
def test_a_budget_ends_calls_and_says_how_to_go_on(budget: Budget, made: int, option: str, tmp_path: Path) -> None:
    async def go() -> int:
        for number in range(10):
            try:
                await call(ledger, bytes([number]))
            except BudgetSpent as error:
                assert f"repeat with a larger {option}" in str(error)
                assert "\n" not in str(error)
                assert error.fatal
                return number
        return 10

    ledger = Ledger(tmp_path / "calls.db", budget)
    assert asyncio.run(go()) == made
    assert ledger.find(b"\x00", *WHO) == ("yes" if made else None)
    ledger.close()


def test_a_budget_holds_for_what_is_in_flight(tmp_path: Path) -> None:
    async def go() -> int:
        found = await asyncio.gather(*(call(ledger, bytes([n])) for n in range(40)), return_exceptions=True)
        return sum(one is None for one in found)

    ledger = Ledger(tmp_path / "calls.db", Budget(max_calls=7))
    assert asyncio.run(go()) == 7
    assert ledger.summary()[0].calls == 7
    ledger.close()


def test_several_processes_write_and_share_one_budget(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from test_ledger import Budget, Ledger, call\n"
        "ledger = Ledger(Path(sys.argv[1]), Budget(max_calls=50))\n"
        "async def go():\n"
        "    keys = [f'{sys.argv[2]}-{n}'.encode() for n in range(40)]\n"
        "    found = await asyncio.gather(*(call(ledger, key) for key in keys), return_exceptions=True)\n"
        "    print(sum(one is None for one in found))\n"
        "asyncio.run(go())\n"
        "ledger.close()\n"
    )
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{script}"]
    started = [
        subprocess.Popen([*run, str(tmp_path / "calls.db"), str(who)], stdout=subprocess.PIPE, text=True)
        for who in range(3)
    ]
    made = [int(one.communicate()[0]) for one in started]
    assert [one.returncode for one in started] == [0, 0, 0]
    assert sum(made) == 50
    ledger = Ledger(tmp_path / "calls.db")
    assert ledger.summary()[0].calls == 50
    ledger.close()


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    path.write_bytes(b"something else entirely, and long enough to be looked at" * 50)
    with pytest.raises(StoreError, match=r"calls\.db: calls cannot be recorded here"):
        Ledger(path)


def test_a_failed_write_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "calls.db")
    ledger._out.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreError, match="cannot be recorded"):
        asyncio.run(ledger.intend(b"one", *WHO))
    assert ledger.summary() == ()
    ledger.close()


def test_ledgers_are_joined_with_every_call_that_was_paid_for(tmp_path: Path) -> None:
    async def fill(ledger: Ledger, answers: dict[bytes, str], lost: bytes) -> None:
        for key, answer in answers.items():
            await call(ledger, key, answer)
        await ledger.intend(lost, *WHO)

    said = ({b"both": "first", b"a": "1"}, {b"both": "second", b"b": "2"}, {b"both": "third", b"lost": "found"})
    for number, answers in enumerate(said):
        with contextlib.closing(Ledger(tmp_path / f"{number}.db")) as ledger:
            asyncio.run(fill(ledger, answers, lost=b"lost" if number < 2 else b"other"))
    places = [tmp_path / f"{number}.db" for number in range(3)]
    join_ledgers(places, tmp_path / "all.db")
    (spent,) = read_spending(tmp_path / "all.db")
    apart = [one for place in places for one in read_spending(place)]
    for count in ("calls", "in_doubt", "cost", "input_tokens", "output_tokens", "seconds", "attempts"):
        assert getattr(spent, count) == sum(getattr(one, count) for one in apart), count
    with contextlib.closing(Ledger(tmp_path / "all.db", Budget(max_calls=10))) as ledger:
        found = {key: ledger.find(key, *WHO) for key in (b"both", b"a", b"b", b"lost", b"other")}
        assert found == {b"both": "first", b"a": "1", b"b": "2", b"lost": "found", b"other": None}
        asyncio.run(call(ledger, b"new"))  # nine were made before
        with pytest.raises(BudgetSpent, match="budget of 10 calls"):
            asyncio.run(ledger.intend(b"one more", *WHO))
    # A fork holds what its source was answered, and its own.
    shutil.copyfile(places[0], tmp_path / "fork.db")
    with contextlib.closing(Ledger(tmp_path / "fork.db")) as ledger:
        asyncio.run(call(ledger, b"c", "3"))
    join_ledgers([places[0], tmp_path / "fork.db"], tmp_path / "forked.db")
    (spent,) = read_spending(tmp_path / "forked.db")
    assert (spent.calls, spent.cost, spent.in_doubt) == (3, 1.5, 2)
    with sqlite3.connect(tmp_path / "forked.db") as db:
        assert db.execute("SELECT calls, cost FROM spent").fetchone() == (5, 1.5)
    with sqlite3.connect(places[1]) as db:
        db.execute("UPDATE calls SET cost = 7 WHERE key = ?", (b"b",))
    with pytest.raises(StoreError, match=r"1\.db: damaged"):
        join_ledgers(places, tmp_path / "again.db")
