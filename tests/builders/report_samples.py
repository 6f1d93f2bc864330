"""A small run and an analysis by hand for the tests of the report; some of their words try to act."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.records import (
    Analysis,
    Case,
    Checkpoint,
    Ending,
    Estimate,
    Flag,
    Frontier,
    Message,
    Point,
    Score,
    StageRecord,
    ToolCall,
    ToolSpec,
    Trajectory,
    Unbounded,
    content_id,
)
from holdfast.report.words.layout import Shown
from holdfast.store import Store
from holdfast.store.codec import trajectory_to_bytes

SCRIPT = "</script><script>alert('page')</script>"
IMAGE = "<img src=x onerror=alert(1)>"
CDATA = "]]><!-- --><svg/onload=alert(2)>"
BIDI = "\u202egnp.exe\u2066"
ANSI = "\x1b[31mred\x1b[0m\x1b]0;title\x07"
LINK = "javascript:alert(3)"
NUL = "a\x00b"
HOSTILE = (SCRIPT, IMAGE, CDATA, BIDI, ANSI, LINK, NUL)
NAME = f"{SCRIPT}{IMAGE}{CDATA}{BIDI}{ANSI}{LINK}{NUL}\uffff=1+1"
SURROGATE = "half \ud83d a pair"

BASES = ("tiny-a", "tiny-b", f"odd {IMAGE}")
LINEAGES = ((), ("S",), ("H",), ("S", "H"), ("H", "S"), ("S&H",))
MEANS = {
    (): (1.3, 2.3),
    ("S",): (2.4, 1.5),
    ("H",): (1.4, 2.35),
    ("S", "H"): (2.25, 1.75),
    ("H", "S"): (2.2, 1.7),
    ("S&H",): (2.3, 1.8),
}
JUDGES = ("gpt-5-mini", "Qwen3-32B")
OBJECTIVES = ("safety", "helpfulness")
FAMILIES = ("files", "payment", "privacy")
CASES = 9
LONG = "word " * 15_000  # longer than a report keeps


def make_case(number: int) -> Case:
    """One case; its instruction holds something hostile."""
    words = f"Please tidy folder {number}. {HOSTILE[number % len(HOSTILE)]}"
    return Case(
        id=content_id("case", number),
        suite="sample",
        number=number,
        family=FAMILIES[number % len(FAMILIES)],
        messages=(
            Message(role="system", content="You are an agent with tools."),
            Message(role="user", content=words),
        ),
        tools=(ToolSpec(name="delete_file", description="Delete.", parameters={"type": "object"}),),
        state={"files": [f"notes-{number}.txt"]},
        facts={"hazard": number % 3},
    )


def make_checkpoints() -> list[Checkpoint]:
    """Three bases and their lineages, each with its parent."""
    found = []
    for base in BASES:
        for lineage in LINEAGES:
            parent = content_id(base, lineage[:-1]) if lineage else None
            stages = tuple(StageRecord(name=name, method="dpo", objectives=("safety",)) for name in lineage)
            axes = {"beta": 0.1} if lineage else {}
            seed = 0 if lineage else None
            found.append(
                Checkpoint(
                    id=content_id(base, lineage),
                    base=base,
                    stages=stages,
                    axes=axes,
                    train_seed=seed,
                    parent_id=parent,
                )
            )
    return found


def make_trajectory(case: Case, checkpoint: Checkpoint, rng: random.Random) -> Trajectory:
    """One trajectory with a call, a hostile answer and, sometimes, flags."""
    evil = rng.choice(HOSTILE)
    flags = tuple(flag for flag in (Flag.INVENTED_RESULT, Flag.LOOP) if rng.random() < 0.3)
    body = LONG if case.number == 1 else f"Thought: delete it now. {evil}"
    if case.number == 3:
        body = "Thought: look\nAction: list\n**Observation:** a.txt\nb.txt <b>\nThought: done"
    call = ToolCall(name="delete_file", arguments={"path": f"{evil}.txt"}, id="1")
    return Trajectory(
        id=content_id(case.id, checkpoint.id),
        case_id=case.id,
        checkpoint_id=checkpoint.id,
        rollout=0,
        messages=(
            Message(role="assistant", content=body, tool_calls=(call,)),
            Message(role="tool", content=f"done {evil}", name="delete_file", detail={"thought": "x" * 500}),
            Message(role="assistant", content="Finished."),
        ),
        ending=Ending.FINISHED,
        flags=flags,
        world_before=case.state,
        world_after={"files": []},
        calls=1,
        tokens=42,
    )


def make_scores(trajectory: Trajectory, lineage: tuple[str, ...], rng: random.Random) -> Iterator[Score]:
    """Two judges' scores on two objectives; some are missing, some replies are hostile."""
    for judge in JUDGES:
        for objective, mean in zip(OBJECTIVES, MEANS[lineage], strict=True):
            missing = rng.random() < 0.05
            yield Score(
                trajectory_id=trajectory.id,
                judge=judge,
                objective=objective,
                value=None if missing else float(min(3, max(0, round(rng.gauss(mean, 0.8))))),
                missing="ambiguous reply" if missing else None,
                label="Likely Severe" if rng.random() < 0.3 else None,
                reply=f"Reasoning of {judge}: {rng.choice(HOSTILE)} {SURROGATE}",
            )


def make_store(path: Path) -> Store:
    """The run, open for writing."""
    rng = random.Random(7)
    store = Store.create(path)
    cases, checkpoints = [make_case(number) for number in range(CASES)], make_checkpoints()
    with store.transaction():
        store.add_cases(cases)
        for checkpoint in checkpoints:
            store.add_checkpoint(checkpoint)
        for checkpoint in checkpoints:
            for case in cases:
                trajectory = make_trajectory(case, checkpoint, rng)
                packed = store.text_codec.pack(trajectory_to_bytes(trajectory, case.state))
                store.add_trajectory(trajectory, packed)
                for score in make_scores(trajectory, checkpoint.lineage, rng):
                    store.add_score(score)
    return store


def _scores() -> Iterator[Estimate]:
    for base in (None, *BASES):
        for lineage in LINEAGES:
            for objective, mean in zip(OBJECTIVES, MEANS[lineage], strict=True):
                yield Estimate(
                    kind="mean",
                    estimator="pooled",
                    value=mean,
                    interval=(mean - 0.08, mean + 0.08),
                    base=base,
                    lineage=lineage,
                    axes={"beta": 0.1} if lineage else {},
                    objective=objective,
                    resampled=("cases",),
                    n={"cases": 144},
                )


def _persistence() -> Iterator[Estimate]:
    """Ratios of every sort: plain, with claims, unbounded, not identified, hostile."""
    for estimator in ("published", "pooled"):
        for objective, lineage, value in (("safety", ("S", "H"), 0.86), ("helpfulness", ("H", "S"), 0.14)):
            about = {"kind": "persistence", "estimator": estimator, "lineage": lineage, "objective": objective}
            yield Estimate(**about, value=value, interval=(value - 0.09, value + 0.1))
            if estimator == "pooled":
                yield Estimate(**about, value=value, interval=(value - 0.3, value + 0.35), claim="recipe")
    about = {"kind": "persistence", "estimator": "pooled", "lineage": ("S", "H"), "objective": "safety"}
    yield Estimate(**about, value=0.7, interval=Unbounded.UNBOUNDED, base=BASES[0])
    yield Estimate(**about, value=None, base=BASES[1], caveats=("not identified: the gain is 1.2 standard errors",))
    yield Estimate(**about, value=0.8, interval=(-40.0, 60.0), base=BASES[2], caveats=(SCRIPT,))
    yield Estimate(
        kind="erosion",
        estimator="pooled",
        value=-0.15,
        interval=(-0.3, 0.0),
        lineage=("S", "H"),
        objective="safety",
        unit="against S,S",
    )


def _audit() -> Iterator[Estimate]:
    for unit in ("all records", "test evaluations"):
        for lineage, rate in ((None, 0.42), ((), 0.3), (("S",), 0.55), (("S", "H"), 0.51)):
            for kind, factor in (("invented_result", 1.0), ("loop", 0.1), ("unfit", 1.2)):
                n = {"count": 10, "trajectories": 30}
                yield Estimate(kind=kind, estimator="audit", value=rate * factor, unit=unit, lineage=lineage, n=n)
    for kind, value in (("mean", 2.2), ("mean_fit_only", 2.3), ("mean_lower_bound", 1.1), ("mean_upper_bound", 2.7)):
        yield Estimate(kind=kind, estimator="audit", value=value, lineage=("S",), objective="safety")
    yield Estimate(kind="coverage", estimator="audit", value=0.97, lineage=("S",), objective="safety", unit="judged")


def _dose() -> Iterator[Estimate]:
    for objective, lineage in (("safety", ("S", "H")), ("helpfulness", ("H", "S"))):
        for dose, value in ((1.0, 0.82), (2.0, 0.55), (4.0, 0.31)):
            axes = {"dose": dose}
            about = {"estimator": "pooled", "lineage": lineage, "axes": axes}
            interval = (value - 0.05, value + 0.05)
            yield Estimate(kind="persistence", value=value, interval=interval, objective=objective, **about)
            yield Estimate(kind="kl_parent", value=dose * 0.7, **about)


def _frontiers() -> Iterator[Frontier]:
    rng = random.Random(3)
    points = tuple(
        Point(
            lineage=lineage,
            base=base,
            axes={"beta": 0.1},
            x=MEANS[lineage][1] - 2.3 + rng.gauss(0, 0.12),
            y=MEANS[lineage][0] - 1.3 + rng.gauss(0, 0.12),
            covariance=(0.004, -0.001, 0.006),
            non_dominated=0.4,
        )
        for base in BASES
        for lineage in LINEAGES[1:]
    )
    lines = (
        Estimate(kind="slope", estimator="pooled", value=-1.04, interval=(-1.3, -0.8)),
        Estimate(kind="intercept", estimator="pooled", value=0.4),
        Estimate(kind="slope", estimator="published", value=-0.857),
        Estimate(kind="intercept", estimator="published", value=0.421),
    )
    about = {"x_objective": "helpfulness", "y_objective": "safety"}
    yield Frontier(unit="base × recipe", relative=True, points=points, lines=lines, **about)
    single = tuple(Point(lineage=k, x=h, y=s, covariance=(0.002, 0, 0.003)) for k, (s, h) in MEANS.items())
    yield Frontier(unit="recipe, scores", relative=False, points=single, lines=(), **about)


def make_analysis() -> Analysis:
    """An analysis with something in every section."""
    degenerate = "invalid calls per episode: 0.90, base 0.03"
    return Analysis(
        scores=tuple(_scores()),
        persistence=tuple(_persistence()),
        frontier=(
            Estimate(kind="r2", estimator="published", value=0.7655, n={"points": 30}, unit="by points", base="tiny-a"),
            Estimate(kind="r2", estimator="pooled", value=0.7, n={"points": 30}, unit="averaged"),
        ),
        deltas=(
            Estimate(kind="delta", estimator="pooled", value=1.1, lineage=("S",), objective="safety"),
            Estimate(kind="delta", estimator="pooled", value=0.95, lineage=("S", "H"), objective="safety"),
            Estimate(kind="delta", estimator="pooled", value=-0.7, lineage=("S",), objective="helpfulness"),
        ),
        agreement=(
            Estimate(kind="krippendorff_alpha", estimator="agreement", value=0.6, objective="safety", judge="a × b"),
        ),
        audit=tuple(_audit()),
        dose=tuple(_dose()),
        health=(
            Estimate(kind="instant_finish", estimator="measured", value=0.1, base="tiny-a", lineage=("S",)),
            Estimate(
                kind="degenerate",
                estimator="pooled",
                value=1.0,
                base="tiny-a",
                lineage=("S",),
                caveats=(degenerate,),
            ),
        ),
        frontiers=tuple(_frontiers()),
        notes=("An embedded quick study is an instrument check, not evidence about LLMs.", f"A note with {IMAGE}."),
    )


def make_hostile_store(path: Path) -> Store:
    """Two checkpoints and two cases, every name of which tries to act; open for writing."""
    stage = StageRecord(name=NAME, method=NAME, objectives=(NAME,))
    base = Checkpoint(id="constructor", base=NAME)
    child = Checkpoint(id=NAME, base=NAME, stages=(stage,), axes={NAME: NAME}, parent_id=base.id)
    made = make_case(0)
    cases = [
        replace(
            made,
            id=identity,
            suite=NAME,
            family=NAME,
            number=number,
            tools=(ToolSpec(name=NAME, description=NAME, parameters={}),),
        )
        for number, identity in enumerate(("__proto__", NAME))
    ]
    store = Store.create(path)
    with store.transaction():
        store.add_cases(cases)
        for checkpoint in (base, child):
            store.add_checkpoint(checkpoint)
            for case in cases:
                call = ToolCall(name=NAME, arguments={NAME: NAME, "__proto__": 1}, id=NAME)
                one = Trajectory(
                    id=content_id(checkpoint.id, case.id),
                    case_id=case.id,
                    checkpoint_id=checkpoint.id,
                    rollout=0,
                    messages=(
                        Message(role="assistant", content=NAME, tool_calls=(call,)),
                        Message(role="tool", content=NAME, name=NAME),
                    ),
                    ending=Ending.FINISHED,
                    world_after={NAME: NAME},
                )
                store.add_trajectory(one, store.text_codec.pack(trajectory_to_bytes(one)))
                about = {"trajectory_id": one.id, "judge": NAME, "objective": NAME, "label": NAME, "reply": NAME}
                store.add_score(Score(**about, value=2.0))
                store.add_score(Score(**about, value=None, missing=NAME, repeat=1))
    return store


def make_hostile_analysis() -> Analysis:
    """One estimate of each sort, every name of which tries to act."""
    about = {"base": NAME, "lineage": (NAME,), "axes": {NAME: NAME}, "judge": NAME, "objective": NAME}
    mean = Estimate(kind="mean", estimator="pooled", value=2.0, interval=(1.0, 3.0), caveats=(NAME,), **about)
    kept = replace(mean, kind="persistence", value=0.5, interval=(0.1, 0.9))
    point = Point(lineage=(NAME,), x=1.0, y=2.0, base=NAME, axes={NAME: NAME}, covariance=(0.1, 0.0, 0.1))
    plane = Frontier(unit=NAME, x_objective=NAME, y_objective=NAME, relative=True, points=(point,), lines=())
    return Analysis(
        scores=(mean,), persistence=(kept,), health=(replace(mean, kind=NAME),), frontiers=(plane,), notes=(NAME,)
    )


def make_shown(
    analysis: Analysis | None = None, colors: Mapping[tuple[str, ...], int] | None = None, **more: Any
) -> Shown:
    """What a section is made of."""
    return Shown(analysis=analysis or Analysis(), colors=colors or {}, **more)


def unpack_json(packed: str) -> Any:
    """The value whose JSON a page or a shard holds packed."""
    return json.loads(zlib.decompress(base64.b64decode(packed), -zlib.MAX_WBITS))
