"""Who is let in: bounds on what is under way, in calls and bytes, for all and for each client.

A permit is taken before any work, and what is beyond a bound is refused at once, for a late refusal
costs as much as an answer. The clock is passed in, so that all of this is tested without waiting.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.gateway_config import GatewayConfig
from cluster.observer import Observer, Refusal
from colbert_core.errors import Overloaded

CLIENTS_REMEMBERED = 10_000


@dataclass(eq=False, slots=True)
class _Client:
    """What one client has under way, and how many queries it has saved up."""

    queries: float
    seen: float
    under_way: int = 0


class Admission:
    """The permits of one gateway. Belongs to one event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._observer = observer or Observer()
        self._clock = clock
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # least recently seen first
        self.under_way = 0
        self.bytes = 0

    @contextmanager
    def admitted(self, name: str, size_bytes: int, queries: int = 1) -> Iterator[None]:
        """Hold a permit for one call of a client, for as long as the block runs.

        Args:
            size_bytes: of its message.
            queries: that it asks.

        Raises:
            Overloaded: a bound is reached; the message says which, and its value.
        """
        client = self._client(name)
        self._check_all(name, size_bytes)
        self._check_client(client, name, queries)
        client.queries -= queries
        client.under_way += 1
        self.under_way += 1
        self.bytes += size_bytes
        try:
            yield
        finally:
            client.under_way -= 1
            self.under_way -= 1
            self.bytes -= size_bytes

    def _client(self, name: str) -> _Client:
        """What is known of a client now, its queries filled up."""
        now = self._clock()
        client = self._clients.pop(name, None)
        if client is None:
            client = _Client(self._burst, now)
        client.queries = min(
            self._burst, client.queries + (now - client.seen) * self._config.client_qps
        )
        client.seen = now
        self._clients[name] = client
        self._forget()
        return client

    @property
    def _burst(self) -> float:
        return max(1.0, self._config.client_qps)

    def _forget(self) -> None:
        """Forget clients that were not seen for longest, but none that has calls under way."""
        for name in list(self._clients)[: max(0, len(self._clients) - CLIENTS_REMEMBERED)]:
            if not self._clients[name].under_way:
                del self._clients[name]

    def _check_all(self, name: str, size_bytes: int) -> None:
        config = self._config
        if self.under_way >= config.max_concurrent:
            self._refuse(
                "count",
                name,
                f"{self.under_way} calls are under way and the limit is {config.max_concurrent} "
                "(max_concurrent): ask again after a pause, or run more gateways",
            )
        # A single call is let in whatever its size: max_message_bytes bounds it.
        if self.under_way and self.bytes + size_bytes > config.max_bytes:
            self._refuse(
                "bytes",
                name,
                f"requests of {self.bytes:,} bytes are under way, this one has {size_bytes:,}, and "
                f"the limit is {config.max_bytes:,} (max_bytes): ask again after a pause",
            )

    def _check_client(self, client: _Client, name: str, queries: int) -> None:
        config = self._config
        if config.client_concurrent and client.under_way >= config.client_concurrent:
            self._refuse(
                "client_count",
                name,
                f"client {name} has {client.under_way} calls under way and the limit for each "
                f"client is {config.client_concurrent} (client_concurrent): wait for answers",
            )
        # A batch may be larger than what can be saved up: it is let in when that is full, and the
        # client waits the longer afterwards.
        if config.client_qps and client.queries < min(queries, self._burst):
            self._refuse(
                "client_rate",
                name,
                f"client {name} asks more than {config.client_qps:g} queries a second, the limit "
                "for each client (client_qps): ask more slowly",
            )

    def _refuse(self, reason: Refusal, name: str, message: str) -> None:
        self._observer.refused(reason, name)
        raise Overloaded(message)
