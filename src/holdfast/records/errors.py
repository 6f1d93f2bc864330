"""The exception tree. Everything holdfast raises on purpose is a HoldfastError.

    HoldfastError
    ├── StudyError     what the user wrote is wrong: a study file, an option, an input file
    ├── MissingExtra   a feature needs packages that are not installed
    ├── StepError      a step of a plan failed
    ├── StoreError     a run directory cannot be read, written or trusted
    ├── ProviderError  a model gave no reply; recorded as missing data, or the end of a step that can be resumed
    │   └── BudgetSpent    the calls or the money that a run may spend are spent
    └── JudgeError     a judge's reply holds no verdict; recorded as a missing score, never raised at the user

``exit_code`` is what the command line returns: 2 for the user's input, 1 for a step that failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NoReturn

Fault = Literal["refused", "unavailable", "rejected", "malformed"]


class HoldfastError(Exception):
    """Base of all errors with a message for people: place, finding and remedy in one line."""

    exit_code = 1


class StudyError(HoldfastError):
    """The user's input is wrong: where, what was found, what to do."""

    exit_code = 2


def pip_install(extra: str) -> str:
    """The command that installs an extra: in a checkout, until the distribution is published."""
    return f"pip install '.[{extra}]' in a checkout of holdfast (pip install 'holdfast-evals[{extra}]' once published)"


class MissingExtra(HoldfastError):
    """A feature needs an optional group of packages."""

    exit_code = 2

    def __init__(self, feature: str, extra: str) -> None:
        self.feature, self.extra = feature, extra
        super().__init__(f"{feature} needs packages that are not installed: {pip_install(extra)}")

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return (MissingExtra, (self.feature, self.extra))


@contextmanager
def needs(extra: str, feature: str) -> Iterator[None]:
    """Imports inside that fail for want of packages raise MissingExtra."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(feature, extra) from error


class StepError(HoldfastError):
    """A step failed; steps that do not depend on it go on."""


class StoreError(HoldfastError):
    """A run directory cannot be read, written or trusted."""

    exit_code = 2


class JudgeError(HoldfastError):
    """A judge's reply holds no verdict."""


class ProviderError(HoldfastError):
    """A model gave no reply to a request.

    ``fault`` says whose it is. "refused": no request will be answered (wrong key, no such model, no money left there).
    "unavailable": an outage outlasted the retries, or what came back was no reply at all. "rejected": this one request
    is not answered (too long, filtered); the next may be. "malformed": the model answered, but not in the form that was
    asked for, also when it was asked again.
    """

    def __init__(self, message: str, fault: Fault) -> None:
        self.fault = fault
        super().__init__(message)

    @property
    def fatal(self) -> bool:
        """Whether every other request would fail alike."""
        return self.fault == "refused"

    @property
    def is_data(self) -> bool:
        """Whether it speaks of this request alone, so that it is recorded; else the step fails and can be resumed."""
        return self.fault in ("rejected", "malformed")

    def __reduce__(self) -> tuple[type[ProviderError], tuple[str, Fault]]:
        return (type(self), (str(self), self.fault))


class BudgetSpent(ProviderError):
    """The calls or the money that a run may spend are spent; with a larger budget it goes on where it stopped."""

    def __init__(self, message: str, fault: Fault = "refused") -> None:
        super().__init__(message, fault)


def refuse(place: object, finding: str, remedy: str) -> NoReturn:
    """Raise StudyError with the three things that a message says: where, what was found, what to do."""
    raise StudyError(f"{place}: {finding}; {remedy}")


def require(held: bool, message: str) -> None:
    """Raise StudyError with a message for what does not hold."""
    if not held:
        raise StudyError(message)


def did_you_mean(name: str, known: Iterable[str], *, before: str = "", after: str = "") -> str:
    """``did you mean 'safety'?`` with what stands around it: the nearest of the known names; empty where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"{before}did you mean {near[0]!r}?{after}" if near else ""


def require_known(name: str, known: Iterable[object], subject: str, place: str) -> None:
    """Raise StudyError for a name that is not among those at a place, with the nearest that is."""
    names = sorted(map(str, known))
    hint = did_you_mean(name, names, before="; ")
    require(name in names, f"{subject} {name!r}, not among {place}: {', '.join(names)}{hint}")
