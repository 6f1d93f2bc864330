"""PEFT adapters merged into the network of their base, by PEFT itself, with its loading report read.

PEFT warns where a file lacks weights or holds others, merges an adapter of one end of a model with tied ends into both,
and says neither to its caller: here that is refused, or undone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.models.directories.files import ADAPTER, ADAPTER_CONFIG
from holdfast.models.directories.libraries import first_line, first_names, quiet, tell_wrapper
from holdfast.models.directories.peft import PeftAdapter
from holdfast.records.errors import MissingExtra, StudyError

_AGAIN = "save the adapter again, or name the base that it was trained on as base_model_name_or_path"
_OWN = ("base_model.model.", "base_layer.")  # what PEFT puts into names and takes out again
_TOKENS = ".token_adapter.trainable_tokens_delta"
# How far what is merged may be from what was not: mean difference by mean size of logits, in 32 bits and in fewer.
_TOLERANCE = (1e-4, 5e-2)


def merge_peft(network: Any, adapter: PeftAdapter, tensors: Mapping[str, Tensor], *, hollow: bool = False) -> Any:
    """A base's network with a PEFT adapter merged in; ``network`` itself is changed.

    ``tensors`` are those of the adapter's file; ``hollow`` is for a network and tensors without values. Where they
    bring whole embeddings of another size, those of the base are resized first, as PEFT's own loaders do. Errors:
    StudyError where the adapter does not fit, cannot be merged, or computes otherwise when it is.
    """
    wrapped = _attach(network, adapter, tensors, hollow).eval()
    ids = torch.arange(min(8, network.get_input_embeddings().weight.shape[0]))[None]
    with torch.no_grad():
        before = None if hollow else wrapped(input_ids=ids, use_cache=False).logits
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            _untie(network)
            merged = wrapped.merge_and_unload(safe_merge=not hollow)
    except Exception as error:  # PEFT raises what it likes for what it does not merge.
        raise StudyError(
            f"{adapter.directory}: PEFT cannot merge this adapter ({first_line(error)}); train it without what is named"
        ) from error
    for weight in merged.parameters():
        weight.requires_grad_(weight.is_floating_point())
    if before is not None:
        with torch.no_grad():
            after = merged(input_ids=ids, use_cache=False).logits
        gap, size = (after - before).float().abs().mean(), before.float().abs().mean()
        # Written so that a difference that is no number is refused too.
        if not gap <= _TOLERANCE[before.dtype.itemsize < 4] * (1 + size):
            raise StudyError(
                f"{adapter.directory}: merged into its base it computes otherwise than beside it (logits differ by"
                f" {gap:.2g}); merge it where it was trained and name that directory"
            )
    return merged


def _untie(network: Any) -> None:
    """Gives the head of a model with tied ends a matrix of its own where an adapter changes either end.

    PEFT would merge what it learnt of one end into both.
    """
    wrapped = network.get_input_embeddings(), network.get_output_embeddings()
    first, last = (getattr(end, "base_layer", end) for end in wrapped)
    if (first, last) == wrapped or first is None or last is None or first.weight is not last.weight:
        return
    last.weight = nn.Parameter(last.weight.detach().clone())
    network.config.get_text_config().tie_word_embeddings = network.config.tie_word_embeddings = False


def _attach(network: Any, adapter: PeftAdapter, tensors: Mapping[str, Tensor], hollow: bool) -> Any:
    """PEFT's wrapper around a network, with every weight of the adapter in its place. Errors: StudyError."""
    try:
        from peft import PeftModel
        from peft.utils import set_peft_model_state_dict
    except ImportError as error:
        raise MissingExtra(f"the adapter {adapter.directory}", "train") from error
    config = _make_config(adapter, hollow)
    _resize_vocabulary(network, adapter, tensors)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            wrapped = PeftModel(network, config, low_cpu_mem_usage=hollow)
            found = set_peft_model_state_dict(wrapped, dict(tensors), low_cpu_mem_usage=hollow)
    except KeyError as error:
        raise StudyError(
            f"{adapter.directory}: {ADAPTER} does not hold {error.args[0]}, which {ADAPTER_CONFIG} tells; {_AGAIN}"
        ) from error
    except Exception as error:  # PEFT raises what it likes for settings and shapes that do not fit.
        raise StudyError(
            f"{adapter.directory}: does not fit its base {adapter.base} ({_tell(error)}); name the base that it was"
            f" trained on as base_model_name_or_path in {ADAPTER_CONFIG}"
        ) from error
    missing = [name.replace(".default", "") for name in found.missing_keys if ".default" in name]
    if any(name.endswith(_TOKENS) for name in tensors):  # The other end of tied ones is the same.
        missing = [name for name in missing if not name.endswith(_TOKENS)]
    missing += _missing_biases(wrapped, config, tensors)
    if missing or found.unexpected_keys:
        told = [*_tell_adapter("weights of the adapter are not in its file", missing)]
        told += _tell_adapter("in its file belong to no layer of the base", found.unexpected_keys)
        remedy = tell_wrapper(found.unexpected_keys, own=_OWN) or _AGAIN
        raise StudyError(f"{adapter.directory}: {'; '.join(told)} ({adapter.base}); {remedy}")
    return wrapped


def _tell_adapter(what: str, names: Iterable[str]) -> Iterator[str]:
    if names := sorted(names):
        yield f"{len(names)} {what} (first: {first_names(names)})"


def _tell(error: BaseException) -> str:
    """The second line of torch's own message names the weight."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and "state_dict" in lines[0] else first_line(error)


def _make_config(adapter: PeftAdapter, hollow: bool) -> Any:
    """PEFT's settings of an adapter; one that PEFT here does not know says something that would be lost."""
    from peft import LoraConfig

    known = {field.name for field in fields(LoraConfig) if field.init}
    lost = [key for key, value in adapter.settings.items() if key not in known and value not in (None, False, {}, [])]
    lost = [key for key in lost if key not in ("peft_type", "unsloth_fixed", "enable_lora", "merge_weights")]
    if lost:
        raise StudyError(
            f"{adapter.directory / ADAPTER_CONFIG}: the installed PEFT does not know {first_names(lost)};"
            " install the version that wrote the adapter (peft_version), or merge the adapter there"
        )
    told = {key: value for key, value in adapter.settings.items() if key in known - {"auto_mapping", "runtime_config"}}
    if hollow:  # How it began shapes nothing.
        told["init_lora_weights"] = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LoraConfig(**told | {"inference_mode": True, "peft_type": "LORA"})
    except (TypeError, ValueError) as error:
        raise StudyError(f"{adapter.directory / ADAPTER_CONFIG}: PEFT refuses it ({first_line(error)})") from error


def _resize_vocabulary(network: Any, adapter: PeftAdapter, tensors: Mapping[str, Any]) -> None:
    """Makes room for whole embeddings that an adapter brings; refuses where some of the new rows are in no file."""
    rows = network.get_input_embeddings().weight.shape[0]
    whole = {
        name: int(tensor.shape[0])
        for name, tensor in tensors.items()
        if re.search(r"(embed_tokens|lm_head|wte|embed_in|embed_out)\.weight$", name) and ".lora_" not in name
    }
    others = {count for count in whole.values() if count != rows}
    if not others:
        return
    halves = [network.get_input_embeddings(), network.get_output_embeddings()]
    wanted = len({id(half.weight) for half in halves if half is not None})
    if len(others) > 1 or len(whole) < wanted:
        raise StudyError(
            f"{adapter.directory}: brings embeddings of {max(others)} tokens for a base of {rows}, and not all of them;"
            " merge it where it was trained"
        )
    with quiet():
        network.resize_token_embeddings(others.pop(), mean_resizing=False)


def _missing_biases(wrapped: Any, config: Any, tensors: Mapping[str, Any]) -> list[str]:
    """Biases that were trained and are not there; PEFT does not count them."""
    if config.bias == "none":
        return []
    from peft.utils import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return [name for name in wanted if name.endswith("bias") and name not in tensors]
