"""What a gateway is told: where it listens, whom it lets in, what it holds back, what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cluster.fan_out.policy import TailPolicy
from cluster.security.api_keys import KeyFile, Role
from cluster.security.exposure import is_loopback
from cluster.security.guard import Guard
from cluster.security.tls import ServerTls
from colbert_core.errors import InvalidInput
from colbert_core.hardware import searches_at_once


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where a gateway listens and what it admits.

    Attributes:
        port: 0 takes a free one.
        default_timeout_s: for callers that set no deadline.
        max_concurrent: calls at once; beyond it they are refused with RESOURCE_EXHAUSTED.
        max_bytes: of the requests of these calls, the same.
        client_concurrent: calls of one client at once, the same; 0 for no such limit. A client is
            an API key, and without keys an address.
        client_qps: queries a second of one client, of which one second's may be saved up, the
            same; 0 for no such limit.
        work_at_once: queries that are worked on at once; others wait, if that is in time. Two for
            each processor of this machine by default, of which a shard server has about as many.
        batch_parallel: queries of one batch that run at once.
        encoder_threads: threads that encode, or probe centroids, at once.
        encode_batch: texts that wait and are encoded together at most; 1 is one by one.
        embedding_cache_bytes: for vectors of texts that were encoded; 0 keeps none.
        answer_cache_bytes: for answers; 0 keeps none.
        warm_timeout_s: for a generation to answer its warm-up query.
        tail: how it lives with slow and dead shard servers.
        tls: certificate and key to show; in clear text if None.
        api_keys: file of the keys that are let in; everybody who can connect if None.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    default_timeout_s: float = 30.0
    max_concurrent: int = 512
    max_bytes: int = 256 * 2**20
    client_concurrent: int = 0
    client_qps: float = 0.0
    work_at_once: int = field(default_factory=lambda: max(4, 2 * searches_at_once("cpu")))
    batch_parallel: int = 8
    encoder_threads: int = 2
    encode_batch: int = 8
    embedding_cache_bytes: int = 32 * 2**20
    answer_cache_bytes: int = 0
    warm_timeout_s: float = 120.0
    tail: TailPolicy = field(default_factory=TailPolicy)
    tls: ServerTls | None = None
    api_keys: Path | None = None

    @property
    def authenticates(self) -> bool:
        """Whether it is known who asks: by a key, or by a certificate."""
        certificates = self.tls is not None and self.tls.client_ca is not None
        return certificates or self.api_keys is not None

    def check(self) -> None:
        """Raise InvalidInput where a value is not possible."""
        self.tail.check()
        if not 0 <= self.port <= 65_535:
            raise InvalidInput(f"port is {self.port}; give 0 to 65535 (0: any free one)")
        at_least_1 = (
            "max_concurrent",
            "max_bytes",
            "work_at_once",
            "batch_parallel",
            "encoder_threads",
            "encode_batch",
        )
        for name in at_least_1:
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("embedding_cache_bytes", "answer_cache_bytes"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; give 0 (none) or more")
        for name in ("client_concurrent", "client_qps"):
            if not getattr(self, name) >= 0:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}; give 0 (no limit for each client) or more"
                )
        for name in ("default_timeout_s", "warm_timeout_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; give more than 0 seconds")


def guard_of(config: GatewayConfig) -> Guard:
    """Who may call what: by keys; without a file of keys, everybody on loopback everything, and
    everybody elsewhere search (who has a certificate, or who can connect: `--insecure`)."""
    keys = None if config.api_keys is None else KeyFile(config.api_keys)
    trusted = is_loopback(config.host) and not config.authenticates
    return Guard(keys, Role.ADMIN if trusted else Role.SEARCH)
