"""Bases that are opened where they lie or made at random: referred to, trained on what another run left, exported."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_office as office
from builders.peft_samples import save_adapter
from builders.smoke_study import SMOKE
from rounding import EXACT, apart

from holdfast.decisions.gate.running import stacked
from holdfast.exchange.exports import export_run
from holdfast.models.directories.stacks import base_of, digest_model, find_stack, is_stack, read_stack
from holdfast.models.entries import ModelEntry
from holdfast.models.hub.random_base import build_random
from holdfast.records import Case, Checkpoint, Ending, Message, PreferencePair, StageRecord, Trajectory
from holdfast.records.errors import StepError
from holdfast.runs.execution import execute
from holdfast.runs.methods.pairs.plan import PairStageSettings
from holdfast.runs.plan.settings import (
    BringSettings,
    OpenSettings,
    PairSettings,
    RandomSettings,
    ReferenceSettings,
    Settings,
)
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.steps.outcomes import Finished
from holdfast.runs.steps.reading import encode, load_chat, weights_of
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store, codec
from holdfast.store.weights import lend
from holdfast.study.sections import PairSection, SuiteSection
from holdfast.study.stages import StageSection
from holdfast.study.study import load
from holdfast.training.dpo.stage import reference_logprobs

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
SIZES = {"hidden": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "ffn": 48, "vocabulary": 300}
RANDOM = ModelEntry(kind="random", max_positions=2048, **SIZES)
CASES = [
    Case(id=thing, suite="office", number=n, family="files", messages=office.opening(thing), tools=office.TOOLS)
    for n, thing in enumerate(office.THINGS)
]
STAGE = StageSection(
    objective="safety",
    epochs=2,
    pairs_per_step=5,
    warmup_ratio=0.3,
    schedule="cosine",
    learning_rate=1e-2,
    loss_mask="completion",
    lora_r=4,
)


def cut_off(thing: str) -> tuple[Message, ...]:
    """As published: the call stands in the text too, and the last turn breaks off."""
    call = office.call("delete_file", item=thing)
    said = replace(call, content=f'I just delete it.\nAction: delete_file\nAction Input: {{"item": "{thing}"}}')
    return (said, office.answer("removed", "delete_file"), office.say("Thought: the file is now"))


def long(thing: str) -> tuple[Message, ...]:
    return (office.say(" ".join(f"{thing} {number}" for number in range(120))),)


POLICIES = {"careful": office.careful, "cut_off": cut_off, "long": long}


def trajectory(case: Case, policy: str) -> Trajectory:
    ending = Ending.TOKEN_LIMIT if policy == "cut_off" else Ending.FINISHED
    messages = POLICIES[policy](case.id)
    return Trajectory(
        id=f"{case.id}/{policy}", case_id=case.id, checkpoint_id="theirs", rollout=0, messages=messages, ending=ending
    )


def pair(case: Case, rejected: str) -> PreferencePair:
    chosen = f"{case.id}/careful"
    return PreferencePair(
        case_id=case.id, chosen=chosen, rejected=f"{case.id}/{rejected}", objectives=("safety",), judge="x", gap=2.0
    )


PAIRS = [pair(case, policy) for case in CASES for policy in ("cut_off", "long")]


def make_run(place: Path) -> Path:
    """A run with trajectories brought from elsewhere, and the pairs made of them."""
    with Store.create(place) as store, store.transaction():
        store.add_cases(CASES)
        names = [case.id for case in CASES]
        store.add_split(0, {"train": names[1:], "test": names[:1]})
        store.add_checkpoint(Checkpoint(id="theirs", base="other"))
        for kind in ("bring", "pair"):
            store.log.begin(kind, kind, kind)
        for case in CASES:
            for policy in POLICIES:
                item = trajectory(case, policy)
                text = store.text_codec.pack(codec.trajectory_to_bytes(item, None))
                store.add_trajectory(item.without_texts(), text, step="bring")
        store.add_pairs("pair", PAIRS)
        for kind in ("bring", "pair"):
            store.log.finish(kind, {"scored": 1, "episodes": 1})
    return place


def base_step(method: str, tmp_path: Path, reads: int = 2048) -> Step:
    texts = [message.content for case in CASES for message in case.messages] * 4
    if method != "random":
        place = build_random(tmp_path / "away" / "model", RANDOM, texts, seed=3)
        if method == "adapter":
            place = tmp_path / "away" / "adapter"
            save_adapter(tmp_path / "away" / "model", place)
        entry = ModelEntry(kind="local", name=str(place))
    else:
        entry = RANDOM.model_copy(update={"max_positions": reads})
    made = (Checkpoint(id="base", base="real", model=entry.name or None),)
    if method == "random":
        settings: Settings = RandomSettings(
            base="real", entry=entry, base_seed=3, suite=SuiteSection(), split_seeds=(0,)
        )
    else:
        settings = OpenSettings(base="real", entry=entry)
    return make_step("base", (), settings, made)


def make_step(name: str, inputs: Sequence[str], settings: Settings, made: tuple[Checkpoint, ...] = ()) -> Step:
    return Step(fingerprint=name, name=name, inputs=tuple(inputs), settings=settings, size=9, checkpoints=made)


def reference_step(stage: StageSection, **more: Any) -> Step:
    settings = ReferenceSettings(
        checkpoint="base",
        adapter=False,
        loss_mask=stage.loss_mask,
        precision=stage.precision,
        token_budget=stage.token_budget,
        **more,
    )
    return make_step("reference", ("base", "bring"), settings)


def stage_step(stage: StageSection, doses: Sequence[int] = (1,)) -> Step:
    settings = PairStageSettings(
        method="dpo", section=stage, stage="S", parent="base", train_seed=0, doses=tuple(doses)
    )
    record = StageRecord(name="S", method="dpo", objectives=("safety",))
    made = tuple(Checkpoint(id=f"stage-{dose}", base="real", stages=(record,), parent_id="base") for dose in doses)
    return make_step("abcdef0123456789", ("base", "pair", "reference"), settings, made)


PAIRING = PairSettings(rule=PairSection(), judge="", objectives=("safety",), agree="all", flip=0.0, pair_seed=0)


def play(run: Path, *steps: Step) -> None:
    """The steps, after those that the run has already."""
    done = (("bring", BringSettings(source="", digest=None)), ("pair", PAIRING))
    there = tuple(make_step(name, (), settings) for name, settings in done)
    with Store(run, writable=True) as store:
        execute(Plan(study=load(SMOKE), steps=(*there, *steps)), store, workers=1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_a_stage_goes_on_from_an_adapter_of_peft(run: Path, tmp_path: Path) -> None:
    """It is a stage on the adapter's own base, which holds what the adapter had learnt beside what it learns."""
    play(run, base_step("adapter", tmp_path), reference_step(STAGE), stage_step(STAGE))
    with Store(run) as store:
        base, results = store.checkpoint("base"), store.log.steps()
        home, trained = weights_of(store, "base"), weights_of(store, "stage-1")
    away = tmp_path / "away"
    assert home == away / "adapter" and results["base"].result["base"] == str(away / "model")
    assert base.digest == digest_model(away / "adapter") != digest_model(away / "model")
    assert is_stack(trained) and base_of(trained) == away / "model" and read_stack(trained).ranks == (3, STAGE.lora_r)
    assert results["abcdef0123456789"].result["doses"][0]["drift_chosen"] != 0
    before, after = read_stack(trained).factors, find_stack(away / "adapter")
    assert after is not None
    for module, (down, up) in after.factors.items():
        assert (before[module][0][:3] == down).all() and (before[module][1][:, :3] == up).all()


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("method", ["open", "random"])
def test_a_real_base_learns_from_what_another_run_left(method: str, run: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    play(run, base_step(method, tmp_path), reference_step(STAGE), stage_step(STAGE))
    with Store(run) as store:
        base, results = store.checkpoint("base"), store.log.steps()
        home, trained = weights_of(store, "base"), weights_of(store, "stage-1")
        values = store.logprobs("reference")
    opened = method == "open"
    assert (base.path is None) == opened and home == (tmp_path / "away" / "model" if opened else run / str(base.path))
    assert results["base"].result.get("digest") == (base.digest if opened else None)
    lent = tmp_path / "lent"
    for directory in stacked(trained):
        lend(directory, lent)
    assert base_of(lent / trained.name) == (home if opened else lent / home.name)
    # Every trajectory, however it ended.
    assert values.keys() == {f"{case.id}/{policy}" for case in CASES for policy in POLICIES}
    chat, cases = load_chat(home), {case.id: case for case in CASES}
    encoded = {name: encode(chat, cases, trajectory(cases[name.split("/")[0]], name.split("/")[1])) for name in values}
    alone = reference_logprobs(home, list(encoded), encoded, "completion")
    assert values == pytest.approx(alone, rel=EXACT)
    dose = results["abcdef0123456789"].result["doses"][0]
    steps = -(-len(PAIRS) // 5)
    assert (dose["steps"], dose["pairs"]) == (2 * steps, 2 * len(PAIRS))
    lines = [json.loads(line) for line in (run / "logs" / "abcdef0123456789.jsonl").read_text().splitlines()]
    assert [line["examples"] for line in lines] == [5, 5, 2] * 2
    warm = -(-2 * steps * 3 // 10)
    rates = [line["learning_rate"] for line in lines]
    assert max(rates) == rates[warm - 1] == pytest.approx(1e-2) and rates[-1] < 0.15 * 1e-2
    assert lines[0]["metrics"]["loss"] == pytest.approx(math.log(2), rel=EXACT) and dose["loss"] < 0.6
    assert is_stack(trained) and base_of(trained) == home
    merged = export_run(run, "hf", tmp_path / "merged", checkpoint="stage-1")
    whole, before = (AutoModelForCausalLM.from_pretrained(place) for place in (merged, home))
    ids = torch.from_numpy(encoded["report/careful"].ids)[None]
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (whole, before)]
        adapted = PeftModel.from_pretrained(before, trained)
        assert apart([adapted(input_ids=ids).logits], [logits[0]]) < EXACT
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_long_pairs_are_left_out_and_counted(run: Path, tmp_path: Path) -> None:
    stage = STAGE.model_copy(update={"max_length": 1000, "token_budget": 1500})
    play(run, base_step("random", tmp_path), reference_step(stage), stage_step(stage))
    with Store(run) as store:
        result, values = store.log.steps()["abcdef0123456789"].result, store.logprobs("reference")
    short = [one for one in PAIRS if not one.rejected.endswith("long")]
    assert result["too_long"] == len(PAIRS) - len(short) > 0
    assert result["distinct_pairs"] == len(short) and result["doses"][0]["pairs"] == 2 * len(short)
    assert not any(name.endswith("long") for name in values)  # beyond what is computed at once


@pytest.mark.parametrize(
    ("changes", "reads", "told"),
    [
        ({"max_length": 9}, 2048, r"all \d+ pairs have a side of more than max_length 9 tokens; raise it"),
        ({"token_budget": 1500}, 2048, r"\w+/long: \d+ tokens, above token_budget 1500"),
        ({}, 1500, r"\w+/long: \d+ tokens, but the model reads 1500; drop it"),
    ],
)
def test_pairs_that_are_too_long_stop_the_stage(
    changes: dict[str, int], reads: int, told: str, run: Path, tmp_path: Path
) -> None:
    stage = STAGE.model_copy(update=changes)
    with pytest.raises(StepError, match=told):
        play(run, base_step("random", tmp_path, reads), reference_step(stage), stage_step(stage))


def test_doses_are_passes_with_the_warm_up_of_the_first(run: Path, tmp_path: Path) -> None:
    stage = STAGE.model_copy(update={"epochs": 1, "schedule": "constant", "pairs_per_step": 4})
    play(run, base_step("random", tmp_path), reference_step(stage), stage_step(stage, (1, 2)))
    with Store(run) as store:
        doses = store.log.steps()["abcdef0123456789"].result["doses"]
    assert [dose["pairs"] for dose in doses] == [len(PAIRS), 2 * len(PAIRS)]
    lines = [json.loads(line) for line in (run / "logs" / "abcdef0123456789.jsonl").read_text().splitlines()]
    warm = -(-doses[0]["steps"] * 3 // 10)
    assert [line["learning_rate"] < 1e-2 for line in lines] == [n < warm - 1 for n in range(doses[1]["steps"])]


def test_a_reference_may_be_of_one_half(run: Path, tmp_path: Path) -> None:
    play(run, base_step("random", tmp_path), reference_step(STAGE, split_seed=0))
    with Store(run) as store:
        assert {name.split("/")[0] for name in store.logprobs("reference")} == {case.id for case in CASES[1:]}


def test_a_repository_is_noted_in_the_revision_that_was_found(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.models.hub import hub

    commit = "0123456789abcdef" * 2 + "01234567"
    place = build_random(
        tmp_path / "cache" / "snapshots" / commit,
        RANDOM,
        [message.content for case in CASES for message in case.messages] * 4,
        seed=1,
    )
    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(hub, "resolve", lambda name, revision=None: asked.append((name, revision)) or place)
    entry = ModelEntry(kind="local", name="org/model")
    step = make_step("b", (), OpenSettings(base="m", entry=entry), (Checkpoint(id="c", base="m"),))
    found: list[Any] = []
    carry_out(step, run, found.append)
    (finished,) = found
    assert isinstance(finished, Finished) and asked == [("org/model", None)]
    ((checkpoint, directory),) = finished.checkpoints
    assert (checkpoint.model, directory) == (f"org/model@{commit}", None)
    assert finished.result["revision"] == commit and finished.result["directory"] == str(place)
