"""The arguments of ``holdfast gate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from holdfast.cli.options import add_budget, add_scores, add_trust, add_where, count, number, seed, workers

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


_power = number("power", "a number between 0 and 1", lambda value: 0 < value < 1)


def add_gate(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.description = (
        "Holds a child against its parent with margins that were declared before. Exit code 0 PASS, 1 FAIL,"
        " 3 INCONCLUSIVE, 2 where the two cannot be compared."
    )
    command.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a run's directory, for names without one")
    sides = command.add_argument_group("the two sides")
    what = "a lineage (S, 'S,H dose=4', base), a name or id, RUN:NAME, an Inspect log, or a model with --suite"
    sides.add_argument("--parent", metavar="SIDE", help=f"{what}; default: what the child's last stage started from")
    sides.add_argument("--child", metavar="SIDE", help="the same")
    add_where(sides, "which of several is meant")
    sides.add_argument("--all", action="store_true", help="every trained checkpoint of RUN against its parents")
    sides.add_argument("--suite", type=Path, metavar="STUDY", help="roll both models out through this study's suite")
    sides.add_argument("--again", action="store_true", help="roll the child out anew, with another seed")
    sides.add_argument("--seed", type=seed(1), help="for --again: which other seed (default 1)")
    sides.add_argument(
        "--judges", type=Path, metavar="FILE", help="for --again: a TOML file with [endpoints.NAME] of remote models"
    )
    add_trust(sides)
    sides.add_argument("-o", "--output", type=Path, metavar="NEW_RUN", help="where --suite and --again put episodes")
    sides.add_argument("--scale", metavar="NAME", help="for --suite: a table [scales.NAME] of the study")
    sides.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for --suite: a changed setting")
    rules = command.add_argument_group("what is declared (default: [gate] of the run's study)")
    rules.add_argument("--rules", type=Path, metavar="FILE", help="a TOML file with a [gate] table")
    rules.add_argument("--judge", metavar="NAME", help="whose scores, best a judge that labelled no training pairs")
    add_scores(rules)
    rules.add_argument("--cases", type=count(1), metavar="N", help="compare N cases only, by the digest of their ids")
    for option, (setting, unit, words) in RULE_OPTIONS.items():
        rules.add_argument(option, dest=f"rule_{setting}", metavar=unit, help=words)
    rules.add_argument(
        "--accept-openings", action="store_true", help="compare cases that open with other words or tools"
    )
    _add_outputs(command)


def _add_outputs(command: argparse.ArgumentParser) -> None:
    outputs = command.add_argument_group("what comes of it")
    outputs.add_argument("--plan", action="store_true", help="cases and rollouts needed, with the two sides as a pilot")
    outputs.add_argument("--power", type=_power, default=0.8, help="for --plan: probability of PASS (default 0.8)")
    outputs.add_argument("--full", action="store_true", help="every comparison of --all, not only their counts")
    outputs.add_argument("--json", action="store_true")
    outputs.add_argument("--junit", type=Path, metavar="FILE", help="the verdicts as JUnit XML")
    outputs.add_argument("--markdown", type=Path, metavar="FILE", help="a summary for a pull request")
    outputs.add_argument("--quiet", action="store_true", help="no progress")
    outputs.add_argument("--workers", type=workers, help="worker processes of --suite and --again")
    add_budget(outputs)
