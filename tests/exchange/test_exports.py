"""A run in other tools' formats, read back by those tools."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.places import copy_run

import holdfast as hf
from holdfast.exchange.exports import defuse, export_run, write_lines
from holdfast.records import PreferencePair
from holdfast.records.errors import MissingExtra
from holdfast.store import Store


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir()}


def test_json_lines_hold_everything(smoke_run: Path, tmp_path: Path) -> None:
    output = export_run(smoke_run, "jsonl", tmp_path / "deep" / "out")
    assert names(output) == {"cases.jsonl", "checkpoints.jsonl", "trajectories.jsonl", "scores.jsonl"}
    assert names(output.parent) == {"out"}
    assert read_lines(output / "scores.jsonl") == hf.Run(smoke_run).scores()
    with Store(smoke_run) as store:
        counts, stored = store.counts(), list(store.trajectories())
    rows = read_lines(output / "trajectories.jsonl")
    assert [row["id"] for row in rows] == [item.id for item in stored]
    assert rows[3]["messages"][0]["content"] == stored[3].messages[0].content
    assert rows[3]["world_after"] == stored[3].world_after
    assert len(read_lines(output / "cases.jsonl")) == counts["cases"]
    lineages = {tuple(row["lineage"]) for row in read_lines(output / "checkpoints.jsonl")}
    assert lineages == {(), ("S",), ("H",), ("S", "H"), ("H", "S")}


def test_csv_holds_every_score_with_missing_ones_empty(smoke_run: Path, tmp_path: Path) -> None:
    with (export_run(smoke_run, "csv", tmp_path / "out") / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = hf.Run(smoke_run).scores()
    assert any(row["value"] is None for row in expected)
    for found, row in zip(rows, expected, strict=True):
        assert found["value"] == ("" if row["value"] is None else str(row["value"]))
        assert (found["trajectory"], found["lineage"]) == (row["trajectory"], ",".join(row["lineage"]))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_cells_that_a_spreadsheet_would_run_are_defused(start: str) -> None:
    assert defuse(f"{start}HYPERLINK('http://x')") == f"'{start}HYPERLINK('http://x')"
    assert defuse("a=b") == "a=b" and defuse(-2.0) == -2.0 and defuse(None) is None


def hostile_run(path: Path, smoke_run: Path) -> Path:
    """A run whose checkpoint is named like a formula, with one scored episode and no token count."""
    with Store(smoke_run) as source, Store.create(path) as store, store.transaction():
        trajectory = next(source.trajectories())
        case, checkpoint = source.case(trajectory.case_id), source.checkpoint(trajectory.checkpoint_id)
        store.add_cases([case])
        store.add_checkpoint(replace(checkpoint, base="=cmd|' /C calc'!A0", path=None, digest=None))
        from holdfast.store import codec

        packed = store.text_codec.pack(codec.trajectory_to_bytes(trajectory, case.state))
        store.add_trajectory(replace(trajectory, tokens=None), packed)
        for score in source.scores(trajectory.id):
            store.add_score(replace(score, value=None, missing="no verdict", label=None))
    return path


def test_a_formula_in_a_run_is_defused_in_its_csv(smoke_run: Path, tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", smoke_run)
    with (export_run(run, "csv", tmp_path / "out") / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row["checkpoint"].startswith("'=cmd|") for row in rows)


def test_parquet_reads_back(smoke_run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    output = export_run(smoke_run, "parquet", tmp_path / "out")
    scores = pyarrow.parquet.read_table(output / "scores.parquet").to_pylist()
    expected = [{**row, "lineage": ",".join(row["lineage"])} for row in hf.Run(smoke_run).scores()]
    assert scores == expected
    trajectories = pyarrow.parquet.read_table(output / "trajectories.parquet").to_pylist()
    with Store(smoke_run) as store:
        stored = list(store.trajectories())
    assert [row["tokens"] for row in trajectories] == [item.tokens for item in stored]
    assert [row["flags"] for row in trajectories] == [[flag.value for flag in item.flags] for item in stored]
    assert json.loads(trajectories[0]["messages"])[0]["content"] == stored[0].messages[0].content


def test_parquet_columns_keep_their_type_where_all_is_missing(smoke_run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    whole = export_run(smoke_run, "parquet", tmp_path / "whole")
    sparse = export_run(hostile_run(tmp_path / "run", smoke_run), "parquet", tmp_path / "sparse")
    for name in ("scores.parquet", "trajectories.parquet"):
        assert pyarrow.parquet.read_schema(whole / name) == pyarrow.parquet.read_schema(sparse / name)
    assert pyarrow.parquet.read_table(sparse / "trajectories.parquet").to_pylist()[0]["tokens"] is None
    assert {row["value"] for row in pyarrow.parquet.read_table(sparse / "scores.parquet").to_pylist()} == {None}


def test_trl_datasets_load(smoke_run: Path, tmp_path: Path) -> None:
    import datasets

    output = export_run(smoke_run, "trl", tmp_path / "out")
    index = read_lines(output / "index.jsonl")
    assert {row["name"].split(" from ")[0] for row in index} == {"pair safety", "pair helpfulness"}
    with Store(smoke_run) as store:
        made: dict[str, list[PreferencePair]] = {
            row["file"]: store.pairs(row["file"].removesuffix(".jsonl")) for row in index
        }
    for name, pairs in made.items():
        rows = read_lines(output / name)
        cache = str(tmp_path / "cache")
        loaded = datasets.load_dataset("json", data_files=str(output / name), split="train", cache_dir=cache)
        assert {"prompt", "chosen", "rejected"} <= set(loaded.column_names) and len(loaded) == len(pairs)
        for row in rows:
            assert row["prompt"][-1]["role"] == "user"
            assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"
            assert row["chosen"] != row["rejected"]


def test_a_run_without_pairs_says_how_to_choose_them(smoke_run: Path, tmp_path: Path) -> None:
    with pytest.raises(hf.StudyError, match="made no pairs; choose a rule with `holdfast pairs"):
        export_run(hostile_run(tmp_path / "run", smoke_run), "trl", tmp_path / "out")
    assert names(tmp_path) == {"run"}


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [("parquet", "pyarrow", "parquet"), ("inspect", "inspect_ai.log", "remote"), ("hf", "torch", "train")],
    ids=["parquet", "inspect", "hf"],
)
def test_an_absent_package_is_named_with_its_extra(
    form: str, module: str, extra: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke_run: Path = request.getfixturevalue("smoke_run")
    tmp_path: Path = request.getfixturevalue("tmp_path")
    monkeypatch.setitem(sys.modules, module, None)
    for ours in ("holdfast.exchange.inspect.export", "holdfast.models.directories.stacks"):
        monkeypatch.delitem(sys.modules, ours, raising=False)
    with pytest.raises(MissingExtra, match=rf"not installed: pip install '.\[{extra}\]' in a checkout") as caught:
        export_run(smoke_run, form, tmp_path / "out", checkpoint="tiny-0 · base" if form == "hf" else None)
    assert caught.value.exit_code == 2 and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def stacked_run(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a base, and a checkpoint that is an adapter on it."""
    import torch

    from holdfast.store import weights
    from holdfast.training.policy.adapters import open_policy

    path = tmp_path_factory.mktemp("stacked") / "run"
    with Store(smoke_run) as source, Store.create(path) as store, store.transaction():
        base = next(item for item in source.checkpoints() if not item.stages)
        stage = next(item for item in source.checkpoints() if item.parent_id == base.id)
        assert base.path is not None
        shutil.copytree(smoke_run / base.path, path / base.path)
        policy = open_policy(path / base.path, lora_r=2)
        for weight in policy.trainable():
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
        policy.save(path / "weights" / ".part" / "step-1")
        digest = weights.adopt(path / "weights" / ".part" / "step-1", path / "weights")
        store.add_checkpoint(base)
        store.add_checkpoint(replace(stage, path=f"weights/{digest}", digest=digest))
        store.add_checkpoint(replace(stage, id="ffff", train_seed=9, path=None, digest=None))
        store.add_checkpoint(replace(stage, id="fffe", train_seed=9, path=None, digest=None))
    return path


@pytest.mark.parametrize("stages", [0, 1])
def test_a_checkpoint_is_written_as_transformers_loads_it(
    stages: int, stacked_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from holdfast.cli.main import main
    from holdfast.models.directories.opening import read_weights
    from holdfast.models.directories.stacks import is_stack
    from holdfast.models.tiny.model import TinyModel

    with Store(stacked_run) as store:
        checkpoint = next(item for item in store.checkpoints() if len(item.stages) == stages)
    output = tmp_path / "deep" / "out"
    for named in (checkpoint.name, checkpoint.id, checkpoint.id[:12]):
        shutil.rmtree(output, ignore_errors=True)
        arguments = ["export", str(stacked_run), "--to", "hf", "--checkpoint", named, "-o", str(output)]
        assert main(arguments) == 0 and capsys.readouterr().out == f"wrote {output}\n"
    assert names(output.parent) == {"out"} and {"config.json", "model.safetensors", "tokenizer.json"} <= names(output)
    assert {path.suffix for path in output.iterdir()} == {".json", ".safetensors"} and not is_stack(output)
    source = stacked_run / (checkpoint.path or "")
    assert is_stack(source) == (stages == 1)
    ours, theirs = TinyModel.load(source), AutoModelForCausalLM.from_pretrained(output)
    rows = AutoTokenizer.from_pretrained(output)("<bos><user>delete the file<end>", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal((ours.llama(rows) @ ours.llama.head.T).argmax(-1), theirs(input_ids=rows).logits.argmax(-1))
    written, known = theirs.state_dict(), read_weights(source)
    assert all(torch.equal(written[name], weight) for name, weight in known.items())
    base = AutoModelForCausalLM.from_pretrained(next(path.parent for path in stacked_run.glob("weights/*/config.json")))
    same = all(torch.equal(one, other) for one, other in zip(theirs.parameters(), base.parameters(), strict=True))
    assert same == (stages == 0)


def test_a_checkpoint_that_cannot_be_written_is_told(stacked_run: Path, tmp_path: Path) -> None:
    with Store(stacked_run) as store:
        stage = next(item for item in store.checkpoints() if item.path is not None and item.stages)
    for wanted, told in {
        "nothing": "no checkpoint 'nothing'; lineages there are: ",
        "": "'nothing named' is ambiguous, ",
        "fff": "'fff' is ambiguous, 2 checkpoints are it: .* or by id",
        replace(stage, train_seed=9).name: "is ambiguous, 2 checkpoints are it: .* or by id",
        "ffff": "its weights are not at .*; export a run that holds them",
    }.items():
        with pytest.raises(hf.StudyError, match=told):
            export_run(stacked_run, "hf", tmp_path / "out", checkpoint=wanted)
    with pytest.raises(hf.StudyError, match="export --to hf: needs --checkpoint NAME_OR_ID"):
        export_run(stacked_run, "hf", tmp_path / "out")
    with pytest.raises(hf.StudyError, match="export --to csv: takes no --checkpoint"):
        export_run(stacked_run, "csv", tmp_path / "out", checkpoint=stage.id)
    lone = tmp_path / "lone"
    copy_run(stacked_run, lone)
    shutil.rmtree(next(path.parent for path in lone.glob("weights/*/config.json")))
    with pytest.raises(hf.StoreError, match=r"its base .* is not found; put that directory at"):
        export_run(lone, "hf", tmp_path / "out", checkpoint=stage.id)
    assert names(tmp_path) == {"lone"}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "trl", "inspect", "hf"])
def test_what_is_there_is_not_overwritten(form: str, smoke_run: Path, tmp_path: Path) -> None:
    checkpoint = "tiny-0 · base" if form == "hf" else None
    (tmp_path / "out").write_text("mine")
    (tmp_path / "out.part").mkdir()
    with pytest.raises(hf.StudyError, match="is there already; choose another output"):
        export_run(smoke_run, form, tmp_path / "out", checkpoint=checkpoint)
    assert (tmp_path / "out").read_text() == "mine" and names(tmp_path) == {"out", "out.part"}
    with pytest.raises(hf.StoreError, match="no run here"):
        export_run(tmp_path / "absent", form, tmp_path / "a" / "b", checkpoint=checkpoint)
    assert names(tmp_path) == {"out", "out.part"}


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("old\n")

    def rows() -> Any:
        yield {"a": 1}
        raise RuntimeError("the source ends early")

    with pytest.raises(RuntimeError):
        write_lines(rows(), tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_text() == "old\n" and names(tmp_path) == {"pairs.jsonl"}
    assert write_lines([{"text": "\ud800 é"}], tmp_path / "pairs.jsonl") == 1
    assert read_lines(tmp_path / "pairs.jsonl") == [{"text": "\ud800 é"}]
