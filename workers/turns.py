"""How many calls of a shard server work at once, whichever way they came; the others wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Turns:
    """So many at once, first come, first served; safe to share between threads.

    `threading.Semaphore` lets who asks just now go before who waits, and searches that come over
    open lines would ask just now, always.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Lock] = deque()

    def take(self, timeout_s: float) -> bool:
        """Wait for a turn; False where there was none in this time."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=max(0.0, timeout_s)):
            return True
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return False
        return True  # it was given in this very moment

    def give(self) -> None:
        """End a turn that was taken."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class InTurn(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """Lets calls of some methods begin when it is their turn."""

    def __init__(self, turns: Turns, methods: frozenset[str], longest_s: float) -> None:
        """
        Args:
            methods: full names, with service.
            longest_s: to wait, for callers that gave no deadline.
        """
        self._turns = turns
        self._methods = methods
        self._longest_s = longest_s

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Put the wait before the handler."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method not in self._methods:
            return handler
        inner = handler.unary_unary

        def in_turn(request: Any, context: grpc.ServicerContext) -> Any:
            left_s = context.time_remaining()
            taken = self._turns.take(
                self._longest_s if left_s is None else min(left_s, self._longest_s)
            )
            try:  # also without a turn: its time is over then, which the handler tells
                return inner(request, context)
            finally:
                if taken:
                    self._turns.give()

        return grpc.unary_unary_rpc_method_handler(
            in_turn, handler.request_deserializer, handler.response_serializer
        )
