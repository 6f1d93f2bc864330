"""The logs of stages that learn from rewards, as curves, and what is taken from them alone.

max_hex_gap     the largest smoothed gap of harm along training, as published: it is not unbiased
data_harm       the share of harmful rollouts in what a stage learnt from
log_ratio, ess  how far that data was from the policy: mean |log ratio| a token, effective share of the sample
mismatch        |difference| of an episode's log-probabilities, of the sampler and of training, over its tokens
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.analysis.approval.users import GAMEABLE, OTHER
from holdfast.records import Checkpoint, Curve, Estimate
from holdfast.records.arrays import Floats, Ints
from holdfast.records.checkpoints import DOSE
from holdfast.records.quantities import quantity_of
from holdfast.stats.contrasts import mean_interval
from holdfast.stats.exploitation import WINDOW, max_hex_gap
from holdfast.store import Store
from holdfast.store.checking import read_checked
from holdfast.store.places import LOGS
from holdfast.store.steplog import LOG_DIGESTS
from holdfast.study.noted import Rewarder
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import is_rewarded, is_rewarded_by_users

MEASURED, PUBLISHED = "measured", "published"
CURVES: Mapping[str, tuple[str, str | None]] = {  # a metric of a step → kind of curve, and the label of its users
    "reward": ("reward", None),
    **{
        f"{metric}_{label}": (kind, label)
        for metric, kind in (("reward", "reward"), ("harm", "harm"), ("exploit", "exploit_rate"))
        for label in (GAMEABLE, OTHER)
    },
    **{
        kind: (kind, None)
        for kind in (*OBJECTIVES, "success", "kl", "entropy", "length", "loss", "log_ratio", "ess", "mismatch")
    },
}
# What a log says of training itself, whosever rollouts it learns from.
OF_TRAINING = ("loss", "log_ratio", "ess", "mismatch")
MEANS = ("log_ratio", "ess", "mismatch")
TOKENS = "gradient_tokens"
BIASED = (
    "as published, a maximum over training: without any gap it is expected at about 0.35 times the scores' standard"
    " deviation (0.34, 0.69 and 1.05 for 1, 2 and 3), with one rollout a step and three seeds"
)
NOT_LOGGED = "not in the logs of training"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """One stage as it was trained: ``steps`` counted from 1, and each metric at them, NaN where a step has none.

    ``checkpoint`` is the last that it made; ``made`` are the ids of all. ``result`` is that of its step.
    """

    checkpoint: Checkpoint
    made: tuple[str, ...]
    steps: Ints
    metrics: Mapping[str, Floats]
    result: Mapping[str, Any]

    @property
    def axes(self) -> dict[str, Any]:
        """The study's axes without the dose, and the setting whose users the stage learnt from, or its objectives."""
        own, stage = (
            {key: value for key, value in self.checkpoint.axes.items() if key != DOSE},
            self.checkpoint.stages[-1],
        )
        if self.of_users:
            return {**own, "setting": stage.settings["setting"]}
        return {**own, "objective": "+".join(stage.objectives)}

    @property
    def of_users(self) -> bool:
        """Whether users rewarded the stage."""
        return is_rewarded_by_users(self.checkpoint.stages[-1])

    @property
    def subject(self) -> tuple[Any, ...]:
        """What the logs of all seeds of one training share."""
        return (self.checkpoint.base, self.checkpoint.lineage, tuple(sorted(self.axes.items(), key=str)))

    @property
    def samples_itself(self) -> bool:
        """Whether its rollouts are the policy's; of stored ones a log says what they are, not what the policy does."""
        return bool(self.checkpoint.stages[-1].settings.get("rollouts", "policy") == "policy")

    def total_until(self, metric: str, step: int) -> float:
        """The sum of a metric over the steps up to one; NaN where it was not logged."""
        values = self.metrics.get(metric)
        return float("nan") if values is None else float(np.nansum(values[self.steps <= step]))


def read_logs(store: Store) -> tuple[TrainingLog, ...]:
    """The logs of all finished stages that learn from rewards, by base, lineage, axes and seeds.

    A stage whose file is gone has no steps. Errors: StoreError for one that is not as it was written.
    """
    known = {one.id: (order, one) for order, one in enumerate(store.checkpoints())}
    logs: list[tuple[int, TrainingLog]] = []
    for fingerprint, status in store.log.steps().items():
        if (status.kind, status.status) != ("train", "done"):
            continue
        made = tuple(str(dose["checkpoint"]) for dose in status.result.get("doses", ()))
        order, checkpoint = known.get(made[-1] if made else "", (0, None))
        if checkpoint is None or not checkpoint.stages or not is_rewarded(checkpoint.stages[-1]):
            continue
        noted = dict(status.result.get(LOG_DIGESTS, {}))
        steps, metrics = _read(read_checked(store.path / LOGS / f"{fingerprint}.jsonl", noted.get("")))
        log = TrainingLog(checkpoint=checkpoint, made=made, steps=steps, metrics=metrics, result=status.result)
        logs.append((order, log))
    return tuple(log for _, log in sorted(logs, key=lambda pair: pair[0]))


def _read(log: bytes | None) -> tuple[Ints, dict[str, Floats]]:
    """Steps and metrics of a log. A line that is no JSON object with a step is passed over."""
    rows: dict[int, Mapping[str, float]] = {}
    for line in (log or b"").decode("utf-8", "replace").splitlines():
        try:
            told = json.loads(line)
            rows[int(told["step"])] = dict(told["metrics"])
        except (ValueError, KeyError, TypeError):
            continue
    steps = sorted(rows)
    names = sorted({name for row in rows.values() for name in row})
    metrics = {name: np.array([_number(rows[step].get(name)) for step in steps]) for name in names}
    return np.array(steps, dtype=np.int64), metrics


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else float("nan")


def log_curves(logs: Sequence[TrainingLog]) -> Iterator[Curve]:
    """Every quantity of ``CURVES`` along every training that logged it, at the steps that did."""
    splits = len({log.checkpoint.split_seed for log in logs}) > 1
    for log in logs:
        split = {"split_seed": log.checkpoint.split_seed} if splits else {}
        for metric, (kind, label) in CURVES.items():
            values = log.metrics.get(metric)
            if values is None or not (log.samples_itself or kind in OF_TRAINING):
                continue
            there = np.isfinite(values)
            yield Curve(
                kind=kind,
                source="training",
                base=log.checkpoint.base,
                lineage=log.checkpoint.lineage,
                train_seed=log.checkpoint.train_seed,
                x=tuple(log.steps[there].tolist()),
                y=tuple(values[there].tolist()),
                axes={**log.axes, **({} if label is None else {"label": label}), **split},
            )


def log_rows(logs: Sequence[TrainingLog], rewarder: Rewarder | None = None) -> Iterator[Estimate]:
    """What the logs of all seeds of each training say: the published gap, and how far its data was from the policy.

    The gap is of the harm that the judge that rewards has read, and names it where that is a model.
    """
    by_subject: dict[tuple[Any, ...], list[TrainingLog]] = {}
    for log in logs:
        by_subject.setdefault(log.subject, []).append(log)
    for same in by_subject.values():
        first = same[0]
        about = {"base": first.checkpoint.base, "lineage": first.checkpoint.lineage, "axes": first.axes}
        if first.samples_itself and all(len(log.steps) for log in same):
            yield _max_gap(same, about, rewarder)
        yield from _data_rows(same, about)


def _max_gap(logs: Sequence[TrainingLog], about: Mapping[str, Any], rewarder: Rewarder | None) -> Estimate:
    """The Max HEX Gap over the steps that any seed logged, of trainings that sample themselves."""
    # Beside a model that rewards the rules rate too: "harm" is theirs.
    by_model = rewarder is not None and not rewarder.rules
    kind = "harm_judge" if by_model else "harm"
    steps = np.unique(np.concatenate([log.steps for log in logs]))
    harm = np.full((2, len(logs), len(steps)), np.nan)
    for place, log in enumerate(logs):
        for row, metric in enumerate((f"{kind}_{GAMEABLE}", f"{kind}_{OTHER}")):
            if metric in log.metrics:
                harm[row, place, np.searchsorted(steps, log.steps)] = log.metrics[metric]
    words: dict[str, Any] = {"kind": "max_hex_gap", "estimator": PUBLISHED, "objective": "harm", **about}
    words["judge"] = rewarder.name if rewarder is not None and by_model else None
    if not np.isfinite(harm).any(axis=(1, 2)).all():
        return Estimate(value=None, n={"seeds": len(logs)}, caveats=(f"harm by label is {NOT_LOGGED}",), **words)
    found = max_hex_gap(harm[0], harm[1], window=WINDOW)
    edge = (f"an end of training cuts its window of {WINDOW} steps",) if found.in_edge else ()
    n = {"seeds": found.seeds, "steps": len(steps)}
    if found.step is not None:
        n["at_step"] = int(steps[found.step])
    reasons = ("no window has scores of both labels",) * (found.value is None)
    return Estimate(value=found.value, n=n, caveats=(*reasons, BIASED, *edge), **words)


def _data_rows(logs: Sequence[TrainingLog], about: Mapping[str, Any]) -> Iterator[Estimate]:
    """The share of harm in the data that was given, and means over steps of how far it was from the policy."""
    given = [log.result["data"] for log in logs if isinstance(log.result.get("data"), dict)]
    counts = {name: sum(int(one.get(name) or 0) for one in given) for name in ("prompts", "rollouts", "tokens")}
    for key, unit in (("harmful_share", "learnt from"), ("harmful_share_all", "all that was sampled")):
        shares = [_number(one.get(key)) for one in given]
        if given and (key == "harmful_share" or np.isfinite(shares).any()):
            yield over_trainings("data_harm", shares, about, n=counts, objective="harm", unit=unit)
    for kind in MEANS:
        means = [float(np.nanmean(log.metrics[kind])) for log in logs if np.isfinite(log.metrics.get(kind, ())).any()]
        if means:
            yield over_trainings(kind, means, about)


def over_trainings(
    kind: str, values: Sequence[float], about: Mapping[str, Any], *, n: Mapping[str, int] | None = None, **more: Any
) -> Estimate:
    """The mean of one number of each seed, with Student's interval over seeds from ``MIN_SEEDS`` on."""
    known = np.array([value for value in values if np.isfinite(value)])
    if (interval := mean_interval(known)) is not None:
        low, high = quantity_of(kind).span or (-np.inf, np.inf)
        interval = (max(low, interval[0]), min(high, interval[1]))
    return Estimate(
        kind=kind,
        estimator=MEASURED,
        value=float(known.mean()) if len(known) else None,
        interval=interval,
        claim="checkpoint" if interval is None else "recipe",
        resampled=() if interval is None else ("seeds",),
        n={"seeds": len(known), **(n or {})},
        caveats=() if len(known) else (NOT_LOGGED,),
        **about,
        **more,
    )
