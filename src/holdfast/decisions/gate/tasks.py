"""A task of Inspect as a gate's suite: both models meet it in Inspect's own solver, and its scorer scores them.

The gate then compares two logs, as it compares any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.decisions.gate.books import is_run
from holdfast.decisions.gate.outlook import FREE, may_cost_at
from holdfast.decisions.gate.running import open_named
from holdfast.exchange.known import KNOWN, PACKAGE
from holdfast.exchange.scales import ScoreOption
from holdfast.models.hub.hub import find_model
from holdfast.records.errors import needs, require, require_known
from holdfast.records.outputs import scratch_directory
from holdfast.records.words import count_noun

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

PREFIX = "inspect:"
OURS = "holdfast"  # whose tasks' scorers are our own judges
LOGS = "logs"
SIDES = ("parent", "child")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A task, with its ``arguments``, on two ``models`` as a user names them; ``most`` of its samples are run."""

    spec: str
    models: tuple[str, str]
    arguments: dict[str, Any]
    output: Path
    most: int | None = None
    base_url: str | None = None
    scores: tuple[ScoreOption, ...] = ()


def run_both(
    trial: Trial, tell: Callable[[str], None], allow: Callable[[Sequence[str], str], None]
) -> tuple[Path, Path]:
    """The logs of both models. ``tell`` is told what is to come, and ``allow`` refuses calls that may cost money.

    Errors: StudyError for what cannot be opened or compared, before any sample is run; StepError for a task that did
    not end by itself.
    """
    first, second = trial.models
    require(first != second, f"{first!r} is both sides, and a task of Inspect has no --again; name two models")
    folder = trial.output / LOGS
    require(
        not folder.exists(), f"{folder}: is there already; give another -o, or compare logs with holdfast gate LOG LOG"
    )
    with needs("remote", "a task of Inspect"):
        from holdfast.exchange.inspect.running import open_task, run_task
    names = [_inspect_name(name, served=trial.base_url is not None) for name in trial.models]
    with scratch_directory() as scratch:
        opened = open_task(trial.spec, trial.arguments, scratch, most=trial.most)
    for key in trial.arguments:
        # Inspect leaves out what a task does not take.
        require_known(key, opened.eval.task_args, "--set names the argument", f"those of {trial.spec}")
    _require_meaning(trial, opened)
    held = opened.eval.dataset.samples or 0
    samples, epochs = min(held, trial.most or held), opened.eval.config.epochs or 1
    require(samples > 0, f"--suite {PREFIX}{trial.spec}: has no sample; check the task's arguments (--set KEY=VALUE)")
    todo = f"{count_noun(samples, 'samples')} of {trial.spec}" + (f", {epochs} epochs each" if epochs > 1 else "")
    tell(f"{' and '.join(trial.models)}: {todo}, by its own solver and scorer; logs go to {folder}")
    paid = [name for name in names if _may_cost(name, trial.base_url)]
    if paid:
        allow(paid, f"{todo}, each at least one call, and whatever models its scorer asks")
    found = []
    for name, side in zip(names, SIDES, strict=True):
        tell(f"the {side}, {name}")
        log = run_task(trial.spec, name, trial.arguments, folder / side, most=trial.most, base_url=trial.base_url)
        found.append(log)
    return found[0], found[1]


def _inspect_name(name: str, *, served: bool) -> str:
    """A model as Inspect names it. Errors: StudyError."""
    run, colon, _ = name.partition(":")
    if colon and is_run(Path(run)):
        return f"{OURS}/{name}"
    entry = open_named(name, served=served)
    if entry["kind"] == "remote":
        return str(entry["name"])
    if entry["kind"] == "vllm":
        return f"vllm/{entry['name']}"
    return f"{OURS}/{Path(find_model(entry['name'])).absolute()}"


def _may_cost(name: str, base_url: str | None) -> bool:
    return not name.startswith((f"{OURS}/", FREE)) and may_cost_at(name, base_url)


def _require_meaning(trial: Trial, opened: EvalLog) -> None:
    """Refuse a task of whose scores nobody says what they mean, before a sample is run."""
    package, _, task = (opened.eval.task_registry_name or opened.eval.task).rpartition("/")
    known = package == OURS or (package == PACKAGE and any(task in row.tasks for row in KNOWN))
    scorers = ", ".join(scorer.name for scorer in opened.eval.scorers or ()) or "none"
    require(
        known or bool(trial.scores),
        f"--suite {PREFIX}{trial.spec}: what its scores mean is not known; say it, as in --score 'safety=-NAME[0,1]'"
        f" (high is bad); its scorers are {scorers}",
    )
