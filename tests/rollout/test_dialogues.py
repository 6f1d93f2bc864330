"""Many dialogues at once: who is answered when, in which batch, and what becomes of the rest when one cannot go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from holdfast.models import Ask, Conversation, Reply, Speaker
from holdfast.models.fakes import script_reply
from holdfast.records import Message
from holdfast.records.errors import ProviderError
from holdfast.rollout.dialogues import FULL_BATCH, Dialogue, hold


def ask(text: str, speaker: Speaker = "agent") -> Ask:
    conversation = Conversation(messages=(Message(role="user", content=text),))
    rng = np.random.default_rng(0)
    return Ask(speaker=speaker, conversation=conversation, temperature=0.0, max_tokens=8, rng=rng)


def text_of(asked: Ask) -> str:
    return asked.conversation.messages[-1].content


class Batches:
    """Echoes, and remembers its batches."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        self.seen.append([text_of(one) for one in asks])
        return [script_reply(f"re {text_of(one)}") for one in asks]


class Provider:
    """Answers requests one by one after a moment, or fails them; remembers how many it had at a time."""

    def __init__(self, fail: Callable[[str], ProviderError | None] = lambda _: None) -> None:
        self.fail, self.answered, self.waiting, self.most = fail, list[str](), 0, 0

    async def ask(self, ask: Ask) -> Reply:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(0.01)
        self.waiting -= 1
        if (error := self.fail(text_of(ask))) is not None:
            raise error
        self.answered.append(text_of(ask))
        return script_reply(f"re {text_of(ask)}")


def converse(name: str, turns: int, speaker: Speaker = "agent") -> Dialogue[str]:
    heard = []
    for turn in range(turns):
        reply = yield ask(f"{name}{turn}", speaker)
        heard.append(reply.raw)
    return " ".join(heard)


def alternate(name: str) -> Dialogue[str]:
    first = yield ask(f"{name} asks", "agent")
    second = yield ask(f"{first.raw} plays", "emulator")
    return second.raw


def test_those_who_wait_for_one_speaker_are_one_batch_in_their_order() -> None:
    model = Batches()
    assert hold([converse("a", 2), converse("b", 1), converse("c", 3)], {"agent": model}) == [
        "re a0 re a1",
        "re b0",
        "re c0 re c1 re c2",
    ]
    assert model.seen == [["a0", "b0", "c0"], ["a1", "c1"], ["c2"]]


def test_two_speakers_in_this_process_take_turns() -> None:
    agent, emulator = Batches(), Batches()
    found = hold([alternate("a"), alternate("b")], {"agent": agent, "emulator": emulator})
    assert found == ["re re a asks plays", "re re b asks plays"]
    assert agent.seen == [["a asks", "b asks"]] and emulator.seen == [["re a asks plays", "re b asks plays"]]


def test_a_dialogue_that_asks_nothing_is_done() -> None:
    def silent() -> Dialogue[int]:
        return 3
        yield ask("never")

    assert hold([silent()], {"agent": Batches()}) == [3]
    assert hold([silent()], {"agent": Provider()}) == [3]
    assert hold([], {"agent": Provider()}) == []


def test_a_remote_speaker_has_many_requests_at_a_time() -> None:
    provider = Provider()
    found = hold([converse(f"d{number}.", 2) for number in range(40)], {"agent": provider})
    assert found[7] == "re d7.0 re d7.1" and len(found) == 40
    assert provider.most == 40


@pytest.mark.parametrize("local", ["agent", "emulator"])
def test_a_local_and_a_remote_speaker_play_together(local: Speaker) -> None:
    """Whoever is in this process answers batches; nobody waits for ever."""
    model, provider = Batches(), Provider()
    speakers: dict[Speaker, Batches | Provider] = {"agent": provider, "emulator": provider, local: model}
    found = hold([alternate(f"x{number}") for number in range(FULL_BATCH + 10)], speakers)
    assert found == [f"re re x{number} asks plays" for number in range(FULL_BATCH + 10)]
    assert sum(map(len, model.seen)) == FULL_BATCH + 10
    assert max(map(len, model.seen)) > 10


def test_one_request_that_is_turned_down_is_that_dialogues_own() -> None:
    def recovers() -> Dialogue[str]:
        try:
            yield ask("bad")
        except ProviderError as error:
            return f"heard: {error}"
        return "not reached"

    provider = Provider(lambda text: ProviderError("too long", "rejected") if text == "bad" else None)
    found = hold([recovers(), converse("a", 2)], {"agent": provider})
    assert found == ["heard: too long", "re a0 re a1"]


def test_an_outage_is_told_for_each_dialogue_that_met_it() -> None:
    provider = Provider(lambda text: ProviderError("503", "unavailable") if text == "b1" else None)
    good, lost, other = hold([converse("a", 3), converse("b", 3), converse("c", 3)], {"agent": provider})
    assert good == "re a0 re a1 re a2" and other == "re c0 re c1 re c2"
    assert isinstance(lost, ProviderError) and lost.fault == "unavailable"


def test_a_refusal_ends_all_and_what_is_in_flight_is_waited_for() -> None:
    provider = Provider(lambda text: ProviderError("wrong key", "refused") if text == "k1" else None)
    dialogues = [converse("k", 4), *(converse(f"o{number}.", 4) for number in range(5))]
    found = hold(dialogues, {"agent": provider})
    assert all(isinstance(one, ProviderError) and one.fault == "refused" for one in found)
    # The second request of the others was in flight when the key was refused; nobody made a third.
    assert sorted(provider.answered) == sorted(["k0", *(f"o{n}.{turn}" for n in range(5) for turn in (0, 1))])


def test_an_error_of_a_model_in_this_process_is_raised() -> None:
    class Broken:
        def reply(self, asks: Sequence[Ask]) -> list[Reply]:
            raise RuntimeError("out of order")

    for speakers in ({"agent": Broken()}, {"agent": Broken(), "judge": Provider()}):
        with pytest.raises(RuntimeError, match="out of order"):
            hold([converse("a", 1)], speakers)  # type: ignore[arg-type]


def test_a_loop_that_runs_already_is_left_alone() -> None:
    """A notebook has one."""

    async def cell() -> object:
        return hold([converse("a", 2)], {"agent": Provider()})

    assert asyncio.run(cell()) == ["re a0 re a1"]


class Keeper(Batches):
    """Notes when it is told to forget."""

    def forget(self) -> None:
        self.seen.append(["forget"])


def test_models_forget_what_was_said_before_a_set_of_dialogues() -> None:
    """So that a set of dialogues that is begun again, in a process of its own, meets the same model."""
    keeper = Keeper()
    for _ in range(2):
        hold([converse("a", 2), converse("b", 1)], {"agent": keeper})
    assert keeper.seen == [["forget"], ["a0", "b0"], ["a1"]] * 2
