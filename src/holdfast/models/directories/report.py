"""What transformers says of a model that it opened, held against what the directory holds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.models.directories.files import (
    CONFIG,
)
from holdfast.models.directories.libraries import first_names, tell_wrapper
from holdfast.records.errors import StudyError

_QUANTISED = r"qweight|qzeros|g_idx|quant_map|quant_state|absmax|\.SCB$|weight_scale|input_scale|scales$|weight_packed"
_SENSES = r"^(model\.)?(vision|visual|audio|image|vq|embed_vision|embed_audio|multi_?modal)"
# What weights beside those of a language model are.
_STRANGERS: Mapping[str, str] = {
    r"lora_[AB]\b|lora_magnitude|lora_embedding": "an adapter's, which is not merged: merge it, or name its directory",
    r"(^|\.)(score|classifier|classification_head|reward_head|rm_head)\.": "a classifier's or reward model's head: name"
    " the directory of the language model",
    r"(^|\.)(v_head|value_head)\.": "a value head of reinforcement learning: save the language model alone",
    _QUANTISED: "quantised weights, which config.json does not tell (quantization_config)",
}


def check_report(directory: Path, network: Any, info: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Refuses what transformers' own loading report says does not fit.

    ``stored`` are the names in the directory's files, with their shapes where they are known. Errors: StudyError.
    """
    missing = sorted(info["missing_keys"])
    spare = _spare_parts(directory, network)
    unexpected = sorted(
        name for name in info["unexpected_keys"] if not is_mask(name, stored.get(name)) and not spare.search(name)
    )
    mismatched = sorted(info["mismatched_keys"])
    told = [*_tell_missing(missing, len(network.state_dict())), *_tell_unexpected(unexpected)]
    if mismatched:
        name, found, wanted = mismatched[0]
        shapes = f"{name} is {_shape(found)} there and {_shape(wanted)} in the model"
        told.append(f"{len(mismatched)} have another shape than config.json says ({shapes})")
    if told:
        raise StudyError(f"{directory}: {'; '.join(told)}; {_find_remedy(missing, unexpected)}")


def _spare_parts(directory: Path, network: Any) -> re.Pattern[str]:
    """The names of tensors that are there for something else than the language model's own weights.

    A model that sees or hears is opened for its texts alone where transformers has such a half of it, and quantised
    weights bring tensors that say how to read them.
    """
    told = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    senses = {key for key in ("vision_config", "audio_config", "vq_config") if told.get(key)}
    kinds = [_SENSES] * bool(senses and not any(hasattr(network.config, key) for key in senses))
    kinds += [_QUANTISED] * (getattr(network, "hf_quantizer", None) is not None)
    return re.compile("|".join(kinds) or "(?!)")


def _tell_missing(missing: list[str], total: int) -> Iterator[str]:
    if missing:
        yield f"{len(missing)} of {total} weights of the model are not in its files (first: {first_names(missing)})"


def _tell_unexpected(unexpected: list[str]) -> Iterator[str]:
    if unexpected:
        yield f"the files hold {len(unexpected)} that the model does not have (first: {first_names(unexpected)})"


def _find_remedy(missing: list[str], unexpected: list[str]) -> str:
    """What is known of names like these, and what to do."""
    if missing == ["lm_head.weight"] and not unexpected:
        return "if the model was trained with one matrix for both ends, set tie_word_embeddings to true in config.json"
    if (wrapper := tell_wrapper(unexpected)) is not None:
        return wrapper
    for pattern, told in _STRANGERS.items():
        if any(re.search(pattern, name) for name in unexpected):
            return f"these are {told}"
    lacking = set(missing)
    prefixes = Counter(
        name[: len(name) - len(rest)]
        for name in unexpected
        for rest in (name[place + 1 :] for place, letter in enumerate(name) if letter == ".")
        if rest in lacking
    )
    if prefixes:
        prefix = prefixes.most_common(1)[0][0]
        return f"the names begin with {prefix!r}: take that out of them, or save the inner model"
    return "save the model again as it was trained, or fetch it again"


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a number"


def is_mask(name: str, shape: tuple[int, ...] | None) -> bool:
    """Whether a tensor is a causal mask, which old checkpoints of GPT-2 and its like hold in every layer."""
    if name.endswith("masked_bias"):
        return True
    return name.endswith("bias") and shape is not None and len(shape) == 4 and shape[:2] == (1, 1)
