"""Evidence for an auditor: what is claimed of a run, on what it rests, and what is missing, in one JSON document.

``schemas/evidence.json`` is its schema. The verdicts in it are ``document``'s, number by number those that
``holdfast gate --json`` prints.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from holdfast.decisions.gate.books import Book
from holdfast.decisions.gate.outputs.document import document, fields, plain, several_document
from holdfast.decisions.gate.outputs.evidence_page import render_evidence
from holdfast.decisions.gate.verdicts import judge_run
from holdfast.records import Analysis, Checkpoint, Estimate, Labelled, Unbounded, Verdict, content_id
from holdfast.records.errors import StoreError
from holdfast.records.outputs import new_directory, write_file
from holdfast.records.version import VERSION
from holdfast.records.words import count_noun
from holdfast.report.sections.gate import collect_limits, count_by_lineage, count_outcomes, describe_verdict, overall
from holdfast.report.words.answer import answer
from holdfast.runs.run import planned_steps
from holdfast.store import Store
from holdfast.store.copying import read_analysis
from holdfast.store.places import ANALYSIS_FILE
from holdfast.store.weights import digest_directory
from holdfast.study.noted import read_noted

FORMAT = "holdfast evidence 1"
JSON_FILE, PAGE_FILE = "evidence.json", "evidence.html"
ELSEWHERE, VERIFIED, CHANGED, UNKNOWN = "elsewhere", "verified", "changed", "no digest"
UNREAD = "not read again"
CONDITION_WORDS = {
    "attack": "behaviour under pressure was not measured: no implicit failure can be ruled out",
    "shift": "no shift of the cases was tried: nothing is known of other wordings, tools or languages",
    "probe": "no questions were asked beside the suite's cases",
}
MOST_NAMED = 5


def export_evidence(run_path: Path, output: Path, rules: Path | None = None) -> Path:
    """Write ``evidence.json`` and ``evidence.html`` of a run into a new directory; its path.

    The verdicts are those of the run's own rules or of a file's. Errors: StudyError where nothing can be written or the
    file holds no rules, StoreError where there is no run.
    """
    verdicts, reason = judge_run(run_path, rules)
    found = collect_evidence(run_path, verdicts, notes=[reason] * bool(reason))
    with new_directory(output) as target:
        write_evidence(found, target, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    return output


def write_evidence(found: Mapping[str, Any], folder: Path, made: str) -> None:
    """Write evidence that was collected as a document and a page; ``made`` is when."""
    write_file(folder / JSON_FILE, json.dumps(found, indent=1, ensure_ascii=True, allow_nan=False) + "\n")
    write_file(folder / PAGE_FILE, render_evidence(found, made))


# What the evidence of a gate says of the parent's run, where that is another.
OTHER_RUN = ("run", "study", "counts", "parts", "digests", "checkpoints", "judges", "missing")


def collect_gate_evidence(verdicts: Sequence[Verdict], books: Sequence[Book]) -> dict[str, Any]:
    """The evidence of verdicts on the ``books`` that they compare, the child's last. Weights are not read again."""
    *others, last = books
    found = collect_evidence(last.path, verdicts, name=last.place, reads=False)
    for book in others:
        other = collect_evidence(book.path, (), name=book.place, reads=False)
        found["parent_run"] = {key: other[key] for key in OTHER_RUN}
    return found


def collect_evidence(
    run_path: Path, verdicts: Sequence[Verdict], notes: Sequence[str] = (), *, name: str = "", reads: bool = True
) -> dict[str, Any]:
    """The evidence as JSON values.

    Weights that the run holds are read again and held against their digests, unless that ``reads`` too much. ``name``
    is what the run is called, where that is not its directory's name.
    """
    versions = {"holdfast": VERSION, "python": platform.python_version()}
    versions |= {library.__name__: library.__version__ for library in (np, scipy)}
    with Store(run_path) as store:
        analysis = read_analysis(store)
        answered, notes_kept = _read_kept(run_path / ANALYSIS_FILE, analysis)
        evidence: dict[str, Any] = {
            "format": FORMAT,
            "run": name or run_path.absolute().name,
            "versions": versions,
            "outcome": overall(verdicts).value,
            "answer": answered,
            "summary": [count_outcomes(verdicts), *count_by_lineage(verdicts)],
            "claims": [
                {"sentence": describe_verdict(verdict), "verdict": index} for index, verdict in enumerate(verdicts)
            ],
            "several": several_document(verdicts),
            "verdicts": [document(verdict) for verdict in verdicts],
            "study": _study(store),
            "counts": store.counts(),
            "parts": _count_parts(store),
            "digests": {
                "run": store.digest(),
                "scores": store.digest_scores(),
                "analysis": None if analysis is None else hashlib.sha256(analysis).hexdigest(),
            },
            "checkpoints": [_checkpoint(run_path, checkpoint, reads=reads) for checkpoint in store.checkpoints()],
            "judges": _judges(store),
            "limits": [*collect_limits(verdicts), *notes_kept],
        }
        evidence["missing"] = [*notes, *_missing(store, evidence)]
    return evidence


def _study(store: Store) -> dict[str, Any] | None:
    """The settings that decide a study's results and their digest; None for a run that no study made."""
    settings = read_noted(store)
    if not settings:
        return None
    name = str(settings.get("study", {}).get("name", ""))
    return {"name": name, "fingerprint": content_id("study", settings), "settings": plain(settings)}


def _read_kept(path: Path, data: bytes | None) -> tuple[list[str], list[str]]:
    """The answer in words from the rows of a kept analysis, and its notes. Errors: StoreError for a damaged one."""
    try:
        rows = {"notes": ()} if data is None else json.loads(data)
        scores, deltas, persistence = (
            tuple(map(_estimate, rows.get(name, ()))) for name in ("scores", "deltas", "persistence")
        )
        return answer(Analysis(scores=scores, deltas=deltas, persistence=persistence)), list(map(str, rows["notes"]))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: damaged; restore it, or remove it and repeat `holdfast run`") from error


def _estimate(row: dict[str, Any]) -> Estimate:
    """An estimate read back from its row."""
    interval = row["interval"]
    ends = Unbounded(interval["kind"]) if isinstance(interval, dict) else interval and tuple(interval)
    read = {"interval": ends} | {name: tuple(row[name]) for name in ("lineage", "resampled", "caveats") if name in row}
    read |= {"labelled": Labelled(row["labelled"])} if "labelled" in row else {}
    return Estimate(**(row | read))


def _count_parts(store: Store) -> dict[str, dict[str, int]]:
    """Cases and trajectories by part; ``all`` is everything that the run is about."""
    cases: dict[str, set[str]] = {}
    for parts in store.splits().values():
        for part, ids in parts.items():
            cases.setdefault(part, set()).update(ids)
    members = {"all": store.case_ids(), **dict(sorted(cases.items()))}
    return {
        part: {"cases": len(ids), "trajectories": len(store.trajectory_ids(part=part))} for part, ids in members.items()
    }


def _checkpoint(run_path: Path, checkpoint: Checkpoint, *, reads: bool) -> dict[str, Any]:
    """What a checkpoint is, how it came to be, and whether its weights are those that were noted."""
    head = fields(checkpoint, ("id", "name", "base", "model", "lineage", "axes", "split_seed", "train_seed"))
    stages = [
        fields(stage, ("name", "method", "objectives", "steps", "pairs", "data"))
        | {"settings": content_id(plain(stage.settings))}
        for stage in checkpoint.stages
    ]
    digest, weights = checkpoint.digest, _verify(run_path, checkpoint, reads=reads)
    return {**head, "parent": checkpoint.parent_id, "digest": digest, "weights": weights, "stages": stages}


def _verify(run_path: Path, checkpoint: Checkpoint, *, reads: bool) -> str:
    """Whether the weights at hand have the digest that the run noted when it made them."""
    if checkpoint.digest is None:
        return UNKNOWN
    if checkpoint.path is None or not (run_path / checkpoint.path).is_dir():
        return ELSEWHERE
    if not reads:
        return UNREAD
    try:
        return VERIFIED if digest_directory(run_path / checkpoint.path) == checkpoint.digest else CHANGED
    except StoreError:
        return CHANGED


def _judges(store: Store) -> list[dict[str, Any]]:
    """Whose scores there are: judge, objective, rubric, and how many of the judgements have a score."""
    table = store.score_table(part="all")
    rows = []
    for judge, number in np.unique(np.stack([table.judge, table.objective]), axis=1).T.tolist():
        mine, objective = (table.judge == judge) & (table.objective == number), table.objectives[number]
        rows.append(
            {
                "judge": table.judge_names[judge],
                "objective": objective,
                "rubric": table.rubrics.get((table.judges[judge], objective), ""),
                "judgements": int(mine.sum()),
                "scores": int(np.isfinite(table.value[mine]).sum()),
            }
        )
    return rows


# --- what is missing -------------------------------------------------------------------------------------------


def _missing(store: Store, evidence: dict[str, Any]) -> Iterator[str]:
    """What an auditor would look for and not find, a sentence each."""
    if store.doubt is not None:
        yield store.doubt
    if evidence["study"] is None:
        yield "no study: the run was imported, and how its models were trained is known from their names alone"
    else:
        planned, steps = planned_steps(store), store.log.steps().values()
        done = sum(step.status == "done" for step in steps)
        if planned is None:
            yield "the study is of another version: how many of its steps are done is not known"
        elif done < planned:
            yield f"{done:,} of {planned:,} steps of the study are done"
        yield from (f"a step failed: {step.name}" for step in steps if step.status == "failed")
    yield from _missing_weights(evidence["checkpoints"])
    yield from _missing_scores(store, evidence["judges"])
    for part, words in CONDITION_WORDS.items():
        if not evidence["parts"].get(part, {}).get("trajectories"):
            yield words
    if evidence["digests"]["analysis"] is None:
        yield f"no {ANALYSIS_FILE}: the run's estimates are not part of this evidence"


def _missing_weights(checkpoints: Sequence[dict[str, Any]]) -> Iterator[str]:
    counts = Counter(one["weights"] for one in checkpoints)
    total = count_noun(len(checkpoints), "checkpoints")
    if counts[UNKNOWN]:
        yield f"no digest of the weights of {counts[UNKNOWN]} of {total}: they are known by name alone"
    if counts[UNREAD]:
        yield (
            f"the weights of {counts[UNREAD]} of {total} were not read again: `holdfast export --to evidence`"
            " holds them against their digests"
        )
    if counts[ELSEWHERE]:
        yield f"the weights of {counts[ELSEWHERE]} of {total} are elsewhere: their digests were not checked"
    for one in checkpoints:
        if one["weights"] == CHANGED:
            yield f"the weights of {one['name']} are not those that the run made: their digest differs"


def _missing_scores(store: Store, judges: Sequence[dict[str, Any]]) -> Iterator[str]:
    for one in judges:
        lost = one["judgements"] - one["scores"]
        if lost:
            whose = f"{one['judge']} on {one['objective']}"
            yield f"{lost:,} of {count_noun(one['judgements'], 'judgements')} by {whose} have no score"
    if len({one["judge"] for one in judges if one["judge"] != "probes"}) == 1:
        yield "one judge alone: how far another would agree is not known"
    table = store.score_table(part="all")
    judged = {table.checkpoints[place].id for place in np.unique(table.checkpoint)}
    silent = [one.name for one in store.checkpoints() if one.id not in judged]
    if silent:
        named = "; ".join(silent[:MOST_NAMED]) + ("; …" if len(silent) > MOST_NAMED else "")
        yield f"no scores of {count_noun(len(silent), 'checkpoints')}: {named}"
