"""The names of the published study's files: metadata that it keeps nowhere else, parsed once by a strict grammar.

    raw_data_by_eval/{gpt5m,q32}/AGENT[/AGENT]/FILE          25 models, the source of its preference pairs
    {match,cross}_eval_results/AGENT/FILE                    3 source models and 180 trained ones
    AGENT  a model's name with "_" for the first "/", or
           dpo_NICK_METRIC_JUDGE[_beta-0.05]_sSEED[_METRIC_JUDGE[_beta-0.05]_sSEED]
    FILE   AGENT_emu-EMULATOR_eval-JUDGE[_int4|_int8]_rSTART-STOP_DDMM_HHMMSS[_eval_agent_METRIC].jsonl

What the grammar does not know is refused with the name and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NoReturn

from holdfast.records import Checkpoint, StageRecord, content_id
from holdfast.records.errors import StudyError

RAW_FOLDER = "raw_data_by_eval"
RESULT_SUFFIX = "_eval_results"
LAYOUT = f"{RAW_FOLDER}/{{gpt5m,q32}}/AGENT/FILE.jsonl or {{match,cross}}{RESULT_SUFFIX}/AGENT/FILE.jsonl"
EMULATOR = "Qwen_Qwen3-8B"
DEFAULT_BETA = 0.1
JUDGES: Mapping[str, str] = {"gpt5m": "gpt-5-mini", "q32": "Qwen3-32B"}
JUDGE_IN_FILE: Mapping[str, str] = {"gpt-5-mini": "gpt-5-mini", "Qwen_Qwen3-32B": "Qwen3-32B"}
STAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "safe": ("S", ("safety",)),
    "help": ("H", ("helpfulness",)),
    "both": ("S&H", ("safety", "helpfulness")),
}
METRICS: Mapping[str, tuple[str, str]] = {
    "safe": ("safety", "ToolCallRisk"),
    "help_ignore_safety": ("helpfulness", "Helpfulness"),
}
SOURCES: Mapping[str, tuple[str, str]] = {
    "Qwen_Qwen2.5-7B-Instruct": ("Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    "meta-llama_Llama-3.1-8B-Instruct": ("Llama3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
    "microsoft_phi-4": ("Phi-4", "microsoft/phi-4"),
}
NICKNAMES = tuple(nickname for nickname, _ in SOURCES.values())

_FILE = re.compile(
    r"(?P<agent>.+)_emu-(?P<emulator>.+)_eval-(?P<judge>.+?)(?:_(?P<quantization>int4|int8))?"
    r"_r(?P<start>\d{1,3})-(?P<stop>\d{1,3})_\d{4}_\d{6}(?:_eval_agent_(?P<metric>safe|help_ignore_safety))?\.jsonl",
    re.ASCII,
)
_TRAINED = re.compile(rf"dpo_(?P<nick>{'|'.join(map(re.escape, NICKNAMES))})_(?P<stages>.+)", re.ASCII)
_STAGE = re.compile(
    r"(?P<metric>safe|help|both)_(?P<judge>gpt5m|q32)(?:_beta-(?P<beta>0\.05))?_s(?P<seed>\d)", re.ASCII
)
_MODEL = re.compile(r"(?:(?P<org>Qwen|meta-llama|microsoft|mistralai)_)?(?P<name>[A-Za-z0-9][A-Za-z0-9.\-]*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a file's name says. ``stem`` joins trajectories to their evaluations; ``metric`` None: trajectories."""

    stem: str
    checkpoint: Checkpoint
    judge: str
    metric: str | None
    start: int
    stop: int


def _refuse(name: str, found: str, expected: str) -> NoReturn:
    raise StudyError(f"{name}: {found}; expected {expected} (rename the file or leave it out)")


def _checkpoint(
    base: str, model: str | None, stages: tuple[StageRecord, ...], axes: Any, seed: int | None
) -> Checkpoint:
    identity = content_id("published checkpoint", base, [stage.name for stage in stages], axes, seed)
    return Checkpoint(id=identity, base=base, stages=stages, axes=axes, split_seed=seed, model=model)


def _trained(agent: str, name: str) -> Checkpoint:
    """A trained model; its parent is the checkpoint that its last stage starts from, in this run or not."""
    expected = "dpo_NICK_METRIC_JUDGE[_beta-0.05]_sSEED, one or two stages of one judge, beta and seed"
    whole = _TRAINED.fullmatch(agent)
    if whole is None:
        _refuse(name, f"directory {agent!r} names no known source model ({', '.join(NICKNAMES)})", expected)
    found = list(_STAGE.finditer(whole["stages"]))
    if "_".join(stage[0] for stage in found) != whole["stages"] or len(found) not in (1, 2):
        _refuse(name, f"directory {agent!r} has stages that cannot be read", expected)
    if len({(stage["judge"], stage["beta"], stage["seed"]) for stage in found}) != 1:
        _refuse(name, f"directory {agent!r} has stages that differ in judge, beta or seed", expected)
    beta, judge = float(found[0]["beta"] or DEFAULT_BETA), JUDGES[found[0]["judge"]]
    axes = {"beta": beta, "pair_judge": judge}
    kinds = [STAGES[stage["metric"]] for stage in found]
    stages = tuple(StageRecord(name=name, method="dpo", objectives=told, settings=axes) for name, told in kinds)
    seed = int(found[0]["seed"])
    before = stages[:-1]
    parent = _checkpoint(whole["nick"], None, before, axes if before else {}, seed if before else None)
    return replace(_checkpoint(whole["nick"], None, stages, axes, seed), parent_id=parent.id)


@lru_cache(maxsize=1024)
def _agent(agent: str, quantization: str | None, name: str) -> Checkpoint:
    if agent.startswith("dpo_"):
        if quantization is not None:
            finding = f"a trained model with quantization {quantization}"
            _refuse(name, finding, "no quantization in a trained model's file")
        return _trained(agent, name)
    axes = {} if quantization is None else {"quantization": quantization}
    if agent in SOURCES:
        base, model = SOURCES[agent]
        return _checkpoint(base, model, (), axes, None)
    found = _MODEL.fullmatch(agent)
    if found is None or (found["org"] is None and not found["name"].startswith("gpt-")):
        expected = "ORG_NAME with Qwen, meta-llama, microsoft or mistralai, or gpt-…"
        _refuse(name, f"unknown model directory {agent!r}", expected)
    # "nt" marks runs of a Qwen3 model with its thinking switched off; the weights are the same.
    weights = found["name"].removesuffix("nt") if found["name"].endswith("Bnt") else found["name"]
    model = f"{found['org'] or 'openai'}/{weights}"
    return _checkpoint(found["name"], model, (), axes, None)


def _place(parts: tuple[str, ...]) -> int | None:
    """The position of the layout's folder among the parts of a name."""
    folders = (place for place, part in enumerate(parts[:-1]) if part == RAW_FOLDER or part.endswith(RESULT_SUFFIX))
    return next(folders, None)


def _folder(name: str, parts: tuple[str, ...]) -> tuple[str, str]:
    """The agent's directory, and its evaluator (raw data) or the set (``match``, ``cross``)."""
    position = _place(parts)
    assert position is not None
    folder, inside = parts[position], parts[position + 1 : -1]
    if folder == RAW_FOLDER:
        if not inside or inside[0] not in JUDGES:
            _refuse(name, "no evaluator's directory", f"{RAW_FOLDER}/{{{','.join(JUDGES)}}}/AGENT/FILE")
        kind, inside = inside[0], inside[1:]
    else:
        kind = folder.removesuffix(RESULT_SUFFIX)
        if kind not in ("match", "cross"):
            _refuse(name, f"unknown folder {folder!r}", f"match{RESULT_SUFFIX} or cross{RESULT_SUFFIX}")
    # One run of the raw data lies in a second directory of its own name.
    if not (len(inside) == 1 or (folder == RAW_FOLDER and len(inside) == 2 and inside[0] == inside[1])):
        _refuse(name, f"directories {'/'.join(inside) or '(none)'!r}", "one directory named as the agent")
    return inside[0], kind


def is_published(name: str) -> bool:
    """Whether an entry lies in the published layout; entries elsewhere are none of its business."""
    return _place(tuple(name.split("/"))) is not None


def parse_entry(name: str) -> Entry:
    """What the name of a file of the published layout says. Errors: StudyError naming it and what was expected."""
    parts = tuple(name.split("/"))
    directory, kind = _folder(name, parts)
    fields = _FILE.fullmatch(parts[-1])
    if fields is None:
        _refuse(name, "file name not understood", "AGENT_emu-EMULATOR_eval-JUDGE[_int4|_int8]_rA-B_DDMM_HHMMSS….jsonl")
    if fields["agent"] != directory:
        _refuse(name, f"agent {fields['agent']!r} in directory {directory!r}", "the same name in both")
    if fields["emulator"] != EMULATOR:
        _refuse(name, f"emulator {fields['emulator']!r}", EMULATOR)
    judge = JUDGE_IN_FILE.get(fields["judge"])
    if judge is None:
        _refuse(name, f"evaluator {fields['judge']!r}", " or ".join(JUDGE_IN_FILE))
    checkpoint = _agent(fields["agent"], fields["quantization"], name)
    # The file's evaluator must be the one that its folder stands for.
    if kind in JUDGES and judge != JUDGES[kind]:
        _refuse(name, f"evaluator {judge!r} in folder {kind!r}", JUDGES[kind])
    match = judge == checkpoint.axes.get("pair_judge")
    if kind not in JUDGES and checkpoint.stages and match != (kind == "match"):
        expected = "the training judge in match, the other one in cross"
        _refuse(name, f"evaluator {judge!r} in folder {kind}{RESULT_SUFFIX}", expected)
    stem = name.removesuffix(".jsonl").removesuffix(f"_eval_agent_{fields['metric']}")
    start, stop = int(fields["start"]), int(fields["stop"])
    return Entry(stem=stem, checkpoint=checkpoint, judge=judge, metric=fields["metric"], start=start, stop=stop)
