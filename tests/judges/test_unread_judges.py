"""A rubric judge whose replies hold no verdict: missing scores, and a line that names judge and parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.smoke_study import SMOKE
from test_rubric_judge import CASE, TRAJECTORY, answer, make_judge

from holdfast.cli import main as cli
from holdfast.judges.rubric.judge import Readings
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.models.fakes import FakeProvider
from holdfast.records import Checkpoint, Score
from holdfast.runs.execution import execute
from holdfast.runs.plan.settings import EpisodeLimits, JudgeSettings, RolloutSettings, SpeakerModel
from holdfast.runs.plan.step import Means, Plan, Step
from holdfast.runs.run import notes
from holdfast.store import Store, codec
from holdfast.study.sections import JudgeSection, SuiteSection
from holdfast.study.study import load

COUNT = 12  # trajectories: more than the eight from which a judge of ratings is refused
PROSE = "Overall the agent did rather well, in my view."
GOOD = answer(3)
JUDGES = """
[judges.gpt]
kind = "rubric"
model = "judge"
parser = "{parser}"
rubrics = {{ safety = "default" }}
[models.judge]
kind = "remote"
name = "openai-api/fake/judge"
[endpoints.judge]
base_url = "{url}"
"""
Answers = Callable[[Mapping[str, Any]], str]


def every_third(reply: str, other: str) -> Answers:
    """One reply of three, the second try at a request the same as the first."""
    seen: dict[str, int] = {}

    def say(request: Mapping[str, Any]) -> str:
        number = seen.setdefault(str(request["messages"]), len(seen))
        return reply if number % 3 == 0 else other

    return say


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one case that was met often."""
    with Store.create(tmp_path / "run") as store, store.transaction():
        store.add_cases([CASE])
        store.add_checkpoint(Checkpoint(id="c", base="agent"))
        for number in range(COUNT):
            message = replace(TRAJECTORY.messages[-1], content=f"Cleaned up {number}.")
            one = replace(TRAJECTORY, id=f"t{number}", rollout=number, messages=(*TRAJECTORY.messages[:-1], message))
            text = store.text_codec.pack(codec.trajectory_to_bytes(one))
            store.add_trajectory(one, text, step="rolled")
    return tmp_path / "run"


def values(run: Path) -> list[tuple[float | None, str | None]]:
    with Store(run) as store:
        return [(one.value, one.missing) for number in range(COUNT) for one in store.scores(f"t{number}")]


CASES = [
    ("strict", lambda _: PROSE, 12, "unparsed 12"),
    ("tolerant", lambda _: PROSE, 12, "12"),
    ("strict", lambda _: answer(7), 12, "out_of_range 12"),
    ("strict", lambda _: answer("2"), 12, "not_an_integer 12"),
    ("strict", every_third(GOOD, PROSE), 8, "unparsed 8"),
]


@pytest.mark.parametrize("case", CASES)
def test_judge_tells_what_it_could_not_read(
    case: tuple[str, Answers, int, str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser, answers, unread, told = case
    with FakeProvider(answers=answers) as provider:
        file = tmp_path / "judges.toml"
        file.write_text(JUDGES.format(parser=parser, url=provider.base_url))
        for quiet in (["--quiet"], []):  # repeated, it has nothing more to judge, and nothing to tell
            code = cli.main(["judge", str(run), "--with", "gpt", "--judges", str(file), *quiet])
            shown = capsys.readouterr()
            lines = [line for line in shown.err.splitlines() if line.startswith("note: ")]
            assert code == 0 and len(lines) == bool(quiet)
            if quiet:
                line = lines[0]
    assert f"judges.gpt: {unread} of 12 judgements of safety hold no verdict that parser '{parser}' reads" in line
    assert told in line and ("tolerant" in line) and line.count("\n") == 0
    scores = values(run)
    assert sum(value is None for value, _ in scores) == unread and len(scores) == COUNT
    assert all((value is None) == (missing is not None) for value, missing in scores)


def test_a_judge_that_is_mostly_read_is_no_matter(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeProvider(answers=every_third(PROSE, GOOD)) as provider:
        (tmp_path / "judges.toml").write_text(JUDGES.format(parser="strict", url=provider.base_url))
        assert cli.main(["judge", str(run), "--with", "gpt", "--judges", str(tmp_path / "judges.toml"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert [missing for _, missing in values(run)].count("unparsed") == 4


def test_a_studys_step_ends_in_missing_scores_and_a_note(run: Path) -> None:
    step = Step(
        fingerprint="judged",
        name="judge by gpt",
        inputs=("rolled",),
        settings=JudgeSettings(
            judge="gpt",
            section=JudgeSection(kind="rubric", model="judge", rubrics={"safety": "default"}),
            speaker=SpeakerModel(model="judge", entry=ModelEntry(kind="remote", name="openai-api/fake/judge")),
        ),
        size=COUNT,
    )
    rolled = Step(
        fingerprint="rolled",
        name="rollout",
        inputs=(),
        settings=RolloutSettings(
            checkpoint="",
            suite=SuiteSection(),
            split_seed=0,
            part="train",
            per_case=1,
            rollout_seed=0,
            limits=EpisodeLimits(max_turns=1, max_tokens=1, temperature=1.0, batch_size=1),
        ),
        size=COUNT,
    )
    said: list[str] = []
    with FakeProvider(answers=lambda _: PROSE) as provider, Store(run, writable=True) as store:
        with store.transaction():
            store.log.begin("rolled", "rollout", "rollout")
            store.log.finish("rolled", {})
        means = Means(endpoints={"judge": EndpointSection(base_url=provider.base_url)})
        plan = Plan(study=load(SMOKE), steps=(rolled, replace(step, means=means)))
        execute(plan, store, workers=1, listener=lambda progress: said.append(progress.message))
        assert store.log.steps()["judged"].status == "done"
        (note,) = notes(store)
    assert "judges.gpt: 12 of 12 judgements of safety" in note and "parser 'strict'" in note
    assert note in said
    assert [missing for _, missing in values(run)] == ["unparsed"] * COUNT


def test_what_is_not_the_judges_doing_is_not_told() -> None:
    judge = make_judge()

    def score(value: float | None, missing: str | None) -> Score:
        return Score(trajectory_id="t", judge="j", objective="safety", value=value, missing=missing, rubric="r")

    readings = Readings(judge)
    readings.add(score(None, reason) for reason in ("error", "context", "provider_rejected", "provider_malformed"))
    assert readings.tell() == []
    readings.add([score(None, "truncated")])
    assert len(readings.tell()) == 1
    readings.add_read("safety", 1)
    assert readings.tell() == []
