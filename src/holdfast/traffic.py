"""What language models will be asked and say in the steps of a plan: calls, tokens, money.

Before anything was measured, an episode and a judgement cost what those of the published study did (arXiv 2603.02229):
a prompt of 3,000 tokens and 800 of replies in two turns, one tool call an episode, an emulator and judges that reason
before they answer. A run's own ledger takes the place of these figures as soon as it holds calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.forks import LEDGER
from holdfast.plan import Step
from holdfast.sections import EndpointSection, JudgeSection, ModelEntry

# By speaker: calls of one episode, or of one judgement.
PUBLISHED_CALLS: Mapping[str, float] = {"agent": 2.0, "emulator": 1.0, "judge": 1.0}
# By speaker: tokens read and written in one call.
PUBLISHED_TOKENS: Mapping[str, tuple[float, float]] = {
    "agent": (3_400, 400),
    "emulator": (3_500, 2_000),
    "judge": (4_500, 750),
}
LANGUAGE_MODELS = ("random", "local", "vllm", "remote")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one speaker and model still have to do: ``measured`` says that this run's own calls were the measure."""

    speaker: str
    model: str
    remote: bool
    calls: float
    input_tokens: float
    output_tokens: float
    money: float
    measured: bool


def expect_traffic(steps: Iterable[Step], run_path: Path) -> list[Traffic]:
    """The traffic of some steps that are to do, summed by speaker and model."""
    measured = _measured_tokens(run_path)
    totals: dict[tuple[str, str], list[float]] = {}
    entries: dict[str, tuple[ModelEntry, EndpointSection]] = {}
    for step in steps:
        for speaker, told, calls in _speakers(step):
            entry = ModelEntry.model_validate(told["entry"])
            if entry.kind in LANGUAGE_MODELS:
                endpoint = step.means.get("endpoints", {}).get(told["model"], {})
                entries[told["model"]] = (entry, EndpointSection.model_validate(endpoint))
                totals.setdefault((speaker, told["model"]), [0.0])[0] += calls
    found = []
    for (speaker, model), (calls,) in sorted(totals.items()):
        entry, endpoint = entries[model]
        key = (speaker, entry.name)
        read, written = (calls * tokens for tokens in measured.get(key, PUBLISHED_TOKENS[speaker]))
        remote = entry.kind == "remote"
        found.append(
            Traffic(
                speaker=speaker,
                model=model,
                remote=remote,
                calls=calls,
                input_tokens=read,
                output_tokens=written,
                money=(read * endpoint.input_price + written * endpoint.output_price) / 1e6 if remote else 0.0,
                measured=key in measured,
            )
        )
    return found


def _speakers(step: Step) -> Iterator[tuple[str, Mapping[str, Any], float]]:
    """Who speaks in a step besides a tiny agent, and in how many calls."""
    settings = step.settings
    if step.kind == "rollout":
        if "agent" in settings:
            yield "agent", settings["agent"], step.size * PUBLISHED_CALLS["agent"]
        if "emulator" in settings:
            yield "emulator", settings["emulator"], step.size * PUBLISHED_CALLS["emulator"]
    elif step.kind == "judge" and "speaker" in settings:
        section = JudgeSection.model_validate(settings["section"])
        objectives = len(section.rubrics) or 2
        yield "judge", settings["speaker"], step.size * objectives * section.repeats * PUBLISHED_CALLS["judge"]


def _measured_tokens(run_path: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """(speaker, model) → tokens read and written in a call, from the run's ledger."""
    return {
        (row.speaker, row.model): (row.input_tokens / row.calls, row.output_tokens / row.calls)
        for row in read_spending(run_path)
        if row.calls
    }


def read_spending(run_path: Path) -> Sequence[Any]:
    """What a run has spent on remote models, a ``ledger.Spending`` for each speaker and model."""
    if not (run_path / LEDGER).is_file():
        return ()
    from holdfast.models.ledger import Ledger

    ledger = Ledger(run_path / LEDGER)
    try:
        return ledger.summary()
    finally:
        ledger.close()
