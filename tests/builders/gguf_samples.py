"""Small files of llama.cpp, written by the package ``gguf`` from a random Llama."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from builders.chat_samples import make_base
from holdfast.models.hub.random_base import CHAT_TEMPLATE


def write_gguf(
    folder: Path,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    leave_out: str = "",
    also: Mapping[str, Any] | None = None,
) -> tuple[Path, Any]:
    """A file with weights as ``kind``, and the network that it holds, whose weights 16 bits of both kinds hold.

    ``leave_out`` is the name of a tensor that is not written, ``also`` are texts, numbers and tensors that are, too.
    """
    import gguf
    from transformers import AutoModelForCausalLM

    base = make_base(folder / "base", architecture="llama")
    network = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        for weight in network.parameters():
            # Exact as bfloat16 and as float16 alike.
            weight.copy_(torch.round(weight * 1024).clamp(-127, 127) / 1024 if weight.dim() > 1 else weight.round())
    place = folder / f"model-{kind}.gguf"
    config = network.config
    writer = gguf.GGUFWriter(place, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _write_tokenizer(writer, json.loads((base / "tokenizer.json").read_text()), config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    stored = {"F32": torch.float32, "F16": torch.float16}[kind]
    for name, weight in network.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        told = f"{names.get_name(stem)}.{suffix}"
        if told == leave_out:
            continue
        values = weight.detach()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp turns neighbours, transformers halves
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(told, values.to(stored if weight.dim() > 1 else torch.float32).contiguous().numpy())
    for name, value in (also or {}).items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint16(name, value)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place, network


def _write_tokenizer(writer: Any, told: dict[str, Any], config: Any) -> None:
    import gguf

    vocabulary = told["model"]["vocab"] | {one["content"]: one["id"] for one in told["added_tokens"]}
    special = {one["id"]: one["special"] for one in told["added_tokens"]}
    kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[special.get(number)] for number in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in told["model"]["merges"]])
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)
