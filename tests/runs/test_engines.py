"""Engines: outcomes come in order, errors fail one step, and a dead worker is told apart."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.records.errors import StudyError
from holdfast.runs.engines.engine import Engine
from holdfast.runs.engines.local import REST_SECONDS, InProcess, Workers
from holdfast.runs.plan.settings import AnalyzeSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import End, Failure


def step(name: str) -> Step:
    return Step(fingerprint=name, name=name, inputs=(), settings=AnalyzeSettings(draws=1), size=1)


def work(task: Step, path: Path, emit: Callable[[Any], None]) -> None:
    emit((task.name, str(path)))
    if task.name == "rested":
        emit(os.environ.get("RESTED"))
    if task.name == "wrong":
        raise StudyError("the user's mistake")
    if task.name == "broken":
        raise ZeroDivisionError("ours")
    if task.name == "torn":  # an outcome larger than a pipe holds, of which half was sent
        os.write(emit.__self__.fileno(), struct.pack("!i", 1_000_000) + b"half")  # type: ignore[attr-defined]
    if task.name in ("killed", "torn"):
        os.kill(os.getpid(), signal.SIGKILL)
    emit(os.environ.get("OMP_NUM_THREADS"))


def rest() -> None:
    os.environ["RESTED"] = "1"


def outcomes(engine: Engine, names: list[str], path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in names}
    left, running = list(names), 0
    while left or running:
        while left and engine.takes(waiting := step(left[0])):
            engine.submit(waiting)
            del left[0]
            running += 1

        def deliver(name: str, outcome: Any) -> None:
            nonlocal running
            found[name].append(outcome)
            running -= isinstance(outcome, End | Failure)

        engine.wait(deliver)
    return found


@pytest.mark.parametrize("count", [0, 2])
def test_outcomes_in_order_and_errors_by_step(count: int, tmp_path: Path) -> None:
    engine: Engine = Workers(work, rest, tmp_path, count) if count else InProcess(work, tmp_path)
    try:
        found = outcomes(engine, ["one", "wrong", "two", "broken", "three"], tmp_path)
    finally:
        engine.close()
    for name in ("one", "two", "three"):
        assert found[name][0] == (name, str(tmp_path)) and found[name][-1] == End()
    assert found["wrong"][-1].message == "the user's mistake"
    assert found["broken"][-1].message == "ZeroDivisionError: ours"
    assert "Traceback" in found["broken"][-1].log
    if count:
        assert found["one"][1] == "1"  # one thread in a worker


@pytest.mark.parametrize("how", ["killed", "torn"])
def test_a_worker_that_dies_fails_its_step_only(how: str, tmp_path: Path) -> None:
    engine = Workers(work, rest, tmp_path, 2)
    try:
        found = outcomes(engine, [how, "one", "two"], tmp_path)
    finally:
        engine.close()
    assert "died" in found[how][-1].message and "-9" in found[how][-1].message
    assert found["one"][-1] == found["two"][-1] == End()


def test_a_worker_that_waits_for_a_while_rests(tmp_path: Path) -> None:
    engine = Workers(work, rest, tmp_path, 1)
    try:
        assert outcomes(engine, ["rested", "rested"], tmp_path)["rested"][1::4] == [None, None]
        time.sleep(REST_SECONDS + 1)
        assert outcomes(engine, ["rested"], tmp_path)["rested"][1] == "1"
    finally:
        engine.close()
