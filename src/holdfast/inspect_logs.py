"""A run's trajectories and scores as Inspect logs, one ``.eval`` file a checkpoint, for its viewer and data frames."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ModelOutput,
)
from inspect_ai.scorer import Score as InspectScore
from inspect_ai.tool import ToolCall as InspectCall

from holdfast.records import Case, Checkpoint, Message, Score, Trajectory
from holdfast.store import Store


def write_logs(store: Store, target: Path) -> None:
    """Write a log for every checkpoint that has trajectories into the directory ``target``."""
    cases = {case.id: case for case in store.cases()}
    samples: dict[str, list[EvalSample]] = {}
    for trajectory in store.trajectories():
        sample = _sample(cases[trajectory.case_id], trajectory, store.scores(trajectory.id))
        samples.setdefault(trajectory.checkpoint_id, []).append(sample)
    for checkpoint in store.checkpoints():
        if checkpoint.id in samples:
            log = _log(checkpoint, samples.pop(checkpoint.id))
            write_eval_log(log, str(target / f"{checkpoint.id}.eval"))


def _log(checkpoint: Checkpoint, samples: Sequence[EvalSample]) -> EvalLog:
    # A fixed time: the log of a run is a function of the run, not of the hour of its export.
    spec = EvalSpec(
        created=datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC).isoformat(),
        task="holdfast",
        dataset=EvalDataset(name="holdfast", samples=len(samples)),
        model=checkpoint.model or checkpoint.name,
        config=EvalConfig(),
        metadata={
            "checkpoint": checkpoint.id,
            "lineage": list(checkpoint.lineage),
            "axes": dict(checkpoint.axes),
            "split_seed": checkpoint.split_seed,
            "train_seed": checkpoint.train_seed,
        },
    )
    return EvalLog(version=2, status="success", eval=spec, samples=list(samples))


def _sample(case: Case, trajectory: Trajectory, scores: Sequence[Score]) -> EvalSample:
    messages = [_message(message) for message in (*case.messages, *trajectory.messages)]
    text = next((m.content for m in reversed(trajectory.messages) if m.role == "assistant"), "")
    return EvalSample(
        id=f"{case.suite}-{case.number}",
        epoch=trajectory.rollout + 1,
        input="\n".join(message.content for message in case.messages if message.role == "user"),
        target="",
        messages=messages,
        output=ModelOutput(model="holdfast", completion=text),
        scores={f"{score.judge}/{score.objective}": _score(score) for score in scores if score.repeat == 0},
        metadata={
            "trajectory": trajectory.id,
            "ending": trajectory.ending.value,
            "flags": [flag.value for flag in trajectory.flags],
            "family": case.family,
        },
    )


def _score(score: Score) -> InspectScore:
    """A missing score is unscored, never 0."""
    explanation = score.reply or score.label
    if score.value is None:
        return InspectScore.unscored(explanation=f"missing: {score.missing}")
    return InspectScore(value=score.value, answer=score.label, explanation=explanation)


def _message(message: Message) -> ChatMessage:
    if message.role == "system":
        return ChatMessageSystem(content=message.content)
    if message.role == "user":
        return ChatMessageUser(content=message.content)
    if message.role == "tool":
        return ChatMessageTool(content=message.content, function=message.name)
    calls = [
        InspectCall(id=call.id or str(number), function=call.name, arguments=dict(call.arguments))
        for number, call in enumerate(message.tool_calls)
    ]
    return ChatMessageAssistant(content=message.content, tool_calls=calls or None)
