"""Texts waiting to be encoded: whatever waits when a thread is free goes to it together.

Nobody waits for others to come: a text that finds a free thread is encoded at once, alone. Together
is cheaper, and gives the same bits (colbert_core/text/together.py). What could only be answered too
late is refused when it comes, and what became too late while it waited is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass, field

from cluster.gateway_cache import ByteLru
from cluster.gateway_encoder import LazyEncoder
from cluster.observer import Observer
from colbert_core.errors import DeadlineExceeded, Overloaded
from colbert_core.types import F32

MEAN_WEIGHT = 0.1
LEAST_MEASURED = 16  # queries, before an expectation is trusted

Key = tuple[str, str | None, str]
"""(identity of the encoder, language, text)"""


@dataclass(eq=False, slots=True)
class _Waiting:
    """One text, and who waits for its vectors."""

    encoder: LazyEncoder
    language: str | None
    text: str
    deadline: float
    since: float
    done: asyncio.Future[tuple[F32, float]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def reads_as(self, other: _Waiting) -> bool:
        """Whether both can be encoded together."""
        return self.encoder is other.encoder and self.language == other.language

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits, and there is time."""
        return not self.done.done() and time.monotonic() < self.deadline


class EncodeQueue:
    """The queue of one gateway, over all its generations. Belongs to one event loop."""

    def __init__(
        self,
        executor: Executor,
        *,
        threads: int,
        max_batch: int = 8,
        cache: ByteLru[Key, F32] | None = None,
        observer: Observer | None = None,
    ) -> None:
        """
        Args:
            threads: of the executor that encode at once.
            max_batch: texts that are encoded together; 1 is one by one.
            cache: of vectors by encoder and text.
        """
        self._executor = executor
        self._free = threads
        self._threads = threads
        self._max_batch = max_batch
        self._cache: ByteLru[Key, F32] = ByteLru(0) if cache is None else cache
        self._observer = observer or Observer()
        self._queue: deque[_Waiting] = deque()
        self._working: set[asyncio.Task[None]] = set()
        self._mean_s = 0.0
        self._measured = 0
        self._encoding = 0  # texts that are at it

    async def encode(
        self, encoder: LazyEncoder, text: str, deadline: float, language: str | None = None
    ) -> tuple[F32, float]:
        """The vectors of a text, float32 [L, D], and the seconds that it waited.

        Args:
            deadline: on time.monotonic().
            language: other than the encoder's own.

        Raises:
            Overloaded: with what waits already it would be too late.
            DeadlineExceeded: it became too late.
            ModelError: the model cannot be loaded.
            InvalidInput: it does not read this language.
        """
        key = (encoder.identity, language, text)
        if self._cache.enabled:
            known = self._cache.get(key)
            self._observer.cache_asked("embedding", known is not None)
            if known is not None:
                return known, 0.0
        self._refuse_if_late(deadline)
        waiting = _Waiting(encoder, language, text, deadline, time.monotonic())
        self._queue.append(waiting)
        self._start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                query_LD, waited_s = await waiting.done
                query_LD.flags.writeable = False  # it may be given to others
                self._cache.put(key, query_LD, query_LD.nbytes + len(text))
                return query_LD, waited_s
        raise DeadlineExceeded(
            "the deadline passed before the query was encoded: give the query more time, or ask "
            "for less"
        )

    def expected_wait_s(self) -> float:
        """How long a text that comes now waits and is encoded, by what others took of late."""
        if self._measured < LEAST_MEASURED:
            return 0.0
        ahead = len(self._queue) + self._encoding
        return (ahead / self._threads + 1.0) * self._mean_s

    def _refuse_if_late(self, deadline: float) -> None:
        left_s, expected_s = deadline - time.monotonic(), self.expected_wait_s()
        if self._queue and expected_s > left_s:
            self._observer.refused("late", "")
            raise Overloaded(
                f"{len(self._queue)} queries wait to be encoded, which takes about "
                f"{expected_s * 1e3:.0f} ms, and the deadline leaves {max(0.0, left_s) * 1e3:.0f}: "
                "ask again after a pause, give more time, or run more gateways"
            )

    def _start(self) -> None:
        """Put what waits to work, as far as threads are free."""
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            self._encoding += len(batch)
            task = asyncio.get_running_loop().create_task(self._work(batch))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    def _next_batch(self) -> list[_Waiting]:
        """The next texts of one encoder and language; those that are not wanted any more are
        dropped."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._max_batch:
            if batch and not self._queue[0].reads_as(batch[0]):
                break
            waiting = self._queue.popleft()
            if waiting.wanted:
                batch.append(waiting)
        return batch

    async def _work(self, batch: list[_Waiting]) -> None:
        texts = [waiting.text for waiting in batch]
        first = batch[0]
        loop = asyncio.get_running_loop()
        try:
            began, took_s, vectors = await loop.run_in_executor(
                self._executor, _encode, first.encoder, first.language, texts
            )
        except Exception as error:
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        finally:
            self._free += 1
            self._encoding -= len(batch)
            self._start()
        self._measure(took_s / len(batch))
        self._observer.encoded(len(batch), (began - batch[0].since) * 1e3, took_s * 1e3)
        for waiting, query_LD in zip(batch, vectors, strict=True):
            if not waiting.done.done():
                waiting.done.set_result((query_LD, began - waiting.since))

    def _measure(self, each_s: float) -> None:
        self._measured += 1
        weight = max(MEAN_WEIGHT, 1.0 / self._measured)
        self._mean_s += weight * (each_s - self._mean_s)


def _encode(
    encoder: LazyEncoder, language: str | None, texts: list[str]
) -> tuple[float, float, list[F32]]:
    """When it began, on time.monotonic(), what it took, and the vectors. Runs in a thread."""
    began = time.monotonic()
    reader = encoder.get() if language is None else encoder.get().in_language(language)
    vectors = reader.encode_queries(texts)
    return began, time.monotonic() - began, vectors
