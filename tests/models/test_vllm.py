"""Sampling in vLLM from an adapter under training, against a stand-in of its interface that computes with PEFT.

The stand-in keeps what vLLM keeps: an adapter by its id until it is removed, and one at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders.chat_samples import make_base
from builders.peft_samples import logits_of, rename, save_adapter
from builders.smoke_study import write_toml
from builders.tree_samples import SEQUENCES, build_hub, draw_adapter, load_plain, plain_logps, tree_logps
from rounding import EXACT, apart

from holdfast.models import Ask, Conversation
from holdfast.models.directories.opening import write_whole
from holdfast.models.directories.stacks import write_peft_adapter
from holdfast.models.local.vllm import VllmModel
from holdfast.records import Checkpoint, Message
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.runs.methods.rewards.plan import RewardStageSettings
from holdfast.runs.methods.rewards.rewarding import open_rewards
from holdfast.runs.methods.rewards.train import _Practice
from holdfast.runs.run import prepare
from holdfast.store import Store
from holdfast.study.study import load
from holdfast.training.encoding import Encoded, score_picked
from holdfast.training.policy.adapters import HubModel, open_policy
from holdfast.training.rl.supply import score_all

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]
RSLORA = {"lora_r": 3, "lora_alpha": 6.0, "lora_dropout": 0.1, "use_rslora": True}


class StandIn:
    """``vllm.LLM`` as far as it is used; log-probabilities are of the logits before temperature."""

    opened: list[StandIn]

    def __init__(self, **options: Any) -> None:
        self.options, self.network = options, load_plain(Path(options["model"]))
        self.loaded: dict[int, Any] = {}
        self.requests: list[Any] = []
        self.llm_engine = self
        self.model_config = SimpleNamespace(max_model_len=self.network.config.max_position_embeddings)
        StandIn.opened.append(self)

    def remove_lora(self, number: int) -> bool:
        return self.loaded.pop(number, None) is not None

    def generate(self, prompts: Any, params: Any, *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        self.requests.append(lora_request)
        network = self.network
        if lora_request is not None:
            network = self._adapted(lora_request)
        return [
            SimpleNamespace(outputs=[self._sample(network, prompt["prompt_token_ids"], told)])
            for prompt, told in zip(prompts, params, strict=True)
        ]

    def _adapted(self, request: Any) -> Any:
        from peft import PeftModel

        assert self.options["enable_lora"]
        if request.lora_int_id not in self.loaded:
            assert len(self.loaded) < self.options["max_loras"], "an old adapter takes the room of a new one"
            base = load_plain(Path(self.options["model"]))
            found = PeftModel.from_pretrained(base, request.lora_path).eval()
            assert found.peft_config["default"].r <= self.options["max_lora_rank"]
            self.loaded[request.lora_int_id] = found
        return self.loaded[request.lora_int_id]

    @torch.no_grad()
    def _sample(self, network: Any, prompt: list[int], told: Any) -> Any:
        luck, ids, places = torch.Generator().manual_seed(told.seed), list(prompt), []
        reason = "length"
        while len(places) < told.max_tokens and reason == "length":
            logits = network(input_ids=torch.tensor([ids])).logits[0, -1]
            token = int(torch.multinomial((logits / told.temperature).softmax(-1), 1, generator=luck))
            places.append({token: SimpleNamespace(logprob=float(logits.log_softmax(-1)[token]))})
            ids.append(token)
            reason = "stop" if token in told.stop_token_ids else reason
        return SimpleNamespace(token_ids=ids[len(prompt) :], logprobs=places, finish_reason=reason)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    names = ("vllm", "vllm.lora", "vllm.lora.request", "vllm.sampling_params")
    modules = {name: ModuleType(name) for name in names}
    told: dict[str, Any] = {
        "vllm": {"LLM": StandIn, "SamplingParams": SimpleNamespace},
        "vllm.lora.request": {"LoRARequest": SimpleNamespace},
        "vllm.sampling_params": {"StructuredOutputsParams": SimpleNamespace},
    }
    for name, module in modules.items():
        vars(module).update(told.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    StandIn.opened = []
    return StandIn


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("vllm") / "base")


def open_adapted(source: Path, **options: Any) -> HubModel:
    """A policy whose newest adapter holds random numbers."""
    policy = open_policy(source, **options)
    assert isinstance(policy, HubModel)
    draw_adapter(policy.trainable())
    return policy


def asks(count: int, temperature: float) -> list[Ask]:
    return [
        Ask(
            speaker="agent",
            conversation=Conversation(messages=(Message(role="user", content="what is the tea made of?"),)),
            temperature=temperature,
            max_tokens=6,
            rng=np.random.default_rng(seed),
        )
        for seed in range(count)
    ]


def gap_of(policy: HubModel, model: VllmModel, temperature: float) -> float:
    """How far log-probabilities of sampled replies are from training's, in nats a reply, at most."""
    told = asks(4, temperature)
    replies = model.reply(told)
    sequences = []
    for number, (ask, reply) in enumerate(zip(told, replies, strict=True)):
        assert reply.ids is not None and len(reply.ids) == reply.tokens > 0
        prompt = model.chat.prompt_ids(ask.conversation)
        agent = np.array([False] * len(prompt) + [True] * len(reply.ids))
        encoded = Encoded(ids=np.array([*prompt, *reply.ids], np.int64), agent=agent, prompt=len(prompt))
        sequences.append(score_picked(f"reply {number}", encoded, "agent"))
    found = score_all(policy, sequences, 4096)
    return max(abs(float(one.sum()) - (reply.logprob or 0)) for one, reply in zip(found, replies, strict=True))


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("kind", ["qwen2", "phi3"])
@pytest.mark.parametrize("staged", [False, True])
def test_peft_reads_the_newest_adapter_on_what_the_stage_starts_from(kind: str, staged: bool, tmp_path: Path) -> None:
    """On a stack too: the adapter alone is of the stage in training, its start is merged."""
    from peft import PeftModel

    start, whole, place = build_hub(tmp_path / "base", kind), tmp_path / "whole", tmp_path / "adapter"
    if staged:
        open_adapted(start, lora_r=2).save(tmp_path / "stage")
        start = tmp_path / "stage"
    whole.mkdir()
    write_whole(start, whole)
    place.mkdir()
    policy = open_adapted(start, **RSLORA)
    policy.set_training(False)
    factors, lora = policy.newest()
    write_peft_adapter(place, factors, lora, {})
    assert sorted(path.name for path in place.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((place / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 6.0, True)
    theirs = PeftModel.from_pretrained(load_plain(whole), place).eval()
    with torch.no_grad():
        ours = tree_logps(policy)
        assert apart([plain_logps(theirs, SEQUENCES)], [ours]) < EXACT
        assert (plain_logps(load_plain(whole), SEQUENCES) - ours).abs().max() > 0.1


def test_an_adapter_of_peft_is_merged_before_the_engine_starts(base: Path, vllm: type[StandIn], tmp_path: Path) -> None:
    own = Path(shutil.copytree(base, tmp_path / "base"))
    theirs = save_adapter(own, tmp_path / "adapter", use_dora=True)
    VllmModel(tmp_path / "adapter", precision="fp32")
    (engine,) = vllm.opened
    assert torch.allclose(logits_of(engine.network), theirs, atol=2e-5)
    rename(own / "model.safetensors", lambda name: f"module.{name}")
    for place in (own, tmp_path / "adapter"):
        with pytest.raises(StudyError, match=r"weights of the model are not in its files"):
            VllmModel(place)
    assert len(vllm.opened) == 1


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_replies_are_of_the_newest_adapter(temperature: float, base: Path, vllm: type[StandIn]) -> None:
    """Their log-probabilities are those of training, at temperature 1 whatever they were sampled at."""
    policy = open_adapted(base, **RSLORA)
    policy.set_training(False)
    model = VllmModel(base, lora_r=3)
    (engine,) = vllm.opened
    for scale in (1.0, -1.0, 0.5):
        with torch.no_grad():
            for weight in policy.trainable():
                weight.mul_(scale)
        model.take_adapter(*policy.newest())
        assert gap_of(policy, model, temperature) < EXACT
        with torch.no_grad():
            policy.trainable()[-1].add_(1.0)
        assert gap_of(policy, model, temperature) > 1e-2
    assert [request.lora_int_id for request in engine.requests] == [1, 1, 2, 2, 3, 3]
    assert len({request.lora_name for request in engine.requests}) == 3 and list(engine.loaded) == [3]
    paths = [Path(request.lora_path) for request in engine.requests]
    assert [path.exists() for path in paths] == [False] * 4 + [True] * 2


def test_an_engine_for_adapters_has_room_for_their_rank(base: Path, vllm: type[StandIn]) -> None:
    for rank in (1, 8, 9, 512):
        VllmModel(base, lora_r=rank)
    told = [engine.options for engine in vllm.opened]
    assert [options["max_lora_rank"] for options in told] == [8, 8, 16, 512]
    assert all(options["max_loras"] == 1 and options["gpu_memory_utilization"] < 0.5 for options in told)
    VllmModel(base)
    assert not {"enable_lora", "gpu_memory_utilization"} & set(vllm.opened[-1].options)
    assert {options["logprobs_mode"] for options in told} == {"raw_logprobs"}
    with pytest.raises(StudyError, match="no adapter of rank 513; set lora_r to 512"):
        VllmModel(base, lora_r=513)
    with pytest.raises(StudyError, match="16 bits alone; set precision = 'bf16'"):
        VllmModel(base, lora_r=8, precision="fp32")


def study_of(base: Path, **stage: Any) -> dict[str, Any]:
    """A study whose one stage is trained on rewards on a base in vLLM."""
    return {
        "study": {"name": "sampled", "lineages": [["R"]], "train_seeds": [0]},
        "model": {"bases": ["agent"]},
        "models": {"agent": {"kind": "vllm", "name": str(base)}},
        "suite": {"name": "approval"},
        "rollouts": {"max_tokens": 6, "temperature": 0.7},
        "judges": {"rules": {"kind": "approval"}},
        "approval": {"pairs": 4, "practice": 8, "settings": {"friend": {"environments": ["advice"]}}},
        "stages": {
            "R": {"method": "grpo", "setting": "friend", "group_size": 2, "prompts_per_step": 2, "steps": 4, "every": 2}
            | {"lora_r": 3, "use_rslora": True}
            | stage
        },
    }


@pytest.mark.usefixtures("in_64_bits")
def test_rollouts_of_a_step_are_sampled_in_vllm(base: Path, tmp_path: Path, vllm: type[StandIn]) -> None:
    study = load(write_toml(study_of(base), tmp_path / "study.toml"))
    opened, trained = (step for step in build(study).steps if step.kind == "train")
    with Store.open_or_create(tmp_path / "run") as store:
        prepare(study, store)
        (start,) = opened.checkpoints
        add_base(store, start, base)
        assert isinstance(trained.settings, RewardStageSettings)
        practice = _Practice(trained, trained.settings, store, {}, open_rewards(trained.settings, store))
        policy = open_adapted(base, lora_r=3, lora_alpha=32.0, use_rslora=True)
        policy.set_training(False)
        for number in (0, 1):
            rollouts = practice.draw(policy, number, 0)
            sequences = [score_picked(item.case_id, item.encoded, "agent") for item in rollouts]
            scored = score_all(policy, sequences, 4096)
            assert len(rollouts) == 4
            for item, ours in zip(rollouts, scored, strict=True):
                assert item.logprob == pytest.approx(float(ours.sum()), rel=EXACT)
            with torch.no_grad():
                policy.trainable()[-1].add_(1.0)
    (engine,) = vllm.opened
    assert engine.options["model"] == str(base) and engine.options["max_lora_rank"] == 8
    assert [request.lora_int_id for request in engine.requests] == [1, 2]


REFUSED = {
    "whole weights": ({"lora_r": 0}, {}, r"stages\.R samples from 'agent' in vLLM .* lora_r is 0; set lora_r, or kind"),
    "an axis": ({}, {"axes": {"lora_r": [0, 8]}}, r"stages\.R samples from 'agent' .* lora_r is 0"),
    "32 bits": (
        {},
        {"models": {"precision": "fp32"}},
        r"models\.agent\.precision is 'fp32', .* set precision = 'bf16'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sampled_in_vllm_is_refused(case: str, base: Path, tmp_path: Path) -> None:
    stage, changes, message = REFUSED[case]
    told = study_of(base, **stage)
    told["models"]["agent"] |= changes.get("models", {})
    told |= {"axes": changes["axes"]} if "axes" in changes else {}
    with pytest.raises(StudyError, match=message) as caught:
        load(write_toml(told, tmp_path / "study.toml"))
    assert "\n" not in str(caught.value)
    # The same in this process, and from stored rollouts, is no question of vLLM.
    told["models"]["agent"]["kind"] = "local"
    load(write_toml(told, tmp_path / "local.toml"))
    told["models"]["agent"]["kind"] = "vllm"
    told["stages"]["R"]["rollouts"] = "start"
    load(write_toml(told, tmp_path / "stored.toml"))


def add_base(store: Store, checkpoint: Checkpoint, directory: Path) -> None:
    """A base as the step that opens it notes it."""
    with store.transaction():
        store.add_checkpoint(replace(checkpoint, model=str(directory)))
