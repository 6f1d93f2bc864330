"""A rating from 1 to 10 out of a model's reply: the mean of the digits, weighted by the model's own probabilities.

Read is the first sampled token that is more than white space, with its alternatives. Those that are an integer from 1
to 10 once white space is cut off are ratings; their probabilities together are the *mass*, and the rating expected
under them is the rating given. What every other token would have gone on with is not asked.

Tokenizers write "10" as one token, or as "1" and "0". Where "10" is among the alternatives, "1" means 1. Where it is
not, "1" stands for both, and is split by the probability of a "0" behind it: known where "1" was sampled, and else
asked for once more under a schema that leaves only 1 and 10. Where that is not answered by "1" either, all of it counts
as 1 and the evidence has its share as ``unsplit``: then the rating may be too low by up to nine times that share.

A missing rating's reason is one of

    no_digit        no alternative is a rating; without probabilities: no digit in the text
    low_mass        ratings have less than ``LEAST_MASS`` of the probability
    out_of_range    a number was written that is none from 1 to 10
    unparsed        without probabilities: the text is more than a number
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile

from holdfast.judges.rubric.scales import VALUES
from holdfast.models import Reply, SampledToken

LOWEST, HIGHEST = 1, 10
LEAST_MASS = 0.05
SPLIT_FROM = 0.005  # the share of "1" among ratings from which on it is worth a second request
TENS_SCHEMA: Mapping[str, object] = {"type": "integer", "enum": [1, 10]}
"""What a second request is held to, so that its first token is "1" and the alternatives behind it are told."""
UNREADABLE = ("no_digit", "low_mass", "out_of_range", "unparsed")
"""The reasons that lie in what the judge said."""
_MOST = 1.01  # more than 1 by more than rounding is no probability
_LONGEST = 200  # characters of a text that is a number with no more than marks and a word around it
_RATING = re.compile(r"10|[1-9]")
_ZERO = re.compile(r"0(?![0-9])")
_NUMBER = re.compile(r"[0-9]+")
_MARKS = r"[\s*_`\"'()\[\]]*"
_ALONE = re.compile(
    rf"{_MARKS}(?:(?:rating|score)\b{_MARKS}[:=]?)?{_MARKS}([0-9]+){_MARKS}(?:(?:/|out of)\s*10)?{_MARKS}[.!]?{_MARKS}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What a reply says: ``expected``, from 1 to 10, or the reason that it is ``missing``; exactly one is None.

    ``distribution`` is rating → probability, ``mass`` their sum; without probabilities it is empty, ``mass`` None.
    ``unsplit`` is the share of ``distribution[1]`` in the mass where it may stand for 10 too. ``text`` is what the
    model said.
    """

    text: str
    expected: float | None = None
    missing: str | None = None
    mass: float | None = None
    distribution: Mapping[int, float] = field(default_factory=dict)
    unsplit: float = 0.0

    @property
    def asks_again(self) -> bool:
        """Whether it takes another request to tell 1 from 10."""
        return self.missing is None and self.unsplit >= SPLIT_FROM

    def to_text(self) -> str:
        """The evidence as a JSON object, in the form of ``Score.reply``."""
        row: dict[str, object] = {"text": self.text, "expected": self.expected, "mass": self.mass}
        if self.mass is not None:
            row["distribution"] = {str(rating): share for rating, share in sorted(self.distribution.items())}
        row |= {"unsplit": self.unsplit} if self.unsplit else {}
        row |= {"missing": self.missing} if self.missing else {}
        return json.dumps({"rating": row}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Rating:
        """The rating in a rating judge's ``Score.reply``. Errors: ValueError, KeyError or TypeError for other text."""
        row = json.loads(text)["rating"]
        shares = {int(rating): share for rating, share in row.get("distribution", {}).items()}
        return cls(**{**row, "distribution": shares})


def read_rating(reply: Reply) -> Rating:
    """The rating of a reply, by probabilities where the reply has them, else by its text."""
    text = reply.raw if reply.message is None else reply.message.content
    token, behind = _find_start(reply)
    shares = _probabilities(token) if token else {}
    if token is None or sum(shares.values()) > _MOST:
        return _read_text(text)
    weights: dict[int, float] = {}
    for said, share in shares.items():
        if _RATING.fullmatch(said.strip()):
            weights[int(said)] = weights.get(int(said), 0.0) + share
    mass = sum(weights.values())
    unread = Rating(text=text, missing="low_mass" if mass else "no_digit", mass=mass, distribution=weights)
    written = _NUMBER.match((token.text + "".join(one.text for one in behind)).lstrip())
    if written is not None and not _RATING.fullmatch(written[0]):
        return replace(unread, missing="out_of_range")
    if mass < LEAST_MASS:
        return unread
    rating = replace(unread, missing=None, expected=_mean(weights))
    if HIGHEST in weights or not weights.get(LOWEST):
        return rating
    if token.text.strip() == "1" and (behind or reply.stopped != "length"):
        return _split(rating, behind)
    return replace(rating, unsplit=weights[LOWEST] / mass)


def split_one(rating: Rating, reply: Reply) -> Rating:
    """The rating with "1" split into 1 and 10, by a reply under ``TENS_SCHEMA``; unchanged where that does not tell."""
    token, behind = _find_start(reply)
    return _split(rating, behind) if token and token.text.strip() == "1" and behind else rating


def _split(rating: Rating, behind: Sequence[SampledToken]) -> Rating:
    """The rating where ``behind`` are the tokens after "1"; none of them means that the model ended there."""
    shares = _probabilities(behind[0]) if behind else {}
    zero = min(sum(share for said, share in shares.items() if _ZERO.match(said)), 1.0)
    one = rating.distribution[LOWEST]
    weights = {**rating.distribution, LOWEST: one * (1 - zero)} | ({HIGHEST: one * zero} if zero else {})
    return replace(rating, distribution=weights, expected=_mean(weights), unsplit=0.0)


def _mean(weights: Mapping[int, float]) -> float:
    return sum(rating * share for rating, share in weights.items()) / sum(weights.values())


def _find_start(reply: Reply) -> tuple[SampledToken | None, Sequence[SampledToken]]:
    """The first sampled token that is more than white space, if there is one, and those behind it."""
    sampled = list(dropwhile(lambda token: not token.text.strip(), reply.sampled or ()))
    return (sampled[0], sampled[1:]) if sampled else (None, ())


def _probabilities(token: SampledToken) -> dict[str, float]:
    """Text → probability of a token and its alternatives; a number that is none counts as 0."""
    logprobs = {token.text: token.logprob, **token.top}
    return {said: math.exp(value) if math.isfinite(value) else 0.0 for said, value in logprobs.items()}


def _read_text(text: str) -> Rating:
    if _NUMBER.search(text) is None:
        return Rating(text=text, missing="no_digit")
    alone = _ALONE.fullmatch(text) if len(text) <= _LONGEST else None
    if alone is not None and _RATING.fullmatch(alone[1]):
        return Rating(text=text, expected=float(alone[1]))
    return Rating(text=text, missing="unparsed" if alone is None else "out_of_range")


# --- what is kept of a judge's reply beside its score -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A judgement's replies, the last of which was scored or refused, in the form of ``Score.reply``.

    ``expected`` is the mean score under the probabilities of the values 0-3 at the score's place, renormalised;
    ``mass`` is their sum before that. Both are None where the probabilities are not known.
    """

    replies: tuple[str, ...]
    expected: float | None = None
    mass: float | None = None

    def to_text(self) -> str:
        """The evidence as a JSON object: ``text``, ``attempts``, and ``earlier``, ``expected``, ``mass`` if any."""
        row: dict[str, object] = {"text": self.replies[-1], "attempts": len(self.replies)}
        row |= {"earlier": self.replies[:-1]} if len(self.replies) > 1 else {}
        row |= {"expected": self.expected, "mass": self.mass} if self.expected is not None else {}
        return json.dumps(row, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Evidence:
        """The evidence in a rubric judge's ``Score.reply``. Errors: ValueError or KeyError for any other text."""
        row = json.loads(text)
        replies = (*row.get("earlier", ()), row["text"])
        return cls(replies=replies, expected=row.get("expected"), mass=row.get("mass"))


def show_reply(reply: str) -> str:
    """A ``Score.reply`` for people: a model's last words with what its probabilities say, any other text as it is."""
    if not reply.lstrip().startswith("{"):
        return reply
    try:
        evidence = Rating.from_text(reply) if "rating" in json.loads(reply) else Evidence.from_text(reply)
    except (ValueError, KeyError, TypeError, AttributeError):
        return reply
    if isinstance(evidence, Rating):
        if evidence.mass is None:
            return f"{evidence.text}\n(no token probabilities)"
        expected = "" if evidence.expected is None else f"expected rating {evidence.expected:.2f} of 10, "
        return f"{evidence.text}\n({expected}{evidence.mass:.0%} of the probability on 1-10)"
    notes = [f"(reply {len(evidence.replies)}; the first was not usable)"] if len(evidence.replies) > 1 else []
    if evidence.expected is not None and evidence.mass is not None:
        notes.append(
            f"(expected score {evidence.expected:.2f} by token probabilities, {evidence.mass:.0%} of them on 0-3)"
        )
    return "\n".join([evidence.replies[-1], *notes])


def weigh_values(sampled: Sequence[SampledToken], text: str, at: int) -> tuple[float, float] | None:
    """The expected score and the probability of 0-3 together, from the token that holds the digit at ``text[at]``.

    ``text`` may be a part of what was sampled, as where white space was cut off. None where the token is not found or
    nothing is known of it. Tokens that hold a longer number do not count.
    """
    start = "".join(token.text for token in sampled).find(text)
    if start < 0:
        return None
    place = start + at
    for token in sampled:
        if place < len(token.text):
            break
        place -= len(token.text)
    else:
        return None
    before, mass = token.text[:place], dict.fromkeys(VALUES, 0.0)
    for said, share in _probabilities(token).items():
        rest = said[len(before) :]
        if said.startswith(before) and rest[:1] in tuple("0123") and not rest[1:2].isdigit():
            mass[int(rest[0])] += share
    total = sum(mass.values())
    if not 0 < total < _MOST:
        return None
    return sum(value * share for value, share in mass.items()) / total, min(total, 1.0)
