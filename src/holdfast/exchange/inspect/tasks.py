"""The suites as Inspect tasks: ``inspect eval holdfast/office --model …``, ``inspect eval holdfast/toolemu -T …``.

Inspect asks the agent; the episode is ours: the suite's world answers every tool call, in a session of the sample's
own, and our judges score what came of it. Temperature, tokens a turn and limits are Inspect's own options.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from inspect_ai import Task, task
from inspect_ai._util.registry import registry_name
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model
from inspect_ai.scorer import Score as InspectScore
from inspect_ai.scorer import Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from holdfast.exchange.inspect.messages import from_inspect, to_inspect
from holdfast.exchange.inspect.provider import STOPPED
from holdfast.exchange.inspect.samples import OWN, describe_case, describe_episode, read_case, read_episode, to_score
from holdfast.models import Ask, Reply
from holdfast.models.remote.inspect_chat import Garbage, chat_input, make_reply, read_output, tool_infos
from holdfast.records import Case, Message, Score, Trajectory
from holdfast.records.errors import ProviderError
from holdfast.rollout.dialogues import carry_on
from holdfast.rollout.episode import Limits, start_episode
from holdfast.rollout.worlds import World
from holdfast.study.sections import JudgeSection
from holdfast.suites import NUMBERS_PER_SPLIT

MAX_TURNS = {"office": 8, "toolemu": 20}
Role = Literal["emulator", "grader"]
Part = Literal["demo", "train", "test"]
Mode = Literal["standard", "adversarial"]


def _named(name: str) -> str:
    """A name for Inspect's registry, so that it is ``holdfast/NAME`` there.

    Inspect puts the package before a name only where it lies in site-packages or its distribution has the package's
    name: not where holdfast-evals is installed from a checkout with ``pip install --editable``.
    """
    return name if "/" in registry_name(_named, name) else f"holdfast/{name}"


@task(name=_named("office"))  # type: ignore[untyped-decorator]
def office(
    *,
    count: int = 300,
    part: Part = "test",
    seed: int = 0,
    split_seed: int | None = None,
    holdout: Literal["case", "objects", "family"] = "objects",
    max_turns: int = MAX_TURNS["office"],
) -> Task:
    """``count`` generated cases of a part, drawn with ``seed``, which also chooses the split unless told otherwise.

    With equal seeds they are the first cases of the split that a study has under that seed. Scores are the state
    judge's, 0 to 3.
    """
    from holdfast.rollout.worlds.office import OfficeWorld
    from holdfast.suites.office.cases import generate

    split = seed if split_seed is None else split_seed
    cases = generate(seed, count, part=part, holdout=holdout, split_seed=split)
    shifted = [replace(case, number=case.number + split * NUMBERS_PER_SPLIT) for case in cases]
    return Task(
        dataset=_dataset("office", shifted),
        solver=play_episode(OfficeWorld(), max_turns=max_turns),
        scorer=[safety(), helpfulness()],
    )


@task(name=_named("toolemu"))  # type: ignore[untyped-decorator]
def toolemu(
    *,
    cases: str,
    toolkits: str,
    emulator: str | None = None,
    judge: str | None = None,
    mode: Mode = "adversarial",
    max_turns: int = MAX_TURNS["toolemu"],
) -> Task:
    """The cases of ToolEmu's files: the model ``emulator`` plays their tools, ``judge`` scores the episodes, 0 to 3.

    Where one is not given, it is the model of the role ``emulator`` or ``grader``.
    """
    from holdfast.rollout.worlds.emulated import EmulatedWorld
    from holdfast.suites.toolemu.cases import load_cases

    found = load_cases(cases, toolkits)
    return Task(
        dataset=_dataset("toolemu", found),
        solver=play_episode(EmulatedWorld(mode=mode), max_turns=max_turns, emulator=emulator),
        scorer=[rubric("safety", judge), rubric("helpfulness", judge)],
    )


def _dataset(name: str, cases: Sequence[Case]) -> MemoryDataset:
    samples = []
    for case in cases:
        metadata = {"family": case.family, OWN: {"case": describe_case(case)}}
        samples.append(Sample(id=f"{case.suite}-{case.number}", input=to_inspect(case.messages), metadata=metadata))
    return MemoryDataset(samples, name=name)


@solver(_named("play_episode"))  # type: ignore[untyped-decorator]
def play_episode(world: World, max_turns: int, emulator: str | None = None) -> Solver:
    """Plays one episode of our own with Inspect's model; what messages do not say of it goes into the metadata."""
    # How long a reply may be and how it is sampled is for Inspect to say.
    limits = Limits(max_turns=max_turns, max_tokens=1, temperature=0.0)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        case = _case_of(state)
        tools = tool_infos(case.tools)

        def show(messages: Sequence[Message]) -> None:
            """Append the tools' answers that the sample does not show yet."""
            every = to_inspect((*case.messages, *messages))
            state.messages.extend(every[len(state.messages) :])

        async def answer(ask: Ask) -> Reply:
            """The reply to a request, with the sample's messages kept up with the dialogue."""
            if ask.speaker != "agent":
                return await _ask_other("emulator", emulator, ask)
            show(ask.conversation.messages[len(case.messages) :])
            state.output = await get_model().generate(state.messages, tools=tools)
            reply = _read(state.output, ask)
            state.messages.append(state.output.message)
            return reply

        agent = str(state.model)
        dialogue = start_episode(case, state.epoch - 1, world, checkpoint_id=agent, rollout_seed=0, limits=limits)
        trajectory = await carry_on(dialogue, answer)
        show(trajectory.messages)
        own = {**state.metadata[OWN], "episode": describe_episode(trajectory)}
        flags = [flag.value for flag in trajectory.flags]
        state.metadata = {**state.metadata, "ending": trajectory.ending.value, "flags": flags, OWN: own}
        return state

    return solve


async def _ask_other(role: Role, name: str | None, ask: Ask) -> Reply:
    """The reply of the model that plays the tools or judges."""
    model: Model = get_model(name) if name else get_model(role=role)
    config = GenerateConfig(temperature=ask.temperature, max_tokens=ask.max_tokens)
    return _read(await model.generate(chat_input(ask.conversation.messages), config=config), ask)


def _read(output: ModelOutput, ask: Ask) -> Reply:
    """What the model said. Errors: ProviderError where it is no reply."""
    sent = sum(len(message.content.encode("utf-8", "replace")) for message in ask.conversation.messages)
    try:
        reply = make_reply(read_output(output, native=True, sent_bytes=sent), ask.conversation.tools)
    except Garbage as error:
        raise ProviderError(f"{output.model}: {error}", "rejected") from error
    if (output.metadata or {}).get(STOPPED) == "incoherent":
        return Reply(message=None, stopped="incoherent", tokens=reply.tokens, logprob=None, raw=reply.raw)
    return reply


def _case_of(state: TaskState) -> Case:
    return read_case(state.metadata[OWN]["case"], from_inspect(state.messages))


def _score_episodes(judge: Callable[[Case, Trajectory], Awaitable[Score]]) -> Scorer:
    """Scores samples by what a judge gives their episodes; missing where one of Inspect's limits broke one off."""

    async def score(state: TaskState, target: Target) -> InspectScore:
        case, row = _case_of(state), state.metadata[OWN].get("episode")
        if row is None:
            told = "missing: broken off by a limit of the sample"
            return InspectScore.unscored(reason="broken off", explanation=told)
        return to_score(await judge(case, read_episode(row, case, from_inspect(state.messages))))

    return score


@scorer(metrics=[mean(), stderr()], name=_named("safety"))  # type: ignore[untyped-decorator]
def safety() -> Scorer:
    """Safety by the office's end state, 0 to 3."""
    return _state_scorer("safety")


@scorer(metrics=[mean(), stderr()], name=_named("helpfulness"))  # type: ignore[untyped-decorator]
def helpfulness() -> Scorer:
    """Helpfulness by the office's end state, 0 to 3."""
    return _state_scorer("helpfulness")


def _state_scorer(objective: str) -> Scorer:
    from holdfast.judges.state import StateJudge

    judge = StateJudge(objectives=(objective,))

    async def score(case: Case, trajectory: Trajectory) -> Score:
        return judge.judge(case, trajectory)[0]

    return _score_episodes(score)


@scorer(metrics=[mean(), stderr()], name=_named("rubric"))  # type: ignore[untyped-decorator]
def rubric(objective: str, judge: str | None = None) -> Scorer:
    """An objective by the rubric judge, 0 to 3, which asks the model ``judge`` or that of the role ``grader``."""
    from holdfast.judges import open_judge
    from holdfast.judges.rubric.judge import RubricJudge

    async def score(case: Case, trajectory: Trajectory) -> Score:
        model = str(get_model(judge) if judge else get_model(role="grader"))
        section = JudgeSection(kind="rubric", model=model, rubrics={objective: "default"})
        opened = open_judge("rubric", section, model=model)
        assert isinstance(opened, RubricJudge)

        scores: tuple[Score, ...] = await carry_on(opened.judge(case, trajectory), partial(_ask_other, "grader", judge))
        return scores[0]

    return _score_episodes(score)
