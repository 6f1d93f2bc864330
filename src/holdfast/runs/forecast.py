"""What steps cost: calls to models, pairs and tokens to learn from, time; and what the rest of a study will."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.models import Speaker
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.runs.costs.outlook import time_on_clock
from holdfast.runs.costs.schedule import schedule
from holdfast.runs.costs.seconds import Expected, measured_seconds
from holdfast.runs.costs.talk import TALK_TOKENS, calls_with_users
from holdfast.runs.plan.settings import (
    JudgeSettings,
    RolloutSettings,
    SpeakerModel,
    StageSettings,
)
from holdfast.runs.plan.step import Plan, Step
from holdfast.store import DATABASE, Store
from holdfast.store.places import LEDGER
from holdfast.store.steplog import StepStatus
from holdfast.study.command import CommandSection
from holdfast.study.kinds import METHODS, rates_users
from holdfast.study.sections import JudgeSection, JudgeTable

# By speaker: calls of one episode, or of one judgement.
PUBLISHED_CALLS: Mapping[str, float] = {"agent": 2.0, "emulator": 1.0, "judge": 1.0}
# By speaker: tokens read and written in one call.
PUBLISHED_TOKENS: Mapping[str, tuple[float, float]] = {
    "agent": (3_400, 400),
    "emulator": (3_500, 2_000),
    "judge": (4_500, 750),
}
# The same of one rating.
RATING_TOKENS = (400, 4)
RATED_OBJECTIVES = 2

# Tokens of a published pair, both sides with their prompt, over the factor by which trees save (docs/training.md).
TOKENS_PER_PAIR = 7_600 / 5.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How often a model is asked in a step, and the tokens read and written in one call."""

    speaker: Speaker
    model: SpeakerModel
    calls: float
    tokens: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a train step takes: the pairs that it learns from, None before they can be counted, other tokens, calls."""

    pairs: int | None = 0
    tokens: float = 0.0
    calls: Sequence[Calls] = ()


def _cost_of(plan: Plan, step: Step) -> Cost:
    assert isinstance(step.settings, StageSettings)
    expect = METHODS.find(step.settings.method).cost
    cost: Cost = Cost() if expect is None else expect(plan, step)
    return cost


def forecast(plan: Plan, run_path: Path, *, cluster: bool = False) -> dict[str, Any]:
    """Steps with their status in the run at ``run_path`` and the cost of the rest, as one JSON document.

    For a ``cluster`` it says also how long the critical path is, and how many places help.
    """
    known: Mapping[str, StepStatus] = {}
    if (run_path / DATABASE).is_file():
        with Store(run_path) as store:
            known = store.log.steps()
    real = any(plan.study.entry(base).kind != "tiny" for base in plan.study.model.bases)
    expected = Expected(plan)
    seconds = expected.correct(measured_seconds(known))
    rows: list[dict[str, Any]] = []
    waiting: list[Step] = []
    for step in plan.steps:
        status = known[step.fingerprint].status if step.fingerprint in known else "to do"
        row = {"fingerprint": step.fingerprint, "kind": step.kind, "name": step.name, "status": status}
        if status == "done":
            seconds[step.fingerprint] = 0.0
        else:
            waiting.append(step)
        spent = round(seconds[step.fingerprint], 2)
        rows.append({**row, "size": step.size, "unit": step.settings.unit, "cpu_seconds": spent})
    left = sum(row["cpu_seconds"] for row in rows)
    clock = time_on_clock(waiting, lambda step: seconds[step.fingerprint], plan.study.run.workers)
    traffic = expect_traffic(plan, waiting, run_path)
    remote = [row for row in traffic if row.remote]
    return {
        "study": plan.study.study.name,
        "run": str(run_path),
        "steps": rows,
        "traffic": [asdict(row) for row in traffic],
        **_list_commands(plan),
        **({"untold": expected.untold} if expected.untold else {}),
        **({"cluster": _spread(waiting, seconds)} if cluster else {}),
        "left": {
            "steps": len(waiting),
            "cpu_seconds": round(left, 1),
            "hours": round(clock / 3600, 3),
            "calls": round(sum(row.calls for row in remote)),
            "tokens": round(sum(row.input_tokens + row.output_tokens for row in remote)),
            "money": round(sum(row.money for row in remote), 2),
            **(_accelerator_work(plan, waiting, traffic) if real else {}),
        },
    }


def _spread(waiting: Sequence[Step], seconds: Mapping[str, float]) -> dict[str, Any]:
    """The critical path and hours by the number of places, each of which carries out one step at a time."""
    found = schedule(waiting, lambda step: seconds[step.fingerprint])
    return {
        "critical_path_hours": round(found.critical_path / 3600, 4),
        "hours_by_places": {str(places): round(spent / 3600, 4) for places, spent in found.by_places},
    }


def _list_commands(plan: Plan) -> dict[str, Any]:
    """The commands that stages carry out, by stage; no key where there are none."""
    stages = plan.study.stages.items()
    found = {name: one.line for name, one in stages if isinstance(one, CommandSection)}
    return {"commands": found} if found else {}


def _accelerator_work(plan: Plan, waiting: Sequence[Step], traffic: Sequence[Traffic]) -> dict[str, Any]:
    """Tokens that models in this process write and learn from, and hours at the rates that the study declares.

    ``pairs`` and what follows from them are None where no run to bring pairs from is there to count them.
    """
    written = sum(row.output_tokens for row in traffic if not row.remote)
    costs = [_cost_of(plan, step) for step in waiting if isinstance(step.settings, StageSettings)]
    known = [cost.pairs for cost in costs if cost.pairs is not None]
    passes = sum(known) if len(known) == len(costs) else None
    learnt = None if passes is None else passes * TOKENS_PER_PAIR + sum(cost.tokens for cost in costs)
    rates, hours = plan.study.run, None
    if rates.generate_rate and rates.train_rate and learnt is not None:
        hours = round((written / rates.generate_rate + learnt / rates.train_rate) / 3600, 1)
    return {
        "written_tokens": round(written),
        "pairs": passes,
        "trained_tokens": None if learnt is None else round(learnt),
        "accelerator_hours": hours,
    }


def render_forecast(document: Mapping[str, Any], *, full: bool = True) -> str:
    """The forecast as text for a terminal: the steps by kind and state, what is left; ``full`` lists every step."""
    from holdfast.report.words.console import rows_text, terminal_width  # who carries out steps needs this module too
    from holdfast.report.words.inert import wrap_line

    left, wide = document["left"], terminal_width()
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in document["steps"]:
        groups.setdefault((row["kind"], row["unit"], row["status"], row["name"] if full else ""), []).append(row)
    rows = []
    for (*sort, name), some in groups.items():
        size, seconds = (sum(row[key] for row in some) for key in ("size", "cpu_seconds"))
        rows.append([*sort, name or f"{len(some):,}", f"{size:,}", f"{seconds:,.1f}" if seconds else "–"])
    heads = ("Kind", "Unit", "State", "Step" if full else "Steps", "Size", "CPU s")
    # What real models take is not known in seconds of a processor before a step of theirs is done.
    time = f"about {left['cpu_seconds']:,.0f} CPU seconds, {left['hours'] * 60:.1f} minutes with the study's workers; "
    sentences = [
        f"{left['steps']} of {len(document['steps'])} steps to do: {time if left['cpu_seconds'] else ''}"
        f"{left['calls']:,} calls, {left['tokens']:,} tokens, {left['money']:.2f} of money",
        *([_render_work(left)] if "written_tokens" in left else []),
    ]
    if "cluster" in document:
        sentences.append(_render_spread(document["cluster"]))
    for base, why in document.get("untold", {}).items():
        sentences.append(f"how long {base} takes is told once a step of its kind is done: {why}")
    blocks = [rows_text(heads, rows, wide, words=4 if full else 3)]
    blocks.append("\n".join(line for text in sentences for line in wrap_line(text, wide, "", "  ")))
    if commands := document.get("commands"):
        blocks.append("\n".join(f"stages.{name} carries out: {line}" for name, line in commands.items()))
    if document["traffic"]:
        columns = ("Speaker", "Model", "Where", "Tokens", "Calls", "M tokens in", "M tokens out", "Money")
        rows = [
            [
                row["speaker"],
                row["model"],
                "remote" if row["remote"] else "here",
                "as this run's calls so far" if row["measured"] else "as in the published study",
                f"{row['calls']:,.0f}",
                *(f"{row[key] / 1e6:,.1f}" for key in ("input_tokens", "output_tokens")),
                f"{row['money']:,.2f}",
            ]
            for row in document["traffic"]
        ]
        blocks.append(rows_text(columns, rows, wide, words=4))
    return "\n\n".join(blocks)


def _render_spread(told: Mapping[str, Any]) -> str:
    """How a cluster helps, in a line."""
    hours = {int(places): value for places, value in told["hours_by_places"].items()}
    shown = ", ".join(f"{value * 60:,.1f} min on {places:,}" for places, value in hours.items())
    path = f"the longest chain of steps takes {told['critical_path_hours'] * 60:,.1f} min"
    return f"on a cluster, by places that carry out one step each at a time: {shown}; more save little, for {path}"


def _render_work(left: Mapping[str, Any]) -> str:
    """What accelerators have to do, in a line."""
    learnt = "training is known when the pairs are"
    if left["pairs"] is not None:
        learnt = f"about {left['trained_tokens'] / 1e6:,.0f} M tokens in trees"
        learnt = f"{left['pairs']:,} pairs to learn from, {learnt}" if left["pairs"] else f"{learnt} to learn from"
    hours = "hours are known from [run] generate_rate and train_rate"
    if left["accelerator_hours"] is not None:
        hours = f"about {left['accelerator_hours']:,.0f} accelerator hours at the rates in [run]"
    return f"models here: {left['written_tokens'] / 1e6:,.1f} M tokens to write; {learnt}; {hours}"


LANGUAGE_MODELS = ("random", "local", "vllm", "remote")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one speaker and model still have to do: ``measured`` says that this run's own calls were the measure."""

    speaker: Speaker
    model: str
    remote: bool
    calls: float
    input_tokens: float
    output_tokens: float
    money: float
    measured: bool


def expect_traffic(plan: Plan, steps: Iterable[Step], run_path: Path) -> list[Traffic]:
    """The traffic of some steps that are to do, summed by speaker and model."""
    # By speaker and model, the tokens read and written in a call, from the run's ledger.
    measured = {
        (row.speaker, row.model): (row.input_tokens / row.calls, row.output_tokens / row.calls)
        for row in read_spending(run_path)
        if row.calls
    }
    totals: dict[tuple[Speaker, str], list[float]] = {}  # calls, tokens read, tokens written
    entries: dict[str, tuple[ModelEntry, EndpointSection]] = {}
    for step in steps:
        for asked in _expect_calls(plan, step):
            name, entry = asked.model.model, asked.model.entry
            if entry.kind in LANGUAGE_MODELS:
                entries[name] = (entry, step.means.endpoints.get(name, EndpointSection()))
                read, written = measured.get((asked.speaker, entry.name), asked.tokens)
                total = totals.setdefault((asked.speaker, name), [0.0, 0.0, 0.0])
                for number, amount in enumerate((asked.calls, asked.calls * read, asked.calls * written)):
                    total[number] += amount
    traffic = []
    for (speaker, model), (calls, read, written) in sorted(totals.items()):
        entry, endpoint = entries[model]
        remote = entry.kind == "remote"
        traffic.append(
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
    return traffic


def expect_emulator(model: SpeakerModel, episodes: float) -> Calls:
    """What a model that plays the tools is asked in some episodes."""
    calls, tokens = episodes * PUBLISHED_CALLS["emulator"], PUBLISHED_TOKENS["emulator"]
    return Calls(speaker="emulator", model=model, calls=calls, tokens=tokens)


def expect_judge(section: JudgeTable, model: SpeakerModel, episodes: float) -> Calls:
    """What a judge's model is asked of some episodes."""
    tokens = RATING_TOKENS if rates_users(section.kind) else PUBLISHED_TOKENS["judge"]
    rubrics = section.rubrics if isinstance(section, JudgeSection) else ()
    objectives = len(rubrics) or RATED_OBJECTIVES
    calls = episodes * objectives * section.repeats * PUBLISHED_CALLS["judge"]
    return Calls(speaker="judge", model=model, calls=calls, tokens=tokens)


def _expect_calls(plan: Plan, step: Step) -> Iterator[Calls]:
    """Who is asked in a step besides a tiny agent, and how often."""
    match step.settings:
        case RolloutSettings() as settings:
            calls, tokens = PUBLISHED_CALLS["agent"], PUBLISHED_TOKENS["agent"]
            if settings.users is not None:
                calls, tokens = calls_with_users(settings.users.section), TALK_TOKENS
            if settings.agent is not None:
                yield Calls(speaker="agent", model=settings.agent, calls=step.size * calls, tokens=tokens)
            if settings.emulator is not None:
                yield expect_emulator(settings.emulator, step.size)
        case JudgeSettings(speaker=SpeakerModel() as speaker) as settings:
            yield expect_judge(settings.judged_by, speaker, step.size)
        case StageSettings():
            yield from _cost_of(plan, step).calls


def read_spending(run_path: Path) -> Sequence[Any]:
    """What a run has spent on remote models, a ``ledger.Spending`` for each speaker and model."""
    if not (run_path / LEDGER).is_file():
        return ()
    from holdfast.models.remote.ledger import read_spending as read_ledger

    return read_ledger(run_path / LEDGER)
