"""How other libraries are made to speak in one line."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

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


def tell_wrapper(names: Iterable[str], *, own: Sequence[str] = ()) -> str | None:
    """What wrapped a model whose weights have such names, and what undoes it; ``own`` are prefixes that belong."""
    names = list(names)
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
    """Transformers tells in tables and bars on stderr what is told here in a line."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity(logging.CRITICAL)
    try:
        with no_progress_bars():
            yield
    finally:
        theirs.set_verbosity(level)


def first_names(names: Iterable[str]) -> str:
    """Some names as an error tells them: the first few."""
    names = list(names)
    return ", ".join(names[:_SHOWN])
