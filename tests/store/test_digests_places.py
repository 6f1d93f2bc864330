"""Digests: links, places and rights, older formats, calls and a watch's state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from builders.commands import asked
from builders.digest_runs import Captured
from builders.digest_samples import make_unsealed, read_all

import holdfast as hf
from holdfast.decisions.gate.outputs.evidence import collect_evidence
from holdfast.decisions.watch.state import Seen, State, hold_state, load_state, save_state
from holdfast.exchange.exports import export_run
from holdfast.models.remote.ledger import Ledger
from holdfast.records import Checkpoint
from holdfast.records.errors import StoreError, StudyError
from holdfast.store import DATABASE, Store
from holdfast.store.checking import reseal
from holdfast.store.weights import digest_directory


@pytest.mark.parametrize(
    "name", ["run.lock", DATABASE, f"{DATABASE}-wal", "analysis.json", "calls.db", "logs", "weights", "weights/deep/x"]
)
def test_a_run_that_holds_a_link_is_refused_and_what_it_names_stays(
    name: str, run: Path, tmp_path: Path, capsys: Captured
) -> None:
    mine = tmp_path / "mine"
    if name in ("logs", "weights"):
        mine.mkdir()
        (mine / "file").write_text("mine")
    elif name == DATABASE:
        (run / DATABASE).rename(mine)
    else:
        mine.write_text("mine")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine)
    before = mine.read_bytes() if mine.is_file() else None
    for words in (("analyze", run), ("judge", run, "--with", "org/model"), ("gate", run, "--all"), ("show", run)):
        code, _, err = asked(capsys, *words)
        assert code == StoreError.exit_code and err.count("\n") == 1 and f"{name}: is a link" in err
    with pytest.raises(StoreError, match="is a link"):
        Store.open_or_create(run)
    assert mine.is_dir() or mine.read_bytes() == before


@pytest.mark.parametrize("name", ["run.lock", DATABASE, f"{DATABASE}-shm", "analysis.json", "weights/deep/x"])
def test_a_run_whose_file_has_another_name_is_refused_and_that_stays(
    name: str, run: Path, tmp_path: Path, capsys: Captured
) -> None:
    """A hard link is written through as well: a lock's number, a database's pages."""
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    if not (run / name).exists():
        (run / name).write_text("mine")
    mine = tmp_path / "mine"
    mine.hardlink_to(run / name)
    before = mine.read_bytes()
    for words in (("analyze", run), ("judge", run, "--with", "org/model"), ("gate", run, "--all"), ("show", run)):
        code, _, err = asked(capsys, *words)
        assert code == StoreError.exit_code and err.count("\n") == 1 and f"{name}: has another name elsewhere" in err
    assert mine.read_bytes() == before
    mine.unlink()
    Store(run).close()


def test_a_pipe_is_refused_and_a_run_may_itself_be_named_by_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(run)
    assert read_all(tmp_path / "latest") == read_all(run)
    os.mkfifo(run / "calls.db")
    with pytest.raises(StoreError, match=r"calls\.db: is a pipe or a device"):
        Store(run)


DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "path",
    ["../evil", "/etc", "weights/../../evil", f"weights/{DIGEST}/../x", "weights/ab", f"weights/{'cd' * 32}", ""],
)
def test_weights_that_would_lie_outside_the_run_are_refused(path: str, run: Path) -> None:
    forged = Checkpoint(id="forged", base="b", path=path, digest=DIGEST)
    with Store(run, writable=True) as store:
        with pytest.raises(StoreError, match="no place in a run"):
            store.add_checkpoint(forged)
        store.add_checkpoint(replace(forged, path=f"weights/{DIGEST}"))
    with contextlib.closing(sqlite3.connect(run / DATABASE)) as db:
        body = json.dumps(
            {**json.loads(db.execute("SELECT body FROM checkpoints WHERE id = 'forged'").fetchone()[0]), "path": path}
        )
        db.execute("UPDATE checkpoints SET body = ? WHERE id = 'forged'", (body.encode(),))
        reseal(db)
        db.commit()
    with Store(run) as store:
        for read in (store.checkpoints, lambda: store.checkpoint("forged")):
            with pytest.raises(StoreError, match="no place in a run"):
                read()


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", ".."])
def test_a_steps_name_that_leaves_the_run_is_refused(name: str, run: Path) -> None:
    with Store(run, writable=True) as store:
        with store.transaction():
            store.log.begin(name, "train", "x")
        with pytest.raises(StoreError, match="is no fingerprint of a step"):
            store.log.steps()


def test_a_run_is_its_owners_alone(smoke_run: Path, small: Path) -> None:
    for run in (small, smoke_run):
        for path in (run, *(run / name for name in ("weights", "logs")), *run.glob("weights/*")):
            if path.exists():
                assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        for path in (
            run / DATABASE,
            run / "run.lock",
            run / "analysis.json",
            *run.glob("logs/*"),
            *run.glob("weights/*/*"),
        ):
            if path.exists():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_run_of_the_earlier_format_is_read_as_not_checked(run: Path, tmp_path: Path, capsys: Captured) -> None:
    known = read_all(run)
    make_unsealed(run)
    assert read_all(run).replace("'1'", "'2'") == known.replace("'1'", "'2'")
    assert any(note.startswith("rows not checked") for note in hf.Run(run).analysis().notes)
    assert "rows not checked" in " ".join(asked(capsys, "gate", run, "--all", "--judge", "j")[1].split())
    found = collect_evidence(run, [])
    assert found["digests"]["run"] is None and any(one.startswith("rows not checked") for one in found["missing"])
    code, _, err = asked(capsys, "judge", run, "--with", "org/model")
    assert code == StoreError.exit_code and "--to run -o NEW" in err
    assert asked(capsys, "show", run, "--digest")[0] == StudyError.exit_code

    assert asked(capsys, "export", run, "--to", "run", "-o", tmp_path / "new")[0] == 0
    assert read_all(tmp_path / "new") == known
    told = collect_evidence(tmp_path / "new", [])
    assert told["digests"]["run"] and any(one.startswith("rows checked from a copy on") for one in told["missing"])
    with Store(tmp_path / "new", writable=True) as store:
        store.set_meta("goes", "on")


def test_a_copy_of_a_run_is_the_run(smoke_run: Path, tmp_path: Path) -> None:
    export_run(smoke_run, "run", tmp_path / "copy")
    for name in ("analysis.json", *(str(one.relative_to(smoke_run)) for one in smoke_run.glob("weights/*/*"))):
        assert (tmp_path / "copy" / name).read_bytes() == (smoke_run / name).read_bytes()
    assert hf.Run(tmp_path / "copy").scores(part="all") == hf.Run(smoke_run).scores(part="all")
    with Store(tmp_path / "copy") as store:
        assert store.doubt is None and store.digest()


def test_weights_are_read_once_as_long_as_they_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.store import weights

    made = tmp_path / "made"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"x" * 64)
    digest, reads = digest_directory(made), []
    monkeypatch.setattr(weights, "digest_directory", lambda place: reads.append(place) or digest_directory(place))
    assert weights.holds(made, digest) and weights.holds(made, digest) and len(reads) == 1
    (made / "model.safetensors").write_bytes(b"y" * 64)
    assert not weights.holds(made, digest) and len(reads) == 2


def fill_ledger(path: Path) -> dict[bytes, object]:
    """A ledger with twenty answers and a call in doubt."""
    ledger = Ledger(path)
    answers: dict[bytes, object] = {bytes([number]) * 16: {"text": f"answer {number} " * 5} for number in range(20)}

    async def ask() -> None:
        for number, (key, answer) in enumerate(answers.items()):
            await ledger.intend(key, "judge", "some/model")
            await ledger.settle(key, answer, "m", tokens=(9, 3), cost=number / 4, seconds=0.5, attempts=1)
        await ledger.intend(b"doubt", "judge", "some/model")

    asyncio.run(ask())
    ledger.close()
    return answers


def read_ledger(path: Path, keys: Iterable[bytes]) -> tuple[str, str]:
    ledger = Ledger(path)
    try:
        return repr([ledger.find(key, "judge", "some/model") for key in keys]), repr(ledger.summary())
    finally:
        ledger.close()


def test_no_flipped_bit_of_a_ledger_gives_another_answer(tmp_path: Path) -> None:
    answers = fill_ledger(tmp_path / "calls.db")
    whole, rng, told = (tmp_path / "calls.db").read_bytes(), random.Random(4), 0
    known, used = read_ledger(tmp_path / "calls.db", answers), [place for place, byte in enumerate(whole) if byte]
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.choice(used)] ^= 1 << rng.randrange(8)
        for left in tmp_path.iterdir():
            left.unlink()
        (tmp_path / "calls.db").write_bytes(damaged)
        try:
            assert read_ledger(tmp_path / "calls.db", answers) == known
        except StoreError as error:
            told += 1
            assert "calls.db" in str(error)
    assert told > 12


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE calls SET reply = (SELECT reply FROM calls WHERE cost = 1) WHERE status = 'done'",
        "UPDATE calls SET output_tokens = 1",
        "UPDATE calls SET cost = -5",
        "UPDATE calls SET digest = NULL",
        "UPDATE spent SET cost = 0",
    ],
)
def test_an_edited_ledger_is_told(damage: str, tmp_path: Path) -> None:
    answers = fill_ledger(tmp_path / "calls.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as db:
        db.execute(damage)
        db.commit()
    with pytest.raises(
        StoreError, match=r"calls\.db: damaged .*not (those that were written|the one that was recorded)"
    ):
        read_ledger(tmp_path / "calls.db", answers)


def test_a_ledger_of_an_earlier_version_gets_digests(tmp_path: Path) -> None:
    answers = fill_ledger(tmp_path / "calls.db")
    known = read_ledger(tmp_path / "calls.db", answers)
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as db:
        for table in ("calls", "spent"):
            db.execute(f"ALTER TABLE {table} DROP COLUMN digest")
        db.commit()
    assert read_ledger(tmp_path / "calls.db", answers) == known == read_ledger(tmp_path / "calls.db", answers)
    assert stat.S_IMODE((tmp_path / "calls.db").stat().st_mode) == 0o600


DECLARED = {"alpha": 0.05}


def save_watch(path: Path) -> State:
    state = State(declared=DECLARED, baseline={"c": (1.0, 2.0), "d": (3.0,)}, asked=2, frozen={"t": 1.0})
    state.looks.append(Seen(label="a", data="x", values={"c": (2.0,)}, traces=("t1",), notes={"unfit": 0.25}))
    save_state(path, state)
    return state


def test_no_flipped_bit_of_a_watchs_state_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_watch(path)
    whole, rng = path.read_bytes(), random.Random(6)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(StudyError):
            load_state(path, DECLARED)


def test_a_watchs_state_says_the_same_in_the_same_bytes_alone(tmp_path: Path) -> None:
    """A letter of an escape in the other case, or a blank of another kind, is a flipped bit as well."""
    path = tmp_path / "state.json"
    state = State(declared=DECLARED, baseline={"c": (1.0,)}, asked=1, frozen={})
    state.looks.append(Seen(label="tiny · S", data="x", values={"c": (2.0,)}))
    save_state(path, state)
    whole = path.read_text()
    for change in (("\\u00b7", "\\u00B7"), (": ", ":\t"), ("\n ", "\r ")):
        assert change[0] in whole
        path.write_text(whole.replace(*change, 1), newline="")
        with pytest.raises(StudyError, match="a damaged one"):
            load_state(path, DECLARED)


@pytest.mark.parametrize("change", [("2.0", "3.0"), ("0.25", "0.75"), ('"missing": 0', '"missing": 1'), ('"a"', '"b"')])
def test_a_digit_of_a_watchs_state_is_not_edited_away(change: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_watch(path)
    text = path.read_text()
    assert text.count(change[0])
    path.write_text(text.replace(*change, 1))
    with pytest.raises(StudyError, match="a damaged one"):
        load_state(path, DECLARED)


def test_a_watchs_state_of_the_earlier_version_is_taken_and_not_called_checked(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_watch(path)
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "holdfast_watch": 1}))
    with pytest.raises(StudyError, match="a damaged one"):
        load_state(path, DECLARED)
    del row["digest"]
    path.write_text(json.dumps({**row, "holdfast_watch": 1}))
    found = load_state(path, DECLARED)
    assert found is not None and not found.checked
    save_state(path, found)
    found = load_state(path, DECLARED)
    assert found is not None and found.checked


def test_one_watch_at_a_time_holds_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, order = tmp_path / "state.json", list[str]()

    def later() -> None:
        with hold_state(path):
            order.append("second")

    with hold_state(path):
        thread = threading.Thread(target=later)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and list(tmp_path.iterdir()) == []
    monkeypatch.setattr("holdfast.decisions.watch.state.WAIT_SECONDS", 0.1)
    with (
        hold_state(path),
        pytest.raises(StudyError, match=r"state\.json: another watch is at work"),
        hold_state(tmp_path / "." / "state.json"),
    ):
        pass
