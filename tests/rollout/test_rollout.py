"""Episodes: every ending is recorded, and luck belongs to the episode, not to its batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.judges.state import StateJudge
from holdfast.models import Ask, Conversation, Reply
from holdfast.models.fakes import FixedJudge, ScriptedModel, script_reply
from holdfast.models.tiny.model import TinyModel, build
from holdfast.records import Case, Ending, Flag, Message, ToolCall, Trajectory
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.suites.office import cases as office_cases
from holdfast.suites.office import families as office_families

OBJECTS = {name for row in office_families.FAMILIES.values() for name in row.objects}
LIMITS = Limits(max_turns=4, max_tokens=16, temperature=1.0)


def cases(count: int = 6) -> list[Case]:
    return office_cases.generate(0, count, part="test")


def play(model: object, count: int = 6, limits: Limits = LIMITS) -> list[Trajectory]:
    episodes = [(case, 0) for case in cases(count)]
    return roll_out({"agent": model}, OfficeWorld(), episodes, checkpoint_id="c", rollout_seed=0, limits=limits)  # type: ignore[arg-type]


def check_then_finish(talk: Conversation) -> Message | ToolCall | str:
    if talk.messages[-1].role == "tool":
        return "done"
    return ToolCall(name=talk.tools[0].name, arguments={"object": "nothing_known"})


def test_a_script_is_played_and_recorded() -> None:
    first = play(ScriptedModel(check_then_finish))[0]
    assert [message.role for message in first.messages] == ["assistant", "tool", "assistant"]
    assert first.ending is Ending.FINISHED
    assert (first.calls, first.invalid_calls) == (0, 1)  # no such object: refused, counted, told to the agent
    assert Flag.INVALID_CALL in first.flags
    assert first.world_before == cases()[0].state and first.world_after is not None


def never_stops(talk: Conversation) -> ToolCall:
    (thing, *_) = (word for word in talk.messages[1].content.split() if word.strip(".,") in OBJECTS)
    return ToolCall(name=talk.tools[0].name, arguments={"object": thing.strip(".,")})


def test_limits_and_unreadable_replies_end_an_episode_as_such() -> None:
    endless = play(ScriptedModel(never_stops))
    assert all(item.ending is Ending.TURN_LIMIT and Flag.TRUNCATED in item.flags for item in endless)
    assert all(sum(m.role == "assistant" for m in item.messages) == LIMITS.max_turns for item in endless)
    broken = play(ScriptedModel(lambda _: None))
    assert all(item.ending is Ending.INCOHERENT for item in broken)
    scores = [score for item, case in zip(broken, cases(), strict=True) for score in StateJudge().judge(case, item)]
    assert all(score.value is None and score.missing == "incoherent" for score in scores)


def test_an_episode_that_outgrows_its_model_is_truncated(tmp_path: Path) -> None:
    """An agent that looks again and again until the conversation has no room for another turn."""
    sizes = {"hidden": 8, "layers": 1, "heads": 2, "ffn": 8, "max_positions": 48}
    model = TinyModel.load(
        build(office_cases.lexicon(), tmp_path, seed=0, system_prompts=office_cases.system_prompts(), **sizes)  # type: ignore[arg-type]
    )

    class Looker:
        """Calls a tool as long as the tiny model has room to say anything."""

        def reply(self, asks: Sequence[Ask]) -> list[Reply]:
            return [
                script_reply(never_stops(ask.conversation)) if reply.tokens else reply
                for ask, reply in zip(asks, model.reply(asks), strict=True)
            ]

    played = play(Looker(), 6, Limits(max_turns=1000, max_tokens=16, temperature=1.0))
    assert all(item.ending is Ending.TRUNCATED and item.calls > 1 for item in played)
    for item, case in zip(played, cases(), strict=True):
        assert item.messages[-1] == Message(role="assistant", content="")
        assert len(model.chat.encode([*case.messages, *item.messages[:-1]], case.tools)[0]) >= 47


class Gambler:
    """Says a number that it draws."""

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        return [script_reply(str(ask.rng.integers(10**9))) for ask in asks]


def test_luck_does_not_depend_on_the_batch() -> None:
    together = {item.id: item for item in play(Gambler(), 6)}
    alone = {item.id: item for item in play(Gambler(), 2)}
    assert len({item.messages for item in together.values()}) == 6
    assert all(together[name] == item for name, item in alone.items())


def test_ids_tell_checkpoint_rollout_and_seed_apart() -> None:
    (case,) = cases(1)
    seen = set()
    for checkpoint, rollout, seed in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1)):
        episodes = [(case, rollout)]
        (made,) = roll_out(
            {"agent": Gambler()}, OfficeWorld(), episodes, checkpoint_id=checkpoint, rollout_seed=seed, limits=LIMITS
        )
        seen.add((made.id, made.messages))
    assert len(seen) == 4


def test_a_fixed_judge_scores_and_misses_as_told() -> None:
    (case,) = cases(1)
    (trajectory,) = play(ScriptedModel(lambda _: "done"), 1)
    safety, help_ = FixedJudge(values={"safety": 2.0, "helpfulness": None}, reason="asleep").judge(case, trajectory)
    assert (safety.value, safety.missing) == (2.0, None)
    assert (help_.value, help_.missing) == (None, "asleep")
