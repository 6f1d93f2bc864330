"""What a gate runs itself: one checkpoint anew, two models through a suite; and Inspect logs as the two sides."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders.commands import gated, refused
from builders.places import copy_run
from builders.smoke_study import smoke_settings, write_toml

import holdfast as hf
from holdfast.models.directories.stacks import digest_model
from holdfast.records import Checkpoint
from holdfast.records.errors import HoldfastError, StoreError, StudyError
from holdfast.runs.rescoring import rescore
from holdfast.runs.steps.reading import weights_of as directory_of
from holdfast.store import Store
from holdfast.study.noted import require_weights

Captured = pytest.CaptureFixture[str]
DECLARED = ("--score", "safety=+safety[0,3]")
pytestmark = [
    # Inspect leaves streams open.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def episodes(run: Path) -> dict[tuple[str, int], str]:
    """What a run's agents said in each case and rollout, for the checkpoint whose run it is."""
    with Store(run) as store:
        return {(one.case_id, one.rollout): repr((one.messages, one.world_after)) for one in store.trajectories()}


def weights_of(run: Path, lineage: Sequence[str]) -> Path:
    with Store(run) as store:
        return run / next(str(one.path) for one in store.checkpoints() if one.lineage == tuple(lineage))


def without_places(verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict but for the directories that its sides lie in."""
    sources = {side: {**one, "run": None} for side, one in verdict["sources"].items()}
    return {**verdict, "sources": sources}


# --- one checkpoint anew -----------------------------------------------------------------------------------------


def test_again_is_a_real_second_run_of_the_same_weights(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    """The same cases, other episodes; another seed gives others still; the run itself is left as it was."""
    before = (smoke_run / "run.db").read_bytes()
    first = tmp_path / "first"
    options = (smoke_run, "--child", "S", "--again", "--margin", "2.9", "--workers", "1")
    _, verdict = gated(capsys, *options, "-o", first)
    assert verdict["parent"] in verdict["child"] and "rolled out anew, seed 1" in verdict["child"]
    assert verdict["cases"] == 24 and verdict["sources"]["child"]["run"] == str(first)
    assert {one["metric"]: one["outcome"] for one in verdict["checks"]}["safety"] == "PASS"
    assert (smoke_run / "run.db").read_bytes() == before
    with Store(smoke_run) as store:
        held_out = set(store.splits()[0]["test"])
        parent = next(one for one in store.checkpoints() if one.lineage == ("S",))
        stored = {
            (one.case_id, one.rollout): repr((one.messages, one.world_after))
            for one in store.trajectories()
            if one.checkpoint_id == parent.id and one.case_id in held_out
        }
    made = episodes(first)
    assert set(made) == set(stored) and len(made) == 48
    assert sum(made[place] != stored[place] for place in made) > 0
    again = gated(capsys, *options, "-o", first)[1]
    assert again == verdict and episodes(first) == made  # nothing is rolled out twice
    second = tmp_path / "second"
    _, other = gated(capsys, *options, "--seed", "2", "-o", second)
    assert other["data"] != verdict["data"] and episodes(second) != made
    assert other["fingerprint"] != verdict["fingerprint"]
    for seed, one in ((1, verdict), (2, other)):
        assert any(f"rolled out with seed {seed}, the parent with 0" in limit for limit in one["limits"])


def test_again_needs_a_study_its_weights_and_a_place_of_its_own(
    smoke_run: Path, tmp_path: Path, capsys: Captured
) -> None:
    run = tmp_path / "run"
    copy_run(smoke_run, run)
    assert "is the run itself" in refused(capsys, "gate", run, "--child", "S", "--again", "-o", run)
    shutil.rmtree(weights_of(run, ["S"]))
    assert "its weights are not at" in refused(capsys, "gate", run, "--child", "S", "--again", "-o", tmp_path / "new")
    words = refused(capsys, "gate", run, "--child", "H", "--again", "--judge", "outsider", "-o", tmp_path / "new")
    assert "--judge 'outsider'" in words and "which are state" in words  # before anything is rolled out
    assert not (tmp_path / "new").exists()
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta("study", "{}")
    assert "was imported" in refused(capsys, "gate", run, "--child", "S", "--again", "-o", tmp_path / "new")


def test_a_copied_run_rolls_out_the_same_episodes(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    """Weights are named by their digest: where a run lies decides no episode and no verdict."""
    options = ("--child", "S", "--again", "--margin", "2.9", "--workers", "1")
    copy = tmp_path / "elsewhere" / "copy"
    copy_run(smoke_run, copy)
    code, verdict = gated(capsys, smoke_run, *options, "-o", tmp_path / "first")
    other_code, other = gated(capsys, copy, *options, "-o", tmp_path / "second")
    assert episodes(tmp_path / "first") == episodes(tmp_path / "second")
    assert (code, without_places(verdict)) == (other_code, without_places(other))
    # One that was rolled out goes on from the copy, and holds its weights where it lies.
    assert without_places(gated(capsys, copy, *options, "-o", tmp_path / "first")[1]) == without_places(verdict)
    held = weights_of(tmp_path / "first", [])
    assert held.parent == tmp_path / "first" / "weights" and held.name == weights_of(smoke_run, ["S"]).name


KILL = """
import os, signal, sys
from holdfast.cli import main
from holdfast.decisions.gate import running
from holdfast.runs import execution, run

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def today(*_):
    raise AssertionError("the suite's cases of today")

run.collect_cases = today
commit, left = execution._Execution._commit, [int(sys.argv[2])]

def commit_and_die(*arguments):
    commit(*arguments)
    left[0] -= 1
    if left[0] == 0:
        kill()

if sys.argv[1] == "lend":
    running.lend = kill
elif sys.argv[1] == "run":
    running.run = kill
else:
    execution._Execution._commit = commit_and_die
sys.exit(main.main(sys.argv[3:]))
"""


@pytest.mark.full
def test_a_killed_again_goes_on_with_the_runs_own_cases(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    """Killed before the new run has cases, before anything is rolled out, among the episodes, and among the scores."""
    options = ("gate", smoke_run, "--child", "S", "--again", "--margin", "2.9", "--workers", "1", "--json", "--quiet")
    code, verdict = gated(capsys, *options[1:-2], "-o", tmp_path / "through")
    place = tmp_path / "killed"

    def call(where: str, batches: int = 0) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILL, where, batches, *options, "-o", place]
        return subprocess.run([str(one) for one in words], capture_output=True, text=True, timeout=120, check=False)

    met = []
    for where, batches in (("lend", 0), ("run", 0), ("commit", 2), ("commit", 2)):
        assert call(where, batches).returncode == -signal.SIGKILL
        with Store(place) as store:
            met.append((store.counts()["cases"], store.counts()["trajectories"], store.counts()["scores"]))
    assert met[0] == (0, 0, 0) and met[1] == (24, 0, 0) and 0 < met[2][1] < 48 and met[3][2] > 0
    ended = call("commit")
    assert ended.returncode == code, ended.stderr
    assert episodes(place) == episodes(tmp_path / "through")
    assert without_places(json.loads(ended.stdout)["verdicts"][0]) == without_places(verdict)


@pytest.fixture
def opened_run(smoke_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run whose base lies outside it, and the directory of that."""
    place = shutil.copytree(weights_of(smoke_run, []), tmp_path / "mine")
    settings = smoke_settings()
    kept = {key: settings[key] for key in ("rollouts", "judges")}
    suite = {**settings["suite"], "train_cases": 1, "test_cases": 4}
    study = write_toml(
        {
            "study": {"name": "opened", "draws": 100},
            "model": {"bases": ["mine"]},
            "models": {"mine": {"kind": "tiny", "name": str(place)}},
            "suite": suite,
            **kept,
        },
        tmp_path / "opened.toml",
    )
    return hf.run(study, tmp_path / "run", workers=1).path, place


def test_a_base_that_a_run_opened_is_opened_again_with_its_own_weights_alone(
    opened_run: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    run, place = opened_run
    options = (run, "--parent", "base", "--child", "base", "--again", "--workers", "1")
    _, verdict = gated(capsys, *options, "-o", tmp_path / "new")
    assert verdict["sources"]["child"]["run"] == str(tmp_path / "new")
    with Store(run) as store:
        (base,) = store.checkpoints()
        assert directory_of(store, base.id) == place
    weights = bytearray((place / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (place / "model.safetensors").write_bytes(weights)
    told = refused(capsys, "gate", *options, "-o", tmp_path / "newer")
    assert f"{place}: holds other weights than mine" in told and not (tmp_path / "newer").exists()
    with (
        Store(run) as store,
        pytest.raises(StoreError, match="other weights than mine · base had when the run opened it"),
    ):
        directory_of(store, base.id)
    with pytest.raises(StudyError, match="the run does not note which weights were there"):
        require_weights("mine", str(place), None, [None])


def test_a_model_that_judged_in_a_run_judges_again_with_its_own_weights_alone(smoke_run: Path, tmp_path: Path) -> None:
    """A run is anybody's: a directory that it names is opened if it holds what the run says that it held."""
    place = shutil.copytree(weights_of(smoke_run, []), tmp_path / "judge")
    study = {
        "judges": {"own": {"kind": "rubric", "model": "local"}},
        "models": {"local": {"kind": "local", "name": str(place)}},
    }
    for name, digest, told in (
        ("known", digest_model(place), None),
        ("other", "0" * 64, "holds other weights than 'local'"),
        ("silent", None, "does not note which weights"),
    ):
        with Store.create(tmp_path / name) as store, store.transaction():
            store.set_meta("study", json.dumps(study))
            store.add_checkpoint(Checkpoint(id="c", base="local", model=str(place), digest=digest))
        if told is None:
            assert rescore(tmp_path / name, "own")["judged"] == 0
        else:
            with pytest.raises(HoldfastError, match=told):
                rescore(tmp_path / name, "own")
    file = tmp_path / "judges.toml"
    file.write_text(f'[models.local]\nkind = "local"\nname = "{place}"\n')
    assert rescore(tmp_path / "silent", "own", file)["judged"] == 0  # the user's own word


def test_stored_checkpoints_of_a_study_are_compared_under_its_rules(smoke_run: Path, capsys: Captured) -> None:
    code, verdict = gated(capsys, smoke_run, "--child", "S,H dose=2")
    assert code in (0, 1, 3) and verdict["sources"]["parent"]["lineage"] == ["S"]
    refusal = next(one for one in verdict["checks"] if one["metric"] == "refusal")
    assert 0 < refusal["n"]["cases"] < 24 and refusal["blocking"]
    assert "is ambiguous, 2 checkpoints" in refused(capsys, "gate", smoke_run, "--child", "S,H")


# --- two models through a suite ----------------------------------------------------------------------------------


def test_two_models_are_run_through_a_suite(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    """The base that the study makes, against the weights of one of its stages."""
    settings = smoke_settings()
    settings["suite"] = {**settings["suite"], "test_cases": 12}
    settings["gate"] = {"margin": 2.5, "blocking": ["safety"]}
    study = write_toml(settings, tmp_path / "study.toml")
    child, out = weights_of(smoke_run, ["S"]), tmp_path / "gate"
    options = ("--suite", study, "--parent", "tiny", "--child", child, "-o", out, "--workers", "1")
    code, verdict = gated(capsys, *options)
    assert code in (0, 3) and verdict["cases"] == 12 and verdict["rules"]["margin"] == 2.5
    assert verdict["sources"]["child"]["model"] == str(child.resolve())
    with Store(out) as store:
        assert {one.base for one in store.checkpoints()} == {"tiny-0", child.name}
        assert store.counts()["trajectories"] == 2 * 12 * 2
    assert gated(capsys, *options)[1] == verdict
    other = ("--suite", study, "--parent", "tiny", "--child", child, "-o", tmp_path / "other", "--judge", "outsider")
    assert "which are state" in refused(capsys, "gate", *other) and not (tmp_path / "other").exists()
    line = refused(capsys, "gate", "--suite", study, "--parent", child, "--child", child, "-o", out)
    assert "add --again" in line
    same = ("--suite", study, "--parent", child, "--child", child, "-o", tmp_path / "same", "--again", "--workers", "1")
    _, anew = gated(capsys, *same)
    assert anew["data"] and episodes(tmp_path / "same") != {}
    assert (tmp_path / "same").is_dir() and len(list(tmp_path.glob("same-again-*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--parent", "tiny", "--child", "tiny2", "-o", "out"), "is no model of the study (tiny)"),
        (("--parent", "tiny", "-o", "out"), "--suite needs"),
        (("--parent", "tiny", "--child", "no/such", "-o", "out"), "neither a directory nor among the hub's downloads"),
    ],
)
def test_wrong_models_are_told_before_anything_is_made(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study = write_toml(smoke_settings(), tmp_path / "study.toml")
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, "gate", "--suite", study, *arguments)
    assert not (tmp_path / "out").exists()


# --- Inspect logs ------------------------------------------------------------------------------------------------


def log_of(folder: Path, values: Sequence[float | None], *, name: str, **changes: Any) -> Path:
    """An Inspect log of one agent in several samples, each scored by a scorer "safety"."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalPlan, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig
    from inspect_ai.scorer import Score

    scorer = changes.get("scorer", "safety")
    samples = [
        EvalSample(
            id=number,
            epoch=1,
            input=f"errand {number}",
            target="x",
            messages=[
                ChatMessageUser(content=f"{changes.get('words', 'errand')} {number}"),
                ChatMessageAssistant(content=f"{name} did {number}"),
            ],
            scores={scorer: Score(value=float("nan") if value is None else value)},
            uuid=f"{name}-{number}",
        )
        for number, value in enumerate(values, start=changes.get("first", 1))
    ]
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task=changes.get("task", "errands"),
        dataset=EvalDataset(),
        model=changes.get("model", "mockllm/model"),
        config=EvalConfig(),
    )
    plan = EvalPlan(config=GenerateConfig(temperature=changes.get("temperature", 0.0)))
    path = folder / f"{name}.eval"
    write_eval_log(EvalLog(eval=spec, plan=plan, status="success", samples=samples), str(path))
    return path


def test_two_logs_are_paired_by_sample(tmp_path: Path, capsys: Captured) -> None:
    """Both logs are of one model name, as they are before and after a fine-tune that is served under it."""
    values = [3.0, 2.0, 3.0, 1.0] * 20
    before = log_of(tmp_path, values, name="before")
    after = log_of(tmp_path, [max(0.0, one - 2) for one in values], name="after")
    sides = ("--parent", before, "--child", after, *DECLARED)
    code, verdict = gated(capsys, *sides)
    checks = {one["metric"]: one for one in verdict["checks"]}
    assert (code, verdict["cases"], verdict["judge"]) == (1, 80, "inspect:safety")
    assert checks["safety"]["change"] == pytest.approx(-1.75) and verdict["sources"]["child"]["run"] == str(after)
    assert not checks["helpfulness"]["measured"]
    same = log_of(tmp_path, values, name="same")
    assert gated(capsys, "--parent", before, "--child", same, *DECLARED)[0] == 0
    assert "are one checkpoint" in refused(capsys, "gate", "--parent", before, "--child", before, *DECLARED)
    copy = shutil.copy(before, tmp_path / "copy.eval")
    assert "both sides are the same episodes" in refused(capsys, "gate", "--parent", before, "--child", copy, *DECLARED)


def test_logs_that_differ_in_more_than_the_agent_are_refused(tmp_path: Path, capsys: Captured) -> None:
    values = [3.0] * 9
    before = log_of(tmp_path, values, name="before")

    def against(name: str, **changes: Any) -> str:
        other = log_of(tmp_path, values, name=name, **changes)
        return refused(capsys, "gate", "--parent", before, "--child", other, *DECLARED)

    assert "3 cases only in the parent, 3 only in the child, 6 in both (first: 1, 2, 3)" in against("fewer", first=4)
    assert "generation.temperature: 0.0 → 1.0" in against("hotter", temperature=1.0)
    assert "9 cases open with other words or tools (child against parent, first: sample" in against(
        "worded", words="mission"
    )
    other = log_of(tmp_path, values, name="other", scorer="match")
    again = log_of(tmp_path, values, name="again", scorer="match")
    line = refused(capsys, "gate", "--parent", other, "--child", again)
    assert "'match' of match (9 values: 3" in line and "'safety=-match[LOW,HIGH]'" in line
    code, verdict = gated(capsys, "--parent", other, "--child", again, "--score", "safety=+match[0,3]")
    assert code == 3 and verdict["judge"] == "inspect:match" and verdict["sources"]["names"] == {"safety": "safety"}
    cut = tmp_path / "cut.eval"
    cut.write_bytes(before.read_bytes()[:200])
    assert str(cut) in refused(capsys, "gate", "--parent", before, "--child", cut)
