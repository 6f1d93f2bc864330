"""What a foreign score means: how it is declared, and its values on our scale.

    --score safety=-score[0,1]        the value ``score``, from 0 to 1, high is bad
    --score safety=+judge:grade[1,10]@3    ``grade`` of the scorer ``judge``; 3 and below are severe events
    --score safety=+match             without a range: Inspect's grades, C = 1, P = 0.5, I = 0
    --score safety=security           which score is meant, where what it means is known

Nothing is guessed from a name or from the values that were seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.records import Declaration
from holdfast.records.errors import StudyError
from holdfast.store.origins import show_number

BY_USER = "declared with --score"
_WRITTEN = re.compile(
    r"(?P<objective>[^=]+)=\s*(?P<sign>[+-]?)(?:(?P<scorer>.+):)?(?P<key>[^:]+?)"
    r"(?:\[(?P<low>[^,\[\]]+),(?P<high>[^,\[\]]+)\](?:\s*@(?P<severe>[^@\[\]]+))?)?"
)
# Inspect's ``value_to_float``; "N" (no answer) is no value.
_GRADES: Mapping[str, float] = {
    **dict.fromkeys(("C", "yes", "true"), 1.0),
    **dict.fromkeys(("I", "no", "false"), 0.0),
    "P": 0.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOption:
    """One ``--score``: which value of a log is an objective, and its declaration where the user gave one."""

    objective: str
    key: str
    scorer: str | None = None
    declaration: Declaration | None = None

    def means(self, scorer: str | None, key: str) -> bool:
        """Whether a value of a scorer is meant, either with its package or without; None stands for any scorer."""
        return is_name(self.key, key) and (None in (self.scorer, scorer) or is_name(self.scorer, scorer))


def is_name(name: str | None, full: str | None) -> bool:
    """Whether a name is a full one, with its package before it or without."""
    return name is not None and full is not None and name in (full, full.rpartition("/")[2])


def parse_score(word: str) -> ScoreOption:
    """What ``--score`` says. Errors: StudyError with how it is written."""
    parts = _WRITTEN.fullmatch(word.strip())
    # A key may hold brackets and "@" (``pass@1``), but then its range stands behind it.
    if parts is None or (parts["low"] is None and re.search(r"[\[\]]", parts["key"])):
        raise StudyError(
            f"--score {word!r}: write it as OBJECTIVE=KEY, or with sign and range as OBJECTIVE=-KEY[LOW,HIGH]"
            " (+ where high is good, - where high is bad)"
        )
    objective, key = parts["objective"].strip(), parts["key"].strip()
    scorer = parts["scorer"].strip() if parts["scorer"] else None
    if not parts["sign"] and parts["low"] is None:
        return ScoreOption(objective=objective, key=key, scorer=scorer)
    low, high = (0.0, 1.0) if parts["low"] is None else (_number(word, parts["low"]), _number(word, parts["high"]))
    ends = f"[{show_number(low)},{show_number(high)}]"
    if low >= high:
        raise StudyError(f"--score {word!r}: the range {ends} is empty; write the low end first")
    severe = None if parts["severe"] is None else _number(word, parts["severe"])
    if severe is not None and not low <= severe <= high:
        raise StudyError(f"--score {word!r}: severe from {show_number(severe)} on lies outside {ends}; correct it")
    sign: Literal[1, -1] = -1 if parts["sign"] == "-" else 1
    declared = Declaration(
        objective=objective, key=key, sign=sign, low=low, high=high, scorer=scorer, severe=severe, source=BY_USER
    )
    return ScoreOption(objective=objective, key=key, scorer=scorer, declaration=declared)


def _number(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StudyError(f"--score {word!r}: {text.strip()!r} is no number; write a range as [LOW,HIGH]")
    return value


def read_number(value: object) -> float | None:
    """A value as Inspect counts it: 1, 1.0, True, "1" and "C" are the same; None for what is no number."""
    if isinstance(value, str):
        text = value.strip()
        if (grade := _GRADES.get(text, _GRADES.get(text.lower()))) is not None:
            return grade
        if not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", text):
            return None
        value = float(text)
    if isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def is_grade(value: object) -> bool:
    """Whether a value is a grade in words or letters, which means a place between 0 and 1 and nothing else."""
    return isinstance(value, str) and (value.strip() in _GRADES or value.strip().lower() in _GRADES)


def on_scale(declared: Declaration, value: object) -> float | str:
    """A value in score points from 0 (worst) to 3 (best), or the reason that it has no place on the scale."""
    number = read_number(value)
    if number is None:
        return f"off_scale: {describe(value)} is no number"
    # A grade is a place between 0 and 1: on a wider range it would look like a value near the low end.
    if is_grade(value) and (declared.low, declared.high) != (0.0, 1.0):
        ends = f"[{show_number(declared.low)}, {show_number(declared.high)}]"
        return f"off_scale: the grade {describe(value)} is none of {ends}"
    try:
        return declared.to_points(number)
    except ValueError as error:
        return f"off_scale: {error}"


def describe(value: object, most: int = 40) -> str:
    """A value in few characters, for people."""
    text = " ".join(str(value).split()) if isinstance(value, str) else repr(value)
    shown = f"{text[:most]}…" if len(text) > most else text
    return shown.encode("utf-8", "replace").decode()
