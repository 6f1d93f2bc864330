"""A model's shape and how many tokens it reads a text as, from settings alone: no weights, neither torch nor others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.models.directories.files import find
from holdfast.models.directories.peft import is_peft, read_peft, text_home
from holdfast.models.directories.shape import Shape, shape_of_directory, shape_of_settings
from holdfast.models.directories.stacks import base_of
from holdfast.models.entries import ModelEntry
from holdfast.models.hub.gguf import TOKENS, find_unpacked, is_gguf, read_settings
from holdfast.records.errors import MissingExtra, StoreError, StudyError

# Characters of a token where no tokenizer is at hand: English prompts with JSON in them.
_CHARACTERS = 3.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What is known of a model without opening it. ``unpacked``: it is no file that has yet to be dequantised."""

    shape: Shape
    count: Callable[[str], float]
    unpacked: bool = True


def outline(entry: ModelEntry) -> Outline | None:
    """What a study's model looks like where its settings are at hand; None where they are not, or do not tell."""
    if entry.kind == "random":
        shape = Shape(
            layers=entry.layers,
            hidden=entry.hidden,
            ffn=entry.ffn,
            heads=entry.heads,
            key_value_heads=entry.key_value_heads,
            head_size=max(1, entry.hidden // entry.heads),
            vocabulary=entry.vocabulary,
        )
        return Outline(shape=shape, count=_count_roughly)
    with contextlib.suppress(StudyError, StoreError, MissingExtra, OSError):  # opening it will say what is wrong
        if not is_gguf(entry.name):
            return _of_directory(find(entry.name, entry.revision, download=False))
        if (directory := find_unpacked(entry.name)) is not None:
            return _of_directory(directory)
        settings = read_settings(entry.name)
        found = shape_of_settings(settings, int(settings.get(TOKENS, 0)))
        return None if found is None else Outline(shape=found, count=_count_roughly, unpacked=False)
    return None


def _of_directory(directory: Path) -> Outline | None:
    base = read_peft(directory, download=False).base if is_peft(directory) else base_of(directory)
    shape = shape_of_directory(base)
    return None if shape is None else Outline(shape=shape, count=_counter(text_home(directory)))


def _counter(directory: Path) -> Callable[[str], float]:
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception:  # without the package or the file, and of a damaged one it raises nothing more special
        return _count_roughly
    return lambda text: float(len(tokenizer.encode(text, add_special_tokens=False).ids))


def _count_roughly(text: str) -> float:
    return len(text) / _CHARACTERS
