"""The gateway's side of the gateway–shard API: one shard server over gRPC, in plain values."""

from __future__ import annotations

import time

import grpc

from cluster.wire import shard as convert
from cluster.wire.channels import channel_options
from cluster.wire.inner_tls import SERVER_NAME, InnerTls
from cluster.wire.request_context import Metadata, passed_on
from cluster.wire.shard_lines import ShardLines
from cluster.wire.status import from_status
from cluster.wire.tartan.shard.v1 import shard_pb2, shard_pb2_grpc
from cluster.wire.token import bearer
from cluster.wire.types import FetchQuery, ShardAnswer, ShardIdentity, ShardQuery, StoredPassage
from colbert_core.errors import DeadlineExceeded, IndexMissing, TartanError


class ShardChannel:
    """One shard server. Connects at the first call; a broken connection is made anew by itself.

    Every call raises the class of error that the server raised, or Unavailable if it is away, or
    DeadlineExceeded after `timeout_s`.
    """

    def __init__(
        self,
        address: str,
        shard_id: str,
        token: str | None = None,
        tls: InnerTls | None = None,
    ) -> None:
        """
        Args:
            token: what the server asks for.
            tls: the gateway's certificates; in clear text if None.
        """
        self.address = address
        self._metadata = bearer(token)
        self._shard_id = shard_id
        # Channels to the same address would share one connection, which a paused server blocks.
        options: list[tuple[str, int | str]] = [
            *channel_options(proxy=False),  # a shard server is in the gateway's own network
            ("grpc.use_local_subchannel_pool", 1),
            # Held, and tried, without calls too: health is that of the connection.
            ("grpc.client_idle_timeout_ms", 2**31 - 1),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(
                address, tls.of_channel(), options=[*options, SERVER_NAME]
            )
        self._stub = shard_pb2_grpc.ShardServiceStub(self._channel)
        self._lines = ShardLines(self._stub, self._metadata)

    def connected(self) -> bool:
        """Whether there is a connection now; where there is none, it begins to be made."""
        state = self._channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:
        """The shard's best passages, over a line where one is free."""
        request = convert.query_to_proto(query, self._shard_id)
        until = time.monotonic() + timeout_s
        try:
            answer = await self._lines.search(request, passed_on(), timeout_s)
            if answer is None:
                answer = await self._stub.Search(
                    request, timeout=until - time.monotonic(), metadata=self._call_metadata()
                )
        except TimeoutError:
            raise DeadlineExceeded(
                f"shard server {self.address} did not answer in {timeout_s:.3g} s"
            ) from None
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        return convert.answer_from_proto(answer)

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:
        """Passages in the order of `query.pids_M`."""
        request = convert.fetch_to_proto(query, self._shard_id)
        try:
            answer = await self._stub.Fetch(
                request, timeout=timeout_s, metadata=self._call_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        return [convert.passage_from_proto(passage) for passage in answer.passages]

    async def identity(self, timeout_s: float) -> ShardIdentity:
        """What the server holds."""
        request = shard_pb2.GetShardInfoRequest()
        try:
            answer = await self._stub.GetShardInfo(
                request, timeout=timeout_s, metadata=self._call_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        return convert.identity_from_proto(answer)

    async def probe(self, generation: str, timeout_s: float) -> None:
        """Return if the server answers and holds its shard of the generation.

        Raises:
            IndexMissing: it holds something else.
        """
        held = await self.identity(timeout_s)
        if (held.generation, held.shard_id) != (generation, self._shard_id):
            raise IndexMissing(
                f"shard server {self.address} holds shard {held.shard_id} of generation "
                f"{held.generation}, not shard {self._shard_id} of generation {generation}"
            )

    async def close(self) -> None:
        """End the connection; calls under way are cancelled."""
        await self._channel.close(None)

    def _call_metadata(self) -> Metadata:
        return (*self._metadata, *passed_on())

    def _error(self, error: grpc.aio.AioRpcError) -> TartanError:
        return from_status(
            error.code(), error.details(), error.trailing_metadata(), f"shard server {self.address}"
        )
