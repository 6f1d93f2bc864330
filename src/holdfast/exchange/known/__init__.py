"""The registry of known scores: what the values of the scorers of ``inspect_evals`` mean.

Each row (``scores``) was read from the package's own source and is tested with its scorers. A score of any other origin
is not known, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from holdfast.exchange.known.scores import ANY, KNOWN, PACKAGE, VERSION, KnownScore, Refusal
from holdfast.records import Declaration
from holdfast.store.origins import spell

__all__ = ["KNOWN", "PACKAGE", "VERSION", "KnownScore", "Refusal", "find_known"]


def find_known(
    task: str, scorer: str, key: str, *, registry_name: str | None = None, task_args: Mapping[str, object] | None = None
) -> Declaration | Refusal | None:
    """What a value of a scorer in an Inspect log means, where its source says so.

    ``task`` and ``registry_name`` are the log's ``eval.task`` and ``eval.task_registry_name``, ``scorer`` is the
    scorer's name with or without its package, ``key`` the key of the value or the scorer's name where it gives one
    value, and ``task_args`` the log's ``eval.task_args``, which some scores depend on. The declaration has ``task``,
    ``scorer`` and ``key`` as they were given, the scorer's without its package. None is for what is not in the
    registry: another task, another scorer, or either of another package. A bare name, as a task has that was run from
    a file, is refused unless the scorer's package says whose it is: anyone may use it.
    """
    origin, name = _origin(task, registry_name)
    maker, _, plain = scorer.rpartition("/")
    if origin not in (PACKAGE, "") or maker not in (PACKAGE, "", "inspect_ai"):
        return None
    shown = key.rpartition("/")[2] if key == scorer else key
    rows = _rows(name, plain, shown)
    if not rows:
        return None
    fitting = [row for row in rows if (row.only is None if task_args is None else row.holds_for(task_args))]
    if PACKAGE not in (origin, maker):
        meant = [replace(row.meaning, scorer=row.scorer) for row in fitting if row.meaning is not None]
        told = f"the log does not say that this {name} is the task of {PACKAGE}; if it is, declare --score"
        return Refusal(f"{told} '{spell(meant[0])}'") if meant else None
    if not fitting:
        names = sorted({row.only[0] for row in rows if row.only})
        values = [value for row in rows if row.only for value in row.only[1] if value is not None]
        argument = f"{', '.join(names)} ({', '.join(values)})"
        return Refusal(f"what it means depends on the task's argument {argument}, which the log does not say")
    meaning = fitting[0].meaning
    return Refusal(fitting[0].says) if meaning is None else replace(meaning, task=task, scorer=plain, key=shown)


def _origin(task: str, registry_name: str | None) -> tuple[str, str]:
    """The package and the name of a task. A name with a package in the registry goes before what a log is called."""
    for name in (registry_name, task):
        if name and "/" in name:
            package, _, rest = name.rpartition("/")
            return package, rest
    return "", registry_name or task


def _rows(task: str, scorer: str, key: str) -> tuple[KnownScore, ...]:
    """The rows of a value: those that name it, else those that stand for the rest.

    Inspect numbers scorers of one name in a task, so ``scorer1`` may be another ``scorer``.
    """
    unnumbered = re.sub(r"\d+$", "", scorer)
    plain_key = unnumbered if re.sub(r"\d+$", "", key) == unnumbered else key
    for wanted in dict.fromkeys(((scorer, key), (unnumbered, plain_key), (unnumbered, ANY), (ANY, ANY))):
        if rows := tuple(row for row in KNOWN if task in row.tasks and (row.scorer, row.key) == wanted):
            return rows
    return ()
