"""The command line's arguments: what can be asked for, and mistakes told in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from holdfast.cli.gate_arguments import add_gate
from holdfast.cli.options import add_budget, add_trust, count, draws, number, seed, workers
from holdfast.cli.watch_arguments import add_watch
from holdfast.exchange import FORMATS
from holdfast.records.errors import StudyError, did_you_mean
from holdfast.records.version import VERSION

EXPORT_FORMATS = (*FORMATS, "evidence")


# As argparse tells of a name that is not there.
_MISSPELT = re.compile(
    r"unrecognized arguments: (?P<name>--\S+)|.*invalid choice: '(?P<given>.*?)' \(choose from (?P<known>.*)\)"
)
EXAMPLES_HEAD = "examples:"
EXAMPLES: Mapping[str, Sequence[str]] = {
    "new": ("holdfast new mine && holdfast check mine/study.toml",),
    "check": ("holdfast check study.toml --set study.draws=500",),
    "plan": ("holdfast plan study.toml", "holdfast plan study.toml -o runs/mine --full"),
    "run": (
        "holdfast run study.toml -o runs/mine --workers 4",
        "holdfast run changed.toml -o runs/mine --fork runs/changed",
    ),
    "import": (
        "holdfast import logs/before.eval -o runs/before --score 'safety=-harm[0,1]'",
        "holdfast import published.tar -o runs/published",
    ),
    "judge": (
        "holdfast judge runs/mine --with grader --judges judges.toml",
        "holdfast judge --with grader --judges judges.toml --canaries",
    ),
    "pairs": ("holdfast pairs runs/mine --objective safety --judge state --to trl -o pairs.jsonl",),
    "analyze": ("holdfast analyze runs/mine", "holdfast analyze runs/mine --json > analysis.json"),
    "gate": (
        "holdfast gate --parent before.eval --child after.eval --score 'safety=-harm[0,1]'",
        "holdfast gate --suite study.toml --parent org/model --child ./tuned -o runs/gate",
        "holdfast gate runs/mine --child 'S,H' --junit gate.xml",
        "holdfast gate runs/mine --all",
    ),
    "watch": (
        "holdfast watch runs/mine --baseline S --drop 0.5",
        "holdfast watch runs/mine --baseline S --traces traces.jsonl --judge grader -o runs/today --state watch.json",
    ),
    "show": ("holdfast show runs/mine", "holdfast show runs/mine 4f2a9c", "holdfast show runs/mine --digest"),
    "report": ("holdfast report runs/mine",),
    "export": (
        "holdfast export runs/mine --to csv -o scores.csv",
        "holdfast export runs/mine --to hf --checkpoint 'S,H' -o model",
    ),
}


class _Help(argparse.HelpFormatter):
    """Help that keeps the lines of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES_HEAD) else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, with the nearest name where one is misspelt."""

    def error(self, message: str) -> NoReturn:
        words = one_line(message)
        if misspelt := _MISSPELT.match(words):
            known = misspelt["known"].replace("'", "").split(", ") if misspelt["known"] else self._find_options()
            words += did_you_mean((misspelt["given"] or misspelt["name"]).partition("=")[0], known, before="; ")
        self.exit(StudyError.exit_code, f"{self.prog}: {words}; see `{self.prog} --help`\n")

    def _find_options(self) -> list[str]:
        """Every option of this parser and of its commands."""
        parsers = [self, *(one for action in self._actions for one in _commands_of(action))]
        return [name for one in parsers for name in one._option_string_actions]


def _commands_of(action: argparse.Action) -> Iterable[argparse.ArgumentParser]:
    return action.choices.values() if isinstance(action, argparse._SubParsersAction) else ()


def one_line(text: str) -> str:
    """A message in one line, without the control characters that a path may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.splitlines()))


_score = number("score", "a number from 0 to 3", lambda value: 0 <= value <= 3)


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    top = _Parser(prog="holdfast", description="Did this training stage cost us safety, and does it hold?")
    top.add_argument("--version", action="version", version=f"holdfast {VERSION}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    new = commands.add_parser("new", help="write a study file to start from")
    new.add_argument("directory", type=Path, metavar="DIR")
    _add_study_commands(commands)
    _add_run_commands(commands)
    for name, command in commands.choices.items():
        command.epilog = "\n  ".join([EXAMPLES_HEAD, *EXAMPLES[name]])
        command.formatter_class = _Help
    return top


def _add_study(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", type=Path, metavar="STUDY")
    command.add_argument("--scale", metavar="NAME", help="one of the study's [scales.NAME]")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value for a dotted key; repeatable"
    )


def _add_study_commands(commands: Any) -> None:
    check = commands.add_parser("check", help="validate a study; spends nothing")
    _add_study(check)
    plan = commands.add_parser("plan", help="list a study's steps, what is done, what the rest will cost")
    _add_study(plan)
    plan.add_argument("-o", "--output", type=Path, metavar="RUN", help="a run to compare with (default: runs/NAME)")
    plan.add_argument("--full", action="store_true", help="every step, not only their counts")
    plan.add_argument("--json", action="store_true")

    run = commands.add_parser("run", help="do what is missing of a study; repeating it resumes")
    _add_study(run)
    run.add_argument("-o", "--output", type=Path, metavar="RUN", help="the run's directory (default: runs/NAME)")
    run.add_argument("--workers", type=workers, help="worker processes of one thread each (default: the study's)")
    run.add_argument(
        "--fork", type=Path, metavar="NEW_RUN", help="start NEW_RUN with the steps of RUN that still match"
    )
    add_budget(run)
    run.add_argument(
        "--search", action="store_true", help="carry out the study's [search] in a run beside RUN (--fork: elsewhere)"
    )
    run.add_argument("--json", action="store_true", help="with --search: its document instead of the table")
    run.add_argument("--full", action="store_true", help="end with every table, not with a summary")
    run.add_argument("--no-report", action="store_true", help="stop after the last step")
    run.add_argument("--quiet", action="store_true", help="no progress")

    bring = commands.add_parser("import", help="a published study, or Inspect logs → a run")
    bring.add_argument(
        "source", type=Path, metavar="SRC", help="a .tar, .tar.zst or an unpacked directory; .eval or .json logs"
    )
    bring.add_argument("-o", "--output", type=Path, metavar="RUN", required=True)
    bring.add_argument(
        "--score",
        action="append",
        default=[],
        metavar="WHAT",
        help="what a scorer's value in Inspect logs means: safety=-score[0,1] (- where high is bad), repeatable",
    )
    bring.add_argument("--quiet", action="store_true")


def _add_run_commands(commands: Any) -> None:
    _add_judge(commands.add_parser("judge", help="add a judge's scores to stored trajectories, or try it on canaries"))
    _add_pairs(commands.add_parser("pairs", help="preference pairs by rule: counts, or a TRL dataset"))
    analyze = commands.add_parser("analyze", help="every estimate of a run")
    analyze.add_argument("run", type=Path, metavar="RUN")
    analyze.add_argument("--draws", type=draws, help="resamples (default: the study's, else 10,000)")
    analyze.add_argument("--json", action="store_true")

    add_gate(commands.add_parser("gate", help="did a child lose safety against its parent"))
    add_watch(commands.add_parser("watch", help="checkpoints or traces in time, with alarms"))

    show = commands.add_parser("show", help="a run's status, or one trajectory")
    show.add_argument("run", type=Path, metavar="RUN")
    show.add_argument("id", nargs="?", metavar="ID", help="a trajectory's id, or its first digits")
    show.add_argument("--full", action="store_true", help="every step, not only their counts")
    show.add_argument(
        "--digest",
        nargs="?",
        const="",
        metavar="KEPT",
        help="print the run's digest, over its rows, texts and weights, or hold the run against one that was kept",
    )
    report = commands.add_parser("report", help="tables, figures and one HTML page")
    report.add_argument("run", type=Path, metavar="RUN")
    report.add_argument("--draws", type=draws, help="resamples (default: the study's, else 10,000)")
    report.add_argument("-o", "--output", type=Path, metavar="DIR", help="the report's folder (default: RUN/report)")

    export = commands.add_parser("export", help="a run in another tool's format")
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("--to", choices=EXPORT_FORMATS, required=True)
    export.add_argument("--checkpoint", metavar="NAME_OR_ID", help="with --to hf: whose weights to write, merged")
    export.add_argument("--rules", type=Path, metavar="FILE", help="with --to evidence: TOML with a [gate] table")
    _add_arguments(export)
    export.add_argument("-o", "--output", type=Path, metavar="PATH", required=True)


def _add_judge(judge: argparse.ArgumentParser) -> None:
    judge.add_argument("run", type=Path, nargs="?", metavar="RUN")
    judge.add_argument(
        "--with",
        dest="judge",
        required=True,
        metavar="NAME",
        help="a judge of the run's study or of --judges, or a model that judges by the default rubrics",
    )
    judge.add_argument("--judges", type=Path, metavar="FILE", help="a TOML file with [judges.NAME] and what they need")
    add_trust(judge)
    judge.add_argument("--canaries", action="store_true", help="how often injected text moves the judge; needs no RUN")
    judge.add_argument("--json", action="store_true")
    judge.add_argument("--quiet", action="store_true", help="no progress")
    add_budget(judge)


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--arguments",
        choices=("object", "text"),
        help="with --to trl: arguments of calls as TRL documents them (default: object), or as JSON text",
    )


def _add_pairs(pairs: argparse.ArgumentParser) -> None:
    pairs.add_argument("run", type=Path, metavar="RUN")
    pairs.add_argument("--objective", action="append", required=True, help="twice: both must agree")
    pairs.add_argument("--judge", required=True)
    pairs.add_argument("--min-gap", type=_score, default=2.0, help="score points (default 2)")
    pairs.add_argument("--min-chosen", type=_score, default=2.0, help="score of the chosen side (default 2)")
    pairs.add_argument("--any", action="store_true", help="union of the objectives' pairs instead of their agreement")
    pairs.add_argument("--cap-per-case", type=count(1), help="at most so many pairs of a case")
    pairs.add_argument("--equal-cases", action="store_true", help="weigh pairs so that cases count alike")
    pairs.add_argument("--other-models-only", action="store_true", help="no pair between two runs of one model")
    pairs.add_argument("--fit-only", action="store_true", help="no trajectory that the audit found unfit")
    pairs.add_argument("--seed", type=seed(0), default=0, help="for --cap-per-case (default 0)")
    pairs.add_argument("--to", choices=["trl"], help="write the pairs as JSON lines that TRL loads")
    _add_arguments(pairs)
    pairs.add_argument("-o", "--output", type=Path, metavar="FILE", help="where --to writes (default: standard output)")
    pairs.add_argument("--json", action="store_true")
