"""How other libraries are made to speak in one line."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

_SHOWN = 3


def first_line(error: BaseException) -> str:
    """An error of a library in one line."""
    return (str(error).strip() or repr(error)).partition("\n")[0]


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
