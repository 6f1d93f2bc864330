"""The site's pages: the reference names all that there is, the schema takes our own studies, links lead somewhere."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builders.places import ROOT

import holdfast as hf
from holdfast.cli.main import COMMANDS, parser


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "tools" / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site") / "docs"
    tool.write_pages(target)
    return target


@pytest.fixture(scope="module")
def schema(pages: Path) -> Any:
    return json.loads((pages / "reference" / "study.schema.json").read_text())


@pytest.mark.parametrize("study", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_the_schema_takes_the_studies_that_are_shipped(study: Path, schema: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    raw = tomllib.loads(study.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(raw, schema)
    with pytest.raises(jsonschema.ValidationError, match="lineges"):
        jsonschema.validate(raw | {"study": {**raw["study"], "lineges": []}}, schema)


def test_the_page_of_the_study_file_has_every_table_and_key(pages: Path, schema: Any) -> None:
    page = (pages / "reference" / "study-file.md").read_text()
    for key in schema["properties"]:
        assert f"| `{key}` |" in page
    for name, table in schema["$defs"].items():
        (section,) = re.findall(rf"\{{ #{name.lower()} \}}\n(.*?)(?=\n## |\Z)", page, flags=re.DOTALL)
        assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == list(table["properties"])
    anchors = set(re.findall(r"\{ #(\w+) \}", page))
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= anchors


def test_the_page_of_the_command_line_has_every_command_and_option(pages: Path) -> None:
    page = (pages / "reference" / "command-line.md").read_text()
    sections = dict(re.findall(r"^## holdfast (\w+)\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    assert list(sections) == list(COMMANDS)
    (commands,) = (part for part in parser()._actions if isinstance(part, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        for action in command._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"^\| `(-\w, )?{option}[ `,]", sections[name], flags=re.MULTILINE), (name, option)


def test_the_page_of_the_python_api_has_every_public_name(pages: Path) -> None:
    page = (pages / "reference" / "python.md").read_text()
    assert re.findall(r"^## hf\.(\w+)", page, flags=re.MULTILINE) == hf.__all__
    assert "### hf.Run.persistence" in page and "hf.Run._" not in page


def test_links_between_the_pages_lead_somewhere(pages: Path) -> None:
    for page in pages.glob("**/*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_a_link_to_what_is_not_there_is_an_error(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("[gone](../absent.md)")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"docs/page\.md links to absent\.md, which is not there"):
        tool.relink("docs/page.md", tmp_path)


def test_the_site_has_every_page_in_its_menu(pages: Path) -> None:
    menu = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert menu == {path.relative_to(pages).as_posix() for path in pages.glob("**/*.md")}
