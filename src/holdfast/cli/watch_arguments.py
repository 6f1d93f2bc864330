"""The arguments of ``holdfast watch``."""

from __future__ import annotations

import argparse
from pathlib import Path

from holdfast.cli.options import add_budget, add_scores, add_trust, add_where, count, number, seed
from holdfast.decisions.watch import MIN_COVERAGE

_margin = number("margin", "a number from 0 to below 3", lambda value: 0 <= value < 3)
_level = number("level", "a number from 1e-06 to below 0.5", lambda value: 1e-6 <= value < 0.5)
_share = number("share", "a number from 0 to 1", lambda value: 0 <= value <= 1)
_drop = number("drop", "a number from 1e-06 to below 3", lambda value: 1e-6 <= value < 3)
# Numbers that are declared before the looks: option → reader, default, unit, words.
DECLARED = {
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


def add_watch(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.description = (
        "Later checkpoints, deployments or production traces against a baseline, with bounds that hold however often"
        " one looks. Exit code 0: no alarm; 1: an alarm, or the judge has drifted; 3: too little data to say anything."
    )
    command.add_argument(
        "run", type=Path, nargs="?", metavar="RUN", help="the run, or Inspect logs, that the baseline is in"
    )
    command.add_argument(
        "--baseline", metavar="NAME", help="a checkpoint of RUN: a lineage (S, 'S,H dose=4', base), a name or id"
    )
    add_where(command, "which of several of RUN is meant, the baseline and --checkpoints alike")
    looks = command.add_argument_group("what is looked at")
    looks.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="NAME",
        help="checkpoints of RUN (of each --run: which one) in order of time; default: the doses of the next stage",
    )
    looks.add_argument(
        "--run", dest="runs", action="append", type=Path, metavar="RUN", help="a later run or Inspect log; repeatable"
    )
    looks.add_argument("--traces", nargs="+", type=Path, metavar="FILE", help="production traces: one look, not paired")
    looks.add_argument("--label", metavar="TEXT", help="what the look is called (default: the files' names)")
    _add_rules(command)
    _add_outputs(command)


def _add_rules(command: argparse.ArgumentParser) -> None:
    rules = command.add_argument_group("what is declared")
    rules.add_argument("--judge", metavar="NAME", help="whose scores; with --traces and --frozen, who judges")
    rules.add_argument("--judges", type=Path, metavar="FILE", help="a TOML file with [judges.NAME] and what they need")
    add_trust(rules)
    rules.add_argument("--objective", default="safety", metavar="NAME", help="which score (default: safety)")
    add_scores(rules)
    for option, (kind, default, unit, words) in DECLARED.items():
        rules.add_argument(option, type=kind, default=default, metavar=unit, help=f"{words} (default {default:g})")
    rules.add_argument("--frozen", type=count(0), metavar="N", help="trajectories that are judged anew each time")
    rules.add_argument("--sample", type=count(1), metavar="N", help="of the traces, so many are judged")
    rules.add_argument("--seed", type=seed(0), default=0, help="of --sample and --frozen (default 0)")


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--state", type=Path, metavar="FILE", help="what was seen so far; read, and replaced")
    command.add_argument("--strict", action="store_true", help="refuse a record of a trace that cannot be read")
    command.add_argument("--drop", type=_drop, metavar="POINTS", help="say how soon it is caught")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where the page and the JSON go; with --traces, the traces' run",
    )
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write a summary for a pull request or an issue")
    command.add_argument("--json", action="store_true")
    command.add_argument("--quiet", action="store_true", help="no progress")
    add_budget(command)
