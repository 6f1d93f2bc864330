"""What a gate leaves behind: the page, the files beside it, and how both sides and their cost are told first."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import verdict_samples as samples
from builders.chat_samples import make_base
from builders.commands import asked, gated, refused
from builders.smoke_study import smoke_settings, write_toml

from holdfast.decisions.gate.answer import new_place
from holdfast.decisions.gate.outlook import describe_reach, look_ahead
from holdfast.decisions.gate.running import evaluate, name_models
from holdfast.records import Check, Outcome
from holdfast.report.sections.margins import margin_bars
from holdfast.store import Store
from holdfast.study.rules import GateSection
from holdfast.study.study import Study, load

Captured = pytest.CaptureFixture[str]
FILES = {"gate.html", "gate.json", "gate.xml", "gate.md", "evidence.html", "evidence.json", "every_eval_ever.json"}
SMALL = {"kind": "random", "hidden": 32, "layers": 1, "heads": 2, "vocabulary": 400}


def test_every_gate_leaves_a_page_and_files_that_say_the_same(
    smoke_run: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Two words are parent and child; the path is the last line; no page runs a script or fetches anything."""
    sides = [f"{smoke_run}:S", f"{smoke_run}:S,H dose=2"]
    code, out, err = asked(capsys, "gate", *sides, "-o", tmp_path / "answer", "--quiet")
    assert code in (0, 1, 3) and not err
    page = tmp_path / "answer" / "gate.html"
    assert out.splitlines()[-1] == str(page)
    assert {one.name for one in page.parent.iterdir()} == FILES
    document = json.loads((page.parent / "gate.json").read_text())
    (verdict,) = document["verdicts"]
    html = page.read_text()
    plain = re.sub(r"<[^>]+>", "", html).replace("\u00a0", " ").replace("&#x27;", "'")
    assert verdict["sentence"].replace("\u00a0", " ") in plain
    assert "<script" not in html and "default-src 'none'" in html and not re.search(r'(src|href)="https?:', html)
    assert html.count("<svg ") == sum(one["lower"] is not None for one in verdict["checks"])
    for words in (verdict["fingerprint"], verdict["data"], "Where most was lost", "What was not measured"):
        assert words in plain
    assert ET.parse(page.parent / "gate.xml").getroot().tag == "testsuites"
    assert document["outcome"] in (page.parent / "gate.md").read_text()
    evidence = json.loads((page.parent / "evidence.json").read_text())
    assert evidence["verdicts"] == document["verdicts"] and evidence["digests"]["run"]
    assert "parent_run" not in evidence  # both are of one run
    jsonschema.Draft202012Validator(samples.verdict_schema("evidence")).validate(evidence)
    _, as_json, _ = asked(capsys, "gate", *sides, "-o", tmp_path / "answer", "--quiet", "--json")
    assert json.loads(as_json) == {**document, "page": str(page)}


def test_the_worst_cases_stand_side_by_side(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    """Each has the parent's best and the child's worst episode, and the child's mean is below the parent's."""
    asked(capsys, "gate", smoke_run, "--child", "H", "--where", "dose=1", "-o", tmp_path / "answer", "--quiet")
    html = (tmp_path / "answer" / "gate.html").read_text()
    pairs = re.findall(r"<summary>(\d\.\d\d) → (\d\.\d\d): ", html)
    assert pairs and all(float(parent) > float(child) for parent, child in pairs)
    drops = [float(parent) - float(child) for parent, child in pairs]
    assert drops == sorted(drops, reverse=True)
    ids = re.findall(r'<p class="trajectory">([0-9a-f]{32})</p>', html)
    assert len(ids) == 2 * len(pairs)
    with Store(smoke_run) as store:
        lineages = {one.id: one.lineage for one in store.checkpoints()}
        made = [lineages[one.checkpoint_id] for one in store.trajectories(ids)]
    assert made == [(), ("H",)] * len(pairs)


def test_all_comparisons_of_a_run_share_one_page(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    _, out, _ = asked(capsys, "gate", smoke_run, "--all", "--json", "--quiet")
    found = json.loads(out)
    page = Path(found["page"])
    assert page.parent.parent == tmp_path and page.parent.name.startswith("gate-20")
    html = page.read_text()
    table = html[html.index('id="gate-table"') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr data-verdict=") == len(found["verdicts"]) > 1 and "<button" not in table


def test_an_answer_has_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    today = date(2026, 11, 30)
    names = []
    for _ in range(3):
        place = new_place(today)
        place.mkdir()
        names.append(str(place))
    assert names == ["gate-2026-11-30", "gate-2026-11-30-2", "gate-2026-11-30-3"]


SIDES: dict[str, tuple[list[str], str]] = {
    "three words": (["a", "b", "c"], "takes a run, or a parent and a child; found 3 words"),
    "two words and an option": (["a", "b", "--child", "c"], "two words are the parent and the child"),
    "two words and --all": (["a", "b", "--all"], "two words are the parent and the child"),
    "an address and no models": (["a", "b", "--base-url", "http://x"], "--base-url goes with --suite only"),
    "a plan that writes": (["a", "--child", "b", "--plan", "-o", "out"], "--plan writes nothing"),
    "a suite with a run": (["a", "--suite", "office"], "name both, and leave RUN out"),
    "a suite that is not there": (["a", "b", "--suite", "offcie"], "did you mean 'office'"),
    "parents of no suite": (["a", "b", "--parents", "kept"], "--parents goes with --suite"),
    "a scale of a name": (["a", "b", "--suite", "office", "--scale", "x"], "--scale goes with a study file"),
    "no such model": (["a", "b", "--suite", "office"], "'a' is no model of the study"),
    "the hub or a provider": (["openai/x", "b/c", "--suite", "office"], "write local/openai/x or remote/openai/x"),
    "an address of no provider": (
        ["org/a", "org/b", "--suite", "office", "--base-url", "http://localhost:1/v1"],
        "neither model is a provider's",
    ),
}


@pytest.mark.parametrize(("words", "told"), SIDES.values(), ids=SIDES)
def test_sides_that_are_not_clear_are_refused(
    words: list[str], told: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, "gate", *words)
    assert not [*tmp_path.iterdir()]


# --- two models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def models_study(tmp_path: Path) -> Path:
    settings: dict[str, Any] = {
        "study": {"name": "small"},
        "models": {"one": SMALL, "two": {**SMALL, "architecture": "llama"}},
        "model": {"bases": ["one"]},
        "suite": {"test_cases": 6},
        "rollouts": {"per_test_case": 1, "max_tokens": 2},
        "judges": {"state": {"kind": "state"}},
    }
    return write_toml(settings, tmp_path / "study.toml")


def test_two_models_have_the_report_of_a_study(models_study: Path, tmp_path: Path, capsys: Captured) -> None:
    """The verdict is its answer, the child's cases are held against the parent's, and no mean is over both."""
    words = ("gate", "one", "two", "--suite", models_study, "-o", tmp_path / "out", "--workers", 1)
    code, out, err = asked(capsys, *words)
    assert code == 3 and out.splitlines()[-1] == str(tmp_path / "out" / "gate.html")
    first, second, third = err.splitlines()[:3]
    assert first.startswith("one and two: 6 cases, 1 a case, judged by state; 12 episodes to do")
    assert "with 6 cases nothing can pass the margin of 0.25 points, for 35 are the fewest" in second
    assert third == f"the answer goes to {tmp_path / 'out'}"
    report = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "INCONCLUSIVE: two against one on 6 cases" in report and 'id="changes"' in report
    results = report[report.index('<section id="results">') :]
    assert "all bases" not in results[: results.index("</section>")]
    assert "report/index.html" in (tmp_path / "out" / "gate.html").read_text()
    found = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert found["outcome"] == "INCONCLUSIVE" and len(found["claims"]) == 1
    assert [one["name"] for one in found["checkpoints"]] == ["one-0 · base", "two-0 · base"]
    before = (tmp_path / "out" / "run.db").read_bytes()
    assert asked(capsys, *words)[1] == out and (tmp_path / "out" / "run.db").read_bytes() == before
    _, listed, _ = asked(capsys, "gate", tmp_path / "out", "--all", "--quiet", "--json")
    assert [one["child"] for one in json.loads(listed)["verdicts"]] == ["two-0 · base"]


def test_an_answer_is_not_told_of_other_weights(models_study: Path, tmp_path: Path, capsys: Captured) -> None:
    """A model that was trained on in place is another model: the answer that lies there is not its own."""
    parent, child = (make_base(tmp_path / name, architecture=kind) for name, kind in (("a", "qwen2"), ("b", "llama")))
    words = ("gate", parent, child, "--suite", models_study, "--workers", 1, "--quiet")
    first = asked(capsys, *words, "-o", tmp_path / "out")
    assert asked(capsys, *words, "-o", tmp_path / "out") == first
    weights = next(child.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    line = refused(capsys, *words, "-o", tmp_path / "out")
    assert f"{child}: holds other weights than" in line and "choose another output" in line
    assert asked(capsys, *words, "-o", tmp_path / "new")[0] == 3
    shutil.rmtree(child)  # what was found of it is there to be read
    assert asked(capsys, "gate", tmp_path / "new", "--all", "--quiet")[0] == 3


def test_a_parent_is_rolled_out_once_for_all_its_children(models_study: Path, tmp_path: Path, capsys: Captured) -> None:
    """The verdict is the same as without what is kept; of a parent with other weights nothing is taken."""
    bases = [
        make_base(tmp_path / "models" / name, architecture=kind) for name, kind in (("a", "qwen2"), ("b", "llama"))
    ]
    parent, child = bases
    other = shutil.copytree(child, tmp_path / "models" / "c")
    told = ("--suite", models_study, "--workers", 1)
    _, alone = gated(capsys, parent, child, *told, "-o", tmp_path / "alone")
    episodes, verdicts = [], []
    for number, one in enumerate((child, other)):
        place = tmp_path / f"kept-{number}"
        words = ("gate", parent, one, *told, "-o", place, "--parents", tmp_path / "kept", "--json")
        _, out, err = asked(capsys, *words)
        episodes.append(re.findall(r"(\d+) episodes to do", err))
        verdicts += json.loads(out)["verdicts"]
        with Store(place) as store:
            assert store.counts()["trajectories"] == 12
    assert episodes == [["12"], ["6"]] and len([*(tmp_path / "kept").iterdir()]) == 1
    for side in ("parent", "child"):
        assert verdicts[0]["sources"][side].pop("run") == str(tmp_path / "kept-0")
        alone["sources"][side].pop("run")
    assert verdicts[0] == alone and verdicts[1]["checks"] == alone["checks"]
    make_base(parent, hidden=32)
    _, _, err = asked(capsys, "gate", parent, other, *told, "-o", tmp_path / "anew", "--parents", tmp_path / "kept")
    assert "12 episodes to do" in err and len([*(tmp_path / "kept").iterdir()]) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    line = asked(capsys, "gate", parent, child, *told, "-o", tmp_path / "full", "--parents", tmp_path / "kept")[2]
    assert "is there and holds no run" in line.splitlines()[-1]


def test_paid_calls_are_allowed_first(models_study: Path, tmp_path: Path, capsys: Captured) -> None:
    """Without a terminal, nothing is asked of a model elsewhere, nor made, unless somebody allowed it."""
    paid = ("gate", "one", "remote/openai/gpt-x", "--suite", models_study, "-o", tmp_path / "out")
    code, out, err = asked(capsys, *paid)
    assert code == 2 and not out and not (tmp_path / "out").exists()
    *ahead, line = err.splitlines()
    assert "may cost money; allow it with --yes, or bound it with --max-cost AMOUNT" in line
    assert any("calls to remote/openai/gpt-x: no price of them is known" in one for one in ahead)
    graded = load(models_study, changes=["judges.state.kind=rubric", "judges.state.model=openai/gpt-x"])
    made = evaluate(graded, {"one": "one", "two": "two"})
    assert look_ahead([(made, tmp_path / "out")], GateSection()).paid == ("openai/gpt-x",)
    for url, costs in (("http://127.0.0.1:9/v1", False), ("http://10.1.1.1:9/v1", True)):
        made = evaluate(load(models_study), {"one": "one", "x": "openai-api/local/x"}, base_url=url)
        assert look_ahead([(made, tmp_path / "out")], GateSection()).paid == (("x",) if costs else ())


def test_models_are_called_by_the_ends_of_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/model", "b/model", "model-1", "tiny", "known"):
        (tmp_path / name).mkdir(parents=True)
    settings = smoke_settings()
    study = Study.model_validate({**settings, "models": {"known": SMALL}})
    assert name_models(study, ["a/model", "model-1"]) == ["model", "model-1"]
    assert name_models(study, ["a/model", str(tmp_path / "b/model")]) == ["a/model", "b/model"]
    assert name_models(study, ["org/name", "remote/x/y"]) == ["org/name", "remote/x/y"]
    assert name_models(study, ["./tiny", "model-1"])[0].endswith("/tiny")  # no model of the study is called so
    assert name_models(study, ["./known", "known"])[1] == "known"


def test_what_so_many_cases_can_tell() -> None:
    assert "nothing can pass" in next(describe_reach(GateSection(), 34, 1))
    share = re.compile(r"(\d+) % pass")
    found = [int(share.findall(next(describe_reach(GateSection(), cases, 1)))[0]) for cases in (35, 144, 300)]
    assert found == sorted(found) and abs(found[1] - 58) < 8 and abs(found[2] - 88) < 6  # docs/gate.md, the table


# --- bars ---------------------------------------------------------------------------------------------------------


def drawn(**about: Any) -> tuple[float, float, float, float]:
    """The ends of the bar, its mark, and where the field of the margin ends, on a scale of 0 to 500."""
    check = Check(**{"metric": "safety", "outcome": Outcome.PASS, "blocking": True, "unit": "points", **about})
    html = margin_bars([check])
    field, start, width, mark = (
        float(re.findall(pattern, html)[0])
        for pattern in (
            r'class="lost"[^>]* width="([\d.]+)"',
            r'class="range" x="([\d.]+)"',
            r'class="range"[^>]* width="([\d.]+)"',
            r'class="mark" d="M([\d.]+) ',
        )
    )
    return start, start + width, mark, field


def test_bars_stand_on_one_scale_whatever_is_worse() -> None:
    """A change that is lost lies left of nothing, and a loss of one margin at the field's edge, for every check."""
    fell = drawn(worse="lower", margin=0.25, change=-0.5, lower=-0.75, upper=-0.25)
    rose = drawn(unit="share", worse="higher", margin=0.1, change=0.2, lower=0.1, upper=0.3, metric="severe")
    assert fell == pytest.approx(rose)
    start, end, mark, field = fell
    assert start < mark < end == pytest.approx(field) and field < 250
    assert drawn(worse="lower", margin=0.25, change=0.0, lower=-0.1, upper=0.1)[2] == 250
    level = drawn(
        unit="share", worse="higher", margin=0.1, child=0.1, parent=0.0, lower=0.05, upper=0.2, metric="ceiling"
    )
    assert level[2] == pytest.approx(level[3])  # at the ceiling
    nothing = drawn(worse="lower", margin=0.0, change=-0.2, lower=-0.4, upper=0.0)
    assert nothing[3] == 250 and nothing[1] == pytest.approx(250)
