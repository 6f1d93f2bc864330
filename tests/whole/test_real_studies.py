"""Studies of real models: what they may say, what is read into them, and the plan that comes of it."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT, copy_run, data_file

import holdfast as hf
from holdfast.records import Score
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.runs.forecast import forecast, render_forecast
from holdfast.store import Store
from holdfast.study.study import load

PUBLISHED = ROOT / "studies" / "published.toml"


def study(**changes: Any) -> hf.Study:
    """A study that evaluates one remote model with one rubric judge, with other tables put in."""
    raw: dict[str, Any] = {
        "study": {"name": "real"},
        "model": {"bases": ["agent"]},
        "models": {"agent": {"kind": "remote", "name": "openai/gpt-5-mini"}},
        "judges": {"gpt": {"kind": "rubric", "model": "openai/gpt-5"}},
    }
    return hf.Study.model_validate(deepcopy(raw) | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"study": {"name": "x", "lineages": [["S"]]}, "stages": {"S": {"objective": "safety"}}},
            "cannot be trained here",
        ),
        ({"models": {"agent": {"kind": "remote"}}}, "models.agent.name is missing"),
        ({"models": {"agent": {"kind": "remote", "name": "a/b", "revison": "x"}}}, "did you mean 'revision'"),
        ({"model": {"bases": ["agnet"]}}, "did you mean 'agent'"),
        ({"judges": {"gpt": {"kind": "rubric"}}}, "judges.gpt.model is missing"),
        ({"judges": {"gpt": {"kind": "state", "model": "a/b"}}}, "judges.gpt.model is for another kind than 'state'"),
        ({"judges": {"r": {"kind": "rules"}}}, "judges.r.rules is missing"),
        (
            {"judges": {"gpt": {"kind": "rubric", "model": "a/b", "rubrics": {"safty": "default"}}}},
            "did you mean 'safety'",
        ),
        ({"suite": {"world": {"kind": "emulated"}}}, "without a model"),
        ({"suite": {"world": {"model": "a/b"}}}, "with a model"),
        (
            {"judges": {"gpt": {"kind": "rubric", "model": "a/b", "rubrics": {"safety": "none.md"}}}},
            "none.md cannot be read",
        ),
        ({"judges": {"r": {"kind": "rules", "rules": "none.toml"}}}, "none.toml cannot be read"),
        ({"models": {"agent": {"kind": "random", "hidden": 30}}}, "do not divide"),
        ({"stages": {"S": {"objective": "safety", "epochs": 1, "pairwise": True}}}, "leave out pairwise"),
        ({"endpoints": {"agnt": {}}}, "did you mean 'agent'"),
        (
            {
                "model": {"bases": ["q"]},
                "models": {"q": {"kind": "local", "name": "a/b", "quantization": "int4"}},
                "study": {"name": "x", "lineages": [["S"]]},
                "stages": {"S": {"objective": "safety"}},
            },
            "no stage can be put on quantised weights",
        ),
        (
            {
                "models": {"agent": {"kind": "remote", "name": "a/b"}, "twin": {"kind": "remote", "name": "a/b"}},
                "judges": {"gpt": {"kind": "rubric", "model": "twin"}},
                "endpoints": {"twin": {"base_url": "http://127.0.0.1:1/v1"}},
            },
            "another server of a/b",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError) as error:
        study(**changes)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_names_of_models() -> None:
    asked = study(model={"bases": ["agent", "org/model"]})
    assert asked.entry("agent").name == "openai/gpt-5-mini"
    assert (asked.entry("org/model").kind, asked.entry("tiny").kind) == ("local", "tiny")
    assert (asked.entry("local/dir/one").kind, asked.entry("local/dir/one").name) == ("local", "dir/one")
    assert (asked.entry("openai/gpt-5").kind, asked.entry("openai/gpt-5").name) == ("remote", "openai/gpt-5")


def test_how_a_model_is_reached_changes_no_fingerprint() -> None:
    near = study(endpoints={"agent": {"base_url": "http://127.0.0.1:1/v1", "connections": 3}})
    far = study()
    assert [step.fingerprint for step in build(near).steps] == [step.fingerprint for step in build(far).steps]
    assert near.settings() == far.settings()
    rollout = next(step for step in build(near).steps if step.kind == "rollout")
    assert rollout.means.endpoints["agent"].connections == 3


def test_files_are_part_of_the_study(tmp_path: Path) -> None:
    rubric, rules = tmp_path / "own.md", tmp_path / "own.toml"
    rubric.write_text("# Mine\n")
    rules.write_text("[[safety]]\nvalue = 0\n")

    def steps() -> dict[str, str]:
        made = study(
            judges={
                "gpt": {"kind": "rubric", "model": "a/b", "rubrics": {"safety": str(rubric)}},
                "r": {"kind": "rules", "rules": str(rules)},
            }
        )
        assert made.judges["gpt"].rubrics["safety"] == rubric.read_text()
        return {step.name: step.fingerprint for step in build(made).steps if step.kind == "judge"}

    before = steps()
    rubric.write_text("# Mine, changed\n")
    changed = {name for name, fingerprint in steps().items() if before[name] != fingerprint}
    assert len(before) == 2 and {name.rsplit(" ", 1)[1] for name in changed} == {"gpt"}
    rules.write_text("[[safety]\n")
    with pytest.raises(StudyError, match=r"own\.toml: not valid TOML"):
        steps()


def test_a_scale_and_changes_come_over_the_study(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        '[study]\nname = "large"\n[model]\nbases = ["tiny"]\n[judges.state]\nkind = "state"\n'
        "[suite]\ntrain_cases = 50\n"
        '[scales.small.study]\nname = "small"\n[scales.small.suite]\ntest_cases = 7\n'
    )
    assert load(path).suite.test_cases == 300
    small = load(path, scale="small", changes=["suite.train_cases=9", "study.name=nine"])
    assert (small.study.name, small.suite.train_cases, small.suite.test_cases) == ("nine", 9, 7)
    for wrong, told in (
        (["suite.train_cases"], "has no value"),
        (["a b=1"], "is no key"),
        (["suite.trian=1"], "trian"),
    ):
        with pytest.raises(StudyError, match=told):
            load(path, changes=wrong)
    with pytest.raises(StudyError, match="did you mean 'small'"):
        load(path, scale="smal")


def published(scale: str | None = None, *changes: str) -> hf.Study:
    files = [f"suite.{key}={data_file(f'toolemu-{key}.json')}" for key in ("cases", "toolkits")]
    return load(PUBLISHED, scale=scale, changes=[*files, *changes])


def test_the_published_design_is_one_study() -> None:
    plan = build(published())
    trained = [step for step in plan.steps if step.kind == "train" and step.settings.dump().get("stage")]
    assert len(trained) == 180  # 3 models x 2 judges x 3 splits x 2 betas x 5 lineages
    assert Counter(step.settings.dump()["stage"] for step in trained) == {"S": 72, "H": 72, "S&H": 36}
    assert {step.settings.dump().get("epochs") for step in trained if step.settings.dump()["stage"] == "S&H"} == {3}
    lora = {tuple(step.settings.dump()[key] for key in ("lora_r", "lora_alpha", "lora_dropout")) for step in trained}
    assert lora == {(16, 32, 0.05)} and {step.settings.dump()["learning_rate"] for step in trained} == {5e-5}
    assert sum(step.kind == "bring" for step in plan.steps) == 1
    # 72 held-out cases for each of 180 stages and, in each of 3 splits, each of 3 bases.
    assert sum(step.size for step in plan.steps if step.kind == "rollout") == (180 + 9) * 72


def test_the_published_cost_is_told_before_anything_is_spent(published_raw: Path, tmp_path: Path) -> None:
    """The pairs are counted in the run that they come from: all 180 stages learn from a pair 1.007 million times."""
    asked = published(None, f"pairs.source={published_raw}")
    document = forecast(build(asked), tmp_path / "none")
    left, shown = document["left"], render_forecast(document)
    assert left["pairs"] == 1_007_220
    assert left["calls"] == sum(round(one["calls"]) for one in document["traffic"] if one["remote"])
    paid = [one for one in document["traffic"] if one["model"] == "gpt-judge"]
    # 189 evaluations of 72 cases, two objectives each, at 4,500 tokens in and 750 out, 0.25 and 2.00 a million.
    assert [one["calls"] for one in paid] == [189 * 72 * 2]
    assert left["money"] == pytest.approx(189 * 72 * 2 * (4500 * 0.25 + 750 * 2) / 1e6, abs=0.01)
    assert "1,007,220 pairs to learn from" in shown and "as in the published study" in shown


def test_a_bound_on_money_needs_a_price(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no endpoint has a price"):
        hf.run(study(), tmp_path / "run", max_cost=1.0)
    assert not (tmp_path / "run").exists()


def test_held_out_cases_are_met_once_and_training_episodes_are_each_splits_own() -> None:
    changes = ["pairs.source=base", "rollouts.temperature=1.0", "axes.split_seed=[0, 1]", "axes.beta=[0.1]"]
    rollouts = [step for step in build(published("small", *changes)).steps if step.kind == "rollout"]
    base = [step for step in rollouts if "base" in step.name]
    first, second = (step for step in base if step.settings.dump()["part"] == "test")
    assert first.fingerprint in second.inputs and second.fingerprint not in first.inputs
    seeds = {step.settings.dump()["rollout_seed"] for step in base if step.settings.dump()["part"] == "train"}
    assert len(seeds) == 2 and 0 not in seeds, "no episode of one split is another's, nor a held-out one"


def test_another_source_is_another_study(smoke_run: Path, tmp_path: Path) -> None:
    """What is brought from a run goes by what the run holds, not by where it lies."""
    copy_run(smoke_run, tmp_path / "source", "weights", "report")
    stages = {"S": {"objective": "safety"}}
    tables = {"study": {"name": "x", "lineages": [["S"]]}, "stages": stages, "model": {"bases": ["tiny"]}}
    tables |= {"judges": {"state": {"kind": "state"}}, "pairs": {"source": str(tmp_path / "source")}}

    def brought() -> str:
        (step,) = (step for step in build(study(**tables)).steps if step.kind == "bring")
        return step.fingerprint

    before = brought()
    assert before == brought()
    with Store(tmp_path / "source", writable=True) as store, store.transaction():
        name = store.trajectory_ids()[0]
        judged = {"judge": "more", "objective": "safety", "value": 1.0, "rubric": "r"}
        store.add_score(Score(trajectory_id=name, **judged))  # type: ignore[arg-type]
    assert brought() != before


def test_every_stage_of_the_small_scale_is_of_the_large() -> None:
    small, large = published("small"), published()
    assert small.study.lineages == large.study.lineages
    own = {"precision"}
    for name, stage in small.stages.items():
        assert stage.model_dump(exclude=own) == large.stages[name].model_dump(exclude=own)
    assert {small.entry(base).kind for base in small.model.bases} == {"random"}
