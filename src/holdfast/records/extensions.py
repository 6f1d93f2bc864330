"""What a study names and another package may bring: found by name among those shipped, installed, or given as a path.

Three ways lead to an object: a name that holdfast ships, the name of an installed entry point, or a reference
"package.module:object". A reference is code that runs here. It is followed where a study file that the user names
holds it (``allow``) or an installed package declares it; a run's word is no reason to. So is a command of a stage: it
is carried out where such a file holds it, word by word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from holdfast.records.errors import StudyError, did_you_mean, require
from holdfast.records.groups import group_by_key

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SHOWN = 80  # characters of a name
_ALLOWED: set[str] = set()
_COMMANDS: set[tuple[str, ...]] = set()


def allow(references: Iterable[object]) -> None:
    """Let references be followed, and commands (lists of texts) be carried out, in this process.

    The user's own file, or a process that was let, named them.
    """
    for one in references:
        if isinstance(one, str) and _REFERENCE.fullmatch(one):
            _ALLOWED.add(one)
        elif isinstance(one, list | tuple) and all(isinstance(word, str) for word in one):
            _COMMANDS.add(tuple(one))


def allowed() -> tuple[str | tuple[str, ...], ...]:
    """The references that may be followed and the commands, for a process that works for this one."""
    return (*sorted(_ALLOWED), *sorted(_COMMANDS))


def may_carry_out(command: Iterable[str]) -> bool:
    """Whether a command, a program and its arguments, may be carried out in this process."""
    return tuple(command) in _COMMANDS


class Named(Protocol):
    """A record of what can be named."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@cache
def _installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name; one that two folders of a path hold alike counts once."""
    points = group_by_key((point.name, point) for point in entry_points(group=group))
    return {name: tuple({one.value: one for one in namesakes}.values()) for name, namesakes in points.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions(Generic[T]):
    """Objects of type ``kind`` by name: ``shipped`` says where ours are, ``group`` which entry points bring others.

    ``what`` is what messages call one of them, ``known`` what they call all together.
    """

    what: str
    known: str
    group: str
    kind: type[T]
    shipped: Mapping[str, str]

    def find(self, name: str, subject: str = "") -> T:
        """The object of a name. Errors: StudyError after ``subject``: not found, not allowed, or not of its type."""
        try:
            return self._find(name)
        except StudyError as error:
            raise StudyError(f"{subject}{error}") from error

    def _find(self, name: str) -> T:
        points = _installed(self.group).get(name, ())
        if len(points) + (name in self.shipped) > 1:
            owners = ["holdfast"] * (name in self.shipped) + [_owner(point) for point in points]
            raise StudyError(f"{name!r}, which {' and '.join(owners)} both bring; uninstall one of them")
        if name in self.shipped:
            return self._load(self.shipped[name], "holdfast")
        if points:
            return self._check_name(self._load(points[0].value, _owner(points[0])), points[0].value)
        if _REFERENCE.fullmatch(name):
            installed = {point.value for points in _installed(self.group).values() for point in points}
            if name not in _ALLOWED | installed:
                raise StudyError(
                    f"{name!r:.{_SHOWN}}, code that no file of yours names, and a run's word is no reason to run it;"
                    f" name it in the file that you give, or install a package that declares it as {self.group}"
                )
            return self._check_name(self._load(name, f"this {self.what}"), name)
        hint = did_you_mean(name, self.names(), after=" ")
        raise StudyError(f"{name!r:.{_SHOWN}}; {hint}{self.known}: {', '.join(self.names())}; or package.module:object")

    def get(self, name: object) -> T | None:
        """The object of a name that is shipped or installed; None for any other, which is not followed."""
        return self.find(name) if isinstance(name, str) and name in self.names() else None

    def names(self) -> tuple[str, ...]:
        """The names that are shipped or installed."""
        return (*self.shipped, *(name for name in _installed(self.group) if name not in self.shipped))

    def _load(self, reference: str, owner: str) -> T:
        module, _, path = reference.partition(":")
        try:
            loaded: Any = import_module(module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
                raise StudyError(
                    f"{reference!r}, but there is no module {error.name!r}; install its package, or put its folder on"
                    " PYTHONPATH"
                ) from error
            raise StudyError(
                f"{reference!r}, but {module} cannot be imported ({type(error).__name__}: {error}); mend {owner}"
            ) from error
        for part in path.split("."):
            require(hasattr(loaded, part), f"{reference!r}, but {module} has no {path!r}; name what it has")
            loaded = getattr(loaded, part)
        if not isinstance(loaded, self.kind):
            raise StudyError(
                f"{reference!r}, which is of type {type(loaded).__name__}; a {self.what} is a"
                f" {self.kind.__module__}.{self.kind.__name__}"
            )
        return loaded

    def _check_name(self, found: T, reference: str) -> T:
        """What comes from outside has a name of its own, for it stands for the object in results."""
        taken = found.name in self.shipped or any(
            point.value != reference for point in _installed(self.group).get(found.name, ())
        )
        require(not taken, f"{reference!r}, whose own name {found.name!r} is taken; give its record another name")
        return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
