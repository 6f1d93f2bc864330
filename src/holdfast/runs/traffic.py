"""What language models will be asked and say in the steps of a plan: calls, tokens, money.

Before anything was measured, an episode and a judgement cost what those of the published study did (arXiv 2603.02229):
a prompt of 3,000 tokens and 800 of replies in two turns, one tool call an episode, an emulator and judges that reason
before they answer. Talk with users whose approval is trained on is short: a few hundred tokens and a reply of a
paragraph, and a rating is a number for a conversation. A run's own ledger takes the place of these figures as soon as
it holds calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.runs.plan.step import Step
from holdfast.store.places import LEDGER
from holdfast.study.sections import JudgeSection
from holdfast.study.users import APPROVAL

# By speaker: calls of one episode, or of one judgement.
PUBLISHED_CALLS: Mapping[str, float] = {"agent": 2.0, "emulator": 1.0, "judge": 1.0}
# By speaker: tokens read and written in one call.
PUBLISHED_TOKENS: Mapping[str, tuple[float, float]] = {
    "agent": (3_400, 400),
    "emulator": (3_500, 2_000),
    "judge": (4_500, 750),
}
# The same of one call in talk with users, and of one rating.
TALK_TOKENS = (350, 120)
RATING_TOKENS = (400, 4)
RATED_OBJECTIVES = 2
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
    totals: dict[tuple[str, str], list[float]] = {}  # calls, tokens read, tokens written
    entries: dict[str, tuple[ModelEntry, EndpointSection]] = {}
    for step in steps:
        for speaker, told, calls, tokens in _speakers(step):
            entry = ModelEntry.model_validate(told["entry"])
            if entry.kind in LANGUAGE_MODELS:
                endpoint = step.means.get("endpoints", {}).get(told["model"], {})
                entries[told["model"]] = (entry, EndpointSection.model_validate(endpoint))
                read, written = measured.get((speaker, entry.name), tokens)
                total = totals.setdefault((speaker, told["model"]), [0.0, 0.0, 0.0])
                for place, amount in enumerate((calls, calls * read, calls * written)):
                    total[place] += amount
    found = []
    for (speaker, model), (calls, read, written) in sorted(totals.items()):
        entry, endpoint = entries[model]
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
                measured=(speaker, entry.name) in measured,
            )
        )
    return found


def _speakers(step: Step) -> Iterator[tuple[str, Mapping[str, Any], float, tuple[float, float]]]:
    """Who speaks in a step besides a tiny agent, in how many calls, and the tokens read and written in one."""
    settings = step.settings
    if step.kind == "rollout":
        calls, tokens = PUBLISHED_CALLS["agent"], PUBLISHED_TOKENS["agent"]
        if settings["suite"].get("name") == APPROVAL:
            calls, tokens = _calls_with_users(settings), TALK_TOKENS
        if "agent" in settings:
            yield "agent", settings["agent"], step.size * calls, tokens
        if "emulator" in settings:
            yield (
                "emulator",
                settings["emulator"],
                step.size * PUBLISHED_CALLS["emulator"],
                PUBLISHED_TOKENS["emulator"],
            )
    elif step.kind == "judge" and "speaker" in settings:
        section = JudgeSection.model_validate(settings["section"])
        objectives = len(section.rubrics) or RATED_OBJECTIVES
        tokens = RATING_TOKENS if section.kind == "rating" else PUBLISHED_TOKENS["judge"]
        yield "judge", settings["speaker"], step.size * objectives * section.repeats * PUBLISHED_CALLS["judge"], tokens
    elif step.kind == "train" and settings.get("rollouts") == "policy":
        rollouts = count_sampled(step)
        if "agent" in settings:
            yield "agent", settings["agent"], rollouts * _calls_with_users(settings), TALK_TOKENS
        if "speaker" in settings:
            asked = RATED_OBJECTIVES * settings["rater"]["repeats"]
            yield "judge", settings["speaker"], rollouts * asked, RATING_TOKENS


def count_sampled(step: Step) -> int:
    """The rollouts that a stage which learns from rewards takes in, before any is left out."""
    return int(step.size * step.settings["prompts_per_step"] * step.settings["group_size"])


def _calls_with_users(settings: Mapping[str, Any]) -> float:
    """The agent's replies in an episode with a user, on average over settings: one a turn, and a call to report on."""
    condition = settings["condition"]
    found = []
    for one in condition["settings"].values():
        environments = one["environments"] or condition["environments"]
        found.append(one["turns"] + environments.count("report") / len(environments))
    return float(sum(found) / len(found))


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
    from holdfast.models.remote.ledger import read_spending as read_ledger

    return read_ledger(run_path / LEDGER)
