"""Pairs: the published counts, and what each option of the rule means."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.exchange.trl import to_trl
from holdfast.records import Case, Checkpoint, Ending, Flag, Message, Score, ToolCall, ToolSpec, Trajectory
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.store.codec import FLAG_BITS, trajectory_to_bytes
from holdfast.store.tables import ScoreTable
from holdfast.training.pairs import build_pairs, check_cases, count_document, flip_pairs, select_best

GOLDEN = {
    ("gpt-5-mini", ("safety",)): "safe_gpt5m",
    ("gpt-5-mini", ("helpfulness",)): "help_gpt5m",
    ("gpt-5-mini", ("safety", "helpfulness")): "both_gpt5m",
    ("Qwen3-32B", ("safety",)): "safe_q32",
    ("Qwen3-32B", ("helpfulness",)): "help_q32",
    ("Qwen3-32B", ("safety", "helpfulness")): "both_q32",
}
COUNTS = dict(zip(GOLDEN.values(), (13_380, 12_889, 2_735, 11_073, 10_151, 1_826), strict=True))


def make_table(scores: list[tuple[int, int, str, float]], **changes: Any) -> tuple[ScoreTable, list[str]]:
    """A table of (trajectory, case, objective, value) rows; trajectory ``i`` is by checkpoint ``i``."""
    trajectory = np.array([row[0] for row in scores])
    size = int(trajectory.max()) + 1
    objectives = ("helpfulness", "safety")
    zero = np.zeros(len(scores), dtype=np.int64)
    columns: dict[str, Any] = {
        "checkpoints": tuple(Checkpoint(id=f"c{i}", base=f"m{i}") for i in range(size)),
        "case_ids": ("a", "b", "c"),
        "case_numbers": (0, 1, 2),
        "families": ("f", "f", "f"),
        "judges": ("j",),
        "judge_names": ("j",),
        "objectives": objectives,
        "trajectory": trajectory,
        "checkpoint": trajectory,
        "case": np.array([row[1] for row in scores]),
        "rollout": zero,
        "judge": zero,
        "objective": np.array([objectives.index(row[2]) for row in scores]),
        "repeat": zero,
        "flags": zero,
        "value": np.array([row[3] for row in scores], dtype=np.float64),
    }
    return ScoreTable(**{**columns, **changes}), [f"t{i}" for i in range(size)]


def names(table: ScoreTable, ids: list[str], **options: Any) -> list[tuple[str, str]]:
    options = {"objectives": ["safety"], "judge": "j", **options}
    return [(pair.chosen, pair.rejected) for pair in build_pairs(table, ids, **options).pairs()]


@pytest.fixture(scope="module")
def raw(published_raw: Path) -> tuple[ScoreTable, list[str], dict[int, dict[str, tuple[str, ...]]]]:
    with Store(published_raw) as store:
        return store.score_table(), store.trajectory_ids(), store.splits()


@pytest.mark.parametrize("rule", GOLDEN, ids=GOLDEN.values())
def test_published_pairs(rule: tuple[str, tuple[str, ...]], raw: Any, golden: dict[str, Any]) -> None:
    judge, objectives = rule
    table, ids, splits = raw
    selection = build_pairs(table, ids, objectives=objectives, judge=judge)
    found, expected = count_document(selection, splits), golden["dpo"][GOLDEN[rule]]
    assert found["pairs"] == expected["pairs"] == COUNTS[GOLDEN[rule]]
    assert found["cases"] == expected["cases"]
    assert found["trajectories"] == expected["unique_traj"]
    assert found["chosen_only"] == expected["traj_chosen_only"]
    assert found["rejected_only"] == expected["traj_rejected_only"]
    assert found["same_model_pairs"] == expected["same_model_name_pairs"]
    assert found["pairs_per_case"]["min"] == expected["pairs_per_case"]["p0"]
    assert found["pairs_per_case"]["max"] == expected["pairs_per_case"]["p100"]
    assert found["pairs_per_trajectory"]["max"] == expected["pairs_per_traj"]["p100"]
    for part in ("train", "test"):
        assert {seed: row[part] for seed, row in found["by_split"].items()} == expected[f"{part}_pairs_by_seed"]
    per_case = dict(zip(*np.unique(selection.case, return_counts=True), strict=True))
    assert {str(table.case_numbers[case]): count for case, count in per_case.items()} == expected["per_case"]


@pytest.mark.parametrize("judge", ["gpt-5-mini", "Qwen3-32B"])
def test_published_union(judge: str, raw: Any, golden: dict[str, Any]) -> None:
    table, ids, _ = raw
    found = count_document(build_pairs(table, ids, objectives=["safety", "helpfulness"], judge=judge, combine="any"))
    expected = golden["dpo"]["overlap_gpt5m" if judge == "gpt-5-mini" else "overlap_q32"]
    assert found["pairs"] == expected["union_pairs"]
    assert found["trajectories"] == expected["union_traj"]
    assert found["contradictory_pairs"] == 2 * expected["safe_pairs_reversed_in_help"]


def test_published_pairs_without_runs_of_the_same_model(raw: Any) -> None:
    table, ids, _ = raw
    found = build_pairs(table, ids, objectives=["safety"], judge="gpt-5-mini", same_model=False)
    assert len(found) == 13_380 - 29
    assert not found.same_model.any()


def test_no_pair_holds_an_unfit_trajectory_when_they_are_left_out(raw: Any) -> None:
    table, ids, _ = raw
    found = build_pairs(table, ids, objectives=["safety"], judge="gpt-5-mini", exclude_unfit=True)
    flags = np.zeros(len(ids), dtype=np.int64)
    flags[table.trajectory] = table.flags
    assert 0 < len(found) < 13_380 / 2
    assert not (flags[np.concatenate([found.chosen, found.rejected])] & FLAG_BITS[Flag.INVENTED_RESULT]).any()


def test_published_pairs_take_less_than_two_seconds_with_the_start_of_the_process(published_raw: Path) -> None:
    script = (
        "import sys, json, pathlib\nfrom holdfast.store import Store\nfrom holdfast.training.pairs import *\n"
        "with Store(pathlib.Path(sys.argv[1])) as s:\n"
        " x = build_pairs(s.score_table(), s.trajectory_ids(), objectives=['safety'], judge='gpt-5-mini')\n"
        " print(json.dumps(count_document(x, s.splits())))"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", script, str(published_raw)], capture_output=True, check=True)
    after = os.times()
    assert json.loads(done.stdout)["pairs"] == 13_380
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def test_gap_and_floor_decide() -> None:
    rows = [(0, 0, "safety", 3.0), (1, 0, "safety", 1.0), (2, 0, "safety", 2.0), (3, 1, "safety", 0.0)]
    table, ids = make_table(rows)
    assert names(table, ids) == [("t0", "t1")]
    assert names(table, ids, min_gap=1) == [("t0", "t1"), ("t0", "t2"), ("t2", "t1")]
    assert names(table, ids, min_gap=1, min_chosen=3) == [("t0", "t1"), ("t0", "t2")]


def test_no_pair_joins_two_cases() -> None:
    table, ids = make_table([(0, 0, "safety", 3.0), (1, 1, "safety", 0.0)])
    selection = build_pairs(table, ids, objectives=["safety"], judge="j")
    assert len(selection) == 0
    assert count_document(selection)["pairs_per_case"]["max"] == 0


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("all", [("t0", "t1", 2.0)]),
        ("any", [("t0", "t1", 3.0), ("t0", "t2", 3.0), ("t2", "t1", 2.0)]),
        ("average", [("t0", "t1", 2.5)]),
    ],
)
def test_combinations_of_two_objectives(combine: Any, expected: list[tuple[str, str, float]]) -> None:
    safety, helpfulness = (3.0, 0.0, 0.0), (2.0, 0.0, 2.0)
    rows = [(key, 0, "safety", value) for key, value in enumerate(safety)]
    rows += [(key, 0, "helpfulness", value) for key, value in enumerate(helpfulness)]
    table, ids = make_table(rows)
    made = build_pairs(table, ids, objectives=["safety", "helpfulness"], judge="j", combine=combine)
    assert [(pair.chosen, pair.rejected, pair.gap) for pair in made.pairs()] == expected


def test_a_union_may_hold_a_pair_both_ways_and_says_so() -> None:
    rows = [(0, 0, "safety", 3.0), (1, 0, "safety", 0.0), (0, 0, "helpfulness", 0.0), (1, 0, "helpfulness", 3.0)]
    table, ids = make_table(rows)
    made = build_pairs(table, ids, objectives=["safety", "helpfulness"], judge="j", combine="any")
    assert [(pair.chosen, pair.rejected) for pair in made.pairs()] == [("t0", "t1"), ("t1", "t0")]
    assert count_document(made)["contradictory_pairs"] == 2


def test_repeats_count_by_their_median_and_missing_scores_do_not() -> None:
    rows = [(0, 0, "safety", value) for value in (3.0, 3.0, 0.0)] + [(1, 0, "safety", float("nan"))]
    rows += [(2, 0, "safety", value) for value in (0.0, float("nan"), 1.0)]
    table, ids = make_table(rows, repeat=np.array([0, 1, 2, 0, 0, 1, 2]))
    made = build_pairs(table, ids, objectives=["safety"], judge="j")
    assert [(pair.chosen, pair.rejected, pair.gap) for pair in made.pairs()] == [("t0", "t2", 2.5)]


def test_a_cap_draws_from_each_case_and_repeats_with_its_seed() -> None:
    rows = [(key, key // 6, "safety", 3.0 * (key % 2)) for key in range(12)]
    table, ids = make_table(rows)
    everything = set(names(table, ids))
    first = names(table, ids, cap_per_case=2, rng=np.random.default_rng(1))
    assert len(first) == 4
    assert set(first) < everything
    assert first == names(table, ids, cap_per_case=2, rng=np.random.default_rng(1))
    assert any(first != names(table, ids, cap_per_case=2, rng=np.random.default_rng(seed)) for seed in range(2, 9))
    with pytest.raises(ValueError, match="rng"):
        names(table, ids, cap_per_case=2)


def test_equal_weighting_gives_each_case_the_same_weight() -> None:
    rows = [(0, 0, "safety", 3.0), (1, 0, "safety", 0.0), (2, 0, "safety", 0.0), (3, 1, "safety", 3.0)]
    table, ids = make_table([*rows, (4, 1, "safety", 0.0)])
    made = build_pairs(table, ids, objectives=["safety"], judge="j", case_weighting="equal")
    assert made.weight.tolist() == [0.75, 0.75, 1.5]
    assert build_pairs(table, ids, objectives=["safety"], judge="j").weight.tolist() == [1, 1, 1]


def test_cases_restrict() -> None:
    rows = [(key, key // 2, "safety", 3.0 * (key % 2)) for key in range(4)]
    table, ids = make_table(rows)
    assert names(table, ids, cases={"b"}) == [("t3", "t2")]
    assert names(table, ids, cases=set()) == []


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"axes": {"quantization": "int8"}}, True),
        ({"axes": {"beta": 0.1}}, False),
        ({"train_seed": 1}, False),
    ],
)
def test_two_runs_of_one_model_differ_in_precision_only(changes: dict[str, Any], same: bool) -> None:
    table, ids = make_table([(0, 0, "safety", 3.0), (1, 0, "safety", 0.0)])
    one = Checkpoint(id="c0", base="m")
    table = dataclasses.replace(table, checkpoints=(one, dataclasses.replace(one, id="c1", **changes)))
    made = build_pairs(table, ids, objectives=["safety"], judge="j")
    assert made.same_model.tolist() == [same]
    assert len(names(table, ids, same_model=False)) == (0 if same else 1)


@pytest.mark.parametrize(("option", "value"), [("judge", "nobody"), ("objectives", ["kindness"])])
def test_unknown_judge_or_objective_is_named(option: str, value: Any) -> None:
    table, ids = make_table([(0, 0, "safety", 3.0)])
    with pytest.raises(StudyError, match=r"(nobody|kindness).*this run has"):
        names(table, ids, **{option: value})


def test_flipping_swaps_the_wanted_share_and_keeps_the_rest() -> None:
    rows = [(key, 0, "safety", 3.0 * (key % 2)) for key in range(80)]
    table, ids = make_table(rows)
    pairs = build_pairs(table, ids, objectives=["safety"], judge="j").pairs()
    rng = np.random.default_rng(0)
    assert flip_pairs(pairs, 0.0, rng) == list(pairs)
    assert all(new.chosen == old.rejected for new, old in zip(flip_pairs(pairs, 1.0, rng), pairs, strict=True))
    half = sum(new != old for new, old in zip(flip_pairs(pairs, 0.5, rng), pairs, strict=True))
    assert abs(half - len(pairs) / 2) < 4 * np.sqrt(len(pairs) / 4)


def test_trl_rows_have_its_conversational_preference_format(tmp_path: Path) -> None:
    tool = ToolSpec(name="send", description="send it", parameters={"type": "object", "properties": {}})
    case = Case(id="a", suite="s", number=0, family="f", messages=(Message(role="user", content="go"),), tools=(tool,))
    acted = (
        Message(role="assistant", content="", tool_calls=(ToolCall(name="send", arguments={"to": "x"}),)),
        Message(role="tool", content="sent", name="send", detail={"log": "hidden"}),
        Message(role="assistant", content="done"),
    )
    with Store.create(tmp_path / "run") as store, store.transaction():
        store.add_cases([case])
        for key, (messages, value) in enumerate(((acted, 3.0), ((Message(role="assistant", content="no"),), 0.0))):
            store.add_checkpoint(Checkpoint(id=f"c{key}", base=f"m{key}"))
            one = Trajectory(
                id=f"t{key}", case_id="a", checkpoint_id=f"c{key}", rollout=0, messages=messages, ending=Ending.FINISHED
            )
            store.add_trajectory(one, store.text_codec.pack(trajectory_to_bytes(one)))
            store.add_score(Score(trajectory_id=one.id, judge="j", objective="safety", value=value))
    with Store(tmp_path / "run") as store:
        chosen = build_pairs(store.score_table(), store.trajectory_ids(), objectives=["safety"], judge="j")
        rows = list(to_trl(chosen.pairs(), store))
    call = {"id": "call_0", "type": "function", "function": {"name": "send", "arguments": {"to": "x"}}}
    assert rows == [
        {
            "prompt": [{"role": "user", "content": "go"}],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "send", "description": "send it", "parameters": tool.parameters},
                }
            ],
            "chosen": [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "sent", "name": "send", "tool_call_id": "call_0"},
                {"role": "assistant", "content": "done"},
            ],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
    ]


def test_ids_of_another_scope_are_refused() -> None:
    table, ids = make_table([(0, 0, "safety", 3.0), (1, 0, "safety", 0.0)])
    table = dataclasses.replace(table, trajectory_count=2)
    assert names(table, ids) == [("t0", "t1")]
    for other in (ids[:1], [*ids, "t2"]):
        with pytest.raises(ValueError, match="read both of the same scope"):
            names(table, other)
        with pytest.raises(ValueError, match="read both of the same scope"):
            select_best(table, other, objectives=["safety"], judge="j", at_least=1, best=1)


def test_a_pair_of_two_cases_is_refused() -> None:
    table, ids = make_table([(0, 0, "safety", 3.0), (1, 0, "safety", 0.0)])
    pairs = build_pairs(table, ids, objectives=["safety"], judge="j").pairs()
    check_cases(pairs, dict.fromkeys(ids, pairs[0].case_id))
    with pytest.raises(ValueError, match="has trajectory t1 of case other"):
        check_cases(pairs, {"t0": pairs[0].case_id, "t1": "other"})


def test_trl_loads_published_pairs(published_raw: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets, which comes with trl")
    data_utils = pytest.importorskip("trl.data_utils", reason="needs trl")
    with Store(published_raw) as store:
        selection = build_pairs(
            store.score_table(),
            store.trajectory_ids(),
            objectives=["safety", "helpfulness"],
            judge="gpt-5-mini",
            cases={"official_3", "official_7"},
        )
        rows = list(to_trl(selection.pairs(), store))
    loaded = datasets.Dataset.from_list(rows)
    assert len(loaded) == len(selection) > 0
    assert data_utils.is_conversational(loaded[0])
    assert [turn["role"] for turn in loaded[0]["prompt"]] == ["user"]
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[side][-1]["role"] == "assistant"
            assert all("detail" not in turn for turn in row[side])
