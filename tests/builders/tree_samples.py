"""Random tries, what their tokens may see, and tiny models of several architectures, for tests of training on trees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.models.tiny.llama import LlamaShape, TinyLlama
from holdfast.training.encoding import ScoredSequence
from holdfast.training.loop.passes import score
from holdfast.training.policy.adapters import Policy
from holdfast.training.trees.packing import pack
from holdfast.training.trees.trees import TokenTree

VOCABULARY = 61
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tries(most: int = 10, longest: int = 12) -> st.SearchStrategy[list[NDArray[np.int64]]]:
    """Sequences of so few different tokens that they branch, repeat and are prefixes of each other.

    The ids differ in each of their bytes, so that an order other than that of the numbers would show.
    """
    ids = st.sampled_from([0, 1, 256, 65_536])
    rows = st.lists(st.lists(ids, min_size=1, max_size=longest), min_size=1, max_size=most)
    return rows.map(lambda found: [np.array(row, np.int64) for row in found])


def grown_trie(rng: np.random.Generator, *, sequences: int, segment: int, vocabulary: int) -> list[NDArray[np.int64]]:
    """Sequences that leave earlier ones at random places and go on for about ``segment`` tokens."""
    rows = [rng.integers(3, vocabulary, 2 * segment)]
    while len(rows) < sequences:
        stem = rows[rng.integers(len(rows))]
        kept = stem[: rng.integers(0, len(stem) + 1)] if len(rows) % 5 else stem[:0]
        rows.append(np.concatenate([kept, rng.integers(3, vocabulary, rng.integers(1, 2 * segment))]))
    return rows


def scored_trie(rng: np.random.Generator, *, sequences: int, segment: int) -> list[ScoredSequence]:
    """A grown trie of few tokens a segment, about half of the tokens scored."""
    found = []
    for number, ids in enumerate(grown_trie(rng, sequences=sequences, segment=segment, vocabulary=VOCABULARY)):
        weights = (rng.random(len(ids)) < 0.5).astype(np.float32)
        weights[0], weights[-1] = 0, len(ids) > 1
        found.append(ScoredSequence(name=f"sequence {number}", ids=ids, weights=weights))
    return found


def visible(tree: TokenTree) -> NDArray[np.bool_]:
    """[T, T], true where a token sees another: the definition that attention must meet."""
    found = np.zeros((len(tree), len(tree)), np.bool_)
    for place, before in enumerate(tree.before.tolist()):
        if before >= 0:
            found[place] = found[before]
        found[place, place] = True
    return found


def build_hub(directory: Path, kind: str, **changed: Any) -> Path:
    """A directory with a tiny random model of a ``model_type`` of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **(_SIZES | changed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def load_plain(directory: Path, implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """The model of a directory as transformers runs it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation=implementation, dtype=dtype).eval()


def plain_logps(model: Any, sequences: list[ScoredSequence]) -> torch.Tensor:
    """Log-probabilities of the scored tokens, one sequence after the other, each by itself."""
    found = []
    for item in sequences:
        ids = torch.from_numpy(item.ids)[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        logps = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        found.append(logps[torch.from_numpy(item.weights[1:] > 0)])
    return torch.cat(found)


def build_tiny(directory: Path) -> Path:
    """A directory of a tiny Llama with weights large enough to tell tokens apart."""
    shape = LlamaShape(vocabulary=61, hidden=32, layers=2, heads=4, ffn=48, max_positions=128)
    model = TinyLlama(shape)
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() == 2 else 1)
    model.save(directory)
    return directory


SEQUENCES = scored_trie(np.random.default_rng(0), sequences=12, segment=12)


def towards(count: int) -> torch.Tensor:
    """A gradient of random signs and sizes, so that no two tokens weigh alike."""
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


def tree_logps(policy: Policy, sequences: Sequence[ScoredSequence] = SEQUENCES) -> torch.Tensor:
    return score(policy, pack(sequences, policy.device, masks=policy.masks))


def draw_adapter(weights: Sequence[torch.Tensor]) -> None:
    """The second half of a fresh adapter is 0; random numbers in its place make it do something."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
