"""What the gate of a training loop is asked, checked before training begins, and how it is asked about a checkpoint.

Whether it is answered in this process or in another, the same words are meant: those of ``holdfast gate``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.decisions.gate.models import gate_models
from holdfast.decisions.gate.outlook import look_ahead
from holdfast.decisions.gate.outputs.document import gate_document
from holdfast.decisions.gate.rules import TABLE, read_rules
from holdfast.decisions.gate.running import Means, evaluate, name_models, read_study, require_judge
from holdfast.decisions.gate.verdicts import Wanted
from holdfast.integrations.surroundings import alone, untouched
from holdfast.records.errors import HoldfastError, StudyError, require
from holdfast.records.extensions import allow
from holdfast.records.outputs import write_file
from holdfast.runs.steps.reading import release_models
from holdfast.study.kinds import named_in
from holdfast.study.named_suite import is_cases_file, is_study_file
from holdfast.study.rules import GateSection, refuse_old_bound
from holdfast.study.study import Study

RULES, PARENTS = "rules.toml", "parents"
DECIDED = (0, 1, 3)  # exit codes of a gate that has a verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is declared of every comparison of a training run; see ``SafetyGate`` for the words."""

    suite: str
    study: Study
    rules: GateSection
    cases: int | None
    judge: str | None
    workers: int | None
    max_calls: int | None
    max_cost: float | None
    allow_paid: bool
    here: bool
    env: Mapping[str, str]

    def prepare(self, work: Path) -> None:
        """Write the rules where every gate reads them. Errors: StudyError."""
        write_file(work / RULES, write_rules(self.rules))

    def ask(self, parent: str, child: Path, work: Path, output: Path) -> dict[str, Any]:
        """The document of the gate's answer, which lies in ``output``. Errors: HoldfastError."""
        words = self._words(parent, child, work, output)
        return self._ask_here(parent, child, work, output, words) if self.here else self._ask_process(words)

    def _words(self, parent: str, child: Path, work: Path, output: Path) -> list[str]:
        given = {
            "--suite": self.suite,
            "--rules": work / RULES,
            "--parents": work / PARENTS,
            "-o": output,
            "--cases": self.cases,
            "--judge": self.judge,
            "--workers": self.workers,
            "--max-calls": self.max_calls,
            "--max-cost": self.max_cost,
        }
        options = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
        return ["gate", parent, str(child), *options, *(["--yes"] if self.allow_paid else []), "--json", "--quiet"]

    def _ask_process(self, words: Sequence[str]) -> dict[str, Any]:
        # What torch keeps for tensors to come is nothing that it needs, and the other process may want the room.
        if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_initialized():
            torch.cuda.empty_cache()
        command = [sys.executable, "-P", "-m", "holdfast", *words]
        try:
            told = subprocess.run(
                command,
                env=alone(os.environ, self.env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise HoldfastError(f"{sys.executable}: cannot be started ({error.strerror}); use where='here'") from error
        if told.returncode in DECIDED:
            try:
                document: dict[str, Any] = json.loads(told.stdout)
            except ValueError:
                pass  # it failed in a way that has the code of a verdict
            else:
                return document
        lines = [line.strip() for line in told.stderr.splitlines() if line.strip()]
        found = lines[-1] if lines else f"holdfast gate ended with exit code {told.returncode} and said nothing"
        raise HoldfastError(found.removeprefix("holdfast gate: ").removeprefix("holdfast: "))

    def _ask_here(self, parent: str, child: Path, work: Path, output: Path, words: Sequence[str]) -> dict[str, Any]:
        with untouched():
            try:
                answer, page = gate_models(
                    self.study,
                    self.rules,
                    parent=parent,
                    child=str(child),
                    output=output,
                    means=Means(workers=1, max_calls=self.max_calls, max_cost=self.max_cost),
                    wanted=Wanted(judge=self.judge, most_cases=self.cases),
                    command=shlex.join(["holdfast", *words]),
                    parents=work / PARENTS,
                    before=self._allow,
                )
            finally:
                release_models()  # the training wants the memory
        return {**gate_document(answer.verdicts), "page": str(page)}

    def _allow(self, studies: Sequence[tuple[Study, Path]]) -> None:
        if self.allow_paid or self.max_cost is not None:
            return
        ahead = look_ahead(studies, self.rules)
        if ahead.paid:
            raise StudyError(
                f"gate: about {ahead.calls:,} calls to {', '.join(ahead.paid)} may cost money; allow it with"
                " allow_paid=True, or bound it with max_cost"
            )


def read_question(
    rules: Path | str | Mapping[str, Any] | None,
    *,
    suite: Path | str,
    parent: Path | str | None,
    cases: int | None,
    judge: str | None,
    where: str,
    workers: int | None,
    max_calls: int | None,
    max_cost: float | None,
    allow_paid: bool,
    env: Mapping[str, str] | None,
) -> Question:
    """What is asked, with all that can be wrong in it looked at. Errors: StudyError, in one line."""
    for name, count in (("cases", cases), ("workers", workers), ("max_calls", max_calls)):
        held = count is None or (type(count) is int and count > 0)
        require(held, f"SafetyGate: {name} is {count!r}; give a whole number above 0, or leave it out")
    require(where in ("process", "here"), f"SafetyGate: where is {where!r}; it is 'process' or 'here'")
    for name, given in (("workers", workers), ("env", env)):
        meant = where == "process" or given is None
        require(meant, f"SafetyGate: {name} is about another process; leave it out, or use where='process'")
    require(not str(suite).startswith("inspect:"), f"SafetyGate: {suite}: a task of Inspect is run by `holdfast gate`")
    # The other process and a later working directory have to find the same file.
    suite = (
        str(Path(suite).expanduser().absolute())
        if is_cases_file(str(suite)) or is_study_file(str(suite))
        else str(suite)
    )
    study = read_study(suite, judge=judge)
    declared = _read_rules(rules, study)
    require_judge(study.judges, judge or declared.judge)
    study.check_prices(max_cost)
    if parent is not None:
        evaluate(study, {name_models(study, [str(parent)])[0]: str(parent)})
    return Question(
        suite=suite,
        study=study,
        rules=declared,
        cases=cases,
        judge=judge,
        workers=workers,
        max_calls=max_calls,
        max_cost=max_cost,
        allow_paid=allow_paid,
        here=where == "here",
        env=dict(env or {}),
    )


def _read_rules(rules: Path | str | Mapping[str, Any] | None, study: Study) -> GateSection:
    if isinstance(rules, Mapping):
        refuse_old_bound(rules, TABLE)
        allow(named_in({TABLE: dict(rules)}))
        return read_rules(noted=rules)
    if rules is None:
        return read_rules(noted=study.gate.model_dump(mode="json"))
    require(isinstance(rules, str | Path), f"SafetyGate: rules is {rules!r:.40}; give a TOML file or a mapping")
    return read_rules(file=Path(rules))


def write_rules(rules: GateSection) -> str:
    """Rules as a TOML file with a [gate] table, which ``--rules`` reads as the same."""
    found = rules.model_dump(mode="json", exclude_none=True)
    tables = {TABLE: {key: value for key, value in found.items() if key != "checks"}}
    tables |= {f"{TABLE}.checks.{_text(name)}": table for name, table in found.get("checks", {}).items()}
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_text(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """A name, number, text or list of texts as TOML and JSON both write it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
