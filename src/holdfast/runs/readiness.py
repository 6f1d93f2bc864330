"""What a study needs that is not here: packages, models, keys, another run, disk. Spends nothing, downloads nothing.

Model directories are looked at as far as a run would refuse them; weights are read where that takes seconds, of larger
ones the headers alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.judges import open_judge
from holdfast.models.entries import ModelEntry
from holdfast.records.errors import MissingExtra, StepError, StoreError, StudyError, pip_install
from holdfast.records.words import count_noun
from holdfast.runs.build import build
from holdfast.runs.methods.command.look import describe_command, find_problems
from holdfast.runs.methods.files import Learning, Opening, describe_data, open_data, openings_of, try_out
from holdfast.runs.plan.settings import RolloutSettings, TeachSettings
from holdfast.runs.plan.step import Plan
from holdfast.runs.steps.bases import language_of
from holdfast.runs.steps.reading import load_chat
from holdfast.store import DATABASE
from holdfast.study.checks import check_taught
from holdfast.study.kinds import suite_of
from holdfast.study.parts import ProbeSection
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import EXTERNAL, ExternalSection, RewardSection, TrainingSection
from holdfast.study.study import Study
from holdfast.suites import check_suite
from holdfast.suites.parts import collect_cases
from holdfast.suites.probes import describe_terms

if TYPE_CHECKING:
    from holdfast.training.encoding import Chat

BYTES_PER_EPISODE = {"tiny": 900, "other": 20_000}
BYTES_PER_CHECKPOINT = {"tiny": 2_000_000, "random": 4_000_000, "other": 170_000_000}
_USUAL_RANK = 16  # of another: of an adapter on 8B
READ_BYTES = 4 << 30  # of one model's weights
TRIED_BYTES = 1 << 30  # of one model's weights, whose passes are tried here; those of larger ones by the first stage
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
    problems = list(_find_problems(study, plan, doubts))
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


def _find_problems(study: Study, plan: Plan, doubts: list[str]) -> Iterator[str]:
    """What stands in the way; what a user should know of models that can be used is added to ``doubts``."""
    yield from _told(partial(check_suite, study.suite, study.judges))
    yield from _told(partial(check_taught, study))
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
        doubts += filter(None, [describe_command(name, stage)])
        yield from find_problems(name, stage)
    yield from _data_problems(study, plan, doubts)
    source = study.pairs.source
    if study.study.lineages and source not in ("base", "parent") and not (Path(source) / DATABASE).is_file():
        yield f"pairs.source is {source!r}, and no run is there; make it with `holdfast import` or `holdfast run`"
    for name, entry in models.items():
        if entry.kind == "remote":
            endpoint, key = study.endpoint(name), f"endpoints.{name}"
            if endpoint.key_env is not None and not os.environ.get(endpoint.key_env):
                yield f"{key}.key_env is {endpoint.key_env}, which the environment does not have; set it to the key"
            if endpoint.base_url is not None:
                from holdfast.models.remote.endpoints import check_url

                url, private = endpoint.base_url, endpoint.allow_private
                yield from _told(partial(check_url, url, allow_private=private, place=f"{key}.base_url"))
        elif entry.name and entry.kind in ("local", "vllm", "tiny") and not _missing("train"):
            yield from _model_problems(study, name, entry, doubts)
    yield from _external_problems(study, doubts)


def _data_problems(study: Study, plan: Plan, doubts: list[str]) -> Iterator[str]:
    """Why stages could not learn from their files; what is in those that they can is added to ``doubts``."""
    named = {name: one for name, one in study.stages.items() if isinstance(one, Learning) and one.digest is not None}
    split_seeds = {made.settings.split_seed for made in plan.steps if isinstance(made.settings, RolloutSettings)}
    held_out: set[Opening] = set()
    with contextlib.suppress(StudyError):  # what is wrong with the suite is told of the suite
        for seed in sorted(split_seeds) if named else ():
            parts = collect_cases(study, seed)
            held_out |= set(openings_of(case for part, cases in parts.items() if part != "train" for case in cases))
    languages = dict(_languages(study, plan)) if named else {}
    for name, stage in named.items():
        try:
            data = open_data(name, stage)
            doubts.append(describe_data(name, data, held_out))
            for base in study.model.bases:
                taken = (*study.lineages_of(base), study.entry(base).start or ())
                if base in languages and any(name in lineage for lineage in taken):
                    chat, reads = languages[base]
                    told = try_out(name, data, base, chat, stage, reads=reads)
                    doubts += filter(None, [told])
        except (StudyError, StepError) as error:
            yield str(error)


def _languages(study: Study, plan: Plan) -> Iterator[tuple[str, tuple[Chat, float]]]:
    """How each base of a study writes conversations, and the most tokens that it reads, where that can be told now."""
    if _missing("train"):
        return
    from holdfast.models.hub.hub import find_model
    from holdfast.models.tiny.chat import MOST_POSITIONS
    from holdfast.training.policy.adapters import longest_sequence

    taught = {one.settings.base: one.settings for one in plan.steps if isinstance(one.settings, TeachSettings)}
    for base in study.model.bases:
        entry = study.entry(base)
        if base in taught:
            yield base, (language_of(taught[base]), MOST_POSITIONS)
        elif entry.name and entry.kind in ("local", "vllm", "tiny"):
            with contextlib.suppress(StudyError, StoreError, MissingExtra):  # told of the model
                directory = find_model(entry.name, entry.revision, download=False)
                yield base, (load_chat(directory, entry.calls or "auto"), longest_sequence(directory))


def _missing(need: str) -> list[str]:
    return [name for name in PACKAGES[need] if importlib.util.find_spec(name) is None]


def _model_problems(study: Study, name: str, entry: ModelEntry, doubts: list[str]) -> Iterator[str]:
    """Why a run would not open a model of this machine, or not train it."""
    from holdfast.models.hub.gguf import is_gguf
    from holdfast.models.hub.hub import find_model

    try:
        directory = find_model(entry.name, entry.revision, download=False)
    except MissingExtra as error:
        yield f"model {name}: {error}"
        return
    except StudyError as error:
        if is_gguf(entry.name):
            yield f"model {name}: {error}"
            return
        yield f"model {name}: {entry.name} is neither a directory nor among the hub's downloads here; get it first"
        return
    if not any(directory.glob("*.safetensors")) and not Path(entry.name).expanduser().exists():
        yield f"model {name}: of {entry.name} only a part is among the hub's downloads here; get it first"
        return
    lineages = study.lineages_of(name) if name in study.model.bases else ()
    stages = [study.stages[stage] for lineage in (*lineages, entry.start or ()) for stage in lineage]
    try:
        doubts += [f"model {name}: {doubt}" for doubt in _inspect(directory, entry)]
        if any(not isinstance(stage, ExternalSection) for stage in stages) and entry.kind != "tiny":
            from holdfast.training.policy.adapters import check_source

            check_source(directory, download=False)
            _try_passes(directory, [stage for stage in stages if isinstance(stage, TrainingSection)])
            # What a stage samples itself it learns from as tokens, which no chat format has to write.
            sampling = [stage for stage in stages if isinstance(stage, RewardSection) and stage.on_policy]
            if any(isinstance(stage, TrainingSection) and stage not in sampling for stage in stages):
                _check_chat(study, directory, entry)
    except (StudyError, StoreError, MissingExtra) as error:
        yield f"model {name}: {error}"


def _external_problems(study: Study, doubts: list[str]) -> Iterator[str]:
    """Why a run would not open what was trained elsewhere, or not take it for what its lineage says it is."""
    for name in dict.fromkeys(name for lineage in study.study.lineages for name in lineage):
        stage = study.stages[name]
        if isinstance(stage, ExternalSection) and not _missing("train"):
            try:
                doubts += _look_at_external(study, name, stage)
            except (StudyError, StoreError, MissingExtra) as error:
                yield f"stages.{name}.path: {error}"


def _look_at_external(study: Study, name: str, stage: ExternalSection) -> list[str]:
    """What was found of a stage that was trained elsewhere. Errors: StudyError, StoreError, MissingExtra."""
    from holdfast.models.hub import hub
    from holdfast.models.hub.kinship import require_kin

    base, before = next(
        (base, lineage[: lineage.index(name)])
        for base in study.model.bases
        for lineage in study.lineages_of(base)
        if name in lineage
    )
    entry = study.entry(base)
    last = study.stages[before[-1]] if before else None
    parent = Path(last.places[0]) if isinstance(last, ExternalSection) else None
    with contextlib.suppress(StudyError):  # what is wrong with the base is told of the base
        if last is None and entry.name:
            parent = hub.find_model(entry.name, entry.revision, download=False)
    found = []
    for place in map(Path, stage.places):
        hub.check_model(place, download=False)
        if parent is not None:
            require_kin(place, parent, calls=entry.calls)
        found += list(_inspect(place, entry))
    steps = [str(one) for one in stage.counted if one is not None]
    told = f", after {', '.join(steps)} steps" if steps else ""
    count = count_noun(len(stage.places), "checkpoints")
    return [f"stages.{name}.path: {one}" for one in (*found, f"{count}{told}, not copied into the run")]


def _inspect(directory: Path, entry: ModelEntry) -> Iterator[str]:
    """Refuses what opening a model refuses, and gives what a user should know of one that is opened.

    Errors: StudyError, StoreError.
    """
    from holdfast.models.hub import hub

    if entry.kind == "tiny":
        from holdfast.models.tiny.model import TinyModel

        hub.check_model(directory, download=False)
        TinyModel.load(directory)
        return
    if entry.kind == "vllm":
        tokens = hub.check_model(directory, engine="vllm", download=False)
    else:
        from holdfast.models.local.decoding import OWN_ATTENTION
        from holdfast.models.local.local import quantization_settings

        tokens = hub.check_model(directory, attention=OWN_ATTENTION, download=False)
        quantization_settings(entry.quantization, directory)
    from holdfast.models.directories.opening import check_values, size_of
    from holdfast.models.hub.chat import HubChat

    chat = HubChat(directory, calls=entry.calls)
    hub.check_vocabulary(directory, chat.tokenizer, tokens)
    if chat.unknown_ends:
        named = ", ".join(map(str, chat.unknown_ends))
        yield f"eos_token_id {named} is beyond its {len(chat.tokenizer)} tokens and never ends a turn; {chat.ends} do"
    size = size_of(directory)
    if size > READ_BYTES:
        yield f"{size / 1e9:,.0f} GB of weights, whose values are looked at when a run opens them, here only headers"
    else:
        check_values(directory)


def _try_passes(directory: Path, stages: Sequence[TrainingSection]) -> None:
    """Opens a small model as stages will: what trees do not compute is told before rollouts are paid for.

    Errors: StudyError, StoreError.
    """
    from holdfast.models.directories.opening import size_of
    from holdfast.training.policy.adapters import open_trained

    if size_of(directory) <= TRIED_BYTES:
        for stage in {(stage.lora_r > 0, stage.precision): stage for stage in stages}.values():
            open_trained(directory, stage)


def _check_chat(study: Study, directory: Path, entry: ModelEntry) -> None:
    """Raises StudyError for a chat format in which this study's episodes cannot be trained on as they are sampled."""
    from holdfast.models.hub.chat import HubChat, check_trainable

    called, dialogue = suite_of(study.suite).has_cases, False
    if (users := study.approval) is not None:
        called |= any("report" in (talk.environments or users.environments) for talk in users.settings.values())
        dialogue = any(talk.turns > 1 for talk in users.settings.values())
    check_trainable(
        HubChat(directory, calls=entry.calls), several=called and study.rollouts.max_turns > 1, dialogue=dialogue
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
            if checkpoint.stages and checkpoint.stages[-1].method == EXTERNAL:
                continue  # it stays where it is
            size = BYTES_PER_CHECKPOINT.get(kinds[0] if kinds else "tiny")
            if size is not None:
                total += size
            elif checkpoint.stages:
                rank = checkpoint.stages[-1].settings.get("lora_r") or _USUAL_RANK
                total += BYTES_PER_CHECKPOINT["other"] * rank // _USUAL_RANK
    return total
