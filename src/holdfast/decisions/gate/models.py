"""A gate of two models from end to end, for whoever asks without a command line."""

from __future__ import annotations

from pathlib import Path

from holdfast.decisions.gate.answer import Answer, find_answer, write_answer
from holdfast.decisions.gate.books import open_library
from holdfast.decisions.gate.running import Before, Means, roll_out_models
from holdfast.decisions.gate.verdicts import Wanted
from holdfast.study.rules import GateSection
from holdfast.study.study import Study


def gate_models(
    study: Study,
    rules: GateSection,
    *,
    parent: str,
    child: str,
    output: Path,
    means: Means,
    wanted: Wanted,
    command: str,
    parents: Path | None = None,
    before: Before = lambda _: None,
) -> tuple[Answer, Path]:
    """Roll two models out through a study's suite, decide, and leave the answer in ``output``; its page comes second.

    The words are those of ``roll_out_models``; ``command`` is what the page says it was made by. Errors: StudyError,
    StepError.
    """
    with open_library() as library:
        first, second = roll_out_models(
            library,
            study,
            parent=parent,
            child=child,
            output=output,
            means=means,
            again=None,
            most_cases=wanted.most_cases,
            parents=parents,
            before=before,
        )
        answer = find_answer(first, second, rules, wanted, rolled_out=True)
        return answer, write_answer(answer, output, command=command)
