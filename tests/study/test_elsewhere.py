"""Checkpoints that training elsewhere left behind, as a study finds them: which, in which order, at which doses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_office as office

from holdfast.models.directories.stacks import digest_opened
from holdfast.records.errors import StudyError
from holdfast.study.elsewhere import read_external
from holdfast.study.stages import ExternalSection
from holdfast.study.study import Study, without_places


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return office.make_model(tmp_path_factory.mktemp("model") / "m", hidden=8, layers=1, heads=1, ffn=8)


def put(model: Path, *places: Path, **steps: int) -> None:
    """The same model at several places, each with weights of its own; ``steps`` as a trainer notes them, by name."""
    for number, place in enumerate(places):
        place.mkdir(parents=True)
        for file in model.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        with (place / "generation_config.json").open("a") as file:
            file.write("\n" * number)
        if place.name in steps:
            (place / "trainer_state.json").write_text(json.dumps({"global_step": steps[place.name]}))


def read(path: str, **more: Any) -> ExternalSection:
    return ExternalSection.model_validate(read_external("X", {"method": "external", "path": path, **more}))


def test_a_directory_is_one_checkpoint_and_may_say_its_steps(model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "out", tmp_path / "checkpoint-30", tmp_path / "qwen-2", tmp_path / "noted", noted=7)
    found = read(str(tmp_path / "out"))
    assert (found.places, found.doses, found.counted) == ((str(tmp_path / "out"),), (1,), (None,))
    assert found.digests == (digest_opened(tmp_path / "out"),)
    assert read(str(tmp_path / "checkpoint-30")).counted == (30,)
    assert read(str(tmp_path / "qwen-2")).counted == (None,)  # the number of a version
    assert read(str(tmp_path / "noted")).counted == (7,)
    assert read(str(tmp_path / "out"), steps=4).counted == (4,)


def test_several_are_doses_in_the_order_of_their_steps(model: Path, tmp_path: Path) -> None:
    put(model, *(tmp_path / f"checkpoint-{steps}" for steps in (100, 20, 30)))
    found = read(f"{tmp_path}/checkpoint-*")
    assert [Path(one).name for one in found.places] == ["checkpoint-20", "checkpoint-30", "checkpoint-100"]
    assert found.counted == (20, 30, 100) and found.doses == (1, 1.5, 5)
    assert found.digests == tuple(digest_opened(Path(one)) for one in found.places)


def test_what_the_trainer_noted_goes_before_the_name(model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "run-1", tmp_path / "run-2", **{"run-1": 60, "run-2": 20})
    assert [Path(one).name for one in read(f"{tmp_path}/run-*").places] == ["run-2", "run-1"]


def test_the_number_may_stand_in_a_folder_above(model: Path, tmp_path: Path) -> None:
    put(model, *(tmp_path / f"global_step_{steps}" / "actor" / "huggingface2" for steps in (5, 10)))
    assert read(f"{tmp_path}/global_step_*/actor/huggingface2").counted == (5, 10)


def test_steps_may_be_given_in_the_order_of_names(model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "early", tmp_path / "late")
    assert read(f"{tmp_path}/*", steps=[40, 80]).doses == (1, 2)


REFUSED: dict[str, tuple[tuple[str, ...], str, dict[str, Any], str]] = {
    "nothing matches": ((), "checkpoint-*", {}, "matches no directory here; check the path"),
    "no number": (("early", "late"), "*", {}, "how many steps .*early has is told by no number in its name"),
    "two at one step": (("checkpoint-3", "model-3"), "*-3", {}, "have made 3 steps alike"),
    "no step yet": (("checkpoint-0", "checkpoint-3"), "checkpoint-*", {}, "checkpoint-0 has made no step"),
    "one number for two": (("a", "b"), "*", {"steps": [3]}, r"X.steps has 1 number for 2 checkpoints"),
    "revisions of a directory": (("a",), "a", {"revisions": ["main"]}, "is a directory, which has no revisions"),
    "revisions of a pattern": (("a",), "*", {"revisions": ["main"]}, "is a pattern, which has no revisions"),
    "a folder of checkpoints": (("out/checkpoint-1",), "out", {}, "holds no model .*; name one of those in it"),
    "another digest": (("a",), "a", {"digests": ["0" * 64]}, "holds another model than stages.X.digests says; put"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_row_of_checkpoints_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    places, path, more, words = REFUSED[name]
    put(model, *(tmp_path / one for one in places))
    with pytest.raises(StudyError, match=words) as error:
        read(f"{tmp_path}/{path}", **more)
    assert str(error.value).startswith("stages.X.")


def test_a_pipe_is_never_waited_for_and_a_file_is_told_as_one(model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "checkpoint-4")
    os.mkfifo(tmp_path / "checkpoint-4" / "trainer_state.json")
    assert read(str(tmp_path / "checkpoint-4")).counted == (4,)
    with pytest.raises(StudyError, match=r"stages.X.path: model .*model.safetensors: is a file; name the directory"):
        read(str(tmp_path / "checkpoint-4" / "model.safetensors"))


def test_a_name_of_the_hub_must_be_among_the_downloads() -> None:
    with pytest.raises(
        StudyError, match=r"stages.X.path: model no/where in revision step10: no such directory, it is not in the hub's"
    ):
        read("no/where", revisions=["step10"])
    with pytest.raises(StudyError, match="is named twice"):
        read("no/where", revisions=["step10", "step10"])


def external(**stages: Any) -> dict[str, Any]:
    return {
        "judges": {"state": {"kind": "state"}},
        "stages": {n: {"method": "external", **s} for n, s in stages.items()},
    }


def test_the_place_is_no_part_of_the_study_and_what_lies_there_is(model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "a", tmp_path / "c")
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    raw = {"study": {"name": "s", "lineages": [["X"]]}, "model": {"bases": ["tiny"]}}
    studies = [Study.model_validate({**raw, **external(X={"path": str(tmp_path / one)})}) for one in "abc"]
    first, moved, other = (without_places(one.settings()) for one in studies)
    assert first == moved != other


def test_a_data_file_may_be_moved_as_well() -> None:
    settings = {"stages": {"D": {"method": "sft", "data": "a.jsonl", "digest": "d"}, "S": {"data": None}}, "axes": {}}
    moved = {**settings, "stages": {**settings["stages"], "D": {"method": "sft", "data": "b.jsonl", "digest": "d"}}}
    other = {**settings, "stages": {**settings["stages"], "D": {"method": "sft", "data": "a.jsonl", "digest": "e"}}}
    assert without_places(settings) == without_places(moved) != without_places(other)


STANDING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "after two others": (
        {"lineages": [["X"], ["Y"], ["Y", "X"]]},
        {},
        "stages.X stands after Y and after the base, and its weights were trained from one of them",
    ),
    "on two bases": ({"lineages": [["X"]]}, {"model": {"base_seeds": [0, 1]}}, "stages.X was trained from one base"),
    "on an axis": ({"lineages": [["X"]]}, {"axes": {"beta": [0.1, 0.2]}}, "axes.beta: stages.X was trained elsewhere"),
    "of several trainings": (
        {"lineages": [["S"], ["S", "X"]], "train_seeds": [0, 1]},
        {},
        "stages.X was trained from one checkpoint of S, which is trained here several times",
    ),
    "merged over seeds": (
        {"lineages": [["X"], ["Y"]], "train_seeds": [0, 1]},
        {"merges": {"M": {"of": [["X"], ["Y"]]}}},
        "merges.M is of a stage that was trained elsewhere, once",
    ),
    "one model twice": ({"lineages": [["X"], ["Z"]]}, {}, "stages.Z.path: a model that stages.X has already"),
    "doses": ({"lineages": [["X"]]}, {"doses": {"X": [1, 2]}}, "its last stage is of method 'external'"),
    "an unknown objective": ({"lineages": [["X"]]}, {"goal": "safty"}, "stages.X.objective is 'safty'"),
}


@pytest.mark.parametrize("name", STANDING)
def test_where_a_checkpoint_cannot_stand_is_told(name: str, model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "x", tmp_path / "y")
    section, more, words = STANDING[name]
    places = {"X": "x", "Y": "y"} | ({"Z": "x"} if name == "one model twice" else {})
    raw = external(**{stage: {"path": str(tmp_path / place)} for stage, place in places.items()})
    raw["stages"]["S"] = {"objective": "safety"}
    if "goal" in more:
        raw["stages"]["X"]["objective"] = more["goal"]
    changes = {key: value for key, value in more.items() if key != "goal"}
    with pytest.raises(StudyError, match=words.replace("(", r"\(")):
        Study.model_validate({"study": {"name": "s", **section}, **raw, **changes})


def test_what_another_stage_goes_on_from_is_one_checkpoint(model: Path, tmp_path: Path) -> None:
    put(model, tmp_path / "c-1", tmp_path / "c-2", tmp_path / "y")
    raw = external(X={"path": f"{tmp_path}/c-*"}, Y={"path": str(tmp_path / "y")})
    with pytest.raises(StudyError, match="holds 2 checkpoints, and from which of them Y goes on is not said"):
        Study.model_validate({"study": {"name": "s", "lineages": [["X"], ["X", "Y"]]}, **raw})
