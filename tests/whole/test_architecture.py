"""The house: sixteen rooms on nine floors, no import upward, no circle, small modules, and a door that opens fast."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import holdfast

SOURCE = Path(holdfast.__file__).parent
# From the ground up. A room may import from lower floors, and from its own where that makes no circle.
FLOORS = (
    ("records",),
    ("stats", "store", "models"),
    ("study", "rollout"),
    ("suites", "training"),
    ("judges",),
    ("analysis", "report", "exchange"),
    ("runs",),
    ("decisions", "__init__"),
    ("cli", "integrations", "__main__"),
)
MOST_LINES = 600  # of a module
MOST_FUNCTION_LINES = 60
HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "typst", "scipy", "pydantic", "numpy", "inspect_ai")


def name_modules() -> dict[str, Path]:
    """Dotted name below ``holdfast`` → file; a package goes by its own name, the face by ``__init__``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = name_modules()


@cache
def trees() -> dict[str, ast.Module]:
    """The modules as parsed, by name."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def read_imports(tree: ast.Module) -> Iterator[str]:
    """Modules of the package that a module imports, inside functions and for type checkers alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield from _below(f"{node.module}.{alias.name}", node.module or "")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _below(alias.name, alias.name)


def _below(full: str, module: str) -> Iterator[str]:
    if module.partition(".")[0] == "holdfast":
        names = (one.removeprefix("holdfast").removeprefix(".") for one in (full, module))
        yield next((name for name in names if name in MODULES), "__init__")


@cache
def imports() -> dict[str, set[str]]:
    """Which other modules of the package each imports."""
    return {name: set(read_imports(tree)) - {name} for name, tree in trees().items()}


def find_circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected parts of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_nodes: list[str] = []
    circles = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        open_nodes.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in number:
                visit(other)
            if other in open_nodes:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            part = []
            while not part or part[-1] != node:
                part.append(open_nodes.pop())
            if len(part) > 1:
                circles.append(sorted(part))

    for node in sorted(arrows):
        if node not in number:
            visit(node)
    return circles


def level(prefix: str) -> dict[str, set[str]]:
    """Arrows between what stands directly in a room: its modules, and its rooms each as one."""
    start = f"{prefix}." if prefix else ""
    depth = start.count(".")

    def child(name: str) -> str | None:
        return ".".join(name.split(".")[: depth + 1]) if name.startswith(start) else None

    found: dict[str, set[str]] = defaultdict(set)
    for name, used in imports().items():
        if (here := child(name)) is not None:
            found[here] |= {there for one in used if (there := child(one)) is not None} - {here}
    return found


def test_there_is_nothing_beside_the_rooms() -> None:
    assert {name.partition(".")[0] for name in MODULES} == {room for floor in FLOORS for room in floor} | {"testing"}


def test_no_import_points_upward() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms} | {"testing": len(FLOORS)}
    climbing = [
        f"{name} → {used}"
        for name, every in imports().items()
        for used in every
        if floor[used.partition(".")[0]] > floor[name.partition(".")[0]]
    ]
    assert not climbing


def test_no_room_and_no_module_stands_in_a_circle() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    for package in ("", *sorted(packages - {"__init__"})):
        assert not find_circles(level(package)), package or "holdfast"


def test_modules_and_functions_stay_small() -> None:
    for name, tree in trees().items():
        assert MODULES[name].read_text(encoding="utf-8").count("\n") <= MOST_LINES, name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < MOST_FUNCTION_LINES, f"{name}: {node.name} is long"


def test_every_room_says_what_it_holds() -> None:
    for name, tree in trees().items():
        told = ast.get_docstring(tree)
        assert (told and told[0].isupper() | (told[0] in "`'\"")) or name == "__init__", name


def test_only_the_command_line_reads_arguments_and_prints() -> None:
    for name, tree in trees().items():
        if name.partition(".")[0] in ("cli", "__main__"):
            continue
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"Namespace", "ArgumentParser"}, name
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), name


def test_exported_names_are_sorted_and_there() -> None:
    assert sorted(holdfast.__all__) == holdfast.__all__
    for name in holdfast.__all__:
        assert getattr(holdfast, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        holdfast.nothing  # noqa: B018


def test_the_face_stays_callable_whatever_was_imported() -> None:
    probe = "import holdfast as hf, holdfast.runs.run, holdfast.study.study; assert hf.run.__name__ == 'run'"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_import_and_help_load_nothing_heavy() -> None:
    probe = (
        "import sys, contextlib, io\n"
        "import holdfast\n"
        "sys.argv = ['holdfast', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    import holdfast.cli.main\n"
        "    holdfast.cli.main.main()\n"
        "print([name for name in sys.modules if name in " + repr(HEAVY) + "])\n"
    )
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_help_answers_in_half_a_second() -> None:
    """CPU time of the best of three starts: a loaded machine stretches the clock, not the work."""

    def cpu_seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "holdfast", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(cpu_seconds() for _ in range(3)) < 0.5
