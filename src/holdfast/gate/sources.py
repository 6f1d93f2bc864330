"""Where the two sides come from: runs, Inspect logs, and what of them is read once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import MissingExtra, StudyError
from holdfast.gate.books import Book, is_run, read_book
from holdfast.imports import import_run

LOG_SUFFIXES = (".eval", ".json")


@dataclass(slots=True)
class Library:
    """The books of one command, each read once; imported logs lie in ``scratch`` and are gone with it."""

    scratch: Path
    books: dict[Path, Book] = field(default_factory=dict)

    def open(self, place: Path) -> Book:
        """The book of a run or of an Inspect log. Errors: StudyError, StoreError, MissingExtra."""
        key = place.absolute()
        if key not in self.books:
            if is_log(place):
                run = self.scratch / f"log-{len(self.books)}"
                import_run(place, run)
                self.books[key] = read_book(run, str(place), _log_settings(place))
            else:
                self.books[key] = read_book(place)
        return self.books[key]

    def forget(self, place: Path) -> None:
        """Read a run anew when it is opened next."""
        self.books.pop(place.absolute(), None)


@contextmanager
def open_library() -> Iterator[Library]:
    """A library whose imported logs are removed afterwards."""
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-gate-"))
        yield Library(scratch=Path(folder))


def is_log(place: Path) -> bool:
    """Whether a path is an Inspect log: a file, or a folder that holds logs and no run."""
    if place.is_file():
        return place.suffix in LOG_SUFFIXES
    return place.is_dir() and not is_run(place) and any(place.glob("*.eval"))


def split_place(text: str, run: Path | None) -> tuple[Path, str]:
    """Where a side is and which checkpoint of it is meant: ``RUN:NAME``, ``LOG:NAME``, ``RUN``, ``LOG`` or ``NAME``.

    A name by itself is one of ``run``. Errors: StudyError where there is no such place.
    """
    cuts = [position for position, letter in enumerate(text) if letter == ":"]
    for cut in (len(text), *reversed(cuts)):
        place = Path(text[:cut])
        if text[:cut] and (is_log(place) or (place.is_dir() and is_run(place))):
            return place, text[cut + 1 :].strip()
    if run is not None:
        return run, text.strip()
    if Path(text).suffix in LOG_SUFFIXES:
        raise StudyError(f"{text}: no such log; give the path of an Inspect log")
    raise StudyError(f"{text!r}: no run and no log is there; write RUN:NAME, or give RUN first and then names in it")


def _log_settings(place: Path) -> Mapping[str, Any] | None:
    """What an Inspect log says decided its episodes and scores; None for a folder of several logs that differ."""
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise MissingExtra("a comparison of Inspect logs", "remote") from error

    logs = [place] if place.is_file() else sorted(place.glob("*.eval"))
    found = [_describe_log(read_eval_log(str(log), header_only=True)) for log in logs]
    return found[0] if found and all(one == found[0] for one in found) else None


def _describe_log(log: Any) -> dict[str, Any]:
    told = log.eval
    config = told.config.model_dump(exclude_none=True)
    limits = {key: value for key, value in config.items() if key.endswith("_limit") and key != "limit"}
    generation = log.plan.config.model_dump(exclude_none=True)
    return {
        "task": {"name": told.task, "version": told.task_version, "arguments": dict(told.task_args or {})},
        "limits": limits,
        "generation": {
            key: generation.get(key) for key in ("temperature", "max_tokens", "top_p", "top_k", "reasoning_effort")
        },
    }
