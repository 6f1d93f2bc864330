"""Readers of numbers on the command line, which say what they take instead of what they were given."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable


def number(what: str, hint: str, takes: Callable[[float], bool]) -> Callable[[str], float]:
    """A reader of a number that ``takes`` accepts; ``hint`` says in words which those are."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if takes(value := float(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}: give {hint}")

    return read


def count(least: int, what: str = "count") -> Callable[[str], int]:
    """A reader of a whole number from ``least``."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (value := int(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}: give a whole number from {least}")

    return read


money = number("amount", "a number from 0", lambda value: 0 <= value < float("inf"))
