"""Whether a model directory can have been trained from another: shape, tokens, and what its adapter stands on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.models.directories import files
from holdfast.models.directories.files import digest_weights, read_object
from holdfast.models.directories.peft import has_tokenizer, text_home
from holdfast.models.directories.stacks import TEXT_FILES, base_of, digest_model, find_stack
from holdfast.models.tiny.chat import TinyChat, is_tiny
from holdfast.records.errors import StudyError

if TYPE_CHECKING:
    from holdfast.models.hub.chat import Calls

# Settings that training does not change, in the words of the families of models.
_SHAPE = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "head_dim", "n_embd", "n_layer", "n_head", "d_model", "num_layers", "num_heads"),
)
_ANOTHER = "give the checkpoint that was trained from it"


def require_kin(directory: Path, parent: Path, *, calls: Calls = "auto") -> None:
    """Refuse a directory that was not trained from ``parent``, as far as files can tell; both can be opened.

    Weights of the same shapes and tokens are taken at their word. Errors: StudyError, StoreError.
    """
    _check_shape(directory, parent)
    _check_adapter(directory, parent)
    if _is_untrained(directory, parent):
        raise StudyError(f"{directory}: holds the very weights of {parent}: nothing was trained; {_ANOTHER}")
    if not has_tokenizer(text_home(directory)):
        there = " ".join(name for name in TEXT_FILES if (text_home(parent) / name).is_file())
        raise StudyError(
            f"{directory}: holds no tokenizer, so that how it reads and writes is not known; if that is as in"
            f" {text_home(parent)}, copy from there {there}"
        )
    _check_tokens(directory, parent, calls)


def _read_shape(directory: Path) -> Mapping[str, Any]:
    read = read_object(base_of(directory) / files.CONFIG, files.FETCH)
    inner = read.get("text_config")
    return {**read, **inner} if isinstance(inner, dict) else read


def _check_shape(directory: Path, parent: Path) -> None:
    own, theirs = _read_shape(directory), _read_shape(parent)
    for key in _SHAPE:
        if key in own and key in theirs and own[key] != theirs[key]:
            raise StudyError(
                f"{directory}: its {key} is {own[key]!r} and that of {parent} is {theirs[key]!r}: another"
                f" architecture; {_ANOTHER}"
            )


def _check_adapter(directory: Path, parent: Path) -> None:
    """An adapter stands on the parent's own weights, or on those that the parent's adapter stands on."""
    base = base_of(directory)
    if base == directory or digest_weights(base) == digest_weights(base_of(parent)):
        return
    raise StudyError(
        f"{directory}: is an adapter on {base}, which holds other weights than {base_of(parent)}, from which the"
        " lineage goes on; give the checkpoint that the adapter was trained on as the one before"
    )


def _is_untrained(directory: Path, parent: Path) -> bool:
    """Whether a directory computes with its parent's weights: saved again, or beside an adapter that adds nothing."""
    from holdfast.models.directories.opening import same_weights

    if digest_model(directory) == digest_model(parent):
        return True
    if base_of(parent) != parent:
        return False
    if base_of(directory) == directory:
        return same_weights(directory, parent)
    stack = find_stack(directory)  # none of an adapter that is more than two factors
    return stack is not None and not any(bool(up.any()) for _, up in stack.factors.values())


def _check_tokens(directory: Path, parent: Path, calls: Calls) -> None:
    own, theirs = _read_tokens(directory, calls), _read_tokens(parent, calls)
    other = [token for token, number in theirs.items() if own.get(token) != number]
    if other:
        raise StudyError(
            f"{directory}: its tokenizer has another number, or none, for {len(other)} of the {len(theirs)} tokens of"
            f" {parent} (first: {other[0]!r}): another tokenizer; {_ANOTHER}"
        )


def _read_tokens(directory: Path, calls: Calls) -> Mapping[str, int]:
    if is_tiny(directory):
        return TinyChat.load(directory).ids
    from holdfast.models.hub.chat import HubChat

    found: Mapping[str, int] = HubChat(directory, calls=calls).tokenizer.get_vocab()
    return found
