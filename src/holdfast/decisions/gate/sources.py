"""Where the two sides come from: runs, Inspect logs, and what of them is read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.decisions.gate.books import Book, is_run, read_book
from holdfast.exchange.imports import import_run
from holdfast.exchange.inspect.files import LOG, LOG_AS_JSON, is_inspect
from holdfast.exchange.scales import ScoreOption
from holdfast.records.errors import StudyError
from holdfast.records.outputs import scratch_directory


@dataclass(slots=True)
class Library:
    """The books of one command, each read once; imported logs lie in ``scratch`` and are gone with it.

    ``scores`` say what the scores of logs mean, as on the command line.
    """

    scratch: Path
    scores: tuple[ScoreOption, ...] = ()
    books: dict[Path, Book] = field(default_factory=dict)

    def open(self, place: Path) -> Book:
        """The book of a run or of an Inspect log. Errors: StudyError, StoreError, MissingExtra."""
        key = place.absolute()
        if key not in self.books:
            if is_log(place):
                run = self.scratch / f"log-{len(self.books)}"
                import_run(place, run, scores=self.scores)
                self.books[key] = read_book(run, str(place))
            else:
                self.books[key] = read_book(place)
        return self.books[key]

    def forget(self, place: Path) -> None:
        """Read a run anew when it is opened next."""
        self.books.pop(place.absolute(), None)


@contextmanager
def open_library(scores: tuple[ScoreOption, ...] = ()) -> Iterator[Library]:
    """A library whose imported logs are removed afterwards."""
    with scratch_directory() as folder:
        yield Library(scratch=folder, scores=scores)


def is_log(place: Path) -> bool:
    """Whether a path is an Inspect log, or a folder that holds logs and no run."""
    return is_inspect(place) and not is_run(place)


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
    if Path(text).suffix in (LOG, LOG_AS_JSON):
        found = "is no Inspect log" if Path(text).is_file() else "no such log"
        raise StudyError(f"{text}: {found}; give the path of an Inspect log")
    raise StudyError(f"{text!r}: no run and no log is there; write RUN:NAME, or give RUN first and then names in it")
