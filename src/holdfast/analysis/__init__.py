"""Scores to aligned arrays to every estimate that a report needs.

Store ─ read_cells ─▶ Cells (means over repeats and rollouts) ─ read_panel ─▶ Panel (rows × cases)
Panel ─ read_design ─▶ Design (base × judge × configuration)
Checkpoints ─ read_roles ─▶ Roles: what each stage is for, whatever its name
Design ─ published ─▶ estimator "published"    Design ─ pooled, frontier ─▶ estimator "pooled"; planes ─▶ Frontier
Panel ─ judges ─▶ agreement, audit             Design ─ health ─▶ dose, health
Store ─ labelled ─▶ who labelled what was trained; whose ─▶ the judges, whose the headline is, the notes on it
Panel ─ judges ─▶ calibration: each judge against the one that reads the end state
Design ─ repair ─▶ repair: stages that keep a second objective, against the line of those that do not
Design ─ second_stage ─▶ second stage: what it takes for what it gives, on rewards against on pairs
Store ─ read_source ─▶ Source ─ pressure ─▶ under pressure, under shifts, by dimension of harm
Store ─ read_users ─▶ Users ─ approval ─▶ gaps between users who can be gamed and others; read_logs ─▶ Curve
Analysis ─ multiplicity ─▶ how many intervals of a family lie away from zero, and how many would by chance
Analysis ─ document ─▶ JSON
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from holdfast.analysis import frontier, health, multiplicity, planes, pooled, repair, untaught, whose
from holdfast.analysis import published as paper
from holdfast.analysis.approval import gaps as exploitation
from holdfast.analysis.approval.logs import log_curves, read_logs
from holdfast.analysis.design import MIN_RANDOM_BASES, Design, read_design
from holdfast.analysis.document import document, schema
from holdfast.analysis.judges import agreement_rows, calibration_rows, coverage_rows, rate_rows
from holdfast.analysis.panel import Measures, read_panel, require_same_cases
from holdfast.analysis.pressure import susceptibility, taxonomy
from holdfast.analysis.pressure.variants import read_source
from holdfast.analysis.second_stage import second_stage_rows
from holdfast.records import Analysis, Estimate
from holdfast.records.words import count_noun
from holdfast.rollout.audit import UNFIT
from holdfast.stats.contrasts import MIN_SEEDS
from holdfast.stats.resample import resampled_means
from holdfast.store import Store
from holdfast.study.noted import read_gate, read_noted
from holdfast.study.stages import EXTERNAL

__all__ = ["analyze", "document", "require_same_cases", "schema"]

MOST_NAMES = 5  # of things left out in one note


def analyze(
    store: Store, *, draws: int = 10_000, seed: int = 0, measures: Measures | None = None, notes: Sequence[str] = ()
) -> Analysis:
    """Every estimate of a run.

    ``draws`` is the number of resamples; ``measures`` holds, by checkpoint id, what was measured in training
    (``kl_parent``, ``kl_base``, ``drift_chosen``, ``drift_rejected``, ``steps``, ``pairs``, ``mean_tokens``,
    ``distinct_share``); ``notes`` stand before the analysis' own. The same seed gives the same numbers. Errors:
    StudyError where a parent and its child were evaluated on different cases.
    """
    panel, gate, source, measured = read_panel(store, UNFIT), read_gate(store), read_source(store), measures or {}
    users = exploitation.read_exploitation(store, source.splits, measured)
    apart = exploitation.without_test_cases(panel.trajectories.checkpoints, source.splits, users.met)
    design = read_design(panel)
    published, cases = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    means = resampled_means(design.flat, draws, cases)
    lines = (*paper.frontier_rows(design), *frontier.frontier_estimates(design, means))
    ratios = paper.persistence_rows(design, draws, published)
    logs = [log for log in read_logs(store) if not log.of_users]
    agreement, judges = tuple(agreement_rows(panel)), whose.judge_facts(design)
    scores = (*paper.score_rows(design), *pooled.score_rows(design))
    whole = Analysis(
        scores=_apart(store, (*scores, *untaught.score_rows(store, scores))),
        deltas=(*paper.delta_rows(design), *pooled.delta_rows(design)),
        persistence=(*ratios, *pooled.persistence_rows(design)),
        frontier=lines,
        agreement=agreement,
        audit=_apart(store, chain(rate_rows(panel, UNFIT), coverage_rows(design))),
        dose=tuple(health.dose_rows(design, measured)),
        health=tuple(health.health_rows(design, measured)),
        calibration=tuple(whose.relate_rows(design, calibration_rows(panel), ranked=False)),
        repair=tuple(repair.repair_rows(design, means, measured, gate)),
        frontiers=tuple(planes.frontiers(design, means, lines)),
        notes=(
            *users.notes,
            *notes,
            *_notes(design, apart),
            *untaught.notes(store),
            *whose.judge_notes(judges, design, agreement),
        ),
        judges=judges,
        exploitation=tuple(whose.relate_rows(design, users.rows)),
        curves=(*users.curves, *log_curves(logs)),
        second_stage=tuple(second_stage_rows(design, measured)),
        rewarder=users.rewarder,
        susceptibility=tuple(whose.relate_rows(design, susceptibility.susceptibility_rows(source))),
        shifts=tuple(whose.relate_rows(design, susceptibility.shift_rows(source))),
        taxonomy=tuple(whose.relate_rows(design, taxonomy.taxonomy_rows(source))),
    )
    return multiplicity.with_families(whole)


def _apart(store: Store, estimates: Iterable[Estimate]) -> tuple[Estimate, ...]:
    """Estimates without those of a lineage on all bases, where the study holds one of two bases against the other."""
    compared = read_noted(store).get("study", {}).get("compare") is not None
    return tuple(one for one in estimates if not compared or one.base is not None or one.lineage is None)


def _notes(design: Design, apart: frozenset[str]) -> Iterator[str]:
    """What a reader must know about all numbers at once."""
    rows = design.panel.rows
    yield "checkpoint: cases are random, weights are fixed; recipe: cases and seeds are random"
    bases = len({row.base for row in rows})
    if 0 < bases < MIN_RANDOM_BASES:
        held = "this base" if bases == 1 else "these bases"
        yield f"{count_noun(bases, 'bases')}, fewer than {MIN_RANDOM_BASES}: recipe claims hold for {held} only"
    panel = design.panel
    yield from panel.left_out[:MOST_NAMES]
    if len(panel.left_out) > MOST_NAMES:
        yield f"{count_noun(len(panel.left_out) - MOST_NAMES, 'more runs')} left out: judged in part"
    judged = set(panel.trajectories.checkpoint[panel.cells.asked.any(axis=(1, 2))].tolist())
    meant = {index: one for index, one in enumerate(panel.trajectories.checkpoints) if one.id not in apart}
    if silent := [one.name for index, one in meant.items() if index not in judged]:
        names = "; ".join(silent[:MOST_NAMES]) + ("; …" if len(silent) > MOST_NAMES else "")
        yield f"no scores yet for {len(silent)} of {count_noun(len(meant), 'checkpoints')}: {names}"
    for name in design.roles.ambiguous:
        yield f"stage {name} stands for different trainings: it is compared with its base only"
    yield from _elsewhere(design)
    seeds = {row.replicate for row in rows if row.config not in design.fixed}
    if 0 < len(seeds) < MIN_SEEDS:
        yield f"{count_noun(len(seeds), 'seeds')}, fewer than {MIN_SEEDS}: recipe claims are points without intervals"
    if len({split for split, _ in seeds}) > 1:
        yield "seeds differ in their split too: differences between seeds hold training data and test cases"
    asked = panel.cells.asked.any(axis=2)
    if asked.shape[1] > 1 and not bool(asked.all()):
        yield "the judges did not score the same trajectories everywhere: see the caveats under agreement"


def _elsewhere(design: Design) -> Iterator[str]:
    """What is not known of stages that were trained elsewhere, and so is not claimed."""
    stages = {stage.name: stage for one in design.panel.trajectories.checkpoints for stage in one.stages}
    names = sorted(name for name, stage in stages.items() if stage.method == EXTERNAL)
    if not names:
        return
    told, were = ", ".join(names), "was" if len(names) == 1 else "were"
    yield (
        f"{told} {were} trained elsewhere, once: what is said of these checkpoints is said of these weights alone, and"
        " another training by the same recipe may differ"
    )
    yield (
        f"what {told} learnt from is not known here: held-out cases may be among it, and who labelled it is not said"
    )
