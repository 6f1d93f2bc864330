"""One loop for every objective: steps in, weights changed, each step logged, every stop survivable.

AdamW; gradients clipped by their norm; a step that does not fit into memory is done again in smaller pieces of the same
step. The loop's whole state (weights, moments, position, random numbers, history) can be saved and taken up again
bit by bit. On CPUs, where one thread computes, equal seeds give equal weights; accelerators may add in any order.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from holdfast.models.tiny.llama import one_thread
from holdfast.records.errors import StepError, StoreError, StudyError
from holdfast.records.outputs import write_file
from holdfast.records.processes import keep_memory
from holdfast.study.stages import TrainingSection
from holdfast.training.loop.passes import Work, check_budget, descend, descend_together
from holdfast.training.policy.adapters import Policy
from holdfast.training.ranks import any_of, find_ranks, gather_whole, spread_like
from holdfast.training.states import STATE, UnusableState, random_states, read_state, set_random_states, write_state
from holdfast.training.trees.parts import Part, TrainStep

# Tokens of a tree in memory at once where nobody says: the longest published trajectory has 20,000.
TOKEN_BUDGET = 32_768
LOG = "train.jsonl"  # in a loop's folder, a line for each step
# How often a loop with a folder saves its state; saving changes no result.
SAVE_SECONDS = 300.0


def rate_at(settings: TrainingSection, step: int) -> float:
    """The learning rate of a step, counted from 0.

    It rises linearly over the warm-up, then stays ("constant") or falls to zero at the last step ("linear", "cosine").
    """
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = (settings.steps - step) / max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "linear":
        return settings.learning_rate * min(warm, left)
    if settings.schedule == "cosine" and left < 1:
        return settings.learning_rate * warm * 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate * warm


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """What one step did, from before its update: ``metrics`` hold the loss and what the objective reports."""

    step: int
    examples: int
    metrics: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    token_budget: int
    work: Work
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A kept position: steps, examples and scored tokens up to it, and what was ``found`` there."""

    position: int
    examples: int
    scored: int
    found: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class History:
    """What a loop has done so far; saved with it."""

    position: int = 0
    token_budget: int = 0
    examples: int = 0
    scored: int = 0
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    # What a balance measured, in the order of steps.
    readings: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """A policy under training.

    With ``folder``, every step is a line of ``folder/train.jsonl``, and the state is kept in ``folder/state`` now and
    then and when the loss stops being finite; only a loop of the same seed and ``identity`` takes it up. ``tracker``
    (the name of one of accelerate's) gets each step's numbers too. Among processes that train together only the first
    writes.
    """

    def __init__(
        self,
        policy: Policy,
        settings: TrainingSection,
        *,
        seed: int,
        identity: str = "",
        folder: Path | None = None,
        tracker: str | None = None,
    ) -> None:
        self.policy, self.settings, self.seed, self._identity = policy, settings, seed, identity
        self._folder = folder
        self._ranks = find_ranks()
        self.leads = self._ranks is None or self._ranks.rank == 0
        self._weights = policy.trainable()
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=rate_at(settings, 0), weight_decay=settings.weight_decay, fused=self._ranks is None
        )
        self.history = History(token_budget=settings.token_budget)
        self._saved = time.monotonic()
        self._random = random_states()  # before the step that is under way
        self._tracker = None
        if tracker is not None and self.leads:
            self._tracker = open_tracker(tracker, folder or Path.cwd(), {**settings.model_dump(), "seed": seed})
        if folder is not None:
            if (state := read_state(folder)) is not None:
                self._adopt(*state)
            if self.leads:
                folder.mkdir(parents=True, exist_ok=True)
                cut_log(folder / LOG, self.history.position)

    def run(self, steps: Iterable[TrainStep]) -> Iterator[StepLog]:
        """Does the steps from the loop's position on; ``steps`` is the whole stream from its beginning.

        Errors: StepError for a loss or gradient that is not finite, before it changes a weight, or for a step that does
        not fit into memory in any pieces.
        """
        self.policy.set_training(True)
        try:
            for step in islice(steps, self.history.position, self.settings.steps):
                log = self._take(step)
                self._note(log)
                yield log
                # Only now has the caller kept what it keeps of this step.
                due = time.monotonic() - self._saved >= SAVE_SECONDS
                if self._folder is not None and (due if self._ranks is None else any_of(due, self._ranks)):
                    self.save_state()
        finally:
            if self._tracker is not None:
                self._tracker.finish()

    def _take(self, step: TrainStep) -> StepLog:
        started = time.process_time()
        rate = rate_at(self.settings, self.history.position)
        self._optimizer.param_groups[0]["lr"] = rate
        if self._ranks is not None:
            # Each process draws its own dropout, and a resumed one the same.
            torch.manual_seed((self.seed + self.history.position) * self._ranks.world + self._ranks.rank)
        self._random = random_states()
        metrics, work = self._gradients(step)
        norm = float(gather_whole(torch.nn.utils.clip_grad_norm_(self._weights, self.settings.max_grad_norm)))
        if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
            self._stop(metrics["loss"], norm)
        # A step without parts has no gradient at all, and momentum is no reason to move.
        if any(weight.grad is not None for weight in self._weights):
            self._optimizer.step()
        seconds = time.process_time() - started
        history = self.history
        history.position += 1
        history.examples += step.examples
        history.scored += work.scored
        history.losses.append(metrics["loss"])
        if "accuracy" in metrics:
            history.accuracies.append(metrics["accuracy"])
        return StepLog(
            step=history.position,
            examples=step.examples,
            metrics=metrics,
            gradient_norm=norm,
            learning_rate=rate,
            token_budget=history.token_budget,
            work=work,
            cpu_seconds=seconds,
        )

    def _gradients(self, step: TrainStep) -> tuple[dict[str, float], Work]:
        """The whole step's gradients, in as many pieces as memory asks for."""
        while True:
            self._optimizer.zero_grad()
            parts = step.parts(self.history.token_budget)
            for part in parts:
                check_budget(part.sequences, self.settings.token_budget)
            budget, ranks = self.history.token_budget, self._ranks
            try:
                if ranks is None:
                    descents = [descend(self.policy, part, budget) for part in parts]
                else:
                    descents = [descend_together(self.policy, parts, budget, ranks)]
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(parts, error)
                set_random_states(self._random)
            else:
                metrics = {"loss": 0.0}  # of a step without parts too
                for descent in descents:
                    for name, value in {"loss": descent.loss, **descent.metrics}.items():
                        metrics[name] = metrics.get(name, 0.0) + value
                return {**metrics, **step.facts}, sum((descent.work for descent in descents), Work())

    def _halve(self, parts: Sequence[Part], error: BaseException) -> None:
        budget, ranks = self.history.token_budget, self._ranks
        longest = max(len(item.ids) for part in parts for item in part.sequences)
        what = f"training, step {self.history.position + 1}: out of memory with {budget} tokens at once"
        if ranks is not None:
            # The other processes cannot know that this one has no memory left.
            raise StepError(f"{what} on one of {ranks.world} devices; set a token_budget below") from error
        if budget // 2 < longest:
            remedy = "use recompute, bf16 or a larger device"
            raise StepError(f"{what}, and a sequence of {longest} cannot be cut; {remedy}") from error
        self.history.token_budget = budget // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _stop(self, loss: float, norm: float) -> None:
        where, done = "", self.history.position
        set_random_states(self._random)
        if self._folder is not None:
            self.save_state()
            where = f"; the weights after step {done} are in {self._folder / STATE}"
        raise StepError(f"training, step {done + 1}: loss {loss}, gradient norm {norm}; lower learning_rate{where}")

    def _note(self, log: StepLog) -> None:
        if self._tracker is not None:
            numbers = {"gradient_norm": log.gradient_norm, "learning_rate": log.learning_rate, **log.metrics}
            self._tracker.log(numbers, step=log.step)
        if self._folder is None or not self.leads:
            return
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(log), "seed": self.seed}) + "\n")

    def keep(self, found: Mapping[str, float]) -> None:
        """Marks the position as kept. What is kept survives: a loop with a folder saves its state now."""
        done = self.history
        done.marks.append(Mark(done.position, done.examples, done.scored, dict(found)))
        if self._folder is not None:
            self.save_state()

    def save_state(self) -> None:
        """Writes all that the loop needs to go on exactly here; a crash leaves the last whole state."""
        if self._folder is None:
            raise StoreError("this loop has no folder to save its state in; open it with one")
        tensors: dict[str, torch.Tensor] = {}
        for number, weight in enumerate(self._weights):
            for name, value in {"weight": weight.detach(), **self._optimizer.state[weight]}.items():
                whole = gather_whole(value)
                # One tensor at a time is whole on a device.
                if self.leads:
                    tensors[f"{name}.{number}"] = whole.cpu()
        if self.leads:
            facts = {"history": asdict(self.history), "seed": self.seed, "identity": self._identity}
            write_state(self._folder, facts, tensors | random_states())
        self._saved = time.monotonic()

    @torch.no_grad()
    def _adopt(self, folder: Path, facts: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Takes up the state in a folder. Errors: UnusableState for another loop's."""
        try:
            if facts["seed"] != self.seed:
                raise ValueError(f"it is of seed {facts['seed']}, not {self.seed}")
            if facts["identity"] != self._identity:
                raise ValueError("it is of a stage with other settings or data")
            history = facts["history"]
            self.history = History(**{**history, "marks": [Mark(**mark) for mark in history["marks"]]})
            moments: dict[int, dict[str, torch.Tensor]] = {}
            states = {name: tensors.pop(name) for name in list(tensors) if name.startswith("random.")}
            for name, tensor in tensors.items():
                kind, _, number = name.rpartition(".")
                weight = self._weights[int(number)]
                if kind == "weight":
                    weight.copy_(spread_like(tensor, weight))
                else:
                    # The count of steps is one number, which is never sharded.
                    moments.setdefault(int(number), {})[kind] = spread_like(tensor, weight) if tensor.dim() else tensor
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
            set_random_states(states)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise UnusableState(folder, error) from error


def cut_log(path: Path, position: int) -> None:
    """Takes lines of later steps out of a log: a crash took them back, or cut the last one off in its middle."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with suppress(ValueError, KeyError):
            if line.endswith("\n") and json.loads(line)["step"] <= position:
                kept.append(line)
    write_file(path, "".join(kept))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out, on a device or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """One thread, and a seeded global generator (an adapter's first weights and dropout use it), both put back."""
    keep_memory()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with one_thread(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def open_tracker(name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """accelerate's tracker of a name, started with a configuration; it has ``log(values, step=…)`` and ``finish()``.

    Trackers that write files write them under ``folder``. Errors: StudyError for a name that accelerate does not know
    or whose package is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise StudyError(f"tracker {name!r} is not among those that accelerate knows: {', '.join(known)}")
    if name not in map(str, get_available_trackers()):
        raise StudyError(f"tracker {name!r}: its package is not installed; pip install {name.replace('_', '-')}")
    folder.mkdir(parents=True, exist_ok=True)
    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = kind("holdfast", logging_dir=folder) if kind.requires_logging_directory else kind("holdfast")
    tracker.start()
    tracker.store_init_configuration(dict(config))
    return tracker
