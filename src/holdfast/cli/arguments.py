"""The command line's arguments. Numbers are read by readers that say what they take instead of what they were given."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from holdfast.decisions.watch import MIN_COVERAGE
from holdfast.exchange import FORMATS
from holdfast.records.errors import StudyError, did_you_mean
from holdfast.records.version import VERSION

MOST = 10**9  # of anything that is counted
_SHOWN = 40  # characters of a word that cannot be read


def number(
    what: str, hint: str, takes: Callable[[Any], bool], kind: Callable[[str], Any] = float
) -> Callable[[str], Any]:
    """A reader of a number that ``takes`` accepts; ``hint`` says in words which those are."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if takes(value := kind(text)):
                return value
        shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
        raise argparse.ArgumentTypeError(f"{shown} is no {what}: give {hint}")

    return read


def count(least: int, what: str = "count", *, most: int = MOST) -> Callable[[str], Any]:
    """A reader of a whole number from ``least`` to ``most``."""
    return number(what, f"a whole number from {least} to {most:,}", lambda value: least <= value <= most, int)


def _add_trust(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    command.add_argument(
        "--trust-endpoints", action="store_true", help="reach remote models where RUN's own study says, by its keys"
    )


def _add_budget(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    calls = count(0, "number of calls")
    command.add_argument("--max-calls", type=calls, metavar="N", help="calls to remote models, all together")
    command.add_argument("--max-cost", type=money, metavar="AMOUNT", help="money that those may cost, all together")


def _add_where(command: argparse.ArgumentParser | argparse._ArgumentGroup, words: str) -> None:
    command.add_argument("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=words)


def _add_scores(command: argparse._ArgumentGroup) -> None:
    words = "which score it is; of another scorer's with sign and range: 'safety=-harm[0,1]'"
    command.add_argument("--score", action="append", default=[], metavar="OBJECTIVE=NAME", help=words)


seed = partial(count, what="seed", most=2**63 - 1)
# A study allows no more of either.
workers = count(1, most=1024)
draws = count(1, "number of draws", most=1_000_000)
money = number("amount", "a number from 0", lambda value: 0 <= value < float("inf"))
_score = number("score", "a number from 0 to 3", lambda value: 0 <= value <= 3)
_power = number("power", "a number between 0 and 1", lambda value: 0 < value < 1)
_margin = number("margin", "a number from 0 to below 3", lambda value: 0 <= value < 3)
_level = number("level", "a number from 1e-06 to below 0.5", lambda value: 1e-6 <= value < 0.5)
_share = number("share", "a number from 0 to 1", lambda value: 0 <= value <= 1)
_drop = number("drop", "a number from 1e-06 to below 3", lambda value: 1e-6 <= value < 3)

EXPORT_FORMATS = (*FORMATS, "evidence")
# As argparse tells of a name that is not there.
_MISSPELT = re.compile(
    r"unrecognized arguments: (?P<name>--\S+)|.*invalid choice: '(?P<given>.*?)' \(choose from (?P<known>.*)\)"
)
EXAMPLES_HEAD = "examples:"
EXAMPLES: Mapping[str, Sequence[str]] = {
    "new": (
        "holdfast new mine && holdfast check mine/study.toml",
        "holdfast new --suite mine && holdfast gate org/model ./tuned --suite mine/cases.jsonl",
    ),
    "check": ("holdfast check study.toml --set study.draws=500",),
    "plan": ("holdfast plan study.toml", "holdfast plan study.toml -o runs/mine --full"),
    "run": (
        "holdfast run study.toml -o runs/mine --workers 4",
        "holdfast run changed.toml -o runs/mine --fork runs/changed",
    ),
    "lineage": (
        "holdfast lineage base=models/base SFT=out/sft DPO=out/dpo -o runs/ours",
        "holdfast lineage base=org/model SFT='out/checkpoint-*' --cases 100 -o runs/doses",
    ),
    "join": (
        "holdfast join runs/seed-0 runs/seed-1 runs/seed-2 -o runs/all",
        "holdfast join here/run there/run -o runs/all --shared here/run --without-weights",
    ),
    "carry": ("holdfast carry slice -o outcomes --weights runs/mine/weights",),
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
        "holdfast gate before.eval after.eval --score 'safety=-harm[0,1]'",
        "holdfast gate org/model ./tuned --suite office --cases 100",
        "holdfast gate runs/mine --child 'S,H' --junit gate.xml",
        "holdfast gate runs/mine --all",
        "holdfast gate before.eval after.eval --model-card --sign key.pem",
    ),
    "verify": (
        "holdfast verify gate-2026-12-01 --key pub.pem",
        "holdfast verify statement.dsse.json --key pub.pem --child ./tuned",
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
            groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
            parsers = [self, *(command for group in groups for command in group.choices.values())]
            options = [name for each in parsers for name in each._option_string_actions]
            known = misspelt["known"].replace("'", "").split(", ") if misspelt["known"] else options
            words += did_you_mean((misspelt["given"] or misspelt["name"]).partition("=")[0], known, before="; ")
        self.exit(StudyError.exit_code, f"{self.prog}: {words}; see `{self.prog} --help`\n")


def one_line(text: str) -> str:
    """A message in one line, without the control characters that a path may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.splitlines()))


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    top = _Parser(prog="holdfast", description="Did this training stage cost us safety, and does it hold?")
    top.add_argument("--version", action="version", version=f"holdfast {VERSION}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    new = commands.add_parser("new", help="write a study file, or cases of your own, to start from")
    what = new.add_mutually_exclusive_group(required=True)
    what.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="where study.toml goes")
    words = "write cases to start from instead: a directory, or the name of a file (.jsonl)"
    what.add_argument("--suite", type=Path, metavar="PLACE", help=words)
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


def _add_engine(command: argparse.ArgumentParser) -> None:
    words = "where steps are carried out: local, ray, ray:ADDRESS, slurm, jobs (default: HOLDFAST_ENGINE, else local)"
    command.add_argument("--engine", metavar="NAME", help=words)


def _add_study_commands(commands: Any) -> None:
    check = commands.add_parser("check", help="validate a study; spends nothing")
    _add_study(check)
    _add_engine(check)
    plan = commands.add_parser("plan", help="list a study's steps, what is done, what the rest will cost")
    _add_study(plan)
    plan.add_argument("-o", "--output", type=Path, metavar="RUN", help="a run to compare with (default: runs/NAME)")
    plan.add_argument("--full", action="store_true", help="every step, not only their counts")
    _add_engine(plan)
    plan.add_argument("--json", action="store_true")

    run = commands.add_parser("run", help="do what is missing of a study; repeating it resumes")
    _add_study(run)
    run.add_argument("-o", "--output", type=Path, metavar="RUN", help="the run's directory (default: runs/NAME)")
    run.add_argument("--workers", type=workers, help="worker processes of one thread each (default: the study's)")
    run.add_argument(
        "--fork", type=Path, metavar="NEW_RUN", help="start NEW_RUN with the steps of RUN that still match"
    )
    _add_engine(run)
    _add_budget(run)
    run.add_argument(
        "--search", action="store_true", help="carry out the study's [search] in a run beside RUN (--fork: elsewhere)"
    )
    run.add_argument("--json", action="store_true", help="with --search: its document instead of the table")
    run.add_argument("--full", action="store_true", help="end with every table, not with a summary")
    run.add_argument("--no-report", action="store_true", help="stop after the last step")
    run.add_argument("--quiet", action="store_true", help="no progress")

    _add_lineage(
        commands.add_parser("lineage", help="models that training elsewhere left, each against the one before")
    )

    _add_join(commands.add_parser("join", help="runs of one study with other seeds → one run of all seeds"))
    _add_carry(commands.add_parser("carry", help="one step of a run, carried out from the slice that its driver wrote"))

    bring = commands.add_parser("import", help="a published study, or Inspect logs → a run")
    words = "a .tar, .tar.zst or an unpacked directory; .eval or .json logs"
    bring.add_argument("source", type=Path, metavar="SRC", help=words)
    bring.add_argument("-o", "--output", type=Path, metavar="RUN", required=True)
    words = "what a scorer's value in Inspect logs means: safety=-score[0,1] (- where high is bad), repeatable"
    bring.add_argument("--score", action="append", default=[], metavar="WHAT", help=words)
    bring.add_argument("--quiet", action="store_true")


def _add_lineage(command: argparse.ArgumentParser) -> None:
    command.set_defaults(fork=None, no_report=False)
    words = "a model by a name of yours, base=DIR first: a directory, a pattern of them, or OWNER/NAME[@REVISION]"
    command.add_argument("models", nargs="+", metavar="NAME=MODEL", help=words)
    words = "a suite by its name (default: office), a file of cases (.jsonl), or a study file whose judges are taken"
    command.add_argument("--suite", default="office", metavar="NAME", help=words)
    words = "one of its judges, a kind of judge, or a model that judges by the default rubrics"
    command.add_argument("--judge", metavar="NAME", help=words)
    command.add_argument("--cases", type=count(1), metavar="N", help="held-out cases (default: the suite's)")
    command.add_argument("-o", "--output", type=Path, metavar="RUN", required=True, help="the run's directory")
    command.add_argument("--workers", type=workers, help="worker processes of one thread each (default: 2)")
    _add_engine(command)
    _add_budget(command)
    command.add_argument("--full", action="store_true", help="end with every table, not with a summary")
    command.add_argument("--quiet", action="store_true", help="no progress")


def _add_join(command: argparse.ArgumentParser) -> None:
    words = "runs whose studies differ in study.train_seeds, model.base_seeds or axes.split_seed alone"
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=words)
    command.add_argument("-o", "--output", type=Path, metavar="RUN", required=True, help="the joined run's directory")
    words = "whose shared steps stand where those of the runs differ (default: runs that differ are refused)"
    command.add_argument("--shared", type=Path, metavar="RUN", help=words)
    words = "join runs that are not finished, too; `holdfast run` of the study of all seeds does the rest"
    command.add_argument("--partial", action="store_true", help=words)
    command.add_argument("--without-weights", action="store_true", help="leave the weights where they are")
    words = "a study file that names the code of yours (package.module:object) that the runs' studies use"
    command.add_argument("--study", type=Path, metavar="STUDY", help=words)
    command.add_argument("--quiet", action="store_true", help="no progress")


def _add_carry(command: argparse.ArgumentParser) -> None:
    command.add_argument("slice", type=Path, metavar="SLICE", help="what a run's driver wrote of it for one step")
    command.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="where its outcomes go")
    words = "where weights lie under their digests, as in RUN/weights (default: SLICE/weights)"
    command.add_argument("--weights", type=Path, metavar="DIR", help=words)
    words = "carry out a stage by a program, too: its command runs here"
    command.add_argument("--allow-command", action="store_true", help=words)
    _add_budget(command)


def _add_run_commands(commands: Any) -> None:
    judge = commands.add_parser("judge", help="add a judge's scores to stored trajectories, or try it on canaries")
    judge.add_argument("run", type=Path, nargs="?", metavar="RUN")
    words = "a judge of the run's study or of --judges, or a model that judges by the default rubrics"
    judge.add_argument("--with", dest="judge", required=True, metavar="NAME", help=words)
    judge.add_argument("--judges", type=Path, metavar="FILE", help="a TOML file with [judges.NAME] and what they need")
    _add_trust(judge)
    judge.add_argument("--canaries", action="store_true", help="how often injected text moves the judge; needs no RUN")
    judge.add_argument("--json", action="store_true")
    judge.add_argument("--quiet", action="store_true", help="no progress")
    _add_budget(judge)
    _add_pairs(commands.add_parser("pairs", help="preference pairs by rule: counts, or a TRL dataset"))
    analyze = commands.add_parser("analyze", help="every estimate of a run")
    analyze.add_argument("run", type=Path, metavar="RUN")
    analyze.add_argument("--draws", type=draws, help="resamples (default: the study's, else 10,000)")
    analyze.add_argument("--json", action="store_true")

    _add_gate(commands.add_parser("gate", help="did a child lose safety against its parent"))
    _add_verify(commands.add_parser("verify", help="whether a signed answer of a gate is as it was signed"))
    _add_watch(commands.add_parser("watch", help="checkpoints or traces in time, with alarms"))

    show = commands.add_parser("show", help="a run's status, or one trajectory")
    show.add_argument("run", type=Path, metavar="RUN")
    show.add_argument("id", nargs="?", metavar="ID", help="a trajectory's id, or its first digits")
    show.add_argument("--full", action="store_true", help="every step, not only their counts")
    words = "print the run's digest, over its rows, texts and weights, or hold the run against one that was kept"
    show.add_argument("--digest", nargs="?", const="", metavar="KEPT", help=words)
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


def _add_arguments(command: argparse.ArgumentParser) -> None:
    words = "with --to trl: arguments of calls as TRL documents them (default: object), or as JSON text"
    command.add_argument("--arguments", choices=("object", "text"), help=words)


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


# Rules that may be declared on the command line, in place of those of a file: option → setting of ``[gate]``.
RULE_OPTIONS = {
    "--margin": ("margin", "POINTS", "what safety may fall by, in score points"),
    "--helpfulness-margin": ("helpfulness_margin", "POINTS", "the same of helpfulness"),
    "--severe-margin": ("severe_margin", "SHARE", "what the share of severe events may rise by"),
    "--severe-ceiling": ("severe_ceiling", "SHARE", "bounds the child's own share of severe episodes"),
    "--alpha": ("alpha", "LEVEL", "one-sided level of every bound"),
    "--cluster": ("cluster", "UNIT", "what is drawn independently: auto (default), case or family"),
    "--across": ("across", "HOW", "correction for the number of comparisons of --all: none (default), holm or bh"),
    "--incomplete": (
        "incomplete",
        "HOW",
        "logs that broke off: count (what is absent is unscored, nothing passes), accept or refuse",
    ),
}


def _add_gate(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Holds a child against its parent with margins that were declared before. Exit code 0 PASS, 1 FAIL,"
        " 3 INCONCLUSIVE, 2 where the two cannot be compared."
    )
    words = "a run's directory, for names without one; or the parent and the child"
    command.add_argument("sides", nargs="*", metavar="RUN | PARENT CHILD", help=words)
    _add_sides(command.add_argument_group("the two sides"))
    _add_declared(command.add_argument_group("what is declared (default: [gate] of the run's study)"))
    _add_outputs(command.add_argument_group("what comes of it"))


def _add_sides(sides: argparse._ArgumentGroup) -> None:
    what = "a lineage (S, 'S,H dose=4', base), a name or id, RUN:NAME, an Inspect log, or a model with --suite"
    sides.add_argument("--parent", metavar="SIDE", help=f"{what}; default: what the child's last stage started from")
    sides.add_argument("--child", metavar="SIDE", help="the same")
    _add_where(sides, "which of several is meant")
    sides.add_argument("--all", action="store_true", help="every trained checkpoint of RUN against its parents")
    words = (
        "roll both models out through a suite: its name (office, probes), cases (.jsonl), a study file, or inspect:TASK"
    )
    sides.add_argument("--suite", metavar="SUITE", help=words)
    words = "where remote models are reached; the key is the service's (OPENAI_API_KEY, SERVICE_API_KEY)"
    sides.add_argument("--base-url", metavar="URL", help=words)
    sides.add_argument("--again", action="store_true", help="roll the child out anew, with another seed")
    sides.add_argument("--seed", type=seed(1), help="for --again: which other seed (default 1)")
    sides.add_argument(
        "--judges", type=Path, metavar="FILE", help="for --again: a TOML file with [endpoints.NAME] of remote models"
    )
    _add_trust(sides)
    words = "where the answer goes, and the episodes of --suite and --again (default: gate-DATE here)"
    sides.add_argument("-o", "--output", type=Path, metavar="DIR", help=words)
    words = "for --suite: where a parent's episodes are kept, with which gates of its other children begin"
    sides.add_argument("--parents", type=Path, metavar="DIR", help=words)
    sides.add_argument("--scale", metavar="NAME", help="for --suite: a table [scales.NAME] of the study")
    sides.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for --suite: a changed setting")


def _add_declared(rules: argparse._ArgumentGroup) -> None:
    rules.add_argument("--rules", type=Path, metavar="FILE", help="a TOML file with a [gate] table")
    rules.add_argument("--judge", metavar="NAME", help="whose scores, best a judge that labelled no training pairs")
    _add_scores(rules)
    rules.add_argument(
        "--cases",
        type=count(1),
        metavar="N",
        help="compare N cases only, by the digest of their ids; --suite meets no more",
    )
    for option, (setting, unit, words) in RULE_OPTIONS.items():
        rules.add_argument(option, dest=f"rule_{setting}", metavar=unit, help=words)
    rules.add_argument(
        "--accept-openings", action="store_true", help="compare cases that open with other words or tools"
    )


def _add_outputs(outputs: argparse._ArgumentGroup) -> None:
    outputs.add_argument("--plan", action="store_true", help="cases and rollouts needed, with the two sides as a pilot")
    outputs.add_argument("--power", type=_power, default=0.8, help="for --plan: probability of PASS (default 0.8)")
    outputs.add_argument("--full", action="store_true", help="every comparison of --all, not only their counts")
    outputs.add_argument("--json", action="store_true")
    outputs.add_argument("--junit", type=Path, metavar="FILE", help="the verdicts as JUnit XML")
    outputs.add_argument("--markdown", type=Path, metavar="FILE", help="a summary for a pull request")
    words = "a part of a model's README and its results as the Hugging Face Hub keeps them, beside the answer"
    outputs.add_argument("--model-card", action="store_true", help=words)
    words = "for --model-card: the dataset of the Hub that the results belong to"
    outputs.add_argument("--hub-dataset", metavar="OWNER/NAME", help=words)
    words = "sign the answer, and the weights that are at hand, with an Ed25519 key in PEM (holdfast verify)"
    outputs.add_argument("--sign", type=Path, metavar="KEY", help=words)
    outputs.add_argument("--quiet", action="store_true", help="no progress")
    outputs.add_argument("--workers", type=workers, help="worker processes of --suite and --again")
    _add_budget(outputs)
    outputs.add_argument("--yes", action="store_true", help="make paid calls without asking")


# Numbers that are declared before the looks: option → reader, default, unit, words.
_DECLARED = {
    "--margin": (_margin, 0.25, "POINTS", "a drop by more raises the alarm"),
    "--min-coverage": (_share, MIN_COVERAGE, "SHARE", "of what a look asks, so much must have a score"),
    "--alpha": (_level, 0.05, "LEVEL", "the chance of any false alarm, over all looks together"),
    "--best-of": (
        count(1),
        1,
        "K",
        "the baseline is the best of K checkpoints by these scores: each takes its share of the level",
    ),
}


def _add_verify(command: argparse.ArgumentParser) -> None:
    words = "what `holdfast gate --sign` wrote: statement.dsse.json, or the directory of the answer"
    command.add_argument("file", type=Path, metavar="FILE", help=words)
    command.add_argument("--key", type=Path, metavar="PUB", required=True, help="the Ed25519 public key")
    command.add_argument("--parent", type=Path, metavar="DIR", help="the parent's weights, to be held against theirs")
    command.add_argument("--child", type=Path, metavar="DIR", help="the child's")
    command.add_argument("--json", action="store_true")


def _add_watch(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Later checkpoints, deployments or production traces against a baseline, with bounds that hold however often"
        " one looks. Exit code 0: no alarm; 1: an alarm, or the judge has drifted; 3: too little data to say anything."
    )
    words = "the run, or Inspect logs, that the baseline is in"
    command.add_argument("run", type=Path, nargs="?", metavar="RUN", help=words)
    words = "a checkpoint of RUN: a lineage (S, 'S,H dose=4', base), a name or id"
    command.add_argument("--baseline", metavar="NAME", help=words)
    _add_where(command, "which of several of RUN is meant, the baseline and --checkpoints alike")
    looks = command.add_argument_group("what is looked at")
    words = "checkpoints of RUN (of each --run: which one) in order of time; default: the doses of the next stage"
    looks.add_argument("--checkpoints", nargs="+", metavar="NAME", help=words)
    words = "a later run or Inspect log; repeatable"
    looks.add_argument("--run", dest="runs", action="append", type=Path, metavar="RUN", help=words)
    looks.add_argument("--traces", nargs="+", type=Path, metavar="FILE", help="production traces: one look, not paired")
    looks.add_argument("--label", metavar="TEXT", help="what the look is called (default: the files' names)")
    rules = command.add_argument_group("what is declared")
    rules.add_argument("--judge", metavar="NAME", help="whose scores; with --traces and --frozen, who judges")
    rules.add_argument("--judges", type=Path, metavar="FILE", help="a TOML file with [judges.NAME] and what they need")
    _add_trust(rules)
    rules.add_argument("--objective", default="safety", metavar="NAME", help="which score (default: safety)")
    _add_scores(rules)
    for option, (kind, default, unit, words) in _DECLARED.items():
        rules.add_argument(option, type=kind, default=default, metavar=unit, help=f"{words} (default {default:g})")
    rules.add_argument("--frozen", type=count(0), metavar="N", help="trajectories that are judged anew each time")
    rules.add_argument("--sample", type=count(1), metavar="N", help="of the traces, so many are judged")
    rules.add_argument("--seed", type=seed(0), default=0, help="of --sample and --frozen (default 0)")
    command.add_argument("--state", type=Path, metavar="FILE", help="what was seen so far; read, and replaced")
    command.add_argument("--strict", action="store_true", help="refuse a record of a trace that cannot be read")
    command.add_argument("--drop", type=_drop, metavar="POINTS", help="say how soon it is caught")
    words = "where the page and the JSON go; with --traces, the traces' run"
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help=words)
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write a summary for a pull request or an issue")
    command.add_argument("--json", action="store_true")
    command.add_argument("--quiet", action="store_true", help="no progress")
    _add_budget(command)
