"""Inspect logs of other agents, built without running any."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from inspect_ai.event import CompactionEvent, ModelEvent, SpanBeginEvent, ToolEvent
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalError,
        EvalLog,
        EvalPlan,
        EvalSample,
        EvalSpec,
        write_eval_log,
    )
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
        GenerateConfig,
        ModelConfig,
        ModelOutput,
    )
    from inspect_ai.scorer import Score
    from inspect_ai.tool import ToolCall, ToolCallError, ToolInfo

from holdfast.exchange.imports import import_run
from holdfast.exchange.published import ImportSummary
from holdfast.exchange.scales import parse_score
from holdfast.store import Store

CREATED = "2026-01-01T00:00:00+00:00"
SAFE = "safety=+safety[0,1]"


def user(text: str) -> ChatMessage:
    """A user's message."""
    return ChatMessageUser(content=text)


def system(text: str) -> ChatMessage:
    """A system message."""
    return ChatMessageSystem(content=text)


def says(text: Any, *calls: tuple[str, str]) -> ChatMessageAssistant:
    """What an agent says, with calls as (id, tool)."""
    made = [ToolCall(id=identity, function=tool, arguments={"path": "/x"}) for identity, tool in calls]
    return ChatMessageAssistant(content=text, tool_calls=made or None)


def gives(identity: str, tool: str, text: str = "ok") -> ChatMessage:
    """A tool's result."""
    return ChatMessageTool(content=text, tool_call_id=identity, function=tool)


def asked(shown: Sequence[ChatMessage], reply: ChatMessageAssistant, **more: Any) -> ModelEvent:
    """A request to a model with its reply."""
    tools = [ToolInfo(name=name, description=name) for name in ("look", "delete_file")]
    output = ModelOutput.from_message(reply)
    return ModelEvent(
        model="m", input=list(shown), tools=tools, tool_choice="auto", config=GenerateConfig(), output=output, **more
    )


def carried_out(identity: str, tool: str, result: str = "ok", **more: Any) -> ToolEvent:
    """A call that was carried out."""
    return ToolEvent(id=identity, function=tool, arguments={"path": "/x"}, result=result, **more)


def span(identity: str, name: str, parent: str | None, type: str = "agent") -> SpanBeginEvent:
    """The beginning of a span."""
    return SpanBeginEvent(id=identity, name=name, parent_id=parent, type=type, span_id=identity)


def role(model: str) -> ModelConfig:
    """The model of a role."""
    return ModelConfig(model=model)


def failure(message: str) -> EvalError:
    """What broke a sample off."""
    return EvalError(message=message, traceback="", traceback_ansi="")


def refuses(identity: str, tool: str, reason: str) -> ChatMessage:
    """A call that was not approved."""
    return ChatMessageTool(content="", tool_call_id=identity, function=tool, error=ToolCallError("approval", reason))


def compacted() -> CompactionEvent:
    """A compaction of the history."""
    return CompactionEvent(type="summary")


def sample(
    identity: str | int,
    said: Sequence[ChatMessage] | None = None,
    scores: Mapping[str, Any] | None = None,
    *,
    epoch: int = 1,
    asks: Any = None,
    **more: Any,
) -> EvalSample:
    """A sample: ``asks`` is its input, ``said`` all of its messages (a look and an answer if None)."""
    asks = f"Tidy folder {identity}." if asks is None else asks
    opening = [user(asks)] if isinstance(asks, str) else list(asks)
    if said is None:
        said = [*opening, says("I look.", ("a", "look")), gives("a", "look"), says("Done.")]
    given = {name: one if isinstance(one, Score) else Score(value=one) for name, one in (scores or {}).items()}
    spoken = [message for message in said if message.role == "assistant"]
    output = ModelOutput.from_message(spoken[-1]) if spoken else ModelOutput()
    return EvalSample(
        id=identity,
        epoch=epoch,
        input=asks,
        target="",
        messages=list(said),
        output=output,
        scores=given,
        **{"uuid": f"{identity}-{epoch}", **more},
    )


def log(path: Path, samples: Sequence[EvalSample], *, status: Any = "success", **spec: Any) -> Path:
    """A log of these samples; ``spec`` overrides what its header says, ``generation`` its plan's settings."""
    ids = list(dict.fromkeys(one.id for one in samples))
    generation = spec.pop("generation", {})
    epochs = spec.pop("epochs", max((one.epoch for one in samples), default=1))
    told = {
        "task": "desk",
        "model": "vllm/base",
        "eval_id": f"eval {path}",
        "task_id": f"task {path}",
        "dataset": EvalDataset(name="desk", samples=len(ids), sample_ids=ids),
        "config": EvalConfig(epochs=epochs),
        **spec,
    }
    made = EvalLog(
        status=status,
        eval=EvalSpec(created=spec.pop("created", CREATED), **{k: v for k, v in told.items() if k != "created"}),
        plan=EvalPlan(config=GenerateConfig(**generation)),
        samples=list(samples),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(made, str(path))
    return path


def bring(source: Path, run: Path, *scores: str) -> ImportSummary:
    """What is imported with these ``--score``."""
    return import_run(source, run, scores=[parse_score(word) for word in scores])


def values(run: Path) -> dict[tuple[str, str, int], Any]:
    """(checkpoint's name, sample id, rollout) → the value of its only score, or the reason that it is missing."""
    found = {}
    with Store(run) as store:
        names = {one.id: one.name for one in store.checkpoints()}
        for one in store.trajectories():
            (score,) = store.scores(one.id)
            key = (names[one.checkpoint_id], str(store.case(one.case_id).facts["sample"]), one.rollout)
            assert key not in found
            found[key] = score.missing if score.value is None else score.value
    return found
