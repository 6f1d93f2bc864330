"""A gate beside a training process: what of that process it must not touch, and what it must not take from it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

import holdfast

# By what launchers tell a process that it is one of several: a gate is one by itself, and waits for no other.
_RANKS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_NAME", "ROLE_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
_LAUNCHERS = ("ACCELERATE_", "FSDP_", "OMPI_COMM_WORLD_", "PMI_", "TORCHELASTIC_")


def alone(variables: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process by itself that has this very holdfast: nothing of launchers, and ``more``."""
    kept = {key: value for key, value in variables.items() if key not in _RANKS and not key.startswith(_LAUNCHERS)}
    home = str(Path(holdfast.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (home, kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **more}


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Random numbers, threads and gradients of this process are afterwards as they were, whatever happens inside."""
    python, arrays = random.getstate(), np.random.get_state()
    threads, kind = torch.get_num_threads(), torch.get_default_dtype()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_default_dtype(kind)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
