"""Runs a task of Inspect on a model, in this process, by Inspect's own solver and scorer; its log is what is left."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai.log import EvalLog
from inspect_ai.model import get_model

from holdfast.exchange.inspect import registry  # noqa: F401 — so that Inspect knows models by holdfast/DIRECTORY
from holdfast.records.errors import StepError, StudyError

SHUFFLE = 1  # by which samples are drawn where fewer are asked for: both sides meet the same ones
_NOBODY = "mockllm/model"  # asked nothing, where a task is only opened


def open_task(spec: str, arguments: Mapping[str, Any], folder: Path, *, most: int | None = None) -> EvalLog:
    """The log of a task of which no sample was run: what it is, how many samples it has, and its scorers.

    ``spec`` is PACKAGE/TASK or FILE.py@TASK. Errors: StudyError where it cannot be opened.
    """
    return _run(spec, arguments, folder, most, model=get_model(_NOBODY, memoize=False), run_samples=False)


def run_task(
    spec: str, model: str, arguments: Mapping[str, Any], folder: Path, *, most: int | None, base_url: str | None
) -> Path:
    """The log of a task on a model (as Inspect names it), in ``folder``: whole, or it is an error.

    ``most`` samples are run, drawn alike for every model. Errors: StudyError for a task or a model that cannot be
    opened, StepError for one that did not end by itself.
    """
    try:
        opened = get_model(model, base_url=base_url, memoize=False)
    except Exception as error:
        raise StudyError(f"{model}: Inspect cannot open it ({_tell(error)}); check its name and its key") from error
    log = _run(spec, arguments, folder, most, model=opened)
    del opened
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # the model's memory, and the connections that Inspect leaves open
    if log.status != "success":
        why = "" if log.error is None else f" ({' '.join(log.error.message.split())[:300]})"
        raise StepError(f"{spec} on {model}: ended with status {log.status}{why}; its log is {log.location}")
    return Path(log.location)


def _run(spec: str, arguments: Mapping[str, Any], folder: Path, most: int | None, **more: Any) -> EvalLog:
    try:
        logs = inspect_ai.eval(
            spec,
            task_args=dict(arguments),
            log_dir=str(folder),
            limit=most,
            sample_shuffle=None if most is None else SHUFFLE,
            display="none",
            log_format="eval",
            **more,
        )
    except Exception as error:
        raise StudyError(f"--suite inspect:{spec}: cannot be run ({_tell(error)}); check the task") from error
    if len(logs) != 1:
        raise StudyError(f"--suite inspect:{spec}: names {len(logs)} tasks; name one, as FILE.py@TASK or PACKAGE/TASK")
    return logs[0]


def _tell(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
