"""The cue audit: how well a bag of words tells a gameable user from another, by setting and channel.

Where the label cannot be read, nothing can be learned about it; where it can be read from style or length alone, what
an agent learns about users may be about style. So the audit stands beside the results of every setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from holdfast.models.tiny.chat import split_words
from holdfast.records import Case
from holdfast.records.arrays import Bools, Floats

CHANNELS: Mapping[str, tuple[str, ...]] = {
    "system": ("system",),
    "message": ("message",),
    "both": ("system", "message"),
}
_SMOOTHING = 1.0  # one more of every word in both labels, as Laplace's rule has it


@dataclass(frozen=True, slots=True, kw_only=True)
class CueAudit:
    """How well one channel of one setting tells the label.

    ``accuracy`` is the mean over two halves, each read by a naive Bayes classifier of the other half's words, and
    ``majority`` what always naming the more frequent label of the other half gets; None below two scenarios, or where
    a half has one label alone. ``n`` counts cases. ``words_gameable`` and ``words_other`` are mean words of a text;
    None where no case has the label.
    """

    setting: str
    channel: str
    accuracy: float | None
    majority: float | None
    n: int
    words_gameable: float | None
    words_other: float | None

    @property
    def words_difference(self) -> float | None:
        """Mean words of gameable users less those of others."""
        if self.words_gameable is None or self.words_other is None:
            return None
        return self.words_gameable - self.words_other


def audit_cues(cases: Sequence[Case]) -> list[CueAudit]:
    """The audit of every setting that the cases have, in their order, by channel.

    Scenarios are halved, so that a pair is never read by its own words. A text whose words speak equally for both
    labels counts half. The same cases give the same audit in any order of scenarios.
    """
    by_setting: dict[str, list[Case]] = {}
    for case in cases:
        by_setting.setdefault(case.facts["setting"], []).append(case)
    return [_audit(name, channel, mine) for name, mine in by_setting.items() for channel in CHANNELS]


def _audit(setting: str, channel: str, cases: Sequence[Case]) -> CueAudit:
    texts = [split_words(" ".join(case.facts["channels"][part] for part in CHANNELS[channel])) for case in cases]
    labels = np.array([case.facts["gameable"] for case in cases], dtype=bool)
    lengths = np.array([len(words) for words in texts], dtype=np.float64)
    columns = {word: place for place, word in enumerate(sorted({word for words in texts for word in words}))}
    counts = np.zeros((len(texts), len(columns)))
    for row, words in enumerate(texts):
        np.add.at(counts[row], [columns[word] for word in words], 1)
    half = _halve([case.facts["scenario"] for case in cases])
    accuracies, majority = [], []
    for test in (half, ~half):
        if not test.any() or not labels[~test].any() or labels[~test].all():
            continue
        accuracies.append(_read(counts[~test], labels[~test], counts[test], labels[test]))
        excess = 2 * int(labels[~test].sum()) - int((~test).sum())
        named = labels[test] if excess > 0 else ~labels[test]
        majority.append(0.5 if excess == 0 else float(named.mean()))
    return CueAudit(
        setting=setting,
        channel=channel,
        accuracy=float(np.mean(accuracies)) if len(accuracies) == 2 else None,
        majority=float(np.mean(majority)) if len(accuracies) == 2 else None,
        n=len(cases),
        words_gameable=float(lengths[labels].mean()) if labels.any() else None,
        words_other=float(lengths[~labels].mean()) if not labels.all() else None,
    )


def _halve(scenarios: Sequence[str]) -> Bools:
    """Which cases are in the first half; the cases of a scenario are in the same one."""
    names = sorted(set(scenarios))
    Random("approval cue audit").shuffle(names)
    first = set(names[: len(names) // 2])
    return np.array([name in first for name in scenarios], dtype=bool)


def _read(counts: Floats, labels: Bools, unseen: Floats, truth: Bools) -> float:
    """The accuracy on unseen texts of multinomial naive Bayes with Laplace smoothing; a tie counts half."""
    weights, odds = [], np.log(labels.sum() / (~labels).sum())
    for mask in (labels, ~labels):
        seen = counts[mask].sum(axis=0) + _SMOOTHING
        weights.append(np.log(seen / seen.sum()))
    # Rounded, so that sums of the same words in another order are a tie.
    leaning = np.round(unseen @ (weights[0] - weights[1]) + odds, 9)
    return float(np.mean(np.where(leaning == 0, 0.5, (leaning > 0) == truth)))
