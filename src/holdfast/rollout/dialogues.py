"""Carries on many dialogues with models at once: episodes with an agent, tools that a model plays, judgements.

A *dialogue* is a generator. It yields an ``Ask``, is sent the ``Reply`` and goes on, until it returns its result. It
knows nothing of who answers: models in this process answer whatever is waiting as one batch, remote ones answer as
many requests at a time as their connections allow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from holdfast.models import Ask, Model, Remembering, RemoteModel, Reply, Speaker
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
    for speaker in speakers.values():
        if isinstance(speaker, Remembering):
            speaker.forget()
    if not any(map(_is_remote, speakers.values())):
        return _in_lockstep(dialogues, speakers)

    def work() -> list[T | ProviderError]:
        return asyncio.run(_Concurrent(speakers, len(dialogues)).hold(dialogues))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as thread:  # a loop runs in this one, as in a notebook
        return thread.submit(work).result()


def _is_remote(speaker: Model | RemoteModel) -> bool:
    return hasattr(speaker, "ask")


def _in_lockstep(dialogues: Sequence[Dialogue[T]], speakers: Speakers) -> list[T | ProviderError]:
    """Every round answers all that wait for one speaker, in the order of the dialogues, as one batch."""
    results: list[Any] = [None] * len(dialogues)
    waiting: dict[int, Ask] = {}

    def go_on(number: int, reply: Reply | None) -> None:
        waiting.pop(number, None)
        try:
            waiting[number] = dialogues[number].send(cast(Reply, reply))
        except StopIteration as end:
            results[number] = end.value
        except ProviderError as error:
            results[number] = error

    for number in range(len(dialogues)):
        go_on(number, None)
    while waiting:
        speaker = waiting[min(waiting)].speaker
        batch = [number for number in sorted(waiting) if waiting[number].speaker == speaker]
        replies = cast(Model, speakers[speaker]).reply([waiting[number] for number in batch])
        for number, reply in zip(batch, replies, strict=True):
            go_on(number, reply)
    return results


async def carry_on(dialogue: Dialogue[T], answer: Callable[[Ask], Awaitable[Reply]]) -> T:
    """A dialogue's result, every request of it answered by ``answer``.

    A ProviderError is thrown into the dialogue, unless no other request would escape it.
    """
    try:
        ask = next(dialogue)
        while True:
            try:
                reply = await answer(ask)
            except ProviderError as error:
                if error.fatal:
                    raise
                ask = dialogue.throw(error)
            else:
                ask = dialogue.send(reply)
    except StopIteration as end:
        return cast(T, end.value)
    finally:
        dialogue.close()


class _Concurrent:
    """Every dialogue a task; the ones that wait for a model of this process are answered when all of them wait."""

    def __init__(self, speakers: Speakers, count: int) -> None:
        self._speakers = speakers
        # Requests to models of this process.
        self._waiting: dict[Speaker, list[tuple[Ask, asyncio.Future[Reply]]]] = {
            name: [] for name, speaker in speakers.items() if not _is_remote(speaker)
        }
        self._running, self._blocked = count, 0
        self._fatal: ProviderError | None = None
        self._turn = asyncio.Condition()

    async def hold(self, dialogues: Sequence[Dialogue[T]]) -> list[T | ProviderError]:
        tasks = [asyncio.create_task(self._carry_on(dialogue)) for dialogue in dialogues]
        flusher = asyncio.create_task(self._answer_batches()) if self._waiting else None
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, *([flusher] if flusher else [])):
                task.cancel()

    async def _carry_on(self, dialogue: Dialogue[T]) -> T | ProviderError:
        try:
            return await carry_on(dialogue, self._answer)
        except ProviderError as error:
            if error.fatal:
                self._fatal = self._fatal or error
            return error
        finally:
            self._running -= 1
            async with self._turn:
                self._turn.notify_all()

    async def _answer(self, ask: Ask) -> Reply:
        if self._fatal is not None:
            raise self._fatal
        if ask.speaker not in self._waiting:
            return await cast(RemoteModel, self._speakers[ask.speaker]).ask(ask)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[ask.speaker].append((ask, future))
        self._blocked += 1
        async with self._turn:
            self._turn.notify_all()
        try:
            return await future
        finally:
            self._blocked -= 1

    async def _answer_batches(self) -> None:
        """Answer the fullest batch whenever it is full, or nobody can go on without a model of this process."""

        def fullest() -> Speaker:
            return max(self._waiting, key=lambda name: len(self._waiting[name]))

        def ready() -> bool:
            return 0 < self._running <= self._blocked or len(self._waiting[fullest()]) >= FULL_BATCH

        while True:
            async with self._turn:
                await self._turn.wait_for(ready)
            speaker = fullest()
            batch, self._waiting[speaker] = self._waiting[speaker], []
            try:
                model = cast(Model, self._speakers[speaker])
                replies = await asyncio.to_thread(model.reply, [ask for ask, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), reply in zip(batch, replies, strict=True):
                    future.set_result(reply)
            # Those who were answered stop being blocked when they go on.
            await asyncio.sleep(0)
