"""Every causal language model that transformers has: over a tree as by itself, or refused in one line."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.tree_samples import grown_trie

from holdfast.models.directories.libraries import quiet
from holdfast.records.errors import StudyError
from holdfast.training.encoding import ScoredSequence
from holdfast.training.loop.passes import score
from holdfast.training.policy.adapters import HubModel
from holdfast.training.trees.packing import pack, pack_rows

transformers = pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
WINDOW, POSITIONS = 8, 64
# Names for the same sizes in all architectures; a configuration keeps what it does not know.
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), POSITIONS),
    **dict.fromkeys(
        ("num_key_value_heads", "num_experts_per_tok", "n_group", "topk_group", "first_k_dense_replace"), 1
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("state_size", "hidden_size_per_layer_input"), 4),
    "vocab_size_per_layer_input": 64,
    "moe_intermediate_size": 32,
    "initializer_range": 0.3,
    "sliding_window": WINDOW,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# So many compute at least; others are refused, or cannot be made of these sizes.
LEAST = 75


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make(kind: Any, place: Path) -> Path | None:
    """A small random model, or None where these sizes make none."""
    try:
        config = kind(**SIZES)
        with torch.device("meta"):
            hollow = transformers.AutoModelForCausalLM.from_config(config)
        if sum(weight.numel() for weight in hollow.parameters()) > 3_000_000:
            return None
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    except Exception:
        return None
    return place


def sequences(longest: int) -> list[ScoredSequence]:
    found = []
    for whole in grown_trie(np.random.default_rng(0), sequences=8, segment=16, vocabulary=60):
        ids = whole[:longest]
        weights = np.ones(len(ids), np.float32)
        weights[0] = 0
        found.append(ScoredSequence(name="sequence", ids=ids, weights=weights))
    return [item for item in found if len(item.ids) > 1]


@torch.no_grad()
def gap(place: Path, policy: HubModel) -> float:
    """How far a token's log-probability is at most from the model's own pass over its sequence alone, in nats."""
    own = transformers.AutoModelForCausalLM.from_pretrained(
        place, attn_implementation="eager", dtype=torch.float32
    ).eval()
    given = sequences(min(policy.max_positions, POSITIONS))
    theirs = []
    for item in given:
        ids = torch.from_numpy(item.ids)[None]
        logps = own(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        theirs.append(logps.gather(1, ids[0, 1:, None])[:, 0])
    packs = (pack(given, policy.device, masks=True), pack_rows(given, policy.device))
    return max(float((score(policy, one) - torch.cat(theirs)).abs().max()) for one in packs)


def test_every_architecture_is_computed_or_refused(tmp_path: Path) -> None:
    computed, wrong = [], {}
    for number, kind in enumerate(transformers.MODEL_FOR_CAUSAL_LM_MAPPING):
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            try:
                with at_most(60):
                    place = make(kind, tmp_path / str(number))
                    if place is None:
                        continue
                    policy = HubModel(place)
                    found = gap(place, policy)
            except (StudyError, TimeoutError):
                continue
            except Exception as error:
                wrong[kind.model_type] = repr(error)
                continue
        computed.append(kind.model_type)
        if not found < 1e-3:
            wrong[kind.model_type] = f"{found:.2g} nats"
    assert not wrong
    assert len(computed) >= LEAST and {"llama", "gpt_oss", "gemma2", "gemma3_text", "phi3"} <= set(computed)
