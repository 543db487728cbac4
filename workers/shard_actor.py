"""A shard server as a Ray actor's class: cluster/controller makes actors of it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.wire.inner_tls import InnerTls
from cluster.wire.types import ShardIdentity
from colbert_core.errors import IndexCorrupt
from colbert_core.hardware import searches_at_once
from workers.heap import freeze_heap
from workers.held_shard import HeldShard
from workers.process_meter import ProcessMeter, ProcessState
from workers.shard_lines import Interceptor
from workers.shard_server import ShardServer

SETTLE_S = 60.0  # between two looks whether the shard fits into memory by now


class Telemetry(Protocol):
    """What tells of a shard server: metrics, logs, traces (cluster/telemetry/process.py)."""

    def start(
        self, shard: ShardIdentity, mapped_bytes: int, copied_bytes: Callable[[], int]
    ) -> Sequence[Interceptor]:
        """Begin in this process; gives what the gRPC server is made with."""


class ShardServerActor:
    """Opens a shard and serves it at the first call; usable without Ray, too."""

    def __init__(
        self,
        index: str,
        generation: str,
        shard_id: str,
        host: str,
        threads: int | None = None,
        device: str = "cpu",
        token: str | None = None,
        tls: InnerTls | None = None,
        telemetry: Telemetry | None = None,
        niceness: int = 0,
    ) -> None:
        """Nothing that can fail: an error here would reach the caller without its class.

        Args:
            host: what to listen on; "" means this Ray node's own address.
            threads: calls that run at once; as many as the device is worth by default.
            token: what the server asks its callers for.
            tls: the shard servers' certificates, for gateways alone; in clear text if None.
            telemetry: begins when the shard is open.
            niceness: of the process, at least.
        """
        os.nice(max(0, niceness - os.nice(0)))
        self._wanted = (index, generation, shard_id, device)
        self._host = host
        self._token = token
        self._tls = tls
        self._telemetry = telemetry
        self._threads = threads or searches_at_once(device)
        self._meter = ProcessMeter()
        self._server: ShardServer | None = None
        self._stopping = threading.Event()

    def address(self) -> str:
        """Where the server answers. Opens the shard and starts the server at the first call, and
        again, at another address, after Ray has restarted the actor.

        Raises:
            IndexMissing, IndexCorrupt: the shard cannot be opened.
            Unavailable: there is no port to listen on.
        """
        if self._server is None:
            held = HeldShard.open(*self._wanted)
            interceptors: Sequence[Interceptor] = ()
            if self._telemetry is not None:
                interceptors = self._telemetry.start(
                    held.identity, held.mapped_bytes, lambda: held.copied_bytes
                )
            self._server = ShardServer(
                held,
                host=self._host or _node_ip(),
                threads=self._threads,
                token=self._token,
                tls=self._tls,
                interceptors=interceptors,
            )
            self._server.start()
            threading.Thread(target=self._settle, args=(held,), daemon=True).start()
            freeze_heap()
        return self._server.address

    def probe(self) -> ProcessState:
        """Where the server answers, as `address`, and how its process does."""
        return self._meter.read(self.address())

    def stop(self, grace_s: float) -> None:
        """Finish what is under way, for up to `grace_s`, and end."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop(grace_s)

    def _settle(self, held: HeldShard) -> None:
        """Copy into memory later what did not fit when the shard was opened."""
        try:
            while not held.settle():
                if self._stopping.wait(SETTLE_S):
                    return
        except IndexCorrupt as error:
            logging.getLogger(__name__).warning("searched as it is mapped: %s", error)


def _node_ip() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
