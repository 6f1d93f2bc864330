"""Losses, gradients and trained weights of supervised fine-tuning equal those of TRL's SFTTrainer on the same chats."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from builders import tiny_office as office
from rounding import EXACT, apart
from safetensors.torch import load_file
from trl_settings import AS_OURS

from holdfast.models import chat_messages
from holdfast.models.entries import ModelEntry
from holdfast.models.hub.chat import HubChat
from holdfast.models.hub.random_base import build_random
from holdfast.models.tiny.chat import TinyChat
from holdfast.models.tiny.llama import TinyLlama
from holdfast.study.stages import DemonstrationSection
from holdfast.training.encoding import encode_episode
from holdfast.training.loop.passes import descend
from holdfast.training.policy.adapters import HubModel, open_policy
from holdfast.training.sft.stage import imitate
from holdfast.training.trees.parts import demonstration_step

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")
pytestmark = [
    pytest.mark.usefixtures("one_thread", "module_in_64_bits"),
]
POLICIES = (office.careful, office.careless, office.refusing)
STEPS = 20
SETTINGS = DemonstrationSection(
    steps=STEPS, examples_per_step=18, learning_rate=1e-3, warmup_steps=0, max_grad_norm=1.0
)
RANDOM = ModelEntry(
    kind="random", hidden=32, layers=2, heads=2, key_value_heads=1, ffn=48, vocabulary=340, max_positions=2048
)


@pytest.fixture(scope="module", params=["tiny", "qwen2"])
def model(request, tmp_path_factory):
    """A directory that TRL opens too, its chat format, and demonstrations in it by name."""
    directory = tmp_path_factory.mktemp("sft") / "model"
    if request.param == "tiny":
        office.make_model(directory)
        chat = TinyChat.load(directory)
    else:
        texts = [office.SYSTEM, *office.LEXICON]
        build_random(directory, RANDOM, texts, seed=0)
        chat = HubChat(directory, calls="native")
    encoded = {
        f"{thing}/{policy.__name__}": encode_episode(chat, office.opening(thing), policy(thing))
        for thing in office.THINGS
        for policy in POLICIES
    }
    return directory, encoded


def rows():
    for thing in office.THINGS:
        for policy in POLICIES:
            yield {
                "prompt": chat_messages(office.opening(thing)),
                "completion": chat_messages(policy(thing)),
            }


def collator(directory, encoded):
    """TRL's collator; the agent's own tokens alone are labels, without the answers and the headers of turns."""
    from transformers import AutoTokenizer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    masks = {tuple(item.ids.tolist()): item.picked("agent") for item in encoded.values()}

    class Collator(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            batch = super().torch_call(examples)
            for row, example in enumerate(examples):
                mask = torch.from_numpy(masks[tuple(example["input_ids"])])
                batch["labels"][row, : len(mask)][~mask] = -100
            return batch

    return Collator(pad_token_id=AutoTokenizer.from_pretrained(directory).pad_token_id)


def their_trainer(directory, encoded, out):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=len(office.THINGS) * len(POLICIES),
        max_steps=STEPS,
        learning_rate=1e-3,
        completion_only_loss=True,
        **AS_OURS,
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.get_default_dtype()),
        args=config,
        train_dataset=Dataset.from_list(list(rows())),
        processing_class=AutoTokenizer.from_pretrained(directory),
        data_collator=collator(directory, encoded),
    )


def test_same_loss_and_gradients_as_trl(model, tmp_path):
    directory, encoded = model
    trainer = their_trainer(directory, encoded, tmp_path)
    examples = [trainer.train_dataset[number] for number in range(len(encoded))]
    assert sorted(tuple(one["input_ids"]) for one in examples) == sorted(
        tuple(item.ids.tolist()) for item in encoded.values()
    )
    batch = trainer.data_collator(examples)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    policy = open_policy(directory)
    scored = int((batch["labels"] != -100).sum())
    items = list(encoded.values())
    assert scored == sum(int(item.picked("agent").sum()) for item in items)
    step = demonstration_step([replace(item, agent=item.picked("agent")) for item in items], 0.0)
    whole, cut = step.parts(100_000), step.parts(max(len(item.ids) for item in items))
    assert len(whole) == 1 < len(cut)
    assert sum(descend(policy, part, 100_000).loss for part in whole) == pytest.approx(loss.item(), rel=EXACT)
    theirs = {name: weight.grad for name, weight in trainer.model.named_parameters()}
    ours = gradients(policy, directory, theirs)
    assert ours.keys() == theirs.keys() and len(theirs) > 10
    for name, gradient in theirs.items():
        assert gradient.norm() > 1e-6, name
        assert apart([ours[name]], [gradient]) < EXACT, name


def gradients(policy, directory, names):
    """The policy's gradients under the names that transformers has."""
    if isinstance(policy, HubModel):
        return {name: weight.grad for name, weight in zip(names, policy.trainable(), strict=True)}
    # Gradients go into a model's place for weights, which names them as transformers does.
    fused = TinyLlama(TinyLlama.load(directory).shape)
    for place, weight in zip(fused.parameters(), policy.trainable(), strict=True):
        place.data.copy_(weight.grad)
    return fused.export_weights()


def test_same_weights_after_twenty_steps_as_trl(model, tmp_path):
    directory, encoded = model
    trainer = their_trainer(directory, encoded, tmp_path / "theirs")
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    result = imitate(directory, encoded, SETTINGS, seed=3, save_at=[STEPS], out_dir=tmp_path / "ours")[0]
    assert list(result.losses) == pytest.approx(losses, rel=1e-4)
    found, start = (load_file(place / "model.safetensors") for place in (result.path, directory))
    for name, weight in trainer.model.named_parameters():
        assert (weight - start[name]).abs().max() > 1e-3, name
        assert apart([found[name].double()], [weight.double()]) < EXACT, name
