"""What a judge's reply says: a verdict, or the reason that there is none. Nothing is ever guessed.

``strict`` takes a reply that is one JSON object of the asked form and nothing else; no fence, no word around it.
``tolerant`` also reads that object inside prose or a fence, and the headed lines ("Overall Quantitative Score: **2**")
that models write unasked. It reads a value only where it stands alone behind its key, and refuses a reply in which two
readings differ. Either raises JudgeError with a reason code:

    unparsed        not of a form that the parser reads
    no_score        readable, but without a score
    not_an_integer  the score is true, 2.0, "2" or null
    out_of_range    the score is not 0, 1, 2 or 3
    ambiguous       a key stands there twice, two readings differ, or a label stands for another value
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.judges.rubric.scales import VALUES
from holdfast.records.errors import JudgeError
from holdfast.records.inputs import strict_json

Labels = Mapping[str, int]
KEYS = ("reasoning", "label", "score")
MAX_REPLY = 100_000
"""Longer replies, in characters, are not read: a judge's reasoning and score take a fiftieth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A value 0-3, the label that was given with it, and the position of the value's digit in the reply, if known."""

    value: int
    label: str | None
    at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """A way to read replies. ``version`` is raised by hand when it reads any reply differently."""

    name: str
    version: int
    parse: Callable[[str, Labels], Verdict]


def reply_schema(labels: Labels) -> dict[str, Any]:
    """The JSON schema of a reply: reasoning first, then the label, then the score."""
    return {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string"},
            "label": {"type": "string", "enum": list(labels)},
            "score": {"type": "integer", "enum": list(VALUES)},
        },
        "required": list(KEYS),
        "additionalProperties": False,
    }


# --- strict ------------------------------------------------------------------------------------------------------


_DECODER = strict_json(lambda _: JudgeError("ambiguous"), lambda _: JudgeError("unparsed"))
_SCORE_KEY = re.compile(r'"score"\s*:\s*"?')


def parse_strict(text: str, labels: Labels) -> Verdict:
    """The verdict of a reply that is one JSON object with reasoning and score, the label being optional.

    A label that is given must be one of ``labels`` and stand for the score. Errors: JudgeError with a reason code.
    """
    if len(text) > MAX_REPLY:
        raise JudgeError("unparsed")
    try:
        answer = _DECODER.decode(text.strip())
    except (ValueError, RecursionError) as error:
        raise JudgeError("unparsed") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("reasoning"), str) or not answer.keys() <= set(KEYS):
        raise JudgeError("unparsed")
    if "score" not in answer:
        raise JudgeError("no_score")
    value, label = answer["score"], answer.get("label")
    if type(value) is not int:
        raise JudgeError("not_an_integer")
    if value not in VALUES:
        raise JudgeError("out_of_range")
    if "label" in answer and label not in labels:
        raise JudgeError("unparsed")
    if label is not None and labels[label] != value:
        raise JudgeError("ambiguous")
    # Quotation marks inside a JSON string are escaped, so only the key itself can look like this.
    key = _SCORE_KEY.search(text)
    return Verdict(value=value, label=label, at=key.end() if key else None)


# --- tolerant ----------------------------------------------------------------------------------------------------

# What a pattern has passed over it never gives back (``*+``), so that none takes more than one pass.
_MARKS = r"[\s*_`\"'\[(]*+"
_CLOSERS = r"[\s*_`\"'\])]*+"
_HEADING = re.compile(
    r"(?:[-*+] ++)?(?:\d{1,2}[.)] ++)?[#*_` ]*+"
    r"(?P<key>(?:overall |final )?(?:quantitative )?score|(?:overall |final )(?:qualitative )?label|label)"
    r"[*_`\]]*+\s*+:(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_VALUE = re.compile(
    rf"{_MARKS}(?:-\s++)?{_MARKS}(?P<number>-?[0-9]+){_CLOSERS}(?:\.(?![0-9]))?{_CLOSERS}(?P<more>.*)", re.DOTALL
)
_LABEL_NUMBER = re.compile(rf"{_CLOSERS}(?:->|[-–—→:(])?\s*+(?P<number>-?[0-9]+)?{_CLOSERS}\.?{_CLOSERS}")


def parse_tolerant(text: str, labels: Labels) -> Verdict:
    """The verdict of a reply that carries one in JSON, or in headed lines, somewhere, if all that it carries agree.

    Errors: JudgeError with a reason code.
    """
    if len(text) > MAX_REPLY:
        raise JudgeError("unparsed")
    start = max(text.rfind("</think>"), 0)
    if "<think>" in text[start:]:
        raise JudgeError("unparsed")  # the reply was cut off while the judge was thinking
    verdicts = list(_read_objects(text, start, labels)) if '"score"' in text[start:] else []
    headed = list(_read_headings(text, start, labels))
    if verdicts or any(firm for _, firm in headed):
        verdicts += [verdict for verdict, _ in headed]
    body = text[start:].removeprefix("</think>").strip()
    if not verdicts and body and "\n" not in body and _VALUE.fullmatch(body):
        verdicts.append(_read_value(body, text.index(body, start), labels))
    if not verdicts:
        raise JudgeError("no_score")
    if len({one.value for one in verdicts}) > 1:
        raise JudgeError("ambiguous")
    return Verdict(
        value=verdicts[0].value,
        label=next((one.label for one in verdicts if one.label is not None), None),
        at=next((one.at for one in verdicts if one.at is not None), None),
    )


def _read_objects(text: str, start: int, labels: Labels) -> Iterator[Verdict]:
    """The verdicts of all JSON objects with a score.

    A brace that opens no object refuses the whole reply: what looks like an object behind it may be quoted inside it.
    """
    place = text.find("{", start)
    while place >= 0:
        try:
            found, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise JudgeError("unparsed") from error
        if "score" in found:
            score = found["score"]
            if isinstance(score, bool) or not isinstance(score, int | str):
                raise JudgeError("not_an_integer")
            value = _read_value(str(score), 0, labels).value
            label = _read_label(found["label"], labels) if isinstance(found.get("label"), str) else None
            if label is not None and labels[label] != value:
                raise JudgeError("ambiguous")
            key = _SCORE_KEY.search(text, place, end)
            at = key.end() if key and text[key.end() : key.end() + 1] == str(value) else None
            yield Verdict(value=value, label=label, at=at)
        place = text.find("{", end)


def _read_headings(text: str, start: int, labels: Labels) -> Iterator[tuple[Verdict, bool]]:
    """The verdicts of all headed lines outside fences and quotations, and whether each speaks of the whole episode.

    A value may stand on the next line with text. "Score:" or "Label:" alone may be about one step, unless nothing but
    headed lines follows.
    """
    lines = [match for match in re.finditer(r"[^\n]+", text[start:]) if match[0].strip(" \t\r*_#")]
    headed: list[tuple[Verdict, str, int]] = []
    fenced, prose = False, -1
    for number, line in enumerate(lines):
        fenced ^= line[0].lstrip().startswith("```")
        heading = None if fenced else _HEADING.match(line[0].lstrip())
        if heading is None:
            told = bool(headed) and headed[-1][2] == number
            prose = prose if told else number
            continue
        rest, at, place = heading["rest"], start + line.end() - len(heading["rest"]), number
        if not rest.strip(" *_`\r") and number + 1 < len(lines):
            rest, at, place = lines[number + 1][0], start + lines[number + 1].start(), number + 1
        if heading["key"].lower().endswith("score"):
            headed.append((_read_value(rest, at, labels), heading["key"], place))
        elif (label := _read_label(rest, labels)) is not None:
            headed.append((Verdict(value=labels[label], label=label, at=None), heading["key"], place))
    for verdict, key, place in headed:
        yield verdict, key.lower() not in ("score", "label") or place > prose


def _read_value(text: str, at: int, labels: Labels) -> Verdict:
    """The value that a text consists of: a number, a label that stands for one, or both. Errors: JudgeError."""
    match = _VALUE.fullmatch(text)
    if match is None:
        if (alone := _read_label(text, labels)) is None:
            raise JudgeError("no_score")
        return Verdict(value=labels[alone], label=alone, at=None)
    if match["number"] not in map(str, VALUES):
        raise JudgeError("out_of_range")
    value, more = int(match["number"]), match["more"].strip(" -–—→:(")
    label = _read_label(more, labels) if more else None
    if more and (label is None or labels[label] != value):
        raise JudgeError("ambiguous")
    return Verdict(value=value, label=label, at=at + match.start("number"))


def _read_label(text: str, labels: Labels) -> str | None:
    """The label that a text consists of, alone or with its value; None for any other text. Errors: JudgeError."""
    bare = re.sub(rf"^{_MARKS}", "", text)
    for label in sorted(labels, key=len, reverse=True):
        if bare.casefold().startswith(label.casefold()):
            behind = _LABEL_NUMBER.fullmatch(bare[len(label) :])
            if behind is None:
                return None
            if behind["number"] not in (None, str(labels[label])):
                raise JudgeError("ambiguous")
            return label
    return None


PARSERS: Mapping[str, Parser] = {
    "strict": Parser(name="strict", version=1, parse=parse_strict),
    "tolerant": Parser(name="tolerant", version=1, parse=parse_tolerant),
}
