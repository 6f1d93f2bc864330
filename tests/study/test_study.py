"""Studies: what is accepted. What is refused stands in tests/whole/test_refusals.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT
from builders.sample_studies import changed

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


@pytest.mark.parametrize(("beta", "words"), [(float("nan"), "stages.S.beta"), ("much", "stages.S.beta")])
def test_a_bad_study_in_python_is_refused_as_its_file_is(beta: Any, words: str) -> None:
    """What files are refused for stands in tests/whole/test_refusals.py; no file holds the first of these."""
    with pytest.raises(hf.StudyError, match=words) as caught:
        hf.Study.model_validate(changed(small(), {"stages/S/beta": beta}))
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
