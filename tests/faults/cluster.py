"""Faults of a cluster, one at a time, in runs on a real Ray cluster of this machine or on jobs that submitit starts.

    PYTHONPATH=tests python -m faults.cluster [--each 9] [--only CLASS] [--json FILE]

Each case carries out a small study, meets one fault at a place that follows from its number, and is compared with the
run of one worker: nothing may be lost, nothing twice, and no more repeated than one batch, or what a stage does between
two saved states. ``make faults-cluster`` does 9 of each class, half an hour on two cores. Exit code 1 where a case
fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import holdfast as hf
from holdfast.runs.execution import StepProgress
from holdfast.study.study import load

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "studies" / "smoke.toml"
CHANGES = (
    'study.lineages=[["S","H"]]',
    "rollouts.batch_size=8",
    *(f"stages.{stage}.steps=72" for stage in "SH"),  # so that a stage takes some seconds
)
TABLES = ("cases", "checkpoints", "trajectories", "scores", "pairs", "logprobs", "batches")
RAY = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "2",
}
STORE_BYTES = 80 << 20  # the least that a node's object store may have
LONGEST = 400.0  # seconds of a case, after which it hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What became of one case: whether the fault was met, and how many steps were lost and done again."""

    name: str
    passed: bool
    met: bool
    lost: int
    told: str
    seconds: float


def counts(run: Path) -> dict[str, int]:
    """Rows by table."""
    with contextlib.closing(sqlite3.connect(f"file:{run / 'run.db'}?mode=ro", uri=True)) as db:
        return {table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in TABLES}


def processes(words: Callable[[bytes], bool]) -> list[int]:
    """Processes of this machine by their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words((place / "cmdline").read_bytes()):
                found.append(int(place.name))
    return found


class Cluster:
    """A head without processors and three nodes with one each; what is taken away is put back."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.ray = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(3):
            self.add()

    @property
    def engine(self) -> str:
        return f"ray:{self.ray.address}"

    def add(self) -> None:
        self.ray.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES)

    def node(self, name: str) -> Any:
        return next(one for one in self.ray.worker_nodes if one.node_id.startswith(name.partition("/")[2]))

    def raylet(self, name: str) -> int:
        node_id = self.node(name).node_id.encode()
        return next(iter(processes(lambda line: b"raylet/raylet" in line and node_id in line)))

    def close(self) -> None:
        self.ray.shutdown()


Fault = Callable[[Cluster, StepProgress], None]


def kill_node(cluster: Cluster, told: StepProgress) -> None:
    assert told.node is not None
    cluster.ray.remove_node(cluster.node(told.node), allow_graceful=False)
    cluster.add()


def stop_raylet(cluster: Cluster, told: StepProgress) -> None:
    """Stop a node's raylet for longer than its silence is borne, then let it go on."""
    assert told.node is not None
    process = cluster.raylet(told.node)
    os.kill(process, signal.SIGSTOP)
    subprocess.Popen(["sh", "-c", f"sleep 9; kill -CONT {process}"])
    cluster.add()


def kill_outbox(_cluster: Cluster, _told: StepProgress) -> None:
    for process in processes(lambda line: line.startswith(b"ray::Outbox")):
        os.kill(process, signal.SIGKILL)


def kill_worker(_cluster: Cluster, told: StepProgress) -> None:
    for process in processes(lambda line: line.startswith(f"ray::{told.step.kind}".encode())):
        os.kill(process, signal.SIGKILL)


def fill_store(_cluster: Cluster, _told: StepProgress) -> None:
    """Hold objects until the store of the driver's node takes no more, for some seconds."""
    import threading

    import ray

    held = []
    with contextlib.suppress(ray.exceptions.RayError):
        for _ in range(40):
            held.append(ray.put(os.urandom(8 << 20)))
    threading.Timer(5.0, held.clear).start()


# By class: which kinds of steps it meets, and what happens then.
CLASSES: dict[str, tuple[tuple[str, ...], Fault | None]] = {
    "node-in-train": (("train",), kill_node),
    "node-in-rollout": (("rollout",), kill_node),
    "worker": (("train", "rollout", "reference"), kill_worker),
    "raylet-stopped": (("train", "rollout"), stop_raylet),
    "outbox": (("train", "rollout"), kill_outbox),
    "full-store": (("train", "rollout"), fill_store),
    "driver": ((), None),
}


def carry_out(cluster: Cluster, run: Path, kinds: tuple[str, ...], number: int, fault: Fault) -> tuple[bool, int]:
    """One run with one fault, at the word of a step that its number says; whether it fell, and steps that were lost."""
    words, lost, fell = 0, 0, False

    def listener(told: StepProgress) -> None:
        nonlocal words, lost, fell
        lost += told.state == "lost"
        if told.state == "running" and told.node is not None and told.step.kind in kinds:
            words += 1
            # Of rollouts each word is a batch; a stage speaks twice a second, for some seconds.
            if not fell and words > (number % 4 if told.step.kind == "train" else 1 + 2 * (number % 6)):
                fell = True
                fault(cluster, told)

    study = load(STUDY, changes=CHANGES)
    hf.run(study, run, engine=cluster.engine, listener=listener)
    return fell, lost


def kill_driver(cluster: Cluster, run: Path, number: int) -> tuple[bool, int]:
    """A driver in a process of its own, killed after some seconds and begun again until it ends."""
    words = [sys.executable, "-m", "holdfast", "run", str(STUDY), "-o", str(run), "--engine", cluster.engine]
    words += ["--no-report", "--quiet", *(word for change in CHANGES for word in ("--set", change))]
    driver = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(6.0 + 2.0 * number)
    fell = driver.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    subprocess.run(words, cwd=ROOT, check=True, timeout=LONGEST)
    return fell, 0


def compare(run: Path, right: Path) -> str:
    """What differs from the run of one worker; empty where nothing does."""
    if (run / "analysis.json").read_bytes() != (right / "analysis.json").read_bytes():
        return "analysis.json differs"
    if counts(run) != counts(right):
        return f"rows differ: {counts(run)} and {counts(right)}"
    if left := [path.name for path in (run / "weights").glob(".part-*")]:
        return f"left behind: {left}"
    return ""


def meet(name: str, cluster: Cluster, right: Path, root: Path) -> Case:
    """Carry out the case of a name."""
    kind, _, number = name.partition("/")
    kinds, fault = CLASSES[kind]
    run, started = root / name.replace("/", "-"), time.monotonic()
    fell, lost, told = False, 0, ""
    try:
        if fault is None:
            fell, lost = kill_driver(cluster, run, int(number))
        else:
            fell, lost = carry_out(cluster, run, kinds, int(number), fault)
        told = compare(run, right)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"[:300]
    seconds = round(time.monotonic() - started, 1)
    return Case(name=name, passed=not told, met=fell, lost=lost, told=told, seconds=seconds)


def cases(options: argparse.Namespace) -> Iterator[str]:
    for number in range(options.first, options.first + options.each):
        for kind in CLASSES:
            name = f"{kind}/{number}"
            if not options.only or any(name == word or name.startswith(f"{word}/") for word in options.only):
                yield name


def render(found: list[Case]) -> str:
    """The table as Markdown, a row a class."""
    lines = ["| class | faults met | same run in the end | steps done again | seconds a run |", "|---|---|---|---|---|"]
    for kind in CLASSES:
        if some := [one for one in found if one.name.startswith(f"{kind}/") and one.met]:
            passed, lost = sum(one.passed for one in some), sum(one.lost for one in some)
            spent = sum(one.seconds for one in some) / len(some)
            lines.append(f"| {kind} | {len(some)} | {passed} | {lost} | {spent:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults.cluster", description=__doc__)
    parser.add_argument("--each", type=int, default=9, help="cases of each class")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each class")
    parser.add_argument("--only", action="append", default=[], help="classes, or names of cases")
    parser.add_argument("--json", type=Path, help="write every case here")
    options = parser.parse_args()
    os.environ.update(RAY)
    found: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-cluster-") as folder:
        right = Path(folder) / "right"
        hf.run(load(STUDY, changes=CHANGES), right, workers=1)
        cluster = Cluster()
        try:
            for name in cases(options):
                found.append(meet(name, cluster, right, Path(folder)))
                print(json.dumps(asdict(found[-1])), file=sys.stderr, flush=True)
        finally:
            cluster.close()
    print(render(found))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return int(not all(one.passed for one in found))


if __name__ == "__main__":
    sys.exit(main())
