"""A blessed baseline is the side that was blessed, with its age, or it is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders.gate_samples import Made, steady, write_run

from holdfast.decisions.gate.baseline import STAMP, bless, describe_baseline, doubt_baseline, open_baseline
from holdfast.decisions.gate.books import open_library, split_place
from holdfast.records.errors import HoldfastError, StudyError

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "before.csv"
    path.write_text("case,score\na,3\nb,2\n")
    return path


def test_a_baseline_holds_the_side_and_its_age(table: Path, tmp_path: Path) -> None:
    made = bless(str(table), tmp_path / "kept", commit="0123456789abcdef", now=NOW - timedelta(days=12))
    assert Path(made.side).read_bytes() == table.read_bytes() and made.age(NOW) == 12
    told = describe_baseline(made, NOW)
    assert told == f"the baseline {made.side} was blessed 12 days ago, on 2026-11-19 (commit 0123456)"
    assert doubt_baseline(made, 12, NOW) == ""
    assert doubt_baseline(made, 11.5, NOW) == f"{told}: more than 11.5 days; bless a new one"
    table.write_text("case,score\na,1\n")
    again = bless(str(table), tmp_path / "kept", now=NOW)  # in place of the one before
    assert again.age(NOW) == 0 and Path(again.side).read_text() == table.read_text()
    assert "was blessed today, on 2026-12-01" in describe_baseline(again, NOW)


def test_any_side_is_a_baseline_whose_age_nobody_knows(table: Path) -> None:
    opened = open_baseline(table)
    assert (opened.side, opened.age(NOW)) == (str(table), None)
    assert doubt_baseline(opened, 1e6, NOW).endswith("nobody noted how old it is; bless it, so that its age is known")


def test_a_run_is_a_baseline_and_stays_one_when_it_was_read_and_carried(tmp_path: Path) -> None:
    """As an artifact carries it: without empty directories. Reading it leaves it the run that was blessed."""
    run = write_run(tmp_path / "run", Made(safety={"base": steady(8), "S": steady(8)}))
    made = bless(f"{run}:S", tmp_path / "kept", now=NOW)
    for folder in [one for one in (tmp_path / "kept").rglob("*") if one.is_dir() and not any(one.iterdir())]:
        folder.rmdir()
    shutil.copytree(tmp_path / "kept", tmp_path / "carried")
    for _ in range(2):
        place, name = split_place(open_baseline(tmp_path / "carried", NOW).side, None)
        with open_library() as library:
            assert name == "S" and len(library.open(place).case_ids) == 8
    assert made.side.endswith("kept/run:S")
    with contextlib.closing(sqlite3.connect(tmp_path / "carried" / "run" / "run.db")) as database, database:
        database.execute("UPDATE scores SET value = 0 WHERE trajectory = 1")
    with pytest.raises(HoldfastError, match="run"):
        open_baseline(tmp_path / "carried", NOW)


def test_what_was_changed_since_is_refused(table: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    shutil.copy(table, logs / "a.csv")
    bless(str(logs), tmp_path / "kept", now=NOW)
    inside = tmp_path / "kept" / "logs"
    assert open_baseline(tmp_path / "kept", NOW).side == str(inside)
    for name, text, told in (("a.csv", "case,score\n", "was changed"), ("b.csv", "case,score\n", "is new")):
        kept = (inside / name).read_bytes() if (inside / name).exists() else None
        (inside / name).write_text(text)
        with pytest.raises(StudyError, match=rf"{name}: {told} since it was blessed; restore it, or bless one anew"):
            open_baseline(tmp_path / "kept", NOW)
        (inside / name).unlink()
        if kept is not None:
            with pytest.raises(StudyError, match=r"a\.csv: is gone since"):
                open_baseline(tmp_path / "kept", NOW)
            (inside / name).write_bytes(kept)
    with pytest.raises(StudyError, match="says that it was blessed in 5 days"):
        open_baseline(tmp_path / "kept", NOW - timedelta(days=5))
    shutil.rmtree(inside)
    with pytest.raises(StudyError, match="is not there, though it was blessed"):
        open_baseline(tmp_path / "kept", NOW)


def test_what_is_no_stamp_is_refused(table: Path, tmp_path: Path) -> None:
    bless(str(table), tmp_path / "kept", now=NOW)
    path = tmp_path / "kept" / STAMP
    good = json.loads(path.read_text())
    bad = [{"side": "../before.csv"}, {"side": ".."}, {"blessed": "2026-11-01"}, {"format": 2}, {"more": 1}]
    for change in bad:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(StudyError, match=r"baseline\.json: .*bless one anew"):
            open_baseline(tmp_path / "kept", NOW)
    path.write_text("{")
    with pytest.raises(StudyError, match="no JSON"):
        open_baseline(tmp_path / "kept", NOW)


def test_nothing_but_a_side_is_blessed_and_nothing_else_is_replaced(table: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    with pytest.raises(StudyError, match="is there and holds no baseline"):
        bless(str(table), tmp_path / "mine")
    with pytest.raises(StudyError, match="no run and no log is there"):
        bless(str(tmp_path / "absent"), tmp_path / "kept")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv").symlink_to(table)
    with pytest.raises(StudyError, match="is a link"):
        bless(str(tmp_path / "logs"), tmp_path / "kept")
    assert (tmp_path / "mine" / "precious").read_text() == "x" and not (tmp_path / "kept").exists()
