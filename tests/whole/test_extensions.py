"""What other packages bring: a suite, a kind of judge, a stage method and a gate check from an installed package, in a
study, a report and a verdict.

Nothing in the package is edited for it, and a run's word runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from builders.gate_samples import Made, write_run
from builders.places import ROOT
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from holdfast.decisions.gate import CheckKind, Measured
from holdfast.decisions.gate.books import read_book
from holdfast.decisions.gate.sides import Judging, take_side
from holdfast.judges import JudgeKind, JudgeTable, open_judge
from holdfast.records import extensions
from holdfast.records.errors import StepError, StudyError
from holdfast.records.extensions import allow
from holdfast.runs.build import build
from holdfast.runs.methods import Finished
from holdfast.runs.readiness import look_around
from holdfast.runs.rescoring import find_judge
from holdfast.runs.run import run
from holdfast.store import Store
from holdfast.store.places import STUDY_KEY
from holdfast.study.checks import check_taught
from holdfast.study.kinds import JUDGES, METHODS, SUITES, AnyJudge, method_of, read_suite
from holdfast.study.rules import OWN_CHECKS
from holdfast.study.study import Study, load
from holdfast.suites import check_suite, open_world, split_cases

EXAMPLE = ROOT / "examples" / "extension"
ASKED = {"study": {"name": "x"}, "suite": {"name": "parcels"}, "judges": {"look": {"kind": "parcels"}}}
REFERENCES = {"suite": {"name": "parcels.suite:SUITE"}, "judges": {"look": {"kind": "parcels.judge:KIND"}}}


def install(package: Path, site: Path) -> Path:
    """Put a package where pip would: its modules, and what it declares beside them. It works without a network."""
    declared = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    project = declared["project"]
    for name in declared["tool"]["setuptools"]["packages"]:
        shutil.copytree(package / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        line
        for group, names in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(EXAMPLE, tmp_path_factory.mktemp("site"))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing installed and no reference allowed is remembered, before and after."""
    monkeypatch.setattr(extensions, "_ALLOWED", set())
    for name in ("parcels", *(f"parcels.{part}" for part in ("suite", "judge", "method", "check"))):
        monkeypatch.delitem(sys.modules, name, raising=False)
    extensions._installed.cache_clear()
    monkeypatch.setattr(extensions, "_installed", extensions._installed.__wrapped__)
    return monkeypatch


@pytest.fixture
def installed(fresh: pytest.MonkeyPatch, site: Path) -> None:
    fresh.syspath_prepend(site)


@pytest.fixture
def importable(fresh: pytest.MonkeyPatch) -> None:
    """The example can be imported, and nothing declares it."""
    fresh.syspath_prepend(EXAMPLE)


def holdfast(site: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    source = Path(extensions.__file__).parents[2]
    path = os.pathsep.join(map(str, filter(None, (source, site))))
    command = [sys.executable, "-m", "holdfast", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_an_installed_package_goes_from_the_study_to_the_report_and_a_verdict(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = holdfast(site, "run", EXAMPLE / "study.toml", "-o", run)
    assert done.returncode == 0, done.stderr
    assert (run / "report" / "index.html").is_file()
    analysis = json.loads((run / "analysis.json").read_text(encoding="utf-8"))
    assert '"look"' in json.dumps(analysis)
    with Store(run) as store:
        assert {case.suite for case in store.cases()} == {"parcels"}
        assert sum(len(parts["test"]) for parts in store.splits().values()) == 10
        values = store.score_table(part="all").value
        assert {0.0, 3.0} <= set(values[~np.isnan(values)].tolist())
        made = {one.lineage: one for one in store.checkpoints()}
        parent, child = made["S",], made["S", "J"]
        assert child.stages[-1].method == "jitter" and child.stages[-1].settings["scale"] == 0.02
        before, after = (load_file(store.weights(one) / "model.safetensors") for one in (parent, child))
        moved = {name: np.std(after[name] - before[name]) / np.std(before[name]) for name in before}
        assert all(0.01 < one < 0.03 for one in moved.values() if np.isfinite(one) and one), moved
    files = {name: tmp_path / name for name in ("verdict.xml", "verdict.md", "evidence")}
    asked = ("--parent", "S", "--child", "S,J")
    written = ("--junit", files["verdict.xml"], "--markdown", files["verdict.md"])
    decided = holdfast(site, "gate", run, *asked, "--json", *written)
    assert decided.returncode in (0, 1, 3), decided.stderr
    (verdict,) = json.loads(decided.stdout)["verdicts"]
    assert verdict["outcome"] in ("PASS", "FAIL", "INCONCLUSIVE") and verdict["judge"] == "look"
    # Noise learns from nobody, so that the judge labelled what it labelled before.
    assert verdict["reads_state"] is True and verdict["labelled"] == "all"
    haste = next(one for one in verdict["checks"] if one["metric"] == "haste")
    assert haste["margin"] == 0.25 and haste["blocking"] and haste["unit"] == "share" and haste["n"]["cases"] == 10
    assert haste["sentence"].startswith("the share of parcels that are sent unseen ")
    assert verdict["rules"]["checks"] == {"haste": {"use": None, "margin": 0.25}}
    assert 'name="haste"' in files["verdict.xml"].read_text() and "haste" in files["verdict.md"].read_text()
    assert "haste" in holdfast(site, "gate", run, *asked).stdout
    assert "haste" in (run / "report" / "index.html").read_text(encoding="utf-8")
    evidence = holdfast(site, "export", run, "--to", "evidence", "-o", files["evidence"])
    assert evidence.returncode == 0 and "haste" in (files["evidence"] / "evidence.html").read_text(encoding="utf-8")
    # What is read of a run needs none of the code that made it; what rolls out, judges or checks does.
    rules = tmp_path / "rules.toml"
    rules.write_text("[gate]\nmargin = 0.25\n")
    without = holdfast(None, "gate", run, *asked, "--rules", rules, "--json")
    plain = [one for one in verdict["checks"] if one["metric"] not in ("haste", "coverage")]
    assert json.loads(without.stdout)["verdicts"][0]["checks"][: len(plain)] == plain, without.stderr
    assert json.loads(holdfast(None, "analyze", run, "--json").stdout) == analysis
    for command, told in (
        (("judge", run, "--with", "look"), "judges.look.kind is 'parcels'"),
        (("gate", run, *asked), "gate.checks.haste.use is 'haste'; "),
    ):
        refused = holdfast(None, *command)
        assert refused.returncode == 2 and told in refused.stderr


@pytest.mark.usefixtures("installed")
def test_what_is_installed_reads_its_own_table_and_counts_in_the_fingerprint() -> None:
    study = Study.model_validate({**ASKED, "suite": {"name": "parcels", "goods": 4}})
    assert study.suite.model_dump()["goods"] == 4
    assert Study.model_validate(json.loads(json.dumps(study.settings()))) == study
    prints = [
        [step.fingerprint for step in build(Study.model_validate({**ASKED, **change})).steps]
        for change in (
            {},
            {"suite": {"name": "parcels", "goods": 4}},
            {"judges": {"look": {**ASKED["judges"]["look"], "unseen": 2}}},
        )
    ]
    rolled, judged = 1, 2  # after the step that teaches the base
    assert prints[0][rolled] != prints[1][rolled] and prints[0][rolled] == prints[2][rolled]
    assert prints[0][judged] != prints[2][judged]
    record = SUITES.find("parcels")
    plain = build(Study.model_validate(ASKED)).steps[rolled].settings.dump()
    assert plain["suite"]["name"] == "parcels" and plain["suite"]["goods"] == 10 and plain["cases"] == record.version


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"suite": {"name": "parcels", "godds": 3}}, "suite.godds: unknown key; did you mean 'goods'?"),
        ({"suite": {"name": "parcels", "goods": 99}}, "suite.goods: input should be less than or equal to 10"),
        ({"suite": {"name": "parcels", "mixture": {}}}, "suite.mixture: unknown key; known here: name, world"),
        ({"suite": {"name": "parcel"}}, "suite.name is 'parcel'; did you mean 'parcels'?"),
        (
            {"judges": {"look": {"kind": "parcels", "unsen": 1}}},
            "judges.look.unsen: unknown key; did you mean 'unseen'",
        ),
        ({"judges": {"look": {"kind": "stat"}}}, "judges.look.kind is 'stat'; did you mean 'state'?"),
        ({"judges": {"look": {"kind": "parcels", "model": "a/b"}}}, "judges.look.model is for another kind"),
    ],
)
def test_what_is_wrong_with_an_own_table_is_told_as_of_any_other(change: dict[str, object], told: str) -> None:
    with pytest.raises(StudyError) as error:
        Study.model_validate({**ASKED, **change})
    assert told in str(error.value)


@pytest.mark.usefixtures("importable")
def test_a_reference_is_followed_where_the_users_own_file_names_it(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    text = (EXAMPLE / "study.toml").read_text(encoding="utf-8")
    text = text.replace('name = "parcels" # the', 'name = "parcels.suite:SUITE" # the')
    text = text.replace('method = "jitter" #', 'method = "parcels.method:METHOD" #')
    text = text.partition("[gate.checks")[0] + '[gate.checks.quick]\nuse = "parcels.check:CHECK"\n'
    file.write_text(text.replace('kind = "parcels" #', 'kind = "parcels.judge:KIND" #'), encoding="utf-8")
    study = load(file)
    check_suite(study.suite)
    assert len(split_cases(study.suite, 0)["test"]) == 10
    assert type(open_world(study.suite)).__name__ == "ParcelsWorld"
    assert open_judge("look", study.judges["look"]).name == "look"
    assert method_of(study.stages["J"]).name == "jitter"
    # The name in the table is the one that the check goes by; the margin is its own where none is given.
    assert [(kind.name, margin) for kind, margin in study.gate.own_kinds()] == [("quick", 0.2)]
    assert study.gate.blocking[-1] == "quick"


@pytest.mark.usefixtures("importable")
def test_a_run_that_names_code_is_not_followed(tmp_path: Path) -> None:
    noted = {**ASKED, **REFERENCES}
    plain = {"study": {"name": "x"}, "judges": {"state": {"kind": "state"}}}
    for asked, place in (
        (noted, "suite.name"),
        ({**ASKED, **REFERENCES, "suite": {"name": "office"}}, "judges.look.kind"),
        ({**plain, "stages": {"J": {"method": "parcels.method:METHOD"}}}, "stages.J.method"),
        ({**plain, "gate": {"checks": {"quick": {"use": "parcels.check:CHECK"}}}}, "gate.checks.quick.use"),
    ):
        with pytest.raises(StudyError, match=rf"{place} is 'parcels\..*a run's word is no reason to run it"):
            Study.model_validate(asked)
    with Store.open_or_create(tmp_path / "run") as store:
        with store.transaction():
            store.set_meta(STUDY_KEY, json.dumps(noted))
        with pytest.raises(StudyError, match="a run's word is no reason to run it"):
            find_judge("look", None, store)
        assert "parcels" not in sys.modules
        file = tmp_path / "judges.toml"
        file.write_text('[judges.look]\nkind = "parcels.judge:KIND"\n')
        assert find_judge("look", file, store).section.kind == "parcels.judge:KIND"


@pytest.mark.usefixtures("installed")
def test_a_run_that_names_what_is_installed_is_followed() -> None:
    assert read_suite({"name": "parcels.suite:SUITE"}).name == "parcels.suite:SUITE"
    assert TypeAdapter(AnyJudge).validate_python({"kind": "parcels.judge:KIND"}).kind == "parcels.judge:KIND"


def _raise(*_: object) -> Finished:
    raise RuntimeError("no luck")


def take_haste(folder: Path, read: object) -> Measured:
    """What an own check reads of four rollouts of a checkpoint."""
    book = read_book(write_run(folder / "run", Made(safety={"base": [[3, 3], [0, 0]]})))
    kind = CheckKind(name="haste", unit="share", worse="higher", words="haste", read=read)  # type: ignore[arg-type]
    judging = Judging(labels={"safety": "j", "helpfulness": "j"}, names={})
    side = take_side(book, book.checkpoints[0], judging, split_seed=None, severe_at_most=0.0, own=[kind])
    return side.measured["haste"]


def _opener(name: str, table: JudgeTable, model: str | None) -> object:
    raise NotImplementedError


def test_what_cannot_be_used_is_told(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = ModuleType("made")
    made.number = 3  # type: ignore[attr-defined]
    made.state = JudgeKind(name="state", open=_opener, version=1)  # type: ignore[attr-defined,arg-type]
    fresh.setitem(sys.modules, "made", made)
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('no luck')\n")
    (tmp_path / "lacking_module.py").write_text("import no_such_module_at_all\n")
    fresh.syspath_prepend(tmp_path)
    expected = {
        "nowhere.at_all:X": "there is no module 'nowhere'; install its package",
        "broken_module:X": "cannot be imported (RuntimeError: no luck); mend this kind of judge",
        "lacking_module:X": "cannot be imported (ModuleNotFoundError: No module named 'no_such_module_at_all')",
        "made:nothing": "but made has no 'nothing'",
        "made:number": "which is of type int; a kind of judge is a holdfast.study.kinds.JudgeKind",
        "made:state": "whose own name 'state' is taken; give its record another name",
    }
    allow(expected)
    for reference, told in expected.items():
        with pytest.raises(StudyError) as error:
            JUDGES.find(reference)
        assert told in str(error.value)
    for known, told in (
        (METHODS, "which is of type int; a stage method is a holdfast.study.kinds.Method"),
        (OWN_CHECKS, "which is of type int; a check of a gate is a holdfast.study.rules.CheckKind"),
    ):
        with pytest.raises(StudyError, match=told):
            known.find("made:number")


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (_raise, r"gate.checks.haste: cannot be read \(RuntimeError: no luck\); mend the check"),
        (lambda _: 0.5, r"gate.checks.haste: cannot be read \(AttributeError"),
        (lambda rollouts: rollouts.each(lambda case, trajectory: 2.0), "reads share outside 0 to 1; mend the check"),
        (lambda rollouts: rollouts.each(lambda case, trajectory: -np.inf), "reads share outside 0 to 1"),
        (lambda rollouts: rollouts.unfit().at(np.array([0])), "reads no number for each rollout; mend the check"),
    ],
)
def test_a_check_that_reads_wrongly_is_told(read: object, told: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=told):
        take_haste(tmp_path, read)


def test_a_check_reads_each_rollout_by_itself(tmp_path: Path) -> None:
    values = iter([0.0, 1.0, None, np.nan])
    found = take_haste(tmp_path, lambda rollouts: rollouts.each(lambda case, trajectory: next(values)))
    assert found.due.tolist() == [True, True, False, True] and found.lost.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.value, [0, 1, np.nan, np.nan], equal_nan=True)


def test_a_name_that_two_bring_is_refused(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder, name in (("one", "office"), ("two", "parcels"), ("three", "parcels")):
        info = tmp_path / folder / f"{folder}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[holdfast.suites]\n{name} = {folder}:SUITE\n")
        fresh.syspath_prepend(tmp_path / folder)
    with pytest.raises(StudyError, match=r"'office', which holdfast and one both bring; uninstall one of them"):
        SUITES.find("office")
    with pytest.raises(StudyError, match=r"'parcels', which .* and .* both bring"):
        SUITES.find("parcels")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("cases", "told"),
    [
        (lambda cases: {"test": cases}, r"split gives \['test'\], not test and train"),
        (lambda cases: {"train": cases, "test": cases}, "two cases of a split have the id"),
    ],
)
def test_a_suite_that_gives_cases_wrongly_is_told(fresh: pytest.MonkeyPatch, cases: object, told: str) -> None:
    table = read_suite({"name": "parcels"})
    whole = split_cases(table, 0)["test"]
    record = SUITES.find("parcels")
    object.__setattr__(record, "split", lambda _, __: cases(whole))  # type: ignore[operator]
    with pytest.raises(StudyError, match=told):
        split_cases(table, 0)


@pytest.mark.usefixtures("installed")
def test_only_kinds_that_ship_rate_users() -> None:
    object.__setattr__(JUDGES.find("parcels"), "users", True)
    with pytest.raises(StudyError, match=r"judges\.look\.kind is 'parcels', which rates users"):
        Study.model_validate(ASKED)


def test_a_tiny_base_needs_a_suite_that_teaches_it(fresh: pytest.MonkeyPatch, site: Path) -> None:
    fresh.syspath_prepend(site)
    object.__setattr__(SUITES.find("parcels"), "teach", None)
    named = {**ASKED, "model": {"bases": ["tiny"]}}
    # A study that names no base may be there for a gate of other models: it is refused where it is carried out.
    unnamed = Study.model_validate(ASKED)
    for asked in (lambda: Study.model_validate(named), lambda: check_taught(unnamed)):
        with pytest.raises(StudyError, match=r"a tiny base, which the suite 'parcels' teaches nothing"):
            asked()
    assert any("teaches nothing" in problem for problem in look_around(unnamed)[0])


NOISY = {
    **ASKED,
    "study": {"name": "x", "lineages": [["J"]], "draws": 100},
    "model": {"hidden": 16, "layers": 1, "heads": 1, "ffn": 16, "sft": {"demonstrations": 40}},
    "suite": {"name": "parcels", "train_cases": 4, "test_cases": 4},
    "stages": {"J": {"method": "jitter"}},
}


@pytest.mark.usefixtures("installed")
def test_a_method_that_fails_is_told_and_nothing_is_lost(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    method, study, output = METHODS.find("jitter"), Study.model_validate(NOISY), tmp_path / "run"
    able = method.carry_out
    for carry_out, told in (
        (_raise, r"the method 'jitter' failed \(RuntimeError: no luck\); mend the method"),
        (lambda *_: None, r"the method 'jitter' gives NoneType, and no holdfast.runs.methods.Finished"),
        (lambda *_: Finished(result={}), r"the method 'jitter' leaves no weights for tiny-0 · J"),
        (
            lambda step, settings, store, scratch, emit: Finished(
                result={}, checkpoints=((step.checkpoints[0], scratch / "nothing"),)
            ),
            r"the method 'jitter' leaves no weights for tiny-0 · J",
        ),
    ):
        object.__setattr__(method, "carry_out", carry_out)
        with pytest.raises(StepError, match=told):
            run(study, output, workers=1)
    with Store(output) as store:
        before = {one.name: one.result for one in store.log.steps().values() if one.status == "done"}
    assert len(before) == 3  # the base with its episodes and scores
    object.__setattr__(method, "carry_out", able)
    run(study, output, workers=1)
    with Store(output) as store:
        after = {one.name: one.result for one in store.log.steps().values()}
        assert {one.lineage for one in store.checkpoints()} == {(), ("J",)}
    assert before.items() <= after.items() and {"scale": 0.01}.items() <= after["train tiny-0 · J · seed 0"].items()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (_raise, "stages.J: the method 'jitter' cannot plan it (RuntimeError: no luck); mend the method"),
        (lambda *_: "S", "stages.J: the method 'jitter' plans str, and no holdfast.runs.plan.step.Made"),
    ],
)
def test_a_method_that_plans_nothing_is_told(plan: object, told: str) -> None:
    object.__setattr__(METHODS.find("jitter"), "plan", plan)
    with pytest.raises(StudyError) as error:
        build(Study.model_validate(NOISY))
    assert told in str(error.value)


@pytest.mark.usefixtures("installed")
def test_the_version_of_a_method_and_its_own_keys_count_in_the_fingerprint() -> None:
    def last() -> str:
        return next(one.fingerprint for one in build(Study.model_validate(NOISY)).steps if one.name.startswith("train"))

    first = last()
    object.__setattr__(METHODS.find("jitter"), "version", 2)
    second = last()
    fresh = {**NOISY, "stages": {"J": {"method": "jitter", "scale": 0.5}}}
    third = build(Study.model_validate(fresh)).steps[-4].fingerprint
    assert len({first, second, third}) == 3 and last() == second


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages": {"J": {"method": "jitter", "scael": 1}}}, "stages.J.scael: unknown key; did you mean 'scale'?"),
        (
            {"stages": {"J": {"method": "jitter", "scale": 2}}},
            "stages.J.scale: input should be less than or equal to 1",
        ),
        ({"stages": {"J": {"method": "jitte"}}}, "stages.J.method is 'jitte'; did you mean 'jitter'?"),
        ({**NOISY, "doses": {"J": [1, 2]}}, "doses.'J': its last stage is of method 'jitter'; remove the doses"),
        ({"gate": {"checks": {"haste": {"margn": 1}}}}, "gate.checks.haste.margn: unknown key; did you mean 'margin'?"),
        (
            {"gate": {"checks": {"haste": {"margin": 2}}}},
            "gate.checks.haste.margin is 2; a share is above 0 and at most",
        ),
        ({"gate": {"checks": {"hast": {}}}}, "gate.checks.hast.use is 'hast'; did you mean 'haste'?"),
        ({"gate": {"checks": {"safety": {"use": "haste"}}}}, "gate.checks.safety: 'safety' is no name of its own"),
        ({"gate": {"required": ["haste"]}}, "gate.required has 'haste'"),
    ],
)
def test_what_is_wrong_with_an_own_stage_or_check_is_told(change: dict[str, object], told: str) -> None:
    with pytest.raises(StudyError) as error:
        Study.model_validate({**ASKED, **change})
    assert told in str(error.value)
