"""Every loss equals what TRL's own trainers compute on the same model and tokens, and so does its gradient.

The trainers' loss methods run on a batch of random tokens; ours is fed with log-probabilities that are taken
from the logits of the same weights.
"""

from __future__ import annotations

import os

import pytest
import torch
from rounding import EXACT, apart
from trl_settings import ON_A_PROCESSOR

from holdfast.training.objectives import dpo, group_advantages, policy_gradient

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")
# TRL asks transformers by a name that transformers is about to drop.
pytestmark = [
    pytest.mark.usefixtures("one_thread", "module_in_64_bits"),
]

BETA = 0.2
PROMPT, WIDTH = 4, 16
WORDS = ("<pad>", "<eos>", "<unk>", "please", "delete", "file", "memo", *(f"word{number}" for number in range(50)))
COMMON = {**ON_A_PROCESSOR, "per_device_train_batch_size": 6}
CLOSE = {"rel": EXACT, "abs": EXACT}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Directories of a reference and of a policy that is far enough from it for log-ratios of several nats."""
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.1, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for name in ("reference", "policy"):
            LlamaForCausalLM(config).save_pretrained(root / name)
    return root / "reference", root / "policy"


def loaded(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def random_rows(count, seed=0):
    """Tokens [rows, WIDTH], and how many of each row's are a completion's, after PROMPT others; padding follows."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, len(WORDS), (count, WIDTH), generator=generator)
    lengths = torch.randint(2, WIDTH - PROMPT + 1, (count,), generator=generator)
    column = torch.arange(WIDTH)
    attended = column < PROMPT + lengths[:, None]
    return ids * attended, attended.long(), (attended & (column >= PROMPT)).long()


def token_logps(model, ids, attended):
    """The plain way: [rows, WIDTH - 1], of each token given those before it."""
    logits = model(input_ids=ids, attention_mask=attended).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def sums(model, ids, attended, picked):
    return (token_logps(model, ids, attended) * picked[:, 1:]).sum(1)


def assert_same_gradient(ours, theirs):
    assert theirs.abs().max() > 1e-4
    assert apart([ours], [theirs]) < EXACT


def embedding_gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return model.get_input_embeddings().weight.grad.clone()


@pytest.fixture(scope="module")
def dpo_trainer(places, tmp_path_factory):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    reference, policy = places
    trainer = DPOTrainer(
        model=loaded(policy),
        ref_model=loaded(reference),
        args=DPOConfig(output_dir=str(tmp_path_factory.mktemp("dpo")), beta=BETA, max_length=None, **COMMON),
        train_dataset=Dataset.from_list([{"prompt": "please", "chosen": "delete", "rejected": "file"}]),
        processing_class=tokenizer(),
    )
    trainer.model.eval()
    return trainer


@pytest.mark.parametrize(
    ("loss_types", "options"),
    [
        (["sigmoid"], {}),
        (["ipo"], {"loss": "ipo"}),
        (["hinge"], {"loss": "hinge"}),
        (["sigmoid_norm"], {"length_normalized": True}),
        (["sigmoid", "sft"], {"sft_weight": 0.3}),
        (["hinge", "sft"], {"loss": "hinge", "sft_weight": 0.3}),
    ],
    ids=str,
)
def test_dpo_as_trl(dpo_trainer, places, monkeypatch, loss_types, options):
    ids, attended, picked = random_rows(10)
    monkeypatch.setattr(dpo_trainer, "loss_types", loss_types)
    monkeypatch.setattr(dpo_trainer, "loss_weights", [1.0, options.get("sft_weight", 0.0)][: len(loss_types)])
    inputs = {"input_ids": ids, "attention_mask": attended, "completion_mask": picked}
    theirs = dpo_trainer.compute_loss(dpo_trainer.model, inputs)

    policy, reference = (loaded(places[1]), loaded(places[0]))
    chosen, rejected = sums(policy, ids, attended, picked).chunk(2)
    with torch.no_grad():
        known = sums(reference, ids, attended, picked).chunk(2)
    lengths = picked.sum(1).chunk(2)
    ours = dpo(chosen, rejected, *known, beta=BETA, lengths_chosen=lengths[0], lengths_rejected=lengths[1], **options)
    assert ours.loss.item() == pytest.approx(theirs.item(), **CLOSE)
    metrics = dpo_trainer._metrics["eval"]
    assert ours.margin.item() == pytest.approx(metrics["rewards/margins"][-1], **CLOSE)
    assert ours.accuracy.item() == pytest.approx(metrics["rewards/accuracies"][-1], **CLOSE)
    assert 0 < ours.accuracy.item() < 1  # the sides differ both ways, so the comparison says something
    assert_same_gradient(embedding_gradient(policy, ours.loss), embedding_gradient(dpo_trainer.model, theirs))


def test_label_smoothing_as_in_trls_aot_on_one_pair(dpo_trainer, places, monkeypatch):
    """TRL smooths labels the conservative way under ``aot`` alone, which on a batch of one pair sorts nothing."""
    ids, attended, picked = random_rows(10)
    monkeypatch.setattr(dpo_trainer, "loss_types", ["aot"])
    monkeypatch.setattr(dpo_trainer, "loss_weights", [1.0])
    monkeypatch.setattr(dpo_trainer, "label_smoothing", 0.2)
    theirs = []
    with torch.no_grad():
        for place in range(5):
            rows = torch.tensor([place, place + 5])
            inputs = {"input_ids": ids[rows], "attention_mask": attended[rows], "completion_mask": picked[rows]}
            theirs.append(dpo_trainer.compute_loss(dpo_trainer.model, inputs).item())
        policy, reference = (sums(loaded(path), ids, attended, picked).chunk(2) for path in reversed(places))
    ours = dpo(*policy, *reference, beta=BETA, label_smoothing=0.2)
    assert ours.loss.item() == pytest.approx(sum(theirs) / 5, **CLOSE)


@pytest.fixture(scope="module")
def grpo_trainer(places, tmp_path_factory):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("grpo")),
        num_generations=3,
        max_completion_length=WIDTH - PROMPT,
        epsilon=0.2,
        epsilon_high=0.28,
        gradient_accumulation_steps=2,
        **COMMON,
    )
    return GRPOTrainer(
        model=loaded(places[1]),
        reward_funcs=given_reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "please delete", "score": 0.0}] * 6),
        processing_class=tokenizer(),
    )


def given_reward(completions, score, **_):
    """A reward function that answers with the row's own column."""
    return score


def sampled_batch(places, count):
    """TRL's inputs for the loss of ``count`` completions, with tools' tokens masked out of some."""
    ids, attended, picked = random_rows(count, seed=3)
    generator = torch.Generator().manual_seed(4)
    own = (torch.rand(count, WIDTH - PROMPT, generator=generator) > 0.2).long()
    with torch.no_grad():
        policy, reference = (token_logps(loaded(path), ids, attended)[:, PROMPT - 1 :] for path in reversed(places))
    return {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": attended[:, :PROMPT],
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": picked[:, PROMPT:],
        "tool_mask": own,
        "advantages": torch.randn(count, generator=generator),
        "old_per_token_logps": policy + 0.3 * torch.randn(policy.shape, generator=generator),
        "ref_per_token_logps": reference,
        "num_items_in_batch": (picked[:, PROMPT:] * own).sum(),
    }


def our_policy_gradient(model, batch, **options):
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attended = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    picked = (batch["completion_mask"] * batch["tool_mask"]).bool()
    old = batch.get("old_per_token_logps")
    return policy_gradient(
        token_logps(model, ids, attended)[:, PROMPT - 1 :][picked],
        None if old is None else old[picked],
        batch["advantages"],
        picked.nonzero()[:, 0],
        ref_logps=batch["ref_per_token_logps"][picked],
        clip_low=0.2,
        clip_high=0.28,
        **options,
    )


NAMES = {
    "grpo": {"aggregation": "sequence"},
    "dapo": {"aggregation": "token"},
    "dr_grpo": {"aggregation": "constant", "constant_length": WIDTH - PROMPT},
}


@pytest.mark.parametrize("on_policy", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", NAMES)
def test_policy_gradient_as_trl(grpo_trainer, places, loss_type, beta, on_policy):
    batch = sampled_batch(places, 6)
    if on_policy:
        del batch["old_per_token_logps"]
    policy = loaded(places[1])
    ours = our_policy_gradient(policy, batch, kl_weight=beta, **NAMES[loss_type])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo_trainer, "loss_type", loss_type)
        patch.setattr(grpo_trainer, "beta", beta)
        patch.setattr(grpo_trainer.args, "use_bias_correction_kl", True)
        grpo_trainer.model.eval()
        theirs = grpo_trainer.compute_loss(grpo_trainer.model, batch)
    metrics = grpo_trainer._metrics["eval"]
    assert ours.loss.item() == pytest.approx(theirs.item(), **CLOSE)
    assert ours.clip_fraction.item() == pytest.approx(metrics["clip_ratio/region_mean"][-1], **CLOSE)
    assert (ours.clip_fraction.item() == 0) == on_policy
    if beta:
        assert ours.kl.item() == pytest.approx(metrics["kl"][-1], **CLOSE)
    assert_same_gradient(embedding_gradient(policy, ours.loss), embedding_gradient(grpo_trainer.model, theirs))


@pytest.mark.parametrize("loss_type", NAMES)
def test_a_step_in_two_parts_as_trl_accumulates_it(grpo_trainer, places, monkeypatch, loss_type):
    batch = sampled_batch(places, 6)
    monkeypatch.setattr(grpo_trainer, "loss_type", loss_type)
    monkeypatch.setattr(grpo_trainer, "beta", 0.04)
    monkeypatch.setattr(grpo_trainer, "current_gradient_accumulation_steps", 2, raising=False)
    grpo_trainer.model.train()
    policy, options = loaded(places[1]), {"kl_weight": 0.04, **NAMES[loss_type]}
    tokens = batch["num_items_in_batch"].item()
    theirs, ours = [], []
    with torch.no_grad():
        for start in (0, 3):
            part = {name: value[start : start + 3] if value.ndim else value for name, value in batch.items()}
            theirs.append(grpo_trainer.compute_loss(grpo_trainer.model, part).item())
            ours.append(our_policy_gradient(policy, part, total=6, total_tokens=tokens, **options).loss.item())
        whole = our_policy_gradient(policy, batch, **options).loss.item()
    assert ours == pytest.approx(theirs, **CLOSE)
    assert sum(ours) == pytest.approx(whole, **CLOSE)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_as_trl(grpo_trainer, monkeypatch, scale):
    """TRL samples completions of its own and asks for rewards, which are ours; one is missing."""
    scores = [1.0, 0.0, 0.5, 0.25, None, -2.0]
    monkeypatch.setattr(grpo_trainer, "scale_rewards", scale)
    grpo_trainer.model.train()
    rows = [{"prompt": f"please delete {('file', 'memo')[place // 3]}", "score": scores[place]} for place in range(6)]
    theirs = grpo_trainer._generate_and_score_completions(rows)["advantages"]
    rewards = torch.tensor([float("nan") if score is None else score for score in scores])
    ours = group_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 1]), scale)
    assert torch.allclose(ours, theirs, rtol=EXACT, atol=EXACT)
