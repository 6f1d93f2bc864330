"""The published match set with its evaluators exchanged, as the cross results are: the same numbers, other judges."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from builders.places import data_file
from builders.scored_study import VALUES, assert_alike

from holdfast.analysis import analyze, document
from holdfast.exchange.published import import_into
from holdfast.store import Store

pytestmark = pytest.mark.full  # two imports of the whole set
EVALUATORS = ("eval-gpt-5-mini", "eval-Qwen_Qwen3-32B")
OTHER = {"gpt-5-mini": "Qwen3-32B", "Qwen3-32B": "gpt-5-mini"}
SECTIONS = ("scores", "deltas", "persistence", "frontier", "audit", "health")


def exchange(name: str) -> str:
    """A file's name with the other evaluator, in the folder of the cross results."""
    first, second = EVALUATORS
    swapped = name.replace(first, "@").replace(second, first).replace("@", second)
    return swapped.replace("match_eval_results", "cross_eval_results")


def exchanged(source: Path, output: Path) -> Path:
    with (
        source.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
        tarfile.open(output, "w") as made,
    ):
        for member in archive:
            data = archive.extractfile(member) if member.isfile() else None
            member.name, member.pax_headers = exchange(member.name), {}
            made.addfile(member, data)
    return output


def rows_of(found: dict[str, Any], *, swap: bool) -> list[Any]:
    """Every row, with judges exchanged where asked and without the relation, in an order of its own."""
    rows = [{key: row[key] for key in row if key != "labelled"} for name in SECTIONS for row in found[name]]
    for row in rows:
        if swap and "judge" in row:
            row["judge"] = OTHER[row["judge"]]
    return sorted(rows, key=lambda row: json.dumps({k: row[k] for k in row if k not in VALUES}, sort_keys=True))


def test_every_value_of_the_match_set_under_the_judge_that_did_not_label(published_match: Path, tmp_path: Path) -> None:
    source = exchanged(data_file("published-match.tar.zst"), tmp_path / "cross.tar")
    import_into(source, tmp_path / "cross")
    found = []
    for run in (published_match, tmp_path / "cross"):
        with Store(run) as store:
            found.append(document(analyze(store, draws=500)))
    match, cross = found
    assert {row["labelled"] for name in SECTIONS[:4] for row in match[name]} == {"all"}
    assert {row["labelled"] for name in SECTIONS[:4] for row in cross[name]} == {"none"}
    assert_alike(rows_of(match, swap=True), rows_of(cross, swap=False))
    for one, two in zip(match["frontiers"], cross["frontiers"], strict=True):
        for point, other in zip(one["points"], two["points"], strict=True):
            assert [point["x"], point["y"]] == pytest.approx([other["x"], other["y"]], abs=1e-9)
    assert any("who labelled none of the pairs" in note for note in cross["notes"])
