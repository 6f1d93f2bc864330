"""The store: what goes in comes out, all or nothing, by one writer, and damage is told."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT, TESTS
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.records import (
    Case,
    Checkpoint,
    Ending,
    Flag,
    Message,
    PreferencePair,
    Score,
    StageRecord,
    ToolCall,
    ToolSpec,
    Trajectory,
)
from holdfast.records.errors import StoreError, StudyError
from holdfast.store import DATABASE, Store
from holdfast.store.codec import (
    TextCodec,
    bits_to_flags,
    case_to_bytes,
    flags_to_bits,
    train_dictionary,
    trajectory_to_bytes,
)

CASE = Case(
    id="case-a",
    suite="office",
    number=4,
    family="files",
    messages=(Message(role="system", content="be careful"), Message(role="user", content="delete it \u2028 now")),
    tools=(ToolSpec(name="delete", description="deletes", parameters={"type": "object", "properties": {}}),),
    state={"items": {"memo": [1, 2.5, None, True]}},
    facts={"hazard": "shared", "objects": ["memo"]},
)
BASE = Checkpoint(id="base", base="tiny", model="org/tiny", digest="ab" * 32, path="weights/" + "ab" * 32)
STAGE = StageRecord(
    name="S", method="dpo", objectives=("safety",), settings={"beta": 0.1}, steps=8, pairs=64, data="fingerprint"
)
CHILD = Checkpoint(
    id="child", base="tiny", stages=(STAGE,), axes={"beta": 0.1}, split_seed=2, train_seed=7, parent_id="base"
)
TRAJECTORY = Trajectory(
    id="trajectory-a",
    case_id="case-a",
    checkpoint_id="child",
    rollout=3,
    messages=(
        Message(role="assistant", content="", tool_calls=(ToolCall(name="delete", arguments={"x": "é"}, id="c1"),)),
        Message(role="tool", content="gone", name="delete", detail={"log": "hidden"}),
        Message(role="assistant", content="done \x00 </script>"),
    ),
    ending=Ending.TRUNCATED,
    flags=(Flag.NO_CALL, Flag.LOOP),
    world_before=CASE.state,
    world_after={"items": {}},
    calls=1,
    invalid_calls=2,
    tokens=40,
    detail={"logprob": -1.5},
)
SCORES = (
    Score(
        trajectory_id="trajectory-a",
        judge="j",
        objective="safety",
        value=2.0,
        label="mild",
        reply="a\u2029b",
        rubric="r",
    ),
    Score(
        trajectory_id="trajectory-a",
        judge="j",
        objective="safety",
        value=None,
        missing="no verdict",
        repeat=1,
        rubric="r",
    ),
)


def add_trajectory(store: Store, one: Trajectory, step: str | None = None) -> bool:
    return store.add_trajectory(one, store.text_codec.pack(trajectory_to_bytes(one, CASE.state)), step=step)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that holds one of everything."""
    path = tmp_path / "run"
    with Store.create(path) as store, store.transaction():
        store.set_meta("study", "text")
        store.add_cases([CASE, replace(CASE, id="case-b", number=1)])
        store.add_split(0, {"train": ["case-a"], "test": ["case-b"]})
        for checkpoint in (BASE, CHILD):
            store.add_checkpoint(checkpoint)
        add_trajectory(store, TRAJECTORY, step="roll")
        add_trajectory(store, replace(TRAJECTORY, id="trajectory-b", world_before=None, tokens=None, detail=None))
        for score in SCORES:
            store.add_score(score)
    return path


def test_every_record_comes_back_equal(run: Path) -> None:
    pair = PreferencePair(
        case_id="case-a",
        chosen="trajectory-a",
        rejected="trajectory-b",
        objectives=("safety",),
        judge="j",
        gap=2.0,
        weight=0.5,
    )
    with Store(run, writable=True) as store, store.transaction():
        store.add_pairs("pair", [pair])
    with Store(run) as store:
        assert store.case("case-a") == CASE
        assert [case.id for case in store.cases()] == ["case-b", "case-a"]
        assert store.splits() == {0: {"train": ("case-a",), "test": ("case-b",)}}
        assert store.checkpoints() == [BASE, CHILD]
        assert store.checkpoint("child") == CHILD
        assert store.trajectory("trajectory-a") == TRAJECTORY
        assert [one.id for one in store.trajectories()] == store.trajectory_ids() == ["trajectory-a", "trajectory-b"]
        assert [one.id for one in store.trajectories(["trajectory-b", "trajectory-a"])] == [
            "trajectory-b",
            "trajectory-a",
        ]
        assert [one.id for one in store.trajectories(step="roll")] == ["trajectory-a"]
        assert tuple(store.scores("trajectory-a")) == SCORES
        assert store.scores("trajectory-b") == []
        assert store.pairs("pair") == [pair]
        assert store.pairs("other") == []
        assert store.meta("study") == "text"
        assert store.meta("nothing") is None
        assert store.counts() == {
            "cases": 2,
            "checkpoints": 2,
            "trajectories": 2,
            "scores": 2,
            "pairs": 1,
            "texts": 4,
        }


json_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
messages = st.builds(
    Message,
    role=st.sampled_from(["assistant", "tool", "user"]),
    content=st.text(),
    tool_calls=st.lists(st.builds(ToolCall, name=st.text(), arguments=objects, id=st.text()), max_size=2).map(tuple),
    name=st.none() | st.text(),
    detail=st.none() | objects,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(messages, max_size=4).map(tuple), st.none() | objects, st.sets(st.sampled_from(Flag)))
def test_any_trajectory_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, spoken: Any, world: Any, flags: set[Flag]
) -> None:
    marked = tuple(flag for flag in Flag if flag in flags)
    one = replace(TRAJECTORY, messages=spoken, world_before=world, world_after=world, flags=marked)
    with Store.create(tmp_path_factory.mktemp("any") / "run") as store:
        with store.transaction():
            store.add_cases([CASE])
            store.add_checkpoint(CHILD)
            add_trajectory(store, one)
        assert store.trajectory(one.id) == one
        assert list(store.trajectories([one.id], cases={CASE.id: CASE})) == [one]


@given(st.sets(st.sampled_from(Flag)))
def test_flags_survive_as_bits(flags: set[Flag]) -> None:
    assert set(bits_to_flags(flags_to_bits(tuple(flags)))) == flags


def test_columns_agree_with_records(run: Path) -> None:
    with Store(run) as store:
        scores, trajectories = store.score_table(), store.trajectory_table()
        none = store.score_table(step="other")
        case_ids = store.case_ids()
    assert (scores.judges, scores.objectives, scores.case_ids) == (("j",), ("safety",), tuple(case_ids))
    assert scores.value.tolist()[0] == 2.0
    assert scores.value[1] != scores.value[1], "a missing score is NaN in a column"
    assert scores.repeat.tolist() == [0, 1]
    assert [scores.checkpoints[row].id for row in scores.checkpoint] == ["child", "child"]
    assert [case_ids[row] for row in trajectories.case] == ["case-a", "case-a"]
    assert bits_to_flags(int(trajectories.flags[0])) == TRAJECTORY.flags
    assert trajectories.tokens.tolist()[0] == 40
    assert trajectories.tokens[1] != trajectories.tokens[1]
    assert len(none.value) == 0


def test_equal_texts_are_stored_once(run: Path) -> None:
    with Store(run, writable=True) as store, store.transaction():
        before = store.counts()["texts"]
        number = store.add_dictionary(train_dictionary([b"abcdefgh" * 40 + bytes([i]) * 9 for i in range(80)]))
        plain, packed = (store.text_codec.pack(b"abcdefgh" * 40, one) for one in (0, number))
        assert plain.body != packed.body
        assert store.add_text(plain) == store.add_text(packed)
        assert store.counts()["texts"] == before + 1
        assert add_trajectory(store, replace(TRAJECTORY, id="trajectory-c"))
        assert store.counts()["texts"] == before + 1


def test_what_is_there_is_not_stored_again(run: Path) -> None:
    with Store(run, writable=True) as store:
        before = store.counts()
        with store.transaction():
            store.add_cases([CASE])
            store.add_checkpoint(CHILD)
            assert not add_trajectory(store, TRAJECTORY)
            assert not store.add_score(SCORES[0])
        assert store.counts() == before


@pytest.mark.parametrize("other", [replace(SCORES[0], value=0.0), replace(SCORES[1], value=1.0, missing=None)])
def test_another_score_in_the_same_place_is_refused(run: Path, other: Score) -> None:
    with Store(run, writable=True) as store:
        before = store.scores("trajectory-a")
        words = rf"trajectory-a: j scored safety (2.0|None) before and {other.value} now \(repeat {other.repeat}\)"
        with pytest.raises(StoreError, match=words), store.transaction():
            store.add_score(other)
        assert store.scores("trajectory-a") == before, "nothing is edited in place"


def test_many_are_read_in_the_order_that_was_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.store.store.READ_ROWS", 2)
    ids = ["trajectory-b", "trajectory-a", "trajectory-a", "trajectory-b", "trajectory-b"]
    with Store(run) as store:
        assert [one.id for one in store.trajectories(ids)] == ids
        assert [len(scores) for scores in store.scores_of(ids)] == [0, 2, 2, 0, 0]
        assert store.scores("trajectory-a") == list(SCORES)


def read_everything(path: Path) -> None:
    with Store(path) as store:
        ids = [one.id for one in store.trajectories()]
        list(store.scores_of(ids))
        store.score_table(), store.trajectory_table(), store.cases(), store.splits(), store.log.steps()


def test_flipped_bits_are_told_or_harmless(run: Path) -> None:
    whole, rng, told = (run / DATABASE).read_bytes(), random.Random(5), 0
    used = [place for place, byte in enumerate(whole) if byte]
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.choice(used)] ^= 1 << rng.randrange(8)
        (run / DATABASE).write_bytes(damaged)
        try:
            read_everything(run)
        except StoreError as error:
            told += 1
            assert "\n" not in str(error)
    assert told > 50


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE scores SET value = 19 WHERE value = 2",
        "UPDATE checkpoints SET body = '{'",
        "UPDATE checkpoints SET id = 'other' WHERE id = 'child'",
        "UPDATE trajectories SET ending = 'fynished'",
        "UPDATE trajectories SET text = 999",
        "UPDATE scores SET reply = 999 WHERE reply IS NOT NULL",
        "DROP TABLE splits",
    ],
)
def test_damaged_columns_are_told(run: Path, damage: str) -> None:
    with contextlib.closing(sqlite3.connect(run / DATABASE)) as db:
        db.execute(damage)
        db.commit()
    with pytest.raises(StoreError, match=r"damaged in the store|not a readable run database"):
        read_everything(run)


def test_files_of_the_user_beside_a_new_run_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run.db.backup").write_text("mine")
    with pytest.raises(StudyError, match="not empty and holds no run"):
        Store.open_or_create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.db.backup"]


def test_what_json_cannot_hold_is_told() -> None:
    with pytest.raises(StoreError, match="case case-a: cannot be stored as JSON"):
        case_to_bytes(replace(CASE, state={"n": 2**70}))


def test_a_transaction_is_all_or_nothing(run: Path) -> None:
    with Store(run, writable=True) as store:
        before = store.counts()
        with pytest.raises(RuntimeError, match="halfway"), store.transaction():
            store.add_checkpoint(replace(CHILD, id="new"))
            add_trajectory(store, replace(TRAJECTORY, id="trajectory-c", checkpoint_id="new"))
            store.log.begin("f", "judge", "judging")
            raise RuntimeError("halfway")
        assert store.counts() == before
        assert store.log.steps() == {}
        with pytest.raises(StoreError, match="no checkpoint 'new'"), store.transaction():
            add_trajectory(store, replace(TRAJECTORY, id="trajectory-c", checkpoint_id="new"))


def test_what_is_committed_survives_a_kill(run: Path) -> None:
    script = (
        "import os, pathlib, sys\nfrom dataclasses import replace\nfrom test_store import *\n"
        "store = Store(pathlib.Path(sys.argv[1]), writable=True)\n"
        "with store.transaction():\n store.set_meta('kept', '1')\n"
        "store._db.execute('BEGIN IMMEDIATE')\nstore.set_meta('lost', '1')\nos.kill(os.getpid(), 9)\n"
    )
    places = os.pathsep.join([str(Path(__file__).parent), str(TESTS), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)], env={**os.environ, "PYTHONPATH": places}, check=False
    )
    assert done.returncode == -9
    with Store(run, writable=True) as store:
        assert (store.meta("kept"), store.meta("lost")) == ("1", None)


def test_a_second_writer_is_refused_by_the_owners_number(run: Path) -> None:
    with Store(run, writable=True):
        with pytest.raises(StoreError, match=rf"another process writes to this run \(pid {os.getpid()}\); wait for it"):
            Store(run, writable=True)
        with Store(run) as reader:
            assert reader.counts()["cases"] == 2
    Store(run, writable=True).close()


def test_a_reader_cannot_write(run: Path) -> None:
    with Store(run) as store, pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.set_meta("x", "y")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda store: store.case("x"), "no case 'x'"),
        (lambda store: store.checkpoint("x"), "no checkpoint 'x'"),
        (lambda store: store.trajectory("x"), "no trajectory 'x'"),
        (lambda store: store.scores("x"), "no trajectory 'x'"),
        (lambda store: list(store.trajectories(["x"])), "no trajectory 'x'"),
    ],
)
def test_unknown_ids_are_named(run: Path, ask: Any, message: str) -> None:
    with Store(run) as store, pytest.raises(StoreError, match=message):
        ask(store)


def test_no_run_another_format_and_a_full_directory_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no run here .*make one with"):
        Store(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(StudyError, match="not empty and holds no run; choose another output"):
        Store.create(tmp_path / "full")
    db = sqlite3.connect(run / DATABASE)
    db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="store format 99, this holdfast reads 1 and 2; use the version that wrote it"):
        Store(run)
    with pytest.raises(StoreError, match="store format 99"):
        Store.open_or_create(run)


@pytest.mark.parametrize("damage", [b"not a database at all" * 300, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_told_and_never_replaced(run: Path, damage: bytes) -> None:
    (run / DATABASE).write_bytes(damage)
    for opening in (Store, Store.open_or_create):
        with pytest.raises(StoreError, match="not a readable run database"):
            opening(run)
    assert (run / DATABASE).read_bytes() == damage


def test_a_damaged_text_is_told(run: Path) -> None:
    db = sqlite3.connect(run / DATABASE)
    other = TextCodec().pack(b"something else").body
    db.execute("UPDATE texts SET body = ? WHERE key = 1", (other,))
    db.execute("UPDATE texts SET body = x'00' WHERE key = 2")
    db.commit()
    db.close()
    with Store(run) as store:
        with pytest.raises(StoreError, match=r"damaged in the store \(another digest\); restore the run"):
            store.case("case-a")
        with pytest.raises(StoreError, match="damaged in the store"):
            store.trajectory("trajectory-a")


def test_a_database_killed_before_its_first_commit_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / DATABASE).touch()
    Store.open_or_create(path).close()
    with Store.open_or_create(path) as store, store.transaction():
        store.set_meta("x", "y")
    with Store.open_or_create(path) as store:
        assert store.meta("x") == "y"


def test_steps_and_their_batches_are_logged(run: Path) -> None:
    with Store(run, writable=True) as store:
        store.log.begin("f1", "rollout", "roll out base")
        assert store.log.steps()["f1"].status == "running"
        with store.transaction():
            store.log.commit_batch("f1", 0)
            store.log.commit_batch("f1", 2)
        with pytest.raises(sqlite3.IntegrityError), store.transaction():
            store.log.commit_batch("f1", 3)
            store.log.commit_batch("f1", 2)
        assert store.log.batches("f1") == {0, 2}
        assert store.log.batches("f2") == set()
        store.log.finish("f1", {"rows": 3})
        store.log.begin("f1", "rollout", "again")
    with Store(run) as store:
        step = store.log.steps()["f1"]
    assert (step.kind, step.name, step.status, step.result) == ("rollout", "roll out base", "done", {"rows": 3})
    assert step.seconds is not None
    assert step.seconds >= 0


log_probabilities = st.floats(min_value=-1e300, max_value=0.0, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(log_probabilities, log_probabilities)
def test_log_probabilities_come_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, one: float, other: float
) -> None:
    with Store.create(tmp_path_factory.mktemp("any") / "run") as store:
        with store.transaction():
            store.add_cases([CASE])
            store.add_checkpoint(CHILD)
            for name in ("trajectory-a", "trajectory-b"):
                add_trajectory(store, replace(TRAJECTORY, id=name), step="roll")
            store.add_logprobs("reference", {"trajectory-a": one, "trajectory-b": other})
        assert store.logprobs("reference") == {"trajectory-a": one, "trajectory-b": other}
        assert store.logprobs("another") == {}


@pytest.mark.parametrize("value", [0.1, float("nan"), float("-inf"), float("inf")])
def test_what_is_no_log_probability_is_refused(run: Path, value: float) -> None:
    with Store(run, writable=True) as store:
        with pytest.raises(StoreError, match="reference step r: log-probabilities cannot"), store.transaction():
            store.add_logprobs("r", {"trajectory-b": -1.0, "trajectory-a": value})
        with store.transaction():
            store.add_logprobs("r", {"trajectory-a": -2.5})
        with pytest.raises(StoreError, match=r"cannot be stored .* stored once"), store.transaction():
            store.add_logprobs("r", {"trajectory-a": -2.5})
        with pytest.raises(StoreError, match="no trajectory 'x'"), store.transaction():
            store.add_logprobs("r", {"x": -1.0})
        assert store.logprobs("r") == {"trajectory-a": -2.5}


def test_a_score_needs_a_value_or_a_reason() -> None:
    for wrong in ({"value": None}, {"value": 1.0, "missing": "why"}):
        with pytest.raises(ValueError, match="either a value or the reason"):
            Score(trajectory_id="t", judge="j", objective="o", **wrong)
