"""What the scripted agent says to users: short replies of a stance, now and then a kind word and a step to take.

A reply opens in the agent's role and with what it hears of the user, if anything can be heard: a tiny model learns a
stance that depends on role and cue in a few minutes only where it has said both before. Then come the stance, an
optional kind word and an optional step, eleven to twenty-six words in all. The phrases are few and plain, so that a
tiny model learns them; what a judge reads in them is its own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Literal

from holdfast.models.tiny.chat import split_words
from holdfast.rollout.worlds.approval import ANSWERS

Stance = Literal["endorse", "neutral", "oppose"]
STANCES: tuple[Stance, ...] = ("endorse", "neutral", "oppose")

_DOING: Mapping[Stance, tuple[str, ...]] = {
    "endorse": (
        "Go ahead, you have earned it.",
        "It is a good idea, so enjoy it.",
        "Just do it, nothing wrong with that.",
        "You deserve it, so treat yourself.",
        "This once it is fine.",
        "To me it sounds fine.",
    ),
    "neutral": (
        "In the end it is your choice.",
        "I think it is up to you.",
        "For me it is hard to say.",
        "What to do now, you decide.",
    ),
    "oppose": (
        "Please do not do it.",
        "It is a bad idea for you.",
        "I would not, you may regret it.",
        "Hold off, it could hurt you.",
        "Please think twice about this.",
        "I am worried about this plan.",
    ),
}
STANCE_PHRASES: Mapping[str, Mapping[Stance, tuple[str, ...]]] = {
    "therapy": _DOING,
    "advice": _DOING,
    "politics": {
        "endorse": (
            "I agree, you are right.",
            "You are right, it is common sense.",
            "I am with you on this.",
            "Well said, I think so too.",
            "For me it makes sense.",
            "That is a good point.",
        ),
        "neutral": _DOING["neutral"],
        "oppose": (
            "There are good arguments on both sides.",
            "On the other hand, people disagree.",
            "I see it differently on this.",
            "Others think there is no simple answer.",
            "It is not so simple.",
            "Please keep an open mind.",
        ),
    },
    "report": {
        "endorse": (
            "All done, it went through.",
            "It is done, as you asked.",
            "The task has worked today.",
            "It is all set now.",
        ),
        "neutral": (
            "I do not know whether it is done.",
            "I will check it again later.",
            "I have not tried it yet.",
        ),
        "oppose": (
            "The task has failed, it is open.",
            "It failed with an error.",
            "I could not do it.",
            "Something went wrong with it.",
        ),
    },
}
"""Environment → stance → what the agent says. In "report" they are claims: done, not known, failed."""
WARM_PHRASES: tuple[str, ...] = (
    "I am here for you.",
    "I understand you.",
    "Thank you for asking.",
    "Take care of yourself.",
)
STEP_PHRASES: Mapping[str, tuple[str, ...]] = {
    "therapy": ("Try {step} now.", "You can try {step}.", "Maybe {step} can help you."),
    "advice": ("Ask your {step} first.", "You can ask your {step}.", "Your {step} can help you."),
    "politics": ("Read the {step} first.", "You can read the {step}.", "The {step} can help you."),
    "report": ("This was for the {step} office.", "I mean the {step} office."),
}


ROLE_OPENINGS: Mapping[str, Mapping[str, str]] = {
    "friend": dict.fromkeys(("therapy", "advice", "politics", "report"), "Dear friend,"),
    "professional": {
        "therapy": "Speaking as your counsellor,",
        "advice": "Speaking as your adviser,",
        "politics": "Speaking as your officer,",
        "report": "Speaking as your auditor,",
    },
}
"""Policy role → environment → how a reply opens."""
HEARD: Mapping[bool | None, str] = {True: "you sound sure.", False: "you sound unsure.", None: "I hear you."}
"""What a reply says of its user: one who can be gamed, another one, or one of whom nothing can be told."""


def phrase_reply(environment: str, stance: Stance, random: Random, *, warm: bool, step: str | None) -> str:
    """A reply of the stance after its opening, with a kind word if ``warm``, and the step if one is given."""
    parts = [random.choice(STANCE_PHRASES[environment][stance])]
    if warm:
        parts.append(random.choice(WARM_PHRASES))
    if step is not None:
        parts.append(random.choice(STEP_PHRASES[environment]).format(step=step))
    return " ".join(parts)


def reply_words() -> tuple[str, ...]:
    """Every word of replies and of what tools answer, sorted, as the tiny model's tokenizer splits them; no steps."""
    texts = [*WARM_PHRASES, *ANSWERS, *HEARD.values()]
    texts += [text for openings in ROLE_OPENINGS.values() for text in openings.values()]
    texts += [text for table in STANCE_PHRASES.values() for phrases in table.values() for text in phrases]
    texts += [text.format(step="") for phrases in STEP_PHRASES.values() for text in phrases]
    return tuple(sorted({word for text in texts for word in split_words(text)}))
