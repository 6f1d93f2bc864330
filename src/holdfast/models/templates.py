"""Chat templates. They come with a model and are code, so they run in a sandbox and are tried out in a child first.

The sandbox is Jinja's ``ImmutableSandboxedEnvironment`` with what transformers offers to templates. Only the date that
a template is told is always the same, as a prompt must not depend on the day. ``python -m holdfast.models.templates``
is the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from holdfast.errors import MissingExtra, StudyError

SECONDS = 2.0
_MOST_CHARACTERS = 1 << 20
_MOST_MEMORY = 1 << 30
_TODAY = datetime(2024, 7, 26)
_PRIVATE_NAME = re.compile(r"__\w+__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What to render: messages and tools as transformers takes them."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    prompt: bool = False


class ChatTemplate:
    """A template that has been tried out; ``tokens`` are the special tokens that it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source, self.tokens = source, dict(tokens)
        self._compiled = _compile(source)

    def render(self, rendering: Rendering) -> str:
        """The text of a conversation. Errors: ValueError with the template's own reason."""
        import jinja2

        try:
            text: str = self._compiled.render(
                messages=[_plain(message) for message in rendering.messages],
                tools=[_plain(tool) for tool in rendering.tools] or None,
                add_generation_prompt=rendering.prompt,
                **self.tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(str(error) or repr(error)) from error
        return text


def try_out(source: str, tokens: Mapping[str, str], renderings: Sequence[Rendering], place: str) -> list[str | None]:
    """The text of every rendering, or None where the template refuses it, from a child process with two seconds.

    Errors: StudyError for a template that does not end, reaches for Python's inner names or asks for too much memory.
    """
    job = {
        "source": source,
        "tokens": dict(tokens),
        "renderings": [
            {"messages": list(one.messages), "tools": list(one.tools), "prompt": one.prompt} for one in renderings
        ],
    }
    return list(_try_out(json.dumps(job), place))


@lru_cache(maxsize=64)
def _try_out(job: str, place: str) -> tuple[str | None, ...]:
    # Nothing of the environment is for a template, keys least of all.
    surroundings = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast.models.templates"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=surroundings,
        text=True,
        encoding="utf-8",
    ) as child:
        try:
            answer = _ask_child(child, job)
        except subprocess.TimeoutExpired:
            raise _refused(place, f"does not end within {SECONDS:g} seconds") from None
        finally:
            child.kill()
    if answer is None:
        raise _refused(place, "ends the process that renders it")
    if isinstance(answer["refused"], str):
        raise _refused(place, answer["refused"])
    return tuple(answer["texts"])


def _ask_child(child: subprocess.Popen[str], job: str) -> dict[str, Any] | None:
    assert child.stdout is not None
    if child.stdout.readline() != "ready\n":
        return None
    shown, _ = child.communicate(job, timeout=SECONDS)
    try:
        found: dict[str, Any] = json.loads(shown)
    except ValueError:
        return None
    return found


def _refused(place: str, reason: str) -> StudyError:
    return StudyError(f"{place}: the chat template is refused: it {reason}; use a model with another template")


# --- the sandbox -------------------------------------------------------------------------------------------------


def _environment() -> Any:
    try:
        import jinja2
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtra("rendering chat templates", "train") from error

    class Generation(Extension):
        """``{% generation %}``, which marks what a template takes for the agent's own: no more than its body here."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

        def _show(self, caller: Any) -> str:
            return str(caller())

    def refuse(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    def show_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = show_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": _TODAY.strftime}
    return environment


def _compile(source: str) -> Any:
    """A compiled template. Errors: ValueError for one that is no template or names Python's inner names."""
    import jinja2
    from jinja2 import nodes

    environment = _environment()
    try:
        tree = environment.parse(source)
        names = [node.attr for node in tree.find_all(nodes.Getattr)]
        names += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        if inner := next(filter(_PRIVATE_NAME.search, names), None):
            raise ValueError(f"reaches for Python's inner names ({inner[:40]!r})")
        return environment.from_string(source)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        raise ValueError(f"is no Jinja template ({error})") from error


def _plain(value: Any) -> Any:
    """A JSON value of Python's own types: nothing else is for a template to touch."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")


# --- the child ---------------------------------------------------------------------------------------------------


def _limit() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY, used + _MOST_MEMORY))


def _carry_out(job: Mapping[str, Any]) -> dict[str, Any]:
    import jinja2.exceptions

    texts: list[str | None] = []
    try:
        template = ChatTemplate(job["source"], job["tokens"])
        for one in job["renderings"]:
            try:
                texts.append(template.render(Rendering(**one)))
            except ValueError as error:
                if isinstance(error.__cause__, jinja2.exceptions.SecurityError):
                    return {"refused": f"does what the sandbox forbids ({error})", "texts": []}
                texts.append(None)
            if len(texts[-1] or "") > _MOST_CHARACTERS:
                return {"refused": "writes more than a million characters for a short conversation", "texts": []}
    except ValueError as error:
        return {"refused": str(error), "texts": []}
    except (MemoryError, RecursionError) as error:
        return {"refused": f"asks for more memory than it may have ({type(error).__name__})", "texts": []}
    return {"refused": None, "texts": texts}


def _serve() -> None:
    _environment()
    _limit()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdout.write(json.dumps(_carry_out(json.load(sys.stdin))))


if __name__ == "__main__":
    _serve()
