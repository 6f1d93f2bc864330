"""A watch over checkpoints: alarms and silence, what it keeps, what it refuses, a judge that drifts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import a14_minor as minor
from builders.places import ROOT
from builders.watch_samples import RULES, write_remote, write_rules, write_run

from holdfast.cli import main as cli
from holdfast.cli.arguments import parser
from holdfast.decisions.watch.reading import find_later, find_looks
from holdfast.decisions.watch.render import exit_code, render_text, state_finding
from holdfast.decisions.watch.series import REACH, promise_looks, replay
from holdfast.decisions.watch.series import Watch as Series
from holdfast.decisions.watch.state import Seen, State, load_state, save_state
from holdfast.models.fakes import FakeProvider
from holdfast.records import Score
from holdfast.records.errors import StudyError
from holdfast.runs.build import build
from holdfast.runs.rescoring import rescore
from holdfast.stats.sequential import alarms
from holdfast.store import Store
from holdfast.store.choosing import Listing, find_checkpoint, read_conditions
from holdfast.store.places import STUDY_KEY
from holdfast.study.study import load

Shown = tuple[int, str, str]
Watch = Callable[..., Shown]
MEANS = {"S": 2.5, "H1": 2.5, "H2": 2.45, "H3": 1.3}


@pytest.fixture
def watch(capsys: pytest.CaptureFixture[str]) -> Watch:
    """Runs the command: exit code, standard output, standard error."""

    def run(*arguments: object) -> Shown:
        code = cli.main(["watch", *map(str, arguments)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose third dose has lost much."""
    return write_run(tmp_path_factory.mktemp("watch") / "run", MEANS)


# --- alarms and silence ------------------------------------------------------------------------------------------


def test_a_planted_drop_is_told_at_its_look(watch: Watch, dropping: Path, tmp_path: Path) -> None:
    code, out, _ = watch(dropping, "--baseline", "S", "-o", tmp_path / "out", "--markdown", tmp_path / "w.md")
    assert code == 1
    lines = [line for line in out.splitlines() if line.startswith("tiny · S,H")]
    assert [line.split()[-1] for line in lines] == ["silent", "silent", "ALARM"]
    document = json.loads((tmp_path / "out" / "watch.json").read_text())
    assert [look["alarm"] for look in document["looks"]] == [False, False, True]
    last = document["looks"][-1]
    assert last["lower"] < -1.2 < last["upper"] < -document["margin"]
    assert last["level"] == pytest.approx(0.05 / 12) and len(last["windows"]) == 2
    assert "holdfast watch: alarm" in (tmp_path / "w.md").read_text()
    page = (tmp_path / "out" / "watch.html").read_text()
    assert "<script" not in page and "ALARM at tiny" in page and "<svg" in page
    assert (tmp_path / "out" / "watch.svg").read_text().startswith("<svg")


def test_json_is_the_document_of_the_file(watch: Watch, dropping: Path, tmp_path: Path) -> None:
    code, out, _ = watch(dropping, "--baseline", "S", "--json", "-o", tmp_path / "out")
    assert code == 1 and json.loads(out) == json.loads((tmp_path / "out" / "watch.json").read_text())


def test_a_run_without_change_is_silent(watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"S": 2.0, "H1": 2.0, "H2": 2.0, "H3": 2.0})
    code, out, _ = watch(run, "--baseline", "S")
    assert code == 0 and "No alarm" in out and "ALARM" not in out


def test_too_few_cases_say_nothing(watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"S": 3.0, "H1": 0.0}, cases=3)
    code, out, _ = watch(run, "--baseline", "S")
    assert code == 3 and "too little data" in out


def test_the_promised_delay_is_kept(tmp_path: Path, watch: Watch) -> None:
    """In runs with the drop after the two looks taken, the alarm comes in the promised looks as often as promised."""
    quiet = write_run(tmp_path / "quiet", {"S": 2.5, "H1": 2.5, "H2": 2.5})
    code, out, _ = watch(quiet, "--baseline", "S", "--drop", "0.9")
    promised = re.search(
        r"after the 2 looks so far would be caught within (\d+) further looks? in at least (\d+)%",
        " ".join(out.split()),
    )
    assert code == 0 and promised is not None
    looks, share = int(promised[1]), int(promised[2]) / 100
    rng = np.random.default_rng(5)
    caught = 0
    for _ in range(8):
        state = simulate(rng, drops=[0.0, 0.0, *[0.9] * looks])
        caught += any(row.alarm for row in replay(state, "paired", 0.05, 0.25))
    assert caught / 8 >= share - 0.25


def test_a_drop_after_many_looks_is_promised_later_or_not_at_all() -> None:
    """Look 13 may spend less than look 3, so the same drop takes longer after twelve quiet looks than after two."""
    state = simulate(np.random.default_rng(3), drops=[0.0] * 12)
    looks = []
    for taken in (2, 12):
        early = State(declared={}, baseline=state.baseline, looks=state.looks[:taken])
        told = promise_looks(early, 0.9, alpha=0.05, margin=0.25, rng=np.random.default_rng(0))
        looks.append(np.inf if told.looks is None else told.looks)
    assert looks[0] < looks[1]


def simulate(rng: np.random.Generator, drops: list[float], cases: int = 60, rollouts: int = 2) -> State:
    """A state with a baseline and looks at the same cases, each with a drop of its mean."""
    chance = np.clip(rng.normal(0.5, 0.15, cases), 0, 1)

    def scores(drop: float) -> dict[str, tuple[float, ...]]:
        found = 2 + (rng.random((cases, rollouts)) < chance[:, None]).astype(float)
        return {f"c{i}": tuple(np.clip(row - (rng.random(rollouts) < drop), 0, 3)) for i, row in enumerate(found)}

    looks = [Seen(label=str(i), data=str(i), values=scores(drop)) for i, drop in enumerate(drops)]
    return State(declared={"kind": "paired"}, baseline=scores(0.0), looks=looks)


def differences_of(state: State) -> np.ndarray[Any, Any]:
    before = {case: np.mean(found) for case, found in state.baseline.items()}
    names = sorted(before)
    return np.array([[np.mean(look.values[case]) - before[case] for look in state.looks] for case in names])


def test_a_thousand_quiet_runs_keep_the_stated_rate() -> None:
    """Without any change and without a margin, of 1,000 runs with three looks each at most so many raise an alarm."""
    rng = np.random.default_rng(11)
    states = [simulate(rng, drops=[0.0] * 3, cases=16, rollouts=1) for _ in range(1000)]
    found = alarms(np.stack([differences_of(one) for one in states]), low=-REACH, high=REACH, alpha=0.05, margin=0.0)
    # Of 1,000 runs at 5 %, more than 67 would come in one of a hundred such tests.
    assert found.any(axis=1).sum() <= 67
    # The same runs by the way that the command takes, which is never quicker to alarm.
    alarmed = np.flatnonzero(found.any(axis=1))[:2]
    for place in [*range(2), *alarmed]:
        told = [row.alarm for row in replay(states[place], "paired", 0.05, 0.0)]
        assert all(mine <= theirs for mine, theirs in zip(told, found[place], strict=True))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["paired", "traces"])
def test_a_thousand_quiet_runs_by_the_commands_own_way(kind: Any) -> None:
    rng = np.random.default_rng(12)
    states = [simulate(rng, drops=[0.0] * 5, cases=30, rollouts=1) for _ in range(1000)]
    assert sum(any(row.alarm for row in replay(one, kind, 0.05, 0.0)) for one in states) <= 67


def test_quiet_traces_raise_no_alarm_and_a_drop_does() -> None:
    rng = np.random.default_rng(13)
    quiet = [simulate(rng, drops=[0.0] * 2, cases=30, rollouts=1) for _ in range(10)]
    assert sum(any(row.alarm for row in replay(one, "traces", 0.05, 0.0)) for one in quiet) <= 2
    (*_, last) = replay(simulate(rng, drops=[0.0, 1.0], cases=120, rollouts=1), "traces", 0.05, 0.25)
    assert last.alarm and last.lower is not None and last.lower < -0.8


# --- which checkpoints -------------------------------------------------------------------------------------------


def test_names_lineages_and_ids_find_checkpoints(dropping: Path) -> None:
    with Store(dropping) as store:
        known = Listing("run", store.checkpoints())
    base = find_checkpoint(known, "S")
    later = find_looks(known, "S,H")
    assert [one.axes["dose"] for one in later] == [1, 2, 3] == [one.axes["dose"] for one in find_later(known, base)]
    assert find_looks(known, later[1].id[:8]) == [later[1]] == find_looks(known, "S,H dose=2")
    assert find_looks(known, later[2].name) == [later[2]]
    with pytest.raises(StudyError, match="no checkpoint 'X'; lineages there are: S, S,H"):
        find_looks(known, "X")


def test_the_documented_names_resolve_on_the_quick_study() -> None:
    """Base, seeds and other axes of the looks are the baseline's; what is still ambiguous is refused."""
    plan = build(load(ROOT / "studies" / "quick.toml"))
    known = Listing("run", [one for step in plan.steps for one in step.checkpoints])
    commands = [line for name in ("docs/quickstart.md", "docs/watch.md") for line in documented(ROOT / name)]
    assert len(commands) >= 2
    for line in commands:
        options = parser().parse_args(shlex.split(line, comments=True)[1:])
        where = read_conditions(options.where)
        base = find_checkpoint(known, options.baseline, where)
        assert (base.base, base.lineage, base.axes["dose"], base.train_seed) == ("tiny-0", ("S",), 1, 0)
        looks = [one for name in options.checkpoints for one in find_looks(known, name, where, base)]
        assert [one.axes["dose"] for one in looks] == [1, 2, 4]
        assert {(one.base, one.lineage, one.train_seed) for one in looks} == {("tiny-0", ("S", "H"), 0)}
        doses = [one for dose in (1, 2, 4) for one in find_looks(known, f"S,H dose={dose}", where, base)]
        assert doses == looks == find_looks(known, "S,H", {}, base)
    with pytest.raises(StudyError, match=r"'S' is ambiguous, .* choose with key=value behind the name"):
        find_checkpoint(known, "S")
    with pytest.raises(StudyError, match="'S,H' is ambiguous"):
        find_looks(known, "S,H")
    with pytest.raises(StudyError, match="no checkpoint S,H with dose=9"):
        find_looks(known, "S,H dose=9", {}, base)


def documented(path: Path) -> list[str]:
    return re.findall(r"^holdfast watch runs/quick .*", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_what_cannot_be_meant_is_told(watch: Watch, dropping: Path) -> None:
    assert watch(dropping)[2] == "holdfast: watch: --baseline is missing; name a checkpoint of RUN\n"
    assert "'S,H' is ambiguous, 3 checkpoints are it" in watch(dropping, "--baseline", "S,H")[2]
    code, _, err = watch(dropping, "--baseline", "S", "--judge", "gpt")
    assert code == 2 and "no scores of 'safety' of tiny · S by the judge 'gpt', there are: rules" in err
    assert (
        "no scores of 'kindness', scored there: safety"
        in watch(dropping, "--baseline", "S", "--objective", "kindness")[2]
    )
    code, _, err = watch(dropping, "--baseline", "S", "--checkpoints", "S")
    assert code == 2 and "both sides are the same episodes" in err
    assert "no run here" in watch(dropping / "nowhere", "--baseline", "S")[2]
    with pytest.raises(SystemExit, match="2"):
        watch(dropping, "--baseline", "S", "--alpha", "nan")


def test_weekly_runs_are_looks_in_the_order_given(watch: Watch, tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", {"S": 2.5})
    weeks = [write_run(tmp_path / f"week{n}", {"H1": mean}, seed=n) for n, mean in ((1, 2.5), (2, 1.0))]
    runs = [part for week in weeks for part in ("--run", week)]
    code, out, _ = watch(base, *runs, "--json")
    document = json.loads(out)
    assert code == 1 and [look["label"] for look in document["looks"]] == [str(week) for week in weeks]
    assert [look["alarm"] for look in document["looks"]] == [False, True]


def test_other_cases_and_other_rubrics_are_refused(watch: Watch, tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", {"S": 2.5}, cases=20)
    moved = write_run(tmp_path / "moved", {"H1": 2.5}, cases=20, first_case=5, seed=1)
    code, _, err = watch(base, "--run", moved)
    assert code == 2 and "5 cases only in the baseline, 5 only in the look, 15 in both" in err
    other = write_run(tmp_path / "other", {"H1": 2.5}, cases=20, rubric="another", seed=2)
    assert "scored under rubric r1 for the baseline and another for the look" in watch(base, "--run", other)[2]


def test_scores_that_are_missing_are_told(watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"S": 2.5, "H1": 2.5, "H2": 2.5}, missing=["H2"])
    code, out, _ = watch(run, "--baseline", "S", "--json")
    *_, last = json.loads(out)["looks"]
    assert code == 3 and last["change"] is None and last["missing"] == 120 and last["coverage"] == 0
    assert last["reason"] == "no case has a score here and in the baseline"


@pytest.mark.parametrize("place", ["look", "baseline"])
def test_a_look_with_few_scores_is_not_silent(place: str) -> None:
    """Of 100 cases 70 have no score, in the look or in the baseline: what is left shows no drop, and says nothing."""
    names = [f"c{i}" for i in range(100)]
    few, whole = dict.fromkeys(names[:30], (3.0,)), dict.fromkeys(names, (3.0,))
    before, now = (whole, few) if place == "look" else (few, whole)
    seen = Seen(label="w", data="w", values=now, missing=100 - len(now))
    state = State(declared={}, baseline=before, asked=100, looks=[seen])
    for least, code, finding in ((0.8, 3, "too little scored"), (0.3, 0, "silent")):
        rows = replay(state, "paired", 0.05, 0.25, least)
        found = Series(
            kind="paired",
            baseline="S",
            judge="rules",
            objective="safety",
            alpha=0.05,
            margin=0.25,
            baseline_mean=3.0,
            baseline_n=len(before),
            rows=rows,
            min_coverage=least,
        )
        assert rows[0].coverage == 0.3 and (exit_code(found), state_finding(rows[0])) == (code, finding)
        assert ("Too little scored: of what was asked 30" in render_text(found)) is (code == 3)
    fallen = replace(seen, values=dict.fromkeys(names[:30], (0.0,)))
    worse = State(declared={}, baseline=whole, asked=100, looks=[fallen])
    (row,) = replay(worse, "paired", 0.05, 0.25)
    assert row.alarm and state_finding(row) == "ALARM"


def test_rollouts_that_the_baseline_lacks_are_told_and_counted(watch: Watch, tmp_path: Path) -> None:
    """Its best episodes may be those without a score, and a drop hides in that; every case still has one."""
    run = write_run(tmp_path / "run", {"S": 2.5, "H1": 2.5})
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta(STUDY_KEY, json.dumps({"rollouts": {"per_test_case": 4}}))
    short = json.loads(watch(run, "--baseline", "S", "--json")[1])
    assert (short["exit_code"], short["baseline"]["missing"], short["looks"][0]["coverage"]) == (3, 120, 0.5)

    lost = write_run(tmp_path / "lost", {"S": 2.5, "H1": 2.5}, unread=1)
    code, out, _ = watch(lost, "--baseline", "S", "--min-coverage", "0.8")
    assert code == 3 and "(60 of the baseline" in " ".join(out.split()) and "too little scored" in out
    assert watch(lost, "--baseline", "S", "--min-coverage", "0.4")[0] == 0


def test_doses_of_a_finished_study_are_watched(watch: Watch, smoke_run: Path, tmp_path: Path) -> None:
    with Store(smoke_run) as store:
        lineages = {one.lineage for one in store.checkpoints() if one.stages}
        base = next(one for one in store.checkpoints() if not one.stages)
        judge = store.score_table().judge_names[0]
    stage = min(lineages, key=lambda one: (len(one), one))
    code, out, err = watch(
        smoke_run, "--baseline", base.id, "--checkpoints", ",".join(stage), "--judge", judge, "--frozen", "6", "--json"
    )
    assert code in (0, 1, 3), err
    looks = json.loads(out)["looks"]
    assert looks and looks[-1]["judge_drift"] == {
        "n": 6,
        "change": 0.0,
        "lower": pytest.approx(looks[-1]["judge_drift"]["lower"]),
        "upper": pytest.approx(looks[-1]["judge_drift"]["upper"]),
        "drifted": False,
    }


# --- what is kept ------------------------------------------------------------------------------------------------


def test_a_state_goes_on_where_it_was(watch: Watch, dropping: Path, tmp_path: Path) -> None:
    """Looks taken one a week give the same bounds as looks taken together, and one taken again adds nothing."""
    state = tmp_path / "state.json"
    whole = json.loads(watch(dropping, "--baseline", "S", "--json")[1])["looks"]
    for count, dose in enumerate((1, 2, 3), 1):
        name = f"tiny · S,H · dose={dose}"
        arguments = (dropping, "--baseline", "S", "--checkpoints", name, "--state", state, "--json")
        first = json.loads(watch(*arguments)[1])["looks"]
        kept = state.read_bytes()
        assert first == json.loads(watch(*arguments)[1])["looks"] == whole[:count]
        assert state.read_bytes() == kept


def test_a_state_of_another_watch_is_refused_by_its_key(watch: Watch, dropping: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    watch(dropping, "--baseline", "S", "--state", state)
    kept = state.read_bytes()
    code, _, err = watch(dropping, "--baseline", "S", "--state", state, "--alpha", "0.1")
    assert code == 2 and "alpha was 0.05 and is 0.1" in err
    assert "margin was 0.25 and is 0.5" in watch(dropping, "--baseline", "S", "--state", state, "--margin", "0.5")[2]
    other = write_run(tmp_path / "other", MEANS, seed=9)
    assert "baseline scores was" in watch(other, "--baseline", "S", "--state", state)[2]
    assert state.read_bytes() == kept


def test_a_look_is_not_taken_twice_of_other_data(watch: Watch, tmp_path: Path) -> None:
    base, state = write_run(tmp_path / "base", {"S": 2.5}), tmp_path / "state.json"
    for seed, code in ((1, 0), (2, 2)):
        week = write_run(tmp_path / f"week{seed}", {"H1": 2.5}, seed=seed)
        found, _, err = watch(base, "--run", week, "--label", "this week", "--state", state)
        assert found == code, err
    assert "look 'this week': was taken before, of other data" in err
    kept = state.read_bytes()
    week = tmp_path / "week1"
    code, _, err = watch(base, "--run", week, "--label", "next week", "--state", state)
    assert code == 2 and "look 'next week': has the very data of look 'this week', which counts once" in err
    assert state.read_bytes() == kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\x00\xff garbage",
        lambda data: b"[" * 100_000,
        lambda data: b'{"holdfast_watch": 1}',
        lambda data: data.replace(b'"missing": 0', b'"missing": "x"', 1),
        lambda data: re.sub(rb"\b2\.5\b|\b3\.0\b", b"NaN", data, count=1),
    ],
)
def test_a_damaged_state_is_refused_and_stays(
    watch: Watch, dropping: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    state = tmp_path / "state.json"
    watch(dropping, "--baseline", "S", "--state", state)
    broken = damage(state.read_bytes())
    state.write_bytes(broken)
    code, out, err = watch(dropping, "--baseline", "S", "--state", state)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "no state of a watch, or a damaged one" in err and state.read_bytes() == broken
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_state_of_another_version_and_one_that_changed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = State(declared={"alpha": 0.05}, baseline={"c": (1.0,)})
    save_state(path, state)
    mine, theirs = load_state(path, {"alpha": 0.05}), load_state(path, {"alpha": 0.05})
    assert mine is not None and theirs is not None
    theirs.looks.append(Seen(label="a", data="x", values={"c": (2.0,)}))
    save_state(path, theirs)
    with pytest.raises(StudyError, match="changed while this watch was at work"):
        save_state(path, mine)
    path.write_text('{"holdfast_watch": 9}')
    with pytest.raises(StudyError, match="a state of version 9, expected 2"):
        load_state(path, {})
    assert load_state(tmp_path / "none.json", {}) is None


# --- a judge that drifts -----------------------------------------------------------------------------------------


class Moody:
    """Answers of a judge model whose verdict can be changed."""

    def __init__(self) -> None:
        self.score = 3

    def __call__(self, request: Mapping[str, Any]) -> str:
        labels = request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        wanted = {3: ("Certain No Risk", "Excellent"), 0: ("Likely Severe Risk", "Poor")}[self.score]
        label = next(one for one in labels if one in wanted)
        return json.dumps({"reasoning": "seen", "label": label, "score": self.score})


def judged_run(path: Path, file: Path, mean: float = 3.0) -> Path:
    """A run with a baseline and a dose, scored by a model too."""
    run = write_run(path, {"S": mean, "H1": mean}, cases=16, rollouts=1)
    rescore(run, "gpt", file)
    return run


def test_a_judge_that_changed_is_told_from_a_model_that_did(watch: Watch, tmp_path: Path) -> None:
    mood = Moody()
    with FakeProvider(answers=mood) as provider:
        file = write_remote(tmp_path, provider.base_url)
        run = judged_run(tmp_path / "run", file)
        state = tmp_path / "state.json"
        common = (run, "--baseline", "S", "--judge", "gpt", "--judges", file, "--frozen", "16", "--state", state)
        code, out, err = watch(*common, "--checkpoints", "tiny · S,H · dose=1")
        assert code == 0 and "drifted" not in out, err
        # The judge becomes harsh: what it scores from now on looks like a drop, and the frozen set tells whose.
        mood.score = 0
        week = write_run(tmp_path / "week", {"H3": 3.0}, cases=16, rollouts=1, seed=1)
        rescore(week, "gpt", file)
        code, out, err = watch(*common, "--run", week, "--json")
        asked = len(provider.bill)
        last = json.loads(out)["looks"][-1]
        assert code == 1 and last["alarm"] and not last["attributable"], err
        assert last["judge_drift"]["drifted"] and last["judge_drift"]["change"] == -3.0
        text = " ".join(watch(*common, "--run", week)[1].split())
        assert "ALARM, judge drifted" in text and "no evidence about the model" in text
        assert len(provider.bill) == asked, "a look that was taken asks no judge again"


def test_a_judge_that_is_no_longer_understood_is_told(watch: Watch, tmp_path: Path) -> None:
    """It has not drifted by any number: it gives none."""
    mood = Moody()
    with FakeProvider(answers=lambda request: mood(request) if mood.score else "It depends.") as provider:
        file = write_remote(tmp_path, provider.base_url)
        run = judged_run(tmp_path / "run", file)
        mood.score = 0
        state = tmp_path / "state.json"
        common = (run, "--baseline", "S", "--judge", "gpt", "--judges", file, "--frozen", "16", "--state", state)
        texts = [" ".join(watch(*common)[1].split()) for _ in range(2)]
    words = "frozen trajectories: judges.gpt: 16 of 16 judgements of safety hold no verdict that parser 'strict' reads"
    assert words in texts[0] and texts[0] == texts[1]


def test_how_the_judge_stands_to_what_is_watched_is_told(watch: Watch, dropping: Path, tmp_path: Path) -> None:
    document = json.loads(watch(dropping, "--baseline", "S", "--json")[1])
    assert (document["labelled"], document["reads_state"]) == ("unknown", False)
    assert any("labelled any training pairs is not known" in one for one in document["sentences"])
    run = write_run(tmp_path / "run", MEANS)
    with Store(run, writable=True) as store, store.transaction():
        store.set_meta(STUDY_KEY, json.dumps({"pairs": {"judge": "rules"}}))
    code, out, _ = watch(run, "--baseline", "S", "--state", tmp_path / "state.json")
    assert code == 1 and "by rules (labelled all), against" in " ".join(out.split())
    assert "also labelled the training pairs: what was learnt may be its errors" in " ".join(out.split())
    two = write_run(tmp_path / "two", MEANS)
    with Store(two, writable=True) as store, store.transaction():
        store.set_meta(STUDY_KEY, json.dumps({"pairs": {"judge": "rules"}}))
        for name in store.trajectory_ids():
            store.add_score(Score(trajectory_id=name, judge="b", objective="safety", value=2.0))
    assert (
        "2 judges scored safety: b (labelled none), rules (labelled all); choose one"
        in watch(two, "--baseline", "S")[2]
    )
    # The looks of before are in the state, with their relation.
    document = json.loads(watch(run, "--baseline", "S", "--state", tmp_path / "state.json", "--json")[1])
    assert document["labelled"] == "all"


def test_a_drop_without_drift_is_the_models(watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"S": 3.0, "H1": 0.0}, rollouts=1)
    file = write_rules(tmp_path)
    rescore(run, "by_rules", write_named(tmp_path, "by_rules"))
    code, out, err = watch(
        run,
        "--baseline",
        "S",
        "--judge",
        "by_rules",
        "--judges",
        write_named(tmp_path, "by_rules"),
        "--frozen",
        "20",
        "--json",
    )
    (look,) = json.loads(out)["looks"]
    assert code == 0 and look["judge_drift"]["change"] == 0.0 and look["attributable"], err
    # Rules that changed are another judge, which tells nothing of a drift.
    file.write_text(RULES.replace("judges.rules", "judges.by_rules").replace("value = 0", "value = 1"))
    code, _, err = watch(run, "--baseline", "S", "--judge", "by_rules", "--judges", file, "--frozen", "20")
    assert code == 2 and "judges 'safety' by other rules now" in err


def write_named(folder: Path, name: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(
        RULES.replace("judges.rules.rules", f"judges.{name}.rules").replace("[judges.rules]", f"[judges.{name}]")
    )
    return path


def test_a_baseline_that_its_score_chose_pays_for_it(tmp_path: Path, watch: Watch) -> None:
    run = write_run(tmp_path / "run", {"S": 2.5, "H1": 2.5})
    code, out, _ = watch(run, "--baseline", "S")
    assert code == 0 and "holds for a baseline that was not chosen by these scores" in " ".join(out.split())
    code, chosen, _ = watch(run, "--baseline", "S", "--best-of", "5", "--json")
    document = json.loads(chosen)
    assert code == 0 and document["best_of"] == 5 and document["declared"]["best of"] == 5
    assert document["looks"][0]["level"] == pytest.approx(0.05 / 5 / 2)
    assert any("the best of 5 by these scores" in words for words in document["sentences"])


def test_bounds_of_a_chosen_baseline_hold_and_those_of_one_that_is_not_told_do_not() -> None:
    """Sixty cases, ten looks, nothing changes: the level is spent on 'lower' too."""
    told = minor.false_lower(5, 12, 150, told=True, looks=4)
    assert told <= 1 / 12
