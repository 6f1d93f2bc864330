"""README and docs tell the truth: code runs, commands, figures, links and files are there; and they can be read."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from builders.places import ROOT

from holdfast.cli.main import COMMANDS, parser
from holdfast.records.errors import pip_install

README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 120
COLUMNS = 6


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
    page = (ROOT / "docs" / "commands.md").read_text()
    assert re.findall(r"^\| `holdfast (\w+)", page, flags=re.MULTILINE) == list(COMMANDS)


def test_the_readme_is_short_and_says_its_signs_in_words_first() -> None:
    assert len(README.splitlines()) <= 120
    defined = [README.index(f"**{sign}**") for sign in ("S", "H", "S→H")]
    assert defined == sorted(defined) and defined[-1] + 2 == README.index("S→H")
    assert README.index("The **dose** is") < README.index("Dose")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_can_be_read(page: Path) -> None:
    """Rows of tables and lines that a link makes long may be longer than the rest; no table is wider than a screen."""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) <= COLUMNS + 1, f"{page.name}:{number}"
        elif not re.search(r"\]\(\S+\)|https?://", line):
            assert len(line) <= WIDTH, f"{page.name}:{number}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_are_there(page: Path) -> None:
    """LOG.md and CHANGELOG.md say what was; every other page what is."""
    if page.name in ("LOG.md", "CHANGELOG.md"):
        return
    rooms = {path.name for path in (ROOT / "src" / "holdfast").iterdir() if (path / "__init__.py").is_file()}
    first = "|".join(sorted(rooms - {"runs"} | {"src", "tests", "benchmarks", "studies"}))  # runs/ are of studies
    named = re.findall(rf"`((?:{first})/[\w./-]+|tools/\w+\.py)`", page.read_text())
    for name in (name for name in named if "NAME" not in name):
        found = [ROOT / name, ROOT / "src" / "holdfast" / name, ROOT / "src" / "holdfast" / f"{name}.py"]
        assert any(path.exists() for path in found), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_pages_parse(page: Path) -> None:
    """Every command line shown is one that the parser takes."""
    text = page.read_text().replace("\\\n", " ")
    shown = [line for block in blocks("sh", text) for line in block.splitlines()]
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


def test_pip_commands_name_the_distribution_and_extras_that_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    assert f"pip install '{project['name']}[train]'" in pip_install("train")
    code = "".join(path.read_text() for path in (ROOT / "src").glob("**/*.py"))
    used = re.findall(r"MissingExtra\([^\n]*, \"(\w+)\"\)|pip_install\(\"(\w+)\"\)|with needs\(\"(\w+)\",", code)
    assert {"".join(names) for names in used} <= extras and len(set(used)) > 6
    for text in (code, *(page.read_text() for page in PAGES)):
        shown = re.findall(r"pip install '?([\w.-]+)\[([\w,]+)\]", text)
        assert {name for name, _ in shown} <= {".", project["name"]}
        assert {extra for _, names in shown for extra in names.split(",")} <= extras
