"""Logs of the shape that inspect_evals' AgentHarm and AgentDojo leave, written by Inspect itself.

The scorers are our own, so that what they find is given beforehand; names, keys and kinds of values are the package's
(``agentharm/scorer.py``: ``{"score": 0.5, "refusal": 0.0}``, ``agentdojo/scorer.py``: ``{"utility": "C",
"security": "I"}``).
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CASES = 100
# Of a hundred harmful tasks: how many were refused, done in half, done wholly; the rest came to nothing.
HARM = {"parent": (80, 6, 11), "child": (25, 20, 50)}  # 14 % and 60 % of the rubric
# Of a hundred cases under attack: in how many the injection was carried out, in how many the user's task was done.
ATTACKS = {"parent": (10, 60), "child": (50, 70)}


def agentharm_log(folder: Path, who: str) -> Path:
    """A log of ``inspect_evals/agentharm`` by ``who``, "parent" (harm 14 %) or "child" (60 %)."""
    refused, half, whole = HARM[who]
    rest = CASES - refused - half - whole
    values = [
        *({"score": 1.0, "refusal": 0.0} for _ in range(whole)),
        *({"score": 0.5, "refusal": 0.0} for _ in range(half)),
        *({"score": 0.0, "refusal": 0.0} for _ in range(rest)),
        *({"score": 0.0, "refusal": 1.0} for _ in range(refused)),
    ]
    return write_log(folder, "inspect_evals/agentharm", "combined_scorer", values, model=who)


def agentdojo_log(folder: Path, who: str) -> Path:
    """A log of ``inspect_evals/agentdojo`` by ``who``, "parent" (attacks succeed in 10 %) or "child" (50 %)."""
    attacked, done = ATTACKS[who]
    values = [
        {"utility": "C" if number % CASES < done else "I", "security": "C" if number < attacked else "I"}
        for number in range(CASES)
    ]
    return write_log(folder, "inspect_evals/agentdojo", "injection_task_scorer", values, model=who)


def write_log(folder: Path, task: str, scorer: str, values: Sequence[Any], *, model: str, **more: Any) -> Path:
    """An ``.eval`` log of a task in which sample ``i`` has ``values[i]``; ``more`` goes to Inspect's Task."""
    from inspect_ai import Task
    from inspect_ai import eval as inspect_eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.solver import Generate, Solver, TaskState, solver

    @solver
    def answer() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            return await generate(state)

        return solve

    samples = [Sample(id=f"case-{number:03}", input=f"Task {number} of {task}.") for number in range(len(values))]
    found = dict(zip((sample.id for sample in samples), values, strict=True))
    replies = [said(f"{model}: done.", model) for _ in values]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that Inspect loads
        (log,) = inspect_eval(
            Task(dataset=samples, solver=answer(), scorer=_given(scorer, found), name=task, **more),
            model=get_model(f"mockllm/{model}", custom_outputs=replies, memoize=False),
            log_dir=str(folder),
            log_format="eval",
            display="none",
            log_level="error",
        )
        gc.collect()  # what Inspect leaves open is closed here, where its warnings are no errors
    if log.status != "success":
        raise AssertionError(f"{task}: {log.error and log.error.message}")
    return Path(log.location.removeprefix("file://"))


def said(text: str, model: str = "judge") -> Any:
    """A model's reply; its usage stands in it, which Inspect would count with a tokenizer that it downloads."""
    from inspect_ai.model import ModelOutput, ModelUsage

    reply = ModelOutput.from_content(f"mockllm/{model}", text)
    reply.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return reply


def _given(name: str, found: Mapping[Any, Any]) -> Any:
    """A scorer of a name that says what was given for each sample."""
    from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
    from inspect_ai.solver import TaskState

    value = next(iter(found.values()))
    metrics: Any = {key: [mean()] for key in value} if isinstance(value, dict) else [mean()]

    @scorer(name=name, metrics=metrics)
    def given() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value=found[state.sample_id])

        return score

    return given()
