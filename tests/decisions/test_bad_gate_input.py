"""Bad input to gates, watches and what declares them: one line, exit code 2, and nothing is changed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from builders import gate_samples, watch_samples
from builders.commands import refused
from builders.gate_samples import Made, steady

from holdfast.cli.main import main
from holdfast.exchange.traces import read_traces
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.store.places import STUDY_KEY
from holdfast.study.study import load
from holdfast.suites.probes.files import read_rows

Captured = pytest.CaptureFixture[str]
DIGITS = "9" * 5000
STUDY = '[study]\nname = "x"\n[judges.state]\nkind = "state"\n'


def small_run(path: Path, **made: Any) -> Path:
    return gate_samples.write_run(path, Made(safety={"base": steady(4), "S": steady(4)}, **made))


# --- TOML ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [f"[gate]\nmargin = {DIGITS}\n", "[gate]\nblocking = " + "[" * 20_000])
def test_toml_that_python_does_not_read_is_one_line(text: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    run = small_run(tmp_path / "run")
    assert "not valid TOML" in refused(capsys, "gate", run, "--child", "S", "--rules", file)
    baseline = ["--baseline", "S", "--checkpoints", "base", "--frozen", "2"]
    assert "not valid TOML" in refused(capsys, "watch", run, *baseline, "--judges", file)


@pytest.mark.parametrize("key", ["judges", "models", "endpoints"])
def test_a_file_of_judges_that_holds_no_tables_is_refused(key: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'{key} = "x"\n')
    run = small_run(tmp_path / "run")
    baseline = ["--baseline", "S", "--checkpoints", "base", "--frozen", "2"]
    assert f"{key} is no table" in refused(capsys, "watch", run, *baseline, "--judges", file)


def test_a_scale_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(STUDY + "[scales]\nsmall = 3\n")
    with pytest.raises(StudyError, match="scales is no table of tables"):
        load(tmp_path / "x.toml", scale="small")


# --- a gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--all", "--plan"], "leave out --all"),
        (["--child", "S", "--plan", "-o", "new"], "--plan writes nothing"),
        (["--child", "S", "--scale", "x"], "--scale goes with"),
        (["--child", "S", "--set", "x=1"], "--set goes with"),
        (["--child", "S", "--seed", "1"], "--seed goes with"),
        (["--child", "S", "--plan", "--junit", "x.xml"], "no verdict to write"),
        (["--child", "S", "--judge", ""], "--judge is empty"),
    ],
)
def test_options_without_effect_are_refused(words: list[str], told: str, tmp_path: Path, capsys: Captured) -> None:
    assert told in refused(capsys, "gate", small_run(tmp_path / "run"), *words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([""], "'' is no model of the study"),
        (["empty"], "holds no model"),
        (["tiny", "--again", "--seed", str(2**40)], "rollouts.seed"),
    ],
)
def test_models_are_refused_before_anything_is_spent(
    words: list[str], told: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("x.toml").write_text(STUDY)
    sides = ["--suite", "x.toml", "-o", "new", "--parent", "tiny", "--child"]
    assert told in refused(capsys, "gate", *sides, *words)
    assert not Path("new").exists()


@pytest.mark.parametrize("noted", ["{torn", "null", "[1]", '{"gate": [1]}', '{"judges": "x"}', '{"suite": 3}'])
def test_a_run_with_a_damaged_study_is_refused(noted: str, tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path / "run", study={"study": {"name": "x"}})
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta(STUDY_KEY, noted)
    assert "study noted in it is damaged" in refused(capsys, "gate", run, "--child", "S")
    assert "study noted in it is damaged" in refused(capsys, "export", run, "--to", "evidence", "-o", tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("text", ["", '{"notes"', "[]", "{}", '{"notes": 3}', "[" * 50_000])
def test_evidence_of_a_damaged_analysis_is_refused(text: str, tmp_path: Path, capsys: Captured) -> None:
    run = small_run(tmp_path / "run")
    (run / "analysis.json").write_text(text)
    assert "analysis.json: damaged" in refused(capsys, "export", run, "--to", "evidence", "-o", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_log_that_expands_is_refused_before_its_header_is_read(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing = pytest.importorskip("holdfast.exchange.inspect.importing")
    monkeypatch.setattr("holdfast.exchange.inspect.files.MAX_ENTRY_BYTES", 2**20)
    monkeypatch.setattr(importing, "read_eval_log", lambda *_, **__: pytest.fail("the header was read"))
    log = tmp_path / "x.eval"
    with zipfile.ZipFile(log, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b" " * 2**21)
    assert "'header.json': expands beyond" in refused(capsys, "gate", "--parent", log, "--child", log)


# --- a watch -------------------------------------------------------------------------------------------------------


def state_with(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def test_a_damaged_state_is_refused_and_kept(tmp_path: Path, capsys: Captured) -> None:
    run = watch_samples.write_run(tmp_path / "run", {"S": 2.5, "H1": 2.5}, cases=8)
    state = tmp_path / "state.json"
    words = ["watch", run, "--baseline", "S", "--state", state]
    assert main([str(word) for word in words]) in (0, 1, 3)
    capsys.readouterr()
    good = state.read_text()
    twice = json.loads(good)
    twice["looks"] *= 2
    for bad in (
        state_with(good, "3.0", "9" * 400),
        state_with(good, "3.0", "1e999"),
        state_with(good, "3.0", "99"),
        state_with(good, "3.0", "-1"),
        state_with(good, '"frozen": {}', '"frozen": {"x": "nan"}'),
        state_with(good, '"frozen": {}', '"frozen": {"x": true}'),
        state_with(good, '"frozen": {}', '"frozen": {"x": ' + "9" * 400 + "}"),
        state_with(good, '"missing": 0', '"missing": -4'),
        state_with(good, '"missing": 0', '"missing": 0, "missing": 1'),
        json.dumps({**json.loads(good), "looks": {}}),
        json.dumps(twice),
    ):
        state.write_text(bad)
        assert "damaged" in refused(capsys, *words)
        assert state.read_text() == bad


def test_a_label_of_any_bytes_is_kept_and_found_again(tmp_path: Path, capsys: Captured) -> None:
    run = watch_samples.write_run(tmp_path / "run", {"S": 2.5, "H1": 2.5}, cases=8)
    later = watch_samples.write_run(tmp_path / "later", {"S": 2.5}, cases=8, seed=1)
    state = tmp_path / "state.json"
    words = ["watch", run, "--baseline", "S", "--run", later, "--label", "\udcff\n", "--state", state]
    first = main([str(word) for word in words]), capsys.readouterr().out
    kept = state.read_bytes()
    assert (main([str(word) for word in words]), capsys.readouterr().out) == first
    assert first[0] in (0, 1, 3) and state.read_bytes() == kept


ODD = ("x", 5, [1], True, [[1]])


def odd_spans() -> list[dict[str, Any]]:
    """Spans with one thing each that is not of its form."""
    good = {"gen_ai.input.messages": [{"role": "user", "parts": []}], "gen_ai.output.messages": []}
    made = []
    for value in ODD:
        made += [watch_samples.span("t", 1, good, status=value), watch_samples.span("t", 1, good, events=value)]
        made.append(watch_samples.span("t", 1, good, events=[{"name": value}]))
        for kind in ("arrayValue", "kvlistValue"):
            made.append(watch_samples.span("t", 1, good))
            made[-1]["attributes"].append({"key": "q", "value": {kind: value}})
    return made


def test_telemetry_of_a_wrong_form_is_told_by_place(tmp_path: Path) -> None:
    documents = [watch_samples.otlp([one]) for one in odd_spans()]
    documents += [watch_samples.otlp([], [{"traceId": "t", "eventName": value}]) for value in ODD]
    documents += [{"resourceSpans": [{"resource": value, "scopeSpans": []}]} for value in ODD]
    for number, document in enumerate(documents):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(document))
        with pytest.raises(StudyError, match=rf"{number}\.json|no conversation in these files"):
            read_traces([file])


def test_a_count_that_no_store_holds_is_no_count(tmp_path: Path) -> None:
    rules, file = watch_samples.write_rules(tmp_path), tmp_path / "t.jsonl"
    rows = [watch_samples.chat_line(number, usage={"completion_tokens": 2**70 - number}) for number in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["watch", "--traces", file, "--judge", "rules", "--judges", rules, "-o", tmp_path / "run", "--quiet"]
    assert main([str(word) for word in words]) in (0, 3)
    with Store(tmp_path / "run") as store:
        assert [one.tokens for one in store.trajectories(part="all")] == [None] * 3


# --- probes --------------------------------------------------------------------------------------------------------


def test_a_column_that_stands_twice_is_refused() -> None:
    with pytest.raises(StudyError, match=r"x\.csv:1: the column 'prompt' stands twice"):
        read_rows("x.csv", b"id,prompt,prompt\n1,a,b\n", "csv", ["id", "prompt"])
