"""What a program has written, taken over as a model of the run: checked as any model from elsewhere, then copied whole.

An adapter on the model that the program was given is merged into it, so that nothing refers to what was lent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.models.directories import files
from holdfast.models.directories.files import digest_weights, read_object, read_shapes
from holdfast.models.directories.peft import has_tokenizer, is_peft, read_peft
from holdfast.models.directories.stacks import copy_text_files, is_stack
from holdfast.models.remote.endpoints import find_secret
from holdfast.models.tiny.chat import is_tiny
from holdfast.records.errors import HoldfastError, StepError, StudyError, needs, require
from holdfast.store.weights import ALLOWED_SUFFIXES

_FETCH = "save the model with save_pretrained"
# What of a configuration makes another architecture, in the words of most models.
_SHAPE_KEYS = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "head_dim", "n_embd", "n_layer", "n_head", "d_model", "num_experts", "num_local_experts"),
)
_VOCABULARY = "vocab_size"


def take_over(place: str, written: Path, output: Path, model: Path, target: Path) -> None:
    """Write the model of the directory ``written``, in or at ``output``, whole to ``target``, a new directory.

    ``model`` is what the program was given; ``place`` begins what is said. Errors: StepError for what is refused.
    """
    with needs("train", f"what {place} has trained"):
        from holdfast.models.directories.opening import check_values, same_weights, write_whole
    from holdfast.models.hub import hub

    try:
        _check_files(written, output)
        if is_peft(written):
            _check_base(written, model)
        hub.check_files(written, download=False)
        if not is_peft(written):
            _check_architecture(written, model)
        hub.check_model(written, download=False)
        check_values(written, "save a model that has learnt with a smaller rate")
        target.mkdir(mode=0o700)
        write_whole(written, target)
        trained = not same_weights(target, model)
        require(trained, f"{written}: holds the very weights of {{model}}: nothing was trained; let it save what was")
        _complete(target, model)
        for path in target.iterdir():
            _check_text(path)
        _check_tokenizer(target)
    except (HoldfastError, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        told = str(error).replace(f"{target}", f"{written}")
        told = told.replace(f"{output}", "{output}").replace(f"{model}", "{model}")
        raise StepError(f"{place}: what the program left is refused: {told}") from error


def _check_files(written: Path, output: Path) -> None:
    """There is a directory with files, none of which is elsewhere or no file. Errors: StudyError."""
    shown = written.relative_to(output)
    told = f"{{output}}/{shown}" if shown.parts else "{output}"
    home = output.parent.resolve() / output.name
    below = [path for path in _find_all(written) if path.is_symlink()] if written.is_dir() else []
    for path in (output, written, *below):
        # A link to itself is an error to pathlib.
        if not Path(os.path.realpath(path)).is_relative_to(home):
            raise StudyError(f"{path}: is a link that leads out of {{output}}; let the program write a copy")
    found = [] if not written.is_dir() else list(written.iterdir())
    require(bool(found), f"{told}: nothing was written there; let the program save the model to {{output}}")
    if not any((written / name).is_file() for name in (files.CONFIG, files.ADAPTER_CONFIG)):
        inside = sorted(path.name for path in found if (path / files.CONFIG).is_file())
        remedy = f"say where the model is: keep = {str(shown / inside[0])!r}" if inside else _FETCH
        raise StudyError(f"{told}: holds no {files.CONFIG}; {remedy}")
    for path in found:
        model_file = path.suffix in ALLOWED_SUFFIXES or path.name in (files.CONFIG, files.ADAPTER_CONFIG)
        require(path.is_file() or not model_file, f"{path}: is no regular file; {_FETCH}")
    require(not is_stack(written), f"{written / files.STACK}: is a file of holdfast's own; {_FETCH}")


def _find_all(directory: Path) -> Iterator[Path]:
    """Everything below a directory; links are not followed."""
    for parent, folders, names in os.walk(directory):
        yield from (Path(parent) / name for name in (*folders, *names))


def _check_base(written: Path, model: Path) -> None:
    """An adapter stands on the model that the program was given. Errors: StudyError."""
    base = read_peft(written, download=False).base
    same = base.resolve() == model.resolve() or digest_weights(base) == digest_weights(model)
    require(same, f"{written / files.ADAPTER_CONFIG}: the adapter is on {base}, and not on {{model}}; train it on that")


def _check_architecture(written: Path, model: Path) -> None:
    """The network is that of the model that the program was given; its vocabulary may be larger. Errors: StudyError."""
    from holdfast.models.tiny.llama import LlamaShape

    ours, theirs = (_read_settings(one) for one in (model, written))
    for key in _SHAPE_KEYS:
        before, after = ours.get(key), theirs.get(key)
        require(
            before == after or before is None or after is None,
            f"{written / files.CONFIG}: {key} is {after!r:.60}, and that of {{model}} is {before!r:.60}: another"
            " architecture; train the model that is given",
        )
    if is_tiny(model) and (strange := LlamaShape.find_strange(written)) is not None:
        raise StudyError(
            f"{written / files.CONFIG}: {strange}; leave the settings of a tiny model as those of {{model}}"
        )
    before, after = read_shapes(model), read_shapes(written)
    for name, shape in after.items():
        known = before.get(name, shape)
        resized = shape[1:] == known[1:] and shape[:1] == (theirs.get(_VOCABULARY),)
        require(
            shape == known or resized,
            f"{written}: {name} has the shape {list(shape)}, and {list(known)} in {{model}}: another architecture;"
            " train the model that is given",
        )


def _read_settings(directory: Path) -> Mapping[str, Any]:
    """A configuration, with that of its part for texts among its own keys."""
    settings = read_object(directory / files.CONFIG, _FETCH)
    inner = settings.get("text_config")
    return {**settings, **(inner if isinstance(inner, dict) else {}), "model_type": settings.get("model_type")}


def _complete(target: Path, model: Path) -> None:
    """A model without a tokenizer has that of the one that was given; so has a tiny one, whose language is fixed."""
    if is_tiny(model) or not has_tokenizer(target):
        copy_text_files(model, target)
    # Their libraries name the directory that was lent, which will not be there.
    config = json.loads((target / files.CONFIG).read_text(encoding="utf-8"))
    if config.pop("_name_or_path", None) is not None:
        (target / files.CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check_text(path: Path) -> None:
    """What is taken over is a file of a model and holds no key that is known here. Errors: StudyError."""
    require(path.suffix in ALLOWED_SUFFIXES, f"{path.name} is no file of a model")
    if path.suffix != ".safetensors" and (name := find_secret(path.read_text(encoding="utf-8", errors="replace"))):
        raise StudyError(f"{path}: holds the value of the variable {name}; let the program leave it out")


def _check_tokenizer(target: Path) -> None:
    """The model speaks: its tokenizer opens and writes no token that it does not read. Errors: StudyError."""
    from holdfast.models.hub import hub

    tokens = hub.check_model(target, download=False)
    if is_tiny(target):
        from holdfast.models.tiny.model import TinyModel

        TinyModel.load(target)
        return
    from holdfast.models.hub.chat import HubChat

    hub.check_vocabulary(target, HubChat(target).tokenizer, tokens)
