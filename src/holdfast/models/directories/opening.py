"""Networks of transformers from model directories, with every weight in its place or an error that names those amiss.

    whole weights ─ transformers, its loading report checked ─▶ network
    base and adapter ─ the same of the base ─▶ network, and the adapter as a stack; or merged in by PEFT

Code of a model's own is never run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.models.directories import files
from holdfast.models.directories.files import load_file, read_header, read_kinds, read_shapes, weight_files
from holdfast.models.directories.libraries import (
    check_report,
    first_line,
    first_names,
    is_mask,
    no_progress_bars,
    quiet,
    sampling_attention,
    tell_wrapper,
)
from holdfast.models.directories.peft import PeftAdapter, is_peft, read_peft
from holdfast.models.directories.stacks import Factors, Lora, Stack, base_of, copy_text_files, find_stack, merged
from holdfast.records.errors import StoreError, StudyError, needs
from holdfast.records.outputs import scratch_directory

_CHECKED = ("F64", "F32", "F16", "BF16")  # as safetensors names them; smaller ones have few values but numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A network in eval mode, and the directory of the whole weights that it was opened from.

    What ``stack`` changed is not in the network yet. ``merged`` says that PEFT has merged an adapter into it, so that
    no directory holds its weights.
    """

    network: Any
    home: Path
    stack: Stack | None
    merged: bool


def open_network(
    directory: Path, *, dtype: torch.dtype, attention: str, settings: Mapping[str, Any] | None = None
) -> Opened:
    """The network of a directory that ``hub.check_model`` has let pass.

    ``dtype`` is that of the weights; the attention "sdpa" means that which samples, whatever the architecture has of
    it; ``settings`` are more of transformers' own, for quantised weights. Errors:
    StudyError for a directory that transformers cannot load and weights that do not all fit, StoreError for a stack
    whose base or adapter does not fit.
    """
    stack, home = find_stack(directory), base_of(directory)
    merged = stack is None and is_peft(directory)
    network = _load(home, dtype, attention, settings or {})
    # The first module that the stack changes and the network calls otherwise or does not have.
    named = dict(network.named_parameters())
    lost = next((module for module in (stack.factors if stack else ()) if f"{module}.weight" not in named), None)
    if lost is not None and not is_peft(directory):
        raise StoreError(f"{directory}: adapts {lost}, which {home} does not hold; {files.DAMAGED}")
    if merged or lost is not None:
        network = merge_peft(network, read_peft(directory), load_file(directory / files.ADAPTER))
        stack, merged = None, True
    return Opened(network=network.eval(), home=home, stack=stack, merged=merged)


_RESTORE = "restore this directory"


def check_finite(weights: Iterable[tuple[str, Tensor]], place: str, remedy: str = _RESTORE) -> None:
    """Raises StudyError, which ``place`` begins, for the first weight with a value that is no finite number."""
    for name, weight in weights:
        # Values of 8 bits and fewer are not asked: most of their formats have none but numbers.
        if weight.dtype.itemsize > 1 and not torch.isfinite(weight).all():
            raise StudyError(f"{place}: {name} has values that are not finite; {remedy}")


def check_values(directory: Path, remedy: str = _RESTORE) -> None:
    """Refuses a model directory with a weight that is no finite number; reads all weights, one file's at a time.

    Errors: StudyError.
    """
    from safetensors import safe_open

    for path in _stored(directory):
        with safe_open(path, framework="pt") as file:
            weights = ((name, file.get_tensor(name)) for name, kind in read_kinds(path).items() if kind in _CHECKED)
            check_finite(
                ((name, one) for name, one in weights if not is_mask(name, tuple(one.shape))), str(path), remedy
            )


def same_weights(one: Path, other: Path) -> bool:
    """Whether two directories of whole weights hold equal ones: by value, in whichever files and at which precision.

    Of two precisions the lower counts. Reads up to the first weight that differs. Errors: StudyError.
    """
    from safetensors import safe_open

    places = [{name: path for path in weight_files(home) for name in read_header(path)} for home in (one, other)]
    if places[0].keys() != places[1].keys():
        return False
    with ExitStack() as opened:
        stored: dict[Path, Any] = {
            path: opened.enter_context(safe_open(path, framework="pt"))
            for path in {*places[0].values(), *places[1].values()}
        }
        for name in places[0]:
            if not _are_equal(*(stored[place[name]].get_tensor(name) for place in places)):
                return False
    return True


def holds_weights(home: Path, named: Mapping[str, Tensor]) -> bool | None:
    """Whether a directory of whole weights holds those of a network, by name; None where its names are others.

    As in ``same_weights`` the lower of two precisions counts. Reads up to the first weight that differs. Errors:
    StudyError.
    """
    from safetensors import safe_open

    places = {name: path for path in weight_files(home) for name in read_header(path)}
    # Tied weights are stored once, under one of their names.
    stored = {named[name].data_ptr() for name in places if name in named}
    if places.keys() - named.keys() or any(
        name not in places and weight.data_ptr() not in stored for name, weight in named.items()
    ):
        return None
    with ExitStack() as opened:
        files_of = {path: opened.enter_context(safe_open(path, framework="pt")) for path in {*places.values()}}
        return all(
            _are_equal(files_of[path].get_tensor(name), named[name].detach().cpu()) for name, path in places.items()
        )


def _are_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype != other.dtype:
        lower = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
        one, other = one.to(lower), other.to(lower)
    # By their bytes: some kinds of eight bits cannot be compared otherwise.
    return torch.equal(*(weight.reshape(-1).view(torch.uint8) for weight in (one, other)))


def size_of(directory: Path) -> int:
    """The bytes of a model directory's weights, those of its base and adapter together."""
    return sum(path.stat().st_size for path in _stored(directory))


def _stored(directory: Path) -> list[Path]:
    adapter = directory / files.ADAPTER
    return [*weight_files(base_of(directory)), *([adapter] if adapter.is_file() else [])]


def _load(home: Path, dtype: torch.dtype, attention: str, settings: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if attention == "sdpa":
            attention = sampling_attention(AutoConfig.from_pretrained(home, local_files_only=True))
        with no_progress_bars():
            network, info = AutoModelForCausalLM.from_pretrained(
                home,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **settings,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise StudyError(
            f"{home}: transformers cannot load this model ({first_line(error)}); check the directory"
        ) from error
    check_report(home, network, info, read_shapes(home))
    return network


# --- adapters, merged by PEFT -------------------------------------------------------------------------------------
# PEFT warns where a file lacks weights or holds others, merges an adapter of one end of a model with tied ends into
# both, and says neither to its caller: here that is refused, or undone.

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
        with quiet():
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
    with needs("train", f"the adapter {adapter.directory}"):
        from peft import PeftModel
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    config = _make_config(adapter, hollow)
    _resize_vocabulary(network, adapter, tensors)
    try:
        with quiet():
            wrapped = PeftModel(network, config, low_cpu_mem_usage=hollow)
            loading = set_peft_model_state_dict(wrapped, dict(tensors), low_cpu_mem_usage=hollow)
    except KeyError as error:
        raise StudyError(
            f"{adapter.directory}: {files.ADAPTER} does not hold {error.args[0]}, which {files.ADAPTER_CONFIG} tells;"
            f" {_AGAIN}"
        ) from error
    except Exception as error:  # PEFT raises what it likes for settings and shapes that do not fit.
        raise StudyError(
            f"{adapter.directory}: does not fit its base {adapter.base} ({_tell(error)}); name the base that it was"
            f" trained on as base_model_name_or_path in {files.ADAPTER_CONFIG}"
        ) from error
    missing = [name.replace(".default", "") for name in loading.missing_keys if ".default" in name]
    if any(name.endswith(_TOKENS) for name in tensors):  # The other end of tied ones is the same.
        missing = [name for name in missing if not name.endswith(_TOKENS)]
    if config.bias != "none":  # PEFT does not count biases that were trained and are not there.
        wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        missing += [name for name in wanted if name.endswith("bias") and name not in tensors]
    if missing or loading.unexpected_keys:
        lists = {
            "weights of the adapter are not in its file": sorted(missing),
            "in its file belong to no layer of the base": sorted(loading.unexpected_keys),
        }
        findings = [f"{len(names)} {what} (first: {first_names(names)})" for what, names in lists.items() if names]
        remedy = tell_wrapper(loading.unexpected_keys, own=_OWN) or _AGAIN
        raise StudyError(f"{adapter.directory}: {'; '.join(findings)} ({adapter.base}); {remedy}")
    return wrapped


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
            f"{adapter.directory / files.ADAPTER_CONFIG}: the installed PEFT does not know {first_names(lost)};"
            " install the version that wrote the adapter (peft_version), or merge the adapter there"
        )
    told = {key: value for key, value in adapter.settings.items() if key in known - {"auto_mapping", "runtime_config"}}
    if hollow:  # How it began shapes nothing.
        told["init_lora_weights"] = False
    try:
        with quiet():
            return LoraConfig(**told | {"inference_mode": True, "peft_type": "LORA"})
    except (TypeError, ValueError) as error:
        raise StudyError(
            f"{adapter.directory / files.ADAPTER_CONFIG}: PEFT refuses it ({first_line(error)})"
        ) from error


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


# --- whole weights ------------------------------------------------------------------------------------------------


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The whole weights of a directory by name, as stored; what a stack changes is merged and in 32-bit floats.

    Errors: StudyError for a file that cannot be read, StoreError for a stack whose base or adapter does not fit.
    """
    stack = find_stack(directory)
    if _needs_network(directory, stack):
        with scratch_directory() as place:
            write_whole(directory, place)
            return read_weights(place)
    base = stack.base if stack else directory
    weights: dict[str, Tensor] = {}
    for path in weight_files(base):
        weights |= load_file(path)
    for module, factors in (stack.factors if stack else {}).items():
        weights[f"{module}.weight"] = merged(weights[f"{module}.weight"], factors)
    return weights


def write_whole(directory: Path, target: Path) -> None:
    """Writes the directory's whole weights, its configuration and tokenizer to ``target``, which is there and empty.

    An adapter is merged in 32-bit floats, then rounded to what the base is stored in: one of the base's files at a
    time, or in a network.
    """
    from safetensors.torch import save_file

    stack = find_stack(directory)
    if _needs_network(directory, stack):
        opened = open_network(directory, dtype=torch.float32, attention="eager")
        if opened.stack:
            merge(opened.network, opened.stack)
        stored = max(read_kinds(weight_files(opened.home)[0]).values())
        dtype = {"BF16": torch.bfloat16, "F16": torch.float16}.get(stored, torch.float32)
        with no_progress_bars():
            opened.network.to(dtype).save_pretrained(target)
        copy_text_files(directory, target)
        return
    copy_text_files(directory, target)
    base = stack.base if stack else directory
    shutil.copyfile(base / files.CONFIG, target / files.CONFIG)
    if (base / files.INDEX).is_file() and not (base / files.WHOLE).is_file():
        shutil.copyfile(base / files.INDEX, target / files.INDEX)
    for path in weight_files(base):
        if stack is None:
            shutil.copyfile(path, target / path.name)
            continue
        weights = load_file(path)
        for name, weight in weights.items():
            if (factors := stack.factors.get(name.removesuffix(".weight"))) is not None:
                weights[name] = merged(weight, factors).to(weight.dtype)
        save_file(weights, target / path.name, metadata={"format": "pt"})


def _needs_network(directory: Path, stack: Stack | None) -> bool:
    """Whether an adapter is merged in a network: by PEFT, or where it has other names for weights than its files."""
    if stack is None:
        return is_peft(directory)
    shapes = read_shapes(stack.base)
    return any(f"{module}.weight" not in shapes for module in stack.factors)


# --- adapters inside a network, in training -----------------------------------------------------------------------

_EARLIER, _NEWEST = "earlier", "newest"
_HOLDER = "network"


def attach(model: Any, lora: Lora | None, stack: Stack | None, source: Path) -> None:
    """Puts a new adapter into a model, a frozen one with all that a stack's stages changed, or both.

    The new one changes every linear layer of the decoder, as PEFT's "all-linear" does; the head is none of them.
    Adapters are 32-bit floats, and only the new one is trainable. Raises StudyError where nothing can be adapted.
    """
    from peft import LoraConfig, LoraModel

    # The linear layers of the decoder, without the head.
    inner = set(model.get_decoder().modules()) - {model.get_output_embeddings()}
    targets = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module in inner]
    if not targets:
        raise StudyError(f"{source}: none of its modules is one that adapters change; use lora_r = 0")

    def adapt(names: Iterable[str], rank: int, alpha: float, **more: Any) -> LoraConfig:
        # Modules are named as they are in what holds the model.
        return LoraConfig(r=rank, lora_alpha=alpha, target_modules=[f"{_HOLDER}.{name}" for name in names], **more)

    configs = {}
    if lora:
        configs[_NEWEST] = adapt(targets, lora.r, lora.alpha, lora_dropout=lora.dropout, use_rslora=lora.rslora)
    if stack:
        rank = sum(stack.ranks)  # The scale is in the factors, and dropout belongs to training.
        configs[_EARLIER] = adapt(stack.factors, rank, rank)
    # Shown the model itself, PEFT takes names that end as those of experts once did for experts, and adapts these too.
    holder = nn.ModuleDict({_HOLDER: model})
    tuner = LoraModel(holder, configs, next(iter(configs)))
    if stack:
        if lora:
            tuner.inject_adapter(holder, _EARLIER)
            tuner.set_adapter([_EARLIER, _NEWEST])
        for name, factors in stack.factors.items():
            module = model.get_submodule(name)
            for part, factor in zip((module.lora_A, module.lora_B), factors, strict=True):
                part[_EARLIER].weight.data.copy_(factor)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()
        weight.requires_grad_(f".{_NEWEST}." in name)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules that hold an adapter, by their names in the model."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def named_factors(stack: Stack) -> Iterator[tuple[str, Tensor]]:
    """A stack's factors one by one, as errors name them."""
    for module, factors in stack.factors.items():
        yield from ((f"{module}.lora_{side}", factor) for side, factor in zip("AB", factors, strict=True))


@torch.no_grad()
def merge(model: nn.Module, stack: Stack) -> None:
    """Adds what a stack's stages changed to a model's weights, in place."""
    for name, factors in stack.factors.items():
        weight = model.get_parameter(f"{name}.weight")
        weight.copy_(merged(weight, factors))


def newest_factors(model: nn.Module) -> Factors:
    """What the new adapter has learnt, by module."""
    return {
        name: (module.lora_A[_NEWEST].weight.detach(), module.lora_B[_NEWEST].weight.detach())
        for name, module in _adapted(model)
    }


@contextmanager
def newest_off(model: nn.Module) -> Iterator[None]:
    """A model as it is without its new adapter, inside."""
    scales = [(module.scaling, module.scaling[_NEWEST]) for _, module in _adapted(model)]
    for scaling, _ in scales:
        scaling[_NEWEST] = 0.0
    try:
        yield
    finally:
        for scaling, value in scales:
            scaling[_NEWEST] = value
