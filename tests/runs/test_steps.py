"""Steps by themselves: references that everyone shares, what a stage refuses, and what it does with an old state."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.places import copy_run
from builders.smoke_study import SMOKE
from builders.tiny_office import TOOLS, call, make_model, opening
from rounding import additions, rounding, within

from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.model import TinyModel
from holdfast.records import Case, Ending, Trajectory
from holdfast.records.errors import StepError, StudyError
from holdfast.runs.build import build
from holdfast.runs.plan.settings import ReferenceSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps import reading
from holdfast.runs.steps.outcomes import Batch, Finished, Outcome
from holdfast.runs.steps.working import carry_out
from holdfast.store import DATABASE, Store, weights
from holdfast.store.checking import reseal
from holdfast.study.study import load


@pytest.fixture
def own_run(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may write to."""
    return copy_run(smoke_run, tmp_path / "own")


def steps_of_kind(kind: str) -> list[Step]:
    return [step for step in build(load(SMOKE)).steps if step.kind == kind]


def stage(*lineage: str) -> Step:
    (found,) = (s for s in steps_of_kind("train") if s.checkpoints[0].lineage == lineage)
    return found


def outcomes_of(step: Step, run: Path) -> list[Outcome]:
    found: list[Outcome] = []
    carry_out(step, run, found.append)
    return found


def trained_digests(step: Step, run: Path) -> list[str]:
    finished = outcomes_of(step, run)[-1]
    assert isinstance(finished, Finished)
    return [weights.digest_directory(directory) for _, directory in finished.checkpoints]


def known_digests(step: Step, run: Path) -> list[str | None]:
    with Store(run) as store:
        return [store.checkpoint(checkpoint.id).digest for checkpoint in step.checkpoints]


def test_a_reference_has_every_finished_trajectory_as_the_model_scores_it(smoke_run: Path) -> None:
    for step in steps_of_kind("reference"):
        with Store(smoke_run) as store:
            values, cases = store.logprobs(step.fingerprint), reading.cases_of(store)
            episodes = [t for t in store.trajectories(step=step.inputs[1]) if t.ending is Ending.FINISHED]
            result = store.log.steps()[step.fingerprint].result
            model = TinyModel.load(reading.weights_of(store, step.settings.dump()["checkpoint"]))
        assert values.keys() == {t.id for t in episodes}
        encoded = [reading.encode(model.chat, cases, t) for t in episodes]
        alone = model.logprobs([(e.ids.tolist(), e.picked("agent").tolist()) for e in encoded])
        found = [values[t.id] for t in episodes]
        shape = model.llama.shape
        for value, row, item in zip(found, alone, encoded, strict=True):
            # The log-probabilities of a row are of the same weights, so their errors may add up.
            terms = additions(shape.hidden, shape.layers, shape.ffn, shape.vocabulary, len(item.ids))
            assert within(abs(value - row.sum(dtype=np.float64)), len(row) * rounding(terms))
        assert result["trajectories"] == len(episodes)
        assert result["plain_tokens"] == sum(len(e.ids) for e in encoded)
        assert max(len(e.ids) for e in encoded) < result["tokens"] < result["plain_tokens"] / 1.5


def test_a_reference_goes_on_after_its_last_committed_batch(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = steps_of_kind("reference")[1]
    monkeypatch.setattr(ReferenceSettings, "batch", 30)
    with Store(own_run, writable=True) as store:
        store._db.execute("DELETE FROM batches WHERE fingerprint = ?", (step.fingerprint,))
    first = outcomes_of(step, own_run)
    batches = [one for one in first if isinstance(one, Batch)]
    assert len(batches) > 2 and [one.number for one in batches] == list(range(len(batches)))
    with Store(own_run, writable=True) as store:
        store.log.commit_batch(step.fingerprint, 1)
    again = outcomes_of(step, own_run)
    assert [one for one in again if isinstance(one, Batch)] == [batches[0], *batches[2:]]
    results = [dict(one.result) for one in (first[-1], again[-1]) if isinstance(one, Finished)]
    assert [result.pop("cpu_seconds") is not None for result in results] == [True, True] and results[0] == results[1]


def test_a_pair_without_a_reference_is_an_error(own_run: Path) -> None:
    step = stage("S")
    with Store(own_run, writable=True) as store:
        name = store.pairs(step.inputs[1])[0].rejected
        with store.transaction():
            store._db.execute(
                "DELETE FROM logprobs WHERE step = ? AND trajectory = (SELECT key FROM trajectories WHERE id = ?)",
                (step.inputs[2], name),
            )
            reseal(store._db)
    with pytest.raises(StepError, match=rf"trajectory {name} of a pair has no log-probability .*\(1 of \d+ have none"):
        outcomes_of(step, own_run)


def test_the_stage_reads_the_reference_and_does_not_compute_its_own(own_run: Path) -> None:
    step = stage("S")
    assert trained_digests(step, own_run) == known_digests(step, own_run)
    weights.discard_leftovers(own_run / "weights")
    with closing(sqlite3.connect(own_run / DATABASE)) as db:
        db.execute("UPDATE logprobs SET value = value - (trajectory % 7)")
        reseal(db)
        db.commit()
    assert trained_digests(step, own_run) != known_digests(step, own_run)


def tear(state: Path) -> None:
    (state / "tensors.safetensors").write_bytes(b"torn")


def lose_weights(state: Path) -> None:
    for dose in state.parents[1].glob("step-*"):
        shutil.rmtree(dose) if dose.is_dir() else dose.unlink()


def test_a_dose_that_was_half_written_is_written_anew(own_run: Path) -> None:
    """Weights are written under another name first: a kill there leaves a file that no such directory may hold."""
    step = stage("S", "H")
    known = known_digests(step, own_run)
    assert trained_digests(step, own_run) == known
    scratch = own_run / "weights" / f"{weights.TEMPORARY}{step.fingerprint}"
    shutil.rmtree(scratch / "loop" / "state")
    doses = [path for path in scratch.glob("step-*") if path.is_dir()]
    for dose in doses:
        (dose / ".tmpDHcPRC").write_bytes(b"half")
    assert len(doses) == 2 and trained_digests(step, own_run) == known


@pytest.mark.parametrize("spoil", [tear, lose_weights, shutil.rmtree])
def test_a_stage_whose_state_is_no_use_starts_again(spoil: Callable[[Path], object], own_run: Path) -> None:
    step = stage("S", "H")
    known = known_digests(step, own_run)
    assert trained_digests(step, own_run) == known and len(known) == 2
    scratch = own_run / "weights" / f"{weights.TEMPORARY}{step.fingerprint}"
    spoil(scratch / "loop" / "state")
    finished = outcomes_of(step, own_run)[-1]
    assert isinstance(finished, Finished) and finished.logs
    assert [weights.digest_directory(directory) for _, directory in finished.checkpoints] == known
    assert len(finished.logs[""].read_text().splitlines()) == 8


def test_a_finished_state_is_handed_over_without_training(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = stage("S")
    known = trained_digests(step, own_run)

    def refuse(*_: Any) -> None:
        raise AssertionError("a step was taken again")

    monkeypatch.setattr("holdfast.training.loop.loop.Loop._take", refuse)
    assert trained_digests(step, own_run) == known


def test_what_cannot_be_encoded_is_named_by_case_and_trajectory(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    mixed = call("check_file", item="memo")
    case = Case(id="case-7", suite="office", number=7, family="files", messages=opening("memo"), tools=TOOLS)
    trajectory = Trajectory(
        id="t-9",
        case_id="case-7",
        checkpoint_id="c",
        rollout=0,
        messages=(mixed.__class__(role="assistant", content="and", tool_calls=mixed.tool_calls),),
        ending=Ending.FINISHED,
    )
    with pytest.raises(StudyError, match=r"^case case-7, trajectory t-9: a message of the tiny agent holds one tool"):
        reading.encode(TinyChat.load(tmp_path / "model"), {"case-7": case}, trajectory)


def test_a_template_that_drops_the_system_message_stops_the_stage(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = TinyChat.encode

    def drop(chat: TinyChat, messages: Any, tools: Any = ()) -> Any:
        return encode(chat, [message for message in messages if message.role != "system"], tools)

    monkeypatch.setattr(TinyChat, "encode", drop)
    with pytest.raises(StudyError, match=r"^case .*: the chat template drops the system message"):
        outcomes_of(stage("S"), own_run)
