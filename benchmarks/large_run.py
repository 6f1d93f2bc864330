"""A run of a million trajectories and ten million scores: what each command that reads or writes it takes.

    python benchmarks/large_run.py [--seeds 20] [--output RUN] [--json]

Ten bases, five lineages and ``seeds`` training seeds on 500 cases met twice, five readings of two objectives; at 20
seeds that is 1,010 checkpoints. Scores and texts are drawn, everything else is written as a run writes it: batches of
400 episodes, a transaction each, with digests. Commands are those of the command line, each in a process of its own:
seconds on a clock and the most memory that it held. Bars: analyze in 60 s and 4 GB, a page of 8 MB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import document, show

import holdfast
from holdfast.judges.state import StateJudge
from holdfast.records import Ending, Message, Score, Trajectory
from holdfast.rollout.episode import episode_id
from holdfast.runs.build import build
from holdfast.runs.plan.settings import AnalyzeSettings, JudgeSettings, RolloutSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.run import prepare
from holdfast.store import Store, codec
from holdfast.store.steplog import PLAN_KEY
from holdfast.study.study import Study

PACKAGES = ("numpy", "scipy")
CASES, PER_CASE, REPEATS, BASES = 500, 2, 5, 10
BATCH = 400
ANALYZE_SECONDS, ANALYZE_MB, PAGE_MB = 60.0, 4000.0, 8.0


def make_study(seeds: int) -> Study:
    """The study whose run it is, as a file would have it."""
    bases = {f"model-{number}": {"kind": "local", "name": f"/models/{number}"} for number in range(BASES)}
    stage = {"objective": "safety", "steps": 10}
    return Study.model_validate(
        {
            "study": {
                "name": "large",
                "lineages": [["S"], ["H"], ["S", "H"], ["H", "S"], ["S&H"]],
                "train_seeds": list(range(seeds)),
                "draws": 2000,
            },
            "model": {"bases": list(bases)},
            "models": bases,
            "suite": {"name": "office", "train_cases": 100, "test_cases": CASES},
            "rollouts": {"per_train_case": 2, "per_test_case": PER_CASE},
            "judges": {"state": {"kind": "state", "repeats": REPEATS}},
            "stages": {
                "S": stage,
                "H": stage | {"objective": "helpfulness"},
                "S&H": stage | {"objective": ["safety", "helpfulness"]},
            },
        }
    )


def draw_batches(step: Step, cases: Sequence[str], rng: np.random.Generator) -> Iterator[list[tuple[Trajectory, Any]]]:
    """A rollout step's episodes with readings (objective × repeat) of each, a batch at a time."""
    assert isinstance(step.settings, RolloutSettings)
    settings, level = step.settings, rng.normal(1.5, 0.3, 2)
    planned = [(name, rollout) for rollout in range(settings.per_case) for name in cases]
    for start in range(0, len(planned), BATCH):
        made = []
        for name, rollout in planned[start : start + BATCH]:
            words = " ".join(map(str, rng.integers(0, 99, 60)))
            trajectory = Trajectory(
                id=episode_id(settings.checkpoint, name, rollout, settings.rollout_seed),
                case_id=name,
                checkpoint_id=settings.checkpoint,
                rollout=rollout,
                messages=(Message(role="assistant", content=words),),
                ending=Ending.FINISHED,
                calls=2,
                tokens=60,
            )
            own = rng.normal(level, 0.6)
            made.append((trajectory, np.clip(np.round(own + rng.normal(0, 0.3, (REPEATS, 2))), 0, 3)))
        yield made


def fill(study: Study, path: Path) -> dict[str, float]:
    """Write the run; how long its transactions took."""
    plan, rng, spent = build(study), np.random.default_rng(0), 0.0
    judge = StateJudge()
    objectives = [(name, judge.rubric_of(name)) for name in judge.objectives]
    trajectories = scores = 0
    with Store.create(path) as store:
        prepare(study, store)
        store.set_meta(PLAN_KEY, "[" + ", ".join(f'"{step.fingerprint}"' for step in plan.steps) + "]")
        cases = store.splits()[0]["test"]
        judged = {step.inputs[0]: step for step in plan.steps if isinstance(step.settings, JudgeSettings)}
        for step in plan.steps:
            if isinstance(step.settings, AnalyzeSettings):
                continue
            with store.transaction():
                for checkpoint in step.checkpoints:
                    # Its weights are nobody's: a model that lies elsewhere.
                    store.add_checkpoint(replace(checkpoint, model="/models/0"))
                store.log.begin(step.fingerprint, step.kind, step.name)
            is_test = isinstance(step.settings, RolloutSettings) and step.settings.part == "test"
            for number, batch in enumerate(draw_batches(step, cases, rng) if is_test else ()):
                packed = [(one, store.text_codec.pack(codec.trajectory_to_bytes(one, None))) for one, _ in batch]
                started = time.perf_counter()
                with store.transaction():
                    for trajectory, text in packed:
                        store.add_trajectory(trajectory.without_texts(), text, step=step.fingerprint)
                    store.log.commit_batch(step.fingerprint, number)
                with store.transaction():
                    for trajectory, readings in batch:
                        for repeat, row in enumerate(readings):
                            for (name, rubric), value in zip(objectives, row, strict=True):
                                store.add_score(
                                    Score(
                                        trajectory_id=trajectory.id,
                                        judge="state",
                                        objective=name,
                                        value=float(value),
                                        rubric=rubric,
                                        repeat=repeat,
                                    )
                                )
                    store.log.commit_batch(judged[step.fingerprint].fingerprint, number)
                spent += time.perf_counter() - started
                trajectories, scores = trajectories + len(batch), scores + len(batch) * REPEATS * len(objectives)
            with store.transaction():
                store.log.finish(step.fingerprint, {"cpu_seconds": 1.0})
    size = (path / "run.db").stat().st_size / 1e6
    return {
        "trajectories": trajectories,
        "scores": scores,
        "checkpoints": 5 * BASES * len(study.study.train_seeds) + BASES,
        "commit_s": round(spent, 1),
        "scores_a_second": round(scores / spent),
        "database_mb": round(size, 1),
    }


def command(*words: str, of: Sequence[str] = ("-m", "holdfast")) -> dict[str, float]:
    """A command in a process of its own: seconds, the most MB that it held, and its exit code."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *of, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "s": round(time.perf_counter() - started, 1),
        "mb": round(used.ru_maxrss / 1000),
        "exit_code": process.returncode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="of training; each has 50 checkpoints")
    parser.add_argument("--output", type=Path, help="keep the run there, or take the one that is there")
    parser.add_argument("--take-up", action="store_true", help="only go on with the run at --output, as `run` does")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.take_up:
        holdfast.run(make_study(options.seeds), options.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        run, written = options.output or Path(folder) / "run", Path(folder)
        figures: dict[str, Any] = {}
        if not run.exists():
            figures["written"] = fill(make_study(options.seeds), run)
        figures["show"] = command("show", str(run))
        figures["analyze"] = command("analyze", str(run), "--json")
        again = ("--take-up", "--seeds", str(options.seeds), "--output", str(run))
        figures["resume, analysis left"] = command(*again, of=(__file__,))
        figures["resume, nothing left"] = command(*again, of=(__file__,))
        figures["gate"] = command("gate", str(run), "--all", "-o", str(written / "gate"))
        figures["report"] = command("report", str(run), "-o", str(written / "report"))
        figures["csv"] = command("export", str(run), "--to", "csv", "-o", str(written / "scores.csv"))
        figures["jsonl"] = command("export", str(run), "--to", "jsonl", "-o", str(written / "rows"))
        pages = list((written / "report").glob("*.html"))
        figures["page"] = {"mb": round(sum(path.stat().st_size for path in pages) / 1e6, 2)}
    ratios = {
        "bar_over_analyze_s": round(ANALYZE_SECONDS / figures["analyze"]["s"], 2),
        "bar_over_analyze_mb": round(ANALYZE_MB / figures["analyze"]["mb"], 2),
        "bar_over_page_mb": round(PAGE_MB / max(figures["page"]["mb"], 0.01), 2),
    }
    show(document("large_run", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
