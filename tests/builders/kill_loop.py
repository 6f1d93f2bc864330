"""Runs a study again and again in forked children, and kills each at a random moment until it has killed enough.

Usage: kill_loop.py STUDY OUTPUT KILLS SEED. Libraries are loaded once, before the first fork, so that kills fall
into work and not into imports. Each time a run finishes, the next one starts in a fresh directory. Prints one
JSON document: the finished runs, the kills, and what was found wrong after a kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch  # noqa: F401 — loaded before the first fork

import holdfast as hf
from holdfast import analysis  # noqa: F401
from holdfast.models.tiny import model as tiny  # noqa: F401
from holdfast.runs import steps  # noqa: F401
from holdfast.store import DATABASE, Store
from holdfast.study import study  # noqa: F401
from holdfast.training.dpo import stage as stages  # noqa: F401

LONGEST_ROUNDS = 400


def committed(path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Done steps with the time they were done, and stored trajectories with their place."""
    if not (path / DATABASE).is_file():
        return {}, {}
    try:
        with Store(path) as store:
            done = {name: s.finished for name, s in store.log.steps().items() if s.status == "done" and s.finished}
            return done, {name: place for place, name in enumerate(store.trajectory_ids())}
    except hf.StoreError:
        return {}, {}  # killed before the run's first commit


def play(study_path: Path, output: Path) -> int:
    """One attempt in a child of its own; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            hf.run(study_path, output, workers=1)
            status = 0
        finally:
            os._exit(status)
    return child


def main() -> None:
    study_path, output, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    for name in ("first", "whole"):  # the first may teach a base, the second is what a whole run takes after that
        started = time.monotonic()
        _, status = os.waitpid(play(study_path, output / name), 0)
        assert status == 0, status
    longest = time.monotonic() - started
    finished, killed, wrong, number = [], 0, [], 0
    for _ in range(LONGEST_ROUNDS):
        run = output / f"run-{number}"
        before = committed(run)
        child = play(study_path, run)
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        after = committed(run)
        wrong += [f"step {name} was repeated" for name, when in before[0].items() if after[0].get(name) != when]
        wrong += [f"trajectory {name} moved" for name, place in before[1].items() if after[1].get(name) != place]
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.WEXITSTATUS(status):
            wrong.append(f"a resumed run failed with {os.WEXITSTATUS(status)}")
            break
        else:
            finished.append(str(run))
            number += 1
            if killed >= kills:
                break
    sys.stdout.write(
        json.dumps({"killed": killed, "finished": finished, "wrong": wrong, "whole": str(output / "whole")})
    )


if __name__ == "__main__":
    main()
