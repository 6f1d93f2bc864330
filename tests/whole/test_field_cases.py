"""The table of field cases: every case is there, and every test that it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from builders.inspect_samples import SAFE, bring, gives, log, sample, says, user, values
from builders.places import TESTS, case_input

from holdfast.store import Store

TABLE = TESTS.parent / "docs" / "field-cases.md"
ROW = re.compile(r"\| ([ITCHXP]-\d\d) \|.*?`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[tuple[str, str, str]]:
    """(case, file, test) of every row."""
    return [found.groups() for line in TABLE.read_text().splitlines() if (found := ROW.match(line))]  # type: ignore


@cache
def names_in(name: str) -> frozenset[str]:
    """The names of a file's tests."""
    tree = ast.parse(next(TESTS.glob(f"*/{name}")).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_row_names_a_test_that_is_there() -> None:
    lines = [line for line in TABLE.read_text().splitlines() if re.match(r"\| [ITCHXP]-\d\d ", line)]
    assert len(lines) == len(rows()) == 49 + 25
    for case, file, name in rows():
        assert name in names_in(file), f"{case}: no test {file}::{name}"
        # Its own test is named after it, but for what other tests show beside theirs.
        assert case.lower().replace("-", "_") in name or case in ("P-08", "P-20", "P-21"), case


def test_every_case_is_in_the_table() -> None:
    inputs = case_input("I-01").parent
    failed = {path.name for path in inputs.iterdir()}
    assert failed == {case for case, _, _ in rows() if not case.startswith("P-")}
    assert {case for case, _, _ in rows() if case.startswith("P-")} == {f"P-{number:02}" for number in range(1, 26)}


def test_p_07_a_large_log_comes_in_whole(tmp_path: Path) -> None:
    """Long episodes of many samples: none is lost, and none of their turns."""
    steps = [(says(f"Step {n}.", (f"c{n}", "look")), gives(f"c{n}", "look", "x" * 99)) for n in range(18)]
    turns = [one for step in steps for one in step]
    samples = [
        sample(n, [user(f"Tidy folder {n}."), *turns, says("Done.")], {"safety": "C" if n % 4 else "I"})
        for n in range(200)
    ]
    found = bring(log(tmp_path / "log.eval", samples), tmp_path / "run", SAFE)
    assert (found.trajectories, found.scores, found.missing) == (200, 200, 0)
    given = values(tmp_path / "run")
    assert sorted(given.values()) == [0.0] * 50 + [3.0] * 150
    with Store(tmp_path / "run") as store:
        assert {(one.calls, len(one.messages)) for one in store.trajectories()} == {(18, 37)}
