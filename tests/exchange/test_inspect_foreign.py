"""Logs of other agents as a run: what is read of them, and what is refused."""

from __future__ import annotations

import itertools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.inspect_runs import counts, episodes, look, run_here, spoken
from builders.places import copy_run
from inspect_ai import Task
from inspect_ai.agent import as_tool, handoff, react
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    CompactionSummary,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import Score as InspectScore
from inspect_ai.solver import generate as generate_once
from inspect_ai.solver import use_tools
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolCallError, tool

import holdfast as hf
from holdfast.exchange.imports import import_run
from holdfast.exchange.inspect.samples import read_own_score, to_score
from holdfast.exchange.scales import parse_score
from holdfast.records import Ending, Flag, Message, Score, Trajectory
from holdfast.store import Store

pytestmark = [
    # Inspect leaves streams open when it has run a task in this process.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def looking(place: object, name: str = "look", number: int = 0) -> InspectCall:
    return InspectCall(id=f"k{number}", function=name, arguments={"place": place})


def played(folder: Path, answer: Callable[..., ModelOutput], name: str = "errand", **options: Any) -> EvalLog:
    """The log of an agent with one tool in two cases, played by Inspect itself."""
    task = Task(
        dataset=[Sample(id=number, input=f"find {number}", target="x") for number in (1, 2)],
        solver=[use_tools(look()), generate_once()],
        name=name,
    )
    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    return run_here(task, model=model, log_dir=str(folder), score=False, **options)


def looks_twice(messages: list[Any], *_: Any) -> ModelOutput:
    if messages[-1].role == "user":
        return spoken("I look.", looking("cellar"), looking(3, "smell", 1))
    return spoken("There is nothing.")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of another agent, two epochs of two cases."""
    folder = tmp_path_factory.mktemp("foreign")
    log = played(folder, looks_twice, epochs=2)
    assert log.status == "success"
    (folder / "notes.json").write_text('{"mine": 1}')
    (folder / "readme.txt").write_text("x")
    return folder


def test_another_agents_log_becomes_trajectories(foreign: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = import_run(foreign, run)
    assert (summary.files, summary.ignored, summary.checkpoints, summary.cases) == (1, 2, 1, 2)
    assert (summary.trajectories, summary.new_trajectories, summary.scores) == (4, 4, 0)
    with Store(run) as store:
        (checkpoint,) = store.checkpoints()
        assert (checkpoint.base, checkpoint.model) == ("mockllm/model (errand)", "mockllm/model")
        cases = store.cases()
        assert [case.messages for case in cases] == [(Message(role="user", content=f"find {n}"),) for n in (1, 2)]
        assert [case.number for case in cases] == [0, 1] and {case.suite for case in cases} == {"errand"}
        (shown,) = cases[0].tools
        assert (shown.name, shown.parameters["required"]) == ("look", ["place"])
        made = list(store.trajectories())
    assert {(one.case_id, one.rollout) for one in made} == {(case.id, n) for case in cases for n in (0, 1)}
    for one in made:
        assert one.ending is Ending.FINISHED and (one.calls, one.invalid_calls, one.tokens) == (1, 1, 8)
        assert one.flags == (Flag.INVALID_CALL,)
        first, *results, last = one.messages
        assert [(call.name, call.arguments, call.id) for call in first.tool_calls] == [
            ("look", {"place": "cellar"}, "k0"),
            ("smell", {"place": 3}, "k1"),
        ]
        assert [message.name for message in results] == ["look", "smell"]
        assert results[0].content == "cellar: nothing" and "smell" in results[1].content
        assert results[1].detail == {"error": "parsing"} and last.content == "There is nothing."
    again = import_run(foreign, run)
    assert (again.trajectories, again.new_trajectories, again.cases) == (4, 0, 2) and counts(run)["trajectories"] == 4


def test_a_log_as_json_says_the_same(foreign: Path, tmp_path: Path) -> None:
    import_run(foreign, tmp_path / "run")
    log = read_eval_log(str(next(foreign.glob("*.eval"))))
    write_eval_log(log, str(tmp_path / "log.json"))
    summary = import_run(tmp_path / "log.json", tmp_path / "run")
    assert (summary.trajectories, summary.new_trajectories) == (4, 0)
    assert import_run(tmp_path / "log.json", tmp_path / "other").new_trajectories == 4
    assert episodes(tmp_path / "other") == episodes(tmp_path / "run")


def test_limits_and_failures_end_episodes(tmp_path: Path) -> None:
    def never_done(messages: list[Any], *_: Any) -> ModelOutput:
        return spoken("again", looking("attic"))

    def fails(messages: list[Any], *_: Any) -> ModelOutput:
        if len(messages) > 1:
            raise RuntimeError("no connection")
        return spoken("I look.", looking("attic"))

    def cut(*_: Any) -> ModelOutput:
        return spoken("I was about to", stop="max_tokens")

    wanted = {
        "turns": (never_done, {"message_limit": 6}, Ending.TURN_LIMIT),
        "tokens": (never_done, {"token_limit": 40}, Ending.TOKEN_LIMIT),
        "failing": (fails, {"fail_on_error": False}, Ending.ERROR),
        "cut": (cut, {}, Ending.TRUNCATED),
    }
    for name, (answer, options, _) in wanted.items():
        played(tmp_path / "logs", answer, name, **options)
    import_run(tmp_path / "logs", tmp_path / "run")
    with Store(tmp_path / "run") as store:
        found = {store.case(one.case_id).suite: one for one in store.trajectories()}
        assert len(store.checkpoints()) == len(wanted)
    assert {name: one.ending for name, one in found.items()} == {name: row[2] for name, row in wanted.items()}
    assert found["failing"].flags == () and "no connection" in str((found["failing"].detail or {})["error"])
    assert Flag.LOOP not in found["failing"].flags and Flag.TRUNCATED in found["turns"].flags
    assert found["turns"].calls >= 2 and found["cut"].messages[-1].content == "I was about to"


def test_scores_come_in_where_they_are_declared_and_stay_detail_elsewhere(foreign: Path, tmp_path: Path) -> None:
    log = read_eval_log(str(next(foreign.glob("*.eval"))))
    assert log.samples is not None
    log.samples[0].scores = {
        "inspect_evals/judge": InspectScore(value=2, explanation="so so"),
        "match": InspectScore(value="C"),
        "both": InspectScore(value={"safety": 1.5, "helpfulness": True, "length": 812}),
        "unsure": InspectScore.unscored(reason="refused"),
        "essay": InspectScore(value="excellent"),
    }
    write_eval_log(log, str(tmp_path / "log.eval"))
    words = ("a=+judge[0,4]", "b=-match", "safety=+both:safety[0,3]", "helpfulness=+helpfulness[0,1]", "c=+unsure[0,1]")
    summary = import_run(tmp_path / "log.eval", tmp_path / "run", scores=[parse_score(word) for word in words])
    with Store(tmp_path / "run") as store:
        scored = next(one for one in store.trajectories() if (one.detail or {}).get("scores"))
        found = {(one.judge, one.objective): one for one in store.scores(scored.id)}
    # Each of the other three samples lacks the five values that this one has.
    assert (summary.scores, summary.missing) == (20, 16)
    values = {place: one.value for place, one in found.items()}
    assert values == {
        ("inspect:inspect_evals/judge", "a"): 1.5,
        ("inspect:match", "b"): 0.0,
        ("inspect:both", "safety"): 1.5,
        ("inspect:both", "helpfulness"): 3.0,
        ("inspect:unsure", "c"): None,
    }
    assert found["inspect:unsure", "c"].missing == "refused"
    assert (found["inspect:inspect_evals/judge", "a"].reply, found["inspect:match", "b"].label) == ("so so", "C")
    assert (scored.detail or {})["scores"]["both"] == {"safety": 1.5, "helpfulness": True, "length": 812}
    assert [note for note in summary.notes if "not taken" in note and "'length' of both: 1 value" in note]
    assert [note for note in summary.notes if note.startswith("essay: 1 value was not taken: no numbers")]


def test_a_score_of_ours_out_of_range_is_refused() -> None:
    score = to_score(Score(trajectory_id="t", judge="j", objective="safety", value=1.0))
    assert read_own_score(score, "t") == Score(trajectory_id="t", judge="j", objective="safety", value=1.0)
    score.value = 7.0
    with pytest.raises(ValueError, match=r"a score of j is 7\.0"):
        read_own_score(score, "t")


def damaged_zip(path: Path, out: Path, keep: Callable[[str], bool]) -> None:
    """The archive without some of its entries."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in filter(keep, source.namelist()):
            target.writestr(name, b"{}" if name.endswith("header.json") else b"[]")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "no header", "list", "number"])
def test_a_damaged_log_is_named_and_leaves_nothing(damage: str, foreign: Path, tmp_path: Path) -> None:
    whole = next(foreign.glob("*.eval"))
    folder = tmp_path / "logs"
    shutil.copytree(foreign, folder)
    bad = folder / ("zzz.json" if damage in ("list", "number") else "zzz.eval")
    data = whole.read_bytes()
    if damage == "cut":
        bad.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        middle = len(data) // 3
        bad.write_bytes(
            data[:middle] + bytes(255 - byte for byte in data[middle : middle + 400]) + data[middle + 400 :]
        )
    elif damage == "no header":
        damaged_zip(whole, bad, lambda name: "samples/" in name)
    else:
        texts = {"empty": "", "text": "no log\n", "list": '{"version": 2, "eval": []}', "number": '{"version": 2, "ev'}
        bad.write_text(texts[damage])
    with pytest.raises(hf.StudyError) as caught:
        import_run(folder, tmp_path / "deep" / "run")
    told = str(caught.value)
    assert told.startswith(f"{bad.resolve()}: not a readable Inspect log") or told.startswith(f"{bad}: not a readable")
    assert "\n" not in told and len(told) < 500 and told.endswith("leave it out")
    assert not (tmp_path / "deep").exists()


def test_what_is_no_log_is_refused(smoke_run: Path, foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(hf.StudyError, match="no such file or directory"):
        import_run(tmp_path / "absent.eval", tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.json").write_text("[]")
    with pytest.raises(hf.StudyError, match="no sample in 0 logs"):
        import_run(tmp_path / "other", tmp_path / "run")
    copy_run(smoke_run, tmp_path / "study")
    with pytest.raises(hf.StudyError, match="holds the run of a study; import into another directory"):
        import_run(foreign, tmp_path / "study")
    assert not (tmp_path / "run").exists() and counts(tmp_path / "study") == counts(smoke_run)


def test_content_that_cannot_be_kept_as_it_is_is_kept_as_text(foreign: Path, tmp_path: Path) -> None:
    log = read_eval_log(str(next(foreign.glob("*.eval"))))
    assert log.samples is not None
    first = log.samples[0]
    calls = [
        InspectCall(id="k0", function="look", arguments={"place": 2**70}),
        InspectCall(id="k1", function="look", arguments={}, parse_error="Error parsing: {place"),
    ]
    results: list[Any] = [
        ChatMessageTool(content="second", function="look", tool_call_id="k1"),
        ChatMessageTool(content="", function="look", tool_call_id="k0", error=ToolCallError("timeout", "too slow")),
    ]
    first.messages = [ChatMessageUser(content="go"), ChatMessageAssistant(content="", tool_calls=calls), *results]
    write_eval_log(log, str(tmp_path / "log.json"))
    import_run(tmp_path / "log.json", tmp_path / "run")
    with Store(tmp_path / "run") as store:
        (made,) = (one for one in store.trajectories() if "_raw" in one.messages[0].tool_calls[0].arguments)
    assert [call.arguments for call in made.messages[0].tool_calls] == [
        {"_raw": str({"place": 2**70})},
        {"_raw": "Error parsing: {place"},
    ]
    assert [message.content for message in made.messages[1:]] == ["too slow", "second"]
    assert made.messages[1].detail == {"error": "timeout"} and made.calls == 2


@tool
def delete_file() -> Any:
    async def execute(path: str) -> str:
        """Delete a file.

        Args:
            path: Which one.
        """
        return f"{path}: gone"

    return execute


def deletes(number: int) -> InspectCall:
    return InspectCall(id=f"d{number}", function="delete_file", arguments={"path": "/x"})


def submits(number: int) -> InspectCall:
    return InspectCall(id=f"s{number}", function="submit", arguments={"answer": "done"})


def acted(folder: Path, agent: Any, answer: Callable[..., ModelOutput]) -> Trajectory:
    """The episode of one of Inspect's own agents in one case, imported."""

    async def count(*arguments: Any, **_: Any) -> int:
        return 100 * len(arguments[0]) if arguments and isinstance(arguments[0], list) else 1

    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    # Inspect would fetch a tokenizer.
    for name in ("count_tokens", "count_text_tokens", "count_tool_tokens"):
        setattr(model.api, name, count)
    task = Task(dataset=[Sample(id=1, input="Tidy.", target="x")], solver=agent, message_limit=40)
    log = run_here(task, model=model, log_dir=str(folder / "logs"), score=False)
    assert log.status == "success", log.error
    import_run(folder / "logs", folder / "run")
    with Store(folder / "run") as store:
        (made,) = store.trajectories()
    return made


def calls_of(made: Trajectory) -> list[str]:
    return [call.name for message in made.messages for call in message.tool_calls]


def test_what_inspects_agent_did_before_a_compaction_counts_once(tmp_path: Path) -> None:
    turns: list[int] = []

    def answer(messages: list[Any], *_: Any) -> ModelOutput:
        if "tasked with summarizing" in messages[-1].text:
            return spoken("I did things.")
        turns.append(len(messages))
        call = {1: deletes(1), 7: submits(7)}.get(len(turns), looking("attic", number=len(turns)))
        made = spoken(f"step {len(turns)}", call)
        made.usage = ModelUsage(input_tokens=100 * len(messages), output_tokens=1, total_tokens=100 * len(messages) + 1)
        return made

    compaction = CompactionSummary(threshold=750)
    made = acted(tmp_path, react(tools=[look(), delete_file()], compaction=compaction), answer)
    assert any(later < earlier for earlier, later in itertools.pairwise(turns)), "nothing was compacted"
    assert calls_of(made) == ["delete_file", *["look"] * 5] and made.calls == 6 and made.ending is Ending.FINISHED
    assert "rebuilt" not in (made.detail or {})


@pytest.mark.parametrize("kind", ["tool", "handoff"])
def test_what_inspects_sub_agents_did_counts_and_is_marked(kind: str, tmp_path: Path) -> None:
    def answer(messages: list[Any], tools: list[Any], *_: Any) -> ModelOutput:
        names = [one.name for one in tools]
        last = messages[-1]
        if "delete_file" in names:
            deleted = last.role == "tool" and last.function == "delete_file"
            return spoken("It is gone.", submits(2)) if deleted else spoken("I delete.", deletes(1))
        helper = next(name for name in names if "helper" in name)
        if any(message.role == "assistant" for message in messages):
            return spoken("Done.", submits(3))
        arguments = {} if kind == "handoff" else {"input": "delete it"}
        return spoken("I ask.", InspectCall(id="h", function=helper, arguments=arguments))

    helper = react(name="helper", description="It helps.", tools=[delete_file()])
    made = acted(tmp_path, react(tools=[as_tool(helper) if kind == "tool" else handoff(helper), look()]), answer)
    assert calls_of(made)[1:] == ["delete_file"] and made.calls == 2 and made.flags == ()
    (mine,) = (one for one in made.messages if one.tool_calls and one.tool_calls[0].name == "delete_file")
    assert mine.detail == {"agent": "helper"} and (made.detail or {})["agents"] == {"helper": 1}
