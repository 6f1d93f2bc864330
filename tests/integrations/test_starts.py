"""The parent of a training loop's gate: the model as it was before, in its directory or in a copy, and adapters."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import training_loops as loops
from builders.chat_samples import make_base
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from holdfast.integrations import SafetyGate
from holdfast.models.directories.opening import holds_weights, same_weights
from holdfast.records.errors import StudyError

pytest.importorskip("trl")


def gate_of(suite: Path, **changes: Any) -> SafetyGate:
    return SafetyGate(loops.RULES, suite=suite, where="here", cases=loops.FEW, **changes)


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 2, "lora_dropout": 0.5, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | changes)


def parent_of(checkpoint: Path) -> Path:
    (verdict,) = loops.read_verdict(checkpoint)["verdicts"]
    return Path(verdict["sources"]["parent"]["model"])


def test_a_directory_holds_a_network_by_its_values(tmp_path: Path) -> None:
    """At the lower of two precisions, with tied weights stored once; other names and sizes are no answer or a no."""
    from transformers import AutoModelForCausalLM

    home = make_base(tmp_path / "base", hidden=32, heads=2)
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
    assert holds_weights(home, model.state_dict()) is True
    half = AutoModelForCausalLM.from_pretrained(home, dtype=torch.bfloat16)
    assert holds_weights(home, half.state_dict()) is True
    half.save_pretrained(tmp_path / "half")
    assert holds_weights(tmp_path / "half", model.state_dict()) is True
    with torch.no_grad():
        model.lm_head.weight[3, 3] += 0.5
    assert holds_weights(home, model.state_dict()) is False
    more = AutoModelForCausalLM.from_pretrained(home)
    more.resize_token_embeddings(512)
    assert holds_weights(home, more.state_dict()) is False
    (path,) = home.glob("*.safetensors")
    stored = load_file(path)
    untied = {**half.state_dict(), "more.weight": torch.zeros(2)}
    assert holds_weights(home, untied) is None
    save_file({f"other.{name}": weight for name, weight in stored.items()}, path, metadata={"format": "pt"})
    assert holds_weights(home, half.state_dict()) is None


def test_a_model_that_no_directory_holds_is_copied(start: Path, suite: Path, tmp_path: Path) -> None:
    """Changed after it was loaded, as by a merge: held against its directory, the change would count as training."""
    model, _ = loops.load(start)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] += 1.0
    begun = model.model.embed_tokens.weight.detach().clone()
    loops.sft(start, tmp_path / "out", model=model, callbacks=[gate_of(suite)], max_steps=1).train()
    copy = tmp_path / "out" / "_holdfast" / "start"
    assert parent_of(tmp_path / "out" / "checkpoint-1") == copy.resolve() and not same_weights(copy, start)
    assert torch.equal(load_file(copy / "model.safetensors")["model.embed_tokens.weight"], begun)
    gate = gate_of(suite)  # resumed, it is the same copy, though the model in memory is trained already
    loops.sft(start, tmp_path / "out", callbacks=[gate]).train(
        resume_from_checkpoint=str(tmp_path / "out/checkpoint-1")
    )
    assert parent_of(tmp_path / "out" / "checkpoint-2") == copy.resolve() and list(gate.verdicts) == [2]
    assert torch.equal(load_file(copy / "model.safetensors")["model.embed_tokens.weight"], begun)


def test_training_that_goes_on_has_to_know_its_start(start: Path, suite: Path, tmp_path: Path) -> None:
    loops.sft(start, tmp_path).train()
    last = str(tmp_path / "checkpoint-1")
    with pytest.raises(StudyError, match=r"does not say what it began with; give SafetyGate\(parent=...\)"):
        loops.sft(start, tmp_path, callbacks=[gate_of(suite)]).train(resume_from_checkpoint=last)
    given = shutil.copytree(start, tmp_path / "given")
    gate = gate_of(suite, parent=given)
    loops.sft(start, tmp_path, callbacks=[gate]).train(resume_from_checkpoint=last)
    assert list(gate.verdicts) == [2] and parent_of(tmp_path / "checkpoint-2") == given.resolve()


def test_a_training_that_broke_off_keeps_its_start(start: Path, suite: Path, tmp_path: Path) -> None:
    """A trainer that tries again with a smaller batch has trained the model in memory meanwhile."""
    gate = gate_of(suite)
    trainer = loops.sft(start, tmp_path, callbacks=[gate], max_steps=1)
    gate.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    with torch.no_grad():
        trainer.model.model.embed_tokens.weight[5] += 1.0
    trainer.train()
    assert parent_of(tmp_path / "checkpoint-1") == start.resolve()
    again = loops.sft(start, tmp_path / "other", model=trainer.model, callbacks=[gate], max_steps=1)
    again.train()  # which has ended: the next begins with what it made
    assert parent_of(tmp_path / "other" / "checkpoint-1") == (tmp_path / "other" / "_holdfast" / "start").resolve()


def test_a_start_that_is_written_over_is_no_parent_any_more(start: Path, suite: Path, tmp_path: Path) -> None:
    """As where a checkpoint is trained on into the place that it lies in: it would be held against itself."""
    base = shutil.copytree(start, tmp_path / "checkpoint-2")
    gate = gate_of(suite)
    loops.sft(base, tmp_path, callbacks=[gate], max_steps=3).train()
    assert gate.verdicts == {1: gate.verdicts[1], 2: "ERROR", 3: "ERROR"} and gate.verdicts[1] != "ERROR"
    told = "is no longer the model that training began with"
    assert all(told in loops.read_verdict(tmp_path / f"checkpoint-{step}")["error"] for step in (2, 3))


def test_adapters_are_gated_on_their_base(plain: Path, suite: Path, tmp_path: Path) -> None:
    """As PEFT saves them, with dropout that draws random numbers; the start is the adapter that changes nothing."""
    gate = gate_of(suite)
    loops.dpo(plain, tmp_path / "out", peft=lora(), callbacks=[gate], learning_rate=0.1).train()
    assert list(gate.verdicts) == [1, 2] and "ERROR" not in gate.verdicts.values()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert (checkpoint / "adapter_config.json").is_file() and not [*checkpoint.glob("model*.safetensors")]
    begun = parent_of(checkpoint)
    assert begun == (tmp_path / "out" / "_holdfast" / "start").resolve()
    ups = [weight for name, weight in load_file(begun / "adapter_model.safetensors").items() if "lora_B" in name]
    assert ups and not any(weight.any() for weight in ups)
    loops.dpo(plain, tmp_path / "plain", peft=lora(), learning_rate=0.1).train()
    places = [tmp_path / name / "checkpoint-2" / "adapter_model.safetensors" for name in ("out", "plain")]
    assert places[0].read_bytes() == places[1].read_bytes()


def test_an_adapter_that_goes_on_is_its_own_start(start: Path, suite: Path, tmp_path: Path) -> None:
    """Not its base: what an earlier stage has changed is no change of this one."""
    model, _ = loops.load(start)
    wrapped = get_peft_model(model, lora(init_lora_weights=False))
    loops.sft(start, tmp_path, model=wrapped, callbacks=[gate_of(suite)], max_steps=1, learning_rate=0.0).train()
    begun = parent_of(tmp_path / "checkpoint-1")
    stored = [load_file(place / "adapter_model.safetensors") for place in (begun, tmp_path / "checkpoint-1")]
    assert all(torch.equal(stored[0][name], weight) for name, weight in stored[1].items())
    assert any(weight.any() for name, weight in stored[0].items() if "lora_B" in name)


def test_an_adapter_on_a_base_that_lies_nowhere_is_refused(start: Path, suite: Path, tmp_path: Path) -> None:
    """Its checkpoints name a base that is another than it was trained on, or none."""
    model, _ = loops.load(start)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] += 1.0
    trainer = loops.sft(start, tmp_path, model=model, peft=lora(), callbacks=[gate_of(suite)])
    with pytest.raises(StudyError, match="which holds other weights than the model in memory"):
        trainer.train()
    model, _ = loops.load(start)
    trainer = loops.sft(start, tmp_path, model=model, peft=lora(), callbacks=[gate_of(suite)])
    trainer.model.peft_config["default"].base_model_name_or_path = None
    with pytest.raises(StudyError, match="base was loaded from no directory"):
        trainer.train()
    model, _ = loops.load(start)
    wrapped = get_peft_model(model, lora(), adapter_name="mine")
    trainer = loops.sft(start, tmp_path, model=wrapped, callbacks=[gate_of(suite)])
    with pytest.raises(StudyError, match="the model's adapters are mine, and what is trained is not the one"):
        trainer.train()
    assert not [*tmp_path.glob("checkpoint-*")]
