"""What steps are expected to take: from settings alone, within what was measured, and corrected by what a run took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.gguf_samples import write_gguf
from builders.sample_studies import four_lineages
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from holdfast.models.directories.shape import Shape, shape_of_directory, shape_of_settings
from holdfast.models.entries import ModelEntry
from holdfast.models.hub.counting import outline
from holdfast.models.hub.gguf import read_settings
from holdfast.models.local import speed
from holdfast.models.local.speed import Speed, find_speed
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.runs.costs import seconds as paces
from holdfast.runs.costs.outlook import Outlook, time_on_clock
from holdfast.runs.costs.seconds import Expected, count_seconds
from holdfast.runs.costs.work import Work, Workload
from holdfast.runs.forecast import forecast, render_forecast
from holdfast.runs.plan.settings import AnalyzeSettings
from holdfast.runs.plan.step import Plan, Step
from holdfast.study.study import Study

SMOL = Shape(layers=30, hidden=576, ffn=1536, heads=9, key_value_heads=3, head_size=64, vocabulary=49152)
CONFIG = {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
CONFIG |= {"num_key_value_heads": 3, "vocab_size": 49152}
# Of a layer of that shape on the processor of docs/numbers.md, in 32 bits.
SPEED = Speed(read=1e-4, trained=3e-4, adapted=2e-4, step=9e-4, row=1e-4, draw=6e-4)


def real(**changes: Any) -> Plan:
    """A study of a random model of a real architecture."""
    stage = {"objective": "safety", "steps": 4, "pairs_per_step": 8, "lora_r": 4}
    study = {
        **four_lineages(),
        "model": {"bases": ["small"]},
        "models": {"small": {"kind": "random", "hidden": 64, "layers": 2}},
        "study": {"name": "real", "lineages": [["D"], ["D", "S"]]},
        "stages": {"D": {"method": "sft", "count": 48, "steps": 4, "examples_per_step": 8}, "S": stage},
        "pairs": {"source": "parent"},
    }
    for key, value in changes.items():
        place, _, name = key.partition("__")
        study["stages"][place] = {**study["stages"][place], name: value}  # type: ignore[index]
    return build(Study.model_validate(study))


def work_of(plan: Plan, name: str) -> Work:
    expected = Expected(plan, measure=False)
    (step,) = [one for one in plan.steps if one.name.startswith(name)]
    found = expected.work.of(step)
    assert found is not None
    return found


def test_a_shape_has_the_weights_of_its_model_whoever_tells_it(tmp_path: Path) -> None:
    config = CONFIG
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = {"block_count": 30, "embedding_length": 576, "feed_forward_length": 1536, "attention.head_count": 9}
    told |= {"attention.head_count_kv": 3}
    settings = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in told.items()}}
    assert shape_of_directory(tmp_path) == shape_of_settings(settings, 49152) == SMOL
    assert SMOL.stored_weights == pytest.approx(134_515_008, rel=1e-3)  # as its file counts
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config, "vocab_size": 9}))
    assert shape_of_directory(tmp_path) == SMOL
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_local_experts": 8, "num_experts_per_tok": 2}))
    experts = shape_of_directory(tmp_path)
    assert experts is not None
    assert experts.layer_weights - experts.attention_weights == 2 * 3 * 576 * 1536 < experts.stored_weights / 30
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 576, "num_hidden_layers": "many"}))
    assert shape_of_directory(tmp_path) is None


def test_a_layer_is_timed_once_and_its_time_is_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    small = Shape(layers=2, hidden=128, ffn=256, heads=4, key_value_heads=2, head_size=32, vocabulary=512)
    found = find_speed(small, "fp32", sampling=False)
    sampled = find_speed(small, "fp32", sampling=True)
    assert found is not None and sampled is not None
    assert 0 < found.read < found.trained and 0 < found.read < found.adapted
    assert sampled.row > 0 and sampled.draw > 0
    monkeypatch.setattr(speed, "_measure", None)
    assert find_speed(small, "fp32", sampling=False) == found
    other = replace(small, hidden=256)
    usual = find_speed(other, "fp32", sampling=True, measure=False)
    assert usual is not None and usual.row > 0
    with pytest.raises(TypeError):
        find_speed(other, "fp32", sampling=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert find_speed(other, "fp32", sampling=True) is None


def test_seconds_are_those_of_what_is_computed() -> None:
    def seconds(**amounts: float) -> float:
        work = Work({(sort, ""): amount for sort, amount in amounts.items()}, 256.0)  # type: ignore[misc]
        return count_seconds(work, SMOL, {"": SPEED})

    # 14,000 tokens a step in all were learnt from at 9.3 ms each, on this shape and processor.
    assert seconds(trained=1000) == pytest.approx(9.3 * 1.1, rel=0.2)
    assert seconds(trained=2000) == pytest.approx(2 * seconds(trained=1000))
    assert seconds(step=10) == pytest.approx(10 * 0.027 * 1.3 * 38 / 30, rel=0.1)
    assert seconds(row=1000) > 1000 * SPEED.draw
    long = count_seconds(Work({("trained", ""): 1000}, 8000.0), SMOL, {"": SPEED})
    assert 2 < long / seconds(trained=1000) < 5  # attention over 8,000 tokens is most of it
    assert seconds(load=1) == pytest.approx(1.6, rel=0.1)


def test_what_is_shared_is_counted_once() -> None:
    family = work_of(real(D__grouping="family", D__count=4800), "train small-0 · D · ")
    mixed = work_of(real(D__count=4800), "train small-0 · D · ")
    ((_, tokens),) = [item for item in family.amounts.items() if item[0][0] == "trained"]
    ((_, others),) = [item for item in mixed.amounts.items() if item[0][0] == "trained"]
    assert 2 < others / tokens < 8  # eight openings of some 470 tokens, or one
    adapted = work_of(real(), "train small-0 · D,S · ")
    assert {sort for sort, _ in adapted.amounts} == {"adapted", "scored", "load"}
    whole = work_of(real(S__lora_r=0), "train small-0 · D,S · ")
    assert {"trained", "update", "save"} <= {sort for sort, _ in whole.amounts}
    cut = work_of(real(S__token_budget=500), "train small-0 · D,S · ")
    assert cut.amounts["adapted", "fp32"] > adapted.amounts["adapted", "fp32"]
    longer = work_of(real(S__steps=8), "train small-0 · D,S · ")
    assert longer.amounts["adapted", "fp32"] == pytest.approx(2 * adapted.amounts["adapted", "fp32"])


def test_who_was_taught_by_demonstrations_speaks_as_they_do() -> None:
    plan = real()
    before, after = (
        next(work for step in plan.steps if step.name == name and (work := Expected(plan, measure=False).work.of(step)))
        for name in (
            "roll out small-0 · base on test cases",
            "roll out small-0 · D · dose=1 · split 0 · seed 0 on test cases",
        )
    )
    assert before.amounts["row", ""] > 0 and after.amounts["row", ""] > 0
    # How far conduct moved is measured on a checkpoint with a parent.
    assert ("scored", "bf16") in after.amounts and ("scored", "bf16") not in before.amounts


def test_finished_steps_correct_their_own_kind_and_a_short_one_does_not_swing_the_whole() -> None:
    plan = real()
    expected = Expected(plan, measure=False)
    before = expected.correct({})
    rolls = [
        step.fingerprint for step in plan.steps if step.kind == "rollout" and step.settings.dump()["part"] == "test"
    ]
    train, other = [step.fingerprint for step in plan.steps if step.settings.work in ("sft", "dpo")]
    whole = expected.correct({rolls[1]: 4 * before[rolls[1]]})
    assert whole[rolls[2]] == pytest.approx(4 * before[rolls[2]])
    assert whole[train] == before[train] and whole[other] == before[other]
    # One that was held up among others, and a short one, leave them as they are.
    held = expected.correct({name: ratio * before[name] for name, ratio in zip(rolls, (14, 2, 2), strict=True)})
    assert held[rolls[1]] == pytest.approx(2 * before[rolls[1]])
    expected.units[rolls[1]] /= 1000
    short = expected.correct({rolls[1]: 4 * before[rolls[1]] / 1000})
    assert short[rolls[2]] == pytest.approx(before[rolls[2]])


def steps_of(*inputs: tuple[str, ...]) -> list[Step]:
    settings = AnalyzeSettings(draws=1)
    return [
        Step(fingerprint=str(number), name=str(number), inputs=names, settings=settings, size=1)
        for number, names in enumerate(inputs)
    ]


def test_time_on_a_clock_is_that_of_the_longest_chain_where_workers_wait_for_it() -> None:
    chain = steps_of((), ("0",), ("1",), ("elsewhere",))
    assert time_on_clock(chain, lambda _: 10.0, 2) == 30
    assert time_on_clock(chain, lambda _: 10.0, 1) == 40
    assert time_on_clock(steps_of(*[()] * 5), lambda _: 10.0, 2) == 30
    assert time_on_clock([], lambda _: 10.0, 2) == 0


def test_what_is_left_follows_what_steps_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("holdfast.runs.costs.outlook.time.monotonic", lambda: now[0])
    plan = real()
    waiting = list(plan.steps)
    outlook = Outlook(plan, waiting, {}, 1)
    share, left = outlook.look(waiting, [])
    assert share == 0 and left == pytest.approx(sum(Expected(plan, measure=False).units.values()))
    rolls = [step for step in waiting if step.name.startswith("roll out small-0 · D · dose=1")]
    waiting.remove(rolls[0])
    usual = Expected(plan, measure=False).units[rolls[0].fingerprint]
    outlook.finish(rolls[0], 10 * usual, 20 * usual)
    now[0] += 2
    later_share, later = outlook.look(waiting, [])
    assert 0 < later_share < 1 and later > left  # rollouts take ten times as long as was thought
    # Half of a running step is done: its own pace counts.
    one = waiting.pop(0)
    outlook.look(waiting, [(one, 0.0, 1)])
    now[0] += 2
    assert outlook.look(waiting, [(one, 100.0, one.size)])[1] < later


def test_what_cannot_be_told_is_said_and_left_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = real()
    monkeypatch.setattr(paces, "find_speed", lambda *_, **__: None)
    document = forecast(plan, tmp_path / "none")
    assert document["untold"] == {"small": "torch is not installed"}
    assert not any(row["cpu_seconds"] for row in document["steps"] if row["kind"] in ("rollout", "reference"))
    assert "how long small takes is told once a step of its kind is done: torch is not installed" in " ".join(
        render_forecast(document).split()
    )
    monkeypatch.setattr(paces, "has_accelerator", lambda: True)
    assert "untold" not in forecast(plan, tmp_path / "none")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("holdfast.runs.costs.work.read_demonstrated", ValueError("a suite of mine has no agents")),
        ("holdfast.runs.costs.work.read_prompts", KeyError("tools")),
        ("holdfast.runs.costs.seconds.find_speed", MemoryError("12 GB")),
        ("holdfast.runs.costs.seconds.count_seconds", ZeroDivisionError("division by zero")),
    ],
)
def test_a_forecast_that_fails_stops_nothing(
    place: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a plan nor a run: what went wrong is said where the figure would stand."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    plan = real()
    document = forecast(plan, tmp_path / "none")
    assert str(error) in document["untold"]["small"]
    assert not any(row["cpu_seconds"] for row in document["steps"] if row["kind"] in ("rollout", "reference"))
    waiting = list(plan.steps)
    share, left = Outlook(plan, waiting, {}, 1).look(waiting, [])
    assert share == 0 and left > 0


def test_a_layer_whose_heads_do_not_divide_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of an architecture that is computed otherwise."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    plan, odd = real(), Shape(layers=2, hidden=30, ffn=48, heads=5, key_value_heads=2, head_size=7, vocabulary=50)
    outlined = outline(plan.study.entry("small"))
    assert outlined is not None
    monkeypatch.setattr(paces, "outline", lambda _: replace(outlined, shape=odd))
    document = forecast(plan, tmp_path / "none")
    assert "small" in document["untold"] and document["left"]["steps"] == len(plan.steps)


def test_a_real_study_is_told_in_seconds_and_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    left = forecast(real(), tmp_path / "none")["left"]
    assert left["cpu_seconds"] > 1 and 0 < left["hours"] * 3600 <= left["cpu_seconds"] + 1


def test_a_file_of_llama_cpp_tells_its_shape_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    place, network = write_gguf(tmp_path)
    found = outline(ModelEntry(kind="local", name=str(place)))
    assert found is not None and not found.unpacked and found.count("as many letters") == pytest.approx(3.8, abs=0.1)
    assert found.shape.stored_weights == pytest.approx(network.num_parameters(), rel=0.3)
    data = place.read_bytes()
    for cut in (12, 40, 200):
        place.write_bytes(data[:cut])
        with pytest.raises(StudyError, match="is cut off or damaged"):
            read_settings(str(place))
        assert outline(ModelEntry(kind="local", name=str(place))) is None


def test_a_directory_is_counted_by_its_own_tokenizer_or_roughly(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "llama"}))
    entry = ModelEntry(kind="local", name=str(tmp_path))
    rough = outline(entry)
    assert rough is not None and rough.shape == SMOL and rough.count("a b c d e f g") == pytest.approx(13 / 3.9)
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    exact = outline(entry)
    assert exact is not None and exact.count("a b c d e f g") == 7


def test_nothing_is_told_of_a_model_that_is_not_at_hand() -> None:
    plan = real()
    assert Workload(plan, {}).of(plan.steps[0]) is None
