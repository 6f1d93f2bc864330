"""Bases as they were before their start: a row of scores each, beside the study's own and in no estimate of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from holdfast.analysis import pooled
from holdfast.analysis.design import read_design
from holdfast.analysis.panel import read_panel
from holdfast.records import Checkpoint, Estimate
from holdfast.records.checkpoints import START
from holdfast.rollout.audit import UNFIT
from holdfast.store import Store


def _untaught(store: Store) -> list[Checkpoint]:
    return [one for one in store.checkpoints(brought=True) if one.source == START and not one.stages]


def score_rows(store: Store, scores: Sequence[Estimate]) -> Iterator[Estimate]:
    """Means of every base before its start, named as a lineage "NAME as it was"; its judge is related as the base's is.

    ``scores`` are the run's own rows.
    """
    known = {(one.judge, one.objective): one for one in scores if one.lineage == () and one.base is None}
    for checkpoint in _untaught(store):
        design = read_design(read_panel(store, UNFIT, of=checkpoint.id))
        for row in pooled.score_rows(design):
            like = known.get((row.judge, row.objective))
            if row.base is None and like is not None:
                related = replace(row, labelled=like.labelled, reads_state=like.reads_state, beside=like.beside)
                yield replace(related, lineage=(checkpoint.base,))


def notes(store: Store) -> Iterator[str]:
    """What each base went through before the study began, and that its seeds do not vary it."""
    begun = {}
    for one in (one for one in store.checkpoints() if one.start):
        begun[one.base] = ",".join(stage.name for stage in one.start)
    for checkpoint in _untaught(store):
        for base, stages in begun.items():
            if checkpoint.base.startswith(f"{base} "):
                yield (
                    f"{base} was taught by {stages} before the study began, once, with training seed 0: the study's"
                    f" seeds do not vary that; {checkpoint.base!r} is in no estimate"
                )
