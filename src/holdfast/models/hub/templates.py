"""Chat templates. They come with a model and are code, so they run in a sandbox, and in a process of limited means.

The sandbox is Jinja's ``ImmutableSandboxedEnvironment`` with what transformers offers to templates. Only the date that
a template is told is always the same, as a prompt must not depend on the day. The process is
``python -m holdfast.models.hub.templates``: it has no environment, bounded memory, and bounded time for each text. One
such process serves all templates of this one; where a template ends it, the next request starts another.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from holdfast.records.errors import MissingExtra, StudyError

SECONDS = 2.0
"""CPU time that one text may take."""
_WAIT = 60.0  # seconds of the clock for the same, on whatever machine, and for the process to start
_MOST_CHARACTERS = 1 << 20  # of a text, beyond a multiple of what it is made from
_MOST_TIMES = 8
_MOST_MEMORY = 1 << 30
_KEPT = 512  # texts of one template that are kept
_TODAY = datetime(2024, 7, 26)
_PRIVATE_NAME = re.compile(r"__\w+__")
Listed = Sequence[Mapping[str, Any]]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


class ChatTemplate:
    """A template; ``tokens`` are the special tokens that it may name, ``place`` is what errors call its model."""

    def __init__(self, source: str, tokens: Mapping[str, str], place: str = "model") -> None:
        self.source, self.tokens, self.place = source, dict(tokens), place
        self._begin = json.dumps({"source": source, "tokens": self.tokens})
        self._text_of = lru_cache(maxsize=_KEPT)(self._ask)

    def render(self, messages: Listed, tools: Listed = (), *, prompt: bool = False, **settings: bool) -> str:
        """The text of a conversation, by messages and tools as transformers takes them, and settings of the template's.

        Errors: ValueError with the template's own reason; StudyError for a template that does not end, reaches for
        Python's inner names or asks for too much memory.
        """
        told = {**settings, "messages": messages, "tools": tools or None, "add_generation_prompt": prompt}
        try:
            asked = json.dumps(told, default=_plain)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return self._text_of(asked)

    def try_out(self, messages: Listed, tools: Listed = (), **how: bool) -> str | None:
        """The text as ``render`` has it, or None where the template refuses the conversation. Errors: StudyError."""
        with contextlib.suppress(ValueError):
            return self.render(messages, tools, **how)
        return None

    def _ask(self, asked: str) -> str:
        try:
            answer = _PROCESS.ask(self._begin, asked)
        except _Ended as error:
            raise self._refused(str(error)) from None
        if "refused" in answer:
            raise self._refused(answer["refused"])
        if "reason" in answer:
            raise ValueError(answer["reason"])
        return str(answer["text"])

    def _refused(self, reason: str) -> StudyError:
        return StudyError(f"{self.place}: the chat template is refused: it {reason}; use a model with another template")


# --- this side of the process ------------------------------------------------------------------------------------


class _Ended(Exception):
    """The process came to an end: what a template did to it."""


class _Process:
    """The process that renders: started when it is first needed, and anew after its end; one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._foreign: subprocess.Popen[bytes] | None = None
        self._known: dict[str, int] = {}
        self._unread = b""

    def ask(self, template: str, asked: str) -> dict[str, Any]:
        """The answer to what is asked of a template, both as JSON. Errors: _Ended."""
        with self._lock:
            try:
                if self._child is None:
                    self._start()
                known = template in self._known
                number = self._known.setdefault(template, len(self._known))
                assert self._child is not None and self._child.stdin is not None
                data = memoryview(f"{number}\n{'' if known else template}\n{asked}\n".encode())
                while data:
                    data = data[self._child.stdin.write(data) :]
                answer: dict[str, Any] = json.loads(self._receive())
            except TimeoutError:
                self.stop()
                raise _Ended(f"does not end within {_WAIT:g} seconds") from None
            except (OSError, ValueError) as error:
                raise _Ended(self._explain()) from error
            if "refused" in answer:  # what was refused may have left little memory to others
                self.stop()
            return answer

    def forget(self) -> None:
        """In a copy of this process: leave what serves the original alone."""
        self._lock = threading.RLock()
        self._foreign, self._child = self._child, None
        self._known, self._unread = {}, b""

    def _start(self) -> None:
        if importlib.util.find_spec("jinja2") is None:
            raise MissingExtra("rendering chat templates", "train")
        # Nothing of the environment is for a template, keys least of all, and no module comes from where one works.
        surroundings = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "holdfast.models.hub.templates"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=surroundings,
            bufsize=0,
        )
        self._known, self._unread = {}, b""
        if self._receive() != b"ready":
            raise ValueError("it did not start")

    def _receive(self) -> bytes:
        """The next line. Errors: TimeoutError; ValueError where there is none to come."""
        assert self._child is not None and self._child.stdout is not None
        deadline = time.monotonic() + _WAIT
        parts = [self._unread]
        while b"\n" not in parts[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._child.stdout], [], [], left)[0]:
                raise TimeoutError
            parts.append(os.read(self._child.stdout.fileno(), 1 << 20))
            if not parts[-1]:
                raise ValueError("it ended")
        line, _, self._unread = b"".join(parts).partition(b"\n")
        return line

    def _explain(self) -> str:
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=1)
        timed_out = self._child.returncode == -signal.SIGPROF
        self.stop()
        return f"does not end within {SECONDS:g} seconds" if timed_out else "ends the process that renders it"

    def stop(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        child.wait()


_PROCESS = _Process()
stop = _PROCESS.stop
"""Ends the process that renders, if there is one; the next request starts another."""

atexit.register(stop)
os.register_at_fork(after_in_child=_PROCESS.forget)


# --- the sandbox -------------------------------------------------------------------------------------------------


def _environment() -> Any:
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

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

    # Without optimization nothing is computed while a template is compiled.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"], optimized=False
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
    except (jinja2.TemplateSyntaxError, SyntaxError) as error:
        raise ValueError(f"is no Jinja template ({error})") from error


# --- the process -------------------------------------------------------------------------------------------------


def _answer(compiled: dict[str, Any], number: str, begin: str, asked: str) -> dict[str, Any]:
    """A text, a template's own reason why there is none, or why the template is refused."""
    import jinja2.exceptions

    if begin:
        told = json.loads(begin)
        try:
            compiled[number] = (_compile(told["source"]), told["tokens"])
        except ValueError as error:
            return {"refused": str(error)}
    template, tokens = compiled[number]
    try:
        text: str = template.render(**tokens, **json.loads(asked))
    except jinja2.exceptions.SecurityError as error:
        return {"refused": f"does what the sandbox forbids ({error})"}
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # whatever a template does wrong is its own reason
        return {"reason": str(error) or repr(error)}
    if len(text) > _MOST_CHARACTERS + _MOST_TIMES * len(asked):
        return {"refused": "writes more than a million characters that nobody said"}
    return {"text": text}


def _serve() -> None:
    """Answer requests of three lines each (a template's number, the template where it is new, what is asked)."""
    import resource

    _environment()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its parent, which says when
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY, used + _MOST_MEMORY))
    lines, answers = sys.stdin.buffer, sys.stdout.buffer
    compiled: dict[str, Any] = {}
    answers.write(b"ready\n")
    answers.flush()
    while number := lines.readline():
        begin, asked = lines.readline(), lines.readline()
        # Beyond its time the system ends this process, whatever it is busy with.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            answer = json.dumps(_answer(compiled, number.decode(), begin.decode().strip(), asked.decode()))
        except (MemoryError, RecursionError) as error:
            answer = json.dumps({"refused": f"asks for more memory than it may have ({type(error).__name__})"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
