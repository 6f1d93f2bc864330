"""TRL's DPOTrainer and a plain loop on given token sequences: CPU seconds a pair, for comparisons with our trainer.

    python benchmarks/trl_peer.py [--json] [--data DIRECTORY] [--cache DIRECTORY] [--micro-batch N] [--steps N]

TRL is given texts, which its own preparation turns into exactly our tokens; that is checked. Nothing of what it
computes is changed: the trainer is subclassed only to read clocks and count tokens. Every figure is CPU time of
this process on one thread, fp32, attention by ``sdpa``, no truncation, no dropout, no gradient checkpointing.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import published_pairs
import torch
from machine import cpu_seconds, document, show
from trl_settings import ON_A_PROCESSOR

from holdfast.records import PreferencePair
from holdfast.records.errors import StepError
from holdfast.training.encoding import Encoded

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")
PAIRS_PER_STEP = 8
HEAD_FILE = "chunked_logprob.py"  # TRL's LM head: log-probabilities, entropy, mean logit and rank in tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """CPU seconds of a run; ``tokens`` and ``padded_tokens`` count what the measured steps' forward passes took.

    ``losses`` has one entry a step, the warm-up included; ``peak_mb`` is the process's peak so far.
    """

    pairs: int
    warmup_s: float
    train_s_per_pair: float
    reference_s_per_pair: float
    tokens: int
    padded_tokens: int
    losses: tuple[float, ...]
    peak_mb: float


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)


def padded_tokens(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], micro_batch: int, *, by_length: bool
) -> int:
    """Tokens with padding of an epoch in which ``micro_batch`` pairs are padded to the longest of their sides."""
    lengths = np.array([max(len(encoded[pair.chosen].ids), len(encoded[pair.rejected].ids)) for pair in pairs])
    order = np.argsort(lengths) if by_length else np.random.default_rng(0).permutation(len(lengths))
    batches = np.split(lengths[order], np.arange(micro_batch, len(lengths), micro_batch))
    return sum(2 * len(batch) * int(batch.max()) for batch in batches)


# --- TRL -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Clock:
    """What the trainer's hooks read: the time after every step, losses, and tokens by batch without and with padding.

    ``now`` gives seconds. ``watch`` is called after every step with its number and the model; that time does not count.
    """

    now: Callable[[], float] = cpu_seconds
    watch: Callable[[int, Any], None] | None = None
    watched_s: float = 0.0
    started: float = 0.0
    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    reference_s: float = 0.0


def timed_trainer(clock: Clock) -> type[Any]:
    """TRL's trainer with clocks around its reference pass and its steps."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOTrainer

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.started = clock.now()

        def on_step_end(self, _: Any, state: Any, *__: Any, model: Any, **___: Any) -> None:
            now = clock.now()
            clock.ends.append(now - clock.watched_s)
            if clock.watch is not None:
                clock.watch(state.global_step, model)
                clock.watched_s += clock.now() - now

        def on_log(self, *_: Any, logs: Mapping[str, float], **__: Any) -> None:
            if "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    class Timed(DPOTrainer):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, callbacks=[Steps()], **options)
            self.remove_callback(PrinterCallback)

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            started = clock.now()
            found = super()._precompute_ref_logps(*arguments)
            clock.reference_s = clock.now() - started
            return found

        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            mask = inputs["attention_mask"]
            # Left on its device: reading it would wait for all that came before.
            clock.tokens.append((mask.sum(), mask.numel()))
            return super().compute_loss(model, inputs, *arguments, **options)

    return Timed


class TRLPeer:
    """TRL's DPOTrainer with precomputed references on ``pairs`` in their order; making it runs the reference pass.

    ``reference_dir`` is another model as the reference (default: the model itself before training). The loss counts
    every token after the prompt. ``by_length`` groups pairs of like length (the order is then TRL's). ``watch`` is the
    clock's.
    Errors: StepError where TRL's tokens are not those of ``encoded``.
    """

    def __init__(
        self,
        model_dir: Path,
        pairs: Sequence[PreferencePair],
        encoded: Mapping[str, Encoded],
        tokenizer: Any,
        *,
        pairs_per_step: int = PAIRS_PER_STEP,
        micro_batch: int = 1,
        steps: int = 1,
        warmup: int = 1,
        reference_dir: Path | None = None,
        beta: float = 0.1,
        learning_rate: float = 1e-5,
        by_length: bool = False,
        watch: Callable[[int, Any], None] | None = None,
    ) -> None:
        os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
        import datasets  # type: ignore[import-untyped]

        if pairs_per_step % micro_batch:
            raise ValueError(f"micro_batch {micro_batch} does not divide pairs_per_step {pairs_per_step}")
        torch.set_num_threads(1)
        datasets.disable_progress_bars()
        datasets.disable_caching()  # a second trainer in this process must compute its references too
        self.pairs, self.warmup, self.steps, self.pairs_per_step = list(pairs), warmup, steps, pairs_per_step
        self._clock = Clock(watch=watch)
        self._folder = tempfile.TemporaryDirectory()
        rows = [row_of(pair, encoded, tokenizer) for pair in pairs]
        self.trainer = timed_trainer(self._clock)(
            model=_open(model_dir),
            ref_model=_open(reference_dir) if reference_dir else None,
            args=_settings(
                Path(self._folder.name),
                micro_batch=micro_batch,
                accumulation=pairs_per_step // micro_batch,
                steps=warmup + steps,
                beta=beta,
                learning_rate=learning_rate,
                by_length=by_length,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        self._check_tokens(encoded)

    def _check_tokens(self, encoded: Mapping[str, Encoded]) -> None:
        for pair, row in zip(self.pairs, self.trainer.train_dataset, strict=True):
            for name, side in ((pair.chosen, "chosen_ids"), (pair.rejected, "rejected_ids")):
                ours = encoded[name]
                if row["prompt_ids"] + row[side] != ours.ids.tolist() or len(row["prompt_ids"]) != ours.prompt:
                    raise StepError(f"trajectory {name}: TRL's tokens are not ours; check tokenizer and markers")

    def run(self) -> Timing:
        """What the steps and the reference pass took; call it once."""
        self.trainer.train()
        clock = self._clock
        batches = len(clock.tokens) // (self.warmup + self.steps)
        measured = np.array([(int(tokens), padded) for tokens, padded in clock.tokens[self.warmup * batches :]])
        begin = clock.ends[self.warmup - 1] if self.warmup else clock.started
        count = self.steps * self.pairs_per_step
        return Timing(
            pairs=count,
            warmup_s=begin - clock.started,
            train_s_per_pair=(clock.ends[-1] - begin) / count,
            reference_s_per_pair=clock.reference_s / len(self.pairs),
            tokens=int(measured[:, 0].sum()),
            padded_tokens=int(measured[:, 1].sum()),
            losses=tuple(clock.losses),
            peak_mb=_peak_mb(),
        )

    def close(self) -> None:
        """Takes away what the trainer wrote."""
        self._folder.cleanup()

    @property
    def elapsed(self) -> list[float]:
        """CPU seconds from the beginning of training to the end of each step."""
        return [end - self._clock.started for end in self._clock.ends]

    def head_share(self) -> float:
        """The share of CPU time of TRL's steps (forward, loss, backward) that its LM-head kernel takes, 0 to 1.

        It trains like ``run``, under a profiler that counts CPU time; call it in place of ``run``.
        """
        profile = cProfile.Profile(time.process_time)
        profile.runcall(self.trainer.train)
        seconds: dict[str, float] = {}
        # (file, line, function) → (calls, …, own time, time with callees, callers)
        for (file, _, function), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
            key = f"{Path(file).name}:{function}"
            seconds[key] = max(seconds.get(key, 0.0), row[3])
        head = seconds[f"{HEAD_FILE}:forward"] + seconds[f"{HEAD_FILE}:backward"]
        return head / seconds["dpo_trainer.py:training_step"]


def _open(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")


def row_of(pair: PreferencePair, encoded: Mapping[str, Encoded], tokenizer: Any) -> dict[str, Any]:
    """A row of TRL's plain-text format; byte-level tokens decode to the text that they came from.

    ``length``, of the longer side, is what pairs are grouped by.
    """
    chosen, rejected = encoded[pair.chosen], encoded[pair.rejected]
    prompt, won, lost = (
        tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for ids in (chosen.ids[: chosen.prompt], chosen.ids[chosen.prompt :], rejected.ids[rejected.prompt :])
    )
    length = max(len(chosen.ids), len(rejected.ids))
    return {"prompt": prompt, "chosen": won, "rejected": lost, "length": length}


def _settings(
    folder: Path,
    *,
    micro_batch: int,
    accumulation: int,
    steps: int,
    beta: float,
    learning_rate: float,
    by_length: bool,
) -> Any:
    from trl import DPOConfig

    return DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        train_sampling_strategy="group_by_length" if by_length else "sequential",
        remove_unused_columns=not by_length,  # the lengths are a column that the trainer would remove first
        precompute_ref_log_probs=True,
        beta=beta,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_length=None,
        logging_steps=1,
        **ON_A_PROCESSOR,
    )


# --- the plain loop --------------------------------------------------------------------------------------------


class PlainLoop:
    """The same model and loss by hand: each side of each pair by itself, LM head only where the loss counts.

    No padding, no metrics, references given; AdamW, gradient norm clipped at 1 and constant rate as in ``TRLPeer``.
    """

    def __init__(
        self,
        model_dir: Path,
        encoded: Mapping[str, Encoded],
        *,
        pairs_per_step: int = PAIRS_PER_STEP,
        beta: float = 0.1,
        learning_rate: float = 1e-5,
    ) -> None:
        torch.set_num_threads(1)
        self.model = _open(model_dir).train()
        self.encoded, self.pairs_per_step, self.beta = encoded, pairs_per_step, beta
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, weight_decay=0.0)

    def score(self, name: str) -> torch.Tensor:
        """The log-probability of what follows the prompt, summed over tokens: a scalar."""
        item = self.encoded[name]
        ids = torch.from_numpy(item.ids)
        places = torch.from_numpy(np.flatnonzero(item.picked("completion")))
        hidden = self.model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0, places - 1]
        logits = self.model.lm_head(hidden)
        return -torch.nn.functional.cross_entropy(logits, ids[places], reduction="sum")

    def references(self, pairs: Sequence[PreferencePair]) -> tuple[dict[str, float], float]:
        """Scores by trajectory under the model as it is now, and the CPU seconds a pair when no pass is shared."""
        started = time.process_time()
        with torch.no_grad():
            found = {name: self.score(name).item() for pair in pairs for name in (pair.chosen, pair.rejected)}
        each = (time.process_time() - started) / len(found)
        return found, 2 * each

    def run(
        self, pairs: Sequence[PreferencePair], references: Mapping[str, float], *, warmup: int = 1, steps: int = 1
    ) -> Timing:
        """What the steps took; pairs are taken in their order, from the first again when they run out."""
        started = begin = time.process_time()
        losses = []
        stream = _cycle(pairs)
        tokens = 0
        for step in range(warmup + steps):
            if step == warmup:
                begin, tokens = time.process_time(), 0
            taken = [next(stream) for _ in range(self.pairs_per_step)]
            losses.append(self._step(taken, references))
            tokens += sum(len(self.encoded[name].ids) for pair in taken for name in (pair.chosen, pair.rejected))
        count = steps * self.pairs_per_step
        return Timing(
            pairs=count,
            warmup_s=begin - started,
            train_s_per_pair=(time.process_time() - begin) / count,
            reference_s_per_pair=0.0,
            tokens=tokens,
            padded_tokens=tokens,
            losses=tuple(losses),
            peak_mb=_peak_mb(),
        )

    def _step(self, pairs: Sequence[PreferencePair], references: Mapping[str, float]) -> float:
        """The mean loss of the pairs (Rafailov et al. 2023, equation 7), and one step of the optimiser."""
        total = 0.0
        for pair in pairs:
            margin = self.score(pair.chosen) - references[pair.chosen]
            margin = margin - (self.score(pair.rejected) - references[pair.rejected])
            loss = -torch.nn.functional.logsigmoid(self.beta * margin) / len(pairs)
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


def _cycle(pairs: Sequence[PreferencePair]) -> Iterator[PreferencePair]:
    while True:
        yield from pairs


# --- the benchmark ---------------------------------------------------------------------------------------------


def _row(timing: Timing) -> dict[str, float]:
    return {
        "train_s_per_pair": round(timing.train_s_per_pair, 3),
        "reference_s_per_pair": round(timing.reference_s_per_pair, 3),
        "tokens_per_pair": round(timing.tokens / timing.pairs),
        "padded_tokens_per_pair": round(timing.padded_tokens / timing.pairs),
        "peak_mb": timing.peak_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=published_pairs.DATA, help="directory of the published archives")
    parser.add_argument("--cache", type=Path, default=published_pairs.CACHE, help="directory for what takes long")
    parser.add_argument("--micro-batch", type=int, default=1, help="pairs that TRL takes at once")
    parser.add_argument(
        "--steps", type=int, default=1, help=f"measured steps of {PAIRS_PER_STEP} pairs, after one more"
    )
    options = parser.parse_args()
    published = published_pairs.load(options.cache, data=options.data)
    drawn = np.random.default_rng(0).choice(len(published.pairs), (options.steps + 1) * PAIRS_PER_STEP, replace=False)
    pairs = [published.pairs[number] for number in drawn.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        model = published_pairs.save_model(Path(folder), published.tokenizer, seed=0, max_positions=published.longest())
        loop = PlainLoop(model, published.encoded)
        references, reference_s = loop.references(pairs)
        plain = {
            **_row(loop.run(pairs, references, steps=options.steps)),
            "reference_s_per_pair": round(reference_s, 3),
        }
        peer = {"micro_batch": options.micro_batch, "steps": options.steps}
        trl = TRLPeer(model, pairs, published.encoded, published.tokenizer, **peer).run()
        few = {"pairs_per_step": 4, "micro_batch": min(options.micro_batch, 4), "warmup": 0}
        share = TRLPeer(model, pairs[:4], published.encoded, published.tokenizer, **few).head_share()
    figures = {"plain_loop": plain, "trl": {**_row(trl), "head_share": round(share, 3)}}
    ratio = round(trl.train_s_per_pair / plain["train_s_per_pair"], 2)
    show(document("trl_peer", PACKAGES, figures, {"trl_over_plain_loop": ratio}), as_json=options.json)


if __name__ == "__main__":
    main()
