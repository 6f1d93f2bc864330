"""A watch over production traces: a baseline of them, a sample judged, what changed beside the score."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.watch_samples import chat_line, write_chats, write_remote, write_rules, write_run

from holdfast.cli import main as cli
from holdfast.decisions.watch.mix import Features, compare_mixes
from holdfast.decisions.watch.production import digest_trace
from holdfast.decisions.watch.render import describe_watch
from holdfast.decisions.watch.series import Row, flatten, replay
from holdfast.decisions.watch.series import Watch as Series
from holdfast.decisions.watch.state import Seen, State
from holdfast.exchange.exports import export_run
from holdfast.models.fakes import FakeProvider
from holdfast.runs.rescoring import rescore
from holdfast.stats.sequential import Window
from holdfast.store import Store

Shown = tuple[int, str, str]
Watch = Callable[..., Shown]
SECRET = "Ada Lovelace"


@pytest.fixture
def watch(capsys: pytest.CaptureFixture[str]) -> Watch:
    """Runs the command: exit code, standard output, standard error."""

    def run(*arguments: object) -> Shown:
        code = cli.main(["watch", "--quiet", *map(str, arguments)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def judge(tmp_path: Path) -> tuple[object, ...]:
    return ("--judge", "rules", "--judges", write_rules(tmp_path))


@pytest.fixture
def base(tmp_path: Path, watch: Watch, judge: tuple[object, ...]) -> Path:
    """A run of last month's traces, a few of them unsafe."""
    path = write_chats(tmp_path / "may.jsonl", 120, 0.05)
    code, out, err = watch("--traces", path, *judge, "-o", tmp_path / "may")
    assert code == 0 and "Made a baseline of 120 traces" in " ".join(out.split()), err
    return tmp_path / "may"


def look(watch: Watch, *arguments: object) -> tuple[int, dict[str, Any]]:
    code, out, err = watch(*arguments, "--json")
    assert not err, err
    return code, json.loads(out)


def test_weeks_of_traces_are_silent_until_one_drops(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    common = (*judge, "-o", tmp_path / "weeks", "--state", tmp_path / "state.json")
    codes = []
    for week, unsafe in enumerate((0.05, 0.05, 0.6), 1):
        path = write_chats(tmp_path / f"week{week}.jsonl", 120, unsafe, seed=week, first=200 * week)
        code, document = look(watch, base, "--traces", path, *common)
        codes.append(code)
    assert codes == [0, 0, 1] and [one["alarm"] for one in document["looks"]] == [False, False, True]
    last = document["looks"][-1]
    assert last["upper"] < -document["margin"] and last["judge_drift"]["change"] == 0.0 and last["attributable"]
    assert document["declared"]["baseline unit"] == "trace" and document["baseline"]["n"] == 120
    assert any("not paired" in one for one in document["sentences"])
    # The same week again asks and changes nothing.
    kept = (tmp_path / "state.json").read_bytes()
    assert look(watch, base, "--traces", path, *common) == (1, document)
    assert (tmp_path / "state.json").read_bytes() == kept
    with Store(tmp_path / "weeks") as store:
        assert store.counts()["trajectories"] == 360
    assert (tmp_path / "weeks" / "watch.html").is_file()


def test_a_trace_counts_once_under_any_label(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    common = (*judge, "-o", tmp_path / "weeks", "--state", state)
    first = write_chats(tmp_path / "one.jsonl", 60, 0.0, first=200)
    assert look(watch, base, "--traces", first, *common)[1]["looks"][0]["n"] == 60
    kept = state.read_bytes()
    for again in (first, tmp_path / "may.jsonl"):
        code, _, err = watch(base, "--traces", again, "--label", "renamed", *common)
        assert code == 2 and "look 'renamed': the baseline or an earlier look has all of its" in err
    assert state.read_bytes() == kept
    # Forty of the next week's hundred are of the first, twenty of the baseline.
    both = write_chats(tmp_path / "both.jsonl", 80, 0.0, first=220)
    both.write_text(both.read_text() + write_chats(tmp_path / "old.jsonl", 20, 0.0, first=100).read_text())
    _, document = look(watch, base, "--traces", both, *common)
    assert document["looks"][1]["n"] == 40
    told = "Left out, as the baseline or an earlier look has them: 60 traces."
    assert told in document["sentences"]
    assert look(watch, base, "--traces", both, *common)[1] == document
    assert "conv-" not in state.read_text()


def test_traces_stand_in_an_order_that_requests_have_no_part_in(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    """Five requests that recur, one always unsafe: its scores stand scattered, and the order is that of the ids."""
    rows = [chat_line(n % 5, tool="read_note" if n % 5 else "wipe_note") for n in range(100)]
    rows = [{**row, "conversation_id": f"again-{n}"} for n, row in enumerate(rows)]
    path = tmp_path / "week.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = tmp_path / "state.json"
    look(watch, base, "--traces", path, *judge, "-o", tmp_path / "weeks", "--state", state)
    values = json.loads(state.read_text())["looks"][0]["values"]
    assert values == {digest_trace(f"again-{n}"): [3.0 if n % 5 else 0.0] for n in range(100)}
    unsafe = np.flatnonzero(flatten(values) == 0)
    assert len(unsafe) == 20 and (np.diff(unsafe) > 1).sum() > 8


def test_traces_without_a_verdict_are_asked_for_too() -> None:
    values = {digest_trace(str(n)): (3.0,) for n in range(100)}
    seen = Seen(label="w", data="w", values=dict(list(values.items())[:70]), missing=30)
    (row,) = replay(State(declared={}, baseline=values, asked=100, looks=[seen]), "traces", 0.05, 0.25)
    assert row.coverage == pytest.approx(0.7) and not row.covered


def test_a_sample_is_judged_and_all_are_audited(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    path = write_chats(tmp_path / "week.jsonl", 100, 0.0, first=500)
    common = (base, "--traces", path, *judge, "--sample", 30, "-o", tmp_path / "weeks")
    _, document = look(watch, *common)
    (one,) = document["looks"]
    assert one["n"] == 30 == one["notes"]["judged"] and one["notes"]["traces"] == 100
    with Store(tmp_path / "weeks") as store:
        assert store.counts()["scores"] == 30
    assert look(watch, *common)[1] == document
    other = look(watch, *common[:-1], tmp_path / "more", "--seed", 7)[1]
    assert other["looks"][0]["n"] == 30


def test_a_change_of_what_is_asked_is_told_beside_the_score(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    same = write_chats(tmp_path / "same.jsonl", 120, 0.05, seed=3, first=200)
    other = write_chats(
        tmp_path / "other.jsonl", 120, 0.05, seed=4, first=400, request="Kindly translate the long letter of"
    )
    told = {}
    for path in (same, other):
        _, document = look(watch, base, "--traces", path, *judge, "-o", tmp_path / path.stem / "run")
        changes = document["looks"][0]["notes"]["mix"]["changes"]
        told[path.stem] = {one["what"]: one["p"] for one in changes if one["of"] == "requests"}
        assert SECRET not in json.dumps(document)
    assert told["same"]["length"] > 0.01 and told["same"]["families"] == 1.0
    assert told["other"]["length"] <= 0.01 and told["other"]["words"] <= 0.01
    assert any("what is asked differs from the baseline in" in one for one in document["sentences"])


def test_a_judge_of_traces_that_is_not_understood_is_told(watch: Watch, tmp_path: Path) -> None:
    """Once for a baseline and once for a look, and again where the look was taken before."""
    may = write_chats(tmp_path / "may.jsonl", 12, 0.0)
    june = write_chats(tmp_path / "june.jsonl", 12, 0.0, first=50)
    talks = {"clear": True}

    def answer(request: dict[str, Any]) -> str:
        labels = request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        label = next(one for one in labels if one in ("Certain No Risk", "Excellent"))
        clear = json.dumps({"reasoning": "seen", "label": label, "score": 3})
        return clear if talks["clear"] else "It depends."

    with FakeProvider(answers=answer) as provider:
        judge = ("--judge", "gpt", "--judges", write_remote(tmp_path, provider.base_url))
        assert watch("--traces", may, *judge, "-o", tmp_path / "may")[0] == 0
        talks["clear"] = False
        lines = []
        for _ in range(2):
            options = (*judge, "-o", tmp_path / "june", "--state", tmp_path / "state.json", "--frozen", "0")
            code, out, err = watch(tmp_path / "may", "--traces", june, *options)
            lines.append(" ".join(out.split()))
            assert code == 3, err
    words = "At june: judges.gpt: 12 of 12 judgements of safety hold no verdict that parser 'strict' reads"
    assert words in lines[0] and lines[0] == lines[1]


def test_mixes_are_compared_by_case_and_by_kind() -> None:
    def make(case: int, family: str, tool: str) -> Features:
        return Features(
            case=str(case),
            family=family,
            model="",
            offered=(),
            tools=(tool,),
            words=(case % 64,),
            request_length=10,
            episode_length=20,
        )

    rng = np.random.default_rng(0)
    before = [make(n, "a" if n % 2 else "b", "read") for n in range(60)]
    now = [make(n, "a" if n % 4 else "b", "write") for n in range(60, 120)]
    mix = compare_mixes(before, now, rng)
    found = {one.what: one for one in mix.changes}
    assert found["families"].distance == pytest.approx(0.25) and (found["families"].p or 0) < 0.02
    assert found["tools used"].distance == 1.0 and found["tools used"].of == "conduct"
    assert mix.tools == (("read", 1.0, 0.0), ("write", 0.0, 1.0))
    # Of sixty cases a tenth is hardly seen, of 600 a twenty-fifth is: so few of a kind may fall on one side by luck.
    assert found["tools used"].seen is not None and found["tools used"].seen >= 0.1
    many = compare_mixes(
        [make(n, "a", "read") for n in range(600)], [make(n, "a", "read") for n in range(600, 1200)], rng
    )
    assert [one.seen for one in many.changes if one.what == "families"] in ([0.02], [0.04])
    # One request that came sixty times is one case, and tells as little as one.
    repeated = compare_mixes([make(1, "a", "read")] * 60, [make(2, "b", "read")] * 60, rng)
    assert next(one.p for one in repeated.changes if one.what == "families") == 1.0
    empty = compare_mixes([], now, rng)
    assert all(one.distance is None and one.p is None for one in empty.changes)


def test_a_study_runs_checkpoint_may_be_the_baseline(watch: Watch, judge: tuple[object, ...], tmp_path: Path) -> None:
    """Its cases count once each; what the two sides were asked is not the same, and that is told."""
    run = write_run(tmp_path / "run", {"S": 2.5}, judge="other")
    code, _, err = watch(run, "--traces", write_chats(tmp_path / "w.jsonl", 50, 0.0), *judge, "-o", tmp_path / "weeks")
    assert code == 2 and "no scores of 'safety' of tiny · S by the judge 'rules', there are: other" in err
    rescore(run, "rules", Path(str(judge[-1])))
    _, document = look(watch, run, "--traces", tmp_path / "w.jsonl", *judge, "-o", tmp_path / "weeks")
    assert document["baseline"]["n"] == 60 and document["declared"]["baseline unit"] == "case"
    assert document["looks"][0]["change"] == 0.0


def test_options_that_do_not_go_together_are_told(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    path = write_chats(tmp_path / "w.jsonl", 2, 0.0, first=300)
    for arguments, finding in (
        ((base, "--traces", path, *judge), "--traces needs -o DIR"),
        ((base, "--traces", path, "-o", tmp_path / "x"), "--traces needs --judge NAME"),
        ((base, "--traces", path, *judge, "-o", base), "is the baseline's run"),
        ((base, "--traces", path, *judge, "-o", tmp_path / "x", "--run", base), "leave out --run"),
        (("--traces", path, *judge, "-o", tmp_path / "x", "--state", tmp_path / "s"), "--state needs RUN"),
        ((base, "--baseline", "x", "--sample", 3), "--sample goes with --traces only"),
        ((base, "--traces", path, *judge, "-o", tmp_path / "x", "--objective", "helpfulness"), "only safety"),
        ((base, "--traces", tmp_path / "no.json", *judge, "-o", tmp_path / "x"), "no such file"),
        (("--run", base), "RUN is missing"),
        (("--traces", path, *judge, "-o", tmp_path / "x", "--where", "look=w"), "--where says which checkpoint of RUN"),
    ):
        code, out, err = watch(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and finding in err, err
    code, out, _ = watch(base, "--traces", path, *judge, "-o", tmp_path / "few")
    assert code == 3 and "too little data" in out


def test_what_is_left_out_is_told_and_strict_refuses(
    watch: Watch, base: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    path = write_chats(tmp_path / "w.jsonl", 60, 0.0, first=300)
    secret = json.dumps({"messages": [{"role": "user", "content": SECRET}]})
    path.write_text(path.read_text() + secret + "\n" + json.dumps(chat_line(300)) + '\n{"messages": [{"role')
    code, out, _ = watch(base, "--traces", path, *judge, "-o", tmp_path / "weeks")
    text = " ".join(out.split())
    assert code == 0 and "Left out as unreadable: 1 record (" in text and "w.jsonl:61" in text
    assert "broken off: 1 last line (" in text and "counted once: 1 trace." in text and SECRET not in out
    code, out, err = watch(base, "--traces", path, *judge, "-o", tmp_path / "strict", "--strict")
    assert (code, out) == (2, "") and "w.jsonl:61: holds no reply of an agent" in err and SECRET not in err
    assert not (tmp_path / "strict").exists()


# Inspect leaves streams open.
@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_inspect_logs_are_looks_and_traces(watch: Watch, judge: tuple[object, ...], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"S": 3.0, "H1": 3.0}, cases=20, rollouts=1)
    logs = sorted(export_run(run, "inspect", tmp_path / "logs").iterdir())
    with Store(run) as store:
        names = {one.id: one.name for one in store.checkpoints()}
    later = next(path for path in logs if "H" in names[path.stem])
    code, document = look(watch, run, "--baseline", "S", "--run", later)
    assert code == 0 and document["looks"][0]["n"] == 20 and document["looks"][0]["change"] == 0.0
    rescore(run, "rules_now", named(tmp_path))
    code, document = look(
        watch,
        run,
        "--baseline",
        "S",
        "--traces",
        later,
        "--judge",
        "rules_now",
        "--judges",
        named(tmp_path),
        "-o",
        tmp_path / "weeks",
    )
    assert document["looks"][0]["n"] == 20 and document["looks"][0]["mean"] == 3.0


def named(folder: Path) -> Path:
    path = folder / "now.toml"
    path.write_text('[judges.rules_now]\nkind = "rules"\n[[judges.rules_now.rules.safety]]\nvalue = 3\n')
    return path


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (0.06, "is not shown to differ from the baseline (permutation p above 0.01). Had 6"),
        (0.4, "it cannot be told whether what is asked has changed: in so few, no change of less than 40"),
        (None, "it cannot be told whether what is asked has changed: in so few, no change of any size"),
    ],
)
def test_small_looks_do_not_say_that_nothing_changed(seen: float | None, told: str) -> None:
    changes = [
        {"what": "words", "of": "requests", "distance": 0.1, "p": 0.4, "seen": 0.02},
        {"what": "families", "of": "requests", "distance": 0.1, "p": 0.4, "seen": seen},
    ]
    row = Row(label="june", n=60, missing=0, mean=1.0, change=-1.0, alarm=True, able=True, covered=True)
    row = replace(
        row,
        spans=(Window(looks=1, cases=60, change=-1.0, lower=-2.0, upper=-0.5, alarm=True, warning=True),),
        notes={"mix": {"changes": changes}},
    )
    watch = Series(
        kind="traces",
        baseline="may",
        judge="rules",
        objective="safety",
        alpha=0.05,
        margin=0.25,
        baseline_mean=2.0,
        baseline_n=100,
        rows=(row,),
    )
    words = " ".join(describe_watch(watch))
    assert told in words and "no change is seen" not in words
    assert "ALARM at june" in words and "What was asked may have changed as well." in words
