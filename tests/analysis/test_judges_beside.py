"""Several judges of one run: which of them the headline is of, how each stands to what was trained, what is pooled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.schemas import follows
from builders.scored_study import VALUES, assert_alike, checkpoint, expected, write_study
from builders.smoke_study import smoke_settings

from holdfast.analysis import analyze, document, schema
from holdfast.analysis.panel import Row, read_panel
from holdfast.decisions.gate.books import read_book
from holdfast.decisions.gate.verdicts import decide_all
from holdfast.decisions.search.trials import read_trial
from holdfast.judges.state import StateJudge
from holdfast.records import Analysis, Checkpoint, Estimate, Labelled, PreferencePair, Score, StageRecord, content_id
from holdfast.report.page.terminal import render_results
from holdfast.report.words.labels import split_levels
from holdfast.rollout.audit import UNFIT
from holdfast.store import Store
from holdfast.store.places import STUDY_KEY
from holdfast.study.rules import GateSection
from holdfast.study.study import Study

NONE, SOME, ALL, UNKNOWN = Labelled
SEEDS = (0, 1)
RECIPES = ((), ("S",), ("H",), ("S", "H"), ("H", "S"))


def trained(labeller: str | None = None, *, recipes: Sequence[tuple[str, ...]] = RECIPES) -> list[Checkpoint]:
    """The recipes of one base with two seeds; their pairs are ``labeller``'s, as an axis, where one is given."""
    made = []
    for lineage in recipes:
        for seed in SEEDS if lineage else (None,):
            one = checkpoint("tiny-0", lineage, 1, seed)
            if lineage and labeller is not None:
                one = relabel(one, labeller)
            made.append(one)
    return made


def relabel(one: Checkpoint, labeller: str) -> Checkpoint:
    """A checkpoint of the recipe with another judge's pairs: another one, of another parent."""
    parent = one.parent_id if len(one.stages) < 2 else content_id(labeller, one.parent_id)
    return replace(one, id=content_id(labeller, one.id), axes={**one.axes, "pair_judge": labeller}, parent_id=parent)


def add_scores(
    store: Store, judge: str, *, shift: float = 0.0, only: Sequence[tuple[str, ...]] | None = None, **fields: Any
) -> None:
    """Scores of every trajectory by another judge, which sees them all that much better or worse."""
    rng = np.random.default_rng(5)
    lineages = {one.id: one for one in store.checkpoints()}
    with store.transaction():
        for trajectory in list(store.trajectories(store.trajectory_ids())):
            one = lineages[trajectory.checkpoint_id]
            if only is not None and one.lineage not in only:
                continue
            for objective in ("safety", "helpfulness"):
                value = float(np.clip(np.floor(expected(one, objective) + shift + rng.random()), 0, 3))
                found = Score(trajectory_id=trajectory.id, judge=judge, objective=objective, value=value, **fields)
                store.add_score(found)


def note_study(store: Store, **tables: Any) -> None:
    with store.transaction():
        store.set_meta(STUDY_KEY, json.dumps({"study": {"name": "s"}, **tables}))


def rows_of(store: Store) -> dict[tuple[tuple[str, ...], str], Row]:
    """The panel's rows by lineage and judge, of the first seed."""
    rows = read_panel(store, UNFIT).rows
    return {(row.lineage, row.judge): row for row in reversed(rows)}


def pooled_means(found: Analysis, objective: str = "safety") -> list[Estimate]:
    return [
        one
        for one in found.scores
        if (one.estimator, one.kind, one.objective, one.base, one.claim)
        == ("pooled", "mean", objective, None, "checkpoint")
    ]


def own_mean(store: Store, lineage: tuple[str, ...], judge: str, objective: str = "safety") -> float:
    """The mean of a judge's scores of a lineage's held-out episodes, by hand."""
    table = store.score_table()
    picked = np.array([one.lineage == lineage for one in table.checkpoints])[table.checkpoint]
    picked &= (table.judge == table.judges.index(judge)) & (table.objective == table.objectives.index(objective))
    picked &= np.isfinite(table.value) & np.isin(table.case, [table.case_ids.index(one) for one in held_out(store)])
    return float(table.value[picked].mean())


def held_out(store: Store) -> tuple[str, ...]:
    return store.splits()[0]["test"]


def facts_of(found: Analysis) -> dict[str, tuple[Labelled, bool, tuple[str, ...]]]:
    return {one.judge: (one.labelled, one.reads_state, one.headline) for one in found.judges}


# --- the two facts ------------------------------------------------------------------------------------------------


def test_who_labelled_is_read_of_pairs_axes_stages_and_the_study(tmp_path: Path) -> None:
    """In that order: the pairs themselves, a stage's own settings, the axis, the judge that the study names."""
    made = []
    for number, (lineage, settings, data) in enumerate(
        [
            (("S",), ({},), ("pairs of one",)),
            (("H",), ({"pair_judge": "two"},), (None,)),
            (("S", "H"), ({}, {"pair_judge": "two"}), ("pairs of one", None)),
            (("H", "S"), ({}, {}), (None, None)),
        ]
    ):
        one = checkpoint("tiny-0", lineage, 1, 0)
        stages = tuple(
            replace(stage, settings={**stage.settings, **mine}, data=step)
            for stage, mine, step in zip(one.stages, settings, data, strict=True)
        )
        axes = {**one.axes, "pair_judge": "two"} if number == 3 else one.axes
        made.append(replace(one, stages=stages, axes=axes))
    store = write_study(tmp_path / "run", [checkpoint("tiny-0", (), 0, None), *made], tests=4, judges=("one", "two"))
    first, second = store.trajectory_ids()[:2]
    pair = PreferencePair(
        case_id=store.case_ids()[0], chosen=first, rejected=second, objectives=("safety",), judge="one", gap=2.0
    )
    with store.transaction():
        store.add_pairs("pairs of one", [pair])
    rows = rows_of(store)
    assert {key: row.labelled for key, row in rows.items() if key[0]} == {
        (("S",), "one"): ALL,
        (("S",), "two"): NONE,
        (("H",), "one"): NONE,
        (("H",), "two"): ALL,
        (("S", "H"), "one"): SOME,
        (("S", "H"), "two"): SOME,
        (("H", "S"), "one"): NONE,
        (("H", "S"), "two"): ALL,
    }
    # A base is held against all of these.
    assert {rows[(), judge].labelled for judge in ("one", "two")} == {SOME}
    assert not any(row.reads_state for row in rows.values())


def test_the_study_names_who_labels_where_nothing_else_does(tmp_path: Path) -> None:
    store = write_study(tmp_path / "run", trained(), tests=4, judges=("one", "two"))
    assert {row.labelled for row in rows_of(store).values()} == {UNKNOWN}
    judges = {"one": {"kind": "rules"}, "two": {"kind": "rules"}}
    note_study(store, judges=judges)  # the order of judges is not kept: which of the two is not known
    assert {row.labelled for row in rows_of(store).values()} == {UNKNOWN}
    note_study(store, judges=judges, pairs={"judge": "two"})
    assert {key[1]: row.labelled for key, row in rows_of(store).items()} == {"one": NONE, "two": ALL}
    note_study(store, judges={"two": judges["two"]})
    assert {key[1]: row.labelled for key, row in rows_of(store).items()} == {"one": NONE, "two": ALL}


def test_a_merge_has_the_labels_of_its_parts_and_a_judge_that_rewards_has_labelled(tmp_path: Path) -> None:
    base, first = checkpoint("tiny-0", (), 0, None), checkpoint("tiny-0", ("S",), 1, 0)
    second = checkpoint("tiny-0", ("H",), 1, 0)
    parts = [
        replace(one, stages=(replace(one.stages[0], settings={"pair_judge": judge}),))
        for one, judge in ((first, "one"), (second, "two"))
    ]
    settings = {"share": 0.5, "of": [["S"], ["H"]]}
    blend = StageRecord(name="M", method="merge", objectives=("safety", "helpfulness"), settings=settings)
    merge = replace(first, id="merge", stages=(blend,), axes={"share": 0.5}, parent_id=first.id)
    lost = replace(
        merge, id="lost", stages=(replace(blend, settings={**settings, "of": [["S"], ["N"]]}),), train_seed=0
    )
    lost = replace(lost, axes={"share": 0.2})
    learnt = StageRecord(name="R", method="grpo", objectives=("reward",), settings={"reward": "approval"})
    rewarded = replace(first, id="rewarded", stages=(*parts[0].stages, learnt), parent_id=first.id)
    every = [base, *parts, merge, lost, rewarded]
    flat = lambda *_: 1.0  # noqa: E731 — such lineages have no usual score
    store = write_study(tmp_path / "run", every, tests=4, judges=("one", "two", "rater"), score=flat)

    def relations() -> dict[str, list[Labelled]]:
        rows = read_panel(store, UNFIT).rows
        ids = {number: one.id for number, one in enumerate(store.checkpoints())}
        return {
            name: [row.labelled for row in rows if ids[row.checkpoint] == name]
            for name in ("merge", "lost", "rewarded")
        }

    # Judges in the order of their names: one, rater, two.
    assert relations() == {
        "merge": [SOME, NONE, SOME],
        "lost": [UNKNOWN, UNKNOWN, UNKNOWN],  # one of its parts is not in the run
        "rewarded": [UNKNOWN, UNKNOWN, UNKNOWN],  # nobody says who rewarded
    }
    raters = {"rater": {"kind": "rating", "model": "p/m"}, "one": {"kind": "rules"}, "rules": {"kind": "approval"}}
    note_study(store, judges=raters, approval={"judge": "rater"})
    assert relations()["rewarded"] == [SOME, SOME, NONE]


def test_the_end_state_is_read_by_who_has_its_rubric_or_the_study_says(tmp_path: Path) -> None:
    """A name is no evidence; the same rules under another name are the same judge."""
    rule = StateJudge().rubric_of("safety")
    store = write_study(tmp_path / "run", trained("truth"), tests=4, judges=("state",))
    add_scores(store, "truth", rubric=rule)
    add_scores(store, "again", rubric=rule)
    add_scores(store, "old", rubric="0" * 32)
    found = {key[1]: (row.reads_state, row.labelled) for key, row in rows_of(store).items()}
    assert found == {"state": (False, NONE), "truth": (True, ALL), "again": (True, ALL), "old": (False, NONE)}
    note_study(store, judges={"old": {"kind": "state"}, "state": {"kind": "rules"}})
    assert {key[1] for key, row in rows_of(store).items() if row.reads_state} == {"truth", "again", "old"}


# --- the headline -------------------------------------------------------------------------------------------------


def test_a_run_that_a_second_judge_scored_gives_both_and_the_headline_is_the_outsiders(tmp_path: Path) -> None:
    store = write_study(tmp_path / "run", trained(), tests=24, judges=("grader",))
    note_study(store, judges={"grader": {"kind": "rules"}}, pairs={"judge": "grader"})
    alone = analyze(store, draws=50)
    assert not any(one.beside or one.judge for one in pooled_means(alone))
    assert facts_of(alone) == {"grader": (ALL, False, ("helpfulness", "safety"))}
    add_scores(store, "outsider", shift=-0.8)
    found = analyze(store, draws=50)
    made = document(found)
    follows(made, schema())
    for lineage in RECIPES:
        rows = {one.judge: one for one in pooled_means(found) if one.lineage == lineage}
        assert set(rows) == {"grader", "outsider"}  # no row is of both
        for judge, row in rows.items():
            assert row.value == pytest.approx(own_mean(store, lineage, judge))
        assert (rows["outsider"].labelled, rows["outsider"].beside) == (NONE, False)
        assert (rows["grader"].labelled, rows["grader"].beside) == (ALL, True)
    # What the first judge said alone it says beside the second, to all digits.
    assert numbers(found, judge="grader") == numbers(alone)
    assert facts_of(found)["outsider"] == (NONE, False, ("helpfulness", "safety"))
    assert made["judges"][0]["judge"] == "outsider" and made["judges"][1]["headline"] == []
    assert found.frontiers and all(
        point.x == pytest.approx(own_mean(store, point.lineage, "outsider", "helpfulness"))
        for one in found.frontiers
        if not one.relative
        for point in one.points
    )
    # What is of one judge and what is of none, as steps are, stand on one level, so that they are drawn together.
    for one in (alone, found):
        assert {"erosion", "steps"} <= {row.kind for row in next(iter(split_levels(one.dose).values()))}
    shown = " ".join(render_results(found, width=140).split())
    assert "Scores by outsider (labelled none)" in shown and "Other judges, in no mean with these" in shown
    assert "grader (labelled all)" in shown and "beyond chance" in shown


def test_whether_judges_differ_on_a_few_cases_cannot_be_told(tmp_path: Path) -> None:
    store = write_study(tmp_path / "run", trained(), tests=4, train=0, judges=("one",))
    add_scores(store, "two", shift=-0.8)
    notes = analyze(store, draws=50).notes
    assert any("whether they differ on the same episodes cannot be told (4 cases)" in note for note in notes)
    assert not any("chance" in note and "judges" in note for note in notes)


def numbers(found: Analysis, judge: str | None = None) -> list[Any]:
    """Every pooled number of one judge."""
    rows = [*found.scores, *found.deltas, *found.persistence, *found.frontier, *found.dose]
    kept = [one for one in rows if one.estimator == "pooled" and one.judge == judge]
    return [(one.kind, one.claim, one.lineage, str(one.axes), one.base, one.value, one.interval) for one in kept]


def test_published_averages_judges_of_the_same_checkpoints_and_says_so(tmp_path: Path) -> None:
    store = write_study(tmp_path / "run", trained(), tests=6, judges=("a", "b"))
    found = analyze(store, draws=50)
    about = ("published", "mean", "safety", ("S",), None)
    rows = [one for one in found.scores if (one.estimator, one.kind, one.objective, one.lineage, one.base) == about]
    (both,) = (one for one in rows if one.judge is None)
    values = [own_mean(store, ("S",), judge) for judge in ("a", "b")]
    assert both.value == pytest.approx(np.mean(values)) and both.beside
    assert "as published: the mean of judges of the same checkpoints: a, b" in both.caveats
    assert sorted(one.value for one in rows if one.judge) == pytest.approx(sorted(values))


@pytest.mark.parametrize(
    ("judges", "head"),
    [
        ({"grader": {}, "truth": {"rubric": StateJudge().rubric_of("safety")}}, "truth"),
        ({"grader": {}, "b": {}, "c": {}}, "b"),  # labelled none, both: the first by name
        ({"grader": {}, "partly": {"only": [(), ("S",)]}}, "grader"),  # scored one lineage of four alone
    ],
)
def test_the_headline_follows_the_order(tmp_path: Path, judges: dict[str, dict[str, Any]], head: str) -> None:
    store = write_study(tmp_path / "run", trained("grader"), tests=5, judges=("grader",))
    for name, fields in judges.items():
        if name != "grader":
            add_scores(store, name, **fields)
    found = analyze(store, draws=50)
    assert {one.judge for one in found.judges if one.headline} == {head}
    for one in (*found.scores, *found.deltas, *found.persistence, *found.frontier):
        assert one.beside == (one.judge != head) or "split_seed" in one.axes, one


def test_a_search_and_a_list_of_gates_ask_whom_the_headline_asks(tmp_path: Path) -> None:
    """The judge that labelled none of the pairs; not one that was asked and never read."""
    path = tmp_path / "run"
    with write_study(path, trained(), tests=8, judges=("grader",)) as store:
        note_study(store, judges={"grader": {"kind": "rules"}}, pairs={"judge": "grader"})
        with store.transaction():
            for name in store.trajectory_ids():
                unread = Score(trajectory_id=name, judge="a", objective="safety", value=None, missing="unparsed")
                store.add_score(unread)
    settings = {**smoke_settings(), "judges": {"grader": {"kind": "state"}}}
    settings["search"] = {"lineage": ["S", "H"], "parent": ["S"], "share": [0.0, 0.6], "steps": [5, 40], "trials": 3}
    study = Study.model_validate(settings)

    def asked() -> set[str]:
        trial = read_trial(study, path, ("S", "H")).verdicts
        return {one.judge for one in (*trial, *decide_all(read_book(path), GateSection(), {}))}

    assert asked() == {"grader"}
    with Store(path, writable=True) as store:
        add_scores(store, "outsider", shift=-0.8)
    assert asked() == {"outsider"}


# --- recipes that differ in who labelled --------------------------------------------------------------------------


def test_cells_of_an_axis_of_labellers_are_pooled_and_relations_are_not(tmp_path: Path) -> None:
    """Two recipes, each scored by both judges: those who labelled none are pooled, those who labelled all beside."""
    made = [*trained("a"), *trained("b", recipes=RECIPES[1:])]
    store = write_study(tmp_path / "run", made, tests=6, judges=("a",))
    add_scores(store, "b", shift=-0.6)
    found = analyze(store, draws=50)
    for lineage in RECIPES[1:]:
        means = {
            (labeller, judge): np.mean(
                [
                    row_mean(store, one, judge)
                    for one in store.checkpoints()
                    if one.lineage == lineage and one.axes.get("pair_judge") == labeller
                ]
            )
            for labeller in "ab"
            for judge in "ab"
        }
        rows = {(one.labelled, one.judge): one for one in pooled_means(found) if one.lineage == lineage}
        assert rows[NONE, None].value == pytest.approx((means["a", "b"] + means["b", "a"]) / 2)
        assert rows[ALL, None].value == pytest.approx((means["a", "a"] + means["b", "b"]) / 2)
        assert rows[NONE, "b"].value == pytest.approx(means["a", "b"])
        assert (
            not rows[NONE, None].beside
            and rows[ALL, None].beside
            and set(rows) == {(relation, judge) for relation in (NONE, ALL) for judge in (None, "a", "b")}
        )
    assert [(one.judge, one.labelled, bool(one.headline)) for one in found.judges] == [
        ("a", NONE, True),
        ("b", NONE, True),
        ("a", ALL, False),
        ("b", ALL, False),
    ]
    follows(document(found), schema())


def exchange_study(path: Path, *, own: bool) -> Store:
    """Two recipes, each scored by who labelled it or (not ``own``) by the other; the base by both. Scores are equal."""
    other = {"a": "b", "b": "a"}
    store = write_study(path, [*trained("a"), *trained("b", recipes=RECIPES[1:])], tests=6, judges=())
    known = {one.id: one for one in store.checkpoints()}
    rng = np.random.default_rng(11)
    with store.transaction():
        for trajectory in list(store.trajectories(store.trajectory_ids())):
            one = known[trajectory.checkpoint_id]
            for labeller in [one.axes["pair_judge"]] if one.stages else ["a", "b"]:
                for objective in ("safety", "helpfulness"):
                    value = float(np.clip(np.floor(expected(one, objective) + rng.random()), 0, 3))
                    judge = labeller if own else other[labeller]
                    made = Score(trajectory_id=trajectory.id, judge=judge, objective=objective, value=value)
                    store.add_score(made)
    return store


def told(found: dict[str, Any], exchange: dict[str, str]) -> list[Any]:
    """Every row of a document about one judge or several, with judges exchanged, in an order of its own."""
    sections = ("scores", "deltas", "persistence", "frontier", "audit", "dose")
    rows = [dict(row) for section in sections for row in found[section]]
    for row in rows:
        row["judge"] = exchange.get(row.get("judge", ""), "")
        row.pop("labelled", None)
    return sorted(rows, key=lambda row: json.dumps({key: row[key] for key in row if key not in VALUES}, sort_keys=True))


def test_judges_that_are_exchanged_give_the_same_numbers_under_each_others_names(tmp_path: Path) -> None:
    documents = []
    for own in (True, False):
        documents.append(document(analyze(exchange_study(tmp_path / str(own), own=own), draws=50)))
        rows = [row for section in ("scores", "deltas", "persistence", "frontier") for row in documents[-1][section]]
        assert {row["labelled"] for row in rows} == {"all" if own else "none"} and not any(
            "beside" in row for row in rows
        )
    same, swapped = {"a": "a", "b": "b"}, {"a": "b", "b": "a"}
    assert_alike(told(documents[0], swapped), told(documents[1], same))


def row_mean(store: Store, one: Checkpoint, judge: str) -> float:
    table = store.score_table()
    number = next(place for place, other in enumerate(table.checkpoints) if other.id == one.id)
    picked = (table.checkpoint == number) & (table.judge == table.judges.index(judge))
    picked &= table.objective == table.objectives.index("safety")
    return float(table.value[picked].mean())


def test_one_judge_of_every_recipe_is_a_headline_whoever_labelled(tmp_path: Path) -> None:
    """The judge that reads the end state scored recipes that it labelled and others: both are pooled under it."""
    made = [*trained("truth"), *trained("b", recipes=RECIPES[1:])]
    store = write_study(tmp_path / "run", made, tests=6, judges=("b",))
    add_scores(store, "truth", rubric=StateJudge().rubric_of("safety"))
    found = analyze(store, draws=50)
    heads = [one for one in pooled_means(found) if not one.beside]
    assert {(one.judge, one.labelled, one.reads_state) for one in heads} == {("truth", SOME, True)}
    assert facts_of(found)["truth"] == (SOME, True, ("helpfulness", "safety"))
    for one in heads:
        assert one.value == pytest.approx(own_mean(store, one.lineage or (), "truth"))
