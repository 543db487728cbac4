"""The queue of texts: nobody waits for others to come, and what waits goes together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cluster.gateway_encoder import LazyEncoder
from cluster.gateway_encoding import LEAST_MEASURED, EncodeQueue
from cluster.observer import Observer, Refusal
from colbert_core.errors import DeadlineExceeded, ModelError, Overloaded

LONG_S = 60.0


class Gated:
    """Encodes when the test lets it; keeps the batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[str]] = []
        self.languages: list[str] = []

    def in_language(self, language: str) -> Gated:
        self.languages.append(language)
        return self

    def encode_queries(self, texts: list[str]) -> list[Any]:
        self.batches.append(list(texts))
        assert self.gate.wait(LONG_S)
        if "bad" in texts:
            raise ModelError("the model is damaged")
        return [np.full((1, 4), len(text), np.float32) for text in texts]

    def query_tokens(self, text: str) -> list[str]:
        return []

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        return []


class Told(Observer):
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.refusals: list[str] = []

    def encoded(self, queries: int, waited_ms: float, took_ms: float) -> None:
        self.sizes.append(queries)

    def refused(self, reason: Refusal, client: str) -> None:
        self.refusals.append(reason)


def later(seconds: float = LONG_S) -> float:
    return time.monotonic() + seconds


def with_queue(
    test: Callable[[EncodeQueue, Gated, LazyEncoder, Told], Any], **options: Any
) -> None:
    async def run() -> None:
        gated, told = Gated(), Told()
        encoder = LazyEncoder("gated", lambda: gated)
        with ThreadPoolExecutor(2) as executor:
            queue = EncodeQueue(executor, threads=1, observer=told, **options)
            try:
                await test(queue, gated, encoder, told)
            finally:
                gated.gate.set()

    asyncio.run(run())


async def entered(gated: Gated, batches: int) -> None:
    async with asyncio.timeout(LONG_S):
        while len(gated.batches) < batches:
            await asyncio.sleep(0.001)


async def submitted(
    queue: EncodeQueue, encoder: LazyEncoder, *texts: str
) -> list[asyncio.Task[tuple[Any, float]]]:
    tasks = [asyncio.create_task(queue.encode(encoder, text, later())) for text in texts]
    await asyncio.sleep(0)
    return tasks


def test_the_first_goes_alone_and_what_came_meanwhile_together() -> None:
    async def test(queue: EncodeQueue, gated: Gated, encoder: LazyEncoder, told: Told) -> None:
        first = await submitted(queue, encoder, "a")
        await entered(gated, 1)
        others = await submitted(queue, encoder, *"bcdef")
        gated.gate.set()
        found = await asyncio.gather(*first, *others)
        assert [query_LD[0, 0] for query_LD, _ in found] == [1.0] * 6
        assert gated.batches == [["a"], ["b", "c", "d", "e"], ["f"]]
        assert told.sizes == [1, 4, 1]

    with_queue(test, max_batch=4)


def test_languages_are_not_encoded_together() -> None:
    async def test(queue: EncodeQueue, gated: Gated, encoder: LazyEncoder, told: Told) -> None:
        first = await submitted(queue, encoder, "a")
        await entered(gated, 1)
        others = [
            asyncio.create_task(queue.encode(encoder, text, later(), language))
            for text, language in (("b", "de"), ("c", "de"), ("d", None), ("e", "en"))
        ]
        await asyncio.sleep(0)
        gated.gate.set()
        await asyncio.gather(*first, *others)
        assert gated.batches == [["a"], ["b", "c"], ["d"], ["e"]]
        assert gated.languages == ["de", "en"]

    with_queue(test)


def test_who_went_away_or_is_too_late_is_not_encoded() -> None:
    async def test(queue: EncodeQueue, gated: Gated, encoder: LazyEncoder, told: Told) -> None:
        (first,) = await submitted(queue, encoder, "a")
        await entered(gated, 1)
        (gone,) = await submitted(queue, encoder, "gone")
        with pytest.raises(DeadlineExceeded, match="before the query was encoded"):
            await queue.encode(encoder, "late", later(0.02))
        (stays,) = await submitted(queue, encoder, "stays")
        gone.cancel()
        gated.gate.set()
        await first
        await stays
        assert gated.batches == [["a"], ["stays"]]

    with_queue(test)


def test_an_error_reaches_everybody_of_its_batch_and_nobody_else() -> None:
    async def test(queue: EncodeQueue, gated: Gated, encoder: LazyEncoder, told: Told) -> None:
        gated.gate.set()
        for text in ("bad", "bad"):
            with pytest.raises(ModelError, match="damaged"):
                await queue.encode(encoder, text, later())
        query_LD, _ = await queue.encode(encoder, "good", later())
        assert query_LD[0, 0] == 4

    with_queue(test)


def test_texts_of_two_models_never_go_together() -> None:
    async def test(queue: EncodeQueue, gated: Gated, encoder: LazyEncoder, told: Told) -> None:
        other = LazyEncoder("other", lambda: gated)
        first = await submitted(queue, encoder, "a")
        await entered(gated, 1)
        rest = [
            *await submitted(queue, encoder, "b"),
            *await submitted(queue, other, "c"),
            *await submitted(queue, encoder, "d"),
        ]
        gated.gate.set()
        await asyncio.gather(*first, *rest)
        assert gated.batches == [["a"], ["b"], ["c"], ["d"]]

    with_queue(test)


def test_what_could_only_be_too_late_is_refused_when_it_comes() -> None:
    async def test(queue: EncodeQueue, gated: Gated, encoder: LazyEncoder, told: Told) -> None:
        gated.gate.set()
        for _ in range(LEAST_MEASURED):
            await queue.encode(encoder, "a", later())
        queue._mean_s = 1.0  # as if each had taken a second
        gated.gate.clear()
        waiting = await submitted(queue, encoder, *"bcdefghijkl")
        assert queue.expected_wait_s() == pytest.approx(12.0)
        with pytest.raises(Overloaded, match=r"10 queries wait .* 12000 ms, and the deadline"):
            await queue.encode(encoder, "late", later(5.0))
        assert told.refusals == ["late"]
        patient = asyncio.create_task(queue.encode(encoder, "patient", later()))
        await asyncio.sleep(0)
        gated.gate.set()
        await asyncio.gather(*waiting, patient)

    with_queue(test, max_batch=1)
