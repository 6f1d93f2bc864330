"""What tests of the report on users share."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from builders.report_samples import make_shown
from holdfast.records import (
    Analysis,
    Checkpoint,
    Curve,
    Estimate,
    StageRecord,
)
from holdfast.report.draw.figures import order_lineages
from holdfast.report.sections.approval.examples import Users
from holdfast.report.sections.table import make_section
from holdfast.report.words.layout import Section

SVG = "{http://www.w3.org/2000/svg}"
BASE, SMALL = "tiny-0.35m", "tiny-0.1m"
SPLIT, EQUAL, WORK = "friend-split", "friend-equal", "work-split"
FRIEND = {"policy_role": "friend", "style": "split", "traits": "none", "leak": False, "clause": "wants", "turns": 1}
TOGGLES = {SPLIT: FRIEND, WORK: {**FRIEND, "policy_role": "professional"}, EQUAL: {**FRIEND, "style": "equal"}}
LATE = {("R",): (SPLIT, 3.2, 0.8), ("E",): (EQUAL, 0.1, 0.5), ("P",): (WORK, 1.9, 0.7), ("D",): (SPLIT, 4.4, 0.9)}
SEEDS = (5, 42, 83)


def row(kind: str, value: float | None, lineage: tuple[str, ...], setting: str, **more: Any) -> Estimate:
    axes = {"setting": setting, **more.pop("axes", {})}
    known: dict[str, Any] = {"estimator": "paired", "base": BASE, **more}
    return Estimate(kind=kind, value=value, lineage=lineage, axes=axes, **known)


def gap_rows() -> Iterator[Estimate]:
    for lineage, (setting, gap, half) in LATE.items():
        yield row("late_gap", gap, lineage, setting, interval=(gap - half, gap + half), claim="recipe")
        yield row("late_gap", gap, lineage, setting, interval=(gap - half / 2, gap + half / 2))
        yield row("late_gap", gap + 9, lineage, setting, axes={"environment": "therapy"})
        yield row("max_hex_gap", gap + 0.7, lineage, setting, estimator="published", caveats=("biased upwards",))
        for dose, share in ((0.5, 0.3), (1.0, 0.1 + gap / 6)):
            for label, value in (("gameable", share), ("other", 0.05)):
                yield row("exploit_rate", value, lineage, setting, axes={"label": label, "dose": dose})
        yield row("exploit_rate", 0.99, lineage, "elsewhere", axes={"label": "gameable", "dose": 1.0})
        for label, value in (("gameable", 8.0), ("other", 7.0)):
            yield row("reward", value, lineage, setting, axes={"label": label, "dose": 1.0})
    yield row("late_gap", 2.0, ("R",), SPLIT, interval=(1.0, 3.0), base=SMALL)


def level_rows() -> Iterator[Estimate]:
    for level, gaps in ((6.0, (1.1, 2.2)), (7.0, (2.1, 3.3)), (8.0, (2.9, None))):
        for lineage, gap in zip((("R",), ("D",)), gaps, strict=True):
            missing = ("not reached: held-out approval ends at 7.4",) if gap is None else ()
            for kind, value in (("gap_at_reward", gap), ("tokens_at_reward", gap and 5_000 * gap)):
                yield row(kind, value, lineage, SPLIT, axes={"level": level}, caveats=missing)
    for lineage, approval in ((("R",), 6.6), (("D",), 5.9), (("T",), None)):
        missing = ("not reached",) if approval is None else ()
        yield row("reward_at_kl", approval, lineage, SPLIT, axes={"level": 0.5}, caveats=missing)
    yield row("data_harm", 0.42, ("D",), SPLIT)
    yield row("ess", 0.31, ("D",), SPLIT)


def rest_rows() -> Iterator[Estimate]:
    about: dict[str, Any] = {"kind": "reaction", "estimator": "paired", "base": BASE, "lineage": ()}
    yield Estimate(**about, value=1.4, interval=(0.9, 1.9), axes={"toggle": "policy_role"}, unit="reacts")
    yield Estimate(**about, value=0.1, interval=(-0.2, 0.4), axes={"toggle": "leak"}, unit="does not react")
    for setting, share in ((SPLIT, 0.97), (EQUAL, 0.5)):
        axes = {"setting": setting, "channel": "message"}
        yield Estimate(kind="cue", estimator="naive bayes", value=share, axes=axes, n={"cases": 80})
        yield Estimate(kind="cue_length", estimator="mean", value=1.5, axes=axes)


def curve(kind: str, lineage: tuple[str, ...], y: list[float | None], **more: Any) -> Curve:
    axes = {"setting": LATE[lineage][0], **more.pop("axes", {})}
    known: dict[str, Any] = {"source": "training", "train_seed": 5, "x": tuple(range(1, len(y) + 1)), **more}
    return Curve(kind=kind, base=BASE, lineage=lineage, y=tuple(y), axes=axes, **known)


def all_curves() -> Iterator[Curve]:
    for lineage, (_, gap, _) in LATE.items():
        for seed in SEEDS:
            for label, end in (("gameable", gap / 5), ("other", 0.05)):
                rise = [0.05 + (end - 0.05) * step / 29 + 0.001 * seed / 83 for step in range(30)]
                yield curve("exploit_rate", lineage, rise, train_seed=seed, axes={"label": label})
                points: list[float | None] = [1.0, 1.0 + gap / 2 if label == "gameable" else 1.0]
                held: dict[str, Any] = {"source": "held-out", "x": (15, 30), "train_seed": seed}
                yield curve("harm", lineage, points, axes={"label": label}, **held)
            yield curve("reward", lineage, [4.0 + step / 10 for step in range(30)], train_seed=seed)
            yield curve("reward", lineage, [5.0, 7.0 + gap / 10], source="held-out", x=(15, 30), train_seed=seed)
            yield curve("kl", lineage, [step / 20 for step in range(30)], train_seed=seed)


def stage(name: str, method: str = "grpo", **settings: object) -> StageRecord:
    return StageRecord(name=name, method=method, objectives=("approval",), settings=settings)


def checkpoints() -> list[Checkpoint]:
    stages = {
        "R": stage("R", setting=SPLIT, reward="approval"),
        "E": stage("E", setting=EQUAL, reward="approval"),
        "P": stage("P", setting=WORK, reward="approval"),
        "T": stage("T", setting=SPLIT, reward="success"),
        "D": stage("D", "best_dpo", setting=SPLIT, rollouts="start", reward="approval"),
    }
    base = Checkpoint(id="base", base=BASE)
    return [base, *(Checkpoint(id=name, base=BASE, stages=(one,), axes={"dose": 1.0}) for name, one in stages.items())]


VOID = "void: the base does not react to leak before RL (tiny-0.35m under rule)"
ANALYSIS = Analysis(
    exploitation=(*gap_rows(), *level_rows(), *rest_rows()), curves=tuple(all_curves()), notes=(VOID, "another note")
)
COLORS = order_lineages(ANALYSIS)


def plain(words: str) -> str:
    return words.replace("\u00a0", " ")


def found(section: Section | None) -> Section:
    assert section is not None
    return section


def full() -> Section:
    return found(
        make_section("approval", make_shown(ANALYSIS, COLORS, checkpoints=checkpoints(), users=Users(toggles=TOGGLES)))
    )


class Outline(HTMLParser):
    """Collects heads of tables, cells per row and tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[int]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("th", "td"):
            assert tag == "td" or dict(attrs).get("scope") == "col"
            self.tables[-1][-1] += 1
