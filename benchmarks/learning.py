"""Does the tree order learn as well as the pair-by-pair order? Held-out preference accuracy at equal pairs seen.

    python benchmarks/learning.py [--json] [--cache DIRECTORY] [--seeds N] [--group NAME ...] [--figure FILE]

Tiny bases taught as in the quick study learn from their own rollouts; held-out pairs are of cases with other objects.
Arms of a group differ in the order of pairs alone; the others are held against ``pairwise``, at as many pairs seen.
In ``safety`` and ``helpfulness`` a case has at most 8 pairs and a step 32, as in the quick study; ``safety_8`` has 8
pairs a step, which are one whole case in the tree's. ``safety_all`` takes every pair that the rule allows, about 26 a
case: ``one_case_a_step`` takes those at once, ``same_pairs_shuffled`` tells how much of its gap is due to the fewer
cases seen, ``one_case_at_equal_tokens`` sees six times the pairs, for which its forward passes take about as many
tokens as the pairwise ones, and ``subtrees_of_4`` mix some ten cases into a step.

Accuracy is the share of a case's held-out pairs whose implicit reward margin, beta (log-ratio of chosen - log-ratio of
rejected), is above zero, averaged over cases with equal weight. Differences are paired by case, base and seed; their
90 % intervals combine cases and training runs as in MOVER (``stats.contrasts``): margin² = (t se of cases)² + (t se of
runs)². The bar is an interval within ±2 points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import office_pairs
import torch
from held_out import BUDGET, HeldOut
from machine import document, show
from office_pairs import OfficePairs

from holdfast.records import PreferencePair
from holdfast.records.arrays import Floats
from holdfast.report.draw.svg import Canvas, Scale, draw_axes, draw_mark, span, stroke_of
from holdfast.stats.contrasts import interval, sample_of, spread
from holdfast.study.stages import StageSection
from holdfast.study.study import Study
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.dpo.stage import reference_logprobs
from holdfast.training.loop.loop import Loop, isolated
from holdfast.training.policy.adapters import WholeTiny
from holdfast.training.trees.parts import TrainStep, pair_step

PACKAGES = ("torch", "numpy")
STAGE = StageSection(objective="safety")  # the defaults that the quick study takes
BAR, LEVEL = 0.02, 0.9
BASES = 2
MARKS = (160, 320, 640)  # pairs seen; a stage of the quick study takes 20 steps of 32
WIDE = StageSection(objective="safety", pairs_per_step=32, trajectories_per_case=1000)
PAIRWISE, TREE = (
    StageSection(objective="safety", pairs_per_step=32, pairwise=True),
    StageSection(objective="safety", pairs_per_step=32),
)
# The pairs of each step, endlessly, for a seed.
Stream = Callable[[OfficePairs, int], Iterator[list[PreferencePair]]]


def by(order: StageSection) -> Stream:
    """The steps of an order."""

    def steps(data: OfficePairs, seed: int) -> Iterator[list[PreferencePair]]:
        return pair_steps(data.train, data.encoded, order, seed=seed)

    return steps


def same_pairs_shuffled(data: OfficePairs, seed: int) -> Iterator[list[PreferencePair]]:
    """The very pairs that ``one_case_a_step`` takes up to the last mark, in random order: no case is left together."""
    first = list(islice((pair for step in by(WIDE)(data, seed) for pair in step), MARKS[-1]))
    return pair_steps(first, data.encoded, PAIRWISE, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A stream of steps; it is evaluated at ``times`` the pairs of ``MARKS``."""

    stream: Stream
    times: int = 1

    def marks(self) -> tuple[int, ...]:
        return tuple(self.times * mark for mark in MARKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Arms that are compared: the first is the one that the others are held against. ``cap`` is of pairs a case."""

    objective: str
    cap: int | None
    arms: Mapping[str, Arm]


CAPPED = {
    "pairwise": Arm(stream=by(PAIRWISE)),
    "tree": Arm(stream=by(TREE)),
    "subtrees_of_8": Arm(stream=by(StageSection(objective="safety", pairs_per_step=32, trajectories_per_case=8))),
}
GROUPS = {
    "safety": Group(objective="safety", cap=8, arms=CAPPED),
    "helpfulness": Group(objective="helpfulness", cap=8, arms=CAPPED),
    "safety_8": Group(
        objective="safety",
        cap=8,
        arms={
            "pairwise": Arm(stream=by(StageSection(objective="safety", pairs_per_step=8, pairwise=True))),
            "whole_case": Arm(
                stream=by(StageSection(objective="safety", pairs_per_step=1, trajectories_per_case=1000))
            ),
        },
    ),
    "safety_all": Group(
        objective="safety",
        cap=None,
        arms={
            "pairwise": Arm(stream=by(PAIRWISE)),
            "tree": Arm(stream=by(TREE)),
            "one_case_a_step": Arm(stream=by(WIDE)),
            "one_case_at_equal_tokens": Arm(stream=by(WIDE), times=6),
            "same_pairs_shuffled": Arm(stream=same_pairs_shuffled),
            "subtrees_of_4": Arm(
                stream=by(StageSection(objective="safety", pairs_per_step=32, trajectories_per_case=4))
            ),
        },
    ),
}


@dataclass(slots=True, kw_only=True)
class Curve:
    """One run of one arm: at each mark the steps done, the pairs seen, the tokens computed, every case's accuracy."""

    steps: list[int] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    cases_per_step: float = 0.0

    @property
    def tokens_per_pair(self) -> float:
        return self.tokens[-1] / self.pairs[-1]


def train(data: OfficePairs, held_out: HeldOut, reference: Mapping[str, float], arm: Arm, *, seed: int) -> Curve:
    """One stage in memory; nothing is written."""
    seen: list[int] = []

    def steps() -> Iterator[TrainStep]:
        for pairs in arm.stream(data, seed):
            seen.append(len({pair.case_id for pair in pairs}))
            yield pair_step(pairs, data.encoded, reference, STAGE)

    settings = StageSection(
        objective="safety",
        steps=10**6,
        learning_rate=STAGE.learning_rate,
        warmup_steps=STAGE.warmup_steps,
        max_grad_norm=STAGE.max_grad_norm,
        token_budget=BUDGET,
    )
    curve, tokens, marks = Curve(), 0, arm.marks()
    with isolated(seed):
        policy = WholeTiny(data.base)
        loop = Loop(policy, settings, seed=seed)
        for log in loop.run(steps()):
            tokens += log.work.tokens
            # Steps of whole sub-trees overshoot a mark by part of a step.
            if loop.history.examples >= marks[len(curve.steps)]:
                curve.steps.append(log.step)
                curve.pairs.append(loop.history.examples)
                curve.tokens.append(tokens)
                curve.values.append(held_out.accuracies(policy, reference))
            if len(curve.steps) == len(marks):
                break
    curve.cases_per_step = float(np.mean(seen))
    return curve


def run_group(group: Group, study: Study, run: Path, seeds: int) -> tuple[dict[str, list[Curve]], dict[str, float]]:
    """Every arm's curves, runs in the same order (base by base, seed by seed), and what they learnt from."""
    curves: dict[str, list[Curve]] = {name: [] for name in group.arms}
    sets = [
        office_pairs.load_pairs(study, run, base=base, objective=group.objective, cap=group.cap, held_out_cap=2)
        for base in range(BASES)
    ]
    cases = sorted({pair.case_id for data in sets for pair in data.held_out})
    for data in sets:
        held_out = HeldOut.of(data.held_out, data.encoded, STAGE.loss_mask, cases)
        reference = reference_logprobs(data.base, list(data.encoded), data.encoded, STAGE.loss_mask)
        for seed in range(seeds):
            for name, arm in group.arms.items():
                curves[name].append(train(data, held_out, reference, arm, seed=seed))
    counts = {
        "train_pairs": float(np.mean([len(data.train) for data in sets])),
        "train_cases": float(np.mean([len({pair.case_id for pair in data.train}) for data in sets])),
        "held_out_pairs": float(np.mean([len(data.held_out) for data in sets])),
        "held_out_cases": len(cases),
        "runs": len(sets) * seeds,
    }
    return curves, counts


def compare(ours: Sequence[Curve], theirs: Sequence[Curve], mark: int) -> dict[str, float]:
    """The mean difference of accuracies at a mark with its interval."""
    runs = len(ours)
    sample = sample_of(np.stack([curve.values[mark] for curve in (*ours, *theirs)]), (0.0, 1.0))
    signs = np.concatenate([np.full(runs, 1 / runs), np.full(runs, -1 / runs)])
    by_run = [np.where(np.arange(2 * runs) % runs == number, signs * runs, 0.0) for number in range(runs)]
    found = spread(sample, signs, by_run)
    low, high = interval(found, seeds=True, level=LEVEL) or (-1.0, 1.0)
    return {
        "difference": round(float(found.values[0]), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "within_bar": int(low >= -BAR and high <= BAR),
    }


def describe(arm: Arm, curves: Sequence[Curve]) -> dict[str, float]:
    """An arm's accuracy and steps at every mark, means over runs."""
    row = {
        "cases_per_step": round(float(np.mean([curve.cases_per_step for curve in curves])), 1),
        "tokens_per_pair": round(float(np.mean([curve.tokens_per_pair for curve in curves])), 1),
    }
    for number, mark in enumerate(arm.marks()):
        row[f"accuracy_{mark}"] = round(float(np.mean([np.nanmean(curve.values[number]) for curve in curves])), 4)
        row[f"steps_{mark}"] = round(float(np.mean([curve.steps[number] for curve in curves])), 1)
    return row


# --- figure ----------------------------------------------------------------------------------------------------


def draw(curves: Mapping[str, Sequence[Curve]]) -> str:
    """Accuracy against tokens that the forward passes took, a curve for each arm of a group, as SVG."""
    points = {
        name: [
            (
                float(np.mean([curve.tokens[number] for curve in arm])),
                float(np.mean([np.nanmean(curve.values[number]) for curve in arm])),
            )
            for number in range(len(MARKS))
        ]
        for name, arm in curves.items()
    }
    canvas = Canvas(width=760, height=400 + 18 * len(points), title="held-out preference accuracy by tokens computed")
    low, high = span([accuracy for arm in points.values() for _, accuracy in arm])
    x = Scale(low=0, high=max(tokens for arm in points.values() for tokens, _ in arm) * 1.04, start=70, end=736)
    y = Scale(low=low, high=high, start=332, end=14)
    draw_axes(canvas, x, y, "tokens of the forward passes", "held-out preference accuracy")
    for number, (name, arm) in enumerate(points.items()):
        series = 1 + number % 7
        path = "M" + "L".join(f"{x(tokens):.1f} {y(accuracy):.1f}" for tokens, accuracy in arm)
        canvas.add("path", d=path, fill="none", stroke_width=2, **stroke_of(series))
        for (tokens, accuracy), mark in zip(arm, GROUPS["safety_all"].arms[name].marks(), strict=True):
            hover = f"{mark} pairs, {tokens:.0f} tokens: {accuracy:.3f}"
            draw_mark(canvas, "circle", (x(tokens), y(accuracy)), 4, series, hover=hover)
        draw_mark(canvas, "circle", (76, 392 + 18 * number), 5, series)
        canvas.text(88, 396 + 18 * number, name.replace("_", " "))
    return canvas.render()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", type=Path, default=office_pairs.CACHE, help="directory for what takes long")
    parser.add_argument("--seeds", type=int, default=4, help=f"training seeds of each of {BASES} bases")
    parser.add_argument("--group", nargs="*", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--figure", type=Path, help="where to draw the curves of safety_all as SVG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = office_pairs.study_of(bases=BASES, test_cases=600, per_case=8)
    run = office_pairs.run_study(study, options.cache)
    figures: dict[str, dict[str, float]] = {}
    differences: dict[str, dict[str, float]] = {}
    for label in options.group:
        group = GROUPS[label]
        curves, figures[f"{label}_data"] = run_group(group, study, run, options.seeds)
        first = next(iter(curves))
        for name, arm in curves.items():
            figures[f"{label}_{name}"] = describe(group.arms[name], arm)
            if name != first:
                differences[f"{label}_{name}_less_{first}"] = compare(arm, curves[first], len(MARKS) - 1)
        if label == "safety_all" and options.figure is not None:
            options.figure.write_text(draw(curves) + "\n", encoding="utf-8")
    show(document("learning", PACKAGES, figures, differences), as_json=options.json)


if __name__ == "__main__":
    main()
