"""The tables of a hostile audit of the statistics, made again with today's code.

    python benchmarks/audit.py [--json] [--only A5 A6] [--scale N] [--processes N]

Each module in ``audits/`` re-makes one item through the project's own functions. A figure is held against the bounds
that it must keep, its 95 % Monte-Carlo error given away. ``--scale`` multiplies the number of draws; at 1 all of them
take less than 20 minutes on two cores. Exit code 1 where a figure does not keep its bounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import audits
from audits.rows import Row
from machine import document

PACKAGES = ("numpy", "scipy")


def list_items() -> dict[str, str]:
    """Item of the audit → its module's name, in the audit's order."""
    names = sorted(one.name for one in pkgutil.iter_modules(audits.__path__) if one.name != "rows")
    return {importlib.import_module(f"audits.{name}").ITEM: name for name in names}


def measure(name: str, scale: float) -> tuple[list[Row], float]:
    """The rows of one module and the seconds that they took."""
    started = time.monotonic()
    rows: list[Row] = importlib.import_module(f"audits.{name}").measure(scale)
    return rows, time.monotonic() - started


def describe(row: Row) -> str:
    """A row as a line: what was simulated, the figure with its error, its bounds, what the audit found before."""
    error = "" if row.error is None else f" ±{row.error:.3g}"
    bounds = [f"{words} {end:g}" for words, end in (("at least", row.low), ("at most", row.high)) if end is not None]
    held = "" if not bounds else f" ({', '.join(bounds)}: {'holds' if row.holds else 'FAILS'})"
    before = f"  before: {row.before}" if row.before else ""
    return f"  {row.case:64} {row.value:.4g}{error}{held}{before}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether every figure keeps its bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="ITEM", help="items of the audit, such as A5")
    parser.add_argument("--scale", type=float, default=1.0, help="times the number of draws")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    chosen = parser.parse_args(arguments)
    items = list_items()
    unknown = set(chosen.only or ()) - set(items)
    if unknown:
        parser.error(f"no item {', '.join(sorted(unknown))}; there are {', '.join(items)}")
    wanted = {item: name for item, name in items.items() if not chosen.only or item in chosen.only}
    figures: dict[str, Any] = {}
    failed = 0
    with ProcessPoolExecutor(chosen.processes) as pool:
        begun = {item: pool.submit(measure, name, chosen.scale) for item, name in wanted.items()}
        for item, name in wanted.items():
            rows, seconds = begun[item].result()
            claim = importlib.import_module(f"audits.{name}").CLAIM
            failed += sum(not row.holds for row in rows)
            figures[item] = {
                "claim": claim,
                "seconds": round(seconds, 1),
                "rows": [
                    {"case": row.case, "value": row.value, "error": row.error, "low": row.low, "high": row.high}
                    | {"holds": row.holds, "before": row.before}
                    for row in rows
                ],
            }
            if not chosen.json:
                print(f"{item}: {claim} ({seconds:.0f} s)", *map(describe, rows), sep="\n", flush=True)
    if chosen.json:
        print(json.dumps(document("audit", PACKAGES, figures, {}), indent=1))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
