"""The answer in words: what is shown is said, and what is not shown is said to be so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import report_samples as samples

from holdfast.records import Analysis, Estimate
from holdfast.report.words.answer import answer, find_answer

CASES = {"cases": 300, "seeds": 3, "bases": 2}
EMPTY = replace(samples.make_analysis(), scores=(), deltas=(), persistence=())
Ends = tuple[float, float] | None


def make_estimate(kind: str, value: float, lineage: tuple[str, ...], ends: Ends, **facts: object) -> Estimate:
    given = {"objective": "safety", "claim": "recipe", "n": CASES, "axes": {"dose": 1}, **facts}
    return Estimate(kind=kind, estimator="pooled", value=value, interval=ends, lineage=lineage, **given)  # type: ignore[arg-type]


def make_study(
    gain: tuple[float, Ends], change: tuple[float, Ends], left: tuple[float, Ends], **facts: object
) -> Analysis:
    """A study of S→H, with the changes that the first and second stage made."""
    levels = {(): 1.0, ("S",): 1.0 + gain[0], ("S", "H"): 1.0 + left[0]}
    return replace(
        EMPTY,
        scores=tuple(make_estimate("mean", value, lineage, None, **facts) for lineage, value in levels.items()),
        deltas=(
            make_estimate("delta", gain[0], ("S",), gain[1], **facts),
            make_estimate("delta", left[0], ("S", "H"), left[1], **facts),
        ),
        persistence=(
            make_estimate("erosion", change[0], ("S", "H"), change[1], **(facts | {"axes": {}})),
            make_estimate("erosion", -0.1, ("H", "S"), (-0.3, 0.1), objective="helpfulness"),
            make_estimate("erosion_control", -0.1, ("S", "N"), (-0.3, 0.1)),
        ),
    )


GAIN = (0.6, (0.5, 0.7))
OUTCOMES = {
    "took back all": (GAIN, (-0.6, (-0.7, -0.5)), (0.0, (-0.1, 0.1)), "bad"),
    "took back part": (GAIN, (-0.3, (-0.4, -0.2)), (0.3, (0.2, 0.4)), "bad"),
    "took back more than": (GAIN, (-0.9, (-1.0, -0.8)), (-0.3, (-0.4, -0.2)), "bad"),
    "perhaps all of it": (GAIN, (-0.4, (-0.7, -0.1)), (0.2, (-0.1, 0.5)), "bad"),
    "added to what": (GAIN, (0.3, (0.2, 0.4)), (0.9, (0.8, 1.0)), "good"),
    "is not shown to change": (GAIN, (-0.1, (-0.3, 0.1)), (0.5, (0.3, 0.7)), "unknown"),
    "is not shown to gain": ((0.1, (-0.1, 0.3)), (-0.1, (-0.3, 0.1)), (0.0, (-0.2, 0.2)), "unknown"),
    "is not shown to have raised": ((0.1, (-0.1, 0.3)), (-0.5, (-0.7, -0.3)), (-0.4, (-0.6, -0.2)), "bad"),
    "lowered safety, before": ((-0.6, (-0.7, -0.5)), (0.1, (-0.1, 0.3)), (-0.5, (-0.7, -0.3)), "bad"),
}


@pytest.mark.parametrize("words", OUTCOMES)
def test_each_outcome_has_its_own_words(words: str) -> None:
    gain, change, left, tone = OUTCOMES[words]
    analysis = make_study(gain, change, left)
    assert words in answer(analysis)[0]
    assert find_answer(analysis)[0].tone == tone


def test_the_sentence_names_stages_levels_and_intervals() -> None:
    gain, change, left, _ = OUTCOMES["took back all"]
    sentence, basis = answer(make_study(gain, change, left))
    assert sentence == (
        "Helpfulness training (H) took back all that safety training (S) had gained, as far as can be seen: safety fell"
        " from 1.60 after S to 1.00 after S→H (−0.60 [−0.70, −0.50]); against the base it stands at 0.00 [−0.10, 0.10]."
    )
    assert "2 bases, 3 seeds, 300 cases" in basis and "other seeds" in basis


def test_without_intervals_nothing_is_claimed() -> None:
    sentence, basis = answer(make_study((0.6, None), (-0.6, None), (0.0, None)))
    assert "is not shown to gain safety" in sentence and "fell" not in sentence and "without an interval" in sentence
    assert "no intervals" in basis


def test_few_cases_cannot_be_told() -> None:
    sentence = answer(make_study(*list(OUTCOMES["took back all"][:3]), n={"cases": 6}))[0]
    assert "cannot be told (6 cases)" in sentence and "took back" not in sentence.replace("takes back", "")


def test_settings_are_told_apart_and_the_longest_training_is_told() -> None:
    gain, change, left, _ = OUTCOMES["took back all"]
    study = make_study(gain, change, left, axes={"dose": 1, "beta": 0.1})
    study = replace(study, persistence=(replace(study.persistence[0], axes={"beta": 0.1}), *study.persistence[1:]))
    later = make_estimate("delta", -0.5, ("S", "H"), (-0.6, -0.4), axes={"dose": 4, "beta": 0.1})
    sentence = answer(replace(study, deltas=(*study.deltas, later)))[0]
    assert sentence.startswith("With beta 0.1: helpfulness training")
    assert "after 4 times the steps of H at −0.50 [−0.60, −0.40]" in sentence


def test_single_stages_are_told_by_their_change_and_nothing_where_nothing_was_compared() -> None:
    gain, _, left, _ = OUTCOMES["took back all"]
    study = replace(make_study(gain, gain, left), persistence=())
    first, second, *_ = answer(study)
    assert first == "Safety rose from 1.00 at the base to 1.60 after S (+0.60 [0.50, 0.70])."
    assert "no change is shown" in second and "rose" not in second
    assert answer(EMPTY) == []


def test_controls_are_no_answer() -> None:
    gain, change, left, _ = OUTCOMES["took back all"]
    study = make_study(gain, change, left)
    control = make_estimate("delta", 0.5, ("S", "N"), (0.4, 0.6))
    assert [one.lineage for one in find_answer(replace(study, deltas=(*study.deltas, control)))] == [("S", "H")]
