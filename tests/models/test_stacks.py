"""Stacked directories: one adapter on a base found by name and digest, read whole, merged and written out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from builders import tiny_office as office
from rounding import EXACT, apart, rounding, within

import holdfast as hf
from holdfast.models.directories import stacks
from holdfast.models.directories.opening import read_weights, write_whole
from holdfast.models.directories.stacks import Lora, base_of, read_stack, write_stack
from holdfast.models.tiny.llama import LlamaShape
from holdfast.models.tiny.model import TinyModel
from holdfast.store import weights

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIRST, SECOND = Lora(r=4, alpha=10.0), Lora(r=3, alpha=7.0, dropout=0.25, rslora=True)


def random_factors(base: Path, rank: int, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in read_weights(base).items():
        if name.removesuffix(".weight").endswith(TARGETS):
            rows, columns = weight.shape
            down = 0.1 * torch.randn(rank, columns, generator=generator)
            found[name.removesuffix(".weight")] = (down, 0.1 * torch.randn(rows, rank, generator=generator))
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return office.make_model(tmp_path / "weights" / "base")


@pytest.fixture
def two(base: Path) -> tuple[Path, Path]:
    """A first stage and one on top of it, beside their base."""
    one, other = base.parent / "one", base.parent / "two"
    digest = stacks.digest_weights(base)
    write_stack(one, random_factors(base, 4, 1), FIRST, base=base, digest=digest)
    write_stack(other, random_factors(base, 3, 2), SECOND, base=base, digest=digest, earlier=read_stack(one))
    for place in (one, other):
        stacks.copy_text_files(base, place)
    return one, other


def test_stages_add_up(base: Path, two: tuple[Path, Path]) -> None:
    """W + s1 B1 A1 + s2 B2 A2, by hand in 64 bits; what no adapter changes is the base's to the bit."""
    whole, found = read_weights(base), read_weights(two[1])
    first, second = random_factors(base, 4, 1), random_factors(base, 3, 2)
    assert set(found) == set(whole) and len(first) == 14
    for name, weight in whole.items():
        module = name.removesuffix(".weight")
        if module not in first:
            assert torch.equal(found[name], weight)
            continue
        changes = [
            up.double() @ down.double() * s for (down, up), s in ((first[module], 2.5), (second[module], 7 / 3**0.5))
        ]
        # Seven products and the base's weight.
        assert within(apart([found[name].double()], [weight.double() + sum(changes)]), rounding(8))
        assert (found[name] - weight).abs().max() > 0.01
    assert read_stack(two[1]).ranks == (4, 3)


def test_the_earlier_stage_stays_to_the_bit(two: tuple[Path, Path]) -> None:
    early, late = read_stack(two[0]).factors, read_stack(two[1]).factors
    for module, (down, up) in early.items():
        assert torch.equal(late[module][0][:4], down) and torch.equal(late[module][1][:, :4], up)


# The warning is of peft's own call of transformers.
@pytest.mark.parametrize("stage", [0, 1])
def test_peft_loads_and_merges_the_same(stage: int, base: Path, two: tuple[Path, Path]) -> None:
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), two[stage])
    merged = dict(adapted.merge_and_unload().state_dict())
    for name, weight in read_weights(two[stage]).items():
        assert within(apart([weight], [merged[name]]), rounding(8)), name
    assert PeftConfig.from_pretrained(two[stage]).lora_dropout == (0.0, 0.25)[stage]


def test_a_stack_is_sampled_as_its_merged_weights(two: tuple[Path, Path], tmp_path: Path) -> None:
    from holdfast.models import Conversation

    whole = tmp_path / "elsewhere" / "whole"
    whole.mkdir(parents=True)
    write_whole(two[1], whole)
    assert LlamaShape.read(two[1]) == LlamaShape.read(whole) is not None
    talks = [Conversation(messages=office.opening(thing), tools=office.TOOLS) for thing in office.THINGS]
    replies = [
        TinyModel.load(place).reply(office.asks(talks, office.generators(len(talks)), temperature=1.0, max_tokens=20))
        for place in (two[1], whole, two[0])
    ]
    assert replies[0] == replies[1] != replies[2]


@pytest.mark.usefixtures("in_64_bits")
def test_transformers_loads_a_stack_right_or_not_at_all(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has no configuration of its own, so that only its base has weights to start from."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(two[0])("delete the file").input_ids
    with pytest.raises(OSError, match=r"\.\./base"):
        AutoModelForCausalLM.from_pretrained(two[0])
    monkeypatch.chdir(two[0])
    model = AutoModelForCausalLM.from_pretrained(".")
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([[1, 5, 6, 7]])).logits
        llama = TinyModel.load(two[0]).llama
        assert apart([llama(torch.tensor([[1, 5, 6, 7]])) @ llama.head.T], [theirs]) < EXACT


# --- where the base is -----------------------------------------------------------------------------------------


def test_a_stack_is_right_before_and_after_the_store_adopts_it(base: Path, tmp_path: Path) -> None:
    root = base.parent
    adopted = root / weights.adopt(base, root)
    scratch = root / f"{weights.TEMPORARY}abc-1" / "step-000010"
    digest = stacks.digest_weights(adopted)
    write_stack(scratch, random_factors(adopted, 4, 1), FIRST, base=adopted, digest=digest)
    before = read_weights(scratch)
    place = root / weights.adopt(scratch, root)
    after = read_weights(place)
    assert base_of(place) == adopted and all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((place / "stack.json").read_text())["path"] is None
    root.rename(tmp_path / "moved")
    assert base_of(tmp_path / "moved" / place.name) == tmp_path / "moved" / adopted.name


def test_files_depend_on_no_place(base: Path, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        root = tmp_path / f"run-{number}" / "deep" / "weights"
        shutil.copytree(base, root / "base")
        factors, digest = random_factors(base, 4, 1), stacks.digest_weights(base)
        write_stack(root / f"a{number}" / "x", factors, FIRST, base=root / "base", digest=digest)
        digests.append(weights.digest_directory(root / f"a{number}" / "x"))
    assert digests[0] == digests[1]


def test_a_base_out_of_reach_of_names_is_found_by_its_path(base: Path, tmp_path: Path) -> None:
    away = tmp_path / "away" / "stage"
    write_stack(away, random_factors(base, 4, 1), FIRST, base=base, digest=stacks.digest_weights(base))
    assert base_of(away) == base
    shutil.move(base, away.parent / "base")
    assert base_of(away) == away.parent / "base"


def test_a_base_that_is_gone_or_another_is_refused(base: Path, two: tuple[Path, Path]) -> None:
    base.rename(base.parent / "hidden")
    for read in (read_weights, TinyModel.load, LlamaShape.read):
        with pytest.raises(hf.StoreError, match=r"one: its base base \(digest .*…\) is not found; put .*weights/base$"):
            read(two[0])
    office.make_model(base, seed=5)
    with pytest.raises(
        hf.StoreError, match=r"weights/base holds other weights than the base base .*; put that base there"
    ):
        read_weights(two[0])
    shutil.rmtree(base)
    (base.parent / "hidden").rename(base)
    read_weights(two[0])


@pytest.mark.parametrize("name", ["../base", "", "/etc", ".."])
def test_a_base_is_named_by_a_plain_name(name: str, two: tuple[Path, Path]) -> None:
    note = json.loads((two[0] / "stack.json").read_text()) | {"base": name}
    (two[0] / "stack.json").write_text(json.dumps(note))
    with pytest.raises(hf.StoreError, match=r"stack.json: names no base; train the stage again"):
        base_of(two[0])


@pytest.mark.parametrize("damage", ["note", "ranks", "settings", "rank", "missing", "torn", "stranger"])
def test_a_damaged_stack_is_refused(damage: str, two: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file, save_file

    place = two[0]
    note, config, file = place / "stack.json", place / "adapter_config.json", place / "adapter_model.safetensors"
    if damage == "note":
        note.write_text("{")
    elif damage == "ranks":
        note.write_text(json.dumps(json.loads(note.read_text()) | {"ranks": [2, 1]}))
    elif damage == "settings":
        config.write_text("{}")
    elif damage == "rank":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 3}))
    elif damage == "torn":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        stored = load_file(file)
        name = next(iter(stored))
        if damage == "missing":
            del stored[name]
        else:
            for side in "AB":
                stored[f"base_model.model.other.lora_{side}.weight"] = stored.pop(
                    f"base_model.model.model.layers.0.mlp.up_proj.lora_{side}.weight"
                )
        save_file(stored, file)
    with pytest.raises((hf.StoreError, hf.StudyError), match=r"one.*; (train the stage|make the model) again"):
        read_weights(place)


# --- files -----------------------------------------------------------------------------------------------------


def test_sharded_and_16_bit_bases_merge(base: Path, tmp_path: Path) -> None:
    """Merged in 32 bits and rounded once, shard by shard, under the base's own index."""
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "weights" / "sharded"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    plain = read_weights(sharded)
    assert all(torch.equal(weight, read_weights(base)[name].bfloat16()) for name, weight in plain.items())
    place, whole = tmp_path / "weights" / "stage", tmp_path / "whole"
    write_stack(place, random_factors(base, 4, 1), FIRST, base=sharded, digest=stacks.digest_weights(sharded))
    whole.mkdir()
    write_whole(place, whole)
    found = read_weights(place)
    for name, weight in AutoModelForCausalLM.from_pretrained(whole).state_dict().items():
        if name in found:
            assert weight.dtype == torch.bfloat16 and torch.equal(weight, found[name].bfloat16()), name
    assert found["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(hf.StudyError, match=r"index.json: names no weights beside it"):
        read_weights(sharded)


def test_a_base_without_safetensors_is_told_before_training(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(hf.StudyError, match=r"model.safetensors: cannot be read .*; an adapter needs a base"):
        stacks.digest_weights(base)
