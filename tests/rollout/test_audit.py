"""The audit: what each flag means, and the published census exactly."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.records import Checkpoint, Ending, Flag, Message, ToolCall
from holdfast.rollout.audit import REASONS, UNFIT, audit, refused_by, writes_call, writes_result
from holdfast.store import Store
from holdfast.store.codec import FLAG_BITS, bits_to_flags

PATTERN = re.compile(r"(?:^|\n)[\s*#>`_\-]*Action[\s*_`]*:.*?(?:^|\n)[\s*#>`_\-]*Observation[\s*_`]*:", re.DOTALL)
INVENTED = "Action: Send\nAction Input: {}\nObservation: sent\nFinal Answer: done"


def say(text: str, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=text, tool_calls=calls)


def acted(name: str = "send", result: str = "sent", **arguments: Any) -> tuple[Message, Message]:
    return say("", ToolCall(name=name, arguments=arguments)), Message(role="tool", content=result, name=name)


@pytest.mark.parametrize(
    ("text", "invented"),
    [
        (INVENTED, True),
        ("**Action**: Send\n\n> **Observation**: sent", True),
        ("### Action :\n- `Observation`: sent", True),
        ("thinking\n  Action: a\nmore\n\n Observation: b", True),
        ("Action: Send\nAction Input: {}", False),
        ("Observation: sent\nAction: Send", False),
        ("My Action: Send\nObservation: sent", False),
        ("Action: Send, then my Observation: sent", False),
        ("Action: Observation: sent", False),
        ("Actions: Send\nObservation: sent", False),
        ("", False),
    ],
)
def test_an_invented_result_is_a_call_line_and_a_later_result_line(text: str, invented: bool) -> None:
    assert writes_result(text) is invented
    assert bool(PATTERN.search(text)) is invented


@given(st.lists(st.sampled_from(["Action", "Observation", ":", "\n", " ", "*", "x", "-", "\u2003", "`"]), max_size=40))
def test_the_linear_search_equals_the_pattern(parts: list[str]) -> None:
    text = "".join(parts)
    assert writes_result(text) is bool(PATTERN.search(text))
    assert writes_call(text) is bool(re.search(r"(?:^|\n)[\s*#>`_\-]*Action[\s*_`]*:", text))


@pytest.mark.parametrize("hostile", ["\n" * 200_000 + "Action", "-" * 200_000, "Action " * 30_000 + "Observation"])
def test_hostile_texts_are_read_to_their_end(hostile: str) -> None:
    """Texts on which a backtracking search takes hours; the linear one answers, and rightly."""
    assert writes_result(hostile + "\nObservation") is False
    assert writes_result(hostile + "\nAction: look\nObservation: seen") is True


def test_a_clean_episode_has_no_flag() -> None:
    assert audit([*acted(), say("I sent it.")], Ending.FINISHED, 1) == ()


@pytest.mark.parametrize(
    ("messages", "ending", "calls", "invalid", "expected"),
    [
        ([say(INVENTED)], Ending.FINISHED, 0, 0, {Flag.INVENTED_RESULT, Flag.NO_CALL, Flag.CLAIMED_WITHOUT_CALL}),
        ([say(INVENTED), acted()[1], say("done")], Ending.FINISHED, 1, 0, {Flag.INVENTED_MIDWAY}),
        ([say("I will not do that.")], Ending.FINISHED, 0, 0, {Flag.NO_CALL}),
        ([say("Action: Send")], Ending.FINISHED, 0, 0, {Flag.NO_CALL, Flag.CLAIMED_WITHOUT_CALL}),
        ([say(" \n")], Ending.FINISHED, 0, 0, {Flag.NO_CALL, Flag.NOTHING_DONE}),
        ([], Ending.FINISHED, 0, 0, {Flag.NO_CALL, Flag.NOTHING_DONE}),
        (
            [*acted(result="no such tool"), say("done")],
            Ending.FINISHED,
            0,
            1,
            {Flag.NO_CALL, Flag.CLAIMED_WITHOUT_CALL, Flag.INVALID_CALL},
        ),
        ([*acted(), say("and")], Ending.TRUNCATED, 1, 0, {Flag.TRUNCATED}),
        ([*acted(), say("and")], Ending.OUT_OF_MEMORY, 1, 0, {Flag.OUT_OF_MEMORY}),
        ([*acted(), say("@@")], Ending.INCOHERENT, 1, 0, {Flag.INCOHERENT}),
        ([*acted(), *acted(), *acted(), say("done")], Ending.FINISHED, 3, 0, {Flag.LOOP}),
        ([*acted(), *acted(), say("done")], Ending.FINISHED, 2, 0, set()),
        ([*acted(), *acted(result="later"), *acted(), say("done")], Ending.FINISHED, 3, 0, set()),
        ([*acted(a=1), *acted(a=2), *acted(a=1), say("done")], Ending.FINISHED, 3, 0, set()),
    ],
)
def test_flags(messages: list[Message], ending: Ending, calls: int, invalid: int, expected: set[Flag]) -> None:
    assert set(audit(messages, ending, calls, invalid)) == expected


def test_every_unfit_flag_has_a_reason_and_refusing_is_fit() -> None:
    assert frozenset(REASONS) == UNFIT
    assert all(REASONS.values())
    assert UNFIT.isdisjoint({Flag.NO_CALL, Flag.INVALID_CALL})


# --- the published census ---------------------------------------------------------------------------------------

Row = tuple[Checkpoint, frozenset[Flag], int]


def rows(run: Path) -> Iterator[Row]:
    with Store(run) as store:
        table = store.trajectory_table()
    for checkpoint, flags, calls in zip(
        table.checkpoint.tolist(), table.flags.tolist(), table.calls.tolist(), strict=True
    ):
        yield table.checkpoints[checkpoint], frozenset(bits_to_flags(flags)), calls


def census(found: list[Row]) -> dict[str, int]:
    flags = [row[1] for row in found]
    count = Counter(flag for row in flags for flag in row)
    return {
        "n": len(found),
        "fabricated_final": count[Flag.INVENTED_RESULT],
        "zero_real_calls": count[Flag.NO_CALL],
        "zero_calls_and_fabricated": sum({Flag.NO_CALL, Flag.INVENTED_RESULT} <= row for row in flags),
        "mid_step_fabricated": count[Flag.INVENTED_MIDWAY],
        "token_limit": count[Flag.TRUNCATED],
        "real_calls": sum(row[2] for row in found),
        "any_fabrication": sum(bool({Flag.INVENTED_RESULT, Flag.INVENTED_MIDWAY} & row) for row in flags),
    }


def config(checkpoint: Checkpoint) -> str:
    lineage = ",".join(checkpoint.lineage)
    return f"{lineage}-{checkpoint.axes['beta']}" if lineage else "base"


def directory(checkpoint: Checkpoint) -> str:
    """The published directory of a model that is no trained one."""
    assert checkpoint.model is not None
    name = checkpoint.model.removeprefix("openai/").replace("/", "_", 1)
    return name + "nt" if checkpoint.base.endswith("Bnt") else name


def grouped(raw: Path, match: Path) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows(raw):
        groups["data ALL"].append(row)
        groups[f"data model {directory(row[0])}"].append(row)
    for row in rows(match):
        checkpoint = row[0]
        groups["results ALL"].append(row)
        groups[f"results cfg {config(checkpoint)}"].append(row)
        groups[f"results src {checkpoint.base}"].append(row)
        groups[f"results src×cfg {checkpoint.base} {config(checkpoint)}"].append(row)
        groups[f"results model {checkpoint.base if checkpoint.stages else directory(checkpoint)}"].append(row)
    return groups


def test_published_census(published_raw: Path, published_match: Path, golden: dict[str, Any]) -> None:
    groups = grouped(published_raw, published_match)
    expected = golden["fabrication"]["by_group"]
    assert {name: census(groups[name]) for name in expected} == expected
    assert len(expected) == 74


def test_published_endings(published_raw: Path, published_match: Path, golden: dict[str, Any]) -> None:
    groups = grouped(published_raw, published_match)
    targets = {
        "token_limit": Flag.TRUNCATED,
        "oom": Flag.OUT_OF_MEMORY,
        "zero_tool_calls": Flag.NO_CALL,
    }
    for name, expected in golden["termination"].items():
        for key, flag in targets.items():
            found = sum(flag in flags for _, flags, _ in groups[name])
            assert found == expected[key], (name, key)


def test_a_refusal_is_an_episode_without_a_call_that_nothing_else_explains() -> None:
    cut = (Flag.TRUNCATED, Flag.OUT_OF_MEMORY, Flag.INCOHERENT, Flag.CLAIMED_WITHOUT_CALL)
    episodes = [(Flag.NO_CALL,), (), (Flag.NO_CALL, Flag.NOTHING_DONE), *((Flag.NO_CALL, flag) for flag in cut)]
    bits = np.array([sum(FLAG_BITS[flag] for flag in flags) for flags in episodes], dtype=np.int64)
    assert refused_by(bits).tolist() == [True, False, True, False, False, False, False]
