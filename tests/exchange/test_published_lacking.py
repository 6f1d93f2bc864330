"""Evaluation files of the published layout that are empty, short or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.published_samples import HELPFULNESS, SAFETY, lines, sample, stem, trajectory, verdict, write_archive

from holdfast.exchange.published import import_into
from holdfast.store import Store

OTHER = stem("microsoft_phi-4")


@pytest.mark.parametrize(
    ("file", "data", "why", "lacking"),
    [
        (SAFETY, b"", "is empty", 2),
        (HELPFULNESS, b"", "is empty", 2),
        (SAFETY, lines(verdict(0, 2)), "ends after 1 lines", 1),
        (HELPFULNESS, None, "is not there", 2),
    ],
)
def test_what_was_not_evaluated_is_told_and_missing(
    file: str, data: bytes | None, why: str, lacking: int, tmp_path: Path
) -> None:
    files = {name: body for name, body in {**sample(), file: data}.items() if body is not None}
    files |= {f"{OTHER}.jsonl": lines(trajectory(3))}
    files[f"{OTHER}_eval_agent_safe.jsonl"] = lines(verdict(0))
    files[f"{OTHER}_eval_agent_help_ignore_safety.jsonl"] = lines(verdict(0, key="Helpfulness"))
    summary = import_into(write_archive(tmp_path / "set.tar", files), tmp_path / "run")
    (note,) = summary.notes
    assert f"{file} {why}" in note and f"{lacking} trajector" in note
    assert (summary.missing, summary.scores) == (lacking, 6)
    with Store(tmp_path / "run") as store:
        reasons = [one.missing for name in store.trajectory_ids() for one in store.scores(name) if one.value is None]
    assert reasons == [f"not evaluated: the file {why}"] * lacking
    assert import_into(tmp_path / "set.tar", tmp_path / "run").new_scores == 0
