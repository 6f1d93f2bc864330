"""Texts on their way into a store: dictionaries are trained on the first of a kind, a thread compresses."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from holdfast.store import Store
from holdfast.store.codec import Text, train_dictionary

SAMPLES = 384  # texts of a kind that its dictionary is trained on; fewer than that do without
BATCH_TEXTS = 64
WAITING_BATCHES = 4  # compressed ahead of the database; bounds memory
META_PREFIX = "dictionary:"


@dataclass(slots=True)
class Slot:
    """Where a written text lies: its key in the store and its digest, known once the writer is flushed."""

    key: int = 0
    digest: bytes = b""


class TextWriter:
    """Writes texts of several kinds into an open transaction of a store; a context manager."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compress")
        self._samples: dict[str, list[tuple[bytes, Slot]]] = {}
        self._dictionaries: dict[str, int] = {}
        self._batch: list[tuple[int, bytes, Slot]] = []
        self._waiting: deque[tuple[Future[list[Text]], list[Slot]]] = deque()

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, kind: str, plain: bytes) -> Slot:
        """Take a text; its slot is filled by ``flush`` at the latest."""
        slot = Slot()
        if kind not in self._dictionaries and (known := self._store.meta(META_PREFIX + kind)) is not None:
            self._dictionaries[kind] = int(known)
        if kind in self._dictionaries:
            self._add(self._dictionaries[kind], [(plain, slot)])
            return slot
        samples = self._samples.setdefault(kind, [])
        samples.append((plain, slot))
        if len(samples) == SAMPLES:
            number = self._store.add_dictionary(train_dictionary([sample for sample, _ in samples]))
            self._store.set_meta(META_PREFIX + kind, str(number))
            self._dictionaries[kind] = number
            self._add(number, self._samples.pop(kind))
        return slot

    def flush(self) -> None:
        """Write everything that was taken; kinds with too few texts for a dictionary go without."""
        for samples in self._samples.values():
            self._add(0, samples)
        self._samples.clear()
        self._submit()
        while self._waiting:
            self._store_oldest()

    def _add(self, dictionary: int, texts: list[tuple[bytes, Slot]]) -> None:
        for plain, slot in texts:
            self._batch.append((dictionary, plain, slot))
            if len(self._batch) == BATCH_TEXTS:
                self._submit()

    def _submit(self) -> None:
        batch, self._batch = self._batch, []
        pack = self._store.text_codec.pack
        future = self._pool.submit(lambda: [pack(plain, dictionary) for dictionary, plain, _ in batch])
        self._waiting.append((future, [slot for _, _, slot in batch]))
        if len(self._waiting) > WAITING_BATCHES:
            self._store_oldest()

    def _store_oldest(self) -> None:
        future, slots = self._waiting.popleft()
        for text, slot in zip(future.result(), slots, strict=True):
            slot.key, slot.digest = self._store.add_text(text), text.digest
