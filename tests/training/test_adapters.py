"""Policies under training: adapters on whole and stacked directories, what they save, and what they refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import tiny_office as office
from rounding import EXACT, additions, rounding, within

import holdfast as hf
from holdfast.models.directories.opening import read_weights, write_whole
from holdfast.models.directories.stacks import is_stack, read_stack
from holdfast.models.tiny.model import TinyModel
from holdfast.store import weights
from holdfast.training.dpo.stage import train_dpo
from holdfast.training.encoding import ScoredSequence
from holdfast.training.loop.passes import score
from holdfast.training.policy.adapters import HubModel, Policy, WholeTiny, longest_sequence, open_policy
from holdfast.training.trees.packing import pack, pack_rows

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
# What rounding does to log-probabilities of the made-up office's model. Sums of 16-bit numbers are taken in 32 bits and
# only results are rounded: of two layers' norms, projections, attention and gate, eight each.
CLOSE = {
    "fp32": rounding(additions(hidden=32, layers=2, ffn=48, vocabulary=64, tokens=13)),
    "bf16": rounding(2 * 8, dtype=torch.bfloat16),
}


def sequences(top: int = 40) -> list[ScoredSequence]:
    """Four sequences of 13 tokens that share their first four."""
    rng = np.random.default_rng(1)
    rows = [np.concatenate([[1, 5, 6, 7], rng.integers(3, top, size=9)]) for _ in range(4)]
    picked = np.array([0.0] + [1.0] * 12, np.float32)
    return [ScoredSequence(name=str(number), ids=row, weights=picked) for number, row in enumerate(rows)]


def logprobs(policy: Policy) -> torch.Tensor:
    return score(policy, pack(sequences(), policy.device, masks=policy.masks))


def teach(policy: Policy, steps: int = 3) -> None:
    optimiser = torch.optim.Adam(policy.trainable(), lr=1e-2)
    policy.set_training(True)
    for _ in range(steps):
        optimiser.zero_grad()
        (-logprobs(policy).mean()).backward()
        optimiser.step()
    policy.set_training(False)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return office.make_model(tmp_path / "base")


@pytest.fixture
def stage(base: Path) -> Path:
    """A LoRA stage on the base, with dropout."""
    policy = open_policy(base, lora_r=4, lora_alpha=10.0, lora_dropout=0.4)
    teach(policy)
    policy.save(base.parent / "stage")
    return base.parent / "stage"


# --- what is saved ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_what_an_adapter_saves(rslora: bool, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = open_policy(base, lora_r=4, lora_alpha=10.0, lora_dropout=0.1, use_rslora=rslora)
    assert apart(logprobs(policy), logprobs(open_policy(base))) < EXACT
    teach(policy)
    policy.save(tmp_path / "saved")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "saved")
    rows = torch.from_numpy(np.stack([item.ids for item in sequences()]))
    with torch.no_grad():
        logps = theirs(input_ids=rows).logits[:, :-1].log_softmax(-1).gather(2, rows[:, 1:, None]).flatten()
        assert apart(logprobs(policy), logps) < EXACT
        assert apart(logps, logprobs(open_policy(base))) > 0.1
    config = theirs.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (4, 10.0, 0.1, rslora)
    assert weights.digest_directory(tmp_path / "saved")  # no file that a run would refuse
    size = sum(path.stat().st_size for path in (tmp_path / "saved").glob("*.safetensors"))
    assert size < sum(weight.nbytes for weight in read_weights(base).values())


def test_saving_changes_nothing_and_is_the_same_anywhere(base: Path, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        torch.manual_seed(7)
        policy = open_policy(base, lora_r=4)
        teach(policy)
        before = logprobs(policy)
        policy.save(tmp_path / f"saved-{number}")
        assert torch.equal(before, logprobs(policy))
        digests.append(weights.digest_directory(tmp_path / f"saved-{number}"))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_weights_are_saved_as_transformers_loads_them(precision: Any, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    policy = open_policy(base, precision=precision)
    assert isinstance(policy, WholeTiny) == (precision == "fp32")
    teach(policy)
    policy.save(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.dtype == torch.float32 and loaded.config._attn_implementation == "sdpa"
    rows = torch.from_numpy(np.stack([item.ids for item in sequences()]))
    with torch.no_grad():
        logps = loaded(input_ids=rows).logits[:, :-1].log_softmax(-1).gather(2, rows[:, 1:, None]).flatten()
    assert within(apart(logps, logprobs(policy)), CLOSE[precision])


# --- stages on stages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("lora_r", [0, 6])
def test_a_later_stage_starts_where_the_earlier_one_ended(lora_r: int, precision: Any, base: Path, stage: Path) -> None:
    later = open_policy(stage, lora_r=lora_r, precision=precision)
    start = logprobs(open_policy(stage))
    assert within(apart(logprobs(later), start), CLOSE[precision])
    assert apart(start, logprobs(open_policy(base))) > 0.1


@pytest.mark.parametrize("precision", CLOSE)
def test_stages_stack(precision: Any, base: Path, stage: Path) -> None:
    """What two stages saved is W + s1 B1 A1 + s2 B2 A2, and only the second has changed."""
    first = read_stack(stage)
    policy = open_policy(stage, lora_r=6, lora_alpha=9.0, precision=precision)
    assert {min(weight.shape) for weight in policy.trainable()} == {6} and len(policy.trainable()) == 2 * 14
    assert all(weight.dtype == torch.float32 for weight in policy.trainable())
    teach(policy)
    place = base.parent / "second"
    policy.save(place)
    both, whole = read_stack(place), read_weights(place)
    assert both.ranks == (4, 6) and both.digest == first.digest
    newest = {tuple(weight.shape): weight for weight in policy.trainable()}  # the last of each shape
    for module, (down, up) in both.factors.items():
        old_down, old_up = first.factors[module]
        assert torch.equal(down[:4], old_down) and torch.equal(up[:, :4], old_up)
        wide = read_weights(base)[f"{module}.weight"].double() + old_up.double() @ old_down.double()
        wide += up[:, 4:].double() @ down[4:].double()
        # Ten products and the base's weight are added.
        assert within(apart(whole[f"{module}.weight"].double(), wide), rounding(11) * wide.abs().max().item())
    down, up = both.factors["model.layers.1.mlp.down_proj"]
    assert torch.equal(down[4:], newest[6, 48]) and torch.equal(up[:, 4:], newest[32, 6] * 1.5)
    assert within(apart(logprobs(policy), logprobs(open_policy(place))), CLOSE[precision])
    third = open_policy(place, lora_r=2, precision=precision)
    assert within(apart(logprobs(third), logprobs(policy)), CLOSE[precision])
    third.save(base.parent / "third")
    assert read_stack(base.parent / "third").ranks == (4, 6, 2)


def test_a_stack_can_train_whole_and_whole_weights_can_take_an_adapter(stage: Path, tmp_path: Path) -> None:
    whole = open_policy(stage)
    assert isinstance(whole, WholeTiny)
    teach(whole)
    whole.save(tmp_path / "whole")
    assert not is_stack(tmp_path / "whole")
    assert apart(logprobs(open_policy(tmp_path / "whole")), logprobs(whole)) == 0
    adapter = open_policy(tmp_path / "whole", lora_r=4)
    teach(adapter)
    adapter.save(tmp_path / "adapter")
    assert read_stack(tmp_path / "adapter").base == tmp_path / "whole"
    assert within(apart(logprobs(open_policy(tmp_path / "adapter")), logprobs(adapter)), CLOSE["fp32"])


def test_dropout_falls_on_the_newest_adapter_in_training_alone(base: Path, stage: Path) -> None:
    assert json.loads((stage / "adapter_config.json").read_text())["lora_dropout"] == 0.4
    later = open_policy(stage, lora_r=2, precision="bf16")
    later.set_training(True)
    assert torch.equal(logprobs(later), logprobs(later))  # none of the earlier stage's
    dropping = open_policy(stage, lora_r=2, lora_dropout=0.5)
    teach(dropping)
    assert torch.equal(logprobs(dropping), logprobs(dropping))
    dropping.set_training(True)
    assert apart(logprobs(dropping), logprobs(dropping)) > 1e-4
    dropping.save(base.parent / "dropping")
    assert json.loads((base.parent / "dropping" / "adapter_config.json").read_text())["lora_dropout"] == 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stage_on_a_stack_resumes(precision: Any, stage: Path, tmp_path: Path) -> None:
    """Broken off and taken up again, a stage from a stack saves the same bytes as one that ran through."""
    pairs, encoded = office.preferences(TinyModel.load(stage).chat)
    settings = office.change(office.STAGE, steps=6, lora_r=4, lora_dropout=0.1, precision=precision)

    def stop(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    def train(out: Path, log: Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
        results = train_dpo(
            stage, pairs, encoded, settings, seed=3, save_at=[3, 6], out_dir=out, folder=log, progress=progress
        )
        return [weights.digest_directory(result.path) for result in results]

    through = train(tmp_path / "through", tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again", tmp_path / "other", stop)
    assert train(tmp_path / "again", tmp_path / "other") == through
    assert len(set(through)) == 2


def test_recomputing_gives_the_same_gradients(stage: Path) -> None:
    grads = []
    for recompute in (False, True):
        torch.manual_seed(2)
        policy = open_policy(stage, lora_r=3, recompute=recompute)
        policy.set_training(True)
        logprobs(policy).sum().backward()
        grads.append([weight.grad for weight in policy.trainable()])
    assert all(map(torch.equal, *grads))
    assert any(grad.abs().max() > 1e-3 for grad in grads[0])


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["base", "stage"])
@pytest.mark.parametrize("options", [{}, {"lora_r": 2}, {"lora_r": 2, "precision": "bf16"}, {"precision": "bf16"}])
def test_weights_that_are_not_finite_are_named(place: str, options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """Frozen weights too: with an adapter nothing else would tell before the loss is lost."""
    from safetensors.torch import load_file, save_file

    open_policy(base, lora_r=2).save(tmp_path / "stage")
    name = {"base": "model.norm.weight", "stage": "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"}[place]
    file = tmp_path / place / ("model.safetensors" if place == "base" else "adapter_model.safetensors")
    stored = load_file(file)
    stored[name].view(-1)[3] = float("nan")
    save_file(stored, file, metadata={"format": "pt"})
    told = {"base": r"base: refused before training: model.norm.weight", "stage": r"stage: .*layers.1.mlp.up_proj"}
    with pytest.raises(hf.StudyError, match=rf"{told[place]}\S* has values that are not finite; restore"):
        open_policy(tmp_path / place, **options)


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_model(kind: str, place: Path, **settings: Any) -> Path:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
LATENT |= {"num_key_value_heads": 2}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
full = pytest.mark.full


@pytest.mark.parametrize("other", [False, pytest.param(True, marks=full)], ids=["", "other"])
@pytest.mark.parametrize(
    ("kind", "lora_r", "settings", "longest"),
    [
        ("Qwen2", 2, {"use_sliding_window": True, "tie_word_embeddings": True, **MIXED}, 64),
        ("Qwen3", 2, {"head_dim": 16, "rope_parameters": YARN}, 64),
        ("Mistral", 2, {"sliding_window": 5, "head_dim": 8}, 64),
        ("Phi3", 2, {"sliding_window": 7, "head_dim": 16, "partial_rotary_factor": 0.5}, 64),
        ("Phi3", 2, {"rope_parameters": LONG | FACTORS, "original_max_position_embeddings": 16}, 16),
        ("Gemma2", 0, {"head_dim": 16, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0, **MIXED}, 64),
        ("Gemma3Text", 2, {"head_dim": 16, "final_logit_softcapping": 3.0, **MIXED}, 64),
        ("GptOss", 0, {"head_dim": 16, **MIXED, **EXPERTS}, 64),
        ("Granite", 2, {"logits_scaling": 0.25, "attention_multiplier": 0.3, "residual_multiplier": 0.5}, 64),
        ("Mixtral", 0, EXPERTS, 64),
        ("DeepseekV3", 2, {**LATENT, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}, 64),
        pytest.param("Llama", 2, {"rope_parameters": LLAMA3}, 64, marks=full),
        pytest.param("Llama", 2, {"sliding_window": 5}, 64, marks=full),
        pytest.param("Qwen2", 2, {"use_sliding_window": False, "sliding_window": 16}, 64, marks=full),
        pytest.param("Mistral", 2, {"sliding_window": None}, 64, marks=full),
        pytest.param("Qwen3Moe", 2, {"head_dim": 16, **EXPERTS}, 64, marks=full),
        pytest.param("Cohere", 2, {"logit_scale": 3.0}, 64, marks=full),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_architectures_score_as_they_do_themselves(  # noqa: PLR0917
    kind: str, lora_r: int, settings: dict[str, Any], longest: int, other: bool, tmp_path: Path
) -> None:
    """Within 1e-4 nats a token in 32 bits, over a tree and rows, beyond windows, with the gradients of all weights."""
    from transformers import AutoModelForCausalLM

    place = random_model(kind, tmp_path / "model", **SIZES | settings)
    whole = (lora_r == 0) != other
    policy = open_policy(place, lora_r=0 if whole else 2)
    assert policy.max_positions == longest_sequence(place) == longest
    given = sequences()
    rows = torch.from_numpy(np.stack([item.ids for item in given]))
    model = AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager", dtype=torch.float32)
    theirs = model(input_ids=rows).logits[:, :-1].log_softmax(-1).gather(2, rows[:, 1:, None]).flatten()
    assert theirs.std() > 0.1
    (-theirs.mean()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    tree, alone = pack(given, policy.device, masks=policy.masks), pack_rows(given, policy.device)
    assert tree.plan is not None and alone.plan is None
    for packed in (tree, alone):
        logps = score(policy, packed)
        assert apart(logps, theirs.detach()) < 1e-4
        if whole:
            (-logps.mean()).backward()
            ours = {name: weight.grad for name, weight in policy.named_weights() if weight.grad is not None}
            assert ours.keys() == gradients.keys()
            for name, gradient in gradients.items():
                assert (ours[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name
            for weight in policy.trainable():
                weight.grad = None


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("other", [False, pytest.param(True, marks=full)], ids=["", "other"])
@pytest.mark.parametrize(
    ("kind", "lora_r", "settings"),
    [
        ("Phi3", 2, {"sliding_window": 7}),  # fused projections
        ("Gemma3Text", 0, {"head_dim": 16, **MIXED}),  # tied ends
        ("GptOss", 0, {"head_dim": 16, **MIXED, **EXPERTS}),
        ("Mixtral", 2, EXPERTS),
        pytest.param("Mistral", 2, {"sliding_window": 7}, marks=full),
        pytest.param("Qwen3Moe", 0, {"head_dim": 16, **EXPERTS}, marks=full),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_other_architectures_learn_is_read_back_by_all(
    kind: str, lora_r: int, settings: dict[str, Any], other: bool, tmp_path: Path
) -> None:
    """By a later stage, by transformers or PEFT, and as whole weights that are written of it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    place, saved, written = (
        random_model(kind, tmp_path / "model", **SIZES | settings),
        tmp_path / "saved",
        tmp_path / "w",
    )
    whole = (lora_r == 0) != other
    policy = open_policy(place, lora_r=0 if whole else 2)
    before = logprobs(policy)
    teach(policy)
    policy.save(saved)
    learnt = logprobs(policy)
    assert apart(learnt, before) > 0.1
    assert apart(learnt, logprobs(open_policy(saved))) < 1e-4
    written.mkdir()
    write_whole(saved, written)
    theirs = [AutoModelForCausalLM.from_pretrained(one) for one in (written, saved if whole else place)]
    theirs[1] = theirs[1] if whole else PeftModel.from_pretrained(theirs[1], saved)
    rows = torch.from_numpy(np.stack([item.ids for item in sequences()]))
    with torch.no_grad():
        for model in theirs:
            logps = model(input_ids=rows).logits[:, :-1].log_softmax(-1).gather(2, rows[:, 1:, None]).flatten()
            assert apart(logps, learnt) < 1e-4


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (
            "Bloom",
            {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
            "differ by",
        ),
        ("Doge", SIZES, "its layers add numbers of their own to the logits"),
        (
            "Mamba",
            {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
            "mamba keeps a state along a sequence, which does not branch",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalnum() else "",
)
def test_what_trees_do_not_compute_is_refused(kind: str, settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    place = random_model(kind, tmp_path / "model", **settings)
    with pytest.raises(
        hf.StudyError, match=rf"model: this architecture cannot train on trees \(.*{told}.*\); use another"
    ):
        open_policy(place)


def test_windows_that_layers_do_not_name_are_refused_or_bound_a_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = random_model("Phimoe", tmp_path / "model", **SIZES | EXPERTS | {"sliding_window": 16})
    assert open_policy(place).max_positions == longest_sequence(place) == 16
    place = random_model("Mistral", tmp_path / "other", **SIZES | {"sliding_window": 32})
    assert open_policy(place).max_positions == 64
    monkeypatch.setattr("holdfast.training.policy.adapters._windows", lambda *_: [32, None])
    with pytest.raises(hf.StudyError, match=r"attend over windows of \[32, 32\], its configuration says \[32, None\]"):
        open_policy(place)


def test_the_probe_finds_a_head_of_another_kind(base: Path) -> None:
    """In 16 bits too: a factor on logits that no rule here knows of."""
    for options in ({"lora_r": 2}, {"lora_r": 2, "precision": "bf16"}):
        policy = HubModel(base, **options)
        policy._base.get_output_embeddings().register_forward_hook(lambda _module, _inputs, logits: logits * 60)
        with pytest.raises(hf.StudyError, match=r"log-probabilities differ by \S+ nats a token"):
            policy._check_passes()


def test_a_network_can_be_given(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(base)
    policy = HubModel(base.parent / "random", network=network, lora_r=2)
    assert apart(logprobs(policy), logprobs(open_policy(base))) < EXACT
    names = [name for name, _ in policy.named_weights()]
    assert len(names) == len(policy.trainable()) == 28 and all("lora_" in name for name in names)
    with pytest.raises(hf.StudyError, match="an adapter needs a base with weights"):
        policy.save(base.parent / "saved")


def test_what_cannot_be_opened_is_told(base: Path, tmp_path: Path) -> None:
    for options in ({}, {"lora_r": 2}):
        with pytest.raises(hf.StudyError, match=r"none: no model directory .*; give a path that holds config.json"):
            open_policy(tmp_path / "none", **options)
    (base / "model.safetensors").unlink()
    with pytest.raises(hf.StudyError, match=r"base: holds no weights in safetensors; name the directory of a model"):
        open_policy(base, lora_r=2)
    sizes = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    with pytest.raises(hf.StudyError, match=r"gpt2: none of its modules is one that adapters change; use lora_r = 0"):
        open_policy(random_model("GPT2", tmp_path / "gpt2", **sizes, bos_token_id=1, eos_token_id=2), lora_r=2)
