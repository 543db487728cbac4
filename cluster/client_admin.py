"""Asking a gateway as an operator: its admin service in plain values, blocking.

    with AdminClient("localhost:50051", api_key=key) as admin:
        print(admin.stats().live_generation)
        for state in admin.roll_out(RolloutCall()):
            print(state.phase, state.message)

It raises the errors of colbert_core/errors.py, as the gateway raised them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, Unpack

import grpc

from cluster.client_settings import ClientSettings
from cluster.client_targets import open_channel
from cluster.security.client import Access
from cluster.wire import admin
from cluster.wire.admin import Drained, RolloutCall, RolloutState, ScaleChange, ScaleState
from cluster.wire.tartan.v1 import admin_pb2, admin_pb2_grpc

TIMEOUT_S = 10.0


class AdminClient(ClientSettings):
    """A blocking client of the admin service. A context manager."""

    def __init__(
        self, target: str, *, timeout_s: float = TIMEOUT_S, **access: Unpack[Access]
    ) -> None:
        """As `Client` takes them; `timeout_s` is for one call, but for `roll_out`."""
        super().__init__(target, timeout_s=timeout_s, **access)
        self._channel = open_channel(self.targets[0], self._credentials[0])  # any gateway will do
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)

    def list_shards(self) -> admin.Topology:
        """The topology now."""
        request = admin_pb2.ListShardsRequest()
        return admin.from_proto(admin.Topology, self._ask(self._stub.ListShards, request))

    def stats(self) -> admin.Stats:
        """Gateways, load, versions, the last rollout."""
        request = admin_pb2.GetStatsRequest()
        return admin.from_proto(admin.Stats, self._ask(self._stub.GetStats, request))

    def reload(self) -> tuple[str, str]:
        """Begin to roll out what is live on disk; its rollout id ("" if it is served) and name."""
        answer = self._ask(self._stub.Reload, admin_pb2.ReloadRequest())
        return answer.rollout_id, answer.generation

    def roll_out(
        self, call: RolloutCall, *, timeout_s: float | None = None
    ) -> Iterator[RolloutState]:
        """Roll out; yields every change until it is done.

        Args:
            timeout_s: that is waited here; the rollout goes on whatever becomes of the caller.

        Raises:
            AlreadyRunning: another rollout is under way.
            RolledBack: with the reason.
            InvalidInput, IndexMissing: there is no such index, or no such generation.
        """
        request = admin.to_proto(call, admin_pb2.RolloutRequest())
        try:
            for answer in self._stub.Rollout(request, timeout=timeout_s, metadata=self._metadata):
                yield admin.from_proto(RolloutState, answer.rollout)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def scale(self, change: ScaleChange) -> ScaleState:
        """Change how many replicas and gateways there are, or the bounds."""
        request = admin.to_proto(change, admin_pb2.ScaleRequest())
        return admin.from_proto(ScaleState, self._ask(self._stub.Scale, request).scale)

    def drain(self, *, replica: str = "", gateway: str = "", node: str = "") -> Drained:
        """Take one of them out of service without losing a call."""
        named = {"replica_id": replica, "gateway_id": gateway, "node_id": node}
        request = admin_pb2.DrainRequest(**{key: name for key, name in named.items() if name})
        return admin.from_proto(Drained, self._ask(self._stub.Drain, request))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from None
