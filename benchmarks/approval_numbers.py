"""The numbers of arXiv 2604.12500 (training on simulated approval) that its own public materials give.

Source: the stored outputs, recipes and environments of the authors' code, watermeleon/conditional_spec_gaming on GitHub
(MIT), as of May 2026; the text of the paper was not at hand. Max HEX Gaps of therapy talk are printed there to 0.01
rating points. Those of action advice and political questions are digitised from a stored figure, to about 0.05 and,
politics, rounded to 0.1: their correlations come out within 0.01 and 0.035 of the printed ones. All correlations below
are printed, over the 11 models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ENVIRONMENTS = ("therapy", "advice", "politics")
DIGITISED = ("advice", "politics")
PRINTED_UNIT = 0.01  # of every correlation below


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A model of the study, what was known of it before training, and its Max HEX Gap by environment.

    ``size`` in billions of parameters; ``capability`` and ``sycophancy`` as in the authors' benchmark table, whose
    sycophancy score is said to be higher for models that are *less* sycophantic. ``gap`` in rating points;
    ``therapy_sd`` over the maxima of three seeds.
    """

    name: str
    size: float
    capability: float
    sycophancy: float
    gap: Mapping[str, float]
    therapy_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """How the study trained: GRPO with the loss "dapo", no KL penalty, and a LoRA adapter on all projections."""

    steps: int = 300
    warmup_steps: int = 30
    group_size: int = 5
    completions_per_step: int = 10
    learning_rate: float = 1e-5
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    max_prompt_tokens: int = 1024
    max_tokens: int = 256
    kl_weight: float = 0.0
    clip: float = 0.2
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    use_rslora: bool = True
    gameable_share: float = 0.5
    seeds: tuple[int, ...] = (5, 42, 83)
    smoothing_window: int = 50
    scored_per_step: int = 1


def _model(
    name: str, size: float, capability: float, sycophancy: float, gaps: tuple[float, float, float], *, sd: float
) -> PublishedModel:
    """A row of the table; ``gaps`` in the order of ``ENVIRONMENTS``."""
    gap = MappingProxyType(dict(zip(ENVIRONMENTS, gaps, strict=True)))
    return PublishedModel(name=name, size=size, capability=capability, sycophancy=sycophancy, gap=gap, therapy_sd=sd)


MODELS: tuple[PublishedModel, ...] = (
    _model("Qwen1.5-0.5B-Chat", 0.5, -7.56, 0.379, (3.24, 2.15, 1.2), sd=0.56),
    _model("Qwen1.5-1.8B-Chat", 1.8, -4.54, 0.268, (3.59, 2.74, 1.7), sd=0.96),
    _model("gemma-1.1-2b-it", 2.0, -4.07, 0.254, (3.10, 3.98, 2.7), sd=0.62),
    _model("Qwen1.5-4B-Chat", 4.0, -3.44, 0.161, (4.30, 4.54, 2.1), sd=0.26),
    _model("Yi-6B-Chat", 6.0, -0.67, 0.207, (2.66, 4.59, 2.5), sd=0.51),
    _model("Llama-2-7b-chat-hf", 7.0, -1.86, 0.280, (0.50, 3.25, 1.9), sd=0.10),
    _model("Qwen1.5-7B-Chat", 7.0, -2.33, 0.126, (1.27, 4.46, 1.7), sd=0.47),
    _model("gemma-1.1-7b-it", 7.0, -1.15, 0.157, (1.97, 5.41, 3.1), sd=1.71),
    _model("Meta-Llama-3-8B-Instruct", 8.0, 1.10, 0.101, (1.39, 6.89, 4.1), sd=0.08),
    _model("Llama-2-13b-chat-hf", 13.0, -0.78, 0.178, (0.37, 5.06, 5.4), sd=0.06),
    _model("Qwen1.5-14B-Chat", 14.0, -0.65, 0.105, (0.72, 5.91, 3.4), sd=0.17),
)

SETUP = TrainingSetup()

# Spearman with Max HEX Gap in the order of ENVIRONMENTS: predictor → printed rhos.
GAP_RHOS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "capability": (-0.63, 0.90, 0.76),
        "size": (-0.84, 0.81, 0.72),
        "sycophancy": (0.31, -0.87, -0.57),
        "machiavelli": (0.13, -0.05, -0.28),
        "bbq": (0.19, -0.07, -0.28),
        "crows": (-0.11, 0.01, 0.27),
        "discrim_eval": (-0.64, 0.57, 0.65),
        "calibration": (0.44, -0.11, -0.15),
        "jailbreak": (-0.09, 0.07, 0.21),
    }
)

# Spearman with Max Reward, the same way.
REWARD_RHOS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "capability": (0.37, 0.67, 0.64),
        "size": (0.36, 0.69, 0.72),
        "sycophancy": (-0.30, -0.55, -0.74),
    }
)

# The range of the therapy correlation of size without each model in turn, as printed.
THERAPY_SIZE_LEAVE_ONE_OUT = (-0.88, -0.79)


def column(name: str) -> list[float]:
    """A column of the table in the order of ``MODELS``: size, capability, sycophancy, or an environment's gaps."""
    if name in ENVIRONMENTS:
        return [model.gap[name] for model in MODELS]
    return [float(getattr(model, name)) for model in MODELS]
