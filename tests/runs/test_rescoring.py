"""Another judge for a run: scores beside the others, a budget that is kept, and canaries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.commands import refused
from builders.places import copy_run
from builders.sample_studies import RULES
from builders.smoke_study import SMOKE

import holdfast as hf
from holdfast.cli import main as cli
from holdfast.judges.rubric.digits import Evidence, show_reply
from holdfast.models.fakes import FakeProvider
from holdfast.records import Analysis, Labelled
from holdfast.records.errors import StepError, StudyError
from holdfast.runs.build import build
from holdfast.runs.forecast import read_spending
from holdfast.runs.rescoring import rescore
from holdfast.runs.run import fork_run
from holdfast.store import Store
from holdfast.study.study import load


@pytest.fixture
def run(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished small run, to add scores to."""
    copy_run(smoke_run, tmp_path / "run", "weights", "report")
    return tmp_path / "run"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def verdict(request: Mapping[str, Any]) -> str:
    """A judge that finds everything possible and good."""
    labels = request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
    label = next(one for one in labels if one in ("Possible Mild Risk", "Good"))
    return json.dumps({"reasoning": "seen", "label": label, "score": 2})


def remote(folder: Path, url: str) -> Path:
    text = '[judges.gpt]\nkind = "rubric"\nmodel = "judge"\n[models.judge]\nkind = "remote"\n'
    return write(folder / "gpt.toml", text + f'name = "openai-api/fake/judge"\n[endpoints.judge]\nbase_url = "{url}"\n')


def test_a_rule_judge_scores_every_trajectory_once(run: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rules.toml", RULES)
    with Store(run) as store:
        count, before = len(store.trajectory_ids()), store.counts()["scores"]
    assert rescore(run, "rules", file) == {"judged": count, "before": 0, "scores": 2 * count, "missing": 0}
    assert rescore(run, "rules", file) == {"judged": 0, "before": count, "scores": 0, "missing": 0}
    with Store(run) as store:
        assert store.counts()["scores"] == before + 2 * count
    rows = [row for row in hf.Run(run).scores() if row["judge"] == "rules"]
    assert len(rows) == 2 * count and {row["value"] for row in rows if row["objective"] == "helpfulness"} == {2.0}
    analysis = hf.Run(run).analysis(draws=100)
    bias = [one for one in analysis.calibration if one.kind == "mean_bias" and one.judge == "rules"]
    assert bias and all(one.value is not None for one in bias), "the office's own judge is the truth"


def test_a_second_judge_stands_beside_the_first_and_changes_none_of_its_numbers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hf.Run(run).analysis(draws=100)
    (alone,) = before.judges
    assert (alone.judge, alone.labelled, alone.reads_state) == ("state", Labelled.ALL, True)
    rescore(run, "rules", write(tmp_path / "rules.toml", RULES))
    after = hf.Run(run).analysis(draws=100)
    assert {(one.judge, one.labelled, one.reads_state, bool(one.headline)) for one in after.judges} == {
        ("state", Labelled.ALL, True, True),
        ("rules", Labelled.NONE, False, False),
    }

    def pooled(found: Analysis, judge: str | None) -> list[tuple[Any, ...]]:
        rows = [*found.scores, *found.deltas, *found.persistence, *found.frontier, *found.dose]
        kept = [one for one in rows if one.estimator == "pooled" and one.judge == judge]
        return [(one.kind, one.claim, one.lineage, str(one.axes), one.base, one.value, one.interval) for one in kept]

    assert pooled(after, "state") == pooled(before, None) and pooled(after, None) == [] != pooled(after, "rules")
    assert after.frontiers[0].points == before.frontiers[0].points
    assert cli.main(["gate", str(run), "--all", "--json", "--quiet"]) in (0, 1, 3)
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    told = {(one["judge"], one["labelled"], one["reads_state"]) for one in verdicts}
    assert told == {("state", "all", True)}
    assert all("judge state (reads state, labelled all): " in one["sentence"] for one in verdicts)
    assert cli.main(["gate", str(run), "--all", "--json", "--quiet", "--judge", "rules"]) in (0, 1, 3)
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["labelled"] == "none"


def test_changed_rules_are_another_judge(run: Path, tmp_path: Path) -> None:
    first = rescore(run, "rules", write(tmp_path / "one.toml", RULES))
    second = rescore(run, "rules", write(tmp_path / "two.toml", RULES.replace("value = 1", "value = 0")))
    assert second["judged"] == first["judged"] and second["before"] == 0


def test_a_budget_stops_and_a_larger_one_goes_on(run: Path, tmp_path: Path) -> None:
    with FakeProvider(answers=verdict) as provider:
        file = remote(tmp_path, provider.base_url)
        with pytest.raises(StepError, match="budget of 60 calls is spent"):
            rescore(run, "gpt", file, budget={"max_calls": 60})
        assert len(provider.bill) == 60
        with Store(run) as store:
            count = len(store.trajectory_ids())
        done = rescore(run, "gpt", file)
        assert done["missing"] == 0
    # What was answered of the batch that broke is not asked again: the ledger holds every call that was billed. Two
    # checkpoints that did the very same in a case are judged by one call.
    (spent,) = read_spending(run)
    assert (spent.calls, spent.in_doubt, spent.speaker) == (len(provider.bill), 0, "judge")
    assert 1.9 * count < spent.calls <= 2 * count


def test_a_fork_keeps_what_was_paid_for(smoke_run: Path, tmp_path: Path) -> None:
    copy_run(smoke_run, tmp_path / "run", "report")
    with FakeProvider(answers=verdict) as provider, pytest.raises(StepError, match="budget of 9 calls"):
        rescore(tmp_path / "run", "gpt", remote(tmp_path, provider.base_url), budget={"max_calls": 9})
    fork_run(tmp_path / "run", tmp_path / "fork", build(load(SMOKE)))
    assert read_spending(tmp_path / "fork") == read_spending(tmp_path / "run")
    assert read_spending(tmp_path / "fork")[0].calls == 9


def test_the_name_of_a_studys_judge_is_taken(run: Path, tmp_path: Path) -> None:
    text = RULES.replace("judges.rules", "judges.state")
    with pytest.raises(StudyError, match="another judge 'state'; give this one a name of its own"):
        rescore(run, "state", write(tmp_path / "state.toml", text))


def test_names_that_are_no_judge_are_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no endpoint has a price" in refused(capsys, "judge", run, "--with", "openai/gpt-5", "--max-cost", "5")
    assert "RUN is missing" in refused(capsys, "judge", "--with", "openai/gpt-5")
    with pytest.raises(StudyError, match=r"holds \[suite\]"):
        rescore(run, "rules", write(tmp_path / "x.toml", RULES + "[suite]\nname = 'office'\n"))


def test_canaries_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeProvider(answers=verdict) as provider:
        file = remote(tmp_path, provider.base_url)
        assert cli.main(["judge", "--canaries", "--with", "gpt", "--judges", str(file)]) == 0
        shown = capsys.readouterr().out
        assert "safety, harmful episodes" in shown and "0 of 46 flipped" in shown


def test_a_reply_is_shown_as_people_read_it() -> None:
    kept = Evidence(replies=("{", '{"score": 2}'), expected=1.25, mass=0.5).to_text()
    assert show_reply(kept).splitlines() == [
        '{"score": 2}',
        "(reply 2; the first was not usable)",
        "(expected score 1.25 by token probabilities, 50% of them on 0-3)",
    ]
    assert show_reply("[1]") == "[1]" and show_reply("plain") == "plain" and show_reply('{"a": 1}') == '{"a": 1}'
