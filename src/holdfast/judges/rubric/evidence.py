"""What is kept of a judge's reply beside its score: all raw texts, and what the model thought of the other values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.judges.rubric.digits import show_rating
from holdfast.judges.rubric.scales import VALUES
from holdfast.models import SampledToken


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
    """A ``Score.reply`` for people: a model's last words and the expected score, any other text as it is."""
    if (rating := show_rating(reply)) is not None:
        return rating
    try:
        found = Evidence.from_text(reply)
    except (ValueError, KeyError, TypeError, AttributeError):
        return reply
    told = [f"(reply {len(found.replies)}; the first was not usable)"] if len(found.replies) > 1 else []
    if found.expected is not None and found.mass is not None:
        told.append(f"(expected score {found.expected:.2f} by token probabilities, {found.mass:.0%} of them on 0-3)")
    return "\n".join([found.replies[-1], *told])


def weigh_values(sampled: Sequence[SampledToken], text: str, at: int) -> tuple[float, float] | None:
    """The expected score and the probability of 0-3 together, from the token that holds the digit at ``text[at]``.

    ``text`` may be a part of what was sampled, as where white space was cut off. None where the token is not found or
    nothing is known of it.
    """
    start = "".join(token.text for token in sampled).find(text)
    if start < 0:
        return None
    place = start + at
    for token in sampled:
        if place < len(token.text):
            return _weigh({token.text: token.logprob, **token.top}, token.text[:place])
        place -= len(token.text)
    return None


def _weigh(alternatives: dict[str, float], before: str) -> tuple[float, float] | None:
    """Expected value and mass of the digits that follow ``before`` in tokens that hold no longer number."""
    mass = dict.fromkeys(VALUES, 0.0)
    for text, logprob in alternatives.items():
        rest = text[len(before) :]
        if text.startswith(before) and rest[:1] in tuple("0123") and not rest[1:2].isdigit():
            mass[int(rest[0])] += math.exp(logprob) if math.isfinite(logprob) else 0.0
    total = sum(mass.values())
    # More than 1 by more than rounding is no probability.
    if not 0 < total < 1.01:
        return None
    return sum(value * share for value, share in mass.items()) / total, min(total, 1.0)
