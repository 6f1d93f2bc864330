"""Whose numbers an analysis holds: its judges with their relation to what was trained, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from holdfast.analysis.design import Design, Key
from holdfast.analysis.labelled import join
from holdfast.records import Estimate, JudgeFacts, Labelled, can_be_told, cannot_be_told

LABELLED_WORDS = {
    Labelled.NONE: "labelled none of the pairs",
    Labelled.SOME: "labelled the pairs of some stages",
    Labelled.ALL: "labelled the pairs of all stages",
    Labelled.UNKNOWN: "may have labelled pairs: the run does not say who did",
}


def judge_facts(design: Design) -> tuple[JudgeFacts, ...]:
    """Every judge of a design with its relation to what it scored, those of a headline first."""
    objectives = design.panel.objectives
    heads = {name: design.headline(name) for name in objectives}
    labels = design.panel.labels
    entries: dict[tuple[str, Labelled | None], list[Key]] = {}
    for key in design.keys:
        # Who reads the end state is one judge for all recipes, whoever labelled them.
        relation = None if labels.reads_state(key.judge) else design.relation([key], ())
        entries.setdefault((key.judge, relation), []).append(key)
    found = [
        JudgeFacts(
            judge=judge,
            objectives=tuple(name for name in objectives if design.reads(judge, [name])),
            labelled=design.relation(keys, ()),
            reads_state=labels.reads_state(judge),
            headline=tuple(name for name in objectives if set(keys) & set(heads[name])),
        )
        for (judge, _), keys in entries.items()
    ]
    return tuple(sorted(found, key=lambda one: (not one.headline, one.judge, one.labelled)))


def relate_rows(design: Design, rows: Iterable[Estimate], *, ranked: bool = True) -> Iterator[Estimate]:
    """Rows about one judge each, with its relation to their checkpoints, and whether the headline is another judge's.

    A judge that scored no held-out case, as that of probes, stands beside nobody, and none does where judges are not
    ``ranked``.
    """
    labels, checkpoints = design.panel.labels, design.panel.trajectories.checkpoints
    known = {key.judge for key in design.keys}
    heads = {key.judge for name in design.panel.objectives for key in design.headline(name)}
    made: dict[tuple[object, ...], Labelled] = {}
    for row in rows:
        if row.judge is None or row.labelled is not None:
            yield row
            continue
        key = (row.judge, row.base, row.lineage, str(row.axes.get("pair_judge")))
        if key not in made:
            # Checkpoints that a row is about, or that were trained from the base that it is about.
            made[key] = join(
                labels.relation(row.judge, one)
                for one in checkpoints
                if (one.lineage == row.lineage if row.lineage else bool(one.stages))
                and row.axes.get("pair_judge") in (None, one.axes.get("pair_judge"))
                and row.base in (None, one.base)
            )
        yield replace(
            row,
            labelled=made[key],
            reads_state=labels.reads_state(row.judge),
            beside=ranked and row.judge in known and row.judge not in heads,
        )


def judge_notes(facts: Sequence[JudgeFacts], design: Design, agreement: Sequence[Estimate]) -> Iterator[str]:
    """Whose the headline is, who stands beside it, and how judges of the same episodes differ."""
    heads: dict[tuple[str, ...], list[JudgeFacts]] = {}
    for one in facts:
        if one.headline:
            heads.setdefault(one.headline, []).append(one)
    for objectives, mine in heads.items():
        about = "" if len(heads) == 1 else f" of {' and '.join(objectives)}"
        yield f"headline{about}: scores by {_name_judges(mine)}"
    if beside := [one for one in facts if not one.headline]:
        yield f"beside the headline, in no mean with it: {'; '.join(_name_judges([one]) for one in beside)}"
    yield from _several_judges(design, agreement)


def _name_judges(facts: Sequence[JudgeFacts]) -> str:
    names, several = " and ".join(one.judge for one in facts), len(facts) > 1
    relations = {(one.labelled, one.reads_state) for one in facts}
    labelled, reads = relations.pop() if len(relations) == 1 else (join(one.labelled for one in facts), False)
    who = f"{names}{', each of recipes of its own' * several}, who {'reads the end state and ' * reads}"
    return who + LABELLED_WORDS[labelled]


def _several_judges(design: Design, agreement: Sequence[Estimate]) -> Iterator[str]:
    """Where several judges scored one objective: what each gives, whether it is averaged, and whether they differ."""
    cells = design.panel.cells
    for place, objective in enumerate(cells.objectives):
        values = cells.value[:, :, place]
        judged = [judge for judge in range(values.shape[1]) if np.isfinite(values[:, judge]).any()]
        if len(judged) < 2:
            continue
        means = sorted((float(np.nanmean(values[:, judge])), cells.judges[judge]) for judge in judged)
        told = f"{', '.join(f'{mean:.2f}' for mean, _ in means)} ({', '.join(name for _, name in means)})"
        head = {key.judge for key in design.headline(objective)}
        pooled = f"mean of {len(head)} judges, each of recipes of its own"
        words = pooled if len(head) > 1 else f"{len(judged)} judges, not averaged"
        yield f"{objective}: {words}: {told}{_tell_difference(agreement, objective)}"


def _tell_difference(agreement: Sequence[Estimate], objective: str) -> str:
    """How many pairs of judges differ in their means over the episodes that both scored, beyond what cases explain."""
    bias = [one for one in agreement if one.kind == "mean_bias" and one.objective == objective and one.lineage is None]
    met = [one for one in bias if isinstance(one.interval, tuple)]
    found = [one.interval for one in met if isinstance(one.interval, tuple) and can_be_told(one)]
    if met and not found:
        return f"; whether they differ on the same episodes {cannot_be_told(max(one.n['cases'] for one in met))}"
    if not found:
        return ""
    apart = sum(low > 0 or high < 0 for low, high in found)
    if len(found) == 1:
        return "; on the same episodes they differ " + ("beyond chance" if apart else "by no more than chance")
    return f"; on the same episodes {apart} of {len(found)} pairs of judges differ beyond chance"
