"""ToolEmu's toolkits as tools with JSON schemas. A tool's public name is its toolkit's name for models and its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.records import JSON, ToolSpec
from holdfast.rollout.worlds.schemas import TYPES, show
from holdfast.suites.toolemu.files import Record, find_repeated, refuse

PUBLIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what every provider takes for a tool's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolkit:
    """Tools that belong together. ``declared`` is by public name what each returns and raises."""

    name: str
    description: str
    tools: tuple[ToolSpec, ...]
    declared: Mapping[str, JSON]


def read_toolkits(path: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Toolkit]:
    """The toolkits of a file by name. Errors: StudyError."""
    toolkits: dict[str, Toolkit] = {}
    for number, one in enumerate(records):
        record = Record(path, f"$[{number}]", one)
        toolkit = _read_toolkit(record)
        if toolkit.name in toolkits:
            record.refuse("toolkit", f"a second toolkit {show(toolkit.name)}", "give each its own name")
        toolkits[toolkit.name] = toolkit
    return toolkits


def _read_toolkit(record: Record) -> Toolkit:
    name, prefix = record.text("toolkit"), record.text("name_for_model")
    made = [_read_tool(tool, name, prefix) for tool in record.records("tools")]
    if not made:
        record.refuse("tools", f"the toolkit {show(name)} has no tools")
    return Toolkit(
        name=name,
        description=record.text("description_for_model"),
        tools=tuple(tool for tool, _ in made),
        declared={tool.name: declared for tool, declared in made},
    )


def _read_tool(record: Record, toolkit: str, prefix: str) -> tuple[ToolSpec, JSON]:
    name = prefix + record.text("name")
    if not PUBLIC_NAME.fullmatch(name):
        record.refuse("name", f"the public name {show(name)}", "use at most 64 letters, digits, _ and -")
    parameters = record.records("parameters")
    returns = [
        {"name": one.text("name"), "type": _type_of(one), "description": one.text("description", "")}
        for one in record.records("returns")
    ]
    exceptions = [
        {"name": one.text("name"), "description": one.text("description", "")}
        for one in record.records("exceptions", optional=True)
    ]
    properties = {one.text("name"): _parameter_schema(one) for one in parameters}
    for key, names in (
        ("parameters", [one.text("name") for one in parameters]),
        ("returns", [one["name"] for one in returns]),
        ("exceptions", [one["name"] for one in exceptions]),
    ):
        if twice := find_repeated(names):
            record.refuse(key, f"{show(twice)} stands twice", "give each its own name")
    schema = {
        "type": "object",
        "properties": properties,
        "required": [one.text("name") for one in parameters if one.flag("required", False)],
        "additionalProperties": False,
    }
    tool = ToolSpec(name=name, description=_describe(record.text("summary"), returns), parameters=schema)
    return tool, {"toolkit": toolkit, "returns": returns, "exceptions": exceptions}


def _describe(summary: str, returns: Sequence[JSON]) -> str:
    lines = [f"- {one['name']} ({one['type']}): {one['description']}" for one in returns]
    return "\n".join([summary, "Returns:", *lines]) if lines else summary


def _type_of(record: Record) -> str:
    kind = record.text("type")
    if kind not in TYPES:
        record.refuse("type", f"unknown type {show(kind)}", f"use one of {', '.join(TYPES)}")
    return kind


def _parameter_schema(record: Record) -> JSON:
    kind = _type_of(record)
    # What an array holds and an object has is said in the description alone.
    loose: Mapping[str, JSON] = {"array": {"items": {}}, "object": {"additionalProperties": True}}
    return {"type": kind, "description": record.text("description", ""), **loose.get(kind, {})}


def join_toolkits(place: str, toolkits: Sequence[Toolkit]) -> tuple[tuple[ToolSpec, ...], dict[str, JSON]]:
    """The tools of one case, and what each returns and raises. Errors: StudyError where two share a public name."""
    tools = tuple(tool for toolkit in toolkits for tool in toolkit.tools)
    if twice := find_repeated(tool.name for tool in tools):
        refuse(place, f"two tools are called {show(twice)}", "name each toolkit once, and give each tool its own name")
    return tools, {name: one for toolkit in toolkits for name, one in toolkit.declared.items()}
