"""Which tests hold numbers against each other with a tolerance: these run under every kernel (`make test-kernels`).

A test belongs where it, a fixture of it, or anything that these use of the tests' own modules calls a comparison with a
tolerance or bounds a distance. Nobody has to mark it: ``conftest`` asks this module for each test that is collected.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
# Calls that compare with a tolerance, by the last part of their name.
COMPARES = frozenset(
    {
        "approx",
        "allclose",
        "isclose",
        "assert_allclose",
        "assert_close",
        "assert_almost_equal",
        "assert_array_almost_equal",
        "assert_array_almost_equal_nulp",
        "assert_array_max_ulp",
        "assert_approx_equal",
        "assertAlmostEqual",
        "gradcheck",
        "gradgradcheck",
        "within",
    }
)
# Calls that make a distance of numbers; to bound one from above is to allow a tolerance.
DISTANCES = frozenset({"abs", "fabs", "absolute", "norm", "apart", "max_difference"})
# A bound by a number as small as this is one on rounding, whatever is bounded.
SMALL = 1e-3
# What is left out of `make test-kernels`, by file or by file and test, and why.
LEFT_OUT: dict[str, str] = {
    "test_coverage.py": "shares of simulated studies against the limits of chance: draws, not sums; a minute each time",
    "test_settings.py": "whole runs by one setting each; the rates that they compare are those of test_loop.py",
    "test_steps.py": "needs a whole study; what a reference computes is in test_stages.py too",
    "test_trees_gpu.py": "counts operations and times a benchmark: no sum of a kernel is compared",
    "test_real_studies.py": "costs that are told before a run: arithmetic on counts",
    "test_inspect.py": "the means are taken by Inspect, of whole numbers; needs two evaluations",
    "test_inspect_foreign.py": "the means are taken by Inspect, of whole numbers; needs two evaluations",
    "test_gate_published.py": "the gate, not one of the four areas: means that test_analysis_published.py has",
    "test_field_gate.py": "the gate, not one of the four areas: shares of whole numbers, in logs that Inspect reads",
    "test_field_gate_logs.py": "the same, of the field's own logs",
    "test_known_scores.py": "what other tools' scores mean, not one of the four areas: shares of whole numbers",
    "test_gate_running.py": "the gate, not one of the four areas: needs whole evaluations",
}


def _name(call: ast.expr) -> str:
    if isinstance(call, ast.Attribute):
        return call.attr
    return call.id if isinstance(call, ast.Name) else ""


def _is_distance(side: ast.expr) -> bool:
    return any(isinstance(node, ast.Call) and _name(node.func) in DISTANCES for node in ast.walk(side))


def _is_small(side: ast.expr) -> bool:
    if isinstance(side, ast.Name) and side.id == "EXACT":
        return True
    return isinstance(side, ast.Constant) and isinstance(side.value, float) and 0 < side.value <= SMALL


def _is_rounded(side: ast.expr) -> bool:
    return isinstance(side, ast.Call) and _name(side.func) == "round" and len(side.args) == 2


def _bounds(compare: ast.Compare) -> bool:
    """Whether a distance is bounded from above, anything is by next to nothing, or rounded numbers are compared."""
    sides = [compare.left, *compare.comparators]
    for left, operator, right in zip(sides, compare.ops, sides[1:], strict=False):
        if isinstance(operator, ast.Eq) and (_is_rounded(left) or _is_rounded(right)):
            return True
        if not isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            continue
        smaller, larger = (left, right) if isinstance(operator, ast.Lt | ast.LtE) else (right, left)
        nothing = isinstance(larger, ast.Constant) and larger.value == 0
        if (_is_distance(smaller) and not nothing) or _is_small(larger):
            return True
    return False


def allows_a_tolerance(tree: ast.AST) -> bool:
    """Whether a piece of code compares numbers with a tolerance, by itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in COMPARES:
            return True
        if isinstance(node, ast.Compare) and _bounds(node):
            return True
    return False


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _defined(path: Path) -> dict[str, list[ast.stmt]]:
    """The statements of a module that give a name its meaning, by name; methods stand under theirs too."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in _parsed(path).body:
        names: list[str] = []
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [statement.name]
            if isinstance(statement, ast.ClassDef):
                for inner in statement.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.setdefault(inner.name, []).append(inner)
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            names = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and not _is_read(node)]
        for name in names:
            found.setdefault(name, []).append(statement)
    return found


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _module(path: Path, name: str) -> Path | None:
    """The file of a module of the tests, as a file among them names it: from their folder or from its own."""
    places = [folder / f"{name.replace('.', '/')}.py" for folder in (TESTS, path.parent)]
    return next((place for place in places if place.is_file()), None)


@cache
def _imported(path: Path) -> dict[str, tuple[Path, str]]:
    """What a module takes from other modules of the tests: its name here, the module and the name there."""
    found: dict[str, tuple[Path, str]] = {}
    for node in ast.walk(_parsed(path)):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            module = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
            if whole := _module(path, f"{module}.{alias.name}"):  # from builders import gate_samples
                found[alias.asname or alias.name] = (whole, "")
            elif there := _module(path, module):
                found[alias.asname or alias.name] = (there, "" if isinstance(node, ast.Import) else alias.name)
    return found


@cache
def _meaning(path: Path, name: str) -> tuple[bool, frozenset[tuple[Path, str]]]:
    """Whether what a name stands for allows a tolerance by itself, and what else of the tests it uses."""
    statements = _defined(path).get(name, [])
    used = frozenset(place for statement in statements for place in _used(path, statement))
    return any(map(allows_a_tolerance, statements)), used


def _used(path: Path, statement: ast.stmt) -> Iterator[tuple[Path, str]]:
    """What a statement uses of this module and of others of the tests; a parameter may be a fixture of either."""
    here, imported = _defined(path), _imported(path)
    for node in ast.walk(statement):
        names: list[str] = []
        if isinstance(node, ast.Name) and _is_read(node):
            names = [node.id]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names = [node.value]  # usefixtures and getfixturevalue
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            yield imported[node.value.id][0], node.attr
        for name in names:
            if name in here:
                yield path, name
            elif name in imported:
                yield imported[name]
            elif isinstance(node, ast.arg):
                yield TESTS / "conftest.py", name


@cache
def needs_kernels(path: Path, name: str) -> bool:
    """Whether a test of a file compares numbers with a tolerance, or anything that it uses does."""
    waiting, seen = [(path, name)], set()
    while waiting:
        place = waiting.pop()
        if place in seen or place[0].name == "rounding.py":
            continue
        seen.add(place)
        allows, used = _meaning(*place)
        if allows:
            return True
        waiting += used
    return False


def names_of_tests(path: Path) -> list[str]:
    """The names of a file's tests."""
    return [name for name in _defined(path) if name.startswith("test_")]


def reason_left_out(path: Path, name: str) -> str | None:
    """Why a test that needs the kernels is not run under all of them, or None where it is."""
    return LEFT_OUT.get(path.name) or LEFT_OUT.get(f"{path.name}::{name}")
