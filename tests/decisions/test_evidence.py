"""The evidence of a run: complete, by its schema, equal to what the gate prints, and inert."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import report_samples
from builders import verdict_samples as samples
from builders.commands import refused
from builders.scored_study import checkpoint, write_study
from builders.smoke_study import smoke_settings

from holdfast.cli.main import main
from holdfast.decisions.gate.outputs.evidence import collect_evidence, export_evidence
from holdfast.decisions.gate.outputs.evidence_page import render_evidence
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.store.places import STUDY_KEY
from holdfast.store.weights import digest_directory
from holdfast.study.study import Study

LINEAGES: tuple[tuple[str, ...], ...] = ((), ("S",), ("H",), ("S", "H"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four checkpoints with scores; the weights of one are there, those of another were changed."""
    path = tmp_path_factory.mktemp("evidence") / "run"
    made = [checkpoint("tiny-0", lineage, 1 if lineage else 0, 0 if lineage else None) for lineage in LINEAGES]
    for place in (1, 2):
        folder = path.parent / f"weights-{place}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes([place]) * 64)
        digest = digest_directory(folder)
        made[place] = replace(made[place], path=f"weights/{digest}", digest=digest)
    with write_study(path, made, tests=40) as store, store.transaction():
        study = Study.model_validate(smoke_settings())
        store.set_meta(STUDY_KEY, json.dumps(study.settings(), sort_keys=True))
    for place in (1, 2):
        shutil.move(path.parent / f"weights-{place}", path / str(made[place].path))
    (path / str(made[2].path) / "model.safetensors").write_bytes(b"other")
    return path


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_evidence(run, tmp_path_factory.mktemp("out") / "evidence")


@pytest.fixture(scope="module")
def evidence(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
    return found


def test_the_evidence_follows_its_schema(evidence: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(samples.verdict_schema("evidence")).validate(evidence)
    whole = {"outcome": evidence["outcome"], "verdicts": evidence["verdicts"]}
    jsonschema.Draft202012Validator(samples.verdict_schema()).validate(whole)


def test_its_verdicts_are_by_the_rules_of_a_file_where_one_is_given(
    run: Path, evidence: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[gate]\nmargin = 2.75\n")
    options = ["export", str(run), "--rules", str(rules), "-o", str(tmp_path / "out")]
    assert main([*options, "--to", "evidence"]) == 0
    found = json.loads((tmp_path / "out" / "evidence.json").read_text(encoding="utf-8"))
    assert {one["rules"]["margin"] for one in found["verdicts"]} == {2.75}
    assert {one["rules"]["margin"] for one in evidence["verdicts"]} != {2.75}
    capsys.readouterr()
    assert "takes no --rules" in refused(capsys, *options, "--to", "jsonl")
    rules.write_text("[gate]\nmargin = 0\n")
    assert "gate.margin" in refused(capsys, *options, "--to", "evidence")


def test_its_numbers_are_those_that_the_gate_prints(
    run: Path, evidence: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["gate", str(run), "--all", "--json", "--quiet"])
    printed = json.loads(capsys.readouterr().out)
    assert evidence["verdicts"] == printed["verdicts"]
    assert evidence["outcome"] == printed["outcome"]
    assert code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[printed["outcome"]]
    assert [one["sentence"] for one in evidence["claims"]] == [one["sentence"] for one in printed["verdicts"]]
    assert len(printed["verdicts"]) == 4  # S, H and S,H against the base, and S,H against S
    assert evidence["summary"][1:] and all(" against " in one for one in evidence["summary"][1:])


def test_it_counts_and_digests_what_the_run_holds(run: Path, evidence: dict[str, Any]) -> None:
    with Store(run) as store:
        assert evidence["counts"] == store.counts()
        assert evidence["digests"]["scores"] == store.digest_scores()
        assert evidence["parts"]["test"] == {"cases": 40, "trajectories": 4 * 40 * 2}
    (safety,) = [one for one in evidence["judges"] if one["objective"] == "safety"]
    assert safety["judge"] == "state" and safety["scores"] <= safety["judgements"]
    assert evidence["study"]["name"] == "smoke"
    assert evidence["versions"]["holdfast"]


def test_weights_are_read_again(run: Path, evidence: dict[str, Any]) -> None:
    found = {",".join(one["lineage"]): one["weights"] for one in evidence["checkpoints"]}
    assert found == {"": "no digest", "S": "verified", "H": "changed", "S,H": "no digest"}
    assert any("are not those that the run made" in one for one in evidence["missing"])


def test_what_is_missing_is_said(evidence: dict[str, Any]) -> None:
    told = "\n".join(evidence["missing"])
    for words in ("steps of the study are done", "one judge alone", "under pressure was not measured", "no shift"):
        assert words in told, words
    assert "no analysis.json" in told


def test_a_run_without_a_comparison_still_has_evidence(tmp_path: Path) -> None:
    with write_study(tmp_path / "run", [checkpoint("tiny-0", (), 0, None)], tests=5):
        pass
    found = json.loads((export_evidence(tmp_path / "run", tmp_path / "out") / "evidence.json").read_text())
    jsonschema.Draft202012Validator(samples.verdict_schema("evidence")).validate(found)
    assert (found["outcome"], found["verdicts"], found["study"]) == ("INCONCLUSIVE", [], None)
    assert any(one.startswith("no verdicts of a gate") for one in found["missing"])
    assert any("the run was imported" in one for one in found["missing"])


def test_the_command_writes_it_and_replaces_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    assert "is there already" in refused(capsys, "export", run, "--to", "evidence", "-o", tmp_path / "there")
    options = ["export", str(run), "--to", "evidence", "--checkpoint", "S", "-o", str(tmp_path / "new")]
    assert main(options) == 2
    assert not (tmp_path / "new").exists()
    with pytest.raises(StudyError, match="is there already"):
        export_evidence(run, tmp_path / "there")


# --- the page ------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Tags, attributes and words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_says_what_the_document_says(folder: Path, evidence: dict[str, Any]) -> None:
    page = Outline((folder / "evidence.html").read_text(encoding="utf-8"))
    for claim in evidence["claims"]:
        assert claim["sentence"] in page.words
    for words in (*evidence["missing"], *evidence["limits"], evidence["digests"]["scores"]):
        assert words in page.words
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")


def test_no_name_can_act_on_the_page(tmp_path: Path) -> None:
    with report_samples.make_hostile_store(tmp_path / "run"):
        pass
    found = collect_evidence(tmp_path / "run", [samples.make_hostile_verdict()], [samples.EVIL])
    json.dumps(found, allow_nan=False)
    html = render_evidence(found)
    page = Outline(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "a", "iframe", "svg", "link", "object"})
    assert not any(
        name.startswith("on") or name in ("style", "src", "href") for _, attrs in page.tags for name in attrs
    )
    assert "alert(1)" in page.words
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
