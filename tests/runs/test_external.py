"""Checkpoints that training elsewhere left behind, in a run: opened where they are, held whole, without a recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.commands import asked, refused
from builders.external_samples import external_study, take_out
from builders.smoke_study import write_toml

from holdfast.analysis.document import document
from holdfast.cli.main import main
from holdfast.records.errors import StoreError
from holdfast.runs.build import build
from holdfast.runs.run import run
from holdfast.runs.steps.reading import weights_of
from holdfast.store import Store
from holdfast.study.study import load

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def models(smoke_run: Path, tmp_path: Path) -> Path:
    return take_out(smoke_run, tmp_path / "models")


@pytest.fixture(scope="module")
def finished(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three splits, with a stage trained here on one that was trained elsewhere."""
    root = tmp_path_factory.mktemp("external")
    own = {"objective": "safety", "steps": 1, "learning_rate": 3e-4, "pairs_per_step": 4}
    settings = external_study(take_out(smoke_run, root / "models"), P=own)
    settings["study"] |= {"lineages": [["S"], ["S", "H"], ["K"], ["S", "P"]]}
    settings["axes"] = {"split_seed": [0, 1, 2]}
    settings["suite"]["train_cases"] = 16
    run(load(write_toml(settings, root / "study.toml")), root / "run", workers=1)
    return root / "run"


def test_seeds_and_splits_share_what_was_trained_once(finished: Path) -> None:
    with Store(finished) as store:
        checkpoints = [one for one in store.checkpoints() if one.lineage in (("S",), ("S", "H"), ("K",))]
        steps = [one for one in store.log.steps().values() if one.name.startswith("open ")]
    assert [(one.lineage, one.axes) for one in checkpoints] == [
        (("K",), {"dose": 1}),
        (("K",), {"dose": 2.5}),
        (("S",), {"dose": 1}),
        (("S", "H"), {"dose": 1}),
    ]
    assert all(one.train_seed is None and one.split_seed is None and one.path is None for one in checkpoints)
    assert [one.stages[-1].steps for one in checkpoints] == [10, 25, None, None]
    assert len(steps) == 4  # the base's too


def test_nothing_is_claimed_of_a_recipe_that_no_seed_repeats(finished: Path) -> None:
    found = json.loads((finished / "analysis.json").read_text())
    once = (["S"], ["S", "H"], ["K"])
    rows = [row for section in found.values() for row in section if isinstance(row, dict) and "claim" in row]
    about = [row for row in rows if row.get("lineage") in once and row["interval"] is not None]
    assert len(about) > 20 and {row["claim"] for row in about} == {"checkpoint"}
    assert not [row for row in about if "seeds" in row["resampled"]]
    trained = [row for row in rows if row.get("lineage") == ["S", "P"] and row["estimator"] == "pooled"]
    assert "recipe" in {row["claim"] for row in trained}  # of the stage that was trained here, on the one that was not
    assert any("were trained elsewhere, once" in note for note in found["notes"])
    assert any("held-out cases may be among it" in note for note in found["notes"])


def test_every_lineage_has_its_persistence_and_every_edge_its_verdict(finished: Path, capsys: Captured) -> None:
    found = json.loads((finished / "analysis.json").read_text())
    kept = {(tuple(row["lineage"]), row["kind"]) for row in found["persistence"] if row["estimator"] == "pooled"}
    assert {(("S", "H"), kind) for kind in ("erosion", "retained", "persistence")} <= kept
    row = next(row for row in found["persistence"] if row["lineage"] == ["S", "H"] and row["kind"] == "retained")
    assert "H alone is not there: held against the base" in row["caveats"]
    assert "S: what it was trained for is not declared" in row["caveats"]
    # What a lineage kept is what it stands above the base by.
    deltas = {
        (tuple(one["lineage"]), one["objective"]): one["value"]
        for one in found["deltas"]
        if one["estimator"] == "pooled" and one["axes"]["dose"] == 1 and "base" not in one
    }
    assert row["value"] == pytest.approx(deltas[("S", "H"), row["objective"]])
    code, out, _ = asked(capsys, "gate", finished, "--all", "--full", "--quiet")
    assert code in (0, 1, 3)
    for parent, child in (("base", "S · dose=1"), ("S · dose=1", "S,H · dose=1"), ("base", "K · dose=2.5")):
        assert f"ours · {child} against ours · {parent}" in " ".join(out.split())


def test_the_same_models_elsewhere_are_the_same_study(models: Path, tmp_path: Path, capsys: Captured) -> None:
    study = write_toml(external_study(models), tmp_path / "study.toml")
    words = ["run", str(study), "-o", str(tmp_path / "run"), "--workers", "1", "--no-report", "--quiet"]
    assert main(words) == 0
    with Store(tmp_path / "run") as store:
        before = {one.name for one in store.log.steps().values()}
        known = next(one for one in store.checkpoints() if one.lineage == ("S",))
    (models / "S").rename(tmp_path / "moved")
    line = refused(capsys, *words)
    assert "stages.S.path: " in line
    study.write_text(study.read_text().replace(f'"{models}/S"', f'"{tmp_path}/moved"'))
    assert main(words) == 0
    with Store(tmp_path / "run") as store:
        assert {one.name for one in store.log.steps().values()} == before
        assert weights_of(store, known.id) == tmp_path / "moved"
        # What reads and writes is held, too, on every opening.
        with (tmp_path / "moved" / "generation_config.json").open("a") as file:
            file.write("\n")
        with pytest.raises(StoreError, match="holds other weights than ours · S · dose=1 had"):
            weights_of(store, known.id)
    assert "made by a different study: stages.S.digests" in refused(capsys, *words)


def cut(place: Path) -> None:
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def retell(name: str, key: str, value: object) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        told = json.loads((place / name).read_text())
        told[key] = value
        (place / name).write_text(json.dumps(told))

    return change


def drop_tokenizer(place: Path) -> None:
    (place / "tokenizer.json").unlink()


def swap_tokens(place: Path) -> None:
    told = json.loads((place / "tokenizer.json").read_text())
    words = sorted(told["model"]["vocab"], key=told["model"]["vocab"].__getitem__)[-2:]
    first, second = (told["model"]["vocab"][word] for word in words)
    told["model"]["vocab"] |= {words[0]: second, words[1]: first}
    (place / "tokenizer.json").write_text(json.dumps(told))


def copy_base(place: Path) -> None:
    shutil.copyfile(place.parent / "base" / "model.safetensors", place / "model.safetensors")


def pickle(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def run_code(place: Path) -> None:
    retell("config.json", "trust_remote_code", True)(place)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (cut, "model.safetensors: is damaged"),
    "another shape": (retell("config.json", "num_hidden_layers", 3), "stages.S.path: "),
    "no tokenizer": (drop_tokenizer, "holds no tokenizer, so that how it reads and writes is not known"),
    "another tokenizer": (swap_tokens, "another number, or none, for 2 of the"),
    "pickles": (pickle, "pickle weights (pytorch_model.bin) are not loaded; convert to safetensors"),
    "code": (run_code, "trust_remote_code"),
    "the base itself": (copy_base, "nothing was trained"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_was_not_trained_from_its_parent_is_refused_and_nothing_made(
    name: str, models: Path, tmp_path: Path, capsys: Captured
) -> None:
    damage, words = DAMAGES[name]
    study, place = write_toml(external_study(models), tmp_path / "study.toml"), models / "S"
    shutil.copytree(place, tmp_path / "whole")
    damage(place)
    for command in (["check", study], ["run", study, "-o", tmp_path / "run"]):
        line = refused(capsys, *command)
        assert words in line and str(place) in line and "stages.S.path" in line and line.count(";") >= 1
    assert not (tmp_path / "run").exists()
    shutil.rmtree(place)
    (tmp_path / "whole").rename(place)
    assert asked(capsys, "check", study)[0] == 0


def test_what_changes_under_a_run_stops_its_step_and_the_run_goes_on_when_it_is_back(
    models: Path, tmp_path: Path, capsys: Captured
) -> None:
    study = load(write_toml(external_study(models), tmp_path / "study.toml"))
    kept = (models / "S" / "generation_config.json").read_text()
    (models / "S" / "generation_config.json").write_text(kept + "\n")
    with pytest.raises(Exception, match=r"stages.S.path: .* has changed since the study was read; put it back"):
        run(study, tmp_path / "run", workers=1)
    with Store(tmp_path / "run") as store:
        assert not [one for one in store.checkpoints() if "S" in one.lineage]
    (models / "S" / "generation_config.json").write_text(kept)
    made = run(study, tmp_path / "run", workers=1)
    assert document(made.analysis())["deltas"]


def test_a_plan_opens_each_once(models: Path, tmp_path: Path) -> None:
    settings = external_study(models)
    once = build(load(write_toml(settings, tmp_path / "one.toml")))
    settings["study"]["train_seeds"] = [0, 1, 2]
    thrice = build(load(write_toml(settings, tmp_path / "three.toml")))
    assert [one.fingerprint for one in once.steps] == [one.fingerprint for one in thrice.steps]
