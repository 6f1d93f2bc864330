"""One word for all processes of a training, where there are several: the first decides, the others wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

_LONG = timedelta(days=7)  # a gate may take longer than any step of a training


def join_ranks() -> Any:
    """A group of all processes whose waiting is no sign of a fault; None where there is one process.

    All of them have to ask for it. The training's own group would be given up after some minutes.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return None
    return distributed.new_group(backend="gloo", timeout=_LONG)


def share_word(word: str | None, words: Sequence[str], group: Any) -> str:
    """The word of the first process, in all of them; ``word`` is None in the others."""
    if group is None:
        assert word is not None
        return word
    place = torch.tensor([0 if word is None else words.index(word)])
    distributed.broadcast(place, src=0, group=group)
    return words[int(place)]
