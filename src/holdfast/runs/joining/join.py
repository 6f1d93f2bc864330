"""One run made of several that carried out the same study with other seeds, each seed where and when it suited.

    RUN (seed 0) ─┐
    RUN (seed 1) ─┼─ same study but for seeds ─▶ the study of all seeds ─▶ its plan ─▶ each step from one of the runs
    RUN (seed 2) ─┘

Steps go by their fingerprints, so that the joined run is the one that a single run of all seeds would have been. What
the runs share (a base, its episodes and scores) each of them made itself. Where it is equal it is taken once. Where it
differs, as between machines that round differently or with a judge that answers otherwise, nothing is joined unless
the user says whose stands, and never where a run has learnt from what would not be in the joined run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from holdfast.records.errors import StudyError
from holdfast.records.outputs import new_directory
from holdfast.records.words import count_noun
from holdfast.runs.build import build
from holdfast.runs.joining.members import (
    NAMED,
    Member,
    check_cases,
    check_copies,
    check_places,
    check_plans,
    join_studies,
    open_member,
)
from holdfast.runs.joining.sharing import judged, list_shares, share_out
from holdfast.runs.plan.step import Plan
from holdfast.runs.run import Run, note_study
from holdfast.store import Store
from holdfast.store.copying import read_logs
from holdfast.store.database import COPIED_KEY, PRIVATE_DIRECTORY, PRIVATE_FILE
from holdfast.store.joined import Joined, Source, read_joined, write_joined
from holdfast.store.joining import join_rows, scored_by
from holdfast.store.places import ENDPOINTS_KEY, EXTERNAL_KEY, FORKED_KEY, LEDGER, LOGS, MACHINES_KEY
from holdfast.store.steplog import PLAN_KEY
from holdfast.store.weights import WEIGHTS
from holdfast.study.study import Study


def join(
    runs: Sequence[Path | str],
    output: Path | str,
    *,
    shared: Path | str | None = None,
    partial: bool = False,
    weights: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Run:
    """Make one run at ``output`` of several ``runs`` whose studies differ in seeds alone, and open it.

    Steps, fingerprints and results are those of one run of all seeds. Steps that the runs share are taken once if they
    are equal; where records differ, those of the run ``shared`` stand, and without it nothing is joined. With
    ``partial`` runs that are not finished are joined too, and ``holdfast.run`` of the study of all seeds does the rest.
    Weights are copied where the runs hold them, unless ``weights`` is False. ``tell`` hears what a user must know of
    what is missing. Errors: StudyError and StoreError, naming the run; then nothing is at ``output``.
    """
    output = Path(output)
    places = check_places([Path(run) for run in runs], output, None if shared is None else Path(shared))
    with contextlib.ExitStack() as opened:
        members = [open_member(path, opened) for path in places]
        check_copies(members)
        study = join_studies(members)
        check_cases(members)
        plan = build(study)
        check_plans(members, plan, partial)
        share_out(members, plan, None if shared is None else Path(shared))
        joined = _describe(members, plan, shared=None if shared is None else str(Path(shared).absolute()))
        with new_directory(output) as part:
            part.chmod(PRIVATE_DIRECTORY)
            try:
                order = [step.fingerprint for step in plan.steps]
                join_rows(list(list_shares(members, plan)), part, order, judged(plan))
                _copy_files(members, part, weights)
                with Store(part, writable=True) as store:
                    _note(store, members, study, plan, joined)
                    if _tell_missing(store, plan, tell):
                        Run(part).conclude(store, plan.steps[-1])
            except sqlite3.OperationalError as error:
                raise StudyError(f"{output}: cannot write a run here ({error}); choose another output") from error
    return Run(output)


# --- what stands beside the rows ----------------------------------------------------------------------------------


def _copy_files(members: Sequence[Member], part: Path, weights: bool) -> None:
    """The logs of the steps that each run gives, the calls of all, and the weights where any run holds them."""
    for name in (WEIGHTS, LOGS):
        (part / name).mkdir(mode=PRIVATE_DIRECTORY)
    if ledgers := [member.path / LEDGER for member in members if (member.path / LEDGER).is_file()]:
        from holdfast.models.remote.ledger import join_ledgers

        join_ledgers(ledgers, part / LEDGER)
    for member in members:
        for path, data in read_logs(member.store, steps=member.taken):
            if data is not None:
                (part / LOGS / path.name).write_bytes(data)
                (part / LOGS / path.name).chmod(PRIVATE_FILE)
    with Store(part, check=False) as store:
        made = {one.path: one for one in store.checkpoints(brought=True) if one.path is not None}
    for place, checkpoint in made.items() if weights else ():
        if (holder := next((one for one in members if (one.path / place).is_dir()), None)) is not None:
            shutil.copytree(holder.store.weights(checkpoint), part / place)


def _note(store: Store, members: Sequence[Member], study: Study, plan: Plan, joined: Joined) -> None:
    """Write into the joined run what a run of the study notes, and what it was joined of."""
    metas = {
        # Of an address or a place that several runs note, the first one's stands: both change with the next run.
        key: {
            name: value for one in reversed(members) for name, value in json.loads(one.store.meta(key) or "{}").items()
        }
        for key in (ENDPOINTS_KEY, EXTERNAL_KEY)
    }
    with store.transaction():
        note_study(study, store)
        store.set_meta(PLAN_KEY, json.dumps([step.fingerprint for step in plan.steps]))
        for key, noted in metas.items():
            if noted:
                store.set_meta(key, json.dumps(noted, sort_keys=True))
        machines = [machine for one in members for machine in one.machines]
        store.set_meta(MACHINES_KEY, json.dumps([one for at, one in enumerate(machines) if one not in machines[:at]]))
        for late in filter(None, (member.store.meta(COPIED_KEY) for member in members)):
            store.set_meta(COPIED_KEY, late)
        write_joined(store, joined)


def _describe(members: Sequence[Member], plan: Plan, *, shared: str | None) -> Joined:
    """What the joined run notes of its sources, and the sentences that a reader of its numbers must know."""
    notes = []
    if any(one.left for one in members) and shared is not None:
        left = {name: max(one.left.get(name, 0) for one in members) for one in members for name in one.left}
        told = "; ".join(f"{name}: {count_noun(count, 'records')}" for name, count in list(left.items())[:NAMED])
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        notes.append(
            f"joined of {len(members)} runs that differ in what they share ({told}{more}): what {shared} has of it"
            " stands for all of them"
        )
    notes += _tell_added(members, plan)
    return Joined(sources=tuple(map(_describe_source, members)), shared=shared, notes=tuple(notes))


def _describe_source(member: Member) -> Source:
    from holdfast.runs.forecast import read_spending

    spent = read_spending(member.path)
    before = read_joined(member.store)
    return Source(
        run=str(member.path.absolute()),
        digest=member.store.digest() or "",
        seeds=member.seeds,
        machines=member.machines,
        taken=len(member.taken),
        equal=member.equal,
        begun=member.begun,
        left=member.left,
        cpu_seconds=round(sum(one.result.get("cpu_seconds", 0.0) for one in member.status.values()), 3),
        calls=sum(one.calls for one in spent),
        cost=sum(one.cost for one in spent),
        forked_from=member.store.meta(FORKED_KEY),
        joined=() if before is None else [asdict(one) for one in before.sources],
    )


def _tell_added(members: Sequence[Member], plan: Plan) -> Iterator[str]:
    """Which judges that are none of the study's scored only some of the runs."""
    planned = {judge for _, judge in judged(plan)}
    brought = {step.fingerprint for step in plan.steps if step.kind == "bring"}
    added: list[set[str]] = [
        {judge for step, judge in scored_by(one.store) if step not in brought and judge not in planned}
        for one in members
    ]
    for judge in sorted(set().union(*added)):
        if all(judge in judges for judges in added):
            continue
        named = ", ".join(str(one.path) for one, judges in zip(members, added, strict=True) if judge in judges)
        yield f"{judge} judged the episodes of {named} alone, of {len(members)} runs that were joined"


def _tell_missing(store: Store, plan: Plan, tell: Callable[[str], None]) -> bool:
    """Say what the joined run lacks of its study and what of that cannot be done; whether it lacks nothing."""
    done = {name for name, one in store.log.steps().items() if one.status == "done"}
    left = [step for step in plan.steps if step.kind != "analyze" and step.fingerprint not in done]
    gone = {one.id for one in store.checkpoints(brought=True) if one.path and not (store.path / one.path).is_dir()}
    if gone:
        tell(f"{count_noun(len(gone), 'checkpoints')} without weights: no run holds them, or they were left out")
    if not left:
        return True
    blocked: set[str] = set()
    for step in left:
        needs = {getattr(step.settings, name, None) for name in ("checkpoint", "parent")} | {
            *getattr(step.settings, "of", ())
        }
        if needs & gone or blocked & set(step.inputs):
            blocked.add(step.fingerprint)
    tell(
        f"{count_noun(len(left), 'steps')} of the study are not done (first: {left[0].name}); `holdfast run` does them"
    )
    if blocked:
        tell(f"{count_noun(len(blocked), 'steps')} of these cannot be done: the weights that they start from are gone")
    return False
