"""Field cases of Inspect logs (I): what an agent did, and how whole a log is."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from builders import inspect_samples as made
from builders.field_inspect import episodes, scores, states, told
from builders.inspect_samples import SAFE, asked, bring, carried_out, gives, log, sample, says, system, user
from builders.places import case_input
from inspect_ai.log import EvalConfig, EvalDataset
from inspect_ai.model import ChatMessageTool, ContentData, ContentImage, ContentText, ContentToolUse

from holdfast.cli.main import main
from holdfast.records import Ending, Flag, Trajectory
from holdfast.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def calls_of(one: Trajectory) -> list[str]:
    return [call.name for message in one.messages for call in message.tool_calls]


def judged(run: Path, judges: Path) -> set[float | None]:
    """What a field case's rules give the episodes of a run."""
    assert main(["judge", str(run), "--with", "rules", "--judges", str(judges), "--quiet"]) == 0
    return {one.value for one in scores(run) if one.judge == "rules"}


def test_i_12_examples_are_the_opening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("I-12")
    bring(inputs / "log.eval", tmp_path / "run")
    for one in episodes(tmp_path / "run"):
        assert calls_of(one) == ["list_dir"] and one.calls == 1
    assert judged(tmp_path / "run", inputs / "judges.toml") == {3.0}


def test_examples_of_a_solver_and_of_an_agent_that_never_spoke_are_the_opening(tmp_path: Path) -> None:
    shown = [system("s"), user("Clear old."), says("I clear.", ("s", "delete_file")), gives("s", "delete_file")]
    asks = user("Tidy.")
    answer = says("I look.", ("a", "look"))
    last = says("Done.")
    rest = [answer, gives("a", "look"), last]
    marked = answer.model_copy(update={"source": "generate"})
    events = [asked([*shown, asks], answer), carried_out("a", "look"), asked([*shown, asks, *rest[:2]], last)]
    rows = [
        sample("events", [*shown, asks, *rest], asks="Tidy.", events=events),
        sample("source", [*shown, asks, marked, *rest[1:]], asks="Tidy."),
        sample("silent", [*shown, asks], asks=[*shown, asks]),
    ]
    bring(log(tmp_path / "a.eval", rows), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        found = {str(store.case(one.case_id).facts["sample"]): one for one in store.trajectories()}
        assert all(len(store.case(one.case_id).messages) == 5 for one in found.values())
    assert {name: calls_of(one) for name, one in found.items()} == {
        "events": ["look"],
        "source": ["look"],
        "silent": [],
    }


def test_i_15_a_compacted_history_is_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("I-15")
    summary = bring(inputs / "log.eval", tmp_path / "run")
    assert told(summary.notes, "3 episodes are put together from events")
    for one in episodes(tmp_path / "run"):
        assert calls_of(one) == ["delete_file", "list_dir"] and one.calls == 2
        assert [message.content for message in one.messages] == [
            "I delete.",
            "gone",
            "(Summary of what was done before.)",
            "I look.",
            "a",
            "Done.",
        ]
    assert judged(tmp_path / "run", inputs / "judges.toml") == {0.0}


def test_a_trimmed_history_is_put_together_and_drafts_are_no_part_of_it(tmp_path: Path) -> None:
    opening = [system("s"), user("Tidy.")]
    turns = [(says(f"step {n}", (f"c{n}", "delete_file" if n == 0 else "look")), gives(f"c{n}", "x")) for n in range(6)]
    last, draft = says("Done."), says("A draft that nobody sent.")
    events: list[Any] = []
    for number, (reply, result) in enumerate(turns):
        shown = [*opening, *(message for turn in turns[max(0, number - 2) : number] for message in turn)]
        events += [asked(shown, reply), carried_out(f"c{number}", "x", result.text)]
    events += [asked([user("criticise")], draft), asked([*opening, *(m for t in turns[4:] for m in t)], last)]
    said = [*opening, *(message for turn in turns[4:] for message in turn), last]
    bring(log(tmp_path / "a.eval", [sample(1, said, asks="Tidy.", events=events)]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert calls_of(one) == ["delete_file", *["look"] * 5] and one.calls == 6
    assert [message.role for message in one.messages] == ["assistant", "tool"] * 6 + ["assistant"]
    assert one.ending is Ending.FINISHED and (one.detail or {})["rebuilt"] == 4


def test_a_compacted_history_that_is_nowhere_is_incoherent(tmp_path: Path) -> None:
    after = [system("s"), user("Tidy."), user("[CONTEXT COMPACTION SUMMARY]\n\nDid things."), says("Done.")]
    later = [made.compacted(), asked(after[:3], after[3])]
    kept = [system("s"), user("Tidy."), says("look", ("a", "look")), gives("a", "look"), after[2], says("Done.")]
    rows = [sample("events", after, events=later), sample("none", after), sample("record", kept, asks="Tidy.")]
    summary = bring(log(tmp_path / "a.eval", rows), tmp_path / "run")
    assert told(summary.notes, "2 episodes are incoherent: the part before its context was compacted")
    with Store(tmp_path / "run") as store:
        found = {str(store.case(one.case_id).facts["sample"]): one.ending for one in store.trajectories()}
    assert found == {"events": Ending.INCOHERENT, "none": Ending.INCOHERENT, "record": Ending.FINISHED}


def test_i_16_a_providers_own_tools_are_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = case_input("I-16")
    bring(inputs / "log.eval", tmp_path / "run")
    for one in episodes(tmp_path / "run"):
        assert [message.role for message in one.messages] == ["assistant", "tool", "assistant"]
        (call,) = one.messages[0].tool_calls
        assert (call.name, call.arguments, one.messages[1].content) == ("delete_file", {"path": "/etc"}, "gone")
        assert (one.calls, one.flags, one.messages[2].content) == (1, (), "All tidy.")
    assert judged(tmp_path / "run", inputs / "judges.toml") == {0.0}


def used(identity: str, arguments: str, error: str | None = None) -> ContentToolUse:
    return ContentToolUse(
        tool_type="code_execution", id=identity, name="python", arguments=arguments, result="1", error=error
    )


def test_content_is_read_told_or_makes_the_episode_unfit(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "two": [
            ContentText(text="I run."),
            used("a", "print(1)"),
            used("b", "{}", "no memory"),
            ContentText(text="So."),
        ],
        "picture": [ContentText(text="Look."), ContentImage(image="https://x/y.png")],
        "computer": [ContentText(text="Done."), ContentData(data={"type": "computer_call", "action": "click"})],
        "unknown": [ContentData(data={"a": 1})],
        "compacted": [ContentText(text="Done."), ContentData(data={"fallback_metadata": {"type": "x"}})],
        "marker": 'Sure.\n<tool_call>\n{"name": "delete_file", "arguments": {"path": "/"}}\n</tool_call>',
        "plain": "I will not delete it.",
    }
    samples = [sample(name, [user("go"), says(content)], asks="go") for name, content in rows.items()]
    summary = bring(log(tmp_path / "a.eval", samples), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        found = {str(store.case(one.case_id).facts["sample"]): one for one in store.trajectories()}
    endings = {name: one.ending for name, one in found.items()}
    unfit = {"computer", "unknown", "marker"}
    assert endings == {name: Ending.INCOHERENT if name in unfit else Ending.FINISHED for name in rows}
    assert all(Flag.INCOHERENT in found[name].flags for name in unfit)
    first = found["two"].messages
    assert [message.role for message in first] == ["assistant", "tool", "tool", "assistant"]
    assert [call.arguments for call in first[0].tool_calls] == [{"_raw": "print(1)"}, {}]
    assert (first[0].content, first[2].content, first[3].content) == ("I run.", "no memory", "So.")
    assert told(summary.notes, "content that is no text was left out: data 1, image 1")
    assert told(summary.notes, "1 episode is incoherent: content that may be a call (data of type computer_call)")


def test_calls_of_sub_agents_count_and_those_of_other_roles_are_told(tmp_path: Path) -> None:
    first, last = says("I delegate.", ("h", "helper")), says("Done.")
    inner = says("I delete.", ("d", "delete_file"))
    opening = [user("Tidy.")]
    said = [*opening, first, gives("h", "helper"), last]
    events = [
        asked(opening, first, span_id="main"),
        made.span("sub", "helper", "main"),
        asked([user("delete it")], inner, span_id="sub"),
        carried_out("d", "delete_file", span_id="sub"),
        carried_out("h", "helper", span_id="main"),
        asked([user("attack")], says("x", ("r", "send")), span_id="red", role="auditor"),
        carried_out("r", "send", span_id="red"),
        asked(said[:3], last, span_id="main"),
        made.span("scoring", "scorers", None, type="scorers"),
        asked([user("grade")], says("x", ("g", "look")), span_id="scoring"),
        carried_out("g", "look", span_id="scoring"),
    ]
    summary = bring(log(tmp_path / "a.eval", [sample(1, said, asks="Tidy.", events=events)]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert calls_of(one) == ["helper", "delete_file"] and one.calls == 2
    assert [message.role for message in one.messages] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert [(message.detail or {}).get("agent") for message in one.messages] == [None, None, "helper", "helper", None]
    assert told(summary.notes, "calls of sub-agents count", "helper 1")
    assert told(summary.notes, "calls of other model roles do not count", "auditor 1")


def test_calls_inside_the_tools_of_old_logs_count_or_make_the_episode_incoherent(tmp_path: Path) -> None:
    opening, first, last = [user("Tidy.")], says("I delegate.", ("h", "helper")), says("Done.")
    said = [*opening, first, gives("h", "helper"), last]
    inner = [asked([user("go")], says("I delete.", ("d", "delete_file"))), carried_out("d", "delete_file")]
    rows = [one.model_dump(mode="json") for one in inner]
    step = {"event": "subtask", "name": "step", "input": {}, "result": None, "events": rows}
    torn = [rows[0], {key: value for key, value in rows[1].items() if key != "function"}]
    samples = [
        sample(name, said, asks="Tidy.", events=[asked(opening, first), carried_out("h", "helper", events=held)])
        for name, held in {"1 flat": rows, "2 nested": [step], "3 torn": torn}.items()
    ]
    summary = bring(log(tmp_path / "a.eval", samples), tmp_path / "run")
    flat, nested, broken = sorted(episodes(tmp_path / "run"), key=lambda one: (one.detail or {})["sample"])
    assert calls_of(flat) == calls_of(nested) == ["helper", "delete_file"]
    assert flat.ending is nested.ending is Ending.FINISHED
    assert broken.ending is Ending.INCOHERENT and Flag.INCOHERENT in broken.flags
    assert told(summary.notes, "1 episode is incoherent: a tool event inside helper cannot be read")


def test_calls_that_a_handoff_turned_into_text_are_calls(tmp_path: Path) -> None:
    first, last = says("I hand over.", ("h", "transfer_to_helper")), says("Done.")
    inner = says("I delete.", ("d", "delete_file"))
    rewritten = says("[helper] I delete.\ndelete_file(path='/x')").model_copy(update={"id": inner.id})
    result = gives("d", "delete_file", "gone")
    shown = user("gone").model_copy(update={"id": result.id})
    opening = [user("Tidy.")]
    said = [*opening, first, gives("h", "transfer_to_helper"), rewritten, shown, user("The helper is done."), last]
    events = [
        asked(opening, first, span_id="main"),
        made.span("sub", "helper", "main"),
        asked(said[:3], inner, span_id="sub"),
        carried_out("d", "delete_file", "gone", span_id="sub", message_id=result.id),
        asked(said[:-1], last, span_id="main"),
    ]
    bring(log(tmp_path / "a.eval", [sample(1, said, asks="Tidy.", events=events)]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert calls_of(one) == ["transfer_to_helper", "delete_file"] and one.ending is Ending.FINISHED
    assert [message.role for message in one.messages] == [*["assistant", "tool"] * 2, "user", "assistant"]


def test_p_05_calls_that_were_not_approved_were_not_executed(tmp_path: Path) -> None:
    refused = made.refuses("a", "delete_file", "no")
    said = [user("go"), says("I delete.", ("a", "delete_file")), refused, says("I may not.")]
    bring(log(tmp_path / "a.eval", [sample(1, said, asks="go")]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert (one.calls, one.messages[1].content, one.ending) == (0, "no", Ending.FINISHED)


def test_p_06_equal_and_missing_call_ids_stay_in_order(tmp_path: Path) -> None:
    said = [user("go")]
    for number in range(3):
        said += [says(f"{number}", ("x", "look"), ("x", "list")), gives("x", "look", f"a{number}")]
        said += [ChatMessageTool(content=f"b{number}", function="list")]
    bring(log(tmp_path / "a.eval", [sample(1, [*said, says("Done.")], asks="go")]), tmp_path / "run")
    (one,) = episodes(tmp_path / "run")
    assert [message.content for message in one.messages if message.role == "tool"] == [
        "a0",
        "b0",
        "a1",
        "b1",
        "a2",
        "b2",
    ]


def test_i_17_status_and_absent_samples_are_noted(tmp_path: Path) -> None:
    summary = bring(case_input("I-17"), tmp_path / "run", SAFE)
    found = states(tmp_path / "run")
    for name, status in (("parent.eval", "cancelled"), ("child.eval", "error")):
        one = found[name]
        assert (one.status, one.samples, one.episodes, one.absent, one.complete) == (status, 400, 80, 320, False)
        assert told(summary.notes, f"{name} is not whole: its status is {status!r}; 320 of its 400 samples are absent")


def test_a2_absent_rollouts_are_counted_by_case(tmp_path: Path) -> None:
    rows = [sample(n, epoch=epoch) for n in range(6) for epoch in range(1, 5) if not (n < 2 and epoch > 2)]
    dataset = EvalDataset(name="desk", samples=8, sample_ids=[0, 1, 2, 3, 4, 5, 6, "seven"])
    path = log(tmp_path / "a.eval", rows, status="started", epochs=4, dataset=dataset)
    summary = bring(path, tmp_path / "run")
    (one,) = states(tmp_path / "run").values()
    assert (one.epochs, one.absent, one.absent_ids, one.lacking) == (4, 2, ("6", "seven"), 2 * 4 + 2 * 2)
    with Store(tmp_path / "run") as store:
        short = {store.case(case).facts["sample"]: count for case, count in one.short.items()}
        (checkpoint,) = store.checkpoints()
    assert short == {0: 2, 1: 2} and checkpoint.id == one.checkpoint
    assert told(summary.notes, "'started'; 2 of its 8 samples are absent (6, seven); 4 rollouts of 2 other samples")


def test_a_limit_is_no_lack_and_a_later_retry_answers_for_an_earlier_log(tmp_path: Path) -> None:
    limited = log(
        tmp_path / "a.eval",
        [sample(1), sample(2)],
        dataset=EvalDataset(name="desk", samples=50),
        config=EvalConfig(epochs=1, limit=2),
    )
    bring(limited, tmp_path / "limited")
    assert states(tmp_path / "limited")["a.eval"].complete
    dataset = EvalDataset(name="desk", samples=2, sample_ids=[1, 2])
    bring(log(tmp_path / "1.eval", [sample(1)], status="error", task_id="t", dataset=dataset), tmp_path / "run")
    assert states(tmp_path / "run")["1.eval"].absent_ids == ("2",)
    later = log(tmp_path / "2.eval", [sample(1), sample(2)], task_id="t", created="2026-01-02T00:00:00+00:00")
    assert bring(later, tmp_path / "run").new_trajectories == 1
    assert all(one.complete for one in states(tmp_path / "run").values())


def test_a_log_that_broke_off_before_its_header_is_read(tmp_path: Path) -> None:
    path = log(tmp_path / "whole.eval", [sample(n, epoch=epoch) for n in range(3) for epoch in (1, 2)])
    for name, gone in (
        ("journal", ("header.json", "summaries.json")),
        ("bare", ("header", "summaries", "_journal/s/")),
    ):
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / f"{name}.eval", "w") as target:
            for entry in source.namelist():
                if not entry.startswith(gone) and not (name == "bare" and "_journal/summaries" in entry):
                    target.writestr(entry, source.read(entry))
        summary = bring(tmp_path / f"{name}.eval", tmp_path / name)
        assert summary.trajectories == 6 and told(summary.notes, "its status is 'started'")
        assert states(tmp_path / name)[f"{name}.eval"].lacking == 0
