"""Calls that wait for the device are answered together: what waits meanwhile is the next batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class _Call(Generic[Asked, Answer]):
    def __init__(self, key: Hashable, asked: Asked) -> None:
        self.key, self.asked = key, asked
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.done = False


class Combiner(Generic[Asked, Answer]):
    """Turns calls of many threads into batches; a call that comes alone waits for nobody.

    Args:
        run: answers a batch, in its order. One batch runs at a time.
        most: calls of a batch.
    """

    def __init__(self, run: Callable[[Sequence[Asked]], Sequence[Answer]], most: int) -> None:
        self._run, self._most = run, most
        self._turn, self._queue_lock = Lock(), Lock()
        self._waiting: list[_Call[Asked, Answer]] = []

    def __call__(self, key: Hashable, asked: Asked) -> Answer:
        """The answer, by this thread or by one that took the call along.

        Args:
            key: only calls of equal keys run in one batch.

        Raises: what `run` raised for the batch.
        """
        call: _Call[Asked, Answer] = _Call(key, asked)
        with self._queue_lock:
            self._waiting.append(call)
        while not call.done:
            with self._turn:
                if not call.done:
                    self._answer(self._take())
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer

    def _take(self) -> list[_Call[Asked, Answer]]:
        """The longest waiting call, and what may go with it."""
        with self._queue_lock:
            key = self._waiting[0].key
            batch = [call for call in self._waiting if call.key == key][: self._most]
            self._waiting = [call for call in self._waiting if call not in batch]
        return batch

    def _answer(self, batch: list[_Call[Asked, Answer]]) -> None:
        try:
            answers = self._run([call.asked for call in batch])
            for call, answer in zip(batch, answers, strict=True):
                call.answer = answer
        except BaseException as error:
            for call in batch:
                call.error = error
        finally:
            for call in batch:
                call.done = True
