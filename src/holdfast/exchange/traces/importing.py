"""Files of traces into a run: cases, episodes and what the audit finds in them, under one checkpoint for each look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from holdfast.exchange.inspect.files import find_logs, is_inspect
from holdfast.exchange.scales import ScoreOption
from holdfast.exchange.traces import TraceSet, read_traces
from holdfast.exchange.traces.dialogue import Trace
from holdfast.records import Case, Checkpoint, Declaration, Ending, Message, Score, Trajectory, content_id
from holdfast.records.errors import StudyError, needs
from holdfast.records.outputs import scratch_directory
from holdfast.records.words import count_noun
from holdfast.rollout.audit import audit
from holdfast.store import Store, codec, origins

SUITE = "traces"
NO_FAMILY = "traces"
MOST_TOKENS = 2**63 - 1  # that the store can count; more are no count
MOST_FILES = 5  # that are named
KINDS = ".json or .jsonl file, packed (.gz, .zst), rotated (.1) or as it is"
# Names of traces: the kind, then in any order what compression and rotation put behind it, or before the kind.
_TRACES = re.compile(
    r".*\.(?:jsonl?|ndjson|otlp|jsonlines)(?:[.\-_]?(?:\d[\d.\-_T:]*Z?|gz|gzip|zst|zstd|bak|old|log|txt))*$",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"^[._]|^(?:thumbs\.db|desktop\.ini)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFiles:
    """What some paths hold: Inspect logs, files of traces, and files of folders that are neither.

    ``inside`` are those of the files that lie in folders.
    """

    logs: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    left_out: tuple[Path, ...] = ()
    inside: frozenset[Path] = frozenset()


def sort_paths(paths: Sequence[Path]) -> TraceFiles:
    """Inspect logs, files of traces, and what is left out; a folder stands for all files in it. Errors: StudyError.

    A file that is named by itself is read whatever its name is.
    """
    logs, files, left_out = dict[Path, None](), dict[Path, None](), dict[Path, None]()  # each path once, in order
    members: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise StudyError(f"{path}: no such file; give files or folders of traces")
        if not path.is_dir():
            if not path.is_file():
                raise StudyError(f"{path}: a device or pipe, not a plain file; give files or folders of traces")
            (logs if is_inspect(path) else files)[path] = None
            continue
        held = set(find_logs(path)) if is_inspect(path) else set()
        inside = [file for file in sorted(path.rglob("*")) if not file.is_dir()]
        others = [file for file in inside if file not in held]
        traces = [file for file in others if file.is_file() and _TRACES.match(file.name)]
        traces = [file for file in traces if not _HIDDEN.match(file.name) and file.stat().st_size]
        if not traces and not held:
            names = ", ".join(file.name for file in inside[:3]) + (", …" if inside[3:] else "")
            raise StudyError(f"{path}: holds no {KINDS}{f' (but {names})' if inside else ''}; give files of traces")
        logs |= dict.fromkeys(file for file in inside if file in held)
        files |= dict.fromkeys(traces)
        members.update(traces)
        left_out |= dict.fromkeys(file for file in others if file not in members)
    return TraceFiles(logs=tuple(logs), files=tuple(files), left_out=tuple(left_out), inside=frozenset(members))


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One trace as the store holds it; ``trace`` is its id at its source, ``scores`` what came with it."""

    trace: str
    case: Case
    trajectory: Trajectory
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was imported for one look: its checkpoint, trajectory ids by trace id, and what was left out.

    ``seen`` counts traces that the baseline or an earlier look has, ``absent`` the rollouts that logs among them were
    to hold and do not. ``notes`` tell in words what was joined, left out or not read, ``counts`` the same as numbers.
    """

    checkpoint: Checkpoint
    trajectories: dict[str, str]
    new: int
    bad: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()
    duplicates: int = 0
    seen: int = 0
    absent: int = 0
    models: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)


def make_episode(trace: Trace) -> Episode:
    """A trace as a case (what stands before the agent's first message) and what the agent did in it, audited.

    How its world refused calls is not known: a call counts as executed where it has an answer, as refused where its
    arguments are no JSON object.
    """
    messages = tuple(
        Message(
            role=one.role,
            content=one.text,
            tool_calls=one.calls,
            name=one.name if one.role == "tool" else None,
            detail=one.detail or None,
        )
        for one in trace.said
    )
    opening = tuple(takewhile(lambda message: message.role != "assistant", messages))
    family = trace.family or NO_FAMILY
    case = Case(id="", suite=SUITE, number=0, family=family, messages=opening, tools=trace.tools)
    case = replace(case, id=content_id("trace case", family, codec.case_to_bytes(case).decode()))
    spoken = messages[len(opening) :]
    calls = sum(message.role == "tool" for message in spoken)
    invalid = sum("_raw" in call.arguments for message in spoken for call in message.tool_calls)
    detail: dict[str, Any] = {"trace": trace.id, "source": trace.source, "model": trace.model, "time": trace.time}
    detail |= {"dialogues": trace.dialogues if trace.dialogues > 1 else None, "broken": trace.broken}
    made = Trajectory(
        id="",
        case_id=case.id,
        checkpoint_id="",
        rollout=0,
        messages=spoken,
        ending=trace.ending,
        flags=() if trace.ending is Ending.ERROR else audit(spoken, trace.ending, calls, invalid, tools=trace.tools),
        calls=calls,
        invalid_calls=invalid,
        tokens=trace.tokens if trace.tokens is not None and 0 <= trace.tokens <= MOST_TOKENS else None,
        detail={key: value for key, value in detail.items() if value is not None},
    )
    return Episode(trace=trace.id, case=case, trajectory=made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """The samples of Inspect logs with their scores, what these were declared to mean, and what was not taken.

    ``absent`` counts the rollouts that the logs were to hold and do not; ``notes`` are what their import tells.
    """

    episodes: tuple[Episode, ...] = ()
    declarations: tuple[Declaration, ...] = ()
    undeclared: tuple[origins.Undeclared, ...] = ()
    absent: int = 0
    notes: tuple[str, ...] = ()


def read_logs(logs: Sequence[Path], scores: Sequence[ScoreOption] = ()) -> Logged:
    """What Inspect logs hold; ``scores`` say what their values mean. Errors: StudyError, MissingExtra."""
    with needs("remote", "import of Inspect logs"):
        from holdfast.exchange.inspect.importing import import_logs
        from holdfast.exchange.inspect.wholeness import tell_states
    with scratch_directory() as folder, Store.create(folder / "run") as store:
        import_logs(logs, store, scores=scores)
        cases = {case.id: case for case in store.cases()}
        episodes = tuple(
            Episode(
                trace=f"{trajectory.detail.get('sample') if trajectory.detail else None}/{trajectory.id}",
                case=cases[trajectory.case_id],
                trajectory=trajectory,
                scores=tuple(store.scores(trajectory.id)),
            )
            for trajectory in list(store.trajectories(part="all"))
        )
        states = origins.read_log_states(store)
        return Logged(
            episodes=episodes,
            declarations=origins.read_declarations(store) or (),
            undeclared=origins.read_undeclared(store),
            absent=sum(state.lacking for state in states if not state.superseded),
            notes=(*tell_states(states), *origins.read_import_notes(store)),
        )


def import_traces(
    store: Store, paths: Sequence[Path], label: str, *, strict: bool = False, scores: Sequence[ScoreOption] = ()
) -> Imported:
    """What files of traces hold, into ``store`` under a checkpoint named by ``label``; repeating it adds nothing.

    ``scores`` say what the values in Inspect logs mean. One transaction holds it all. Errors: StudyError, MissingExtra.
    """
    if any(step.kind != "judge" for step in store.log.steps().values()):
        raise StudyError(f"{store.path}: holds the run of a study; import traces into another directory")
    there = sort_paths(paths)
    if there.left_out and strict:
        raise StudyError(f"{there.left_out[0]}: no file of traces; leave it out of the folder, or leave out --strict")
    traces = TraceSet(traces=(), records=0)
    if there.files:
        traces = read_traces(there.files, strict=strict, inside=there.inside)
    logged = read_logs(there.logs, scores) if there.logs else Logged()
    episodes = [*map(make_episode, traces.traces), *logged.episodes]
    if not episodes:
        raise StudyError(f"{paths[0]}: no conversation in these files; give traces that hold messages")
    episodes.sort(key=lambda episode: episode.trace)
    # What an earlier look holds under this label is another checkpoint: its traces' ids say which it is.
    identity = content_id("traces", label, [episode.trace for episode in episodes])
    models = Counter(str((episode.trajectory.detail or {}).get("model") or "not told") for episode in episodes)
    checkpoint = Checkpoint(
        id=identity, base=label, axes={"look": label}, model=next(iter(models)) if len(models) == 1 else None
    )
    with store.transaction():
        store.add_checkpoint(checkpoint)
        if there.logs:
            origins.add_declarations(store, logged.declarations)
            undeclared = dict.fromkeys((*origins.read_undeclared(store), *logged.undeclared))
            origins.write_notes(store, origins.UNDECLARED, undeclared)
        ids, new = _keep(store, episodes, checkpoint)
    files = list(map(str, there.left_out))
    named = f"{count_noun(len(files), 'files')} ({', '.join(files[:MOST_FILES])}{', …' if files[MOST_FILES:] else ''})"
    left_out = [f"left out of folders, as no files of traces by their names: {named}"] if files else []
    return Imported(
        checkpoint=checkpoint,
        trajectories=ids,
        new=new,
        bad=traces.bad,
        torn=traces.torn,
        duplicates=traces.duplicates,
        absent=logged.absent,
        models=dict(models.most_common()),
        notes=(*traces.notes, *left_out, *logged.notes),
        counts={**traces.counts, **({"files left out": files} if files else {})},
    )


def _keep(store: Store, episodes: Iterable[Episode], checkpoint: Checkpoint) -> tuple[dict[str, str], int]:
    """Store episodes; trajectory ids by trace id, and how many are new."""
    numbers = Counter(case.suite for case in store.cases())
    known = set(store.case_ids())
    rollouts: Counter[str] = Counter()
    ids: dict[str, str] = {}
    new = 0
    for episode in episodes:
        case = episode.case
        if case.id not in known:
            case = replace(case, number=numbers[case.suite])
            numbers[case.suite] += 1
            known.add(case.id)
            store.add_cases([case])
        detail = {**(episode.trajectory.detail or {}), "trace": episode.trace}
        made = replace(episode.trajectory, checkpoint_id=checkpoint.id, rollout=rollouts[case.id], detail=detail)
        rollouts[case.id] += 1
        body = codec.trajectory_to_bytes(made, case.state)
        made = replace(made, id=content_id("trace", checkpoint.id, episode.trace, body.decode()))
        new += store.add_trajectory(made, store.text_codec.pack(body))
        ids[episode.trace] = made.id
        for score in episode.scores:
            store.add_score(replace(score, trajectory_id=made.id))
    return ids, new


def choose_sample(ids: dict[str, str], count: int | None, seed: int) -> list[str]:
    """Trajectory ids of ``count`` traces chosen by a hash of trace id and seed, in order of that hash; None takes all.

    The same trace is in or out whatever else its week holds, so that no one chooses what is looked at.
    """
    order: list[tuple[str, Any]] = sorted((content_id("sample", seed, trace), ids[trace]) for trace in ids)
    return [identity for _, identity in order][:count]
