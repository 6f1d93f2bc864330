"""The benchmark for accelerators runs here too, on a tiny model; its operations are those that torch counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.places import ROOT
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_flops
import published_pairs
import trees_gpu
from gpu_models import RANK, SHAPES, make_network, measure_matmul, peak_gb
from gpu_sample import make_sample, read_sample, write_sample

from holdfast.records import PreferencePair
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded
from holdfast.training.loop.passes import descend
from holdfast.training.policy import adapters
from holdfast.training.policy.adapters import HubModel
from holdfast.training.trees.trees import grow

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TEXT = "You are an agent with tools. The user asks for help; think first, then call one tool, then answer briefly. "


@pytest.fixture(scope="module")
def sample_file(tmp_path_factory):
    """Three cases of three chosen and three rejected answers to a long prompt, as --prepare writes them."""
    rng = np.random.default_rng(0)
    tokenizer = published_pairs._train_tokenizer([TEXT * 4], 400)
    words = [tokenizer.encode(word).ids for word in TEXT.split(" ")]
    encoded, pairs = {}, []
    for case in range(3):
        prompt = np.concatenate([words[n] for n in rng.integers(len(words) - 1, size=20)])
        stems = [np.concatenate([words[n] for n in rng.integers(len(words) - 1, size=4)]) for _ in range(2)]
        names = [f"case-{case}/{number}" for number in range(6)]
        for number, name in enumerate(names):
            ids = np.concatenate([prompt, stems[number % 2], words[number], [1]]).astype(np.int64)
            encoded[name] = Encoded(ids=ids, agent=np.arange(len(ids)) >= len(prompt), prompt=len(prompt))
        pairs += [
            PreferencePair(
                case_id=f"case-{case}", chosen=one, rejected=other, objectives=("safety",), judge="none", gap=1.5
            )
            for one in names[:3]
            for other in names[3:]
        ]
    path = tmp_path_factory.mktemp("pairs") / "sample.npz"

    class Fast:
        backend_tokenizer = tokenizer

    write_sample(path, make_sample(pairs, encoded, Fast()))
    back = read_sample(path)
    assert back.pairs == tuple(pairs)
    for name, item in encoded.items():
        assert np.array_equal(back.encoded[name].ids, item.ids) and back.encoded[name].prompt == item.prompt
        assert np.array_equal(back.encoded[name].agent, item.agent)
    return path


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL on names that transformers moves away from
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_whole_path_runs_on_a_cpu(sample_file, capsys):
    few = ["--tree-steps", "1", "--peer-steps", "1", "--micro-batches", "2"]
    trees_gpu.main(["--json", "--pairs", str(sample_file), "--shape", "tiny", "--device", "cpu", *few])
    result = json.loads(capsys.readouterr().out)
    figures = result["figures"]
    assert figures["sample"] == {"cases": 3, "pairs": 27}
    trl, case, eight = (figures[name] for name in ("trl_micro_2", "tree_whole_case", "tree_8_pairs"))
    # An adapter begins as nothing: the loss of the first step is log 2 on both sides, up to bf16.
    assert all(abs(row["first_loss"] - np.log(2)) < 0.01 for row in (trl, case, eight))
    assert case["tokens_per_pair"] < eight["tokens_per_pair"] < trl["tokens_per_pair"] / 2
    assert (case["pairs"], eight["pairs"], trl["pairs"]) == (9, 8, 8)
    assert all(row["peak_memory_gb"] is None for row in (trl, case, eight))
    assert figures["matmul_tflops_per_s"] is None and case["share_of_matmul"] is None
    exactness = figures["exactness"]
    assert exactness["spread"] > 0.1
    assert exactness["tree_bf16_mean"] < 1.5 * exactness["plain_bf16_mean"] < 0.1 * exactness["spread"]
    assert exactness["tree_attention"] < 1.5 * exactness["masked_attention"] < 0.02
    assert exactness["tree_attention_grad"] < 1.5 * exactness["masked_attention_grad"] < 0.02
    rates = {name: figures[f"tree_{name}"]["pairs_per_s"] for name in ("whole_case", "8_pairs")}
    for name, ratio in result["ratios"]["pairs_per_s_over_trl"].items():
        assert ratio == pytest.approx(rates[name] / trl["pairs_per_s"], rel=0.01)


def test_a_cpu_has_no_peaks():
    assert measure_matmul(CPU) is None and peak_gb(CPU) is None


@pytest.mark.parametrize("budget", [10_000, 80])
@pytest.mark.parametrize("rows", [10_000, 10])
def test_operations_are_those_that_torch_counts(sample_file, monkeypatch, budget, rows):
    """All products but those of attention, which torch does not count on a CPU."""
    shape = SHAPES["tiny"]
    # The benchmark counts what an accelerator does.
    for module, name in ((adapters, "LOGIT_NUMBERS"), (gpu_flops, "LOGIT_NUMBERS_THERE")):
        monkeypatch.setattr(module, name, rows * shape["vocab_size"])
    sample = read_sample(sample_file)
    reference = dict.fromkeys(sample.encoded, 0.0)
    step = next(trees_gpu._epoch(sample, reference, StageSection(objective="safety", pairs_per_step=8)))
    network = make_network(shape, CPU, "sdpa")
    policy = HubModel(Path("random"), network=network, lora_r=RANK, precision="bf16", device=CPU)
    with FlopCounterMode(display=False) as counter:
        works = [descend(policy, part, budget).work for part in step.parts(budget)]
    tokens = sum(work.tokens for work in works)
    counted = gpu_flops.count_flops(step, budget, shape, RANK, policy.masks)
    products = sum(counter.get_flop_counts()["Global"].values())
    # This policy has no checkpoints, so its layers are not computed again.
    sizes = gpu_flops._Sizes.of(shape, RANK)
    once = counted.needed + counted.again - counted.attention - 2 * tokens * (sizes.base + sizes.lora)
    passes = 2 if budget == 80 else 1
    once -= counted.attention // 3 * passes + counted.attention // 6
    assert products == once


def test_checkpoints_compute_the_layers_again(sample_file):
    """Up to the first layer's input gradients, which transformers asks for, and the last product of each layer."""
    shape = SHAPES["tiny"]
    sample = read_sample(sample_file)
    step = next(
        trees_gpu._epoch(sample, dict.fromkeys(sample.encoded, 0.0), StageSection(objective="safety", pairs_per_step=8))
    )
    policy = trees_gpu.open_tree_policy(shape, CPU)
    policy.set_training(True)
    with FlopCounterMode(display=False) as counter:
        for part in step.parts(10_000):
            descend(policy, part, 10_000)
    counted = gpu_flops.count_flops(step, 10_000, shape, RANK, policy.masks)
    products = sum(counter.get_flop_counts()["Global"].values())
    assert products == pytest.approx(counted.needed + counted.again - counted.attention * 3 // 2, rel=0.03)


def test_attention_is_counted_by_what_tokens_see(sample_file):
    sample = read_sample(sample_file)
    step = next(
        trees_gpu._epoch(sample, dict.fromkeys(sample.encoded, 0.0), StageSection(objective="safety", pairs_per_step=8))
    )
    shape = SHAPES["tiny"]
    seen = 0
    for part in step.parts(10_000):
        tree = grow([item.ids for item in part.sequences])
        seen += int(tree.positions.sum()) + len(tree)
    for masks in (True, False):
        counted = gpu_flops.count_flops(step, 10_000, shape, RANK, masks)
        # Two products forward, four backward, over all heads of all layers.
        assert counted.attention == 2 * 6 * seen * shape["num_hidden_layers"] * shape["hidden_size"]
