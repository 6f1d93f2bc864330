"""What a model is made of, as its settings tell it: how much it takes to compute, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.models.directories.files import CONFIG, FETCH, read_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder of equal layers with gated feed-forward parts, of which a token goes through ``active``.

    All other kinds of layers are taken for these: a forecast needs no more.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    experts: int = 1
    active: int = 1

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's attention."""
        return 2 * self.hidden * self.head_size * (self.heads + self.key_value_heads)

    @property
    def layer_weights(self) -> int:
        """Weights of one layer that a token goes through."""
        return self.attention_weights + 3 * self.hidden * self.ffn * self.active

    @property
    def head_weights(self) -> int:
        """Weights between the last layer and the tokens."""
        return self.hidden * self.vocabulary

    @property
    def stored_weights(self) -> int:
        """All weights, with tokens read and written by the same ones."""
        return self.head_weights + self.layers * (self.attention_weights + 3 * self.hidden * self.ffn * self.experts)


# What config.json, and the settings of a file of llama.cpp behind its architecture's name, call the same.
_NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "layers": (("num_hidden_layers", "n_layer", "num_layers"), ("block_count",)),
    "hidden": (("hidden_size", "n_embd", "d_model"), ("embedding_length",)),
    "ffn": (("intermediate_size", "n_inner", "ffn_dim"), ("feed_forward_length",)),
    "heads": (("num_attention_heads", "n_head", "num_heads"), ("attention.head_count",)),
    "key_value_heads": (("num_key_value_heads",), ("attention.head_count_kv",)),
    "head_size": (("head_dim",), ("attention.key_length",)),
    "vocabulary": (("vocab_size",), ("vocab_size",)),
    "experts": (("num_local_experts", "num_experts"), ("expert_count",)),
    "active": (("num_experts_per_tok",), ("expert_used_count",)),
    "expert_ffn": (("moe_intermediate_size",), ("expert_feed_forward_length",)),
}


def shape_of_directory(directory: Path) -> Shape | None:
    """The shape that a directory's config.json tells; None where it does not. Errors: StudyError."""
    config = read_object(directory / CONFIG, FETCH)
    # A model that also sees keeps the settings of its texts in a part of its own.
    text = config.get("text_config")
    return _read(config | text if isinstance(text, dict) else config, 0)


def shape_of_settings(settings: Mapping[str, Any], vocabulary: int) -> Shape | None:
    """The shape that the settings of a file of llama.cpp tell; None where they do not."""
    start = f"{settings.get('general.architecture')}."
    own = {key.removeprefix(start): value for key, value in settings.items() if key.startswith(start)}
    return _read({"vocab_size": vocabulary, **own}, 1)


def _read(settings: Mapping[str, Any], column: int) -> Shape | None:
    found: dict[str, int] = {}
    for name, columns in _NAMES.items():
        told = next((settings[key] for key in columns[column] if settings.get(key) is not None), None)
        if type(told) is int and told > 0:
            found[name] = told
    if not {"layers", "hidden", "heads", "vocabulary"} <= found.keys():
        return None
    found["ffn"] = found.pop("expert_ffn", 0) or found.get("ffn", 4 * found["hidden"])
    found.setdefault("key_value_heads", found["heads"])
    found.setdefault("head_size", max(1, found["hidden"] // found["heads"]))
    if "experts" in found:
        found["active"] = min(found.get("active", 1), found["experts"])
    else:
        found.pop("active", None)
    return Shape(**found)
