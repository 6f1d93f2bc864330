"""The exception tree. Everything holdfast raises on purpose is a HoldfastError.

    HoldfastError
    ├── StudyError     what the user wrote is wrong: a study file, an option, an input file
    ├── MissingExtra   a feature needs packages that are not installed
    ├── StepError      a step of a plan failed
    ├── StoreError     a run directory cannot be read, written or trusted
    └── JudgeError     a judge's reply holds no verdict; recorded as a missing score, never raised at the user

``exit_code`` is what the command line returns: 2 for the user's input, 1 for a step that failed.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of all errors with a message for people: place, finding and remedy in one line."""

    exit_code = 1


class StudyError(HoldfastError):
    """The user's input is wrong: where, what was found, what to do."""

    exit_code = 2


class MissingExtra(HoldfastError):
    """A feature needs an optional group of packages."""

    exit_code = 2

    def __init__(self, feature: str, extra: str) -> None:
        self.feature, self.extra = feature, extra
        super().__init__(f"{feature} needs packages that are not installed: pip install 'holdfast[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return (MissingExtra, (self.feature, self.extra))


class StepError(HoldfastError):
    """A step failed; steps that do not depend on it go on."""


class StoreError(HoldfastError):
    """A run directory cannot be read, written or trusted."""

    exit_code = 2


class JudgeError(HoldfastError):
    """A judge's reply holds no verdict."""
