"""``holdfast lineage``: models that training elsewhere left, each against the one before, in one command."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from builders.commands import asked, refused
from builders.external_samples import take_out
from builders.places import ROOT
from builders.smoke_study import smoke_settings, write_toml

from holdfast.runs.lineage import describe_lineage
from holdfast.store import Store
from holdfast.study.study import Study, load

Captured = pytest.CaptureFixture[str]
TINY = {"hidden": 48, "layers": 2, "heads": 2, "ffn": 96, "sft": {"demonstrations": 6000}}


@pytest.fixture(scope="module")
def models(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return take_out(smoke_run, tmp_path_factory.mktemp("lineage") / "models")


def words(models: Path, **places: str) -> list[str]:
    """The words of a command; a place is below ``models``."""
    return [f"{name}={models / place}" for name, place in places.items()]


def described(*given: str, **changed: Any) -> tuple[Study, dict[str, Any]]:
    asked_for = {"suite": "office", "judge": None, "cases": None, "name": "ours"} | changed
    study, text = describe_lineage(given, **asked_for)
    return study, tomllib.loads(text)


def test_a_lineage_ends_as_a_run_does_and_is_taken_up_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["lineage", *words(models, base="base", SFT="S", DPO="S-H"), "--cases", "6", "-o", "ours", "--quiet"]
    code, out, err = asked(capsys, *command, "--workers", "1")
    assert (code, err) == (0, "")
    ends = [line.partition(":")[0] for line in out.splitlines()[-3:]]
    assert ends == ["everything", "report", "study"] and "SFT→DPO" in out and "3 INCONCLUSIVE" in out
    assert (tmp_path / "ours" / "report" / "index.html").is_file()
    with Store(tmp_path / "ours") as store:
        steps = store.log.steps()
    # The same words find the same run, and the file in it says the same study.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert asked(capsys, *command[:-2], str(tmp_path / "ours"), "--workers", "1", "--quiet")[0] == 0
    assert asked(capsys, "run", "../ours/study.toml", "-o", "../ours", "--no-report", "--quiet") == (0, "", "")
    with Store(tmp_path / "ours") as store:
        assert store.log.steps().keys() == steps.keys()
    assert load(tmp_path / "ours" / "study.toml").study.name == "ours"
    line = refused(capsys, *command[:-2], str(tmp_path / "ours"), "--cases", "7", "--quiet")
    assert "was made by a different study: suite.test_cases: 6 → 7" in line


def test_the_study_is_short_and_says_what_was_asked(models: Path) -> None:
    study, raw = described(*words(models, base="base", SFT="S", DPO="S-H"), cases=20)
    assert raw["study"]["lineages"] == [["SFT"], ["SFT", "DPO"]]
    assert raw["models"] == {"base": {"kind": "tiny", "name": str(models / "base")}}
    assert raw["stages"]["DPO"] == {"method": "external", "path": str(models / "S-H")}
    assert study.suite.test_cases == 20 and list(study.judges) == ["state"]
    study, raw = described(*words(models, base="base", K="H/checkpoint-*"))
    assert [one.doses for one in study.stages.values()] == [(1, 2.5)]
    base = "package:with_model/a.gguf"  # a file of llama.cpp, wherever its package lies
    study, raw = described(f"base={base}", f"SFT={models / 'S'}")
    assert raw["models"] == {"base": {"kind": "local", "name": base}}


def test_suite_and_judge_are_those_that_are_named(models: Path, tmp_path: Path) -> None:
    lineage = words(models, base="base", SFT="S")
    study, raw = described(*lineage, judge="openai/some-model")
    assert raw["judges"] == {"openai/some-model": {"kind": "rubric", "model": "openai/some-model"}}
    settings = smoke_settings()
    settings["judges"]["second"] = {"kind": "state"}
    settings["gate"] = {"margin": 0.5}
    study, raw = described(*lineage, suite=str(write_toml(settings, tmp_path / "mine.toml")), judge="second")
    assert (study.suite.test_cases, study.gate.margin, list(study.judges)) == (24, 0.5, ["second"])
    assert study.study.lineages == (("SFT",),) and list(study.stages) == ["SFT"]


REFUSED: dict[str, tuple[dict[str, str], list[str], str]] = {
    "one name": ({"base": "base"}, [], "base alone is no lineage"),
    "no base": ({"SFT": "S", "DPO": "S-H"}, [], "the first model is the base; begin with base=DIR"),
    "one model twice": ({"base": "base", "SFT": "S", "DPO": "S"}, [], "SFT and DPO are one model"),
    "a name twice": ({"base": "base", "SFT": "S"}, ["SFT=x"], "SFT is named twice; give each model a name of its own"),
    "a base that is another file": ({"base": "base/config.json", "SFT": "S"}, [], "config.json: is no GGUF file"),
    "a base that is not there": ({"base": "gone", "SFT": "S"}, [], "gone: no such directory"),
    "a model that is not there": ({"base": "base", "SFT": "gone"}, [], "stages.SFT.path"),
    "a pattern without a match": ({"base": "base", "SFT": "gone-*"}, [], "gone-* matches no directory here"),
    "no place": ({"base": "base"}, ["SFT"], "'SFT' names no model; write NAME=DIR"),
    "a comma": ({"base": "base"}, ["A,B=x"], "'A,B' is no name of a stage"),
    "an unknown suite": ({"base": "base", "SFT": "S"}, ["--suite", "offic"], "did you mean 'office'?"),
    "a suite that needs more": ({"base": "base", "SFT": "S"}, ["--suite", "toolemu"], "needs more than its name"),
    "an unknown judge": ({"base": "base", "SFT": "S"}, ["--judge", "stat"], "did you mean 'state'?"),
    "no cases": ({"base": "base", "SFT": "S"}, ["--cases", "0"], "give a whole number from 1"),
    "doses before another": ({"base": "base", "K": "H/*", "D": "S"}, [], "from which of them D goes on is not said"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_lineage_is_refused_and_nothing_made(
    name: str, models: Path, tmp_path: Path, capsys: Captured
) -> None:
    places, more, told = REFUSED[name]
    line = refused(capsys, "lineage", *words(models, **places), *more, "-o", tmp_path / "ours")
    assert told in line and not list(tmp_path.iterdir())


@pytest.mark.full
def test_three_directories_that_trl_wrote_are_a_lineage(
    base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """SFT and DPO by TRL's trainers, on a tiny base: verdicts for every edge, a page, persistence."""
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(ROOT / "examples" / "lineage")
    import train

    train.make(tmp_path / "models", model=TINY, sft_steps=3, dpo_steps=3)
    del sys.modules["train"]
    command = ["lineage", *words(tmp_path / "models", base="base", SFT="sft", DPO="dpo"), "--cases", "20"]
    code, out, _ = asked(capsys, *command, "-o", tmp_path / "ours", "--quiet", "--full")
    assert code == 0 and "Persistence" in out
    told = " ".join(out.split())
    for parent, child in (("base", "SFT · dose=1"), ("base", "SFT,DPO · dose=1"), ("SFT · dose=1", "SFT,DPO · dose=1")):
        assert f"base · {child} against base · {parent} on 20 cases" in told
    assert "SFT→DPO − base" in told and "were trained elsewhere, once" in told
    assert (tmp_path / "ours" / "report" / "index.html").is_file()
