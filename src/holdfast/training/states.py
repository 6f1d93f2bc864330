"""A training loop's state on disk: safetensors and JSON, whole or not there.

A new state is written beside the old one and takes its place by renaming; a crash between leaves one of the two.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.records.errors import StoreError
from holdfast.records.outputs import sync_tree

STATE = "state"
_OLD, _NEW = "state.old", "state.new"
_FACTS, _TENSORS = "loop.json", "tensors.safetensors"


class UnusableState(StoreError):
    """A state that cannot be taken up: damaged, or of another stage."""

    def __init__(self, place: Path, reason: object) -> None:
        self.place, self.reason = place, str(reason)
        super().__init__(f"{place}: cannot be resumed ({reason}); remove it to start the stage again")

    def __reduce__(self) -> tuple[type[UnusableState], tuple[Path, str]]:
        return (UnusableState, (self.place, self.reason))


def write_state(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes ``folder/state``, with a digest of what it holds; ``facts`` are JSON."""
    from safetensors.torch import save_file

    new = folder / _NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, new / _TENSORS)
    (new / _FACTS).write_text(json.dumps({"facts": facts, "digest": _digest(new, facts)}), encoding="utf-8")
    sync_tree(new)
    state, old = folder / STATE, folder / _OLD
    if state.exists():
        shutil.rmtree(old, ignore_errors=True)
        state.rename(old)
    new.rename(state)
    shutil.rmtree(old, ignore_errors=True)


def read_state(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]] | None:
    """The last whole state with its place, or None where there is none. Errors: UnusableState for a damaged one."""
    from safetensors.torch import load_file

    for place in (folder / STATE, folder / _OLD):
        if not (place / _FACTS).exists():
            continue
        try:
            held = json.loads((place / _FACTS).read_text(encoding="utf-8"))
            facts = held["facts"]
            if held["digest"] != _digest(place, facts):
                raise ValueError("it is not as it was written")
            return place, facts, load_file(place / _TENSORS)
        except Exception as error:  # safetensors has its own exception type for a torn file
            raise UnusableState(place, error) from error
    return None


def _digest(place: Path, facts: Mapping[str, Any]) -> str:
    """SHA-256 over a state's tensors and its facts as JSON."""
    with (place / _TENSORS).open("rb") as file:
        whole = hashlib.file_digest(file, "sha256")
    whole.update(json.dumps(facts, sort_keys=True).encode())
    return whole.hexdigest()


def random_states() -> dict[str, Tensor]:
    """The states of torch's random generators."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Puts torch's random generators where they were."""
    torch.set_rng_state(states["random.cpu"])
    if "random.cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["random.cuda"])
