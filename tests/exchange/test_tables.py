"""Tables of scores as the two sides of a gate: CSV, JSON lines, lm_eval's samples, promptfoo, Every Eval Ever."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import verdict_samples as samples
from builders.commands import asked, gated, refused

from holdfast.exchange.imports import import_run
from holdfast.exchange.scales import parse_score
from holdfast.exchange.tables.files import find_tables, is_table, read_table
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.store.cells import score_rows

Captured = pytest.CaptureFixture[str]
CASES = 60
BEFORE, AFTER = [0.0] * 54 + [1.0] * 6, [0.0] * 30 + [1.0] * 30  # harm: a tenth of the cases, then half of them
TOOLS = ("csv", "lines", "lm_eval", "promptfoo", "every_eval_ever")
# How the value of each tool is named; what of its direction and range the tool's own files say is not repeated.
OPTIONS = {
    "csv": "safety=-harm[0,1]@1",
    "lines": "safety=-harm[0,1]@1",
    "lm_eval": "safety=acc",
    "promptfoo": "safety=score",
    "every_eval_ever": "safety=harm_rate",
}


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(folder: Path, name: str, harm: Sequence[float], *, head: str = "case,harm,family,reason") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"case {number},{value},{'ab'[number % 2]}," for number, value in enumerate(harm)]
    (folder / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder / f"{name}.csv"


def write_lines(folder: Path, name: str, harm: Sequence[float]) -> Path:
    return lines(folder / f"{name}.jsonl", [{"case": number, "harm": value} for number, value in enumerate(harm)])


def write_lm_eval(folder: Path, name: str, harm: Sequence[float]) -> Path:
    """As ``lm_eval run --output_path --log_samples`` writes: ``acc`` is 1 where the answer is right."""
    place, date = folder / name, "2026-11-30T10-00-00.123456"
    rows = [
        {
            "doc_id": number,
            "doc": {"question": f"q{number}"},
            "target": "a",
            "arguments": {"gen_args_0": {"arg_0": f"Question {number}?", "arg_1": {"until": ["\n"]}}},
            "resps": [["said"]],
            "filtered_resps": ["said"],
            "filter": "none",
            "metrics": ["acc"],
            "doc_hash": f"{number:064x}",
            "acc": 1.0 - value,
        }
        for number, value in enumerate(harm)
    ]
    lines(place / f"samples_refuse_{date}.jsonl", rows)
    results = {"model_name": f"org/{name}", "results": {}, "higher_is_better": {"refuse": {"acc": True}}}
    (place / f"results_{date}.json").write_text(json.dumps(results))
    return place


def write_promptfoo(folder: Path, name: str, harm: Sequence[float]) -> Path:
    """As ``promptfoo eval --output`` writes."""
    rows = [
        {
            "provider": {"id": f"openai:{name}", "label": ""},
            "prompt": {"raw": f"do {number}", "label": "p"},
            "promptIdx": 0,
            "testIdx": number,
            "vars": {"q": number},
            "response": {"output": "done"},
            "success": value == 0,
            "score": 1 - value,
            "namedScores": {},
            "gradingResult": {"pass": value == 0, "score": 1 - value, "reason": "as asked"},
        }
        for number, value in enumerate(harm)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"evalId": "e", "results": {"version": 3, "results": rows, "stats": {}}}))
    return path


def write_every_eval_ever(folder: Path, name: str, harm: Sequence[float]) -> Path:
    """A record and its samples, by the schemas 0.2.1: a lower rate of harm is better."""
    place, identity = folder / name, f"harm/{name}/1"
    rows = [
        {
            "schema_version": "instance_level_eval_0.2.1",
            "evaluation_id": identity,
            "model_id": f"org/{name}",
            "evaluation_name": "harm_rate",
            "sample_id": str(number),
            "interaction_type": "single_turn",
            "input": {"raw": f"do {number}", "reference": []},
            "output": {"raw": ["done"]},
            "answer_attribution": [],
            "evaluation": {"score": value, "is_correct": value == 0},
        }
        for number, value in enumerate(harm)
    ]
    lines(place / "samples.jsonl", rows)
    metric = {"lower_is_better": True, "score_type": "continuous", "min_score": 0, "max_score": 1}
    result = {"evaluation_name": "harm_rate", "metric_config": metric, "score_details": {"score": 0.1}}
    record = {"evaluation_id": identity, "model_info": {"id": f"org/{name}"}, "evaluation_results": [result]}
    (place / "record.json").write_text(json.dumps(record))
    return place


WRITERS: dict[str, Callable[[Path, str, Sequence[float]], Path]] = {
    "csv": write_csv,
    "lines": write_lines,
    "lm_eval": write_lm_eval,
    "promptfoo": write_promptfoo,
    "every_eval_ever": write_every_eval_ever,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_became_worse_fails_and_what_did_not_passes(tool: str, tmp_path: Path, capsys: Captured) -> None:
    """The direction is the tool's own or the user's: harm in half of the cases instead of a tenth is a loss of 1.2."""
    sides = [WRITERS[tool](tmp_path, name, harm) for name, harm in (("before", BEFORE), ("after", AFTER))]
    code, verdict = gated(capsys, *sides, "--score", OPTIONS[tool])
    assert code == 1 and verdict["cases"] == CASES
    safety = next(one for one in verdict["checks"] if one["metric"] == "safety")
    assert (safety["parent"], safety["child"], safety["change"]) == pytest.approx((2.7, 1.5, -1.2))
    unmeasured = {one["metric"] for one in verdict["checks"] if not one["measured"]}
    assert {"validity", "refusal", "helpfulness"} <= unmeasured  # nothing is said of what the table cannot know
    assert not any(one["blocking"] for one in verdict["checks"] if one["metric"] in unmeasured)
    assert gated(capsys, *reversed(sides), "--score", OPTIONS[tool])[0] == 0


@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_is_taken_that_nobody_declared(tool: str, tmp_path: Path, capsys: Captured) -> None:
    """A tool may say which end is good; what it measures it does not say."""
    sides = [WRITERS[tool](tmp_path, name, harm) for name, harm in (("before", BEFORE), ("after", AFTER))]
    line = refused(capsys, "gate", *sides)
    assert "no score of 'safety' was taken" in line
    assert ("not what it measures" in line) == (tool not in ("csv", "lines"))


def test_one_table_may_hold_both_sides(tmp_path: Path, capsys: Captured) -> None:
    """Rows of a case and a side are its rollouts; an empty cell is missing with its reason."""
    rows = ["case,side,harm,reason"]
    for number, (mine, theirs) in enumerate(zip(BEFORE, AFTER, strict=True)):
        rows += [f"c{number},old,{mine},", f"c{number},old,{mine},"]
        rows += [f"c{number},new,{theirs},", f"c{number},new,{'' if number < 3 else theirs},the judge timed out"]
    table = tmp_path / "scores.csv"
    table.write_text("\n".join(rows))
    code, verdict = gated(capsys, table, "--parent", "old", "--child", "new", "--score", "safety=-harm[0,1]")
    assert code == 1 and verdict["cases"] == CASES
    import_run(table, tmp_path / "run", scores=[parse_score("safety=-harm[0,1]")])
    with Store(tmp_path / "run") as store:
        assert store.counts()["trajectories"] == 4 * CASES
        missing = [one for scores in store.scores_of(store.trajectory_ids()) for one in scores if one.value is None]
        assert [one.missing for one in missing] == ["the judge timed out"] * 3
        assert len(list(score_rows(store))) == 4 * CASES


def test_evidence_of_two_tables_tells_of_both(tmp_path: Path, capsys: Captured) -> None:
    sides = [write_csv(tmp_path, name, harm) for name, harm in (("before", BEFORE), ("after", AFTER))]
    asked(capsys, "gate", *sides, "--score", OPTIONS["csv"], "-o", tmp_path / "out", "--quiet")
    found = json.loads((tmp_path / "out" / "evidence.json").read_text())
    jsonschema.Draft202012Validator(samples.verdict_schema("evidence")).validate(found)
    assert (found["run"], found["parent_run"]["run"]) == (str(sides[1]), str(sides[0]))
    page = (tmp_path / "out" / "evidence.html").read_text()
    assert "The parent&#x27;s run" in page and str(sides[0]) in page


def test_filters_of_lm_eval_are_scorers_of_their_own(tmp_path: Path, capsys: Captured) -> None:
    for name in ("before", "after"):
        folder = write_lm_eval(tmp_path, name, BEFORE)
        (path,) = folder.glob("samples_*")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        both = [
            {**row, "filter": kind, "metrics": ["exact_match"], "exact_match": row["acc"]}
            for row in rows
            for kind in ("strict", "loose")
        ]
        lines(path, both)
    sides = [tmp_path / "before", tmp_path / "after"]
    assert gated(capsys, *sides, "--score", "safety=strict:exact_match")[0] == 0
    assert "is given by" not in json.dumps(gated(capsys, *sides, "--score", "safety=strict:exact_match")[1])


def test_a_folder_of_other_things_is_no_table(tmp_path: Path) -> None:
    lines(tmp_path / "traces.jsonl", [{"messages": [], "case": "x", "score": 1}])
    lines(tmp_path / "other.jsonl", [{"prompt": "x", "chosen": "a", "rejected": "b"}])
    (tmp_path / "settings.json").write_text('{"version": 2, "eval": {}}')
    assert not is_table(tmp_path)
    write_csv(tmp_path, "scores", BEFORE)
    assert find_tables(tmp_path) == [tmp_path / "scores.csv"]


BAD: dict[str, tuple[str, str]] = {
    "no header": ("case 1,0.5\ncase 2,0.6\n", "no column 'case'"),
    "a misspelt header": ("cases,score\nx,1\n", "did you mean"),
    "no score": ("case,family\nx,a\n", "no column holds a score"),
    "two columns of a name": ("case,score,score\nx,1,2\n", "two columns are called 'score'"),
    "a column without a name": ("case,score,\nx,1,2\n", "a column has no name"),
    "a decimal comma": ("case;score\nx;0,5\n", "a number with a decimal comma"),
    "a decimal comma among commas": ("case,score\nx,0,5\n", "3 cells where the header has 2 columns"),
    "a row that is short": ("case,score,family\nx,1\n", "2 cells where the header has 3 columns"),
    "no rows": ("case,score\n", "a header and no row"),
    "nothing": ("", "holds no row"),
    "a case without a name": ("case,score\n,1\n", "case is empty"),
    "a quote that is not closed": ('case,score\n"x,1\n', "not readable as CSV"),
    "a rollout that is no number": ("case,score,rollout\nx,1,first\n", "rollout is 'first'"),
    "a rollout of another script": ("case,score,rollout\nx,1,²\n", "rollout is '²'"),
    "not text": ("case,score\nx,\udcff\n", "not UTF-8"),
}


@pytest.mark.parametrize(("text", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_csv_is_told_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StudyError, match=told.replace("(", r"\(")) as raised:
        read_table(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_sides_that_cannot_be_compared(tmp_path: Path, capsys: Captured) -> None:
    option = ("--score", "safety=-harm[0,1]")
    before = write_csv(tmp_path, "before", BEFORE)
    assert "parent and child are one checkpoint" in refused(capsys, "gate", before, before, *option)
    shutil.copy(before, tmp_path / "copy.csv")
    assert "are one file" in refused(capsys, "gate", before, tmp_path / "copy.csv", *option)
    off = write_csv(tmp_path, "off", [7.0, *AFTER[1:30], *[9.0] * 30])
    assert "lie off its scale" in refused(capsys, "gate", before, off, *option)
    other = tmp_path / "other.csv"
    other.write_text("case,harm\n" + "".join(f"another {number},0\n" for number in range(CASES)))
    assert refused(capsys, "gate", before, other, *option)
    twice = tmp_path / "twice.csv"
    twice.write_text("case,harm,rollout\nx,0,0\nx,1,0\n")
    assert "stands twice" in refused(capsys, "gate", before, twice, *option)
    families = tmp_path / "families.csv"
    families.write_text("case,harm,family\nx,0,a\nx,1,b\n")
    assert "give a case one family" in refused(capsys, "gate", before, families, *option)


def test_a_record_of_whole_evaluations_has_no_samples(tmp_path: Path) -> None:
    folder = write_every_eval_ever(tmp_path, "before", BEFORE)
    with pytest.raises(StudyError, match="scores of whole evaluations and of no sample"):
        read_table(folder / "record.json")


def test_a_table_is_shown_and_exported_as_a_run_is(tmp_path: Path, capsys: Captured) -> None:
    import_run(write_promptfoo(tmp_path, "model", BEFORE), tmp_path / "run", scores=[parse_score("safety=score")])
    code, out, _ = asked(capsys, "show", tmp_path / "run")
    assert code == 0 and "60 cases · 1 checkpoints · 60 trajectories" in out
