"""Whether the files of a model directory hold the weights of its model, all of them and nothing else.

    config.json ─ transformers, on no device ─▶ the model's weights by name and shape ─┐
    headers of *.safetensors ──────────────────────────────────────────────────────────┴▶ what does not fit, in a line

Transformers itself maps one to the other, with its renamings, fused experts and tied weights; it is given tensors
without values, so nothing is read but headers. What it would start at random or leave out refuses the directory:
it would be another model than the one that was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from holdfast.models.directories import files
from holdfast.models.directories.files import read_header, read_kinds, read_shapes, weight_files
from holdfast.models.directories.libraries import check_report, first_line, is_mask, quiet, sampling_attention
from holdfast.models.directories.opening import merge_peft
from holdfast.models.directories.peft import is_peft, read_peft
from holdfast.models.directories.stacks import base_of
from holdfast.models.tiny.chat import is_tiny
from holdfast.models.tiny.llama import LlamaShape, TinyLlama
from holdfast.records.errors import StudyError, needs

_WHOLE_NUMBERS = ("I", "U", "BOOL")  # as safetensors names them


@lru_cache(maxsize=64)
def check_directory(
    directory: Path, attention: str | None, foreign: bool, trained: bool, _state: tuple[tuple[str, int, int], ...]
) -> int | None:
    """Refuses weights that are not those of their configuration, and an adapter that is not of its base.

    ``attention`` is the implementation that will compute, which some architectures do not have. ``foreign`` is for an
    engine that has architectures and quantisation of its own, ``trained`` for weights that are to change; ``_state`` of
    the files tells when to look again. Returns the number of tokens that the model reads, where it can be told without
    its weights. Errors: StudyError.
    """
    home = base_of(directory)
    if is_tiny(directory) and not is_peft(directory) and (shape := LlamaShape.read(home)) is not None:
        # A tiny model whose files fit is told without the time that transformers takes to start.
        wanted = {name: tuple(weight.shape) for name, weight in TinyLlama(shape).export_weights().items()}
        _check_stored(home)
        if wanted == read_shapes(home):
            return shape.vocabulary
    adapted = home != directory
    try:
        config = read_config(home)
    except StudyError:
        if adapted or not foreign:
            raise
        return None  # a model that transformers does not have
    quantization = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if quantization:
        if adapted or not foreign:
            settings = dict(quantization if isinstance(quantization, dict) else quantization.to_dict())
            check_quantized(home, settings, adapted=adapted, trained=trained)
        return None  # What these weights become is known when they are loaded, and checked then.
    network = build_hollow(home, config, read_shapes(home), attention=attention)
    _check_stored(home)
    if is_peft(directory):
        for name, kind in read_kinds(directory / files.ADAPTER).items():
            if kind.startswith(_WHOLE_NUMBERS):
                finding = f"{name} is of whole numbers ({kind})"
                raise StudyError(f"{directory / files.ADAPTER}: {finding}; save the adapter in 16 or 32 bits")
        shapes = read_header(directory / files.ADAPTER)
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        merge_peft(network, read_peft(directory), tensors, hollow=True)
    return int(network.get_input_embeddings().weight.shape[0])


def _check_stored(home: Path) -> None:
    """Refuses whole numbers for weights, and two weights of one name: which of them counts is chance."""
    from safetensors import safe_open

    places: dict[str, Path] = {}
    for path in weight_files(home):
        shapes = read_header(path)
        for name, kind in read_kinds(path).items():
            weight = name.endswith(("weight", "bias")) and not is_mask(name, shapes[name])
            if weight and kind.startswith(_WHOLE_NUMBERS):
                raise StudyError(
                    f"{path}: {name} is of whole numbers ({kind}): quantised weights, and config.json does not tell how"
                    " (quantization_config); name the model in 16 bits"
                )
            if (other := places.setdefault(name, path)) == path:
                continue
            both: list[Any] = [safe_open(file, framework="pt") for file in (other, path)]
            if not torch.equal(*(file.get_tensor(name) for file in both)):
                raise StudyError(f"{path}: {name} is also in {other.name}, and another one there; save the model again")


def check_quantized(directory: Path, settings: Mapping[str, Any], *, adapted: bool, trained: bool) -> None:
    """Refuses quantised weights that are not computed on this machine, that an adapter stands on, or that are trained.

    ``settings`` are the quantization_config. Errors: StudyError.
    """
    from transformers.quantizers import AutoHfQuantizer

    method = str(settings.get("quant_method", "an unnamed method"))
    bits = [width for key, width in (("load_in_4bit", 4), ("load_in_8bit", 8)) if settings.get(key)]
    bits += [settings[key] for key in ("bits", "w_bit", "num_bits") if isinstance(settings.get(key), int)]
    width = f", {bits[0]} bits" if bits else ""
    finding = f"{directory}: its weights are quantised ({method}{width})"
    if adapted:
        raise StudyError(
            f"{finding}, and an adapter is not merged into such weights; name the base in 16 bits as"
            f" base_model_name_or_path in {files.ADAPTER_CONFIG}"
        )
    if trained:
        raise StudyError(f"{finding}, and such weights are not trained; name the model in 16 bits")
    with quiet():
        try:
            known = AutoHfQuantizer.supports_quant_method(settings)
            if known:
                AutoHfQuantizer.from_config(settings, pre_quantized=True).validate_environment(
                    device_map={"": "cuda" if torch.cuda.is_available() else "cpu"}, weights_only=True
                )
        except Exception as error:  # Every method has errors of its own.
            raise StudyError(
                f"{finding}, which this machine does not compute ({first_line(error)}); install what it names, use a"
                " GPU that it asks for, or name the model in 16 bits"
            ) from error
    if not known:
        raise StudyError(f"{finding}, which transformers does not know; name the model in 16 bits")


def read_config(directory: Path) -> Any:
    """The configuration of a causal language model that transformers has the code of. Errors: StudyError."""
    with needs("train", f"the model {directory}"):
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    try:
        with quiet():
            config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # A configuration that does not validate raises what it likes.
        raise StudyError(
            f"{directory}: transformers cannot read config.json ({first_line(error)}); check it"
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise StudyError(
            f"{directory}: transformers has no language model of kind {config.model_type!r} that takes texts alone;"
            " name a causal language model"
        )
    return config


def build_hollow(
    directory: Path, config: Any, shapes: Mapping[str, tuple[int, ...]], *, attention: str | None = None
) -> Any:
    """The model of a configuration without values, given tensors of ``shapes`` without values.

    Errors: StudyError where they do not fit, or transformers cannot make the model.
    """
    from transformers import AutoModelForCausalLM

    hollow = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    attention = sampling_attention(config) if attention == "sdpa" else attention
    told = {} if attention is None else {"attn_implementation": attention}
    with quiet():
        try:
            with torch.device("meta"):
                made = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False, **told)
            network, info = type(made).from_pretrained(
                None,
                config=made.config,
                state_dict=hollow,
                device_map="meta",
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:
            # Older architectures look its name up among those that they have.
            unknown = attention is not None and str(error) == repr(attention)
            taker = "training here takes; use another base model"
            if attention == "sdpa":
                taker = "sampling here takes; use kind = 'vllm' or another model"
            if unknown or "does not support an attention implementation" in str(error):
                raise StudyError(
                    f"{directory}: its architecture ({config.model_type}) has no attention of the kind {attention!r},"
                    f" which {taker}"
                ) from error
            raise StudyError(
                f"{directory}: transformers cannot load this model ({first_line(error)}); check the directory"
            ) from error
    check_report(directory, network, info, shapes)
    return network
