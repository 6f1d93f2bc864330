"""What an engine costs a step: seconds and bytes of steps that have nothing left to do, through each engine.

    python benchmarks/engines.py [--steps 1000] [--jobs 60] [--json]

The steps are rollouts of a tiny model whose batches are all committed, each another by its seed: the driver writes its
slice, a process opens slice and model, and its end comes back. Worker processes open the run itself and are what the
others are compared with. Ray is a cluster of this machine with two processors, whose start is counted apart; submitit
starts a Python for each step, so there are fewer of these. Bytes are those of a slice, and of all that is said of a
step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import document, show

import holdfast as hf
from holdfast.runs.build import build
from holdfast.runs.carrying import envelopes
from holdfast.runs.engines.engine import Engine
from holdfast.runs.engines.opening import open_engine
from holdfast.runs.plan.settings import RolloutSettings
from holdfast.runs.plan.step import Step, fingerprint_of
from holdfast.runs.steps.outcomes import End, Failure, Lost
from holdfast.store import Store
from holdfast.study.study import load

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ray", "submitit", "torch")
CHANGES = ('study.lineages=[["S","H"]]',)


def empty_steps(store: Store, count: int) -> list[Step]:
    """So many rollout steps that have nothing left to do, by whose marks in the run."""
    plan = build(load(ROOT / "studies" / "smoke.toml", changes=CHANGES))
    like = next(one for one in plan.steps if isinstance(one.settings, RolloutSettings) and one.settings.part == "train")
    assert isinstance(like.settings, RolloutSettings)
    batches = -(-like.size // like.settings.limits.batch_size)
    made = []
    with store.transaction():
        for number in range(count):
            settings = replace(like.settings, rollout_seed=1_000_000 + number)
            fingerprint = fingerprint_of(settings, like.inputs)
            made.append(replace(like, settings=settings, fingerprint=fingerprint, name=f"empty {number}"))
            for batch in range(batches):
                store.log.commit_batch(fingerprint, batch)
    return made


def carry_out(engine: Engine, steps: Sequence[Step]) -> float:
    """Seconds until an engine has ended all steps."""
    waiting, running, started = list(reversed(steps)), 0, time.perf_counter()

    def deliver(_: str, outcome: Any) -> None:
        nonlocal running
        if isinstance(outcome, Failure | Lost):
            raise SystemExit(f"a step did not end: {outcome.message}")
        running -= isinstance(outcome, End)

    while waiting or running:
        while waiting and engine.takes(waiting[-1]):
            engine.submit(waiting.pop())
            running += 1
        engine.wait(deliver)
    return time.perf_counter() - started


def measure(name: str, run: Path, count: int) -> dict[str, float]:
    """One engine: seconds until it is open, seconds a step once it has carried out some."""
    with Store(run, writable=True) as store:
        steps = empty_steps(store, count + 4)
        started = time.perf_counter()
        engine = open_engine(name, store, 2)
        try:
            carry_out(engine, steps[:4])  # libraries are loaded, models opened
            opened = time.perf_counter() - started
            spent = carry_out(engine, steps[4:])
        finally:
            engine.close()
    return {"steps": count, "opening_s": round(opened, 2), "ms_a_step": round(1000 * spent / count, 2)}


def count_bytes(run: Path) -> dict[str, float]:
    """Bytes that travel for one of the steps."""
    from holdfast.runs.carrying.carry import carry
    from holdfast.runs.carrying.cutting import cut, read_slice

    with tempfile.TemporaryDirectory() as folder, Store(run, writable=True) as store:
        (step,) = empty_steps(store, 1)
        place, said = Path(folder) / "slice", list[bytes]()
        started = time.perf_counter()
        cut(store, step, f"{step.fingerprint}~b-1", place)
        writing = time.perf_counter() - started
        carry(read_slice(place), said.append, weights_root=run / "weights", scratch=Path(folder) / "work")
        assert envelopes.unpack(said[-1], Path(folder)).outcome == End()
        there = sum(path.stat().st_size for path in place.iterdir())
    return {"slice_bytes": there, "said_bytes": sum(map(len, said)), "slice_ms": round(1000 * writing, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=60, help="steps through submitit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "run"
        hf.run(load(ROOT / "studies" / "smoke.toml", changes=CHANGES), made, workers=2)
        figures["bytes"] = count_bytes(made)
        for name, count in (("local", options.steps), ("ray", options.steps), ("jobs", options.jobs)):
            again = Path(folder) / name  # the same steps, which another engine has not marked
            hf.run(load(ROOT / "studies" / "smoke.toml", changes=CHANGES), again, workers=2)
            figures[name] = measure(name, again, count)
    worker = figures["local"]["ms_a_step"]
    ratios = {f"{name}_over_worker": round(figures[name]["ms_a_step"] / worker, 1) for name in ("ray", "jobs")}
    show(document("engines", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
