"""What is told of a rubric judge most of whose replies held no verdict: judge, parser, how many, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from holdfast.judges import Judge
from holdfast.judges.rubric.judge import RubricJudge
from holdfast.records import Score

UNREAD = ("unparsed", "no_score", "not_an_integer", "out_of_range", "ambiguous", "truncated")
"""The reasons of missing scores that lie in what the judge said."""

_REMEDIES = {
    "strict": 'set parser = "tolerant" for it, or give another model',
    "tolerant": "give another model, one that answers in the form that is asked for",
}


class Readings:
    """Counts, by objective, what became of the replies of one judge."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._read: Counter[str] = Counter()
        self._unread: dict[str, Counter[str]] = {}

    def add(self, scores: Iterable[Score]) -> None:
        """Count more of the judge's scores."""
        for score in scores:
            if score.value is not None:
                self._read[score.objective] += 1
            elif score.missing in UNREAD:
                self._unread.setdefault(score.objective, Counter())[score.missing] += 1

    def add_read(self, objective: str, count: int) -> None:
        """Count scores that an earlier execution committed."""
        self._read[objective] += count

    def tell(self) -> list[str]:
        """A line for each objective with more replies unread than read; none for judges that are no rubric's."""
        if not isinstance(self._judge, RubricJudge):
            return []
        name, parser = self._judge.name, self._judge.parser.name
        lines = []
        for objective, reasons in sorted(self._unread.items()):
            unread, read = reasons.total(), self._read[objective]
            if unread > read:
                told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
                lines.append(
                    f"judges.{name}: {unread:,} of {unread + read:,} judgements of {objective} hold no verdict that"
                    f" parser {parser!r} reads ({told}); their scores are missing; {_REMEDIES[parser]}"
                )
        return lines
