"""What an agent's step costs besides the model: our loop, and Inspect AI's, before the same server.

    python benchmarks/agent_overhead.py [--json] [--episodes N]

A scripted agent plays office cases: four tool calls and an answer. Nothing is generated, so all CPU time of this
process is the loops'; the server, a process of its own, is not counted. ``in_process`` answers here; ``concurrent`` is
the driver for remote models with an agent that answers at once; ``provider`` sends every step over HTTP through
``ProviderModel``, with its ledger on disk; ``bare`` makes the same requests by Inspect's ``generate`` alone;
``inspect`` is the suite as an Inspect task with Inspect's own log. Our share of a remote step is ``provider`` less
``bare``. Then the tiny agent's rollouts per CPU-second, a batch of 100 against one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import document, show

from holdfast.models import Ask, Conversation, Reply
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.models.fakes import FakeProvider, ScriptedModel, script_reply
from holdfast.models.remote.ledger import Ledger
from holdfast.records import Case, Message, ToolCall, Trajectory
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.suites.office import cases as office_cases

CALLS = 4
NAME = "openai-api/scripted/agent"
LIMITS = Limits(max_turns=CALLS + 1, max_tokens=16, temperature=0.0)


def act(talk: Conversation) -> Message | ToolCall | str:
    """Four calls of the case's first tool on an object that is not there, then an answer."""
    if sum(message.role == "tool" for message in talk.messages) == CALLS:
        return "done"
    return ToolCall(name=talk.tools[0].name, arguments={"object": "nothing_known"})


class AtOnce:
    """The scripted agent as a remote model without a wire."""

    async def ask(self, ask: Ask) -> Reply:
        """The script's reply."""
        await asyncio.sleep(0)
        return script_reply(act(ask.conversation))


def milliseconds_a_step(play: Callable[[Sequence[Case]], Any], cases: Sequence[Case]) -> float:
    """CPU milliseconds of one agent step: of all episodes, by process time, over their steps."""
    started = time.process_time()
    play(cases)
    return 1000 * (time.process_time() - started) / (len(cases) * (CALLS + 1))


def ours(speaker: Any) -> Callable[[Sequence[Case]], list[Any]]:
    """Our loop with a speaker for the agent; every episode has five steps."""

    def play(cases: Sequence[Case]) -> list[Any]:
        episodes = [(case, 0) for case in cases]
        speakers = {"agent": speaker}
        made = roll_out(speakers, OfficeWorld(), episodes, checkpoint_id="c", rollout_seed=0, limits=LIMITS)  # type: ignore[arg-type]
        for item in made:
            assert isinstance(item, Trajectory) and len(item.messages) == 2 * CALLS + 1, item
        return list(made)

    return play


def answer(request: Mapping[str, Any]) -> ToolCall | str:
    """The scripted agent as a server's answer to a chat completion."""
    if sum(message["role"] == "tool" for message in request["messages"]) == CALLS:
        return "done"
    name = request["tools"][0]["function"]["name"]
    return ToolCall(name=name, arguments={"object": "nothing_known"}, id=f"call_{len(request['messages'])}")


def serve(connection: Connection) -> None:
    """The server's process: tells its address and ends when it is told to."""
    with FakeProvider(answers=answer) as provider:
        connection.send(provider.base_url)
        connection.recv()


@contextmanager
def server() -> Iterator[str]:
    """The address of the scripted agent's server."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=serve, args=(far,), daemon=True)
    process.start()
    try:
        yield near.recv()
    finally:
        near.send(None)
        process.join()


def through_provider(cases: Sequence[Case], url: str, folder: Path) -> float:
    """CPU milliseconds of a step of our loop with a remote agent."""
    from holdfast.models.remote.provider import ProviderModel

    with closing(Ledger(folder / "calls.db")) as ledger:
        entry = ModelEntry(kind="remote", name=NAME)
        speaker = ProviderModel(NAME, entry=entry, endpoint=EndpointSection(base_url=url), ledger=ledger)
        return milliseconds_a_step(ours(speaker), cases)


def bare(cases: Sequence[Case], url: str) -> float:
    """CPU milliseconds of the same requests by Inspect's ``generate`` alone."""
    from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageTool, ChatMessageUser, get_model

    from holdfast.models.remote.inspect_chat import tool_infos

    async def one(model: Any, case: Case) -> None:
        system, user = case.messages
        messages: list[ChatMessage] = [ChatMessageSystem(content=system.content), ChatMessageUser(content=user.content)]
        for _ in range(CALLS + 1):
            output = await model.generate(messages, tools=tool_infos(case.tools))
            messages.append(output.message)
            for call in output.message.tool_calls or []:
                messages.append(ChatMessageTool(content="no such object", tool_call_id=call.id, function=call.function))

    async def everyone() -> None:
        model = get_model(NAME, base_url=url, api_key="none", memoize=False)
        await asyncio.gather(*(one(model, case) for case in cases))

    return milliseconds_a_step(lambda _: asyncio.run(everyone()), cases)


def through_inspect(cases: Sequence[Case], url: str, folder: Path) -> float:
    """CPU milliseconds of a step of the suite as an Inspect task."""
    from inspect_ai import eval as inspect_eval
    from inspect_ai.model import get_model

    from holdfast.exchange.inspect.tasks import office as office_task

    def play(_: Sequence[Case]) -> None:
        (log,) = inspect_eval(
            office_task(count=len(cases), max_turns=CALLS + 1),
            model=get_model(NAME, base_url=url, api_key="none", memoize=False),
            log_dir=str(folder),
            display="none",
            log_realtime=False,
        )
        assert log.status == "success" and log.samples is not None and len(log.samples) == len(cases)

    return milliseconds_a_step(play, cases)


def tiny_rollouts(folder: Path, count: int) -> tuple[float, float]:
    """The tiny agent's rollouts per CPU-second: in batches of 100, and one at a time."""
    from holdfast.models.tiny.model import TinyModel, build

    model = TinyModel.load(
        build(office_cases.lexicon(), folder / "tiny", seed=0, system_prompts=office_cases.system_prompts())
    )
    limits = Limits(max_turns=8, max_tokens=16, temperature=1.0)
    rates = []
    for size in (100, 1):
        cases = office_cases.generate(1, count, part="test")
        started = time.process_time()
        for start in range(0, count, size):
            episodes = [(case, 0) for case in cases[start : start + size]]
            roll_out({"agent": model}, OfficeWorld(), episodes, checkpoint_id="c", rollout_seed=0, limits=limits)
        rates.append(count / (time.process_time() - started))
    return rates[0], rates[1]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--episodes", type=int, default=200)
    chosen = options.parse_args()
    cases = office_cases.generate(0, chosen.episodes, part="test")
    with tempfile.TemporaryDirectory() as name, server() as url:
        folder = Path(name)
        # Libraries load at their first call.
        bare(cases[:5], url)
        through_provider(cases[:5], url, folder / "warm")
        through_inspect(cases[:5], url, folder)
        steps = {
            "in_process": milliseconds_a_step(ours(ScriptedModel(act)), cases),
            "concurrent": milliseconds_a_step(ours(AtOnce()), cases),
            "provider": through_provider(cases, url, folder),
            "bare": bare(cases, url),
            "inspect": through_inspect(cases, url, folder),
        }
        batched, alone = tiny_rollouts(folder, 400)
    figures: dict[str, Any] = {f"{key}_ms_per_step": round(value, 3) for key, value in steps.items()}
    figures |= {
        "episodes": chosen.episodes,
        "our_share_ms_per_step": round(steps["provider"] - steps["bare"], 3),
        "tiny_rollouts_per_cpu_second_batched": round(batched, 1),
        "tiny_rollouts_per_cpu_second_alone": round(alone, 1),
    }
    ratios = {
        "inspect_over_provider": round(steps["inspect"] / steps["provider"], 2),
        "inspect_over_in_process": round(steps["inspect"] / steps["in_process"], 1),
        "tiny_batched_over_alone": round(batched / alone, 2),
    }
    show(document("agent_overhead", ("holdfast", "inspect-ai", "openai"), figures, ratios), as_json=chosen.json)


if __name__ == "__main__":
    main()
