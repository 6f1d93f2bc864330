"""The house: imports point downward, rooms stay small, and the door opens fast."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "holdfast"
MODULES = sorted(path for path in SOURCE.rglob("*.py"))

# From the ground up; a module may import from its own floor and from those below.
FLOORS = (
    ("records", "errors", "processes", "options", "inputs", "outputs"),
    ("sections", "stats", "store"),
    ("conditions", "attachments"),
    ("incentives",),
    ("consistency", "laboratory"),
    ("study",),
    ("plan", "dialogues", "worlds", "models", "audit"),
    ("suites", "judges", "pairs", "testing"),
    ("attacks", "reserves"),
    ("casebook",),
    ("planning", "planner", "lineages", "rewards"),
    ("rollout", "training", "published", "forks"),
    ("rewarder", "addresses"),
    ("analysis",),
    ("report",),
    ("traffic",),
    ("steps", "engines", "forecast", "readiness", "templates"),
    ("execution",),
    ("runs", "rescoring"),
    ("exchange",),
    ("progress", "exports", "imports"),
    ("gate", "watch", "search"),
    ("arguments", "cli", "unexpected", "__init__"),
)
# The same within ``training``.
TRAINING_FLOORS = (
    ("trees", "tree_attention", "encoding", "objectives", "ranks", "states", "heads", "offpolicy", "sampling"),
    ("packing", "rollouts"),
    ("orders", "parts", "passes", "adapters", "sharding", "tracking", "selection"),
    ("mixing", "balance", "merging", "offline"),
    ("loop",),
    ("settings",),
    ("groups",),
    ("supply",),
    ("stages", "preference", "launch", "reinforce"),
)
HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "matplotlib", "scipy", "pydantic", "numpy", "inspect_ai")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path, package: str = "holdfast") -> set[str]:
    """What of a package a module imports, also inside functions; what only a type checker reads is left out."""
    depth = package.count(".") + 1
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            parts = (node.module or "").split(".")
            found |= {parts[depth]} if len(parts) > depth else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[depth] for alias in node.names if alias.name.startswith(f"{package}.")}
    return found


def climbs(path: Path, name: str, floors: tuple[tuple[str, ...], ...], package: str = "holdfast") -> set[str]:
    """What a module imports from above its own floor."""
    floor = {room: level for level, rooms in enumerate(floors) for room in rooms}
    assert name in floor, f"{name} stands on no floor of {package}: give it one"
    return {used for used in imports(path, package) if used in floor and floor[used] > floor[name]}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path: Path) -> None:
    assert not climbs(path, room(path), FLOORS)
    if room(path) == "training" and path.stem != "__init__":
        assert not climbs(path, path.stem, TRAINING_FLOORS, "holdfast.training")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is long"


def test_print_stands_in_the_command_line_only() -> None:
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        assert not printing or path.name == "cli.py", path


def test_exported_names_are_sorted_and_there() -> None:
    assert sorted(holdfast.__all__) == holdfast.__all__
    for name in holdfast.__all__:
        assert getattr(holdfast, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        holdfast.nothing  # noqa: B018


def test_import_and_help_load_nothing_heavy() -> None:
    probe = (
        "import sys, runpy, contextlib, io\n"
        "import holdfast\n"
        "sys.argv = ['holdfast', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    import holdfast.cli\n"
        "    holdfast.cli.main()\n"
        "print([name for name in sys.modules if name in " + repr(HEAVY) + "])\n"
    )
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_help_answers_in_half_a_second() -> None:
    """CPU time of the best of three starts: a loaded machine stretches the clock, not the work."""

    def cpu_seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "holdfast.cli", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(cpu_seconds() for _ in range(3)) < 0.5


def test_the_core_needs_no_training_library() -> None:
    """With torch and its like hidden, the light commands' modules still import."""
    names = ("published", "analysis", "report", "runs", "exports", "forecast", "cli")
    hidden = ("torch", "transformers", "peft", "trl", "accelerate", "matplotlib", "inspect_ai")
    probe = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {hidden}:\n"
        "            raise ImportError('hidden: ' + name)\n"
        "sys.meta_path.insert(0, Hide())\n" + "".join(f"import holdfast.{name}\n" for name in names)
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_documents_name_no_machine() -> None:
    """The project speaks of itself alone: no path of a developer's machine stands in a tracked text."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".js", ".css", ".html"} and path.is_file():
            assert not re.search(r"/(?:home|Users|root)/", path.read_text(encoding="utf-8")), name
