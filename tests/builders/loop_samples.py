"""A loop's settings and steps, and ways to run it and to read what it left, for tests of the loop."""

from __future__ import annotations

import json

import torch

from builders import tiny_office as office
from holdfast.models.tiny.chat import TinyChat
from holdfast.study.stages import StageSection
from holdfast.training.loop.loop import Loop
from holdfast.training.policy.adapters import HubModel, open_policy
from holdfast.training.trees.parts import pair_step

SETTINGS = StageSection(
    objective="safety", steps=8, learning_rate=3e-3, warmup_steps=3, max_grad_norm=0.5, weight_decay=0.01
)


def make_steps(base):
    """Eight steps of two cases each."""
    pairs, encoded = office.preferences(TinyChat.load(base))
    reference = dict.fromkeys(encoded, -50.0)
    cut = [pairs[start : start + 4] for start in (0, 4, 8, 0, 4, 8, 0, 4)]
    objective = StageSection(objective="safety", beta=0.1)
    return [pair_step(part, encoded, reference, objective) for part in cut]


def open_whole(base):
    return open_policy(base)


def open_adapted(base):
    return HubModel(base, lora_r=3, lora_dropout=0.3)


def weights_of(policy):
    return [weight.detach().clone() for weight in policy.trainable()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def logs_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def timeless(lines):
    return [{key: value for key, value in line.items() if key != "cpu_seconds"} for line in lines]


def play(policy, steps, folder=None, *, settings=SETTINGS, seed=7, until=8, keep_at=(), on_step=lambda _: None):
    """Runs a loop to a step and leaves it there, as a kill would; its logs."""
    loop = Loop(policy, settings, seed=seed, folder=folder)
    logs = []
    for log in loop.run(steps):
        logs.append(log)
        on_step(log)
        if log.step in keep_at:
            loop.keep({"drift": float(log.step)})
        if log.step == until:
            break
    return loop, logs
