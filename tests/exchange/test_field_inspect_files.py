"""Field cases of Inspect logs (I): their files, and what a log says of itself."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.commands import refused
from builders.field_inspect import episodes, states, told
from builders.inspect_samples import SAFE, bring, log, sample, says, user, values
from builders.places import case_input
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.scorer import Score as InspectScore

import holdfast as hf
from holdfast.cli.main import main
from holdfast.exchange.inspect.files import find_logs, is_inspect
from holdfast.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_i_19_logs_are_found_in_any_layout(tmp_path: Path) -> None:
    inputs = case_input("I-19")
    for layout in ("json", "nested"):
        for side in ("parent", "child"):
            (one,) = find_logs(inputs / layout / side)
            assert is_inspect(inputs / layout / side) and is_inspect(one)
            assert bring(inputs / layout / side, tmp_path / f"{layout}-{side}").trajectories == 3


def test_logs_are_told_by_their_content(tmp_path: Path) -> None:
    path = log(tmp_path / "logs" / "deep" / "a.eval", [sample(1)])
    text = tmp_path / "logs" / "b.json"
    write_eval_log(read_eval_log(str(path)), str(text))
    turned = tmp_path / "logs" / "sorted.json"
    turned.write_text(json.dumps(json.loads(text.read_text()), sort_keys=True))
    shutil.copy(path, tmp_path / "logs" / "no-suffix")
    others = {
        "package-lock.json": '{"version": 1, "packages": {}}',
        "eval-set.json": '{"eval_set_id": "x", "tasks": []}',
        "rows.jsonl": '{"version": 1, "messages": []}\n{"version": 1, "messages": []}\n',
        "listing.json": '{"a.eval": {"version": 2, "status": "success", "eval": {}}}',
        "chat.json": '{"messages": []}',
    }
    for name, body in others.items():
        (tmp_path / "logs" / name).write_text(body)
        assert not is_inspect(tmp_path / "logs" / name)
    with zipfile.ZipFile(tmp_path / "logs" / "other.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    assert not is_inspect(tmp_path / "logs" / "other.zip") and is_inspect(tmp_path / "logs" / "no-suffix")
    assert {one.name for one in find_logs(tmp_path / "logs")} == {"a.eval", "b.json", "sorted.json"}
    assert bring(turned, tmp_path / "run").trajectories == bring(tmp_path / "logs" / "no-suffix", tmp_path / "r").files
    summary = bring(tmp_path / "logs", tmp_path / "all")
    assert (summary.files, summary.ignored, summary.trajectories) == (3, len(others) + 2, 1)


def test_pipes_and_devices_are_refused_unopened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.eval")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.eval", "zero.json"):
        assert "a device or pipe, not a plain file" in refused(
            capsys, "import", tmp_path / name, "-o", tmp_path / "run", "--quiet"
        )
        assert not is_inspect(tmp_path / name)
    assert find_logs(tmp_path) == []


def test_d4_no_flipped_bit_comes_in(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n, None, {"safety": n % 2}) for n in range(4)])
    bring(path, tmp_path / "whole", SAFE)
    wanted = values(tmp_path / "whole"), [one.messages for one in episodes(tmp_path / "whole")]
    data, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for number in range(24):
        place = rng.randrange(len(data))
        (tmp_path / "bad.eval").write_bytes(
            data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        )
        run = tmp_path / f"run {number}"
        try:
            bring(tmp_path / "bad.eval", run, SAFE)
        except hf.StudyError as error:
            refused += 1
            assert "bad.eval" in str(error) and "\n" not in str(error)
        else:
            assert (values(run), [one.messages for one in episodes(run)]) == wanted
    assert refused > 12


def test_b5_what_expands_without_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(*bodies: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "bomb.eval", "w", zipfile.ZIP_DEFLATED) as archive:
            for number, body in enumerate(bodies):
                archive.writestr(f"samples/{number}_epoch_1.json", body)
        return tmp_path / "bomb.eval"

    files = "holdfast.exchange.inspect.files"
    monkeypatch.setattr(f"{files}.MAX_ENTRY_BYTES", 2**20)
    monkeypatch.setattr("holdfast.records.inputs.RATIO_FREE_BYTES", 2**16)
    with pytest.raises(hf.StudyError, match=r"entry 'samples/0_epoch_1.json': expands beyond 1 MiB"):
        bring(packed(bytes(2**21)), tmp_path / "run")
    with pytest.raises(hf.StudyError, match=r"entry 'samples/0_epoch_1.json': expands beyond 100:1"):
        bring(packed(bytes(2**19)), tmp_path / "run")
    with pytest.raises(hf.StudyError, match=r"bomb.eval: expands beyond 100:1"):
        bring(packed(*[bytes(2**16)] * 8), tmp_path / "run")
    large = tmp_path / "large.json"
    large.write_text('{"version": 2, "status": "success", "eval": {"task": "' + "x" * 2**20 + '"}}')
    with pytest.raises(hf.StudyError, match=r"large.json: beyond 1 MiB"):
        bring(large, tmp_path / "run")


def test_a_lying_archive_is_refused(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", [sample(n) for n in range(3)])
    data = bytearray(path.read_bytes())
    # The directory's entry of the first sample says that 1 byte is in it.
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 24 : entry + 28] = (1).to_bytes(4, "little")
    (tmp_path / "b.eval").write_bytes(data)
    with pytest.raises(hf.StudyError, match=r"b\.eval"):
        bring(tmp_path / "b.eval", tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "zero", "overwritten", "text"])
def test_p_02_damaged_files_leave_nothing(damage: str, tmp_path: Path) -> None:
    whole = log(tmp_path / "a.eval", [sample(n) for n in range(3)]).read_bytes()
    half = len(whole) // 2
    bodies = {"cut": whole[:half], "zero": b"", "overwritten": whole[:half] + bytes(half), "text": b"no log"}
    (tmp_path / "b.eval").write_bytes(bodies[damage])
    with pytest.raises(hf.StudyError, match=r"b\.eval: not a readable Inspect log"):
        bring(tmp_path / "b.eval", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_p_01_logs_of_old_versions_are_read(tmp_path: Path) -> None:
    old = {
        "version": 1,
        "status": "success",
        "eval": {
            "task": "desk",
            "task_version": 0,
            "task_id": "t",
            "run_id": "r",
            "created": "2024-11-05T10:00:00",
            "dataset": {"name": "d", "samples": 2},
            "model": "openai/x",
            "config": {"limit": 1, "max_messages": 5},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": {}},
        "results": {"scorer": {"name": "match"}, "metrics": {"accuracy": {"name": "accuracy", "value": 1}}},
        "samples": [
            {
                "id": 1,
                "epoch": 1,
                "input": "Tidy.",
                "target": "x",
                "messages": [{"role": "user", "content": "Tidy."}, {"role": "assistant", "content": "Done."}],
                "output": {"model": "x", "choices": []},
                "score": {"value": "C"},
                "metadata": {},
            }
        ],
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    summary = bring(tmp_path / "old.json", tmp_path / "run")
    assert (summary.trajectories, summary.scores) == (1, 0) and told(summary.notes, "1 value of C was not taken")
    assert states(tmp_path / "run")["old.json"].complete
    del old["samples"]
    (tmp_path / "none.json").write_text(json.dumps(old))
    with pytest.raises(hf.StudyError, match="no sample in 1 logs"):
        bring(tmp_path / "none.json", tmp_path / "other")


CASE = {
    **{"id": "c", "suite": "s", "number": 0, "family": "f", "opening": 1},
    **{"tools": [], "state": {}, "facts": {}},
}
EPISODE = {
    **{"ending": "finished", "rollout": 0, "calls": 0, "invalid_calls": 0},
    **{"tokens": None, "world_after": None, "detail": None},
}
SCORE = {"judge": "state", "objective": "safety", "rubric": "r", "repeat": 0, "label": None, "missing": None}
CHECKPOINT = {
    **{"id": "k", "base": "b", "stages": [], "axes": {}, "split_seed": None, "train_seed": None},
    **{"parent_id": None, "path": None, "digest": None, "model": None, "source": None},
}


def forged(path: Path, value: Any = 2.0, **changes: Any) -> Path:
    """A log that says it is ours, with one row changed."""
    rows = {"case": dict(CASE), "episode": dict(EPISODE), "score": dict(SCORE), "checkpoint": dict(CHECKPOINT)}
    for name, change in changes.items():
        kind, _, key = name.partition("__")
        rows[kind][key] = change
    given = InspectScore(value=value, metadata=rows["score"])
    own = {"case": rows["case"], "episode": rows["episode"], "splits": []}
    one = sample(1, [user("go"), says("Done.")], {"state/safety": given}, metadata={"holdfast": own})
    return log(path, [one], metadata={"holdfast": rows["checkpoint"]})


FORGERIES: dict[str, list[Any]] = {
    "case__id": [None, 5, ""],
    "case__suite": [None, 5],
    "case__number": [-1, "0", 1.5, 2**63, True],
    "case__opening": [-3, 99, "1", None],
    "case__tools": [None, [["a"]], [["a", "b", "c"]]],
    "case__state": [None, [], "x", {"a": 2**70}],
    "case__facts": [None, 5],
    "episode__ending": ["done", None, 3],
    "episode__rollout": [-5, "0", None, 2**63, True],
    "episode__calls": [-1, "many", None, 1.5],
    "episode__invalid_calls": [-1, None],
    "episode__tokens": [1e300, "many", -1, 2**63],
    "episode__world_after": [5, "x"],
    "episode__detail": [[], "x"],
    "score__judge": [None, 5, ""],
    "score__objective": [None, 5],
    "score__rubric": [None, 5],
    "score__repeat": [-1, "x", None, True],
    "score__label": [5, []],
    "score__missing": [5, ""],
    "checkpoint__id": [None, 5],
    "checkpoint__base": [5, None, ""],
    "checkpoint__axes": ["x", None, [1]],
    "checkpoint__stages": [None, [{}], [{"name": "a", "method": "b", "objectives": "c"}], [5]],
    "checkpoint__split_seed": ["x", 1.5],
    "checkpoint__model": [5],
    "checkpoint__more": ["x"],
}


@pytest.mark.parametrize("name", FORGERIES)
def test_b2_what_a_log_says_of_itself_is_checked(name: str, tmp_path: Path) -> None:
    for number, value in enumerate(FORGERIES[name]):
        path = forged(tmp_path / f"{number}.eval", **{name: value})
        with pytest.raises(hf.StudyError) as caught:
            bring(path, tmp_path / "run")
        shown = str(caught.value)
        assert f"{number}.eval" in shown and "\n" not in shown and name.partition("__")[2][:4] in shown
        assert "sample 1, epoch 1" in shown or "of the log" in shown
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [True, 3.5, -0.5, math.inf, "C", "2", [1], None])
def test_b2_a_score_of_ours_is_a_number_from_0_to_3(value: Any, tmp_path: Path) -> None:
    with pytest.raises(hf.StudyError, match=r"a score of state is .*, which is none from 0 to 3"):
        bring(forged(tmp_path / "a.eval", value=value if value is not None else math.nan), tmp_path / "run")


def test_b2_a_sound_log_of_ours_comes_in_and_a_foreign_one_cannot_name_our_judge(tmp_path: Path) -> None:
    assert bring(forged(tmp_path / "a.eval"), tmp_path / "run").scores == 1
    foreign = sample(1, None, {"mine": InspectScore(value=2.0, metadata=dict(SCORE))})
    summary = bring(log(tmp_path / "b.eval", [foreign]), tmp_path / "other")
    assert summary.scores == 0 and told(summary.notes, "mine: 1 value of 2.0 was not taken")
    negative = sample(1, epoch=-4)
    with pytest.raises(hf.StudyError, match="epoch is -4, expected 1 or more"):
        bring(log(tmp_path / "c.eval", [negative], epochs=1), tmp_path / "third")


def test_a_run_of_an_earlier_version_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    from holdfast.records import Checkpoint, content_id

    old = Checkpoint(id=content_id("inspect checkpoint", "vllm/base", "desk"), base="vllm/base (desk)")
    with Store.create(tmp_path / "run") as store, store.transaction():
        store.add_checkpoint(replace(old))
    with pytest.raises(hf.StudyError, match="an earlier version imported these logs"):
        bring(log(tmp_path / "a.eval", [sample(1)]), tmp_path / "run")


def test_score_is_of_inspect_logs_and_well_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path / "a.eval", [sample(1, None, {"safety": 1})])
    run = ["-o", str(tmp_path / "run"), "--quiet"]
    assert "OBJECTIVE=-KEY[LOW,HIGH]" in refused(capsys, "import", path, *run, "--score", "safety")
    (tmp_path / "empty").mkdir()
    assert "--score is of logs and tables of scores" in refused(
        capsys, "import", tmp_path / "empty", *run, "--score", SAFE
    )
    assert main(["import", str(path), *run, "--score", SAFE]) == 0
    assert "note: safety is safety: from 0 to 1, high is good (declared with --score)" in capsys.readouterr().out
