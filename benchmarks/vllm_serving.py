"""Does a server give the same greedy episodes of a tiny agent over HTTP as there are in this process, and how fast?

    python benchmarks/vllm_serving.py DIRECTORY NAME=URL [NAME=URL ...] [--model ID] [--cases N] [--json]

DIRECTORY is a taught base, such as one of a run's weights; the servers serve it under ID, each of them one of

    python -m vllm.entrypoints.openai.api_server --model DIRECTORY --served-model-name ID --dtype float32 \\
        --enable-auto-tool-choice --tool-call-parser hf
    transformers serve ID        (in the directory that holds the folder ID)

Both read calls by the response template of the directory's tokenizer. Every office case is one episode at temperature
0 through ``ProviderModel``, 16 requests at a time. An episode is equal where all its messages are, names and arguments
of calls included, ids of calls aside. Tokens are the agent's own, and seconds are the client's, which takes most of
them with a model this small.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from machine import document, show

from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.models.remote.ledger import Ledger
from holdfast.models.remote.provider import ProviderModel
from holdfast.models.tiny.model import TinyModel
from holdfast.records import Message, ToolCall, Trajectory
from holdfast.records.errors import ProviderError
from holdfast.rollout.dialogues import Speakers
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.suites.office import cases as office_cases

LIMITS = Limits(max_turns=8, max_tokens=16, temperature=0.0)
Row = dict[str, float]


def play(speakers: Speakers, cases: int) -> tuple[list[Trajectory], float]:
    """An episode of every case, and the seconds that all of them took. Errors: ProviderError."""
    episodes = [(case, 0) for case in office_cases.generate(0, cases, part="test")]
    started = time.perf_counter()
    played = roll_out(speakers, OfficeWorld(), episodes, checkpoint_id="served", rollout_seed=0, limits=LIMITS)
    seconds = time.perf_counter() - started
    trajectories = []
    for one in played:
        if isinstance(one, ProviderError):
            raise one
        trajectories.append(one)
    return trajectories, seconds


def plain(messages: Sequence[Message]) -> list[Message]:
    """The messages without the ids that servers give to calls."""
    return [
        replace(message, tool_calls=tuple(replace(call, id="") for call in message.tool_calls)) for message in messages
    ]


def calls_of(trajectory: Trajectory) -> list[ToolCall]:
    return [call for message in plain(trajectory.messages) for call in message.tool_calls]


def compare(wanted: Sequence[Trajectory], found: Sequence[Trajectory], seconds: float) -> Row:
    """How many of the episodes and calls in this process the others repeat, and the speed of the others."""
    pairs = list(zip(wanted, found, strict=True))
    turns = sum(message.role == "assistant" for one in found for message in one.messages)
    calls = [(calls_of(one), calls_of(other)) for one, other in pairs]
    return {
        "episodes": len(pairs),
        "equal_episodes": sum(plain(one.messages) == plain(other.messages) for one, other in pairs),
        "calls": sum(len(ours) for ours, _ in calls),
        "equal_calls": sum(one == other for ours, theirs in calls for one, other in zip(ours, theirs, strict=False)),
        "equal_token_counts": sum(one.tokens == other.tokens for one, other in pairs),
        "replies_per_second": turns / seconds,
        "tokens_per_second": sum(one.tokens or 0 for one in found) / seconds,
    }


def ask_server(url: str, model: str, cases: int, wanted: Sequence[Trajectory]) -> Row:
    """The comparison for one server; a few episodes go first, for what a server does at its first requests."""
    name = f"openai-api/served/{model}"
    entry, endpoint = ModelEntry(kind="remote", name=name, calls="native"), EndpointSection(base_url=f"{url}/v1")
    with tempfile.TemporaryDirectory() as folder:
        for part in (4, cases):
            ledger = Ledger(Path(folder) / f"{part}.db")
            try:
                agent = ProviderModel(name, entry=entry, endpoint=endpoint, ledger=ledger)
                found, seconds = play({"agent": agent}, part)
            finally:
                ledger.close()
    return compare(wanted, found, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--model", default="base", metavar="ID")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted, seconds = play({"agent": TinyModel.load(options.directory)}, options.cases)
    rows = {"in_process": compare(wanted, wanted, seconds)}
    for server in options.servers:
        name, _, url = server.partition("=")
        rows[name] = ask_server(url.rstrip("/"), options.model, options.cases, wanted)
    shares = {
        name: {
            "equal_episodes": row["equal_episodes"] / row["episodes"],
            "equal_calls": row["equal_calls"] / row["calls"],
        }
        for name, row in rows.items()
    }
    show(
        document("vllm_serving", ["torch", "transformers", "openai", "inspect-ai"], rows, shares), as_json=options.json
    )


if __name__ == "__main__":
    main()
