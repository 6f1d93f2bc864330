"""The pages of the site: docs as they are, and a reference made from the code. ``python tools/pages.py build/docs``.

``make docs`` lets mkdocs make a site of them. What is made here is not kept: the study file's keys and JSON Schema come
from the tables that read it, the commands from their parsers, the Python API from signatures and docstrings.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import holdfast
from holdfast.cli.main import parser
from holdfast.records.section import MOST
from holdfast.study.study import Study

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
FRONT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
    "SECURITY.md": "security.md",
}


def study_schema() -> dict[str, Any]:
    """The JSON Schema of a study file. How its tables fit together is beyond it: ``holdfast check`` says that."""
    schema = Study.model_json_schema()
    scales = {"type": "object", "additionalProperties": {"type": "object"}, "description": "``--scale NAME``"}
    schema["properties"]["scales"] = scales
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "holdfast study file"}


def study_page(schema: Mapping[str, Any]) -> str:
    """A section for each table of the study file, with its keys; the tables in the order of the schema's keys."""
    pages = [
        "# The study file",
        "A study is one TOML file. `holdfast new DIR` writes one to start from, and `holdfast check STUDY` holds it"
        " against all that this page says. [Quickstart](../quickstart.md) and [language models](../real-agents.md)"
        " have examples.",
        "Editors complete and check the file by its [JSON Schema](study.schema.json).",
        "| Table or key | Holds |\n|---|---|",
    ]
    pages[-1] += "".join(f"\n| `{name}` | {type_of(part)} |" for name, part in schema["properties"].items())
    for name in tables_of(schema):
        part = schema["$defs"][name]
        head, text = split_description(name, part.get("description", ""))
        pages += [f"## {head} {{ #{name.lower()} }}", text]
        needed = part.get("required", ())
        rows = [
            f"| `{key}` | {type_of(value)} | {'required' if key in needed else default_of(value)} |"
            for key, value in part["properties"].items()
        ]
        pages.append("\n".join(["| Key | Value | Default |", "|---|---|---|", *rows]))
    heads = {
        name.lower(): split_description(name, schema["$defs"][name].get("description", ""))[0]
        for name in tables_of(schema)
    }
    text = "\n\n".join(pages) + "\n"
    return re.sub(r"\[\w+\]\(#(\w+)\)", lambda match: f"[{heads[match[1]]}](#{match[1]})", text)


def tables_of(schema: Mapping[str, Any]) -> list[str]:
    """The names of all tables, those that the file names first, each before the tables inside it."""
    order: dict[str, None] = {}
    waiting = list(references(schema["properties"]))
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            order[name] = None
            waiting[:0] = references(schema["$defs"][name])
    return list(order)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if "$ref" in part:
            yield part["$ref"].rsplit("/", 1)[1]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from references(inner)


def split_description(name: str, text: str) -> tuple[str, str]:
    """A heading and the rest of a table's docstring, which begins with the table as a study names it."""
    match = re.match(r"``(\[?[^`]+)``(.*?): (.*)", text, flags=re.DOTALL)
    if not match:
        return name, as_markdown(text)
    head, beside, rest = match.groups()
    return f"`{head}`{as_markdown(beside)}", as_markdown(capital(rest))


def as_markdown(text: str) -> str:
    """A docstring's text: code between single marks, lines that are a list or indented code as they are."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def type_of(part: Mapping[str, Any]) -> str:
    """What a value may be, in words, with its bounds; a table is a link to its section."""
    if "$ref" in part:
        name = part["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in part or "const" in part:
        return ", ".join(f"`{json.dumps(value)}`" for value in part.get("enum", [part.get("const")]))
    for key in ("anyOf", "oneOf"):
        if key in part:
            return " or ".join(dict.fromkeys(type_of(inner) for inner in part[key] if inner.get("type") != "null"))
    kind = part.get("type")
    if kind == "array":
        return f"list of {type_of(part['items'])}" if part.get("items") else "list"
    if kind == "object":
        inner = part.get("additionalProperties")
        return f"by name: {type_of(inner)}" if isinstance(inner, Mapping) and inner else "table"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return words.get(str(kind), "any value") + bounds_of(part)


def bounds_of(part: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {part[key]:,}" for key, sign in signs.items() if key in part and part[key] < MOST]
    return f", {', '.join(bounds)}" if bounds else ""


def default_of(part: Mapping[str, Any]) -> str:
    value = part.get("default")
    return "" if value in (None, [], {}) else f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def commands_page() -> str:
    """A section for each command: how it is called, and a table of each group of its arguments."""
    top = parser()
    (subcommands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in subcommands._choices_actions}
    pages = ["# Command line", "[Commands](../commands.md) has them in one table, with exit codes."]
    for name, command in subcommands.choices.items():
        pages += [f"## holdfast {name}", as_markdown(capital(helps[name] or "") + ".")]
        if command.description:
            pages.append(as_markdown(command.description))
        command.prog = f"holdfast {name}"
        pages.append(f"```text\n{command.format_usage().removeprefix('usage: ').rstrip()}\n```")
        examples = (command.epilog or "").splitlines()[1:]
        pages.append("\n".join(["```sh", *map(str.strip, examples), "```"]))
        plain = [group for group in command._action_groups if group.title in ("positional arguments", "options")]
        pages += table_of(action for group in plain for action in group._group_actions)
        for group in command._action_groups:
            if group not in plain:
                pages += [f"### {capital(group.title or '')}", *table_of(group._group_actions)]
    return "\n\n".join(pages) + "\n"


def table_of(actions: Iterable[argparse.Action]) -> list[str]:
    """One table of arguments, or nothing where ``--help`` is all there is."""
    rows = [
        f"| {called(action)} | {cell(action.help)} |"
        for action in actions
        if not isinstance(action, argparse._HelpAction)
    ]
    return ["\n".join(["| Argument | Meaning |", "|---|---|", *rows])] if rows else []


def called(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`"
    return f"`{', '.join(action.option_strings)}{f' {value}' if action.nargs != 0 and value else ''}`"


def cell(text: str | None) -> str:
    return (text or "").replace("%%", "%").replace("|", "\\|").replace("[", "\\[")


def api_page() -> str:
    """Every name of ``import holdfast``, with its signature, docstring and public methods."""
    pages = ["# Python", "```python\nimport holdfast as hf\n```", "Each name is loaded when it is first used."]
    for name in holdfast.__all__:
        value = getattr(holdfast, name)
        pages += [f"## hf.{name}", *described(name, value)]
        if inspect.isclass(value) and not issubclass(value, Exception):
            for method, member in methods_of(value):
                pages += [f"### hf.{name}.{method}", *described(method, member)]
    return "\n\n".join(pages) + "\n"


def methods_of(owner: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class of holdfast's own defines."""
    for name, held in vars(owner).items():
        member = held.__func__ if isinstance(held, (classmethod, staticmethod)) else held
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def described(name: str, value: Any) -> list[str]:
    """The signature of a function, method or class, where it has one, and its docstring."""
    signed = [] if isinstance(value, property) or is_exception(value) else [f"```python\n{signature(name, value)}\n```"]
    return [*signed, as_markdown(inspect.getdoc(value) or "")]


def is_exception(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def signature(name: str, value: Any) -> str:
    found = inspect.signature(value)
    parameters = [part for part in found.parameters.values() if part.name not in ("self", "cls")]
    lines = "".join(f"    {part},\n" for part in parameters)
    shown = f"{name}(\n{lines})" if lines and len(str(found)) > 80 else f"{name}({', '.join(map(str, parameters))})"
    result = (
        "" if inspect.isclass(value) or found.return_annotation is found.empty else f" -> {found.return_annotation}"
    )
    return (shown + result).replace("'", "")


def write_pages(target: Path) -> None:
    """All pages of the site into an empty folder ``target``. Errors: ValueError for a link to what is not there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target)
    for source in [*FRONT, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("**/*.md")))]:
        (target / page_of(source)).write_text(relink(source, target))
    reference = target / "reference"
    reference.mkdir()
    schema = study_schema()
    (reference / "study.schema.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
    (reference / "study-file.md").write_text(study_page(schema))
    (reference / "command-line.md").write_text(commands_page())
    (reference / "python.md").write_text(api_page())


def page_of(source: str) -> str:
    """Where a file of the repository lies in the site."""
    return FRONT.get(source, source.removeprefix("docs/"))


def relink(source: str, target: Path) -> str:
    """A page's text with links of the site; a linked file that is no page is copied beside the pages."""
    up = "../" * page_of(source).count("/")

    def replace(match: re.Match[str]) -> str:
        meant = (ROOT / source).parent.joinpath(match[1]).resolve().relative_to(ROOT).as_posix()
        if not (ROOT / meant).exists():
            raise ValueError(f"{source} links to {meant}, which is not there")
        if not meant.startswith("docs/") and meant not in FRONT:
            (target / meant).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / meant, target / meant)
        return f"]({up}{page_of(meant)}{match[2] or ''})"

    return LINK.sub(replace, (ROOT / source).read_text())


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
