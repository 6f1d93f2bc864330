"""How near to the best possible a cluster's time comes: the real scheduler on simulated machines that fail.

    python benchmarks/cluster_schedule.py [--seeds 20] [--nodes 8] [--json]

The plan is a real one: ten bases, five lineages and ``seeds`` training seeds, at 20 seeds 1,000 trained checkpoints and
a million held-out episodes. What takes the steps off it is what a run uses (``runs.waiting``); nodes with eight
accelerators each are simulated, on a clock of their own. A step takes hours by its kind, a third more or less by luck.
A node fails after a day on average and is gone for an hour; what it had is lost, a stage goes on from a state of at
most five minutes ago. The bound is what no schedule can beat: the longest chain of steps, or all accelerator hours by
the number of accelerators, whichever is longer; it knows of no failure. ``scheduler_s`` is this process' own time.
"""

from __future__ import annotations

import argparse
import heapq
import time
from typing import Any

import numpy as np
from large_run import make_study
from machine import document, show

from holdfast.runs.build import build
from holdfast.runs.costs.schedule import longest_path
from holdfast.runs.plan.step import Step
from holdfast.runs.waiting import Waiting

PACKAGES = ("numpy",)
GPUS = 8  # of a node
# Hours of an accelerator by kind, of 8B models; steps of other kinds take none, beside the driver.
HOURS = {"train": 1.5, "rollout": 0.4, "reference": 0.25, "judge": 0.2}
BETWEEN_FAILURES, GONE, SAVED = 24.0, 1.0, 5 / 60


class Nodes:
    """Simulated nodes: which have room, until when they are up, and what they carry out."""

    def __init__(self, count: int, rng: np.random.Generator, *, failing: bool) -> None:
        self._rng, self._failing = rng, failing
        self.free = [GPUS] * count
        self.up = [True] * count
        self.had: list[set[str]] = [set() for _ in range(count)]
        self.events: list[tuple[float, int, str, str]] = []  # hour, node, what happens, of which step
        for node in range(count if failing else 0):
            self.plan(rng.exponential(BETWEEN_FAILURES), node, "fails", "")

    def plan(self, hour: float, node: int, what: str, name: str) -> None:
        heapq.heappush(self.events, (hour, node, what, name))

    def room(self) -> int | None:
        """A node with an accelerator that is free."""
        return next((node for node, free in enumerate(self.free) if free and self.up[node]), None)


def simulate(steps: tuple[Step, ...], hours: dict[str, float], nodes: int, *, failing: bool) -> dict[str, float]:
    """Carry out a plan on simulated nodes: makespan and accelerator hours, with what was lost."""
    cluster, waiting = Nodes(nodes, np.random.default_rng(1), failing=failing), Waiting(steps, ())
    left = dict(hours)
    began: dict[str, float] = {}
    lost, repeated, now, done, started = 0, 0.0, 0.0, 0, time.process_time()

    def finish(name: str) -> None:
        nonlocal done
        waiting.finish(name)
        done += 1

    while True:
        while (step := waiting.find(lambda one: not hours[one.fingerprint] or cluster.room() is not None)) is not None:
            waiting.remove(step)
            name = step.fingerprint
            if not hours[name]:
                finish(name)
                continue
            node = cluster.room()
            assert node is not None
            cluster.free[node] -= 1
            cluster.had[node].add(name)
            began[name] = now
            cluster.plan(now + left[name], node, "ends", name)
        if done == len(steps):
            break
        now, node, what, name = heapq.heappop(cluster.events)
        if what == "ends" and name in cluster.had[node] and abs(began[name] + left[name] - now) < 1e-9:
            cluster.had[node].discard(name)
            cluster.free[node] += 1
            finish(name)
        elif what == "fails":
            for name in sorted(cluster.had[node]):
                spent = now - began[name]
                kept = max(0.0, spent - SAVED)
                left[name], lost, repeated = left[name] - kept, lost + 1, repeated + spent - kept
                waiting.put_back(next_step[name])
            cluster.had[node].clear()
            cluster.free[node], cluster.up[node] = GPUS, False
            cluster.plan(now + GONE, node, "returns", "")
        elif what == "returns":
            cluster.up[node] = True
            cluster.plan(
                now + float(np.random.default_rng(int(now * 1e6)).exponential(BETWEEN_FAILURES)), node, "fails", ""
            )
    return {
        "makespan_hours": round(now, 1),
        "steps_lost": lost,
        "hours_repeated": round(repeated, 1),
        "scheduler_s": round(time.process_time() - started, 2),
    }


next_step: dict[str, Step] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    steps = build(make_study(options.seeds)).steps
    next_step.update({step.fingerprint: step for step in steps})
    luck = np.random.default_rng(0).uniform(2 / 3, 4 / 3, len(steps))
    hours = {step.fingerprint: HOURS.get(step.kind, 0.0) * luck[at] for at, step in enumerate(steps)}
    for step in steps:
        if step.kind == "train" and not step.inputs:
            hours[step.fingerprint] = 0.0  # a base that is opened where it is
    path, work = longest_path(steps, lambda step: hours[step.fingerprint]), sum(hours.values())
    bound = max(path, work / (GPUS * options.nodes))
    figures: dict[str, Any] = {
        "plan": {
            "steps": len(steps),
            "checkpoints": sum(len(step.checkpoints) for step in steps),
            "accelerator_hours": round(work, 1),
            "longest_chain_hours": round(path, 1),
            "bound_hours": round(bound, 1),
        }
    }
    for name, failing in (("sound", False), ("failing", True)):
        figures[name] = simulate(steps, hours, options.nodes, failing=failing)
    ratios = {f"{name}_over_bound": round(figures[name]["makespan_hours"] / bound, 3) for name in ("sound", "failing")}
    show(document("cluster_schedule", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
