"""What a study needs that is not here: packages, models, keys, another run, disk. Spends nothing, downloads nothing.

Model directories are looked at as far as a run would refuse them; weights are read where that takes seconds, of larger
ones the headers alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from holdfast.judges import open_judge
from holdfast.models.entries import ModelEntry
from holdfast.records.errors import MissingExtra, StoreError, StudyError, pip_install
from holdfast.runs.build import build
from holdfast.runs.methods.files import describe_data
from holdfast.runs.plan.settings import RolloutSettings
from holdfast.runs.plan.step import Plan
from holdfast.store import DATABASE
from holdfast.study.kinds import suite_of
from holdfast.study.parts import ProbeSection
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import RewardSection, TrainingSection
from holdfast.study.study import Study
from holdfast.suites import check_suite
from holdfast.suites.probes import describe_terms

BYTES_PER_EPISODE = {"tiny": 900, "other": 20_000}
BYTES_PER_CHECKPOINT = {"tiny": 2_000_000, "random": 4_000_000, "other": 170_000_000}
_USUAL_RANK = 16  # of another: of an adapter on 8B
READ_BYTES = 4 << 30  # of one model's weights
PACKAGES = {
    "train": ("torch", "transformers", "safetensors"),
    "adapter": ("peft",),
    "remote": ("inspect_ai",),
    "vllm": ("vllm",),
}


def look_around(study: Study) -> tuple[list[str], list[str]]:
    """What stands in a study's way, and what was found: (problems, facts), a line each."""
    plan = build(study)
    checkpoints = sum(len(step.checkpoints) for step in plan.steps)
    needed, free = _bytes_needed(plan), shutil.disk_usage(Path.cwd()).free
    doubts: list[str] = []
    problems = list(_find_problems(study, doubts))
    if needed > free:
        problems.append(f"disk: about {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free here")
    # Public sets of questions have terms, which a user is shown.
    sources = [one.source for one in (study.suite, study.probes) if isinstance(one, SuiteSection | ProbeSection)]
    facts = [
        f"{len(plan.steps)} steps, {checkpoints} checkpoints, {len(study.study.lineages)} lineages",
        *(f"model {name}: {_describe(study, name, entry)}" for name, entry in _models(study).items()),
        *doubts,
        *(f"questions of {terms}" for name in dict.fromkeys(sources) if (terms := describe_terms(name))),
        f"disk: about {needed / 1e6:,.0f} MB of {free / 1e9:,.0f} GB free",
        f"processors: {os.cpu_count()} cores, {study.run.workers} workers of one thread",
    ]
    return problems, facts


def _models(study: Study) -> dict[str, ModelEntry]:
    """Every model that a study uses, by what the study calls it."""
    names = [*study.model.bases, *(judge.model for judge in study.judges.values()), study.suite.world.model]
    return {name: study.entry(name) for name in dict.fromkeys(names) if name is not None}


def _told(check: Callable[[], object]) -> Iterator[str]:
    """What a check refuses, if it does."""
    try:
        check()
    except StudyError as error:
        yield str(error)


def _find_problems(study: Study, doubts: list[str]) -> Iterator[str]:
    """What stands in the way; what a user should know of models that can be used is added to ``doubts``."""
    yield from _told(partial(check_suite, study.suite))
    for name, section in study.judges.items():
        yield from _told(partial(open_judge, name, section))
    models = _models(study)
    needs: set[str] = {entry.kind for entry in models.values()}
    if needs - {"remote"}:
        needs.add("train")
    if any(getattr(stage, "lora_r", 0) for stage in study.stages.values()) or any(study.axes.get("lora_r", ())):
        needs.add("adapter")
    for need in PACKAGES:
        if need in needs and (missing := _missing(need)):
            remedy = pip_install("remote" if need == "remote" else "train") if need != "vllm" else "pip install vllm"
            yield f"packages {', '.join(missing)} are missing: {remedy}"
    for name, stage in study.stages.items():
        try:
            doubts += filter(None, [describe_data(name, stage)])
        except StudyError as error:
            yield str(error)
    source = study.pairs.source
    if study.study.lineages and source not in ("base", "parent") and not (Path(source) / DATABASE).is_file():
        yield f"pairs.source is {source!r}, and no run is there; make it with `holdfast import` or `holdfast run`"
    for name, entry in models.items():
        if entry.kind == "remote":
            yield from _endpoint_problems(study, name)
        elif entry.name and entry.kind in ("local", "vllm", "tiny") and not _missing("train"):
            yield from _model_problems(study, name, entry, doubts)


def _endpoint_problems(study: Study, name: str) -> Iterator[str]:
    endpoint = study.endpoint(name)
    if endpoint.key_env is not None and not os.environ.get(endpoint.key_env):
        yield f"endpoints.{name}.key_env is {endpoint.key_env}, which the environment does not have; set it to the key"
    if endpoint.base_url is not None:
        from holdfast.models.remote.endpoints import check_url

        place = f"endpoints.{name}.base_url"
        yield from _told(partial(check_url, endpoint.base_url, allow_private=endpoint.allow_private, place=place))


def _missing(need: str) -> list[str]:
    return [name for name in PACKAGES[need] if importlib.util.find_spec(name) is None]


def _model_problems(study: Study, name: str, entry: ModelEntry, doubts: list[str]) -> Iterator[str]:
    """Why a run would not open a model of this machine, or not train it."""
    from holdfast.models.hub.gguf import is_gguf
    from holdfast.models.hub.hub import find_model

    try:
        place = find_model(entry.name, entry.revision, download=False)
    except MissingExtra as error:
        yield f"model {name}: {error}"
        return
    except StudyError as error:
        if is_gguf(entry.name):
            yield f"model {name}: {error}"
            return
        yield f"model {name}: {entry.name} is neither a directory nor among the hub's downloads here; get it first"
        return
    if not any(place.glob("*.safetensors")) and not Path(entry.name).expanduser().exists():
        yield f"model {name}: of {entry.name} only a part is among the hub's downloads here; get it first"
        return
    lineages = study.lineages_of(name) if name in study.model.bases else ()
    stages = {stage for lineage in lineages for stage in lineage}
    try:
        doubts += [f"model {name}: {one}" for one in _inspect(place, entry)]
        if stages and entry.kind != "tiny":
            from holdfast.training.policy.adapters import check_source

            check_source(place, download=False)
            trained = [one for name in stages if isinstance(one := study.stages[name], TrainingSection)]
            # Others learn from the tokens of what they sample themselves.
            if any(not (isinstance(one, RewardSection) and one.on_policy) for one in trained):
                _check_chat(study, place, entry)
    except (StudyError, StoreError, MissingExtra) as error:
        yield f"model {name}: {error}"


def _inspect(place: Path, entry: ModelEntry) -> Iterator[str]:
    """Refuses what opening a model refuses, and gives what a user should know of one that is opened.

    Errors: StudyError, StoreError.
    """
    from holdfast.models.hub import hub

    if entry.kind == "tiny":
        from holdfast.models.tiny.model import TinyModel

        hub.check_model(place, download=False)
        TinyModel.load(place)
        return
    if entry.kind == "vllm":
        tokens = hub.check_model(place, engine="vllm", download=False)
    else:
        from holdfast.models.local.local import ATTENTION, quantization_settings

        tokens = hub.check_model(place, attention=ATTENTION, download=False)
        quantization_settings(entry.quantization, place)
    from holdfast.models.directories.opening import check_values, size_of
    from holdfast.models.hub.chat import HubChat

    chat = HubChat(place, calls=entry.calls)
    hub.check_vocabulary(place, chat.tokenizer, tokens)
    if chat.unknown_ends:
        named = ", ".join(map(str, chat.unknown_ends))
        yield f"eos_token_id {named} is beyond its {len(chat.tokenizer)} tokens and never ends a turn; {chat.ends} do"
    size = size_of(place)
    if size > READ_BYTES:
        yield f"{size / 1e9:,.0f} GB of weights, whose values are looked at when a run opens them, here only headers"
    else:
        check_values(place)


def _check_chat(study: Study, place: Path, entry: ModelEntry) -> None:
    """Raises StudyError for a chat format in which this study's episodes cannot be trained on as they are sampled."""
    from holdfast.models.hub.chat import HubChat, check_trainable

    talks = study.approval.settings.values() if study.approval is not None else ()
    called = suite_of(study.suite).has_cases or any(
        "report" in (one.environments or study.approval.environments) for one in talks if study.approval is not None
    )
    check_trainable(
        HubChat(place, calls=entry.calls),
        several=called and study.rollouts.max_turns > 1,
        dialogue=any(one.turns > 1 for one in talks),
    )


def _describe(study: Study, name: str, entry: ModelEntry) -> str:
    if entry.kind in ("tiny", "random"):
        return "made here: no download, no key"
    if entry.kind == "remote":
        endpoint = study.endpoint(name)
        key = f"key from {endpoint.key_env}" if endpoint.key_env else "the provider's own key"
        return f"{entry.name} at {endpoint.base_url or 'its provider'}, {key}"
    from holdfast.models.directories.peft import is_peft, read_peft

    told, place = entry.name, Path(entry.name).expanduser()
    with contextlib.suppress(StudyError):
        if is_peft(place) and (base := read_peft(place, download=False).base):
            told += f", a LoRA adapter on {base}"  # its name alone does not tell which directory that is
    return f"{told}, in this process ({'vLLM' if entry.kind == 'vllm' else 'transformers'})"


def _bytes_needed(plan: Plan) -> int:
    total = 0
    for step in plan.steps:
        if isinstance(step.settings, RolloutSettings):
            total += step.size * BYTES_PER_EPISODE["tiny" if step.settings.agent is None else "other"]
        for checkpoint in step.checkpoints:
            kinds = [plan.study.entry(name).kind for name in plan.study.model.bases if checkpoint.base.startswith(name)]
            kind = kinds[0] if kinds else "tiny"
            if checkpoint.stages or kind in ("tiny", "random"):
                size = BYTES_PER_CHECKPOINT.get(kind, BYTES_PER_CHECKPOINT["other"])
                rank = checkpoint.stages[-1].settings.get("lora_r") if checkpoint.stages else None
                total += size * rank // _USUAL_RANK if rank and kind not in ("tiny", "random") else size
    return total
