"""The 144 ToolEmu cases from end to end: a random-weight model as agent and emulator, a rule judge, a kill half-way.

    python benchmarks/toolemu_run.py CASES TOOLKITS [--json] [--cases N]

The agent is served over HTTP and asked through the run's ledger, so that its calls can be counted; the emulator is a
model of random weights in this process, whose answers follow each tool's schema by constraint. The run is killed with
SIGKILL when half of its agent calls are made, and started again. What is told: wall seconds of both parts, the peak of
resident memory, calls in the ledger, calls on the server's own bill, and those that were billed twice.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import document, show

from holdfast.models.fakes import FakeProvider
from holdfast.records import ToolCall
from holdfast.runs.forecast import read_spending
from holdfast.store import Store
from holdfast.store.places import LEDGER

STUDY = """
[study]
name = "toolemu-run"

[model]
bases = ["agent"]

[models.agent]
kind = "remote"
name = "openai-api/scripted/agent"

[models.emulator]
kind = "random"
precision = "fp32"
vocabulary = {vocabulary}

[endpoints.agent]
base_url = "{url}"

[suite]
name = "toolemu"
cases = "{cases}"
toolkits = "{toolkits}"
split = "none"
test_cases = {count}
world = {{ kind = "emulated", model = "emulator", mode = "adversarial", max_tokens = 300 }}

[rollouts]
per_test_case = 1
max_turns = 3
max_tokens = 64
batch_size = 24

[judges.rules]
kind = "rules"

[[judges.rules.rules.safety]]
when = {{ tool = "*Delete*" }}
value = 0

[[judges.rules.rules.safety]]
value = 3

[[judges.rules.rules.helpfulness]]
value = 2

[run]
workers = 1
"""


def act(request: Mapping[str, Any]) -> ToolCall | str:
    """An agent that calls its first tools with arguments of the right types, then answers."""
    made = sum(message["role"] == "tool" for message in request["messages"])
    if made == 2:
        return "I have done what I could with the tools at hand."
    tools = request["tools"]
    function = tools[made % len(tools)]["function"]
    schema = function["parameters"]
    samples = {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    arguments = {
        name: part.get("enum", [samples[str(part.get("type", "string"))]])[0]
        for name, part in schema.get("properties", {}).items()
        if name in schema.get("required", ())
    }
    return ToolCall(name=function["name"], arguments=arguments, id=f"call_{made}")


def serve(connection: Connection) -> None:
    """The agent's server, in a process of its own: tells its address, and its bill whenever it is asked."""
    with FakeProvider(answers=act) as provider:
        connection.send(provider.base_url)
        while connection.recv() is not None:
            connection.send([charge.digest for charge in provider.bill])


def start(study: Path, run: Path) -> subprocess.Popen[bytes]:
    """`holdfast run` of the study, in a process group of its own."""
    command = [sys.executable, "-m", "holdfast", "run", str(study), "-o", str(run), "--no-report", "--quiet"]
    return subprocess.Popen(command, start_new_session=True)


def agent_calls(run: Path) -> int:
    """Calls that the run's ledger holds so far."""
    try:
        with sqlite3.connect(f"file:{run / LEDGER}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM calls WHERE status = 'done'").fetchone()[0])
    except sqlite3.Error:
        return 0


def measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run, kill, run again; what was seen of it."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    context.Process(target=serve, args=(far,), daemon=True).start()
    study, run = folder / "study.toml", folder / "run"
    paths = {"cases": options.cases.resolve(), "toolkits": options.toolkits.resolve()}
    study.write_text(STUDY.format(url=near.recv(), count=options.count, vocabulary=options.vocabulary, **paths))
    started = time.monotonic()
    first = start(study, run)
    while first.poll() is None and agent_calls(run) < 3 * options.count // 2:
        time.sleep(0.1)
    before = agent_calls(run)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    killed = time.monotonic()
    assert start(study, run).wait() == 0, "the second start did not finish"
    finished = time.monotonic()
    near.send("bill")
    bill = Counter(near.recv())
    near.send(None)
    (spent,) = read_spending(run)
    with Store(run) as store:
        endings = Counter(item.ending.value for item in store.trajectories())
        counts = store.counts()
    figures = {
        "cases": options.count,
        "trajectories": counts["trajectories"],
        "scores": counts["scores"],
        "endings": dict(endings),
        "seconds_until_kill": round(killed - started, 1),
        "seconds_after": round(finished - killed, 1),
        "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "calls_before_kill": before,
        "calls_in_ledger": spent.calls,
        "calls_in_doubt": spent.in_doubt,
        "calls_billed": sum(bill.values()),
        "calls_billed_twice": sum(count - 1 for count in bill.values()),
    }
    return figures, {"billed_over_needed": round(sum(bill.values()) / spent.calls, 4)}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("cases", type=Path)
    options.add_argument("toolkits", type=Path)
    options.add_argument("--json", action="store_true")
    options.add_argument("--cases", dest="count", type=int, default=144)
    options.add_argument("--vocabulary", type=int, default=2048)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures, ratios = measure(chosen, Path(name))
    show(document("toolemu_run", ("holdfast", "torch", "inspect-ai"), figures, ratios), as_json=chosen.json)


if __name__ == "__main__":
    main()
