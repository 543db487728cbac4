"""A shard server: one shard of one generation behind its own gRPC endpoint.

    HeldShard          what is searched: plain values in and out, no gRPC
    ShardServer        a sync grpc.server around it, with the standard health service
    ShardServerActor   the same as a Ray actor's class; cluster/controller makes actors of it

The server is sync because the kernel is native and blocks: the GIL is released inside, and a thread
pool with a bounded number of calls is all that is needed. Beyond the bound gRPC itself answers
RESOURCE_EXHAUSTED at once. The deadline of a call is the kernel's deadline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cluster.wire import shard as convert
from cluster.wire.channels import DEFAULT_MAX_MESSAGE_BYTES, server_options
from cluster.wire.handlers import answering, deadline_after
from cluster.wire.inner_tls import InnerTls
from cluster.wire.requests import parsing
from cluster.wire.tartan.shard.v1 import shard_pb2, shard_pb2_grpc
from cluster.wire.token import TokenGuard
from cluster.wire.types import FetchQuery, ShardAnswer, ShardIdentity, ShardQuery, StoredPassage
from colbert_core.errors import (
    DeadlineExceeded,
    IndexCorrupt,
    IndexMissing,
    QueryError,
    Unavailable,
)
from colbert_core.hardware import searches_at_once
from colbert_core.index import (
    Lease,
    Pin,
    ShardReader,
    discard,
    files_of,
    open_generation,
    verify_checksums,
)
from colbert_core.search import Matcher, check_query, search_shard
from colbert_core.types import I32, I64, SearchParams
from workers.process_meter import ProcessMeter, ProcessState

SERVICE = "tartan.shard.v1.ShardService"
DEFAULT_TIMEOUT_S = 60.0

# gRPC reads a call's message when a thread takes it; until then so much of it may arrive, which
# bounds what waiting calls take. Left to itself the window grows to megabytes.
WAITING_BYTES = 256 * 1024
WAITING_OPTIONS = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WAITING_BYTES)]

Interceptor: TypeAlias = "grpc.ServerInterceptor[Any, Any]"


class Telemetry(Protocol):
    """What tells of a shard server: metrics, logs, traces (cluster/telemetry/process.py)."""

    def start(self, shard: ShardIdentity, mapped_bytes: int) -> Sequence[Interceptor]:
        """Begin in this process; gives what the gRPC server is made with."""


class _DamagedInCache(IndexCorrupt):
    """A fetched shard is not what was fetched."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder


class HeldShard:
    """One open shard of one generation; safe to share between threads."""

    def __init__(
        self,
        generation: str,
        shard: ShardReader,
        lease: Lease | Pin | None = None,
        mapped_bytes: int = 0,
    ) -> None:
        """`mapped_bytes`: of the shard's files, which are mapped into memory."""
        self.generation = generation
        self.mapped_bytes = mapped_bytes
        self.lease = lease  # kept: what is served is neither collected nor evicted
        self.shard = shard
        self.kernel = shard.kernel  # made now, so that a damaged shard is found before serving
        _ = shard.live_N
        self.dim = shard.codec.dim
        self.centroids = shard.codec.centroid_count
        self._matcher = Matcher(shard)

    @classmethod
    def open(
        cls, index: str | Path, generation: str, shard_id: str, device: str = "cpu"
    ) -> HeldShard:
        """Open a shard, live generation or not, after checking every byte of its files.

        Reading them all also warms the page cache. Of an index in a bucket the shard's files, and
        the codec's, are fetched first; where they lie in the cache already and are damaged there,
        once more.

        Args:
            index: its folder, or its URI.
            device: where to search, as `open_generation` takes it.

        Raises:
            InvalidInput: there is no such device here.
            IndexMissing: the index has no such generation, or it has no such shard.
            IndexCorrupt: a file is missing, truncated, altered, or does not fit the manifest.
            StorageError, Unavailable: the bucket refuses, or does not answer.
        """
        try:
            return cls._open(index, generation, shard_id, device)
        except _DamagedInCache as error:
            discard(error.folder)
            return cls._open(index, generation, shard_id, device)

    @classmethod
    def _open(cls, index: str | Path, generation: str, shard_id: str, device: str) -> HeldShard:
        opened = open_generation(index, shards=[shard_id], generation=generation, device=device)
        if not opened.shards:
            known = ", ".join(shard.id for shard in opened.manifest.shards)
            raise IndexMissing(f"{index}: generation {generation} has no shard {shard_id}; {known}")
        under = files_of(opened.shards[0].entry)
        try:
            for name in under:
                verify_checksums(opened.path, opened.manifest, under=name)
        except IndexCorrupt as error:
            if not isinstance(opened.lease, Pin):
                raise
            raise _DamagedInCache(opened.path / "shards" / shard_id, str(error)) from error
        mapped = sum(
            file.size_bytes
            for name, file in opened.manifest.files.items()
            if name.startswith(under)
        )
        return cls(generation, opened.shards[0], opened.lease, mapped)

    @property
    def identity(self) -> ShardIdentity:
        """What is held here."""
        entry = self.shard.entry
        return ShardIdentity(
            self.generation,
            entry.id,
            entry.live_passages,
            entry.live_tokens,
            self.dim,
            self.shard.implementation,
        )

    def search(self, query: ShardQuery, deadline: float) -> ShardAnswer:
        """Search; `deadline` is on time.monotonic().

        Raises:
            QueryError: the query does not fit this shard.
            TimeoutError: the deadline passed; the message names the stage.
        """
        query_LD = check_query(query.query_LD, self.dim)
        probes = None
        if not query.exact:
            probes = self._checked_probes(query)
        if query.k < 1 or (query.candidates < 1 and not query.exact):
            raise QueryError(f"k is {query.k} and candidates {query.candidates}; both start at 1")
        margins = {"margin": query.margin, "interaction_margin": query.interaction_margin}
        for name, margin in margins.items():
            if margin is not None and not margin >= 0:
                raise QueryError(f"{name} is {margin}; it starts at 0")
        nprobe = 0 if probes is None else probes[0].shape[1]
        params = SearchParams(
            query.k, nprobe, query.candidates, query.scored, query.exact, **margins
        )
        started = time.monotonic()
        allowed_N = None if query.filter is None else self._matcher.allowed(query.filter)
        top = search_shard(self.shard, query_LD, probes, params, allowed_N, deadline)
        return ShardAnswer(top, (time.monotonic() - started) * 1e3)

    def fetch(self, query: FetchQuery, deadline: float) -> list[StoredPassage]:
        """Fetch passages, and match their tokens with the query's where one is given.

        Raises:
            QueryError: an ordinal is out of range, or the query does not fit this shard.
            TimeoutError: the deadline passed.
        """
        self._check_pids(query.pids_M)
        query_LD = None if query.query_LD is None else check_query(query.query_LD, self.dim)
        stored = []
        for pid in query.pids_M.tolist():
            if time.monotonic() > deadline:
                raise TimeoutError("the deadline passed while passages were fetched")
            tokens_L, scores_L = None, None
            if query_LD is not None:
                tokens_L, scores_L = self.kernel.match(query_LD, pid)
            row = self.shard.stored(pid)
            stored.append(
                StoredPassage(
                    id=row.id,
                    text=row.text if query.with_text else None,
                    metadata_json=(row.metadata_json or "{}") if query.with_metadata else "",
                    match_tokens_L=tokens_L,
                    match_scores_L=scores_L,
                    window=row.window,
                )
            )
        return stored

    def check_meant(self, generation: str, shard_id: str) -> None:
        """Raise IndexMissing unless a call means this shard of this generation."""
        held = (self.generation, self.shard.entry.id)
        if (generation, shard_id) != held:
            raise IndexMissing(
                f"this server holds shard {held[1]} of generation {held[0]}, not shard {shard_id} "
                f"of generation {generation}: the gateway's routes are out of date"
            )

    def _checked_probes(self, query: ShardQuery) -> tuple[I32, np.ndarray]:
        ids_LP, scores_LP = query.probe_ids_LP, query.probe_scores_LP
        if ids_LP is None or scores_LP is None or not ids_LP.size:
            raise QueryError("the query has no probes: send some, or set exact")
        if ids_LP.min() < 0 or ids_LP.max() >= self.centroids:
            raise QueryError(f"a probed centroid is not in 0…{self.centroids - 1} of this index")
        return np.ascontiguousarray(ids_LP, np.int32), np.ascontiguousarray(scores_LP, np.float32)

    def _check_pids(self, pids_M: I64) -> None:
        count = self.shard.entry.passages
        if pids_M.size and (pids_M.min() < 0 or pids_M.max() >= count):
            bad = next(int(pid) for pid in pids_M if not 0 <= pid < count)
            raise QueryError(f"passage {bad} is not in 0…{count - 1} of this shard")


class _Servicer(shard_pb2_grpc.ShardServiceServicer):
    """The handlers: convert, check who is meant, call, convert."""

    def __init__(self, held: HeldShard) -> None:
        self._held = held

    @answering
    def Search(  # noqa: N802
        self, request: shard_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> shard_pb2.SearchResponse:
        deadline = _deadline(context)
        self._held.check_meant(request.generation, request.shard_id)
        answer = self._held.search(convert.query_from_proto(request), deadline)
        return convert.answer_to_proto(answer)

    @answering
    def Fetch(  # noqa: N802
        self, request: shard_pb2.FetchRequest, context: grpc.ServicerContext
    ) -> shard_pb2.FetchResponse:
        deadline = _deadline(context)
        self._held.check_meant(request.generation, request.shard_id)
        passages = self._held.fetch(convert.fetch_from_proto(request), deadline)
        return shard_pb2.FetchResponse(
            passages=[convert.passage_to_proto(passage) for passage in passages]
        )

    @answering
    def GetShardInfo(  # noqa: N802
        self,
        request: shard_pb2.GetShardInfoRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> shard_pb2.GetShardInfoResponse:
        return convert.identity_to_proto(self._held.identity)


def _deadline(context: grpc.ServicerContext) -> float:
    """When the caller stops waiting, on time.monotonic().

    Raises:
        DeadlineExceeded: it stopped already, while the call waited for a thread; or the call was
            cancelled, because another replica was faster or the caller's caller went away.
    """
    remaining_s = context.time_remaining()
    if not context.is_active() or (remaining_s is not None and remaining_s <= 0):
        raise DeadlineExceeded(
            "the caller stopped waiting before the call got a thread: nothing was done; this "
            "server has more to do than it can, add replicas"
        )
    return deadline_after(remaining_s, DEFAULT_TIMEOUT_S)


class ShardServer:
    """A gRPC server over one held shard."""

    def __init__(
        self,
        held: HeldShard,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        threads: int | None = None,
        max_concurrent: int = 256,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        token: str | None = None,
        tls: InnerTls | None = None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        """Bind and prepare; `start` begins to answer.

        Args:
            port: 0 takes a free one.
            threads: calls that run at once; by default one per CPU. More of them wait.
            max_concurrent: calls that run or wait; beyond it they are refused at once.
            token: if given, what every call but those to health must present.
            tls: the shard servers' certificates, for gateways alone; in clear text if None.
            interceptors: that see each call before the token is asked for.

        Raises:
            Unavailable: the address cannot be listened on.
        """
        self._pool = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="shard")
        self._server = grpc.server(
            self._pool,
            options=[*server_options(max_message_bytes), *WAITING_OPTIONS],
            maximum_concurrent_rpcs=max_concurrent,
            interceptors=[*interceptors, *([TokenGuard(token)] if token else [])],
        )
        self._health = health.HealthServicer()
        self._services = ("", SERVICE, f"{SERVICE}/{held.identity.shard_id}")
        shard_pb2_grpc.add_ShardServiceServicer_to_server(_Servicer(held), parsing(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if tls is None:
                self.port = self._server.add_insecure_port(f"{host}:{port}")
            else:
                self.port = self._server.add_secure_port(f"{host}:{port}", tls.of_server())
        except RuntimeError as error:
            raise Unavailable(
                f"a shard server cannot listen on {host}:{port}: {error}; choose another port, or "
                "port 0 for any free one"
            ) from error
        self.address = f"{host}:{self.port}"

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        for service in self._services:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new calls, let those under way finish for up to `grace_s`, and end."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=False)


class ShardServerActor:
    """The class that cluster/controller makes Ray actors of; usable without Ray, too."""

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
    ) -> None:
        """Nothing that can fail: an error here would reach the caller without its class.

        Args:
            host: what to listen on; "" means this Ray node's own address.
            threads: calls that run at once; as many as the device is worth by default.
            token: what the server asks its callers for.
            tls: the shard servers' certificates, for gateways alone; in clear text if None.
            telemetry: begins when the shard is open.
        """
        self._wanted = (index, generation, shard_id, device)
        self._host = host
        self._token = token
        self._tls = tls
        self._telemetry = telemetry
        self._threads = threads or searches_at_once(device)
        self._meter = ProcessMeter()
        self._server: ShardServer | None = None

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
                interceptors = self._telemetry.start(held.identity, held.mapped_bytes)
            self._server = ShardServer(
                held,
                host=self._host or _node_ip(),
                threads=self._threads,
                token=self._token,
                tls=self._tls,
                interceptors=interceptors,
            )
            self._server.start()
        return self._server.address

    def probe(self) -> ProcessState:
        """Where the server answers, as `address`, and how its process does."""
        return self._meter.read(self.address())

    def stop(self, grace_s: float) -> None:
        """Finish what is under way, for up to `grace_s`, and end."""
        if self._server is not None:
            self._server.stop(grace_s)


def _node_ip() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
