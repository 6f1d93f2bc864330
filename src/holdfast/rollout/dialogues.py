"""Carries on many dialogues with models at once: episodes with an agent, tools that a model plays, judgements.

A *dialogue* is a generator. It yields an ``Ask``, is sent the ``Reply`` and goes on, until it returns its result. It
knows nothing of who answers: models in this process answer whatever is waiting as one batch, remote ones answer as
many requests at a time as their connections allow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from holdfast.models import Ask, Model, RemoteModel, Reply, Speaker
from holdfast.records.errors import ProviderError

T = TypeVar("T")
Dialogue = Generator[Ask, Reply, T]
Speakers = Mapping[Speaker, Model | RemoteModel]
# So many waiting requests are answered without waiting for more.
FULL_BATCH = 64


def hold(dialogues: Sequence[Dialogue[T]], speakers: Speakers) -> list[T | ProviderError]:
    """The result of every dialogue, in order, or the error that it could not go on from.

    A request that a provider gives no reply to raises ProviderError inside its dialogue, which may go on from it. An
    error that no other request would escape (a wrong key, a spent budget) ends all dialogues: requests in flight are
    waited for, no further one is made, and what is unfinished gets that error. Where all speakers are in this process,
    batches and results are the same however often this is repeated.
    """
    if any(_is_remote(speaker) for speaker in speakers.values()):
        return _run_alone(lambda: asyncio.run(_Concurrent(speakers, len(dialogues)).hold(dialogues)))
    return _in_lockstep(dialogues, speakers)


def _run_alone(work: Callable[[], T]) -> T:
    """The work's result; in a thread of its own where this one has a running loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _is_remote(speaker: Model | RemoteModel) -> bool:
    return hasattr(speaker, "ask")


@dataclass(slots=True)
class _Open(Generic[T]):
    """A dialogue that waits for a reply."""

    place: int
    dialogue: Dialogue[T]
    ask: Ask


def _in_lockstep(dialogues: Sequence[Dialogue[T]], speakers: Speakers) -> list[T | ProviderError]:
    """Every round answers all that wait for one speaker, in the order of the dialogues, as one batch."""
    results: list[Any] = [None] * len(dialogues)
    waiting: list[_Open[T]] = []
    for place, dialogue in enumerate(dialogues):
        _go_on(place, dialogue, None, results, waiting)
    while waiting:
        speaker = waiting[0].ask.speaker
        batch = [one for one in waiting if one.ask.speaker == speaker]
        waiting = [one for one in waiting if one.ask.speaker != speaker]
        replies = cast(Model, speakers[speaker]).reply([one.ask for one in batch])
        for one, reply in zip(batch, replies, strict=True):
            _go_on(one.place, one.dialogue, reply, results, waiting)
        waiting.sort(key=lambda one: one.place)
    return results


def _go_on(place: int, dialogue: Dialogue[T], reply: Reply | None, results: list[Any], waiting: list[_Open[T]]) -> None:
    try:
        ask = dialogue.send(cast(Reply, reply))
    except StopIteration as end:
        results[place] = end.value
    except ProviderError as error:
        results[place] = error
    else:
        waiting.append(_Open(place=place, dialogue=dialogue, ask=ask))


@dataclass(slots=True)
class _Batcher:
    """Gathers requests to a model of this process until nobody else can go on, and answers them as one batch."""

    model: Model
    waiting: list[tuple[Ask, asyncio.Future[Reply]]] = field(default_factory=list)

    async def answer(self) -> None:
        batch, self.waiting = self.waiting, []
        try:
            replies = await asyncio.to_thread(self.model.reply, [ask for ask, _ in batch])
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            future.set_result(reply)


class _Concurrent:
    """Every dialogue a task; the ones that wait for a model of this process are answered when all of them wait."""

    def __init__(self, speakers: Speakers, count: int) -> None:
        self._speakers = speakers
        self._batchers = {name: _Batcher(cast(Model, one)) for name, one in speakers.items() if not _is_remote(one)}
        self._running, self._blocked = count, 0
        self._fatal: ProviderError | None = None
        self._turn = asyncio.Condition()

    async def hold(self, dialogues: Sequence[Dialogue[T]]) -> list[T | ProviderError]:
        tasks = [asyncio.create_task(self._carry_on(dialogue)) for dialogue in dialogues]
        flusher = asyncio.create_task(self._answer_batches()) if self._batchers else None
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, *([flusher] if flusher else [])):
                task.cancel()

    async def _carry_on(self, dialogue: Dialogue[T]) -> T | ProviderError:
        try:
            ask = next(dialogue)
            while True:
                if self._fatal is not None:
                    raise self._fatal
                try:
                    reply = await self._answer(ask)
                except ProviderError as error:
                    if error.fatal:
                        self._fatal = self._fatal or error
                        raise
                    ask = dialogue.throw(error)
                else:
                    ask = dialogue.send(reply)
        except StopIteration as end:
            return cast(T, end.value)
        except ProviderError as error:
            dialogue.close()
            return error
        finally:
            self._running -= 1
            async with self._turn:
                self._turn.notify_all()

    async def _answer(self, ask: Ask) -> Reply:
        batcher = self._batchers.get(ask.speaker)
        if batcher is None:
            return await cast(RemoteModel, self._speakers[ask.speaker]).ask(ask)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        batcher.waiting.append((ask, future))
        self._blocked += 1
        async with self._turn:
            self._turn.notify_all()
        try:
            return await future
        finally:
            self._blocked -= 1

    async def _answer_batches(self) -> None:
        """Answer the fullest batch whenever it is full, or nobody can go on without a model of this process."""

        def ready() -> bool:
            return 0 < self._running <= self._blocked or len(self._fullest().waiting) >= FULL_BATCH

        while True:
            async with self._turn:
                await self._turn.wait_for(ready)
            await self._fullest().answer()
            # Those who were answered stop being blocked when they go on.
            await asyncio.sleep(0)

    def _fullest(self) -> _Batcher:
        return max(self._batchers.values(), key=lambda one: len(one.waiting))
