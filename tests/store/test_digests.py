"""What a run holds is what was written to it: bits, rows, weights, files and links that are not are told."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from builders.commands import asked
from builders.digest_runs import Captured, damage
from builders.digest_samples import EDITS, edit, read_all, write_small
from builders.places import ROOT, copy_run

import holdfast as hf
from holdfast.cli import main as cli
from holdfast.decisions.gate.outputs.evidence import collect_evidence
from holdfast.records.errors import StoreError
from holdfast.store import DATABASE, Store
from holdfast.store.beside import CheckBeside
from holdfast.store.checking import reseal
from holdfast.store.database import WriteLock


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_leaves_the_digests_alone_is_found(name: str, run: Path) -> None:
    edit(run, *EDITS[name])
    with pytest.raises(StoreError, match=r"run\.db: damaged") as caught:
        Store(run)
    assert "\n" not in str(caught.value) and "restore" in str(caught.value)
    with pytest.raises(StoreError):
        Store(run, writable=True)
    WriteLock(run).close()  # what refused it gave the right to write back


@pytest.mark.parametrize(
    "words",
    [
        ("analyze",),
        ("gate", "--all"),
        ("report",),
        ("show",),
        ("export", "--to", "evidence"),
        ("export", "--to", "csv"),
    ],
)
def test_every_command_holds_a_run_against_its_digests(
    words: tuple[str, ...], run: Path, tmp_path: Path, capsys: Captured
) -> None:
    edit(run, *EDITS["one score changed"])
    output = ["-o", tmp_path / "out"] if words[0] == "export" else []
    code, out, err = asked(capsys, words[0], run, *words[1:], *output)
    assert (code, out) == (StoreError.exit_code, "") and err.count("\n") == 1
    assert "rows of scores are not those that were written" in err and not (tmp_path / "out").exists()


def test_no_flipped_bit_is_silent(run: Path) -> None:
    whole, rng, known, told = (run / DATABASE).read_bytes(), random.Random(3), read_all(run), 0
    used = [place for place, byte in enumerate(whole) if byte]
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.choice(used)] ^= 1 << rng.randrange(8)
        (run / DATABASE).write_bytes(damaged)
        try:
            assert read_all(run) == known
        except StoreError as error:
            told += 1
            assert "\n" not in str(error)
    assert told > 50


@pytest.mark.parametrize("size", [1, 16, 4096, 16384])
def test_no_zeroed_or_cut_part_is_silent(size: int, run: Path) -> None:
    whole, known = (run / DATABASE).read_bytes(), read_all(run)
    for start in range(0, len(whole), max(size, len(whole) // 12)):
        for damaged in (whole[:start] + bytes(size) + whole[start + size :], whole[:start]):
            (run / DATABASE).write_bytes(damaged)
            with contextlib.suppress(StoreError):
                assert read_all(run) == known


def test_a_damaged_log_of_writes_is_an_earlier_state_of_the_run(small: Path, tmp_path: Path) -> None:
    """SQLite reads its log up to the first record that does not fit: what was committed before, and nothing else."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom holdfast.store import Store\n"
        "store = Store(Path(sys.argv[1]), writable=True)\n"
        "for n in range(6):\n  with store.transaction():\n"
        "    store.set_meta('n', str(n))\n    store.log.begin(f's{n}', 'judge', 'x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = copy_run(small, tmp_path / "run")
    source = str(Path(hf.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script, str(run)], env={**os.environ, "PYTHONPATH": source}, check=False)
    log, rng, seen = run / f"{DATABASE}-wal", random.Random(1), set()
    whole, database = log.read_bytes(), (run / DATABASE).read_bytes()
    for number in range(40):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        place = tmp_path / f"copy-{number}"
        place.mkdir()
        (place / DATABASE).write_bytes(database)
        (place / log.name).write_bytes(damaged if number % 2 else whole[: rng.randrange(len(whole))])
        with Store(place) as store:
            noted, steps = store.meta("n"), len(store.log.steps())
        assert steps == 2 + (0 if noted is None else int(noted) + 1)
        seen.add(noted)
    assert len(seen) > 2


def test_what_is_written_later_has_digests_too(run: Path) -> None:
    with Store(run, writable=True) as store:
        first = store.digest()
        store.set_meta("outside", "a transaction of its own")
        with pytest.raises(RuntimeError), store.transaction():
            store.set_meta("never", "x")
            raise RuntimeError
        with store.transaction():
            pass
    with Store(run) as store:
        assert store.meta("outside") and store.meta("never") is None and store.digest() != first
    edit(run, "DELETE FROM meta WHERE key = 'outside'")
    with pytest.raises(StoreError, match="meta differs"):
        Store(run)


def test_many_rows_make_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.store.seals.SEAL_ROWS", 7)
    run = write_small(tmp_path / "run")
    with contextlib.closing(sqlite3.connect(run / DATABASE)) as db:
        counts = [row[0] for row in db.execute("SELECT rows FROM seals WHERE place = 'scores'")]
        seals = [row[0] for row in db.execute("SELECT DISTINCT seal FROM scores")]
    assert max(counts) == 7 and len(counts) == len(seals) > 8
    assert read_all(run)
    edit(run, f"DELETE FROM scores WHERE seal = {seals[3]}")
    with pytest.raises(StoreError, match=rf"0 rows of scores where 7 were written \(batch {seals[3]}\)"):
        Store(run)


def test_the_runs_digest_is_printed_and_held_against(run: Path, capsys: Captured) -> None:
    code, kept, _ = asked(capsys, "show", run, "--digest")
    assert code == 0 and len(kept.strip()) == 64
    assert asked(capsys, "show", run, "--digest", kept.strip().upper())[:2] == (0, kept)
    assert collect_evidence(run, [])["digests"]["run"] == kept.strip()
    shutil.copytree(run, run.with_name("copy"))
    assert asked(capsys, "show", run.with_name("copy"), "--digest")[1] == kept, "a copy is the same run"
    with contextlib.closing(sqlite3.connect(run / DATABASE)) as db:  # a forger who knows how digests are made
        db.execute("UPDATE scores SET value = 3 - value WHERE value IS NOT NULL")
        reseal(db)
        db.commit()
    with Store(run):
        pass
    code, out, err = asked(capsys, "show", run, "--digest", kept.strip())
    assert (code, out) == (StoreError.exit_code, "") and "not the one that was kept" in err


def test_what_is_gone_of_a_run_is_told_with_its_digest(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    run = copy_run(smoke_run, tmp_path / "run")
    code, kept, err = asked(capsys, "show", run, "--digest")
    assert (code, err) == (0, "")
    weights, log = sorted((run / "weights").iterdir())[0], sorted((run / "logs").iterdir())[0]
    shutil.rmtree(weights)
    log.unlink()
    (run / "analysis.json").unlink()
    code, out, err = asked(capsys, "show", run, "--digest", kept.strip())
    assert (code, out) == (0, kept) and err.count("\n") == 1
    for name in (weights.name, log.name, "analysis.json", "(3)"):
        assert name in err
    log.write_text("another\n")
    code, out, err = asked(capsys, "show", run, "--digest", kept.strip())
    assert (code, out) == (StoreError.exit_code, "") and log.name in err


@pytest.mark.parametrize("kind", ["/../../../mine", "/x", "..\\x/"])
def test_a_log_of_training_is_read_and_written_within_its_run_alone(kind: str, run: Path, tmp_path: Path) -> None:
    """A run made by anybody, with digests that fit; `export --to run` and `--fork` copy what it names."""
    (tmp_path / "mine.jsonl").write_text("mine")
    with Store(run, writable=True) as store, store.transaction():
        store.log.begin("abc", "train", "train")
        store.log.finish("abc", {"logs": {kind: None}})
    for words in (("export", run, "--to", "run", "-o", tmp_path / "deep" / "er" / "copy"), ("show", run, "--digest")):
        assert cli.main([str(one) for one in words]) == StoreError.exit_code
    assert sorted(one.name for one in tmp_path.rglob("*.jsonl")) == ["mine.jsonl"]


@pytest.mark.parametrize("how", ["bit", "nan", "cut", "header", "another file", "a file gone"])
def test_damaged_weights_are_not_opened(how: str, smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    run = copy_run(smoke_run, tmp_path / "run")
    with Store(run) as store:
        one = next(item for item in store.checkpoints() if item.lineage == ("S",))
        assert store.weights(one) == run / str(one.path)
    directory = run / str(one.path)
    if how == "another file":
        (directory / "extra.json").write_text("{}")
    elif how == "a file gone":
        next(directory.glob("*.json")).unlink()
    else:
        damage(next(directory.glob("*.safetensors")), how)
    for words in (
        ("export", run, "--to", "hf", "--checkpoint", one.id, "-o", tmp_path / "out"),
        ("gate", run, "--child", one.id, "--again", "-o", tmp_path / "again"),
        ("export", run, "--to", "run", "-o", tmp_path / "copy"),
        ("show", run, "--digest"),
    ):
        code, _, err = asked(capsys, *words)
        assert code == StoreError.exit_code and err.count("\n") == 1, words
        assert str(directory) in err and "another digest" in err
    assert not any((tmp_path / name).exists() for name in ("out", "copy"))


def test_a_next_stage_does_not_start_from_damaged_weights(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_run(smoke_run, tmp_path / "run")
    with Store(run) as store:
        one = next(item for item in store.checkpoints() if item.lineage == ("S",))
        ended = {name for name, status in store.log.steps().items() if one.id in json.dumps(status.result)}
    damage(next((run / str(one.path)).glob("*.safetensors")), "bit")
    with contextlib.closing(sqlite3.connect(run / DATABASE)) as db:  # as if the run had been stopped there
        db.execute(
            "DELETE FROM steps WHERE kind = 'train' AND fingerprint NOT IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(ended)),),
        )
        reseal(db)
        db.commit()
    study = ROOT / "studies" / "smoke.toml"
    with pytest.raises(hf.StepError, match="another digest"):
        hf.run(study, run, workers=1)


def test_a_changed_analysis_is_told_and_made_again(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    run = copy_run(smoke_run, tmp_path / "run")
    path = run / "analysis.json"
    known = path.read_bytes()
    path.write_bytes(known.replace(b"1", b"2", 1))
    code, _, err = asked(capsys, "export", run, "--to", "evidence", "-o", tmp_path / "out")
    assert code == StoreError.exit_code and "analysis.json: is not what the run wrote" in err
    hf.run(ROOT / "studies" / "smoke.toml", run, workers=1)
    assert path.read_bytes() == known


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Runs are checked by another process, however small they are; what each such process answered."""
    answers: list[object] = []
    settle = CheckBeside.settle

    def note(self: CheckBeside) -> str | None:
        answers.append(None)
        answers[-1] = settle(self)
        return answers[-1]  # type: ignore[return-value]

    monkeypatch.setattr("holdfast.store.store.is_worth_it", lambda file: True)
    monkeypatch.setattr(CheckBeside, "settle", note)
    return answers


def test_a_large_run_is_checked_beside_its_analysis(run: Path, beside: list[object], capsys: Captured) -> None:
    assert asked(capsys, "analyze", run, "--json")[0] == 0
    with Store(run) as store:
        assert beside == [store.digest()]
    assert asked(capsys, "analyze", run, "--json")[0] == 0 and len(beside) == 1  # as this process has seen it
    edit(run, *EDITS["one score changed"])
    code, out, err = asked(capsys, "analyze", run, "--json")
    assert (code, out) == (StoreError.exit_code, "") and err.count("\n") == 1
    assert "rows of scores are not those that were written" in err


@pytest.mark.parametrize("name", EDITS)
def test_no_edit_is_silent_where_another_process_checks(name: str, run: Path, beside: list[object]) -> None:
    edit(run, *EDITS[name])
    with pytest.raises(StoreError, match=r"run\.db: damaged"):
        hf.Run(run).analysis(draws=100)
    assert len(beside) <= 1  # what shows at once is told without another process


def test_a_check_without_an_answer_is_made_here(
    run: Path, beside: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one taken of another state than that which was read."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    hf.Run(run).analysis(draws=100)
    assert beside == [None]
    monkeypatch.undo()
    monkeypatch.setattr("holdfast.store.store.is_worth_it", lambda file: True)
    edit(run, *EDITS["one score changed"])
    monkeypatch.setattr(CheckBeside, "settle", lambda self: self.stop() or "the digest of another state")
    with pytest.raises(StoreError, match="rows of scores are not those that were written"), Store(run, check="beside"):
        pass


def test_an_error_of_what_was_read_waits_for_the_check(run: Path, beside: list[object]) -> None:
    with pytest.raises(ZeroDivisionError), Store(run, check="beside"):
        raise ZeroDivisionError
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta("more", "1")
    edit(run, *EDITS["one score changed"])
    with pytest.raises(StoreError, match="damaged"), Store(run, check="beside"):
        raise ZeroDivisionError
    assert len(beside) == 2
    with pytest.raises(KeyboardInterrupt), Store(run, check="beside"):
        raise KeyboardInterrupt
    assert len(beside) == 2  # whoever interrupts waits for nothing
