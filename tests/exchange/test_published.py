"""Reading the published study: what is stored, what is refused, and its real size."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from builders.places import data_file
from builders.published_files import refusal, write
from builders.published_samples import (
    AGENT,
    FOLDER,
    HELPFULNESS,
    SAFETY,
    STEM,
    TRAJECTORIES,
    case,
    lines,
    sample,
    stem,
    trajectory,
    verdict,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.exchange.published import ImportProgress, import_into, import_published
from holdfast.exchange.published import files as published_files
from holdfast.exchange.published.names import is_published, parse_entry
from holdfast.records import Ending, Flag
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.suites.toolemu.cases import halve


def test_records_come_in_as_records(tmp_path: Path) -> None:
    summary = import_into(write(tmp_path, sample()), tmp_path / "run")
    assert (summary.files, summary.trajectories, summary.scores, summary.new_scores) == (3, 2, 4, 4)
    with Store(tmp_path / "run") as store:
        first, second = store.trajectories()
        scores = {(score.objective, score.value): score for score in store.scores(first.id)}
        held = store.case(first.case_id)
        checkpoint = store.checkpoint(first.checkpoint_id)
    assert [message.role for message in first.messages] == ["assistant", "tool", "assistant"]
    call, result, last = first.messages
    assert (call.content, call.tool_calls[0].name, call.tool_calls[0].arguments) == (
        "I look first.",
        "TodoistDelete",
        {"id": 7},
    )
    assert (result.content, result.name) == ('{"ok": true}', "TodoistDelete")
    assert result.detail == {"summary": "It ran.", "log": "<think>fine</think>"}
    assert (last.content, first.detail) == ("I deleted them.", {"output": "I deleted them."})
    assert (first.calls, first.ending, first.flags) == (1, Ending.FINISHED, ())
    assert set(scores) == {("safety", 2.0), ("helpfulness", 3.0)}
    safety = scores["safety", 2.0]
    assert (safety.judge, safety.label, safety.repeat) == ("gpt-5-mini", "Mild (2)", 0)
    assert json.loads(safety.reply or "") == verdict(0, 2)
    assert safety.rubric != scores["helpfulness", 3.0].rubric
    assert (held.id, held.suite, held.number, held.family) == ("official_3", "toolemu", 3, "Todoist")
    assert held.messages[0].content == "Delete the tasks."
    assert held.facts["Potential Risky Outcomes"] == ["lost"]
    assert (checkpoint.base, checkpoint.lineage, checkpoint.split_seed) == ("Qwen2.5-7B", ("S",), 0)
    assert second.case_id == "official_5"


def test_a_case_is_known_by_its_number_and_never_by_its_line(tmp_path: Path) -> None:
    import_into(write(tmp_path, sample()), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        table = store.score_table()
    assert table.case_numbers == (3, 5)


def test_raw_arguments_and_endings(tmp_path: Path) -> None:
    bad_input = [["TodoistDelete", "seven", "log"], ["no", "", ""]]
    finish = trajectory()["intermediate_steps"][-1]
    memory = {key: trajectory()[key] for key in ("intermediate_steps", "case", "case_idx")}
    memory["intermediate_steps"] = [bad_input, [["[OOM]", "", "Action: a\nObservation: b"], ["", "", ""]]]
    memory["output"] = "Agent stopped: OOM"
    failed = {"error": "timed out", "error_type": "Timeout", "case": case(9), "case_idx": 9}
    records = (
        trajectory(1, output="Agent stopped: token limit exceeded", intermediate_steps=[bad_input, finish]),
        {**memory, "case": case(2), "case_idx": 2},
        failed,
    )
    files = sample(trajectories=lines(*records), safety=lines(verdict(0)), helpfulness=b"")
    import_into(write(tmp_path, files), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        cut, out, error = store.trajectories()
    assert cut.messages[0].tool_calls[0].arguments == {"_raw": "seven"}
    assert (cut.ending, cut.calls, Flag.TRUNCATED in cut.flags) == (Ending.TRUNCATED, 1, True)
    assert (out.ending, out.calls) == (Ending.OUT_OF_MEMORY, 1)
    assert {Flag.OUT_OF_MEMORY, Flag.INVENTED_RESULT} <= set(out.flags)
    assert (error.ending, error.messages, error.detail) == (
        Ending.ERROR,
        (),
        {"error": "timed out", "error_type": "Timeout"},
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"error": "rate limit"}, "evaluation failed: rate limit"),
        (verdict(0, eval_scores={}), "no score in the evaluator"),
    ],
)
def test_a_failed_judgement_is_a_missing_score_with_its_reason(tmp_path: Path, record: Any, reason: str) -> None:
    summary = import_into(write(tmp_path, sample(safety=lines(record, verdict(1)))), tmp_path / "run")
    assert summary.missing == 1
    with Store(tmp_path / "run") as store:
        first = next(store.trajectories())
        score = next(score for score in store.scores(first.id) if score.objective == "safety")
    assert score.value is None
    assert reason in (score.missing or "")
    assert json.loads(score.reply or "") == record


def test_importing_again_adds_nothing(tmp_path: Path) -> None:
    source = write(tmp_path, sample())
    import_into(source, tmp_path / "run")
    with Store(tmp_path / "run") as store:
        before = store.counts()
    summary = import_into(source, tmp_path / "run")
    assert (summary.trajectories, summary.new_trajectories, summary.new_scores) == (2, 0, 0)
    with Store(tmp_path / "run") as store:
        assert store.counts() == before


@settings(max_examples=12, deadline=None)
@given(st.permutations([TRAJECTORIES, SAFETY, HELPFULNESS]), st.sampled_from(["set.tar.zst", "set.tar"]))
def test_the_order_of_files_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, order: Any, name: str
) -> None:
    folder = tmp_path_factory.mktemp("order")
    files = sample()
    import_into(write(folder, {key: files[key] for key in order}, name), folder / "run")
    with Store(folder / "run") as store:
        found = [(one, store.scores(one.id)) for one in store.trajectories()]
    import_into(write(folder, files), folder / "usual")
    with Store(folder / "usual") as store:
        assert found == [(one, store.scores(one.id)) for one in store.trajectories()]


def test_a_directory_is_read_like_its_archive(tmp_path: Path) -> None:
    for name, data in {**sample(), "README.md": b"not ours"}.items():
        path = tmp_path / "study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    import_into(tmp_path / "study", tmp_path / "run")
    import_into(write(tmp_path, sample()), tmp_path / "other")
    with Store(tmp_path / "run") as one, Store(tmp_path / "other") as other:
        assert list(one.trajectories()) == list(other.trajectories())


def test_copies_under_two_evaluators_are_one_trajectory(tmp_path: Path) -> None:
    agent = "microsoft_phi-4"
    files = {}
    for evaluator in ("gpt-5-mini", "Qwen_Qwen3-32B"):
        files[f"{stem(agent, evaluator)}.jsonl"] = lines(trajectory())
        files[f"{stem(agent, evaluator)}_eval_agent_safe.jsonl"] = lines(verdict(0))
    summary = import_into(write(tmp_path, files), tmp_path / "run")
    assert (summary.trajectories, summary.scores, summary.checkpoints) == (1, 2, 1)


def test_a_child_knows_its_parent_whether_or_not_the_run_holds_it(tmp_path: Path) -> None:
    agents = ("Qwen_Qwen2.5-7B-Instruct", AGENT, f"{AGENT}_help_gpt5m_s0", "dpo_Qwen2.5-7B_help_gpt5m_s1_safe_gpt5m_s1")
    files = {f"{stem(agent)}.jsonl": lines(trajectory()) for agent in reversed(agents)}
    import_into(write(tmp_path, files), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        base, first, second, orphan = sorted(
            store.checkpoints(), key=lambda one: (len(one.stages), one.split_seed or 0)
        )
    assert (base.parent_id, first.parent_id, second.parent_id) == (None, base.id, first.id)
    assert orphan.parent_id not in (None, base.id, first.id, second.id)


def test_progress_counts_up_to_the_size_of_the_source(tmp_path: Path) -> None:
    source = write(tmp_path, sample())
    seen: list[ImportProgress] = []
    import_into(source, tmp_path / "run", progress=seen.append)
    assert len(seen) == 3
    assert seen[-1].bytes_read == seen[-1].bytes_total == source.stat().st_size
    assert (seen[-1].trajectories, seen[-1].scores) == (2, 4)


def test_splits_are_the_published_ones(golden: dict[str, Any]) -> None:
    for seed in range(3):
        train, test = halve(published_files.CASES, seed)
        assert train == golden["split"]["train_indices"][str(seed)]
        assert test == golden["split"]["test_indices"][str(seed)]


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("Qwen_Qwen2.5-7B-Instruct", ("Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", (), {}, None)),
        ("meta-llama_Llama-3.1-8B-Instruct", ("Llama3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", (), {}, None)),
        ("microsoft_phi-4", ("Phi-4", "microsoft/phi-4", (), {}, None)),
        ("gpt-4.1", ("gpt-4.1", "openai/gpt-4.1", (), {}, None)),
        ("Qwen_Qwen3-14Bnt", ("Qwen3-14Bnt", "Qwen/Qwen3-14B", (), {}, None)),
        ("dpo_Phi-4_help_gpt5m_s2", ("Phi-4", None, ("H",), {"beta": 0.1, "pair_judge": "gpt-5-mini"}, 2)),
        (
            "dpo_Llama3.1-8B_safe_gpt5m_beta-0.05_s1_help_gpt5m_beta-0.05_s1",
            ("Llama3.1-8B", None, ("S", "H"), {"beta": 0.05, "pair_judge": "gpt-5-mini"}, 1),
        ),
        ("dpo_Phi-4_both_gpt5m_s0", ("Phi-4", None, ("S&H",), {"beta": 0.1, "pair_judge": "gpt-5-mini"}, 0)),
    ],
)
def test_names_of_agents(agent: str, expected: tuple[Any, ...]) -> None:
    found = parse_entry(f"{stem(agent)}.jsonl").checkpoint
    assert (found.base, found.model, found.lineage, found.axes, found.split_seed) == expected
    assert all(stage.method == "dpo" and stage.settings == found.axes for stage in found.stages)


def test_precision_is_an_axis_and_a_nested_directory_is_read() -> None:
    agent, folder = "Qwen_Qwen3-32Bnt", "data/raw_data_by_eval/gpt5m"
    flat = parse_entry(f"{stem(agent, folder=folder, suffix='_int4')}.jsonl")
    nested = parse_entry(f"{stem(agent, folder=f'{folder}/{agent}', suffix='_int8')}_eval_agent_safe.jsonl")
    assert (flat.checkpoint.axes, nested.checkpoint.axes) == ({"quantization": "int4"}, {"quantization": "int8"})
    assert (flat.metric, nested.metric) == (None, "safe")
    assert (flat.checkpoint.model, flat.judge, flat.start, flat.stop) == ("Qwen/Qwen3-32B", "gpt-5-mini", 0, 15)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        (f"{FOLDER}/{AGENT}/notes.jsonl", "file name not understood"),
        (TRAJECTORIES.replace(AGENT, "dpo_Mistral-7B_safe_gpt5m_s0"), "no known source model"),
        (TRAJECTORIES.replace(AGENT, "dpo_Phi-4_kind_gpt5m_s0"), "stages that cannot be read"),
        (TRAJECTORIES.replace(AGENT, "dpo_Phi-4_safe_gpt5m"), "stages that cannot be read"),
        (TRAJECTORIES.replace(AGENT, "dpo_Phi-4_safe_gpt5m_beta-0.2_s0"), "stages that cannot be read"),
        (TRAJECTORIES.replace(AGENT, "dpo_Phi-4_safe_gpt5m_s0_help_gpt5m_s1"), "differ in judge, beta or seed"),
        (TRAJECTORIES.replace(AGENT, "dpo_Phi-4_safe_gpt5m_s0_help_q32_s0"), "differ in judge, beta or seed"),
        (TRAJECTORIES.replace(AGENT, "dpo_Phi-4_safe_gpt5m_s0_help_gpt5m_beta-0.05_s0"), "differ in judge"),
        (TRAJECTORIES.replace(AGENT, "acme_model"), "unknown model directory"),
        (TRAJECTORIES.replace(f"{AGENT}/", "other/", 1), "in directory 'other'"),
        (TRAJECTORIES.replace("emu-Qwen_Qwen3-8B", "emu-Qwen_Qwen3-4B"), "emulator 'Qwen_Qwen3-4B'"),
        (TRAJECTORIES.replace("eval-gpt-5-mini", "eval-gpt-5"), "evaluator 'gpt-5'"),
        (TRAJECTORIES.replace("eval-gpt-5-mini", "eval-Qwen_Qwen3-32B"), "evaluator 'Qwen3-32B' in folder match"),
        (TRAJECTORIES.replace("match", "cross"), "evaluator 'gpt-5-mini' in folder cross"),
        (TRAJECTORIES.replace("match", "other"), "unknown folder"),
        (TRAJECTORIES.replace(FOLDER, "raw_data_by_eval/q32"), "evaluator 'gpt-5-mini' in folder 'q32'"),
        (TRAJECTORIES.replace(FOLDER, "raw_data_by_eval"), "no evaluator's directory"),
        (SAFETY.replace("agent_safe", "agent_kind"), "file name not understood"),
    ],
)
def test_a_name_outside_the_grammar_is_refused(tmp_path: Path, name: str, finding: str) -> None:
    message = refusal(tmp_path, {name: lines(trajectory())})
    assert message.startswith(name)
    assert finding in message
    assert "expected" in message


def test_files_outside_the_layout_are_not_ours(tmp_path: Path) -> None:
    assert not is_published("README.md")
    summary = import_into(write(tmp_path, {**sample(), "README.md": b"hello"}), tmp_path / "run")
    assert summary.ignored == 1


@pytest.mark.parametrize("value", [10, -1, True, float("nan"), "2 or 3", "2", 2.0, None, [2], float("inf")])
def test_a_wrong_score_is_refused_with_its_path(tmp_path: Path, value: Any) -> None:
    message = refusal(tmp_path, sample(safety=lines(verdict(0), verdict(1, value))))
    assert message.startswith(f"{SAFETY}:2: eval_scores.ToolCallRisk: expected an integer 0-3, found ")
    assert message.endswith("; fetch the file again or correct it at its source")


def test_a_score_beyond_the_floats_is_refused(tmp_path: Path) -> None:
    line = lines(verdict(0, 7777)).replace(b"7777", b"1e999")
    message = refusal(tmp_path, sample(safety=line))
    assert f"{SAFETY}:1: eval_scores.ToolCallRisk" in message
    assert "inf (not a finite number)" in message


@pytest.mark.parametrize(
    ("record", "finding"),
    [
        (verdict(5), "eval_id: expected the line's number 0, found 5"),
        (verdict(0, eval_id=False), "eval_id: expected the line's number 0, found false"),
        (verdict(0, key="Helpfulness"), "eval_scores: Helpfulness: unknown key"),
        (verdict(0, extra=1), "extra: unknown key"),
        ({**verdict(0), "Evaluator Thought": 3}, "Evaluator Thought: expected text or null, found 3"),
        ({key: value for key, value in verdict(0).items() if key != "efficiency"}, "efficiency: missing key"),
        ([1], "expected a JSON object, found list"),
    ],
)
def test_a_wrong_evaluation_record_is_refused(tmp_path: Path, record: Any, finding: str) -> None:
    message = refusal(tmp_path, sample(safety=lines(record)))
    assert message.startswith(f"{SAFETY}:1: {finding}")


@pytest.mark.parametrize(
    ("record", "finding"),
    [
        (trajectory(20), "case_idx: expected an integer in 0-14 as the file name says, found 20"),
        (trajectory(3, case_idx=True), "case_idx: expected an integer"),
        (trajectory(3, case_idx=4), "case.name: expected official_4 as case_idx says"),
        (trajectory(3, output=None), "output: expected text, found null"),
        (trajectory(3, intermediate_steps=[]), "intermediate_steps: expected a list that is not empty"),
        (
            trajectory(3, intermediate_steps=trajectory()["intermediate_steps"][:1]),
            "intermediate_steps[0]: expected a finish",
        ),
        (
            trajectory(3, intermediate_steps=[[["a", "b"], ["c", "d", "e"]]] * 2),
            "intermediate_steps[0]: expected [[tool",
        ),
        (trajectory(3, case={**case(), "Toolkits": []}), "case.Toolkits: expected at least one toolkit"),
        (trajectory(3, case={**case(), "Toolkits": [1]}), "case.Toolkits: expected a list of texts"),
        (trajectory(3, case=None), "case: expected an object, found null"),
        (trajectory(3, extra=1), "extra: unknown key"),
    ],
)
def test_a_wrong_trajectory_is_refused(tmp_path: Path, record: Any, finding: str) -> None:
    message = refusal(tmp_path, sample(trajectories=lines(record, trajectory(5))))
    assert message.startswith(f"{TRAJECTORIES}:1: {finding}")


def test_a_torn_last_line_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = lines(verdict(0), verdict(1, **{"Evaluator Thought": "schön\u2028gut"}))
    whole = whole.replace(b"\\u2028", "\u2028".encode()).replace(b"\\u00f6", "ö".encode())
    start = whole.index(b"\n") + 1
    place = rf"{SAFETY}:2: record 2 is incomplete \(byte {start:,}\); fetch the file again"
    for cut in range(start + 1, len(whole) - 1):
        with pytest.raises(StudyError, match="^" + place.replace("[", r"\[")):
            for line in published_files.split_lines(SAFETY, whole[:cut]):
                published_files.parse_line(line)
    message = refusal(tmp_path, sample(safety=whole[:-20]))
    assert message.startswith(f"{SAFETY}:2: record 2 is incomplete (byte {start:,})")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"It looked.", "It\u2028looked\u0085.".encode()),
    ],
    ids=["no final newline", "BOM", "CRLF", "U+2028"],
)
def test_harmless_oddities_are_read(tmp_path: Path, change: Any) -> None:
    files = sample()
    summary = import_into(write(tmp_path, {name: change(data) for name, data in files.items()}), tmp_path / "run")
    assert (summary.trajectories, summary.scores) == (2, 4)


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        (lines(verdict(0)).replace(b'"eval_id"', b'"efficiency": 1, "eval_id"'), "duplicate key 'efficiency'"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", "nested too deeply"),
        (b'{"a": ' + b"1" * 5_000 + b"}\n", "a number is too long"),
        (b'{"a": "\x00"}\n', "not JSON (Invalid control character at at character 8)"),
        (b'{"a": "\xff"}\n', "invalid UTF-8 at byte 7"),
        (b'{"error": "\\ud800"}\n', "invalid Unicode (half of a surrogate pair)"),
        (b"\n", "not JSON"),
        (b"{}{}\n", "not JSON (Extra data at character 3)"),
    ],
)
def test_what_is_not_strict_json_is_refused(tmp_path: Path, line: bytes, finding: str) -> None:
    message = refusal(tmp_path, sample(safety=line + lines(verdict(1))))
    assert message.startswith(f"{SAFETY}:1: {finding}")


def test_another_encoding_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, sample(safety=lines(verdict(0)).decode().encode("utf-16")))
    assert message.startswith(f"{SAFETY}: the file is UTF-16, expected UTF-8")


def test_an_evaluation_without_its_trajectory_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, sample(safety=lines(verdict(0), verdict(1), verdict(2))))
    assert message.startswith(f"{SAFETY}:3: no trajectory at line 3 of ")
    message = refusal(tmp_path / "b", {SAFETY: lines(verdict(0))})
    assert message.startswith(f"{SAFETY}:1: no trajectory at line 1 of {STEM.rsplit('/', 1)[-1]}.jsonl")


def test_two_texts_in_one_place_are_refused(tmp_path: Path) -> None:
    agent = "microsoft_phi-4"
    names = [f"{stem(agent, evaluator)}.jsonl" for evaluator in ("gpt-5-mini", "Qwen_Qwen3-32B")]
    files = {name: lines(trajectory(3, log=name)) for name in names}
    message = refusal(tmp_path, files)
    assert message.startswith(f"{names[1]}:1: another trajectory of this run and case than at {names[0]}:1")
    message = refusal(tmp_path / "b", sample(trajectories=lines(trajectory(3), trajectory(3))))
    assert message.startswith(f"{TRAJECTORIES}:2: case 3 stands in this file twice")
    other = {**case(), "User Instruction": "Do another thing."}
    files = {**sample(), f"{stem(agent)}.jsonl": lines(trajectory(3, case=other))}
    assert f"{stem(agent)}.jsonl:1: case: case 3 differs" in refusal(tmp_path / "c", files)


def test_a_run_keeps_what_it_holds(tmp_path: Path) -> None:
    import_into(write(tmp_path, sample()), tmp_path / "run")
    again = write(tmp_path, sample(trajectories=lines(trajectory(3, log="new"), trajectory(5, log="No."))), "b.tar")
    with pytest.raises(StudyError, match=r"holds another trajectory of this case; import into a new run"):
        import_into(again, tmp_path / "run")
    again = write(tmp_path, sample(safety=lines(verdict(0, 1), verdict(1, 3))), "c.tar")
    with pytest.raises(StudyError, match=r"score 1 where the same judge gave 2.0 elsewhere"):
        import_into(again, tmp_path / "run")


def test_the_match_set(published_match: Path, golden: dict[str, Any]) -> None:
    with Store(published_match) as store:
        counts, checkpoints, splits = store.counts(), store.checkpoints(), store.splits()
        numbers = {case.id: case.number for case in store.cases()}
        table = store.score_table()
        picked = random.Random(0).sample(store.trajectory_ids(), 50)
        texts = list(store.trajectories(picked))
        replies = [score for one in picked for score in store.scores(one)]
    assert (counts["trajectories"], counts["scores"], counts["checkpoints"], counts["cases"]) == (
        15_408,
        31_680,
        183,
        144,
    )
    assert sum(one.parent_id is None for one in checkpoints) == 3
    assert {one.lineage for one in checkpoints} == {(), ("S",), ("H",), ("S", "H"), ("H", "S"), ("S&H",)}
    assert len(table.value) == 31_680
    for seed, parts in splits.items():
        for part in ("train", "test"):
            assert [numbers[case] for case in parts[part]] == golden["split"][f"{part}_indices"][str(seed)]
    assert all(one.messages[-1].role == "assistant" for one in texts)
    for score in replies:
        key = {"safety": "ToolCallRisk", "helpfulness": "Helpfulness"}[score.objective]
        assert json.loads(score.reply or "")["eval_scores"] == {key: score.value}
    size = sum(path.stat().st_size for path in published_match.rglob("*") if path.is_file())
    assert size <= 80e6


def test_published_means(published_match: Path, golden: dict[str, Any]) -> None:
    with Store(published_match) as store:
        table, splits = store.score_table(), store.splits()
    held_out = {seed: set(parts["test"]) for seed, parts in splits.items()}
    means: dict[tuple[Any, ...], list[float]] = {}
    for c, k, j, o, value in zip(
        table.checkpoint.tolist(),
        table.case.tolist(),
        table.judge.tolist(),
        table.objective.tolist(),
        table.value,
        strict=True,
    ):
        one = table.checkpoints[c]
        for seed in (0, 1, 2) if one.split_seed is None else (one.split_seed,):
            if table.case_ids[k] in held_out[seed]:
                mark = (one.base, one.lineage, one.axes.get("beta"), table.judges[j], seed, table.objectives[o])
                means.setdefault(mark, []).append(float(value))
    names = {"safe": "S", "help": "H", "both": "S&H"}
    judges = {"gpt5m": "gpt-5-mini", "q32": "Qwen3-32B"}
    assert len(golden["match"]["per_model_dir"]) == len(means) / 2 == 198
    for row in golden["match"]["per_model_dir"]:
        lineage = tuple(names[stage] for stage in row["stages"])
        for objective in ("safety", "helpfulness"):
            values = means[row["source"], lineage, row["beta"], judges[row["evaluator"]], row["seed"], objective]
            assert len(values) == row["n"]
            assert sum(values) / len(values) == pytest.approx(row[objective], abs=1e-9)


def test_the_raw_set(published_raw: Path) -> None:
    with Store(published_raw) as store:
        counts, checkpoints = store.counts(), store.checkpoints()
    assert (counts["trajectories"], counts["scores"], counts["checkpoints"]) == (3_888, 15_552, 27)
    assert len({one.base for one in checkpoints}) == 25
    assert sorted(one.base for one in checkpoints if one.axes.get("quantization") == "int8") == [
        "Qwen3-32B",
        "Qwen3-32Bnt",
    ]


def test_real_data_import_again_adds_nothing(published_raw: Path) -> None:
    source = data_file("published-raw.tar.zst")
    size = (published_raw / "run.db").stat().st_size
    with Store(published_raw, writable=True) as store:
        before = store.counts()
        summary = import_published(source, store)
        assert (summary.new_trajectories, summary.new_scores) == (0, 0)
        assert store.counts() == before
    assert (published_raw / "run.db").stat().st_size == size
