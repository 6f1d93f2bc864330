"""Studies: what is accepted, and the one line that refuses the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT

import holdfast as hf
from holdfast.study import study as studies
from holdfast.study.template import write_study

SHIPPED = sorted((ROOT / "studies").glob("*.toml"))


def small() -> dict[str, Any]:
    return {
        "study": {"name": "small", "lineages": [["S"], ["S", "H"]]},
        "judges": {"state": {"kind": "state"}},
        "stages": {"S": {"objective": "safety"}, "H": {"objective": "helpfulness"}},
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path: Path) -> None:
    # The files of ToolEmu are the user's to get; tests/whole/test_real_studies.py reads the study with them.
    changes = [f"suite.{key}={path}" for key in ("cases", "toolkits")] if path.stem == "published" else []
    assert studies.load(path, changes=changes).study.name == path.stem


def test_a_study_in_python_equals_its_file(tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    loaded = studies.load(path)
    assert hf.Study.model_validate(loaded.model_dump()) == loaded
    assert loaded.study.name == "mine"


BAD: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    (
        "unknown key",
        lambda s: s["study"].update(train_seds=[1]),
        "study.train_seds: unknown key; did you mean 'train_seeds'?",
    ),
    ("unknown stage key", lambda s: s["stages"]["S"].update(bta=1), "stages.S.bta: unknown key; did you mean 'beta'?"),
    ("unknown table", lambda s: s.update(stage={}), "stage: unknown key; did you mean 'stages'?"),
    ("missing judge", lambda s: s.pop("judges"), "judges: field required"),
    ("no judge", lambda s: s.update(judges={}), "judges: dictionary should have at least 1 item"),
    (
        "pairs by an unknown judge",
        lambda s: s.update(pairs={"judge": "stat"}),
        "pairs.judge names 'stat'.*did you mean 'state'",
    ),
    (
        "undefined stage",
        lambda s: s["study"]["lineages"].append(["S", "Q"]),
        r"study.lineages\[2\] names the stage 'Q'",
    ),
    ("empty lineage", lambda s: s["study"]["lineages"].append([]), r"study.lineages\[2\] is empty"),
    (
        "unknown objective",
        lambda s: s["stages"]["S"].update(objective="safty"),
        "stages.S.objective is 'safty'.*'safety'",
    ),
    ("unknown axis", lambda s: s.update(axes={"betta": [1]}), "axes has 'betta'.*did you mean 'beta'"),
    ("empty axis", lambda s: s.update(axes={"beta": []}), "axes.beta is empty"),
    ("axis of unknown judges", lambda s: s.update(axes={"pair_judge": ["gpt"]}), "axes.pair_judge names 'gpt'"),
    ("dose of an unknown lineage", lambda s: s.update(doses={"H,S": [1, 2]}), "doses names the lineage 'H,S'"),
    ("doses that do not rise from 1", lambda s: s.update(doses={"S,H": [2, 4]}), "must rise from 1"),
    (
        "more cases than there are numbers",
        lambda s: s.update(suite={"test_cases": 100_001}),
        "suite.test_cases: .*less than or equal to 100000, found 100001",
    ),
    (
        "more demonstrations than there are numbers",
        lambda s: s.update(model={"sft": {"demonstrations": 100_001}}),
        "model.sft.demonstrations: .*100000",
    ),
    ("greedy rollouts", lambda s: s.update(rollouts={"temperature": 0}), "rollouts.temperature is 0; give more"),
    ("one rollout", lambda s: s.update(rollouts={"per_train_case": 1}), "per_train_case is 1; give at least 2"),
    ("no objective", lambda s: s["stages"]["S"].update(objective=[]), "stages.S.objective is empty"),
    (
        "repeated objective",
        lambda s: s["stages"]["S"].update(objective=["safety", "safety"]),
        "stages.S.objective repeats a value",
    ),
    (
        "a comma in a stage's name",
        lambda s: s["stages"].update({"S,H": {"objective": "safety"}}),
        "stages.'S,H': a stage's name is not empty and has no comma",
    ),
    ("repeated base", lambda s: s.update(model={"bases": ["tiny", "tiny"]}), "model.bases repeats a value"),
    ("repeated axis value", lambda s: s.update(axes={"beta": [1, 1.0]}), "axes.beta repeats a value"),
    ("text on an axis", lambda s: s.update(axes={"beta": ["0.1"]}), "axes.beta has the text '0.1'"),
    ("wrong number on an axis", lambda s: s.update(axes={"steps": [2.5]}), "axes.steps: .*found 2.5"),
    (
        "dropout of everything",
        lambda s: s["stages"]["S"].update(lora_dropout=1),
        "stages.S.lora_dropout: .*less than 1",
    ),
    ("repeated seed", lambda s: s["study"].update(train_seeds=[1, 1]), "study.train_seeds repeats a value"),
    ("not a number", lambda s: s["stages"]["S"].update(beta=float("nan")), "stages.S.beta"),
    (
        "half of the labels wrong",
        lambda s: s["stages"]["S"].update(label_smoothing=0.5),
        "stages.S.label_smoothing: .*0.5",
    ),
    (
        "smoothed labels without a sigmoid",
        lambda s: s["stages"]["S"].update(label_smoothing=0.1, loss="ipo"),
        "stages.S.label_smoothing is 0.1, which only the loss 'sigmoid' has; found ipo; set it to 0",
    ),
    (
        "smoothed labels on an axis without a sigmoid",
        lambda s: (s["stages"]["H"].update(label_smoothing=0.1), s.update(axes={"loss": ["sigmoid", "hinge"]})),
        "stages.H.label_smoothing is 0.1, .* found sigmoid, hinge;",
    ),
    ("unknown loss", lambda s: s["stages"]["S"].update(loss="dpo"), "stages.S.loss: .*found 'dpo'"),
    ("unknown loss on an axis", lambda s: s.update(axes={"loss": ["ipo", "dpo"]}), "axes.loss: .*found 'dpo'"),
    ("a number as a loss", lambda s: s.update(axes={"loss": [1]}), "axes.loss: .*found 1"),
    (
        "tokens of steps that are not cut",
        lambda s: s["stages"]["S"].update(tokens_per_step=4000),
        "stages.S.tokens_per_step is 4000; it bounds sub-trees, set trajectories_per_case too",
    ),
    (
        "sub-trees pair by pair",
        lambda s: s["stages"]["S"].update(pairwise=True, trajectories_per_case=4),
        "stages.S.trajectories_per_case is 4, but pairwise takes pairs one by one; leave one of them out",
    ),
    (
        "tokens pair by pair",
        lambda s: s["stages"]["S"].update(pairwise=True, tokens_per_step=4),
        "stages.S.tokens_per_step is 4, but pairwise takes pairs one by one",
    ),
    (
        "one trajectory a case",
        lambda s: s["stages"]["S"].update(trajectories_per_case=1),
        "stages.S.trajectories_per_case: .*found 1",
    ),
    (
        "doses of a stage whose rate falls",
        lambda s: (s["stages"]["H"].update(schedule="cosine"), s.update(doses={"S,H": [1, 2]})),
        r"doses.'S,H' is \[1, 2\], but its last stage has schedule 'cosine', .*; use \"constant\" or the dose 1 alone",
    ),
    ("no room for a token", lambda s: s["stages"]["S"].update(token_budget=0), "stages.S.token_budget: .*found 0"),
    ("unknown precision", lambda s: s["stages"]["S"].update(precision="fp16"), "stages.S.precision: .*'fp16'"),
    ("negative decay", lambda s: s["stages"]["S"].update(weight_decay=-1), "stages.S.weight_decay: .*found -1"),
    ("negative weight", lambda s: s["stages"]["S"].update(sft_weight=-0.1), "stages.S.sft_weight: .*found -0.1"),
    ("negative steps", lambda s: s["stages"]["S"].update(steps=-1), "stages.S.steps.*found -1"),
]


@pytest.mark.parametrize(("spoil", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_studies_are_refused_in_one_line(spoil: Callable[[dict[str, Any]], object], message: str) -> None:
    study = small()
    spoil(study)
    with pytest.raises(hf.StudyError, match=message) as caught:
        hf.Study.model_validate(study)
    assert "\n" not in str(caught.value)


def test_a_schedule_is_for_whole_runs_of_a_stage() -> None:
    """A first stage's falling rate does not stand in the way of the second one's doses."""
    study = small() | {"doses": {"S,H": [1, 2], "S": [1]}}
    study["stages"]["S"] |= {"schedule": "linear", "trajectories_per_case": 4, "tokens_per_step": 900}
    assert hf.Study.model_validate(study).stages["S"].schedule == "linear"


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[study\n")
    with pytest.raises(hf.StudyError, match=r"study.toml: not valid TOML \(.*line 1"):
        studies.load(path)
    with pytest.raises(hf.StudyError, match=r"absent.toml: cannot be read"):
        studies.load(tmp_path / "absent.toml")


def test_an_existing_study_is_not_overwritten(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    path.write_text("mine")
    with pytest.raises(hf.StudyError, match="is there already"):
        write_study(tmp_path)
    assert path.read_text() == "mine"


def test_changed_keys_are_named_with_both_values() -> None:
    old, new = hf.Study.model_validate(small()), small()
    new["stages"]["S"]["beta"] = 0.2
    new["run"] = {"workers": 7}
    changed = studies.changed_keys(old.settings(), hf.Study.model_validate(new).settings())
    assert changed == ["stages.S.beta: 0.1 → 0.2"]
