"""What tests of runs as Inspect logs share."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspect_ai import eval as run_task
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessageAssistant,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import tool

from holdfast.records import Score, Trajectory
from holdfast.store import Store


def counts(path: Path) -> dict[str, int]:
    with Store(path) as store:
        return store.counts()


def episodes(path: Path) -> dict[tuple[str, str, int], tuple[Trajectory, list[Score]]]:
    """Every trajectory and its scores without ids, by checkpoint, case and rollout."""
    with Store(path) as store:
        return {
            (one.checkpoint_id, one.case_id, one.rollout): (
                replace(one, id=""),
                [replace(score, trajectory_id="") for score in store.scores(one.id)],
            )
            for one in store.trajectories()
        }


@tool
def look() -> Any:
    async def execute(place: str) -> str:
        """Look somewhere.

        Args:
            place: Where to look.
        """
        return f"{place}: nothing"

    return execute


def spoken(content: str, *calls: InspectCall, stop: str | None = None) -> ModelOutput:
    """One turn of an agent, with its usage told: Inspect would fetch a tokenizer to count it."""
    output = ModelOutput.from_message(
        ChatMessageAssistant(content=content, tool_calls=list(calls) or None),
        stop_reason=stop or ("tool_calls" if calls else "stop"),  # type: ignore[arg-type]
    )
    output.usage = ModelUsage(input_tokens=10, output_tokens=4, total_tokens=14)
    return output


def run_here(task: Any, **options: Any) -> EvalLog:
    """The log of a task that Inspect runs in this process; what it leaves open is closed here, not in other tests."""
    log = run_task(task, display="none", **options)[0]
    gc.collect()
    return log
