"""What other libraries say, in one line, and held against what a model directory holds."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.models.directories.files import CONFIG
from holdfast.records.errors import StudyError

_SHOWN = 3

# What wrappers put into the names of weights, and what undoes it.
_WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile's: save model._orig_mod, or take '_orig_mod.' out of the names",
    "_fsdp_wrapped_module.": "FSDP's: save the unwrapped model's full state",
    "_checkpoint_wrapped_module.": "activation checkpointing's: save the unwrapped model",
    "_forward_module.": "a trainer's: save the unwrapped model",
    "base_model.model.": "PEFT's: merge the adapter (merge_and_unload) and save that, or save the adapter alone",
    "base_layer.": "PEFT's: merge the adapter (merge_and_unload) and save that, or save the adapter alone",
    "module.": "DistributedDataParallel's: save model.module, or take 'module.' out of the names",
}


def first_line(error: BaseException) -> str:
    """An error of a library in one line, with the next where that one only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return " ".join(lines[: 1 + lines[0].endswith(":")])


def tell_wrapper(names: Collection[str], *, own: Sequence[str] = ()) -> str | None:
    """What wrapped a model whose weights have such names, and what undoes it; ``own`` are prefixes that belong."""
    for prefix, told in _WRAPPERS.items():
        if prefix not in own and any(re.search(rf"(^|\.){re.escape(prefix)}", name) for name in names):
            return f"names with {prefix!r} are {told}"
    return None


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """The bars of transformers would break into ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers and PEFT tell in tables, bars and warnings on stderr what is told here in a line."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity(logging.CRITICAL)
    try:
        with no_progress_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)


def first_names(names: Iterable[str]) -> str:
    """Some names as an error tells them: the first few."""
    return ", ".join(islice(names, _SHOWN))


def network_class(config: Any) -> Any:
    """The class of transformers that makes the causal language model of a configuration."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def sampling_attention(config: Any) -> str:
    """The attention that samples from a model of a configuration: torch's own, or products and a softmax ("eager")
    where the architecture has none of it, because it caps logits or has sinks.
    """
    kind = network_class(config)
    return "eager" if kind._supports_attention_backend and not kind._supports_sdpa else "sdpa"


def short_rotations(config: Any) -> int | None:
    """The most tokens that a model with two sets of rotations (longrope) reads with that for short texts.

    ``config`` is transformers' own, of the part that writes; None for one set, which then serves every length.
    """
    told: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    # Layers of several kinds have rotations of their own.
    kinds = [told, *(kind for kind in told.values() if isinstance(kind, Mapping))]
    found = [kind.get("original_max_position_embeddings") for kind in kinds if kind.get("rope_type") == "longrope"]
    return min((int(bound) for bound in found if bound), default=None)


# --- transformers' loading report ---------------------------------------------------------------------------------

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
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    spare = _spare_parts(directory, network)
    unexpected = sorted(name for name in info["unexpected_keys"] if not spare.search(name))
    unexpected = [name for name in unexpected if not is_mask(name, stored.get(name))]
    findings = []
    if missing:
        first, total = first_names(missing), len(network.state_dict())
        findings.append(f"{len(missing)} of {total} weights of the model are not in its files (first: {first})")
    if unexpected:
        first = first_names(unexpected)
        findings.append(f"the files hold {len(unexpected)} that the model does not have (first: {first})")
    if mismatched:
        name, there, wanted = mismatched[0]
        shapes = f"{name} is {_shape(there)} there and {_shape(wanted)} in the model"
        findings.append(f"{len(mismatched)} have another shape than config.json says ({shapes})")
    if findings:
        raise StudyError(f"{directory}: {'; '.join(findings)}; {_find_remedy(missing, unexpected)}")


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
