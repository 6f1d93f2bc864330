"""Readers of numbers on the command line, which say what they take instead of what they were given."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

MOST = 10**9  # of anything that is counted
_SHOWN = 40  # characters of a word that cannot be read


def number(
    what: str, hint: str, takes: Callable[[Any], bool], kind: Callable[[str], Any] = float
) -> Callable[[str], Any]:
    """A reader of a number that ``takes`` accepts; ``hint`` says in words which those are."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if takes(value := kind(text)):
                return value
        shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
        raise argparse.ArgumentTypeError(f"{shown} is no {what}: give {hint}")

    return read


def count(least: int, what: str = "count", *, most: int = MOST) -> Callable[[str], Any]:
    """A reader of a whole number from ``least`` to ``most``."""
    return number(what, f"a whole number from {least} to {most:,}", lambda value: least <= value <= most, int)


def add_trust(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option by which a run's own addresses and names of keys are taken."""
    command.add_argument(
        "--trust-endpoints", action="store_true", help="reach remote models where RUN's own study says, by its keys"
    )


def add_budget(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options that bound what remote models cost."""
    calls = count(0, "number of calls")
    command.add_argument("--max-calls", type=calls, metavar="N", help="calls to remote models, all together")
    command.add_argument("--max-cost", type=money, metavar="AMOUNT", help="money that those may cost, all together")


def add_where(command: argparse.ArgumentParser | argparse._ArgumentGroup, words: str) -> None:
    """Add the option that says which of several checkpoints is meant."""
    command.add_argument("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=words)


def add_scores(command: argparse._ArgumentGroup) -> None:
    """Add the option that says what the scores of logs mean."""
    command.add_argument(
        "--score",
        action="append",
        default=[],
        metavar="OBJECTIVE=NAME",
        help="which score it is; of another scorer's with sign and range: 'safety=-harm[0,1]'",
    )


def seed(least: int) -> Callable[[str], Any]:
    """A reader of a seed from ``least``."""
    return count(least, "seed", most=2**63 - 1)


# A study allows no more of either.
workers = count(1, most=1024)
draws = count(1, "number of draws", most=1_000_000)
money = number("amount", "a number from 0", lambda value: 0 <= value < float("inf"))
