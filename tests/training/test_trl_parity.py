"""Log-probabilities, losses, gradients, orders and trained weights equal those of TRL's trainer on the same pairs."""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest
import torch
from builders import tiny_office as office
from rounding import EXACT, apart
from safetensors.torch import load_file
from trl_settings import ON_A_PROCESSOR

from holdfast.models import chat_messages, chat_tools
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import TinyLlama
from holdfast.study.stages import StageSection
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.dpo.stage import reference_logprobs, train_dpo
from holdfast.training.loop.loop import Loop, isolated
from holdfast.training.loop.passes import descend
from holdfast.training.objectives import dpo
from holdfast.training.policy.adapters import HubModel, open_policy
from holdfast.training.sft.stage import train_sft
from holdfast.training.trees.parts import pair_step

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")
# TRL asks transformers by a name that transformers is about to drop.
pytestmark = [
    pytest.mark.usefixtures("one_thread", "module_in_64_bits"),
]

BETA = 0.3
POLICIES = {"careful": office.careful, "careless": office.careless, "refusing": office.refusing}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference, and a policy that a preference stage has moved away from it."""
    root = tmp_path_factory.mktemp("parity")
    start = office.make_model(root / "fresh")
    chat = TinyChat.load(start)
    base = train_sft(start, office.demonstrations(chat), office.TEACHING, steps=60, seed=0, out_dir=root / "base").path
    pairs, encoded = office.preferences(chat)
    moved = train_dpo(base, pairs, encoded, office.STAGE, seed=0, save_at=[6], out_dir=root / "moved")[0].path
    return base, moved


@pytest.fixture(scope="module")
def data(models):
    return office.preferences(TinyChat.load(models[0]))


def load(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def make_rows(pairs):
    from datasets import Dataset

    def side(name):
        thing, policy = name.split("/")
        return chat_messages(POLICIES[policy](thing))

    return Dataset.from_list(
        [
            {
                "prompt": chat_messages(office.opening(pair.case_id)),
                "chosen": side(pair.chosen),
                "rejected": side(pair.rejected),
                "tools": chat_tools(office.TOOLS),
            }
            for pair in pairs
        ]
    )


def their_trainer(base, model, pairs, out, *, collator=None, adapter=None, **changed):
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    common = {
        "beta": BETA,
        "per_device_train_batch_size": len(pairs),
        "max_length": None,
        **ON_A_PROCESSOR,
        "logging_strategy": "no",
    }
    return DPOTrainer(
        model=load(model),
        ref_model=None if adapter else load(base),
        args=DPOConfig(output_dir=str(out), **(common | changed)),
        train_dataset=make_rows(pairs),
        processing_class=AutoTokenizer.from_pretrained(base),
        data_collator=collator,
        peft_config=adapter,
    )


def preference_collator(chat, agent_only=True, seen=None):
    """TRL's collator; takes the tools' answers out of the completion mask, or notes which rows it is given."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class Collator(DataCollatorForPreference):
        def torch_call(self, examples):
            batch = super().torch_call(examples)
            if seen is not None:
                seen.append([(tuple(row["chosen_ids"]), tuple(row["rejected_ids"])) for row in examples])
            if not agent_only:
                return batch
            answer, end = chat.ids["<obs>"], chat.ids["<end>"]
            for ids, mask in zip(batch["input_ids"].tolist(), batch["completion_mask"], strict=True):
                inside = False
                for place, token in enumerate(ids):
                    inside = inside or token == answer
                    if inside:
                        mask[place] = 0
                    inside = inside and token != end
            return batch

    return Collator(pad_token_id=chat.ids["<pad>"])


def collator_of(models, loss_mask):
    return preference_collator(TinyChat.load(models[0])) if loss_mask == "agent" else None


def batch_of(trainer):
    return trainer.data_collator([trainer.train_dataset[number] for number in range(len(trainer.train_dataset))])


@pytest.mark.parametrize("loss_mask", ["completion", "agent"])
def test_same_logprobs_and_loss_as_trl(models, data, tmp_path, loss_mask):
    base, moved = models
    pairs, encoded = data
    trainer = their_trainer(base, moved, pairs, tmp_path, collator=collator_of(models, loss_mask))
    examples = [trainer.train_dataset[number] for number in range(len(pairs))]
    for pair, example in zip(pairs, examples, strict=True):
        assert example["prompt_ids"] + example["chosen_ids"] == encoded[pair.chosen].ids.tolist()
        assert example["prompt_ids"] + example["rejected_ids"] == encoded[pair.rejected].ids.tolist()
        assert len(example["prompt_ids"]) == encoded[pair.chosen].prompt
    inputs = trainer.data_collator(examples)
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(inputs)).item()
        theirs = [their_sums(model, inputs) for model in (trainer.model, trainer.ref_model)]

    policy, reference = (reference_logprobs(path, list(encoded), encoded, loss_mask) for path in (moved, base))
    names = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    sums = [torch.tensor([scores[name] for name in names]) for scores in (policy, reference)]
    for ours, their in zip(sums, theirs, strict=True):
        assert apart([ours], [their]) < EXACT
    chosen, rejected = zip(*(part.chunk(2) for part in sums), strict=True)
    ours = dpo(chosen[0], rejected[0], chosen[1], rejected[1], beta=BETA)
    assert ours.loss.item() == pytest.approx(loss, rel=EXACT)
    assert abs(loss - np.log(2)) > 0.05  # the policy is not its reference, so the comparison says something
    assert trainer._metrics["eval"]["rewards/margins"][-1] == pytest.approx(ours.margin.item(), rel=EXACT)
    with_answers = inputs["completion_mask"].sum().item()
    assert with_answers == sum(int(encoded[name].picked(loss_mask).sum()) for name in names)


def their_sums(model, inputs):
    """Summed log-probabilities of the masked tokens as TRL's own forward pass gives them."""
    mask = inputs["completion_mask"]
    labels = inputs["input_ids"].masked_fill(mask == 0, -100)
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        labels=labels,
        fused_lm_head=True,
        use_cache=False,
    )
    return outputs.log_probs[:, -(mask.shape[1] - 1) :].sum(1)


def our_gradients(policy, base, data, loss_mask, objective):
    """The loss of one step of all pairs; gradients are left in the policy's weights."""
    pairs, encoded = data
    reference = reference_logprobs(base, list(encoded), encoded, loss_mask)
    step = pair_step(pairs, encoded, reference, objective.model_copy(update={"loss_mask": loss_mask}))
    return sum(descend(policy, part, 10_000).loss for part in step.parts(10_000))


def assert_same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys() and len(theirs) > 10
    for name, gradient in theirs.items():
        assert gradient.norm() > 1e-5, name
        assert apart([ours[name]], [gradient]) < EXACT, name


@pytest.mark.parametrize(
    ("loss_mask", "theirs", "objective"),
    [
        ("completion", {}, StageSection(objective="safety", beta=BETA)),
        ("agent", {}, StageSection(objective="safety", beta=BETA)),
        ("agent", {"loss_type": "ipo"}, StageSection(objective="safety", beta=BETA, loss="ipo")),
        ("completion", {"loss_type": "hinge", "beta": 0.02}, StageSection(objective="safety", beta=0.02, loss="hinge")),
        ("agent", {"loss_type": "sigmoid_norm"}, StageSection(objective="safety", beta=BETA, length_normalized=True)),
        (
            "completion",
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
            StageSection(objective="safety", beta=BETA, sft_weight=0.2),
        ),
    ],
)
def test_same_gradients_of_all_weights_as_trl(models, data, tmp_path, *, loss_mask, theirs, objective):
    """Of one step of all pairs: trajectories shared between pairs on our side and repeated on theirs."""
    base, moved = models
    trainer = their_trainer(base, moved, data[0], tmp_path, collator=collator_of(models, loss_mask), **theirs)
    loss = trainer.compute_loss(trainer.model, dict(batch_of(trainer)))
    loss.backward()
    policy = open_policy(moved)
    assert our_gradients(policy, base, data, loss_mask, objective) == pytest.approx(loss.item(), rel=EXACT)
    # Gradients go into a model's place for weights, which names them as transformers does.
    fused = TinyLlama(TinyLlama.load(moved).shape)
    for place, weight in zip(fused.parameters(), policy.trainable(), strict=True):
        place.data.copy_(weight.grad)
    assert_same_gradients(
        fused.export_weights(), {name: weight.grad for name, weight in trainer.model.named_parameters()}
    )


def lora_config():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")


def draw_adapters(ours, theirs):
    """The same numbers into both; returns theirs, which lie in the same order."""
    adapter = [weight for weight in theirs.parameters() if weight.requires_grad]
    generator = torch.Generator().manual_seed(2)
    for one, other in zip(ours.trainable(), adapter, strict=True):
        assert one.shape == other.shape
        one.data.copy_(0.1 * torch.randn(one.shape, generator=generator))
        other.data.copy_(one.data)
    return adapter


@pytest.mark.parametrize("loss_mask", ["completion", "agent"])
def test_same_gradients_of_adapters_as_trl(models, data, tmp_path, loss_mask):
    base, _ = models
    collator = collator_of(models, loss_mask)
    trainer = their_trainer(base, base, data[0], tmp_path, collator=collator, adapter=lora_config())
    policy = HubModel(base, lora_r=4, lora_alpha=8.0)
    adapter = draw_adapters(policy, trainer.model)
    loss = trainer.compute_loss(trainer.model, dict(batch_of(trainer)))
    loss.backward()
    assert abs(loss.item() - np.log(2)) > 0.01
    assert our_gradients(policy, base, data, loss_mask, StageSection(objective="safety", beta=BETA)) == pytest.approx(
        loss.item(), rel=EXACT
    )
    ours, theirs = ({str(n): w.grad for n, w in enumerate(found)} for found in (policy.trainable(), adapter))
    assert_same_gradients(ours, theirs)


# --- whole runs


RUN = {
    "per_device_train_batch_size": 5,
    "max_steps": 7,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}


def run_theirs(models, data, out, **changed):
    """A trainer that has run, and the pairs of each of its steps."""
    base, _ = models
    chat, seen = TinyChat.load(base), []
    collator = preference_collator(chat, agent_only=False, seen=seen)
    trainer = their_trainer(base, base, data[0], out, collator=collator, **(RUN | changed))
    return trainer, seen


def steps_of(data, seed, count):
    """Our steps, told by the tokens after the prompt."""
    pairs, encoded = data

    def tail(name):
        return tuple(encoded[name].ids[encoded[name].prompt :].tolist())

    order = StageSection(objective="safety", pairs_per_step=RUN["per_device_train_batch_size"], pairwise=True)
    steps = islice(pair_steps(pairs, encoded, order, seed=seed), count)
    return [[(tail(pair.chosen), tail(pair.rejected)) for pair in step] for step in steps]


@pytest.mark.parametrize(
    ("seeds", "ours"), [({"seed": 11}, 11), pytest.param({"seed": 3, "data_seed": 29}, 29, marks=pytest.mark.full)]
)
def test_same_weights_after_steps_of_the_same_pairs_as_trl(models, data, tmp_path, seeds, ours):
    """Two epochs and a bit, each ending in a smaller step; the order's seed is theirs for data, else that of all."""
    base, _ = models
    pairs, encoded = data
    trainer, seen = run_theirs(models, data, tmp_path / "theirs", **seeds)
    trainer.train()
    # Their loader reads a batch ahead.
    assert seen[:7] == steps_of(data, ours, 7) and [len(step) for step in seen[:7]] == [5, 5, 2, 5, 5, 2, 5]
    assert seen[:3] != steps_of(data, ours + 1, 3)
    settings = StageSection(
        objective="safety",
        beta=BETA,
        steps=7,
        pairs_per_step=5,
        learning_rate=1e-3,
        warmup_steps=0,
        max_grad_norm=1.0,
        loss_mask="completion",
        lora_r=0,
        lora_alpha=8.0,
        lora_dropout=0.0,
        pairwise=True,
    )
    path = train_dpo(base, pairs, encoded, settings, seed=ours, save_at=[7], out_dir=tmp_path / "ours")[0].path
    found, start = (load_file(place / "model.safetensors") for place in (path, base))
    for name, weight in trainer.model.named_parameters():
        assert (weight - start[name]).abs().max() > 1e-3
        assert apart([found[name]], [weight]) < EXACT, name


def test_same_adapters_after_steps_of_the_same_pairs_as_trl(models, data, tmp_path):
    base, _ = models
    pairs, encoded = data
    trainer, _ = run_theirs(models, data, tmp_path, adapter=lora_config(), seed=11)
    policy = HubModel(base, lora_r=4, lora_alpha=8.0)
    adapter = draw_adapters(policy, trainer.model)
    start = [weight.detach().clone() for weight in adapter]
    trainer.train()
    with isolated(0):
        reference = reference_logprobs(base, list(encoded), encoded, "completion")
        order = StageSection(objective="safety", pairs_per_step=5, pairwise=True)
        stage = StageSection(objective="safety", beta=BETA, loss_mask="completion")
        steps = (pair_step(taken, encoded, reference, stage) for taken in pair_steps(pairs, encoded, order, seed=11))
        settings = StageSection(objective="safety", steps=7, learning_rate=1e-3, warmup_steps=0, max_grad_norm=1.0)
        assert len(list(Loop(policy, settings, seed=11).run(steps))) == 7
    for one, other, before in zip(policy.trainable(), adapter, start, strict=True):
        assert (other - before).abs().max() > 1e-3
        assert apart([one], [other]) < EXACT
