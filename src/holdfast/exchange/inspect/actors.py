"""Who acted in a log: what decides an agent's replies tells checkpoints apart, and secrets are no part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from inspect_ai.log import EvalLog

from holdfast.exchange.openings import mask_dates
from holdfast.exchange.scoring import Origin, short_name
from holdfast.models.calls.structured import clean
from holdfast.records import Checkpoint, content_id

REDACTED = "(redacted)"
AXIS_LENGTH = 80  # of a setting's value in a checkpoint's name
NOT_SET = "not set"
# How requests are sent, and how often the same model is asked: none of it makes it another model.
_OPERATION = frozenset(
    {
        *("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections"),
        *("adaptive_connections", "cache", "cache_prompt", "batch", "logprobs", "top_logprobs", "prompt_logprobs"),
        *("fail_on_refusal", "seed", "extra_headers"),
        *("device", "device_map", "gpu_memory_utilization", "tensor_parallel_size", "port"),
    }
)
GRADERS = frozenset({"grader", "judge", "scorer"})
"""Model roles that give scores, not replies."""
TESTED = frozenset({"target", "agent", "assistant"})
"""Model roles that are put to the test, so that two sides may differ in them."""
_SECRET = re.compile(r"(?i)key$|token$|secret|passw|auth|credential|cookie|signature")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in memory, another one in each process


def _settings_of(log: EvalLog) -> dict[str, str]:
    """What decided the replies in a log besides the model's name: setting → value as text, without secrets.

    Arguments of the model keep their own names; the others say whose they are.
    """
    header = log.eval
    settings = _generation(log)
    settings |= {name: value for name, value in (header.model_args or {}).items() if name not in _OPERATION}
    settings |= {f"task {name}": value for name, value in (header.task_args or {}).items()}
    settings |= {f"solver {name}": value for name, value in (header.solver_args or {}).items()}
    settings |= {f"role {name}": value for name, value in roles_of(log).items() if name not in GRADERS}
    beside = {"base_url": header.model_base_url, "solver": header.solver, "steps": _digest_steps(log)}
    settings |= {name: value for name, value in beside.items() if value}
    return {clean(str(name)): plain_text(_safe(str(name), value)) for name, value in sorted(settings.items())}


def _digest_steps(log: EvalLog) -> str:
    """A digest of a log's solver steps, whose prompts are long; empty without any. The day's date changes none."""
    steps = [[step.solver, _without_dates(step.params)] for step in log.plan.steps]
    return content_id(plain_text(steps))[:8] if steps else ""


def _without_dates(value: Any) -> Any:
    """A value with what changes from day to day in its dated texts masked as that of an opening is."""
    if isinstance(value, Mapping):
        return {str(key): _without_dates(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_dates(one) for one in value]
    return mask_dates(value) if isinstance(value, str) else value


def _generation(log: EvalLog) -> dict[str, Any]:
    """The generation settings of a log that decide a reply, as they are given; defaults are none of them."""
    given = (log.eval.model_generate_config, log.plan.config)
    told = {key: value for one in given for key, value in one.model_dump(mode="json", exclude_none=True).items()}
    decisive = {name: value for name, value in told.items() if name not in _OPERATION}
    if "system_message" in decisive:
        decisive["system_message"] = _without_dates(decisive["system_message"])
    return decisive


def compared_settings(log: EvalLog) -> dict[str, dict[str, Any]]:
    """What decided a log's episodes and scores besides who acted, by group: what two sides must have in common.

    Numbers and truths stay what they are, all else is text, without secrets.
    """
    header = log.eval
    config = header.config.model_dump(mode="json", exclude_none=True)
    # A task that is told which model it is given says who acted by it.
    paths = (value for value in (header.model_args or {}).values() if isinstance(value, str) and "/" in value)
    models = [header.model, header.model.partition("/")[2], *paths]
    task, solver = (
        {name: value for name, value in (arguments or {}).items() if value not in models}
        for arguments in (header.task_args, header.solver_args)
    )
    steps, name = _digest_steps(log), {"name": header.solver} if header.solver else {}
    groups: dict[str, dict[str, Any]] = {
        "task": {"version": header.task_version, **task},
        "solver": {**name, **solver, **({"steps": steps} if steps else {})},
        "limits": {key: value for key, value in config.items() if key == "approval" or key.endswith("_limit")},
        "generation": _generation(log),
        "roles": {name: value for name, value in roles_of(log).items() if name not in TESTED},
    }
    return {
        group: {clean(str(name)): _comparable(_safe(str(name), value)) for name, value in settings.items()}
        for group, settings in groups.items()
    }


def _comparable(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) and abs(value) < 2**63 else plain_text(value)


def roles_of(log: EvalLog) -> dict[str, Any]:
    """The models of a log's roles, such as the target of an audit: role → names and addresses, without secrets."""
    roles = {}
    for name, bound in (log.eval.model_roles or {}).items():
        models = bound if isinstance(bound, list) else [bound]
        roles[name] = [[one.model, _safe("", one.base_url or ""), _safe("", one.args)] for one in models]
    return roles


def origin_of(log: EvalLog) -> Origin:
    """Where a log's scores come from: its task, its scorers with their options, and the models that grade."""
    graders = {name: models for name, models in roles_of(log).items() if name in GRADERS}
    scorers = log.eval.scorers or ()

    def options(scorer: str) -> str:
        own = next((one.options for one in scorers if short_name(one.name) == short_name(scorer)), None)
        return plain_text({**(own or {}), **graders})

    return Origin(
        task=log.eval.task,
        registry=log.eval.task_registry_name,
        arguments=log.eval.task_args or {},
        scorers=tuple(one.name for one in scorers),
        options=options,
    )


def identify(log: EvalLog) -> tuple[str, dict[str, str]]:
    """The checkpoint id of a log that holdfast did not export, and the settings that are in it."""
    settings = _settings_of(log)
    return content_id("inspect checkpoint", clean(log.eval.model), clean(log.eval.task), settings), settings


def name_checkpoints(
    new: Mapping[str, tuple[EvalLog, Mapping[str, str]]],
    known: Mapping[str, Mapping[str, str]],
    held: Iterable[Checkpoint],
) -> list[Checkpoint]:
    """Checkpoints of logs by id, their ``axes`` saying in what they differ from others of their model and task.

    ``known`` are the settings of those that the run holds (``held``) from earlier imports.
    """
    bases = {name: f"{clean(log.eval.model)} ({clean(log.eval.task)})" for name, (log, _) in new.items()}
    settings: dict[str, Mapping[str, str]] = {name: own for name, (_, own) in new.items()}
    for checkpoint in held:
        if checkpoint.id in known and checkpoint.id not in settings:
            bases[checkpoint.id], settings[checkpoint.id] = checkpoint.base, known[checkpoint.id]
    made = []
    for name, (log, mine) in new.items():
        others = [settings[other] for other in settings if bases[other] == bases[name]]
        keys = sorted({key for other in others for key in other})
        differing = [key for key in keys if len({other.get(key, NOT_SET) for other in others}) > 1]
        # Cut values, unless two checkpoints would then be alike; its own stand among the others once more.
        short = [{key: _shorten(other.get(key, NOT_SET)) for key in differing} for other in (mine, *others)]
        axes = short[0] if short.count(short[0]) == 2 else {key: mine.get(key, NOT_SET) for key in differing}
        made.append(Checkpoint(id=name, base=bases[name], axes=axes, model=clean(log.eval.model)))
    return made


def _shorten(value: str) -> str:
    """The end of a long value: paths differ there."""
    return value if len(value) <= AXIS_LENGTH else f"…{value[-AXIS_LENGTH:]}"


def _safe(name: str, value: Any) -> Any:
    """A value without secrets: what a key's name says is one, and users and queries of addresses."""
    if _SECRET.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): _safe(str(key), one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_safe("", one) for one in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    try:
        parts = urlsplit(value)
    except ValueError:
        return REDACTED
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def plain_text(value: Any) -> str:
    """A setting's value as text that is equal in every process: without addresses of objects in memory."""
    text = value
    if not isinstance(value, str):
        try:
            text = orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS).decode()
        except (TypeError, ValueError):  # a whole number beyond 64 bits, half a surrogate pair
            text = repr(value)
    return _ADDRESS.sub("", clean(text))
