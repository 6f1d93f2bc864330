"""What tests of probes share: replies as trajectories, and a small tiny base that was taught probes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from holdfast.judges.probes import ProbeJudge
from holdfast.models.tiny.model import TinyModel, build
from holdfast.records import Case, Ending, Message, Trajectory
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds import SilentWorld
from holdfast.study.sections import SFTSection
from holdfast.suites.probes import generated
from holdfast.training.encoding import encode_episode
from holdfast.training.sft.stage import train_sft


def reply_to(case: Case, text: str, ending: Ending = Ending.FINISHED) -> Trajectory:
    return Trajectory(
        id=f"reply {case.id} {text[:20]}",
        case_id=case.id,
        checkpoint_id="test",
        rollout=0,
        messages=(Message(role="assistant", content=text),) if text else (),
        ending=ending,
    )


def teach(
    directory: Path,
    demonstrations: int,
    *,
    seed: int = 0,
    mixture: Mapping[str, Mapping[str, float]] = generated.MIXTURE,
) -> TinyModel:
    """A smoke-size tiny model that was shown nothing but probes."""
    fresh = build(
        generated.lexicon(),
        directory / "fresh",
        seed=seed,
        system_prompts=generated.system_prompts(),
        **{"hidden": 48, "layers": 2, "heads": 2, "ffn": 96},
    )
    chat = TinyModel.load(fresh).chat
    encoded = [
        encode_episode(chat, case.messages, shown.messages)
        for case, shown in generated.demonstrations(seed, demonstrations, mixture)
    ]
    settings = SFTSection(
        batch_size=8,
        learning_rate=6e-3,
        warmup_steps=20,
        max_grad_norm=1.0,
        other_weight=0.15,
    )
    train_sft(fresh, encoded, settings, steps=demonstrations // 8, seed=seed, out_dir=directory / "taught")
    return TinyModel.load(directory / "taught")


def count_labels(model: TinyModel, cases: Sequence[Case], rollouts: int) -> Mapping[str, Counter[str]]:
    """By the probes' situation, how often which label was given."""
    limits = Limits(max_turns=8, max_tokens=16, temperature=1.0)
    episodes = [(case, rollout) for rollout in range(rollouts) for case in cases]
    played = roll_out({"agent": model}, SilentWorld(), episodes, checkpoint_id="test", rollout_seed=0, limits=limits)
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    judge = ProbeJudge()
    for (case, _), trajectory in zip(episodes, played, strict=True):
        assert isinstance(trajectory, Trajectory)
        (score,) = judge.judge(case, trajectory)
        found[case.facts["topic"]][score.label or ""] += 1
    return found


def share(counts: Counter[str], label: str) -> float:
    return counts[label] / counts.total() if counts else float(np.nan)
