"""Log-probabilities and DPO loss equal those of TRL's trainer on the same pairs, under both loss masks."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import tiny_office as office
import torch

from holdfast.models import chat_messages, chat_tools
from holdfast.models.tiny_chat import TinyChat
from holdfast.training.adapters import open_policy
from holdfast.training.batches import pair_batches
from holdfast.training.loop import _score_rows, reference_logprobs, train_dpo, train_sft
from holdfast.training.objectives import dpo

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")
# TRL asks transformers by a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

BETA = 0.3
POLICIES = {"careful": office.careful, "careless": office.careless, "refusing": office.refusing}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference, and a policy that a preference stage has moved away from it."""
    root = tmp_path_factory.mktemp("parity")
    start = office.make_model(root / "fresh")
    chat = TinyChat.load(start)
    base = train_sft(start, office.demonstrations(chat), office.TEACHING, seed=0, out_dir=root / "base").path
    pairs, encoded = office.preferences(chat)
    stage = replace(office.STAGE, steps=6, pairs_per_step=6)
    moved = train_dpo(base, pairs, encoded, stage, seed=0, save_at=[6], out_dir=root / "moved")[0].path
    return base, moved


def their_trainer(base, moved, pairs, out, collator=None):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    def side(name):
        thing, policy = name.split("/")
        return chat_messages(POLICIES[policy](thing))

    rows = [
        {
            "prompt": chat_messages(office.opening(pair.case_id)),
            "chosen": side(pair.chosen),
            "rejected": side(pair.rejected),
            "tools": chat_tools(office.TOOLS),
        }
        for pair in pairs
    ]
    config = DPOConfig(
        output_dir=str(out),
        beta=BETA,
        per_device_train_batch_size=len(pairs),
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        report_to="none",
        dataloader_pin_memory=False,
        max_length=None,
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(moved),
        ref_model=AutoModelForCausalLM.from_pretrained(base),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=collator,
    )


def agent_collator(chat):
    """TRL's collator with the tools' answers taken out of the completion mask."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class AgentOnly(DataCollatorForPreference):
        def torch_call(self, examples):
            batch = super().torch_call(examples)
            answer, end = chat.ids["<obs>"], chat.ids["<end>"]
            for ids, mask in zip(batch["input_ids"].tolist(), batch["completion_mask"], strict=True):
                inside = False
                for place, token in enumerate(ids):
                    inside = inside or token == answer
                    if inside:
                        mask[place] = 0
                    inside = inside and token != end
            return batch

    return AgentOnly(pad_token_id=chat.ids["<pad>"])


@pytest.mark.parametrize("loss_mask", ["completion", "agent"])
def test_same_logprobs_and_loss_as_trl(models, tmp_path, loss_mask):
    base, moved = models
    chat = TinyChat.load(base)
    pairs, encoded = office.preferences(chat)
    collator = agent_collator(chat) if loss_mask == "agent" else None
    trainer = their_trainer(base, moved, pairs, tmp_path, collator)
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
        assert torch.allclose(ours, their, atol=1e-5, rtol=1e-6)
    chosen, rejected = zip(*(part.chunk(2) for part in sums), strict=True)
    ours = dpo(chosen[0], rejected[0], chosen[1], rejected[1], beta=BETA)
    assert ours.loss.item() == pytest.approx(loss, abs=1e-5)
    assert abs(loss - np.log(2)) > 0.05  # the policy is not its reference, so the comparison says something
    assert trainer._metrics["eval"]["rewards/margins"][-1] == pytest.approx(ours.margin.item(), abs=1e-5)
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


def test_one_step_moves_the_weights_as_trl_does(models, tmp_path):
    """The gradient of a whole batch, rows shared between pairs on our side and repeated on theirs."""
    base, moved = models
    chat = TinyChat.load(base)
    pairs, encoded = office.preferences(chat)
    trainer = their_trainer(base, moved, pairs, tmp_path)
    inputs = trainer.data_collator([trainer.train_dataset[number] for number in range(len(pairs))])
    trainer.compute_loss(trainer.model, dict(inputs)).backward()
    expected = trainer.model.model.embed_tokens.weight.grad

    policy = open_policy(moved)
    stream = pair_batches(
        pairs, encoded, pairs_per_step=len(pairs), loss_mask="completion", rng=np.random.default_rng(0)
    )
    batch = next(stream)
    scores = _score_rows(policy, batch.blocks)
    known = reference_logprobs(base, batch.rows, encoded, "completion")
    reference = torch.tensor([known[name] for name in batch.rows])
    result = dpo(
        scores[batch.chosen], scores[batch.rejected], reference[batch.chosen], reference[batch.rejected], beta=BETA
    )
    result.loss.backward()
    assert expected.abs().max() > 1e-3
    assert torch.allclose(policy.head().grad, expected, atol=1e-5, rtol=1e-4)
