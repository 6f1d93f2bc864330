"""Runs of one study with other seeds, joined: the run of all seeds to the byte, or one line and nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sqlite3
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.approval_study import miniature
from builders.commands import Captured, asked, refused
from builders.digest_samples import make_unsealed
from builders.places import STUDIES, copy_run
from builders.smoke_study import smoke_settings

import holdfast as hf
from holdfast.exchange.exports import export_run
from holdfast.models.remote.ledger import Ledger, read_spending
from holdfast.runs.build import build
from holdfast.runs.run import begin, fork_run
from holdfast.store import DATABASE, Store
from holdfast.store.checking import reseal
from holdfast.store.codec import trajectory_to_bytes
from holdfast.store.database import WriteLock
from holdfast.store.joined import read_joined
from holdfast.store.places import LEDGER
from holdfast.store.steplog import PLAN_KEY

TRAIN, BASE, SPLIT = "study.train_seeds", "model.base_seeds", "axes.split_seed"


def short() -> dict[str, Any]:
    """The smallest study with two stages, on the base of the small study."""
    raw = smoke_settings()
    raw["study"] |= {"lineages": [["S"], ["S", "H"]], "draws": 100}
    raw["suite"] |= {"test_cases": 12}
    raw["rollouts"] |= {"per_test_case": 1}
    for stage in ("S", "H"):
        raw["stages"][stage] |= {"steps": 2, "pairs_per_step": 4}
    return raw


def study(*seeds: int) -> hf.Study:
    return with_seeds(short(), {TRAIN: seeds})


def with_seeds(raw: dict[str, Any], seeds: dict[str, Sequence[int]]) -> hf.Study:
    for key, values in seeds.items():
        table, name = key.split(".")
        raw.setdefault(table, {})[name] = values
    return hf.Study.model_validate(raw)


@pytest.fixture(scope="module")
def root(base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two seeds, one of both, and what joining gives; to be read only."""
    found = tmp_path_factory.mktemp("joining")
    for name, seeds in {"zero": (0,), "one": (1,), "all": (0, 1)}.items():
        hf.run(study(*seeds), found / name, workers=1)
    hf.join([found / "zero", found / "one"], found / "joined")
    return found


@pytest.fixture
def one(root: Path, tmp_path: Path) -> Path:
    """A copy of the run of seed 1, to be changed."""
    return copy_run(root / "one", tmp_path / "one")


def rewrite(path: Path, *statements: str) -> None:
    """Change a run as if it had been written so."""
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as db:
        for statement in statements:
            db.execute(statement)
        reseal(db)
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def unfinish(path: Path, target: Path, steps: Callable[[str], bool]) -> None:
    """A copy of a run without the steps whose names are chosen."""
    made = study(1)
    plan = build(made)
    fork_run(path, target, replace(plan, steps=tuple(one for one in plan.steps if not steps(one.name))))
    begin(made, target)


async def call(ledger: Ledger, key: bytes, answer: str) -> None:
    """A call that was paid for."""
    await ledger.intend(key, "judge", "some/model")
    await ledger.settle(key, answer, "served", tokens=(10, 3), cost=0.5, seconds=0.25, attempts=1)


def words(runs: Sequence[Path], output: Path, *more: object) -> list[object]:
    return ["join", *runs, "-o", output, "--quiet", *more]


def test_the_joined_run_is_the_run_of_all_seeds(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined, whole = root / "joined", root / "all"
    assert (joined / "analysis.json").read_bytes() == (whole / "analysis.json").read_bytes()
    with Store(joined) as store, Store(whole) as other:
        assert store.meta(PLAN_KEY) == other.meta(PLAN_KEY) and store.meta("study") == other.meta("study")
        assert store.counts() == other.counts() and store.case_ids() == other.case_ids()
        assert store.splits() == other.splits() and store.checkpoints() == other.checkpoints()
        mine, theirs = store.log.steps(), other.log.steps()
        assert [(key, row.kind, row.name, row.status) for key, row in mine.items()] == [
            (key, row.kind, row.name, row.status) for key, row in theirs.items()
        ]
        for key, row in mine.items():
            assert store.pairs(key) == other.pairs(key) and store.logprobs(key) == other.logprobs(key)
            assert store.log.batches(key) == other.log.batches(key), row.name
    for path in (joined, whole):
        export_run(path, "jsonl", tmp_path / path.name)
    for name in ("trajectories", "scores", "cases", "checkpoints"):
        files = [tmp_path / path.name / f"{name}.jsonl" for path in (joined, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()
    again = copy_run(joined, tmp_path / "again")

    def refuse(*_: Any) -> None:
        raise AssertionError("a finished step was carried out again")

    monkeypatch.setattr("holdfast.runs.engines.opening.carry_out", refuse)
    before = (again / "analysis.json").stat().st_mtime_ns
    hf.run(study(0, 1), again, workers=1)
    assert (again / "analysis.json").stat().st_mtime_ns == before


def test_the_order_of_the_runs_changes_nothing(root: Path, tmp_path: Path) -> None:
    made = hf.join([root / "one", root / "zero"], tmp_path / "turned", weights=False)
    assert (made.path / "analysis.json").read_bytes() == (root / "all" / "analysis.json").read_bytes()


def test_it_says_what_it_was_joined_of(root: Path, capsys: Captured) -> None:
    with Store(root / "joined") as store:
        joined = read_joined(store)
        assert joined is not None and not joined.notes and joined.shared is None
        zero, one = joined.sources
    with Store(root / "one") as store:
        assert one.digest == store.digest() and one.seeds["study.train_seeds"] == [1]
    assert one.equal == 3 and one.taken == zero.taken - 3 and one.cpu_seconds > 0 and not one.left
    assert one.machines[0]["holdfast"] == hf.__version__ and "numpy" in one.machines[0]
    code, out, err = asked(capsys, "show", root / "joined")
    told = " ".join(out.split())
    assert (code, err) == (0, "") and f"Joined of 2 runs: {root / 'zero'} · study.train_seeds 0" in told
    assert "3 equal to another run's" in told and f"holdfast {hf.__version__}" in told


def test_a_run_without_weights_joins(root: Path, one: Path, tmp_path: Path, capsys: Captured) -> None:
    shutil.rmtree(one / "weights")
    code, out, err = asked(capsys, *words([root / "zero", one], tmp_path / "joined"))
    assert code == 0 and f"{tmp_path / 'joined'}: joined of 2 runs: 7 checkpoints" in out
    assert err == "note: 3 checkpoints without weights: no run holds them, or they were left out\n"
    assert (tmp_path / "joined" / "analysis.json").read_bytes() == (root / "all" / "analysis.json").read_bytes()
    assert len(list((tmp_path / "joined" / "weights").iterdir())) == 4
    assert "gone, and not held" in asked(capsys, "show", tmp_path / "joined", "--digest")[2]


ROLLED_OUT = "kind = 'rollout' AND name LIKE 'roll out tiny-0 · S · %on test cases'"


def test_a_run_that_is_not_finished_joins_when_it_is_asked_for(root: Path, tmp_path: Path, capsys: Captured) -> None:
    unfinish(root / "one", tmp_path / "half", lambda name: "S,H" in name)
    runs = [root / "zero", tmp_path / "half"]
    told = refused(capsys, *words(runs, tmp_path / "joined"))
    assert (
        f"{tmp_path / 'half'}: 5 of 17 steps" in told and "train tiny-0 · S,H · seed 1" in told and "--partial" in told
    )
    said: list[str] = []
    hf.join(runs, tmp_path / "joined", partial=True, tell=said.append)
    assert len(said) == 1 and said[0].startswith(
        "5 steps of the study are not done (first: train tiny-0 · S,H · seed 1)"
    )
    made = hf.run(study(0, 1), tmp_path / "joined", workers=1)
    assert (made.path / "analysis.json").read_bytes() == (root / "all" / "analysis.json").read_bytes()
    # A step that was broken off goes on behind its last batch, wherever that was committed.
    broken = f"{ROLLED_OUT} OR name = 'judge tiny-0 · base on test cases by state'"
    rewrite(tmp_path / "half", f"UPDATE steps SET status = 'running', result = NULL WHERE {broken}")
    hf.join(runs, tmp_path / "broken", partial=True, tell=said.append)
    assert said[-1].startswith("6 steps of the study are not done (first: roll out tiny-0 · S · dose=1")
    with Store(tmp_path / "broken") as store, Store(root / "all") as whole:
        joined = read_joined(store)
        assert joined is not None and [(one.begun, one.equal) for one in joined.sources] == [(0, 0), (1, 2)]
        (name,) = (name for name, step in store.log.steps().items() if step.status == "running")
        assert store.log.batches(name) == whole.log.batches(name) != set()
    made = hf.run(study(0, 1), tmp_path / "broken", workers=1)
    assert (made.path / "analysis.json").read_bytes() == (root / "all" / "analysis.json").read_bytes()
    hf.join(runs, tmp_path / "light", partial=True, weights=False, tell=said.append)
    assert said[-1] == "6 steps of these cannot be done: the weights that they start from are gone"
    with pytest.raises(hf.StepError, match="its weights are not at"):
        hf.run(study(0, 1), tmp_path / "light", workers=1)


BASE_SCORES = (
    "SELECT s.trajectory FROM scores s JOIN trajectories t ON t.key = s.trajectory JOIN checkpoints c"
    " ON c.key = t.checkpoint JOIN splits p ON p.case_key = t.case_key"
    " WHERE p.part = 'test' AND json_extract(CAST(c.body AS TEXT), '$.train_seed') IS NULL"
)


def test_shared_steps_that_differ_are_named_and_taken_from_one_run_when_it_is_named(
    root: Path, one: Path, tmp_path: Path, capsys: Captured
) -> None:
    rewrite(one, f"UPDATE scores SET value = 3 - value WHERE trajectory IN ({BASE_SCORES})")
    runs = [root / "zero", one]
    told = refused(capsys, *words(runs, tmp_path / "joined"))
    assert f"judgements of {one} differ from {root / 'zero'}'s" in told and "--shared RUN" in told
    for owner, other in (runs, runs[::-1]):
        made = hf.join(runs, tmp_path / f"of-{owner.name}", shared=owner)
        means = {}
        for path in (made.path, owner, other):
            rows = [row for row in hf.Run(path).scores() if not row["lineage"]]
            test = set(hf.Run(path).store().splits()[0]["test"])
            means[path] = [(row["trajectory"], row["value"]) for row in rows if row["case"] in test]
        assert means[made.path] == means[owner] != means[other]
        (note,) = [note for note in made.analysis().notes if note.startswith("joined of 2 runs that differ")]
        assert str(owner) in note and "judge tiny-0 · base" in note
        with made.store() as store:
            joined = read_joined(store)
            assert joined is not None and sum(joined.sources[1].left.values()) == 10 and not joined.sources[0].left
    assert (tmp_path / "of-zero" / "analysis.json").read_bytes() != (root / "all" / "analysis.json").read_bytes()


def test_nothing_is_joined_that_has_learnt_from_what_is_not_there(
    root: Path, one: Path, tmp_path: Path, capsys: Captured
) -> None:
    rewrite(one, 'UPDATE checkpoints SET body = CAST(replace(body, \'"axes":{}\', \'"axes":{"x":1}\') AS BLOB)')
    for more in ((), ("--shared", root / "zero")):
        told = refused(capsys, *words([root / "zero", one], tmp_path / "joined", *more))
        assert "was made from its own 'teach tiny-0', which differs" in told and "--fork NEW" in told


def test_rounding_alone_is_told_as_such(root: Path, one: Path, tmp_path: Path, capsys: Captured) -> None:
    with Store(one, writable=True) as store:
        test = set(store.splits()[0]["test"])
        base = next(row.id for row in store.checkpoints() if not row.stages)
        (first, *_) = [t for t in store.trajectories() if t.checkpoint_id == base and t.case_id in test and t.detail]
        noisy = replace(first, detail={**(first.detail or {}), "logprob": -0.125})
        text = trajectory_to_bytes(noisy, store.case(first.case_id).state)
        key = store.add_text(store.text_codec.pack(text))
    rewrite(one, f"UPDATE trajectories SET text = {key} WHERE id = '{first.id}'")
    told = refused(capsys, *words([root / "zero", one], tmp_path / "joined"))
    assert "1 trajectory of" in told and "differ in the last digits alone" in told
    made = hf.join([root / "zero", one], tmp_path / "joined", shared=root / "zero")
    assert made.store().trajectory(first.id).detail == first.detail


def grade(path: Path, value: float) -> None:
    """Scores of a judge that is none of the study's, as `holdfast judge` adds them."""
    rewrite(
        path,
        "INSERT INTO judges SELECT max(key) + 1, 'grader', 'safety', 'r', 0 FROM judges",
        f"INSERT INTO scores SELECT key, (SELECT max(key) FROM judges), 0, {value}, NULL, NULL, NULL, 0"
        " FROM trajectories",
    )


def test_scores_that_were_added_and_calls_that_were_paid_for_come_along(
    root: Path, one: Path, tmp_path: Path, capsys: Captured
) -> None:
    zero = copy_run(root / "zero", tmp_path / "zero")
    for path in (zero, one):
        with contextlib.closing(Ledger(path / LEDGER)) as ledger:
            asyncio.run(call(ledger, b"shared", path.name))
            asyncio.run(call(ledger, path.name.encode(), "own"))
    grade(one, 1.5)
    made = hf.join([zero, one], tmp_path / "joined")
    with Store(one) as store, Store(root / "all") as whole, made.store() as joined:
        assert joined.counts()["scores"] == whole.counts()["scores"] + store.counts()["trajectories"]
        noted = read_joined(joined)
    assert noted is not None and [(source.calls, source.cost) for source in noted.sources] == [(2, 1.0), (2, 1.0)]
    told = f"grader judged the episodes of {one} alone, of 2 runs that were joined"
    assert noted.notes == (told,) and told in made.analysis().notes
    (spent,) = read_spending(made.path / LEDGER)
    assert (spent.calls, spent.cost) == (4, 2.0)
    with contextlib.closing(Ledger(made.path / LEDGER)) as ledger:
        assert ledger.find(b"shared", "judge", "some/model") == "zero"
    grade(zero, 2.5)
    line = refused(capsys, *words([zero, one], tmp_path / "again"))
    assert f"what they share: grader: 12 judgements of {one} differ from {zero}'s" in line
    hf.join([zero, one], tmp_path / "again", shared=one, weights=False)
    base = [row["value"] for row in hf.Run(tmp_path / "again").scores() if row["judge"] == "grader"]
    assert base.count(1.5) == 12 + base.count(2.5)


def write_study(path: Path, changes: dict[str, Any], plan: bool = False) -> None:
    """Change the study that a run notes, and its plan with it if it has one of this version."""
    with Store(path, writable=True) as store:
        noted = json.loads(store.meta("study") or "")
        for table, values in changes.items():
            noted[table] = {**noted[table], **values} if values else {}
        store.set_meta("study", json.dumps(noted))
        if plan:
            steps = build(hf.Study.model_validate(noted)).steps
            store.set_meta(PLAN_KEY, json.dumps([step.fingerprint for step in steps]))


def replace_by(path: Path, source: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(source, path)


def edit(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as db:
        db.execute("UPDATE scores SET value = 3 - value")
        db.commit()


# What is done to the run of seed 1 (the second argument is where the others are), and the words of the line.
FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another study": (
        lambda one, _: write_study(one, {"study": {"draws": 101}}, plan=True),
        r"is of another study than .*zero: study.draws: 100 → 101; join runs whose studies differ in study.train_seeds",
    ),
    "another split": (
        lambda one, _: (
            rewrite(one, "DELETE FROM steps"),
            write_study(one, {"suite": {"split_seed": 3}}, plan=True),
        ),
        r"suite.split_seed: 0 → 3; .* \(splits that are to be joined stand in axes.split_seed\)",
    ),
    "another version": (
        lambda one, _: rewrite(one, "UPDATE meta SET value = '[]' WHERE key = 'plan'"),
        r"its plan, which holdfast 0.* carried out, is not the one that holdfast 0.* makes of its .*18 steps of 18",
    ),
    "a study that cannot be read": (
        lambda one, _: write_study(one, {"rollouts": {"temperatur": 1}}),
        r"its study cannot be read here: .*temperatur",
    ),
    "a search": (lambda one, _: rewrite(one, "DELETE FROM meta WHERE key = 'plan'"), "notes no plan .the run of a sea"),
    "an import": (lambda one, _: rewrite(one, "DELETE FROM meta WHERE key = 'study'"), "holds no study's run"),
    "the format before": (lambda one, _: make_unsealed(one), r"`holdfast export .* --to run -o NEW`"),
    "a gate": (
        lambda one, _: write_study(one, {"study": {"lineages": []}, "doses": {}}, plan=True),
        r"trains nothing \(a gate's own run, or an evaluation\)",
    ),
    "torn": (lambda one, _: (one / DATABASE).write_bytes((one / DATABASE).read_bytes()[:-20_000]), "run.db: "),
    "changed": (lambda one, _: edit(one), "run.db: damaged in the store"),
    "no run": (lambda one, _: shutil.rmtree(one), "no run here"),
    "a copy": (lambda one, root: replace_by(one, root / "zero"), r"is a copy of .*zero \(the same digest\)"),
    "the same seed": (
        lambda one, root: replace_by(one, root / "all"),
        r"has seeds that .*zero has too \(study.train_seeds 0, model.base_seeds 0\); join runs of other seeds",
    ),
    "steps of no study": (
        lambda one, _: rewrite(one, "INSERT INTO steps VALUES ('ab', 'judge', 'stray', 'done', '{}', 1, 2)"),
        r"holds 1 step that are not of its study \(first: stray\).*--fork NEW",
    ),
    "failed steps": (
        lambda one, _: rewrite(one, "UPDATE steps SET status = 'failed' WHERE kind = 'reference'"),
        r"2 of 17 steps are not done \(first: reference .*, failed\)",
    ),
    "other cases": (
        lambda one, _: rewrite(one, "UPDATE cases SET id = 'x' || id"),
        r"has other cases than .*zero in split 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_joined_is_told_in_one_line(fault: str, root: Path, one: Path, capsys: Captured) -> None:
    change, told = FAULTS[fault]
    change(one, root)
    line = refused(capsys, *words([root / "zero", one], one.with_name("joined")))
    assert re.search(told, line), line
    assert {path.name for path in one.parent.iterdir()} <= {"one"}


def test_words_that_name_no_runs_to_join(root: Path, one: Path, tmp_path: Path, capsys: Captured) -> None:
    zero, link = root / "zero", tmp_path / "link"
    link.symlink_to(zero)
    for runs, more, told in (
        ([zero], (), "1 run given; name two or more"),
        ([zero, zero], (), "is the same directory as"),
        ([zero, link], (), f"{link}: is the same directory as {zero}"),
        ([zero, one], ("--shared", tmp_path), "is none of the runs that are joined"),
    ):
        assert told in refused(capsys, *words(runs, tmp_path / "joined", *more))
    assert "is there already; choose another output" in refused(capsys, *words([zero, one], one))
    with contextlib.closing(WriteLock(one)):
        told = refused(capsys, *words([zero, one], tmp_path / "joined"))
        assert f"{one}: another process writes to this run (pid" in told
    assert not (tmp_path / "joined").exists()


def with_all() -> dict[str, Any]:
    """A study with a taught base, a stage on demonstrations, pressure, a shift, probes, and two judges."""
    raw = short()
    raw["study"]["lineages"] = [["S"], ["D"], ["S", "H"], ["H", "D"]]
    raw["model"]["bases"] = ["small"]
    raw["models"] = {"small": {"kind": "tiny", "start": ["D"]}}
    raw["stages"]["D"] = {"method": "sft", "steps": 3, "count": 40, "learning_rate": 1e-3}
    raw["judges"] = {"state": {"kind": "state"}, "again": {"kind": "state"}}
    raw["attacks"], raw["shifts"], raw["probes"] = {"cases": 6}, {"cases": 6}, {"items": "generated", "count": 8}
    return raw


# A study, the seeds of the runs that are joined, and those of all.
Seeds = dict[str, Sequence[int]]
KINDS: dict[str, tuple[Callable[[], dict[str, Any]], list[Seeds], Seeds]] = {
    "taught, sft, dpo, pressure, shifts, probes": (with_all, [{TRAIN: [1]}, {TRAIN: [0, 2]}], {TRAIN: [0, 1, 2]}),
    "grpo and what is trained on rewards": (miniature, [{TRAIN: [1]}, {TRAIN: [2]}], {TRAIN: [1, 2]}),
    "bases": (short, [{BASE: [0]}, {BASE: [1]}], {BASE: [0, 1]}),
    "splits and trainings": (
        short,
        [{TRAIN: [train], SPLIT: [split]} for train in (0, 1) for split in (1, 0)],
        {TRAIN: [0, 1], SPLIT: [0, 1]},
    ),
}


@pytest.mark.parametrize(
    ("name", "key"), [("quick", BASE), *((name, TRAIN) for name in ("quick", "repair", "approval-quick", "smol"))]
)
def test_the_steps_of_one_seed_are_steps_of_the_study_of_all(name: str, key: str) -> None:
    def steps(seeds: Sequence[int]) -> set[str]:
        settings = tomllib.loads((STUDIES / f"{name}.toml").read_text(encoding="utf-8"))
        settings.pop("scales", None)
        plan = build(with_seeds(settings, {key: seeds}))
        return {one.fingerprint for one in plan.steps if one.kind != "analyze"}

    assert set().union(*(steps([seed]) for seed in (0, 1, 2))) == steps([0, 1, 2])


def test_a_study_in_which_one_seed_needs_what_another_makes_is_refused(tmp_path: Path, capsys: Captured) -> None:
    runs = [tmp_path / "zero", tmp_path / "one"]
    for seed, path in enumerate(runs):
        made = with_seeds(miniature(), {BASE: [seed]})
        begin(made, path)
        with Store(path, writable=True) as store:
            store.set_meta(PLAN_KEY, json.dumps([step.fingerprint for step in build(made).steps]))
    told = refused(capsys, *words(runs, tmp_path / "joined", "--partial"))
    assert "one: " in told and "would be others in a study of all seeds" in told and "in one run" in told


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_study_is_the_run_of_all_seeds(
    kind: str, base_cache: Path, tmp_path: Path, capsys: Captured
) -> None:
    raw, parts, seeds = KINDS[kind]
    whole = hf.run(with_seeds(raw(), seeds), tmp_path / "all", workers=1).path
    runs = [
        hf.run(with_seeds(raw(), part), tmp_path / f"{number}", workers=1).path for number, part in enumerate(parts)
    ]
    if len(runs) == 4:  # two at a time, and then what that gave
        told = refused(capsys, *words([runs[0], runs[3]], tmp_path / "joined"))
        assert "not every combination of their seeds was carried out" in told
        runs = [hf.join(runs[at : at + 2], tmp_path / f"pair-{at}").path for at in (0, 2)]
    joined = hf.join(runs, tmp_path / "joined").path
    assert (joined / "analysis.json").read_bytes() == (whole / "analysis.json").read_bytes()
    for path in (joined, whole):
        export_run(path, "jsonl", tmp_path / f"{path.name}.jsonl")
    for name in ("trajectories", "scores", "cases", "checkpoints"):
        files = [tmp_path / f"{path.name}.jsonl" / f"{name}.jsonl" for path in (joined, whole)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    told = [asked(capsys, "gate", path, "--all", "--json", "--quiet") for path in (joined, whole)]
    assert told[0][0] == told[1][0] and told[0][1].replace(str(joined), str(whole)) == told[1][1]
    assert asked(capsys, "report", joined)[0] == 0
    assert asked(capsys, "export", joined, "--to", "evidence", "-o", tmp_path / "evidence")[0] == 0
    hf.run(with_seeds(raw(), seeds), joined, workers=1)
    assert (joined / "analysis.json").read_bytes() == (whole / "analysis.json").read_bytes()
