"""A step that travels: what it reads goes with it, what comes of it comes back, and what was changed is no step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.own_files import chats
from builders.own_trainers import GOOD, WORDS, script
from builders.places import STUDIES, data_file
from builders.rewarded_study import paid_study, verdict
from builders.smoke_study import SMOKE, study_of

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.fakes import FakeProvider
from holdfast.records import Checkpoint, Ending, Flag, Score, StageRecord, Trajectory
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.runs.build import build
from holdfast.runs.carrying.cache import Sizes, bound_bytes, hold_weights
from holdfast.runs.carrying.carry import SUFFIX, carry_to_directory
from holdfast.runs.carrying.cutting import STEP_FILE, cut, read_slice
from holdfast.runs.carrying.envelopes import pack, unpack
from holdfast.runs.carrying.node import pack_slice, unpack_slice
from holdfast.runs.carrying.outbox import Outbox
from holdfast.runs.engines.far import Attempts, silence_seconds, stays
from holdfast.runs.engines.local import InProcess
from holdfast.runs.execution import MOST_LOST, StepProgress, execute
from holdfast.runs.plan.step import Means, Plan, Step
from holdfast.runs.plan.travel import read_step, write_step
from holdfast.runs.run import prepare
from holdfast.runs.steps.outcomes import Batch, End, Failure, Finished, Lost, Progress
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store, codec, weights
from holdfast.store.places import ENDPOINTS_KEY
from holdfast.study.study import Study, load

OF_TOOLEMU = ("published", "approval-published")


def plan_of(name: str) -> Plan:
    changes = []
    if name in OF_TOOLEMU:
        changes = [f"suite.{key}={data_file(f'toolemu-{key}.json')}" for key in ("cases", "toolkits")]
    return build(load(STUDIES / f"{name}.toml", changes=changes))


# --- the step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDIES.glob("*.toml") if "published" not in path.stem))
def test_steps_of_every_study_come_back_as_they_were(name: str) -> None:
    steps = plan_of(name).steps
    for step in steps[:: len(steps) // 200 + 1]:
        assert read_step(write_step(step), "here") == replace(step, means=Means())


def test_a_suite_of_files_travels_with_its_files() -> None:
    plan = plan_of("published")
    for kind in {step.kind for step in plan.steps}:
        step = next(step for step in plan.steps if step.kind == kind)
        assert read_step(write_step(step), "here") == replace(step, means=Means())


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *way, last = path.split("/")
    at: Any = document
    for key in way:
        at = at[key]
    at[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("settings/fields/rollout_seed", 7, "another fingerprint"),
        ("settings/fields/suite/values/test_cases", 25, "another fingerprint"),
        ("settings/fields/part", "train", "another fingerprint"),
        ("inputs", ["f" * 32], "another fingerprint"),
        ("fingerprint", "f" * 32, "another fingerprint"),
        ("settings/record", "Store", "KeyError"),
        ("settings/record", "UserSettings", "TypeError"),
        ("settings/fields/suite/table", "Path", "KeyError"),
        ("settings/fields/suite/of", "os:system", "no file of yours names"),
        ("settings/fields/suite/of", "probes", "that names"),
        ("settings/fields/suite/values", {"name": "office", "unheard": 1}, "ValidationError"),
        ("settings", {"map": {}}, "no settings"),
        ("size", "many", "ValueError"),
        ("format", 99, "format 99"),
        ("checkpoints", ["{}"], "holds no step"),
    ],
)
def test_a_document_that_was_changed_is_no_step(path: str, value: Any, message: str) -> None:
    step = next(step for step in plan_of("smoke").steps if step.kind == "rollout")
    document = changed(json.loads(write_step(step)), path, value)
    with pytest.raises((StoreError, StudyError), match=message):
        read_step(json.dumps(document), "here")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "[" * 100_000, '{"format": 1}'])
def test_what_is_no_document_is_no_step(text: str) -> None:
    with pytest.raises(StoreError, match="holds no step"):
        read_step(text, "here")


# --- the slice --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke_plan() -> Plan:
    return build(load(SMOKE))


def the(plan: Plan, kind: str, words: str = "") -> Step:
    return next(step for step in plan.steps if step.kind == kind and words in step.name)


@pytest.fixture
def sliced(smoke_run: Path, smoke_plan: Plan, tmp_path: Path) -> Callable[[Step], Path]:
    def make(step: Step) -> Path:
        with Store(smoke_run) as store:
            cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
        return tmp_path / "slice"

    return make


@pytest.mark.parametrize(
    ("kind", "words"),
    [("rollout", "train cases"), ("judge", "base"), ("pair", "safety"), ("reference", "base"), ("train", "S,H")],
)
def test_a_slice_has_what_its_step_reads_and_no_more(
    kind: str, words: str, smoke_run: Path, smoke_plan: Plan, sliced: Callable[[Step], Path]
) -> None:
    step = the(smoke_plan, kind, words)
    path = sliced(step)
    piece = read_slice(path)
    assert piece.step.fingerprint == step.fingerprint and piece.attempt == f"{step.fingerprint}~t-1"
    with Store(smoke_run) as whole, Store(path) as part:
        assert part.cases() == whole.cases() and part.splits() == whole.splits()
        assert part.checkpoints(brought=True) == whole.checkpoints(brought=True)
        assert part.log.batches(step.fingerprint) == whole.log.batches(step.fingerprint)
        for name in (step.fingerprint, *step.inputs):
            assert list(part.trajectories(step=name)) == list(whole.trajectories(step=name))
            assert part.pairs(name) == whole.pairs(name)
            assert part.mean_scores(name) == whole.mean_scores(name)
            used = {trajectory for pair in part.pairs(name) for trajectory in (pair.chosen, pair.rejected)}
            assert {item.id for item in part.trajectories(used)} == used
        if kind == "train":
            (referred,) = (name for name in step.inputs if whole.logprobs(name))
            pairs = next(whole.pairs(name) for name in step.inputs if whole.pairs(name))
            used = {trajectory for pair in pairs for trajectory in (pair.chosen, pair.rejected)}
            wanted = {name: value for name, value in whole.logprobs(referred).items() if name in used}
            assert wanted and part.logprobs(referred) == wanted
        assert part.counts()["trajectories"] < whole.counts()["trajectories"]
        assert set(part.log.steps()) <= {step.fingerprint, *step.inputs}
    assert (path / "run.db").stat().st_mode & 0o077 == 0 and {one.name for one in path.iterdir()} == {
        "run.db",
        STEP_FILE,
    }


def test_a_slice_names_the_weights_that_its_step_opens(
    smoke_run: Path, smoke_plan: Plan, sliced: Callable[[Step], Path]
) -> None:
    step = the(smoke_plan, "rollout", "S,H")
    named = set(read_slice(sliced(step)).weights)
    with Store(smoke_run) as store:
        child = next(one for one in store.checkpoints() if one.lineage == ("S", "H") and one.axes["dose"] == 1)
        chain = {child.digest, store.checkpoint(child.parent_id or "").digest}
        base = next(one.digest for one in store.checkpoints() if not one.stages)
    assert named == chain | {base}


def test_nothing_of_how_models_are_reached_is_in_a_slice(smoke_run: Path, smoke_plan: Plan, tmp_path: Path) -> None:
    shutil.copytree(smoke_run, tmp_path / "run")
    secret, address = "sk-canary-0123456789", "http://10.9.8.7:1234/v1"
    with Store(tmp_path / "run", writable=True) as store:
        store.set_meta(ENDPOINTS_KEY, json.dumps({"m": {"base_url": address, "key_env": secret}}))
        step = the(smoke_plan, "judge")
        cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "slice").iterdir())
    assert secret.encode() not in everything and address.encode() not in everything


def flip_byte(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def sql(path: Path, statement: str) -> None:
    with sqlite3.connect(path / "run.db") as db:
        db.execute(statement)


def step_key(path: Path, key: str, value: Any) -> None:
    document = json.loads((path / STEP_FILE).read_text())
    (path / STEP_FILE).write_text(json.dumps({**document, key: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: sql(path, "UPDATE scores SET value = 3 WHERE value IS NOT NULL"), "scores"),
        (lambda path: sql(path, "DELETE FROM trajectories WHERE key = (SELECT max(key) FROM trajectories)"), "damaged"),
        (lambda path: sql(path, "UPDATE splits SET part = 'train'"), "splits"),
        (lambda path: sql(path, "UPDATE meta SET value = '{}' WHERE key = 'study'"), "meta"),
        (lambda path: (path / STEP_FILE).write_text("{}"), "no step's slice"),
        (lambda path: (path / STEP_FILE).unlink(), "cannot be read"),
        (lambda path: (path / "run.db").unlink(), "no run here"),
        (lambda path: (path / "weights").symlink_to("/"), "is a link"),
        (lambda path: os.link(path / "run.db", path / "other"), "hard link"),
        (lambda path: step_key(path, "holdfast", "0.0.1"), "install the same here"),
        (lambda path: step_key(path, "attempt", "../../x~1"), "no attempt at this step"),
        (lambda path: step_key(path, "attempt", "f" * 32 + "~t-1"), "no attempt at this step"),
        (lambda path: step_key(path, "weights", ["../../etc"]), "no digest"),
        (lambda path: step_key(path, "step", "{}"), "holds no step"),
    ],
)
def test_a_slice_that_was_changed_is_refused_in_one_line(
    change: Callable[[Path], object],
    message: str,
    smoke_plan: Plan,
    sliced: Callable[[Step], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = sliced(the(smoke_plan, "judge"))
    change(path)
    assert main(["carry", str(path), "-o", str(path.parent / "out")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and message in told and not (path.parent / "out").exists()


# --- carried out ------------------------------------------------------------------------------------------------


def outcomes_in(path: Path) -> Iterator[Any]:
    for number, file in enumerate(sorted(path.glob(f"*{SUFFIX}"))):
        envelope = unpack(file.read_bytes(), path / "scratch")
        assert envelope.number == number
        yield envelope.outcome


def test_the_command_carries_a_step_out(
    smoke_run: Path, smoke_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of a fork that lacks the step, the slice has nothing of what it makes.
    step = the(smoke_plan, "train", "S,H")
    shutil.copytree(smoke_run, tmp_path / "run")
    with Store(smoke_run) as store:
        made = {one.id: one.digest for one in store.checkpoints() if one.lineage == ("S", "H")}
        cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
    words = ["carry", str(tmp_path / "slice"), "-o", str(tmp_path / "out")]
    assert main(words) == 2 and "lacks the weights" in capsys.readouterr().err
    assert main([*words, "--weights", str(smoke_run / "weights")]) == 0
    first, *_, finished, end = outcomes_in(tmp_path / "out")
    assert type(first).__name__ == "Began" and isinstance(end, End) and isinstance(finished, Finished)
    found = {one.id: weights.digest_directory(place) for one, place in finished.checkpoints if place is not None}
    assert found == made  # bit by bit what the run has
    assert finished.logs[""].is_file()
    assert main([*words, "--weights", str(smoke_run / "weights")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_step_that_fails_says_so_in_its_last_outcome(smoke_run: Path, smoke_plan: Plan, tmp_path: Path) -> None:
    step = the(smoke_plan, "rollout", "S,H")
    shutil.copytree(smoke_run / "weights", tmp_path / "weights")
    with Store(smoke_run) as store:
        cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
        own = next(one for one in store.checkpoints() if one.lineage == ("S", "H")).digest
    sql(tmp_path / "slice", "DELETE FROM batches")  # so that it has something to do, and no digest fits
    with pytest.raises(StoreError, match="damaged"):
        carry_to_directory(tmp_path / "slice", tmp_path / "out", weights_root=tmp_path / "weights")
    shutil.rmtree(tmp_path / "slice")
    with Store(smoke_run) as store:
        cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
    flip_byte(next((tmp_path / "weights" / str(own)).glob("*.safetensors")), 0.9)
    assert not carry_to_directory(tmp_path / "slice", tmp_path / "out", weights_root=tmp_path / "weights")
    *_, last = outcomes_in(tmp_path / "out")
    assert isinstance(last, Failure) and "holds other weights" in last.message


def test_a_stage_by_a_program_is_carried_out_of_a_slice_where_programs_may_run(
    smoke_run: Path, base_cache: Path, tmp_path: Path
) -> None:
    words = [WORDS[0], str(script(tmp_path / "train.py", GOOD)), *WORDS[2:]]
    settings = json.loads(json.dumps(load(SMOKE).settings()))
    settings["stages"]["S"] = {"method": "command", "command": words, "data": "pairs", "objective": "safety"}
    settings["study"]["lineages"] = [["S"]]
    settings["doses"] = {}
    step = the(build(Study.model_validate(settings)), "train", "· S ·")
    assert stays(step) and not stays(step, programs=True)
    with Store(smoke_run) as store:
        cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
    weights_root = smoke_run / "weights"
    with pytest.raises(StoreError, match=r"is carried out by a program \(.*train\.py"):
        carry_to_directory(tmp_path / "slice", tmp_path / "out", weights_root=weights_root)
    assert not (tmp_path / "out").exists()
    assert carry_to_directory(tmp_path / "slice", tmp_path / "out", weights_root=weights_root, allow_command=True)
    *_, finished, end = outcomes_in(tmp_path / "out")
    assert isinstance(finished, Finished) and len(finished.checkpoints) == 1 and isinstance(end, End)


def test_a_step_that_asks_remote_models_pays_nothing_that_was_not_said(
    base_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeProvider(answers=verdict) as provider:
        study = paid_study(provider.base_url)
        run = hf.run(study, tmp_path / "run", workers=1)
        step = next(one for one in build(study).steps if one.kind == "judge")
        with Store(run.path) as store:
            cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
        provider.bill.clear()
        words = ["carry", str(tmp_path / "slice"), "-o", str(tmp_path / "out"), "--weights", str(run.path / "weights")]
        assert main(words) == 2
        assert "asks judge, which may be paid for; say how much with --max-calls" in capsys.readouterr().err
        assert not provider.bill and not (tmp_path / "out").exists()


def test_the_file_that_a_stage_learns_from_travels_with_its_slice(
    smoke_run: Path, base_cache: Path, tmp_path: Path
) -> None:
    own = chats(tmp_path / "mine.of.chats.jsonl")
    settings = json.loads(json.dumps(load(SMOKE).settings()))
    settings["stages"] = {"C": {"method": "sft", "data": str(own), "objective": "safety", "epochs": 1}}
    settings["study"]["lineages"] = [["C"]]
    settings["doses"] = {}
    step = the(build(Study.model_validate(settings)), "train", "· C ·")
    with Store(smoke_run) as store:
        cut(store, step, f"{step.fingerprint}~t-1", tmp_path / "slice")
        cut(store, step, f"{step.fingerprint}~t-2", tmp_path / "changed")
    own.unlink()
    packed = pack_slice(tmp_path / "slice")
    (tmp_path / "there").mkdir()
    unpack_slice(packed, tmp_path / "there")
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"run.db", "step.json", "attached.jsonl"}
    weights_root = smoke_run / "weights"
    assert carry_to_directory(tmp_path / "there", tmp_path / "out", weights_root=weights_root)
    attached = tmp_path / "changed" / "attached.jsonl"
    attached.write_bytes(attached.read_bytes().replace(b"user", b"used", 1))
    assert not carry_to_directory(tmp_path / "changed", tmp_path / "out2", weights_root=weights_root)
    *_, last = outcomes_in(tmp_path / "out2")
    assert isinstance(last, Failure) and "has changed since the study was read" in last.message
    with Store(smoke_run) as store, pytest.raises(StepError, match="put the file back"):
        cut(store, step, f"{step.fingerprint}~t-3", tmp_path / "gone")


# --- envelopes --------------------------------------------------------------------------------------------------


def test_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    trajectory = Trajectory(
        id="a",
        case_id="b",
        checkpoint_id="c",
        rollout=0,
        messages=(),
        ending=Ending.FINISHED,
        flags=(Flag.LOOP,),
        detail={"x": [1, 2.5, None]},
    )
    text = codec.Text(digest=b"\x00\xff" * 8, dictionary=0, body=bytes(range(256)))
    score = Score(trajectory_id="a", judge="j", objective="safety", value=0.1 + 0.2, reply="an “answer”\x1f")
    stage = StageRecord(name="S", method="dpo", objectives=("safety",), settings={"q": 1e-17}, steps=1)
    checkpoint = Checkpoint(id="i", base="b", stages=(stage,), axes={"dose": 2, "loss": "dpo"})
    batch = Batch(
        number=3,
        size=1,
        checkpoints=(checkpoint,),
        trajectories=((trajectory, text),),
        scores=(score,),
        logprobs={"a": -1.2345678901234567e-300, "b": -0.1},
    )
    for outcome in (batch, Progress(done=3), End(), Failure(message="m", log="l"), Lost(message="gone")):
        assert unpack(pack("f~1", 5, outcome, tmp_path), tmp_path).outcome == outcome
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.safetensors").write_bytes(b"weights")
    finished = Finished(result={"loss": 0.1}, checkpoints=((checkpoint, tmp_path / "made"), (checkpoint, None)))
    there = unpack(pack("f~1", 6, finished, tmp_path), tmp_path / "elsewhere")
    assert there.outcome.checkpoints[0][1] == tmp_path / "elsewhere" / "made" and there.attempt == "f~1"
    assert there.digests == {"made": weights.digest_directory(tmp_path / "made")}


def sealed(data: bytes) -> bytes:
    """An envelope with another body, as if it had been sent so."""
    head, _, body = data.partition(b"\n")
    told = json.loads(head) | {"body": hashlib.sha256(body).hexdigest()}
    return json.dumps(told).encode() + b"\n" + body


def test_an_outcome_that_is_not_as_it_was_sent_is_refused(tmp_path: Path) -> None:
    data = pack("f~1", 0, Progress(done=41), tmp_path)
    with pytest.raises(StoreError, match="is not as it was sent"):
        unpack(data.replace(b"41", b"42"), tmp_path)
    assert unpack(sealed(data.replace(b"41", b"42")), tmp_path).outcome == Progress(done=42)


def test_weights_of_one_name_in_two_places_both_arrive(attempts: Attempts, smoke_plan: Plan) -> None:
    attempt = attempts.begin(the(smoke_plan, "train", "S,H"))
    assert len(attempt.step.checkpoints) == 2
    made = []
    for number, checkpoint in enumerate(attempt.step.checkpoints):
        place = attempt.scratch / str(number) / "final"
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(bytes([number]))
        made.append((checkpoint, place))
    log = attempt.scratch / "log.jsonl"
    finished = Finished(result={}, checkpoints=tuple(made), logs={".x": log})
    (lost,) = attempts.take(attempt, pack(attempt.name, 0, finished, attempt.scratch))
    assert isinstance(lost, Lost) and "log.jsonl did not arrive" in lost.message
    log.write_text("{}")
    assert list(attempts.take(attempt, pack(attempt.name, 0, finished, attempt.scratch))) == [finished]
    strange = replace(finished, logs={"/../x": log})
    with pytest.raises(StoreError, match="is no kind of log"):
        unpack(pack(attempt.name, 0, strange, attempt.scratch), attempt.scratch)


@pytest.mark.parametrize("place", ["/etc", "../other", "made/../..", "", "link/x", "."])
def test_what_a_step_left_lies_in_its_directory(place: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "made").mkdir()
    good = pack("f~1", 0, Finished(result={}, logs={"": tmp_path / "made"}), tmp_path)
    with pytest.raises(StoreError, match=r"no place in|is a link|cannot be read"):
        unpack(sealed(good.replace(b'"made"', json.dumps(place).encode())), tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]\n[]",
        b'{"attempt": "a", "number": 0, "kind": "End", "digests": {}}\n[{}]',
        sealed(b'{"attempt": "a", "number": 0, "kind": "Batch", "digests": {}}\n[{"number": 1}]'),
        sealed(b'{"attempt": "a", "number": 0, "kind": "os", "digests": {}}\n[{}]'),
        sealed(b'{"attempt": "a", "number": 0, "kind": "End", "digests": {}}\n[{"more": 1}]'),
        b"\x80\x04\x95\x00",
    ],
)
def test_what_is_no_outcome_is_told(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        unpack(data, tmp_path)


# --- attempts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def attempts(smoke_run: Path, tmp_path: Path) -> Iterator[Attempts]:
    shutil.copytree(smoke_run, tmp_path / "run")
    with Store(tmp_path / "run", writable=True) as store:
        (tmp_path / "run" / "carried").mkdir()
        yield Attempts(store)


def test_what_an_attempt_says_is_taken_once_and_in_order(attempts: Attempts, smoke_plan: Plan) -> None:
    attempt = attempts.begin(the(smoke_plan, "judge"))
    said = [pack(attempt.name, number, Progress(done=number), attempt.scratch) for number in range(4)]
    assert list(attempts.take(attempt, said[0])) == [Progress(done=0)]
    assert list(attempts.take(attempt, said[0])) == []  # it was taken
    assert list(attempts.take(attempt, pack("other~1", 1, End(), attempt.scratch))) == []
    assert list(attempts.take(attempt, said[1])) == [Progress(done=1)]
    (lost,) = attempts.take(attempt, said[3])
    assert isinstance(lost, Lost) and "outcome 2" in lost.message
    (lost,) = attempts.take(attempt, b"torn")
    assert isinstance(lost, Lost)
    attempts.end(attempt)
    assert not attempt.folder.exists() and not attempts.open


def test_weights_that_did_not_arrive_whole_lose_the_step(attempts: Attempts, smoke_plan: Plan) -> None:
    attempt = attempts.begin(the(smoke_plan, "train", "S"))
    made = attempt.scratch / "made"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"whole")
    checkpoint = attempt.step.checkpoints[0]
    said = pack(attempt.name, 0, Finished(result={}, checkpoints=((checkpoint, made),)), attempt.scratch)
    (made / "model.safetensors").write_bytes(b"half")
    (lost,) = attempts.take(attempt, said)
    assert isinstance(lost, Lost) and "whole" in lost.message


def test_an_attempt_that_was_given_up_finds_its_directory_gone(attempts: Attempts, smoke_plan: Plan) -> None:
    step = the(smoke_plan, "train", "S")
    first = attempts.begin(step)
    first.scratch.mkdir(parents=True)
    (first.scratch / "state").write_text("step 3")
    attempts.end(first)
    second = attempts.begin(step)
    assert second.name != first.name and (second.scratch / "state").read_text() == "step 3"
    with pytest.raises(FileNotFoundError):
        (first.scratch / "state").write_text("a late word")
    here = weights.hand_on_scratch(second.scratch.parent, step.fingerprint)
    assert (here / "state").read_text() == "step 3" and not second.scratch.exists()


class LosingLast(InProcess):
    """An engine whose machine is lost each time before it can say that a step has ended."""

    def wait(self, deliver: Callable[[str, Any], None]) -> None:
        last = Lost(message="the machine was lost")
        super().wait(lambda name, outcome: deliver(name, last if isinstance(outcome, End) else outcome))


def test_a_step_that_is_lost_after_all_that_it_had_to_say_is_done(
    base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.runs.execution.open_engine", lambda _, store, __: LosingLast(carry_out, store.path))
    told: list[StepProgress] = []
    study = study_of()
    plan = build(study)
    with Store.create(tmp_path / "run") as store:
        prepare(study, store)
        execute(plan, store, workers=1, listener=told.append)
    done = [one.step.fingerprint for one in told if one.state == "done"]
    assert len(done) == len(set(done)) == len(plan.steps) - 1 and not [one for one in told if one.state == "lost"]


class Losing:
    """An engine whose machines are lost so many times before a step is done."""

    def __init__(self, times: int, *, counted: bool) -> None:
        self.times, self.counted, self.tries = times, counted, 0
        self.step: Step | None = None
        self.notes: tuple[str, ...] = ()

    def takes(self, step: Step) -> bool:
        return self.step is None and bool(step)

    def queues(self, step: Step) -> bool:
        return self.step is step

    def submit(self, step: Step) -> None:
        self.step, self.tries = step, self.tries + 1

    def wait(self, deliver: Callable[[str, Any], None]) -> None:
        assert self.step is not None
        step, self.step = self.step, None
        lost = Lost(message="the machine was lost", counted=self.counted)
        deliver(step.fingerprint, lost if self.tries <= self.times else Failure(message="enough", log=""))

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("times", "counted", "message"),
    [(MOST_LOST, True, "enough"), (MOST_LOST + 1, True, "the machine was lost"), (20, False, "enough")],
)
def test_a_lost_step_is_done_again_so_many_times(
    times: int, counted: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, smoke_plan = Losing(times, counted=counted), build(load(SMOKE))
    monkeypatch.setattr("holdfast.runs.execution.open_engine", lambda *_: engine)
    with Store.create(tmp_path / "run") as store, pytest.raises(StepError, match=message):
        execute(smoke_plan, store, workers=1)
    assert engine.tries == times + (message == "enough")


# --- beside the driver, and on the node -------------------------------------------------------------------------


def test_the_outbox_takes_what_open_attempts_say_with_the_runs_token(tmp_path: Path) -> None:
    outbox = Outbox("token", str(tmp_path / "weights"))
    outbox.begin("token", "f~1", str(tmp_path / "work"), {})
    outbox.put("token", "f~1", b"one")
    outbox.put("token", "f~1", b"two")
    assert outbox.take("token", 0) == ([("f~1", b"one"), ("f~1", b"two")], ["f~1"])
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("begin", ("f~2", "x", {})),
        ("take", (0,)),
        ("put", ("f~1", b"x")),
        ("lay", ("f~1", "a", 0, b"")),
        ("list_weights", ("f~1", "a" * 64)),
        ("end", ("f~1",)),
    ]
    for method, given in calls:
        with pytest.raises(StoreError, match="token"):
            getattr(outbox, method)("other", *given)
    outbox.put("token", "f~1", b"three")
    outbox.end("token", "f~1")
    assert outbox.take("token", 0)[0] == []
    with pytest.raises(StoreError, match="is over"):
        outbox.put("token", "f~1", b"late")
    with pytest.raises(StoreError, match="is over"):
        outbox.beat("token", "f~1")
    with pytest.raises(StoreError, match="is over"):
        outbox.list_weights("token", "f~1", "a" * 64)


def test_files_are_laid_into_the_attempts_directory_alone(tmp_path: Path) -> None:
    outbox = Outbox("token", str(tmp_path / "weights"))
    outbox.begin("token", "f~1", str(tmp_path / "work"), {})
    outbox.lay("token", "f~1", "made/model.safetensors", 0, b"ab")
    outbox.lay("token", "f~1", "made/model.safetensors", 2, b"cd")
    assert (tmp_path / "work" / "made" / "model.safetensors").read_bytes() == b"abcd"
    with pytest.raises(StoreError, match="a part at 9"):
        outbox.lay("token", "f~1", "made/model.safetensors", 9, b"x")
    for name in ("../x", "/tmp/x", "made/../../x"):
        with pytest.raises(StoreError, match="no place"):
            outbox.lay("token", "f~1", name, 0, b"x")
    (tmp_path / "work" / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a link"):
        outbox.lay("token", "f~1", "link/x", 0, b"x")


def weights_at(root: Path, content: bytes) -> str:
    root.mkdir(parents=True, exist_ok=True)
    part = root / ".part-new"
    part.mkdir()
    (part / "model.safetensors").write_bytes(content)
    return weights.adopt(part, root)


def test_weights_are_given_out_by_their_digest(tmp_path: Path) -> None:
    root = tmp_path / "weights"
    digest = weights_at(root, b"some weights")
    outbox = Outbox("token", str(root))
    outbox.begin("token", "f~1", str(tmp_path / "work"), {})
    assert outbox.list_weights("token", "f~1", digest) == [("model.safetensors", 12)]
    assert outbox.read_weights("token", "f~1", digest, "model.safetensors", 5) == b"weights"
    (root / digest / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(StoreError, match="does not hold"):
        outbox.list_weights("token", "f~1", digest)
    for name in ("../..", "x" * 64 + "/", "." * 64):
        with pytest.raises(StoreError, match="no digest"):
            outbox.list_weights("token", "f~1", name)
    with pytest.raises(StoreError, match="no place"):
        outbox.read_weights("token", "f~1", digest, "../../secret", 0)


class Shelf:
    """Weights of a directory, and which were asked for."""

    def __init__(self, root: Path, files: Mapping[str, bytes] | None = None) -> None:
        self.root, self.files, self.asked = root, files, list[str]()

    def sizes(self, digest: str) -> Sizes:
        return [(path.name, path.stat().st_size) for path in (self.root / digest).iterdir()] if not self.files else []

    def fetch(self, digest: str, files: Sizes, part: Path) -> None:
        self.asked.append(digest)
        for name in self.files or [name for name, _ in files]:
            found = self.files[name] if self.files else (self.root / digest / name).read_bytes()
            (part / name).write_bytes(found)


def test_a_node_keeps_weights_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [weights_at(tmp_path / "run", bytes([number]) * 1000) for number in range(4)]
    shelf, cache = Shelf(tmp_path / "run"), tmp_path / "cache"
    monkeypatch.setenv("HOLDFAST_NODE_CACHE_GB", "2.5e-6")
    with hold_weights(cache, digests[:2], shelf) as root:
        assert {path.name for path in root.iterdir() if path.is_dir()} == set(digests[:2])
        with hold_weights(cache, digests[2:3], shelf):
            assert all((root / digest).is_dir() for digest in digests[:3])  # all are in use
    with hold_weights(cache, [digests[1]], shelf):
        pass
    os.utime(cache / f"{digests[0]}.lock", (1, 1))
    (cache / f".part-{digests[0]}").mkdir()  # of a process that was killed
    with hold_weights(cache, [digests[3]], shelf) as root:
        assert not (root / digests[0]).exists() and (root / digests[3]).is_dir()
        assert not list(cache.glob(".part-*"))
    assert shelf.asked == [*sorted(digests[:2]), digests[2], digests[3]]
    (cache / digests[3] / "model.safetensors").write_bytes(b"changed on the node")
    with hold_weights(cache, [digests[3]], shelf) as root:
        assert weights.digest_directory(root / digests[3]) == digests[3]


def test_steps_that_want_the_same_weights_work_side_by_side(tmp_path: Path) -> None:
    """Whoever brings them holds them as the others do, who would else wait for its whole step."""
    digest, meeting = weights_at(tmp_path / "run", b"some weights"), threading.Barrier(3, timeout=20)
    shelf = Shelf(tmp_path / "run")

    def work() -> None:
        with hold_weights(tmp_path / "cache", [digest], shelf):
            meeting.wait()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work) for _ in range(3)]:
            done.result()
    assert shelf.asked == [digest]


def test_other_weights_than_were_asked_for_are_not_opened(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"model.safetensors": b"something else"})
    with pytest.raises(StoreError, match="other weights arrived"), hold_weights(tmp_path / "c", ["a" * 64], shelf):
        pass
    assert sorted(path.suffix for path in (tmp_path / "c").iterdir()) == [".bring", ".lock"]


@pytest.mark.parametrize("variable", ["HOLDFAST_SILENCE", "HOLDFAST_NODE_CACHE_GB"])
@pytest.mark.parametrize("told", ["ten", "0", "-1", "inf", "nan"])
def test_what_is_no_number_is_refused_in_one_line(variable: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, told)
    with pytest.raises(StudyError, match=f"{variable} is '{told}'; set it to a number above 0"):
        silence_seconds() if variable == "HOLDFAST_SILENCE" else bound_bytes()
