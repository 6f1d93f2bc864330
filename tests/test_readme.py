"""The README tells the truth: its code runs, its commands exist, its figures and links are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from holdfast.cli.main import COMMANDS, parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_ten_lines_run(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the smoke study, which is the quick study in small; its run is there, so that nothing is repeated."""
    (code,) = blocks("python")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10
    code = code.replace("studies/quick.toml", str(ROOT / "studies" / "smoke.toml")).replace(
        "runs/quick", str(smoke_run)
    )
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert Path(printed[-1]).is_file()
    assert len(printed) > 4


def test_the_table_of_commands_is_the_parsers() -> None:
    told = re.findall(r"^\| `holdfast (\w+)", README, flags=re.MULTILINE)
    assert told == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_pages_parse(page: Path) -> None:
    """Every command line shown is one that the parser takes."""
    shown = [line for block in blocks("sh", page.read_text()) for line in block.splitlines()]
    for line in (line.split("#")[0].split(">")[0].strip() for line in shown):
        if line.startswith("holdfast "):
            assert parser().parse_args(shlex.split(line)[1:])
        elif line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_figures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_target_of_make_is_listed_with_a_word() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.*## .+", makefile, flags=re.MULTILINE), target
