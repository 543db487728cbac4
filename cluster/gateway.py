"""The gateway: the public API on a grpc.aio server. Stateless; all of its state can be made again.

    request ─ conversion (wire) ─ SearchPipeline (gateway_search.py) ─ conversion ─ answer

Beside the search service it offers the standard health service (after `set_ready` that of the
shards, gateway_health.py; NOT_SERVING while it drains) and server reflection, so that grpcurl needs
no .proto files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from grpc_reflection.v1alpha import reflection

from cluster.gateway_health import GatewayHealth
from cluster.gateway_limits import check_batch
from cluster.gateway_search import SearchPipeline
from cluster.security.api_keys import KeyFile, Role
from cluster.security.exposure import is_loopback
from cluster.security.guard import Guard
from cluster.security.tls import ServerTls, server_credentials
from cluster.telemetry.call_spans import gateway_interceptors
from cluster.version import own_version
from cluster.wire import public as convert
from cluster.wire.channels import server_options
from cluster.wire.handlers import (
    AsyncContext,
    abort_async,
    answering_async,
    begin_async,
    deadline_after,
    problem_of,
)
from cluster.wire.requests import checked, parsing
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from cluster.wire.types import IndexInfo, ServedShard
from colbert_core.errors import AddressInUse, TartanError
from colbert_core.index import Manifest

SERVICE = "tartan.v1.SearchService"
HEALTH = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where a gateway listens and what it admits.

    Attributes:
        port: 0 takes a free one.
        default_timeout_s: for callers that set no deadline.
        max_concurrent: calls at once; beyond it they are refused with RESOURCE_EXHAUSTED.
        batch_parallel: queries of one batch that run at once.
        tls: certificate and key to show; in clear text if None.
        api_keys: file of the keys that are let in; everybody who can connect if None.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    default_timeout_s: float = 30.0
    max_concurrent: int = 512
    batch_parallel: int = 8
    tls: ServerTls | None = None
    api_keys: Path | None = None

    @property
    def authenticates(self) -> bool:
        """Whether it is known who asks: by a key, or by a certificate."""
        certificates = self.tls is not None and self.tls.client_ca is not None
        return certificates or self.api_keys is not None


def guard_of(config: GatewayConfig) -> Guard:
    """Who may call what: by keys; without a file of keys, everybody on loopback everything, and
    everybody elsewhere search (who has a certificate, or who can connect: `--insecure`)."""
    keys = None if config.api_keys is None else KeyFile(config.api_keys)
    trusted = is_loopback(config.host) and not config.authenticates
    return Guard(keys, Role.ADMIN if trusted else Role.SEARCH)


def index_info(manifest: Manifest, pipeline: SearchPipeline) -> IndexInfo:
    """What is being served."""
    codec = pipeline.codec
    return IndexInfo(
        generation=manifest.generation,
        passages=manifest.passages,
        tokens=manifest.tokens,
        dim=codec.dim,
        centroids=codec.centroid_count,
        codec=codec.name,
        bits=codec.bits,
        model=pipeline.encoder.source,
        shards=tuple(
            ServedShard(route.shard_id, route.passages, route.tokens, len(route.replicas))
            for route in pipeline.fan_out.routes
        ),
        limits=pipeline.limits,
        fields=pipeline.fields,
        server_time=time.time(),
        version=own_version(),
    )


class _Servicer(search_pb2_grpc.SearchServiceServicer):
    """The handlers."""

    def __init__(self, pipeline: SearchPipeline, manifest: Manifest, config: GatewayConfig) -> None:
        self._pipeline = pipeline
        self._manifest = manifest
        self._config = config

    @answering_async
    async def Search(  # noqa: N802
        self, request: search_pb2.SearchRequest, context: AsyncContext
    ) -> search_pb2.SearchResponse:
        return await self._answer(request, self._deadline(context))

    async def SearchBatch(  # noqa: N802
        self, request: search_pb2.SearchBatchRequest, context: AsyncContext
    ) -> AsyncIterator[search_pb2.SearchBatchResponse]:
        begin_async(context)
        try:
            check_batch(len(checked(request).requests), self._pipeline.limits)
        except TartanError as error:
            await abort_async(context, error)
        deadline = self._deadline(context)
        permits = asyncio.Semaphore(self._config.batch_parallel)

        async def one(index: int) -> search_pb2.SearchBatchResponse:
            async with permits:
                return await self._batch_answer(index, request.requests[index], deadline)

        tasks = [asyncio.create_task(one(index)) for index in range(len(request.requests))]
        try:
            for ready in asyncio.as_completed(tasks):
                yield await ready
        finally:  # the caller may have gone
            for task in tasks:
                task.cancel()

    @answering_async
    async def GetIndexInfo(  # noqa: N802
        self,
        request: search_pb2.GetIndexInfoRequest,  # noqa: ARG002
        context: AsyncContext,  # noqa: ARG002
    ) -> search_pb2.GetIndexInfoResponse:
        return convert.info_to_proto(index_info(self._manifest, self._pipeline))

    async def _answer(
        self, request: search_pb2.SearchRequest, deadline: float
    ) -> search_pb2.SearchResponse:
        found = await self._pipeline.search(convert.call_from_proto(request), deadline)
        return convert.answer_to_proto(found.answer, found.metadata_json)

    async def _batch_answer(
        self, index: int, request: search_pb2.SearchRequest, deadline: float
    ) -> search_pb2.SearchBatchResponse:
        try:
            answer = await self._answer(request, deadline)
        except Exception as error:
            problem = problem_of(error)
            return search_pb2.SearchBatchResponse(
                index=index,
                problem=search_pb2.Problem(
                    code=problem.code, message=problem.message, error=problem.error
                ),
            )
        return search_pb2.SearchBatchResponse(index=index, answer=answer)

    def _deadline(self, context: AsyncContext) -> float:
        return deadline_after(context.time_remaining(), self._config.default_timeout_s)


class GatewayService(Protocol):
    """Another service that a gateway offers beside search and health."""

    def add_to(self, server: grpc.aio.Server) -> str:
        """Add its handlers to a server that is not started yet; returns its full name."""


class Gateway:
    """One gRPC server over a pipeline. Use within one event loop."""

    def __init__(
        self,
        pipeline: SearchPipeline,
        manifest: Manifest,
        config: GatewayConfig,
        services: Sequence[GatewayService] = (),
    ) -> None:
        """
        Args:
            services: what it offers besides, such as the admin service.

        Raises:
            InvalidInput: a certificate, its key, or the file of API keys is not usable.
        """
        self._config = config
        self._pipeline = pipeline
        self._credentials = None if config.tls is None else server_credentials(config.tls)
        self._server = grpc.aio.server(
            interceptors=[*gateway_interceptors(), guard_of(config)],
            options=server_options(pipeline.limits.max_message_bytes),
            maximum_concurrent_rpcs=config.max_concurrent,
        )
        self._health = GatewayHealth(("", SERVICE), pipeline.fan_out.routes)
        servicer = _Servicer(pipeline, manifest, config)
        search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, parsing(self._server))
        others = [service.add_to(self._server) for service in services]
        names = (SERVICE, HEALTH, *others, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Listen and answer; health says NOT_SERVING until `set_ready`.

        Returns:
            HOST:PORT as a client names it.

        Raises:
            AddressInUse: the address is taken or not one of this machine's.
        """
        wanted = f"{self._config.host}:{self._config.port}"
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(wanted)
            else:
                port = self._server.add_secure_port(wanted, self._credentials)
        except RuntimeError as error:
            raise AddressInUse(
                f"cannot listen on {wanted}: it is in use, or not an address of this machine; "
                "choose another with --port (0 takes a free one) or --host"
            ) from error
        await self._health.add_to(self._server)
        await self._server.start()
        return f"{self._config.host}:{port}"

    async def set_ready(self) -> None:
        """Say SERVING to health checks, for as long as every shard can be reached."""
        await self._health.follow()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Say NOT_SERVING, refuse new calls, finish those under way for up to `grace_s`."""
        await self._health.stop()
        await self._server.stop(grace_s)
        await self._pipeline.fan_out.close()
