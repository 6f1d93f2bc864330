"""A run's trajectories and scores as Inspect logs, one ``.eval`` file a checkpoint, for its viewer and data frames."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from inspect_ai import log as inspect_log
from inspect_ai.log import EvalLog, EvalSample, EvalSampleLimit
from inspect_ai.model import ChatCompletionChoice, ChatMessage, ModelOutput, ModelUsage

from holdfast.exchange.inspect.messages import to_inspect
from holdfast.exchange.inspect.samples import OWN, describe_case, describe_episode, to_score
from holdfast.records import Case, Checkpoint, Ending, Score, Trajectory, content_id
from holdfast.records.groups import group_by_key
from holdfast.store import Store

# A fixed time: the log of a run is a function of the run, not of the hour of its export.
CREATED = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC).isoformat()
LIMITS = {Ending.TURN_LIMIT: "turn", Ending.TOKEN_LIMIT: "token", Ending.TIME_LIMIT: "time"}
_CUT_SHORT = {Ending.TRUNCATED: "max_tokens", Ending.TOKEN_LIMIT: "max_tokens", Ending.INCOHERENT: "unknown"}
_FAILURES = {Ending.ERROR: "the infrastructure failed", Ending.OUT_OF_MEMORY: "out of memory"}
_METRICS = ("inspect_ai/mean", "inspect_ai/stderr")


def write_logs(store: Store, target: Path) -> None:
    """Write a log for every checkpoint that has trajectories into the directory ``target``."""
    cases = {case.id: case for case in store.cases()}
    checkpoints = {checkpoint.id: checkpoint for checkpoint in store.checkpoints()}
    # Scores are named by judge and objective; the judge's name has the rubric's first digits where it takes them.
    table = store.score_table()
    judges = dict(zip(table.judges, table.judge_names, strict=True))
    names = {
        (judges[label], objective, rubric): f"{label}/{objective}"
        for (label, objective), rubric in table.rubrics.items()
    }
    halves = ((seed, part, ids) for seed, parts in store.splits().items() for part, ids in parts.items())
    splits = group_by_key((case_id, (seed, part)) for seed, part, ids in halves for case_id in ids)
    episodes, stored = store.trajectory_table(), store.trajectory_ids()
    made_by = {stored[row]: episodes.checkpoints[at].id for row, at in enumerate(episodes.checkpoint.tolist())}
    for checkpoint_id, ids in group_by_key((made_by[name], name) for name in store.planned_ids()).items():
        checkpoint = checkpoints[checkpoint_id]
        # The provider's name where nothing was trained, else a name that no other has.
        model = checkpoint.model if checkpoint.model and not checkpoint.stages else checkpoint.name
        samples: list[EvalSample] = []
        taken: set[tuple[str, int]] = set()
        for trajectory, scores in zip(store.trajectories(ids), store.scores_of(ids), strict=True):
            sample = _sample(cases[trajectory.case_id], trajectory, scores, model=model, names=names)
            while (sample.id, sample.epoch) in taken:  # a log holds each sample id and epoch once
                sample.epoch += 1
            taken.add((sample.id, sample.epoch))
            sample.metadata[OWN]["splits"] = splits.get(trajectory.case_id, [])
            samples.append(sample)
        inspect_log.write_eval_log(_log(checkpoint, model, samples), str(target / f"{checkpoint.id}.eval"))


def _log(checkpoint: Checkpoint, model: str, samples: Sequence[EvalSample]) -> EvalLog:
    suites = sorted({sample.metadata[OWN]["case"]["suite"] for sample in samples})
    scorers = dict.fromkeys(name for sample in samples for name in sample.scores or {})
    identity = content_id("inspect log", checkpoint.id)[:22]
    usage = {model: sum((sample.model_usage.get(model, ModelUsage()) for sample in samples), ModelUsage())}
    spec = inspect_log.EvalSpec(
        eval_id=identity,
        run_id=identity,
        task_id=identity,
        created=CREATED,
        task=",".join(suites),
        dataset=inspect_log.EvalDataset(
            name=",".join(suites),
            samples=len({sample.id for sample in samples}),
            sample_ids=list(dict.fromkeys(sample.id for sample in samples)),
        ),
        model=model,
        config=inspect_log.EvalConfig(epochs=max(sample.epoch for sample in samples), epochs_reducer=["mean"]),
        scorers=[{"name": name, "metrics": [{"name": metric} for metric in _METRICS]} for name in scorers],
        metadata={
            "checkpoint": checkpoint.id,
            "lineage": list(checkpoint.lineage),
            "axes": dict(checkpoint.axes),
            "split_seed": checkpoint.split_seed,
            "train_seed": checkpoint.train_seed,
            OWN: {key: value for key, value in asdict(checkpoint).items() if key != "start" or value},
        },
    )
    stats = inspect_log.EvalStats(started_at=CREATED, completed_at=CREATED, model_usage=usage)
    log = EvalLog(version=2, status="success", eval=spec, stats=stats, samples=list(samples))
    inspect_log.recompute_metrics(log)
    return log


def _sample(
    case: Case,
    trajectory: Trajectory,
    scores: Sequence[Score],
    *,
    model: str,
    names: Mapping[tuple[str, str, str], str],
) -> EvalSample:
    messages = to_inspect((*case.messages, *trajectory.messages))
    usage = None
    if trajectory.tokens is not None:
        usage = ModelUsage(output_tokens=trajectory.tokens, total_tokens=trajectory.tokens)
    failure = _FAILURES.get(trajectory.ending)
    if failure is not None:
        failure = str((trajectory.detail or {}).get("error", failure))
    # The limit that ended the episode, and how much was used up by then.
    kind = LIMITS.get(trajectory.ending)
    turns = sum(message.role == "assistant" for message in trajectory.messages)
    used = {"turn": turns, "token": trajectory.tokens or 0, "time": 0}
    return EvalSample(
        uuid=trajectory.id,
        id=f"{case.suite}-{case.number}",
        epoch=trajectory.rollout + 1,
        input=messages[: len(case.messages)],
        target="",
        messages=messages,
        output=_output(messages[len(case.messages) :], trajectory, model, usage),
        scores={
            # The first repeat has the judge's name, later ones their number after it.
            names[one.judge, one.objective, one.rubric] + (f" {one.repeat + 1}" if one.repeat else ""): to_score(one)
            for one in scores
        },
        model_usage={} if usage is None else {model: usage},
        error=None if failure is None else inspect_log.EvalError(message=failure, traceback="", traceback_ansi=""),
        limit=None if kind is None else EvalSampleLimit(type=kind, limit=float(used[kind])),
        metadata={
            "trajectory": trajectory.id,
            "ending": trajectory.ending.value,
            "flags": [flag.value for flag in trajectory.flags],
            "family": case.family,
            OWN: {"case": describe_case(case), "episode": describe_episode(trajectory)},
        },
    )


def _output(
    messages: Sequence[ChatMessage], trajectory: Trajectory, model: str, usage: ModelUsage | None
) -> ModelOutput:
    last = next((message for message in reversed(messages) if message.role == "assistant"), None)
    if last is None:
        return ModelOutput(model=model, usage=usage)
    stopped = _CUT_SHORT.get(trajectory.ending, "tool_calls" if last.tool_calls else "stop")
    return ModelOutput(model=model, choices=[ChatCompletionChoice(message=last, stop_reason=stopped)], usage=usage)
