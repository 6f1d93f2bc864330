"""CPU seconds of steps: expected from what they compute, corrected by what a run has measured, and as time on a clock.

work ─ speed of this processor ─▶ expected ─ measured steps of the run ─▶ corrected ─ workers, inputs ─▶ time left
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.models.directories.libraries import first_line
from holdfast.models.directories.shape import Shape
from holdfast.models.entries import ModelEntry
from holdfast.models.hub.counting import Outline, outline
from holdfast.models.local.speed import Speed, find_speed, has_accelerator
from holdfast.runs.costs.work import Work, Workload
from holdfast.runs.plan.settings import AnalyzeSettings, ReferenceSettings, RolloutSettings, StageSettings
from holdfast.runs.plan.step import Plan, Step
from holdfast.store.steplog import StepStatus
from holdfast.study.kinds import METHODS

# CPU seconds per unit of a tiny model's work, from benchmarks/results/quick_study.json; a run's own finished
# steps correct them as soon as there are any.
TINY_CPU_SECONDS: Mapping[str, float] = {
    "sft": 0.0018,
    "rollout": 0.0011,
    "rollout_test": 0.0015,  # with how far conduct moved
    "judge": 0.0001,
    "pair": 0.00002,
    "reference": 0.0003,
    "analyze": 0.00017,
}
# Those are of 0.35 million weights; three times as many take about twice as long, on a processor.
_USUAL_WEIGHTS, _SIZE_EXPONENT = 0.35, 0.6

# What whole steps of real models take over what their layers alone take, with other work beside them: fitted once
# (benchmarks/forecast.py). A pass of sampling is a short one, and an adapter has products of its own.
_OVER: Mapping[str, float] = {"read": 1.3, "step": 1.3, "row": 1.3, "scored": 1.1, "trained": 1.1, "adapted": 1.3}
# CPU seconds of a weight that is opened and checked, saved, updated, dequantised; of libraries that are loaded.
_PER_WEIGHT: Mapping[str, float] = {"load": 1.2e-8, "save": 1.1e-8, "update": 0.1e-8, "unpack": 1.5e-7}
_START_SECONDS = 4.0
# The share of scored tokens, whose logits are computed.
_WITH_LOGITS = 0.4
# The contexts in which ``models/local/speed`` times a layer: that of sampling, and the mean of a sequence.
_SAMPLING_CONTEXT, _READING_CONTEXT = 512, 256
# Models that are computed in this process.
_HERE, _NETWORKS = ("local", "random"), ("local", "random", "vllm")
# A measured step weighs against what was expected as so much of a usual step of its kind.
_DOUBT = 0.5


def count_seconds(work: Work, shape: Shape, speeds: Mapping[str, Speed]) -> float:
    """CPU seconds of some work; ``speeds`` by precision, that of sampling under ""."""
    total = 0.0
    logits = shape.head_weights / shape.layer_weights  # as layers
    attention = 2 * shape.heads * shape.head_size / shape.layer_weights  # of a token before, in layers
    for (sort, precision), amount in work.amounts.items():
        if sort == "start":
            total += amount * _START_SECONDS
        elif sort in _PER_WEIGHT:
            total += amount * _PER_WEIGHT[sort] * shape.stored_weights
        else:
            sampled = sort in ("step", "row")
            layers = shape.layers + logits * (1 if sampled else 0 if sort == "read" else _WITH_LOGITS)
            usual = _SAMPLING_CONTEXT if sampled else _READING_CONTEXT
            longer = 1.0 if sort == "step" else (1 + attention * work.context) / (1 + attention * usual)
            unit = getattr(speeds[precision], "read" if sort == "scored" else sort)
            total += amount * unit * layers * longer * _OVER[sort]
            if sort == "row":
                total += amount * speeds[precision].draw
    return total


class Expected:
    """What each step of a plan is expected to take, before anything of the run is measured.

    ``units`` are CPU seconds by step where those of all are ``known``, else the steps' own units of unknown paces.
    Without ``measure`` they are good for shares of the whole alone: a processor that nobody has timed is taken for a
    usual one, and what cannot be told for a tiny model's work.
    """

    def __init__(self, plan: Plan, *, measure: bool = True) -> None:
        study, accelerated = plan.study, has_accelerator()
        self._measure = measure
        self._entries = {base: study.entry(base) for base in study.model.bases}
        self.untold: dict[str, str] = {}  # why nothing is expected of a base's steps
        self._outlines: dict[str, Outline] = {}
        for base, entry in self._entries.items():
            if entry.kind in (_HERE if measure else _NETWORKS) and not (measure and accelerated):
                if (outlined := outline(entry)) is None:
                    self.untold[base] = "its settings are not at hand, or do not tell its shape"
                else:
                    self._outlines[base] = outlined
        self.work = Workload(plan, self._outlines)
        found = {step.fingerprint: self._expect(step) for step in plan.steps}
        self.units = {name: one for name, one in found.items() if one is not None}
        self.known = len(self.units) == len(found)
        if not self.known:
            # A sum of some alone would be taken for the whole.
            self.units = {step.fingerprint: step.size for step in plan.steps}
        self.keys: dict[str, tuple[str, ...]] = {}
        for step in plan.steps:
            base = self.work.base_of(step)
            part = step.settings.part if isinstance(step.settings, RolloutSettings) else ""
            # Of an accelerator nothing is known but what is measured, of any kind of step.
            device = ("accelerated",) if accelerated and base in self._outlines else ()
            self.keys[step.fingerprint] = (*device, step.settings.work, base, part)

    def _expect(self, step: Step) -> float | None:
        base, settings = self.work.base_of(step), step.settings
        entry = self._entries.get(base)
        heavy = isinstance(settings, RolloutSettings | ReferenceSettings) or settings.kind == "train"
        asked = any(
            who != "agent" and one.entry.kind in _NETWORKS for who, one in settings.speakers().items()
        )  # of which a suite tells nothing
        if entry is not None and entry.kind in _NETWORKS and heavy:
            found = None if asked else self._expect_real(step, base, entry)
            if found is None and base in self._outlines:
                self.untold.setdefault(base, f"what {step.name} computes is not known yet")
        elif asked:
            found = None
        else:
            held_out = isinstance(settings, RolloutSettings) and settings.part == "test"
            pace = TINY_CPU_SECONDS.get("rollout_test" if held_out else settings.work, 0.0)
            if isinstance(settings, StageSettings):
                pace = METHODS.find(settings.method).cpu_seconds
            found = pace * step.size * (1.0 if isinstance(settings, AnalyzeSettings) else self._tiny_share(base))
        if found is None and not self._measure:
            return TINY_CPU_SECONDS.get(settings.work, 0.05) * step.size
        return found

    def _tiny_share(self, base: str) -> float:
        """What a larger or smaller tiny model takes against the usual one."""
        size = self._entries[base].size if base else None
        return 1.0 if size is None else (float(size.removesuffix("M")) / _USUAL_WEIGHTS) ** _SIZE_EXPONENT

    def _expect_real(self, step: Step, base: str, entry: ModelEntry) -> float | None:
        try:
            return self._count_real(step, base, entry)
        except Exception as error:  # of a suite of the user's, a tokenizer, a shape: no forecast stops what it is of
            self.untold[base] = f"{step.name}: {first_line(error)}"
            return None

    def _count_real(self, step: Step, base: str, entry: ModelEntry) -> float | None:
        work = self.work.of(step)
        if work is None:
            return None
        shape = self._outlines[base].shape
        speeds: dict[str, Speed] = {}
        for sort, precision in work.amounts:
            if sort in _OVER and precision not in speeds:
                found = find_speed(shape, precision or entry.precision, sampling=not precision, measure=self._measure)
                if found is None:
                    self.untold[base] = "torch is not installed"
                    return None
                speeds[precision] = found
        return count_seconds(work, shape, speeds)

    def correct(self, measured: Mapping[str, float]) -> dict[str, float]:
        """CPU seconds of every step, given those of some: what is expected, times what steps of its kind took over it.

        Steps of the same work count, above all those of the same base and part: the median of their ratios, in which
        each has the weight of its expected seconds, and what was expected that of half a usual step.
        Of work that nothing is expected of the mean pace of finished steps is taken, 0 before there are any.
        """
        factors = _Factors(self, measured)
        return {name: unit * factors.of(name) for name, unit in self.units.items()}


class _Factors:
    """By what units are multiplied, from the finished steps of a run."""

    def __init__(self, expected: Expected, measured: Mapping[str, float]) -> None:
        self._units, self._keys, self._known = expected.units, expected.keys, expected.known
        self._measured = measured
        self._found: dict[tuple[str, ...], float] = {(): 1.0 if expected.known else 0.0}
        self._members: dict[tuple[str, ...], list[str]] = {}
        for name, key in expected.keys.items():
            for length in range(1, len(key) + 1):
                self._members.setdefault(key[:length], []).append(name)

    def of(self, name: str) -> float:
        """The factor of a step."""
        return self._find(self._keys[name])

    def _find(self, key: tuple[str, ...]) -> float:
        if key not in self._found:
            members, above = self._members[key], self._find(key[:-1])
            done = [(self._measured[one], self._units[one]) for one in members if one in self._measured]
            done = [(spent, unit) for spent, unit in done if unit]
            if not self._known:  # without an expectation there is nothing to weigh against
                self._found[key] = sum(spent for spent, _ in done) / sum(unit for _, unit in done) if done else above
            else:
                usual = sum(self._units[one] for one in members) / len(members)
                ratios = [(spent / unit, unit) for spent, unit in done]
                self._found[key] = _middle([*ratios, (above, _DOUBT * usual)])
        return self._found[key]


def _middle(values: Sequence[tuple[float, float]]) -> float:
    """The median of values with weights: one step that the machine held up does not swing what is told of others."""
    ordered, half, below = sorted(values), sum(weight for _, weight in values) / 2, 0.0
    for value, weight in ordered:
        below += weight
        if below >= half:
            return value
    return ordered[-1][0]


def measured_seconds(known: Mapping[str, StepStatus]) -> dict[str, float]:
    """CPU seconds of a run's finished steps; those of a base from the cache say nothing of what its work costs."""
    return {
        name: float(one.result["cpu_seconds"])
        for name, one in known.items()
        if one.status == "done" and "cpu_seconds" in one.result and not one.result.get("cached")
    }
