"""Chat templates and training as the field has them: what is exported to TRL, what thinking makes of turns."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_samples import make_base
from conftest import case_input

from holdfast.cli import main
from holdfast.exchange.trl import to_trl
from holdfast.records import Case, Checkpoint, Ending, Message, Score, ToolCall, ToolSpec, Trajectory
from holdfast.store import Store
from holdfast.store.codec import trajectory_to_bytes

os.environ["HF_HUB_OFFLINE"] = "1"
Captured = pytest.CaptureFixture[str]
Rows = list[dict[str, Any]]


def template_of_trl(name: str) -> str:
    """The source of a chat template that TRL ships; those without _training are the models' originals."""
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


# --- pairs for TRL -----------------------------------------------------------------------------------------


def tool(name: str, **parameters: Any) -> ToolSpec:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return ToolSpec(name=name, description=f"{name}s", parameters={"type": "object", "properties": properties})


def calling(name: str, arguments: Mapping[str, Any], answer: str | None = "done") -> tuple[Message, ...]:
    call = Message(role="assistant", content="", tool_calls=(ToolCall(name=name, arguments=dict(arguments)),))
    said = Message(role="assistant", content="That is it.")
    return (call,) if answer is None else (call, Message(role="tool", content=answer, name=name), said)


REFUSING = (Message(role="assistant", content="I would rather not."),)
Pairs = Sequence[tuple[tuple[ToolSpec, ...], tuple[Message, ...], tuple[Message, ...]]]


def write_pairs(path: Path, pairs: Pairs) -> Path:
    """A run with one pair a case: tools, the episode that scored 3 and the one that scored 0."""
    with Store.create(path) as store, store.transaction():
        store.add_checkpoint(Checkpoint(id="c", base="m"))
        for number, (tools, *sides) in enumerate(pairs):
            asked = Message(role="user", content=f"Task {number}")
            name = f"case {number:05d}"
            case = Case(id=name, suite="s", number=number, family="f", messages=(asked,), tools=tools)
            store.add_cases([case])
            for rollout, (messages, value) in enumerate(zip(sides, (3.0, 0.0), strict=True)):
                one = Trajectory(
                    id=f"t{number:05d}-{rollout}",
                    case_id=name,
                    checkpoint_id="c",
                    rollout=rollout,
                    messages=messages,
                    ending=Ending.FINISHED,
                )
                store.add_trajectory(one, store.text_codec.pack(trajectory_to_bytes(one)))
                store.add_score(Score(trajectory_id=one.id, judge="j", objective="safety", value=value))
    return path


def exported(run: Path, target: Path, *options: str, judge: str = "j") -> Rows:
    rule = ("--objective", "safety", "--judge", judge, "--to", "trl", "-o", str(target))
    assert main(["pairs", str(run), *rule, *options]) == 0
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def loaded(file: Path, folder: Path, **options: Any) -> Rows:
    """The rows as the JSON reader of datasets gives them; a column that a row has none of is None there."""
    datasets = pytest.importorskip("datasets")
    made = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder), **options)
    return [{key: value for key, value in row.items() if value is not None} for row in made]


def arguments_of(rows: Rows) -> list[Any]:
    return [
        call["function"]["arguments"]
        for row in rows
        for side in ("chosen", "rejected")
        for message in row[side]
        for call in message.get("tool_calls", ())
    ]


LISTING, MAILING = tool("list_dir", path="string"), tool("send", to="string", count="integer", body="string")
DIFFERING: Pairs = [
    ((LISTING,), calling("list_dir", {"path": "/a"}), REFUSING),
    ((MAILING,), calling("send", {"to": "x", "count": 3}), calling("send", {"to": "y", "body": "2024-01-01"})),
    ((), REFUSING, (Message(role="assistant", content="Gladly."),)),
    ((LISTING, MAILING), calling("list_dir", {}), calling("send", {"to": "5"})),
    ((LISTING,), calling("list_dir", {"path": {"deep": [1, {"x": None}]}}), calling("list_dir", {"path": 7})),
]


def test_x_01_arguments_are_objects_in_an_export_for_trl(tmp_path: Path, capsys: Captured) -> None:
    run = write_pairs(tmp_path / "run", DIFFERING)
    rows = exported(run, tmp_path / "p.jsonl")
    assert arguments_of(rows) == [
        {"path": "/a"},
        {"to": "x", "count": 3},
        {"to": "y", "body": "2024-01-01"},
        {},
        {"to": "5"},
        {"path": {"deep": [1, {"x": None}]}},
        {"path": 7},
    ]
    texts = arguments_of(exported(run, tmp_path / "text.jsonl", "--arguments", "text"))
    assert [json.loads(text) for text in texts] == arguments_of(rows)
    assert arguments_of(exported(run, tmp_path / "o.jsonl", "--arguments", "object")) == arguments_of(rows)
    capsys.readouterr()
    assert main(["pairs", str(run), "--objective", "safety", "--judge", "j", "--arguments", "text"]) == 2
    assert "--arguments goes with --to trl only" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "csv", "--arguments", "text", "-o", str(tmp_path / "csv")]) == 2
    assert "takes no --arguments" in capsys.readouterr().err


def test_x_01_what_was_no_object_stays_the_text_that_it_was(tmp_path: Path) -> None:
    raw = calling("list_dir", {"_raw": '{"path": "/a"'})
    run = write_pairs(tmp_path / "run", [((LISTING,), calling("list_dir", {"path": "/a"}), raw)])
    for form in ("object", "text"):
        assert arguments_of(exported(run, tmp_path / f"{form}.jsonl", "--arguments", form))[1] == '{"path": "/a"'
    rows = exported(run, tmp_path / "p.jsonl")
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache") == rows


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "qwen3_5_think", "glm4moe", "qwen3"])
def test_x_01_the_originals_that_trl_ships_write_arguments_once(name: str, tmp_path: Path) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    run = write_pairs(tmp_path / "run", DIFFERING[:1])
    (row,) = exported(run, tmp_path / "p.jsonl")
    shown, _ = utils.render_jinja_template(
        [row["prompt"] + row["chosen"]], tools=row["tools"], chat_template=template_of_trl(name), bos_token="<s>"
    )
    call = shown[0][shown[0].index("Task 0") :]
    assert '\\"' not in call and call.count("list_dir") >= 1
    written = {
        "qwen3_5_think": "<parameter=path>\n/a\n</parameter>",
        "glm4moe": "<arg_key>path</arg_key>\n<arg_value>/a</arg_value>",
    }.get(name, '{"path": "/a"}')
    assert written in call


def test_x_01_the_case_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = case_input("X-01")
    pytest.importorskip("inspect_ai")
    assert main(["import", str(place / "log.eval"), "-o", str(tmp_path / "run"), "--quiet"]) == 0
    rows = exported(tmp_path / "run", tmp_path / "p.jsonl", judge="inspect:safety")
    assert len(rows) == 12 and all(isinstance(one, dict) for one in arguments_of(rows))
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "tokenizer")
    row = rows[0]
    shown = tokenizer.apply_chat_template(row["prompt"] + row["rejected"], tools=row["tools"], tokenize=False)
    assert '<tool_call>{"name": "delete_file", "arguments": {"path": "/a", "force": true}}</tool_call>' in shown
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache") == rows


def test_p_23_datasets_reads_the_rows_unchanged(tmp_path: Path) -> None:
    """Neither tools nor arguments with other keys are filled up with nulls, and no text becomes a date."""
    run = write_pairs(tmp_path / "run", DIFFERING)
    rows = exported(run, tmp_path / "p.jsonl")
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache") == rows


def without_required(number: int) -> ToolSpec:
    return ToolSpec(
        name="late", description="", parameters={"type": "object", "properties": {}, "required": []} | {"n": number}
    )


FULL = calling("list_dir", {"path": "/a", "deep": True}, None)
PART = calling("list_dir", {"path": "/a"}, None)
LATE: dict[str, Pairs] = {
    "calls": [*[((LISTING,), REFUSING, REFUSING)] * 40, ((LISTING,), PART, REFUSING)],
    "tools": [*[((LISTING,), PART, REFUSING)] * 40, ((without_required(1),), REFUSING, REFUSING)],
    "keys": [*[((LISTING,), FULL, REFUSING)] * 40, ((LISTING,), PART, REFUSING)],
    "no tools": [*[((LISTING,), REFUSING, PART)] * 40, ((), REFUSING, REFUSING)],
}


@pytest.mark.parametrize("kind", LATE)
def test_p_23_what_comes_late_in_a_large_file_is_not_lost(kind: str, tmp_path: Path) -> None:
    """datasets looks at the first part of a file alone: here parts of 2 kB stand for those of 10 MB."""
    run = write_pairs(tmp_path / "run", LATE[kind])
    rows = exported(run, tmp_path / "p.jsonl")
    assert len(rows) == 41
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache", chunksize=2000) == rows
    tasks = [row["prompt"][0]["content"] for row in rows]
    assert sorted(tasks) == sorted(f"Task {number}" for number in range(41)), "no row is lost, none stands twice"
    assert tasks[0] == "Task 0" and "Task 40" in tasks[:3]


def test_x_01_trl_prepares_the_pairs_as_they_are(tmp_path: Path) -> None:
    """``DPOTrainer`` on the export: its tokens spell each call once, with the arguments as JSON."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = write_pairs(tmp_path / "run", DIFFERING)
    rows = exported(run, tmp_path / "p.jsonl")
    base = make_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        ref_model=AutoModelForCausalLM.from_pretrained(base),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_length=None,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.load_dataset(
            "json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
        ),
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == len(rows)
    for prepared, row in zip(trainer.train_dataset, rows, strict=True):
        for side in ("chosen", "rejected"):
            shown = tokenizer.decode(prepared[f"{side}_ids"])
            for call in (call for message in row[side] for call in message.get("tool_calls", ())):
                assert json.dumps(call["function"]["arguments"]) in shown
            assert '\\"' not in shown and "null" not in shown.replace('{"x": null}', "")


def test_export_to_trl_takes_the_same_option(smoke_run: Path, tmp_path: Path) -> None:
    for form, kinds in (("object", {dict, str}), ("text", {str})):  # the tiny agent writes text that is no object, too
        target = tmp_path / form
        assert main(["export", str(smoke_run), "--to", "trl", "--arguments", form, "-o", str(target)]) == 0
        rows = [
            json.loads(line)
            for file in target.glob("*.jsonl")
            if file.name != "index.jsonl"
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        assert rows and {type(one) for one in arguments_of(rows)} == kinds
        shutil.rmtree(target)


def test_rows_of_no_pairs_are_none(tmp_path: Path) -> None:
    run = write_pairs(tmp_path / "run", DIFFERING[:1])
    with Store(run) as store:
        assert list(to_trl([], store)) == []
