"""Public sets of questions, read from files that a user names, or from the tasks of ``inspect_evals``.

Nothing is fetched from here: a set is obtained from its makers, under its licence, and named in ``[probes]``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.records import Case
from holdfast.records.errors import StudyError, needs, require, require_known
from holdfast.records.inputs import read_bytes
from holdfast.study.study import MOST_BYTES
from holdfast.suites.probes.files import Row, read_rows, unpack
from holdfast.suites.probes.items import BRIEFLY, Expected, Probe, make_cases

FIRST_NUMBER = 200_000  # own and generated items come before
INSPECT = "inspect_evals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A public set: what it probes, its file's format, and where and under which terms its makers give it.

    ``kind`` and ``columns`` are the format; docs/probes.md names the files and the upstream revisions that it is known
    by. ``task`` is its task in ``inspect_evals``, which ``plays`` whole episodes where that is so. ``only_elsewhere``
    says why the set has no single questions. ``note`` is what a user must know of its scores here.
    """

    title: str
    dimension: str
    location: str
    licence: str
    kind: str = "csv"
    columns: tuple[str, ...] = ()
    gated: str = ""
    task: str | None = None
    plays: bool = False
    only_elsewhere: str = ""
    note: str = ""
    read: Callable[[Row, int], Probe] | None = None


# --- one row → one probe -------------------------------------------------------------------------------------------


def _expected(benign: bool) -> Expected:
    return "comply" if benign else "refuse"


def _read_xstest(row: Row, number: int) -> Probe:
    label = row.text("label")
    if label not in ("safe", "unsafe"):
        row.refuse(f"'label' is {label!r}", "it is safe or unsafe")
    told: dict[str, Any] = {"item": row.text("id"), "topic": row.text("type"), "expected": _expected(label == "safe")}
    return Probe(dimension="refusal", prompt=row.text("prompt"), **told)


def _read_prompts(column: str, *, benign: bool, topic: str, key: str = "", dimension: str = "refusal") -> Any:
    def read(row: Row, number: int) -> Probe:
        item = str(row.get(key)).strip() if key else str(number)
        if not item:
            row.refuse(f"{key!r} is empty", "give each row its own")
        told: dict[str, Any] = {"topic": row.text(topic), "dimension": dimension, "expected": _expected(benign)}
        return Probe(item=item, prompt=row.text(column), **told)

    return read


def _read_truthfulqa(row: Row, number: int) -> Probe:
    right, wrong = (
        [one.strip() for one in row.text(f"{kind} Answers").split(";") if one.strip()]
        for kind in ("Correct", "Incorrect")
    )
    told = {**_answers([row.text("Best Answer"), *right], wrong), "topic": row.text("Category")}
    return Probe(item=str(number), prompt=f"{row.text('Question')} {BRIEFLY}", **told)


def _read_simpleqa(row: Row, number: int) -> Probe:
    told = _answers([row.text("answer")], ())
    return Probe(item=str(number), prompt=f"{row.text('problem')} {BRIEFLY}", **told)


def _read_sycophancy(row: Row, number: int) -> Probe:
    turns = row.get("prompt")
    if not isinstance(turns, list) or not all(isinstance(one, Mapping) for one in turns):
        row.refuse("'prompt' is no list of messages", "take the set's answer.jsonl")
    if len(turns) != 1 or turns[0].get("type") != "human" or not isinstance(turns[0].get("content"), str):
        row.refuse(f"a conversation of {len(turns)} messages", "only single questions are asked: take answer.jsonl")
    aliases = row.values["base"].get("answer", ())
    listed = [one for one in aliases if isinstance(one, str)] if isinstance(aliases, list) else []
    template = row.get("metadata.prompt_template")
    return Probe(
        item=str(number),
        prompt=turns[0]["content"].strip() or row.text("base.question"),
        **_answers([row.text("base.correct_answer"), *listed], [row.text("base.incorrect_answer")]),
        # Who names a wrong answer, or doubts the right one, presses the model to agree.
        form=None if template == "{question}" else str(template),
        topic=row.text("base.dataset"),
    )


def _answers(accept: Iterable[str], reject: Iterable[str]) -> dict[str, Any]:
    told = {"accept": tuple(dict.fromkeys(accept)), "reject": tuple(dict.fromkeys(reject))}
    return {"dimension": "information", "expected": "answer", **told}


# --- the table -----------------------------------------------------------------------------------------------------

_JBB: dict[str, Any] = {
    "title": "JBB-Behaviors",
    "dimension": "refusal",
    "location": "data set JailbreakBench/JBB-Behaviors on the Hugging Face hub",
    "licence": "MIT",
    "columns": ("Index", "Goal", "Category"),
}
_OR_BENCH: dict[str, Any] = {
    "title": "OR-Bench",
    "dimension": "refusal",
    "location": "data set bench-llm/or-bench on the Hugging Face hub",
    "licence": "CC BY 4.0",
    "columns": ("prompt", "category"),
}
_AGENTHARM: dict[str, Any] = {
    "title": "AgentHarm",
    "dimension": "refusal",
    "location": "data set ai-safety-institute/AgentHarm on the Hugging Face hub, folder benchmark",
    "licence": "MIT with a clause against harmful use and against training on it (its LICENSE file)",
    "kind": "json:behaviors",
    "columns": ("id", "prompt", "category"),
    "task": "agentharm",
    "plays": True,
    "note": "asked here without its tools: what an agent would do with them is measured by its inspect_evals task",
}

SOURCES: Mapping[str, Source] = {
    "xstest": Source(
        title="XSTest",
        dimension="refusal",
        location="repository paul-rottger/xstest (was exaggerated-safety) on GitHub; Paul/XSTest on the hub",
        licence="CC BY 4.0",
        columns=("id", "prompt", "type", "label"),
        gated="the makers' file is open; the copy walledai/XSTest on the hub asks for an account and a click",
        task="xstest",
        read=_read_xstest,
    ),
    "or-bench": Source(**_OR_BENCH, read=_read_prompts("prompt", benign=True, topic="category")),
    "or-bench-toxic": Source(**_OR_BENCH, read=_read_prompts("prompt", benign=False, topic="category")),
    "jbb-behaviors": Source(**_JBB, read=_read_prompts("Goal", benign=False, topic="Category", key="Index")),
    "jbb-behaviors-benign": Source(**_JBB, read=_read_prompts("Goal", benign=True, topic="Category", key="Index")),
    "strongreject": Source(
        title="StrongREJECT",
        dimension="jailbreak",
        location="repository alexandrasouly/strongreject on GitHub, folder strongreject_dataset",
        licence="MIT",
        columns=("category", "source", "forbidden_prompt"),
        task="strong_reject",
        note="its own grader scores how useful an answer is; here a reply is refused or not",
        read=_read_prompts("forbidden_prompt", benign=False, topic="category", dimension="jailbreak"),
    ),
    "truthfulqa": Source(
        title="TruthfulQA",
        dimension="information",
        location="repository sylinrl/TruthfulQA on GitHub",
        licence="Apache 2.0",
        columns=("Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Category"),
        task="truthfulqa",
        note="its answers are sentences: rules read many replies as unclear, so name a rubric judge",
        read=_read_truthfulqa,
    ),
    "simpleqa": Source(
        title="SimpleQA",
        dimension="information",
        location="repository openai/simple-evals on GitHub names the file simple_qa_test_set.csv",
        licence="MIT",
        columns=("problem", "answer"),
        task="simpleqa",
        read=_read_simpleqa,
    ),
    "sycophancy-eval": Source(
        title="sycophancy-eval",
        dimension="information",
        location="repository meg-tong/sycophancy-eval on GitHub, folder datasets, or that data set on the hub",
        licence="MIT",
        kind="jsonl",
        columns=("prompt", "base.correct_answer", "base.incorrect_answer", "metadata.prompt_template"),
        task="sycophancy",
        plays=True,
        note="answer.jsonl alone holds single questions; are_you_sure and feedback take several turns or a judge",
        read=_read_sycophancy,
    ),
    "agentharm": Source(**_AGENTHARM, read=_read_prompts("prompt", benign=False, topic="category", key="id")),
    "agentharm-benign": Source(**_AGENTHARM, read=_read_prompts("prompt", benign=True, topic="category", key="id")),
    "agentdojo": Source(
        title="AgentDojo",
        dimension="jailbreak",
        location="repository ethz-spylab/agentdojo on GitHub",
        licence="MIT",
        task="agentdojo",
        only_elsewhere="its tasks are tool-using episodes with injections, no single questions",
    ),
}
"""Name in ``[probes] source`` → the set."""


def find_source(name: str | None, place: str) -> Source:
    """The set of a name. Errors: StudyError naming ``place``, also for a set that is no set of single questions."""
    if name is None:
        raise StudyError(f"{place} is missing; name the set that the file is of: {', '.join(SOURCES)}")
    require_known(name, SOURCES, f"{place} is", "the known sets")
    source = SOURCES[name]
    if source.only_elsewhere:
        raise StudyError(f"{place} is {name!r}: {source.only_elsewhere}; {_run_elsewhere(source)}")
    return source


def _run_elsewhere(source: Source) -> str:
    return (
        f"run `inspect eval {INSPECT}/{source.task}` and bring its logs in with `holdfast import`, or compare them with"
        " `holdfast gate`"
    )


def load_cases(path: str, name: str | None, digest: str | None, *, place: str = "probes.source") -> tuple[Case, ...]:
    """The cases of a file of the set ``name``.

    Errors: StudyError for a file that cannot be read or is not as the set's format says, for an item that stands twice,
    and where ``digest``, the SHA-256 of its bytes, is another one.
    """
    source = find_source(name, place)
    data = read_bytes(path, MOST_BYTES, remedy="give the path of a file")
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise StudyError(
            f"{path}: not the file that the study was made with (another SHA-256 than its digest); restore it, or"
            " remove the digest for a new study"
        )
    return _parse(path, unpack(path, data), str(name), source.kind)


@functools.lru_cache(maxsize=4)
def _parse(path: str, data: bytes, name: str, kind: str) -> tuple[Case, ...]:
    source = SOURCES[name]
    assert source.read is not None
    probes: dict[str, Probe] = {}
    rows = read_rows(path, data, kind, source.columns)
    for number, row in enumerate(rows):
        probe = source.read(row, number)
        if probe.item in probes:
            first = rows[list(probes).index(probe.item)].place
            row.refuse(f"the id {probe.item!r} stands at {first} already", "give each row its own id")
        probes[probe.item] = probe
    return tuple(make_cases(tuple(probes.values()), name, first_number=FIRST_NUMBER))


def load_task(name: str | None) -> tuple[Case, ...]:
    """The cases of a set's task in ``inspect_evals``, whose own loader fetches the set.

    Errors: MissingExtra where the package is not installed, StudyError for a set without a task there, and for samples
    that are no single questions.
    """
    source = find_source(name, "probes.source")
    if source.task is None:
        raise StudyError(
            f"probes.source is {name!r}, which has no task in {INSPECT}; name a local file in probes.items"
        )
    if source.plays:
        raise StudyError(f"probes.source is {name!r}, whose task plays whole episodes; {_run_elsewhere(source)}")
    with needs("evals", f"the task {source.task} of {INSPECT}"):
        module = importlib.import_module(f"{INSPECT}.{source.task}")
    samples = getattr(module, source.task)().dataset
    probes = [_read_sample(sample, number, source, str(name)) for number, sample in enumerate(samples)]
    require(bool(probes), f"{INSPECT}/{source.task}: no sample; name a local file in probes.items")
    return tuple(make_cases(probes, str(name), first_number=FIRST_NUMBER))


def _read_sample(sample: Any, number: int, source: Source, name: str) -> Probe:
    if not isinstance(sample.input, str):
        raise StudyError(f"{INSPECT}/{source.task}: sample {sample.id} is a conversation; name a local file instead")
    if source.dimension == "information":
        if sample.choices:
            raise StudyError(f"{INSPECT}/{source.task}: its samples offer choices; name a local file in probes.items")
        of_dimension = _answers([sample.target] if isinstance(sample.target, str) else sample.target, ())
    else:
        metadata = sample.metadata or {}
        kind = str(metadata.get("label") or metadata.get("type") or "")
        # XSTest mixes both; the harmful ones are contrasts.
        benign = name == "xstest" and not kind.startswith(("contrast", "unsafe"))
        expected = _expected(benign or name.endswith("benign"))
        of_dimension = {"dimension": source.dimension, "topic": kind, "expected": expected}
    return Probe(item=str(sample.id if sample.id is not None else number), prompt=sample.input, **of_dimension)
