"""Inspect AI, both ways: exported runs, imported logs, the suites as tasks, the tiny model as a provider."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from builders.inspect_runs import counts, episodes, run_here, spoken
from builders.tiny_office import make_model
from builders.toolemu_samples import make_record, write_files
from inspect_ai.analysis import samples_df
from inspect_ai.log import read_eval_log
from inspect_ai.model import (
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.tool import ToolCall as InspectCall

import holdfast as hf
from holdfast.exchange.exports import export_run
from holdfast.exchange.imports import import_run
from holdfast.exchange.inspect.episodes import ENDINGS
from holdfast.exchange.inspect.messages import from_inspect, to_inspect
from holdfast.exchange.inspect.provider import Batcher, find_directory
from holdfast.judges.state import StateJudge
from holdfast.models import Ask, Conversation, Reply
from holdfast.models.tiny.model import TinyModel
from holdfast.records import Case, Checkpoint, Ending, Flag, Message, Score, ToolCall, Trajectory
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.store import Store, codec
from holdfast.suites.office.cases import generate

pytestmark = [
    # Inspect leaves streams open when it has run a task in this process.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def inspect(*arguments: object, folder: Path) -> str:
    """What an `inspect` command prints. No proxy answers, so it reaches no network."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    command = [str(Path(sys.executable).with_name("inspect")), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **OFFLINE, **nowhere}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def base_of(run: Path) -> Path:
    with Store(run) as store:
        return run / next(str(one.path) for one in store.checkpoints() if not one.stages)


@pytest.fixture(scope="module")
def exported(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a finished study."""
    return export_run(smoke_run, "inspect", tmp_path_factory.mktemp("exported") / "out")


def test_logs_hold_every_score_with_missing_ones_unscored(smoke_run: Path, exported: Path) -> None:
    with Store(smoke_run) as store:
        checkpoints = {item.id: item for item in store.checkpoints()}
        scores = {item.id: store.scores(item.id) for item in store.trajectories()}
    assert {path.name for path in exported.iterdir()} == {f"{name}.eval" for name in checkpoints}
    seen, missing = 0, 0
    for name, checkpoint in checkpoints.items():
        log = read_eval_log(str(exported / f"{name}.eval"))
        assert log.status == "success" and log.eval.metadata is not None
        assert log.eval.metadata["lineage"] == list(checkpoint.lineage)
        assert len({(sample.id, sample.epoch) for sample in log.samples or []}) == len(log.samples or [])
        for sample in log.samples or []:
            for score in scores[sample.metadata["trajectory"]]:
                found = (sample.scores or {})[f"{score.judge}/{score.objective}"]
                if score.value is None:
                    assert isinstance(found.value, float) and math.isnan(found.value)
                    assert found.explanation == f"missing: {score.missing}"
                    missing += 1
                else:
                    assert (found.value, found.explanation) == (score.value, score.reply)
                seen += 1
    assert seen == sum(map(len, scores.values())) and 0 < missing < seen


def test_results_are_means_over_cases_of_the_means_of_their_episodes(smoke_run: Path, exported: Path) -> None:
    table = None
    with Store(smoke_run) as store:
        table, case_count = store.score_table(), store.counts()["cases"]
    assert case_count > 0
    for number, checkpoint in enumerate(table.checkpoints):
        log = read_eval_log(str(exported / f"{checkpoint.id}.eval"), header_only=True)
        assert log.results is not None
        for score in log.results.scores:
            objective = table.objectives.index(score.name.split("/")[1])
            mine = (table.checkpoint == number) & (table.objective == objective) & ~np.isnan(table.value)
            cases = [table.value[mine & (table.case == case)].mean() for case in np.unique(table.case[mine])]
            assert score.metrics["mean"].value == pytest.approx(np.mean(cases))
            assert score.metrics["stderr"].value == pytest.approx(np.std(cases, ddof=1) / np.sqrt(len(cases)))


@pytest.mark.full
def test_inspect_lists_dumps_bundles_and_frames_exported_logs(exported: Path, tmp_path: Path) -> None:
    listed = inspect("log", "list", "--log-dir", exported, "--json", folder=tmp_path)
    assert len(json.loads(listed)) == len(list(exported.iterdir()))
    one = next(exported.iterdir())
    dumped = json.loads(inspect("log", "dump", one, folder=tmp_path))
    linked = 0
    for sample in dumped["samples"]:
        calls = {call["id"]: call for message in sample["messages"] for call in message.get("tool_calls") or ()}
        for message in sample["messages"]:
            if message["role"] == "tool":
                assert calls[message["tool_call_id"]]["function"] == message["function"]
                linked += 1
        assert sample["output"]["usage"]["output_tokens"] > 0
    assert linked > 0 and dumped["stats"]["model_usage"][dumped["eval"]["model"]]["output_tokens"] > 0
    inspect("view", "bundle", "--log-dir", exported, "--output-dir", tmp_path / "site", folder=tmp_path)
    assert (tmp_path / "site" / "index.html").is_file()
    assert len(list((tmp_path / "site" / "logs").glob("*.eval"))) == len(list(exported.iterdir()))
    frame = samples_df(str(exported), quiet=True)
    assert len(frame) == sum(len(read_eval_log(str(path)).samples or ()) for path in exported.iterdir())
    assert frame["score_state/safety"].notna().any() and frame["epoch"].max() > 1


def test_an_exported_run_comes_back_as_it_was(smoke_run: Path, exported: Path, tmp_path: Path) -> None:
    told = []
    summary = import_run(exported, tmp_path / "run", progress=told.append)
    assert told[-1].bytes_read == told[-1].bytes_total and told[-1].trajectories == summary.trajectories
    mine, theirs = episodes(smoke_run), episodes(tmp_path / "run")
    assert mine == theirs and summary.trajectories == len(mine)
    assert {one.ending for one, _ in mine.values()} > {Ending.FINISHED}
    with Store(smoke_run) as before, Store(tmp_path / "run") as after:
        assert before.cases() == after.cases() and before.splits() == after.splits() != {}
        assert [replace(one, path=None) for one in before.checkpoints()] == after.checkpoints()
    means = [
        [
            (one.kind, one.lineage, one.value and round(one.value, 9), one.n)
            for one in hf.Run(path).analysis(draws=100).scores
        ]
        for path in (smoke_run, tmp_path / "run")
    ]
    assert means[0] == means[1]
    again = import_run(exported, tmp_path / "run")
    assert (again.new_trajectories, again.new_scores) == (0, 0) and again.scores == summary.scores
    assert counts(tmp_path / "run") == {**counts(smoke_run), "pairs": 0}


def small_run(path: Path, trajectories: Sequence[Trajectory], scores: Sequence[Score] = ()) -> Path:
    """A run of one case and one checkpoint."""
    with Store.create(path) as store, store.transaction():
        store.add_cases([CASE])
        store.add_checkpoint(Checkpoint(id="c1", base="model"))
        for one in trajectories:
            store.add_trajectory(one, store.text_codec.pack(codec.trajectory_to_bytes(one, CASE.state)))
        for score in scores:
            store.add_score(score)
    return path


CASE = Case(id="case", suite="made", number=7, family="f", messages=(Message(role="user", content="Ünite é \n" * 50),))


def episode(identity: str, ending: Ending = Ending.FINISHED, rollout: int = 0, **others: Any) -> Trajectory:
    messages = (
        Message(
            role="assistant",
            content="both",
            tool_calls=(
                ToolCall(name="look", arguments={"a": 1}, id="x"),
                ToolCall(name="look", arguments={"_raw": "{"}, id="y"),
                ToolCall(name="tell", arguments={}),
            ),
        ),
        Message(role="tool", content="one " * 100, name="look", detail={"reasoning": "because"}),
        Message(role="tool", content="two", name="look"),
        Message(role="tool", content="", name="tell"),
        Message(role="assistant", content="attachment://no such thing"),
    )
    return Trajectory(
        id=identity,
        case_id="case",
        checkpoint_id="c1",
        rollout=rollout,
        messages=messages,
        ending=ending,
        calls=3,
        **others,
    )


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_and_parallel_calls_come_back(ending: Ending, tmp_path: Path) -> None:
    flagged = ending is not Ending.ERROR
    flag = {
        Ending.OUT_OF_MEMORY: (Flag.OUT_OF_MEMORY,),
        Ending.INCOHERENT: (Flag.INCOHERENT,),
        **dict.fromkeys(
            (Ending.TRUNCATED, Ending.TURN_LIMIT, Ending.TOKEN_LIMIT, Ending.TIME_LIMIT), (Flag.TRUNCATED,)
        ),
    }
    made = episode("t1", ending, flags=flag.get(ending, ()) if flagged else (), detail={"error": "gone"})
    run = small_run(tmp_path / "run", [made])
    logs = export_run(run, "inspect", tmp_path / "out")
    log = read_eval_log(str(logs / "c1.eval"))
    assert log.samples is not None
    sample = log.samples[0]
    broken = ending in (Ending.ERROR, Ending.OUT_OF_MEMORY)
    assert (sample.error is not None) == broken and (not broken or sample.error.message == "gone")  # type: ignore[union-attr]
    if sample.limit is not None:
        assert ENDINGS[sample.limit.type] is ending
    import_run(logs, tmp_path / "back")
    assert list(episodes(tmp_path / "back").values()) == [(replace(made, id=""), [])]


def test_repeats_rubrics_and_equal_rollouts_stay_apart(tmp_path: Path) -> None:
    scores = [
        Score(trajectory_id="t1", judge="j", objective="safety", value=float(repeat), rubric="r1", repeat=repeat)
        for repeat in range(3)
    ]
    scores += [
        Score(trajectory_id="t1", judge="j", objective="safety", value=3.0, label="Fine", rubric="r2"),
        Score(
            trajectory_id="t2", judge="j", objective="safety", value=None, missing="no_score", reply="raw", rubric="r1"
        ),
    ]
    run = small_run(tmp_path / "run", [episode("t1"), replace(episode("t2"), tokens=5)], scores)
    logs = export_run(run, "inspect", tmp_path / "out")
    log = read_eval_log(str(logs / "c1.eval"))
    samples = {sample.uuid: sample for sample in log.samples or []}
    assert [samples["t1"].epoch, samples["t2"].epoch] == [1, 2]
    values = {name: score.value for name, score in (samples["t1"].scores or {}).items()}
    assert values == {"j#r1/safety": 0.0, "j#r1/safety 2": 1.0, "j#r1/safety 3": 2.0, "j#r2/safety": 3.0}
    unscored = (samples["t2"].scores or {})["j#r1/safety"]
    assert unscored.reason == "no_score" and str(unscored.explanation).endswith("raw")
    assert samples["t2"].model_usage["model · base"].output_tokens == 5
    import_run(logs, tmp_path / "back")
    with Store(tmp_path / "back") as store:
        found = [score for one in store.trajectories() for score in store.scores(one.id)]
        assert [one.rollout for one in store.trajectories()] == [0, 0]
    strip = Counter(replace(score, trajectory_id="") for score in scores)
    assert Counter(replace(score, trajectory_id="") for score in found) == strip


@pytest.mark.parametrize("package", ["holdfast", None])
def test_inspect_knows_our_tasks_by_one_name(package: str | None) -> None:
    """None: what Inspect makes of an editable installation, whose distribution is not called like the package."""
    code = (
        "import inspect_ai.scorer, inspect_ai._util.registry as registry\n"
        f"registry.get_installed_package_name = lambda _: {package!r}\n"
        "from holdfast.exchange.inspect import tasks\n"
        "named = (tasks.office, tasks.toolemu, tasks.play_episode, tasks.safety, tasks.helpfulness, tasks.rubric)\n"
        "print(*(registry.registry_info(part).name for part in named))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ("office", "toolemu", "play_episode", "safety", "helpfulness", "rubric")
    assert done.stdout.split() == [f"holdfast/{name}" for name in names]


CASES = 10


@pytest.fixture(scope="module")
def evaluated(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The log of `inspect eval` on the office with the tiny base, and what the command printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = f"holdfast/{base_of(smoke_run)}"
    options = ("--limit", CASES, "--temperature", 0, "--max-tokens", 16, "--display", "plain", "--log-dir", "logs")
    printed = inspect("eval", "holdfast/office", "--model", model, "-T", "part=train", *options, folder=folder)
    return next((folder / "logs").glob("*.eval")), printed


def own_episodes(smoke_run: Path) -> list[tuple[Case, Trajectory]]:
    cases = generate(0, 300, part="train", split_seed=0)[:CASES]
    agent = TinyModel.load(base_of(smoke_run))
    limits = Limits(max_turns=8, max_tokens=16, temperature=0.0)
    made = roll_out(
        {"agent": agent},
        OfficeWorld(),
        [(case, 0) for case in cases],
        checkpoint_id="own",
        rollout_seed=0,
        limits=limits,
    )
    return [(case, one) for case, one in zip(cases, made, strict=True) if isinstance(one, Trajectory)]


def test_an_evaluated_suite_equals_our_own_rollouts(evaluated: tuple[Path, str], smoke_run: Path) -> None:
    log = read_eval_log(str(evaluated[0]))
    own = own_episodes(smoke_run)
    assert log.status == "success" and len(log.samples or []) == len(own) == CASES
    assert "safety" in evaluated[1] and "helpfulness" in evaluated[1]
    values = set()
    for sample, (case, trajectory) in zip(log.samples or [], own, strict=True):
        scores = {one.objective: one for one in StateJudge().judge(case, trajectory)}
        assert set(sample.scores or {}) == set(scores)
        for name, score in (sample.scores or {}).items():
            assert score.value == scores[name].value or (math.isnan(score.as_float()) and scores[name].value is None)
            values.add((name, score.value))
        ours = from_inspect(to_inspect((*case.messages, *trajectory.messages)))
        plain = [
            replace(one, tool_calls=tuple(replace(call, id="") for call in one.tool_calls))
            for one in from_inspect(sample.messages)
        ]
        assert plain == list(ours)
        usage = sample.model_usage[log.eval.model]
        assert usage.output_tokens == trajectory.tokens and usage.input_tokens > 0
    assert len(values) > 3


def test_an_evaluated_suite_can_be_imported(evaluated: tuple[Path, str], smoke_run: Path, tmp_path: Path) -> None:
    summary = import_run(evaluated[0], tmp_path / "run")
    own = own_episodes(smoke_run)
    assert (summary.trajectories, summary.scores, summary.cases) == (CASES, 2 * CASES, CASES)
    with Store(tmp_path / "run") as store:
        made = {one.case_id: one for one in store.trajectories()}
        for case, trajectory in own:
            found = made[case.id]
            assert store.case(case.id) == case and found.world_after == trajectory.world_after
            assert (found.ending, found.flags) == (trajectory.ending, trajectory.flags)
            assert (found.calls, found.invalid_calls) == (trajectory.calls, trajectory.invalid_calls)
            again = [replace(one, trajectory_id=found.id) for one in StateJudge().judge(case, trajectory)]
            assert sorted(store.scores(found.id), key=str) == sorted(again, key=str)


class Counting:
    """A model that remembers the sizes of its batches; it fails where one asks what breaks it."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.broken = ""

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        self.batches.append(len(asks))
        texts = [ask.conversation.messages[-1].content for ask in asks]
        if self.broken in texts:
            raise RuntimeError("broken")
        said = [Message(role="assistant", content=f"re {text}") for text in texts]
        return [Reply(message=one, stopped="stop", tokens=1, logprob=None, raw=one.content) for one in said]


def test_requests_made_together_are_answered_together() -> None:
    model = Counting()
    batcher = Batcher(model)
    replies: dict[int, str] = {}

    def request(number: int) -> Ask:
        talk = Conversation(messages=(Message(role="user", content=str(number)),))
        rng = np.random.default_rng(number)
        return Ask(speaker="agent", conversation=talk, temperature=0.0, max_tokens=4, rng=rng)

    async def one(number: int) -> None:
        replies[number] = (await batcher.ask(request(number))).raw

    async def one_or_none(number: int) -> None:
        with contextlib.suppress(RuntimeError):
            await one(number)

    async def many() -> None:
        async with anyio.create_task_group() as group:
            for number in range(150):
                group.start_soon(one, number)

    async def failing() -> None:
        model.broken = "0"
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.ask(request(0))
        replies.clear()
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one_or_none, number)
        assert replies == {1: "re 1", 2: "re 2"}
        assert (await batcher.ask(request(1))).raw == "re 1"
        with anyio.move_on_after(0):
            await batcher.ask(request(2))
        assert (await batcher.ask(request(3))).raw == "re 3"

    async def everything() -> None:
        await many()
        assert model.batches == [64, 64, 22] and replies == {number: f"re {number}" for number in range(150)}
        await failing()

    anyio.run(everything)


def test_the_provider_names_models_by_directory_and_by_checkpoint(smoke_run: Path, tmp_path: Path) -> None:
    base = base_of(smoke_run)
    assert find_directory(str(base)) == base
    assert find_directory(f"{smoke_run}:tiny-0 · base").resolve() == base.resolve()
    for name, told in {
        "absent": "no such directory; give one, or RUN:CHECKPOINT",
        f"{smoke_run}:nothing": "no checkpoint 'nothing'",
    }.items():
        with pytest.raises(hf.StudyError, match=told):
            find_directory(name)


def test_the_provider_counts_tokens_without_a_tokenizer_and_repeats_with_a_seed(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    model = get_model(f"holdfast/{directory}", memoize=False)

    async def replies(seed: int | None) -> list[ModelOutput]:
        config = GenerateConfig(seed=seed, max_tokens=6, temperature=1.0)
        return [await model.generate("please delete the memo", config=config) for _ in range(8)]

    async def everything() -> tuple[list[ModelOutput], list[ModelOutput]]:
        assert await model.api.count_text_tokens("twelve bytes") == 3
        return await replies(1), await replies(None)

    seeded, free = anyio.run(everything)
    assert len({output.model_dump_json(include={"completion", "usage"}) for output in seeded}) == 1
    assert len({output.model_dump_json(include={"choices"}) for output in free}) > 1
    for output in (*seeded, *free):
        assert output.usage is not None and output.usage.input_tokens > 3 and 0 < output.usage.output_tokens <= 6
        cut = output.usage.output_tokens == 6 and (output.metadata or {})["stopped"] == "length"
        assert (output.stop_reason == "max_tokens") == cut


def judge_or_player(messages: list[Any], *_: Any) -> ModelOutput:
    """A model that plays the terminal, and judges: it answers what each prompt asks for."""
    if "Play the tool" in messages[-1].text:
        result = {"output": "3 files", "exit_code": 0}
        return spoken(json.dumps({"reasoning": "r", "result": result, "exception": None, "state_notes": "n"}))
    return spoken(json.dumps({"reasoning": "it looked", "label": "Possible Mild Risk", "score": 2}))


def test_toolemu_is_played_and_judged_by_models(tmp_path: Path) -> None:
    def agent(messages: list[Any], *_: Any) -> ModelOutput:
        if messages[-1].role == "user":
            return spoken("", InspectCall(id="k0", function="TerminalExecute", arguments={"command": "ls"}))
        return spoken("There are 3 files.")

    cases, toolkits = write_files(tmp_path, cases=[make_record("one", ("Terminal",))])
    other = get_model("mockllm/other", custom_outputs=judge_or_player, memoize=False)
    log = run_here(
        "holdfast/toolemu",
        task_args={"cases": str(cases), "toolkits": str(toolkits)},
        model=get_model("mockllm/model", custom_outputs=agent, memoize=False),
        model_roles={"emulator": other, "grader": other},
        log_dir=str(tmp_path / "logs"),
    )
    assert log.status == "success" and log.samples is not None
    (sample,) = log.samples
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(sample.messages[3].text) == {"output": "3 files", "exit_code": 0}
    scores = {score.metadata["objective"]: score for score in (sample.scores or {}).values() if score.metadata}
    assert scores["safety"].value == 2.0 and scores["safety"].answer == "Possible Mild Risk"
    import_run(Path(log.location), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        (made,) = store.trajectories()
        assert store.case(made.case_id).suite == "toolemu" and made.calls == 1 and made.ending is Ending.FINISHED
        assert (made.messages[1].detail or {})["state_notes"] == "n"
        assert {one.judge for one in store.scores(made.id)} == {"rubric"}
