"""The rubric judge: a model reads the trajectory and grades it by a rubric.

A reply without a verdict is asked for once more, with the same content; then the score is missing with the parser's
reason, and every raw reply is kept (``evidence``). A missing score's reason is one of

    error                       the episode was broken off by its infrastructure: the judge is not asked
    truncated, context          the judge's reply was cut off, or the episode is longer than the judge reads
    provider_rejected,          the provider gave no reply to this request, and would give one to others
    provider_malformed
    unparsed, no_score, not_an_integer, out_of_range, ambiguous       see ``parsing``
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from holdfast.judges import Judge, JudgeKind, check_case, make_ask, make_score, put
from holdfast.judges.rubric.digits import Evidence, weigh_values
from holdfast.judges.rubric.parsing import PARSERS, Parser, reply_schema
from holdfast.judges.rubric.prompt import TEMPLATE, make_question
from holdfast.judges.rubric.scales import DEFAULTS, Rubric, find_rubric
from holdfast.models import Ask
from holdfast.records import Case, Ending, Score, Trajectory, content_id
from holdfast.records.errors import JudgeError
from holdfast.rollout.dialogues import Dialogue
from holdfast.study.sections import JudgeSection

ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricJudge:
    """Scores trajectories by asking speaker "judge", once per objective and repeat; ``model`` says who that is."""

    name: str
    model: str
    rubrics: Mapping[str, Rubric]
    parser: Parser
    repeats: int = 1
    temperature: float = 0.0
    max_tokens: int = 2048
    logprobs: bool = False

    @property
    def objectives(self) -> tuple[str, ...]:
        """What it has a rubric for."""
        return tuple(self.rubrics)

    def rubric_of(self, objective: str) -> str:
        """The id of all that a score depends on besides the episode; scores with different ids are never pooled."""
        rubric = self.rubrics[objective]
        parser = (self.parser.name, self.parser.version)
        schema = reply_schema(rubric.labels)
        return content_id(
            "rubric judge", TEMPLATE, rubric.text, schema, parser, self.model, self.temperature, self.max_tokens
        )

    def judge(self, case: Case, trajectory: Trajectory) -> Dialogue[tuple[Score, ...]]:
        """A dialogue that returns one score per objective and repeat, in 0..3 or missing with its reason.

        Errors: ValueError where the trajectory is of another case, ProviderError for an outage.
        """
        check_case(case, trajectory)
        scores: list[Score] = []
        for objective in self.objectives:
            for repeat in range(self.repeats):
                if trajectory.ending is Ending.ERROR:
                    scores.append(make_score(self, trajectory, objective, missing="error", repeat=repeat))
                else:
                    scores.append((yield from self._read(case, trajectory, objective, repeat)))
        return tuple(scores)

    def _read(self, case: Case, trajectory: Trajectory, objective: str, repeat: int) -> Dialogue[Score]:
        rubric = self.rubrics[objective]
        replies: list[str] = []
        reason = ""
        for attempt in range(ATTEMPTS):
            reply = yield from put(self._ask(case, trajectory, objective, (repeat, attempt)))
            if isinstance(reply, str):
                reason = reply
                break
            text = reply.raw if reply.message is None else reply.message.content
            replies.append(text)
            if reply.stopped == "context":
                reason = "context"
                break
            try:
                if reply.stopped == "length":
                    raise JudgeError("truncated")
                verdict = self.parser.parse(text, rubric.labels)
            except JudgeError as error:
                reason = str(error)
            else:
                # The verdict's label, or the value's own where it has just one.
                known = [label for label, value in rubric.labels.items() if value == verdict.value]
                label = verdict.label or (known[0] if len(known) == 1 else None)
                weighed = None
                if reply.sampled is not None and verdict.at is not None:
                    weighed = weigh_values(reply.sampled, text, verdict.at)
                expected, mass = weighed or (None, None)
                told = Evidence(replies=tuple(replies), expected=expected, mass=mass).to_text()
                value = float(verdict.value)
                return make_score(self, trajectory, objective, value, label=label, reply=told, repeat=repeat)
        evidence = Evidence(replies=tuple(replies)).to_text() if replies else None
        return make_score(self, trajectory, objective, missing=reason, reply=evidence, repeat=repeat)

    def _ask(self, case: Case, trajectory: Trajectory, objective: str, number: tuple[int, int]) -> Ask:
        rubric, rubric_id = self.rubrics[objective], self.rubric_of(objective)
        question, schema = make_question(case, trajectory, rubric), reply_schema(rubric.labels)
        asking = {"temperature": self.temperature, "max_tokens": self.max_tokens, "logprobs": self.logprobs}
        return make_ask("judgement", rubric_id, question, trajectory, number, schema=schema, **asking)


def _open(name: str, section: JudgeSection, model: str | None) -> RubricJudge:
    rubrics = {
        objective: find_rubric(text, objective, f"judges.{name}.rubrics.{objective}")
        for objective, text in (section.rubrics or dict.fromkeys(DEFAULTS, "default")).items()
    }
    asking = section.model_dump(include={"repeats", "temperature", "max_tokens", "logprobs"})
    parser = PARSERS[section.parser]
    return RubricJudge(name=name, model=model or section.model or "", rubrics=rubrics, parser=parser, **asking)


KIND = JudgeKind(name="rubric", table=JudgeSection, open=_open, version=None, needs="model")


# --- a judge most of whose replies held no verdict ----------------------------------------------------------------

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
