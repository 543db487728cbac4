"""`tartan serve`: shard servers on Ray, a gateway in this process, until it is told to stop.

In order: check the index and the address (before anything is started), start or join Ray, start
the shard servers, start the gateway, answer one warm-up query, print one line. On SIGTERM or
Ctrl-C: refuse new queries, finish those under way, end the shard servers and what was started of
Ray, and return 0.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.gateway import Gateway, GatewayConfig, guard_of
from cluster.gateway_limits import DEFAULT_LIMITS, check_limits
from cluster.gateway_settings import with_settings
from cluster.ray_session import ray_session
from cluster.security.exposure import check_exposure
from cluster.security.inner_certificates import inner_certificates
from cluster.security.tls import ServerTls, server_credentials
from cluster.serve_shards import FleetPlan, ShardFleet
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import Limits
from colbert_core.errors import AddressInUse, InvalidInput
from colbert_core.index import Generation, open_generation, verify_checksums
from colbert_core.storage import Location, RemotePath, location


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What `tartan serve` runs.

    Attributes:
        index: path or URI of the index.
        replicas: shard servers per shard.
        limits: what requests are held to.
        device: where shard servers search: "cpu", or "cuda" for the GPUs that Ray has
            ("torch:cpu", the same kernels without a GPU, is for testing).
        shard_cpus: CPUs that Ray reserves for each shard server; by default 0 on a Ray of our own
            and 1 on a cluster.
        start_timeout_s: for the shard servers to come up, and again for the warm-up query.
        grace_s: for queries under way when told to stop.
        insecure: whether to listen beyond loopback without TLS or authentication.
    """

    index: Location
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    replicas: int = 1
    limits: Limits = DEFAULT_LIMITS
    device: str = "cpu"
    shard_cpus: float | None = None
    start_timeout_s: float = 120.0
    grace_s: float = 5.0
    insecure: bool = False

    def check(self) -> None:
        """Raise InvalidInput where a value is not possible."""
        if self.replicas < 1:
            raise InvalidInput(f"replicas is {self.replicas}; give 1 or more")
        if self.device not in ("cpu", "cuda", "torch:cpu"):
            raise InvalidInput(
                f"device is {self.device!r}; give cpu or cuda (Ray says which GPU is whose)"
            )
        self.gateway.check()
        for name in ("start_timeout_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; give more than 0 seconds")
        check_limits(self.limits)
        check_exposure(
            self.gateway.host,
            tls=self.gateway.tls is not None,
            authentication=self.gateway.authenticates,
            insecure=self.insecure,
        )
        guard_of(self.gateway)  # files that are not usable are errors before anything starts
        if self.gateway.tls is not None:
            server_credentials(self.gateway.tls)


def serve(
    index: str | Path,
    host: str = "127.0.0.1",
    port: int = 50051,
    replicas: int = 1,
    *,
    limits: Limits = DEFAULT_LIMITS,
    device: str = "cpu",
    shard_cpus: float | None = None,
    start_timeout_s: float = 120.0,
    tls: ServerTls | None = None,
    api_keys: Path | None = None,
    insecure: bool = False,
    settings: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve the live generation of an index until SIGTERM or SIGINT. Call from the main thread.

    Args:
        index: path of the index, on a Ray cluster one that every node can read; or its URI, of
            which each shard server fetches its own shard.
        port: 0 takes a free one, which the line names.
        replicas: shard servers per shard.
        device: where shard servers search, "cpu" or "cuda".
        tls: certificate and key of the gateway; read again when they change.
        api_keys: file of the keys that are let in; read again when it changes.
        insecure: listen beyond loopback without TLS or authentication.
        settings: numbers of the gateway and its limits, each NAME=VALUE (gateway_settings.py).
        on_ready: called with HOST:PORT when queries are answered, after the line is printed.

    Returns:
        0, the exit code of a clean stop.

    Raises:
        InvalidInput: a setting is not possible; or others could reach the gateway, and there is
            no TLS or no authentication.
        IndexMissing, IndexCorrupt: the index cannot be opened.
        AddressInUse: the address is taken.
        Unavailable: Ray or a shard server did not start.
    """
    place = location(index)
    gateway, limits = with_settings(
        settings, GatewayConfig(host=host, port=port, tls=tls, api_keys=api_keys), limits
    )
    config = ServeConfig(
        index=place if isinstance(place, RemotePath) else place.resolve(),
        gateway=gateway,
        replicas=replicas,
        limits=limits,
        device=device,
        shard_cpus=shard_cpus,
        start_timeout_s=start_timeout_s,
        insecure=insecure,
    )
    config.check()
    generation = open_generation(config.index, shards=())
    verify_checksums(generation.path, generation.manifest, under="global/")
    check_address(host, port)
    stdout = sys.stdout

    def announce(address: str) -> None:
        print(ready_line(config, generation, address), file=stdout, flush=True)
        if on_ready is not None:
            on_ready(address)

    try:
        # Ray prints reports of its own, such as a worker's death; stdout is for our one line.
        with redirect_stdout(sys.stderr), ray_session(purpose="serving") as session:
            asyncio.run(_run(config, generation, session.started, announce))
    except KeyboardInterrupt:
        pass  # Ctrl-C before the signal handlers were in place
    except SystemExit as stop:  # SIGTERM then: Ray's handler exits
        if stop.code != signal.SIGTERM:
            raise
    return 0


def check_address(host: str, port: int) -> None:
    """Raise AddressInUse now, before Ray is started, where the gateway could not listen later."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressInUse(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another with "
            "--port (0 takes a free one) or --host"
        ) from error


async def _run(
    config: ServeConfig,
    generation: Generation,
    own_ray: bool,
    announce: Callable[[str], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which sets its own
        loop.add_signal_handler(number, stop.set)
    token = secrets.token_urlsafe(32)  # between this gateway and its shard servers
    inner = None if own_ray else inner_certificates()  # on loopback nobody listens in between
    plan = FleetPlan(
        index=str(config.index),
        manifest=generation.manifest,
        replicas=config.replicas,
        host="127.0.0.1" if own_ray else "",
        cpus=config.shard_cpus if config.shard_cpus is not None else float(not own_ray),
        device=config.device,
        token=token,
        tls=None if inner is None else inner.shard,
    )
    connect = partial(ShardChannel, token=token, tls=None if inner is None else inner.gateway)
    fleet = ShardFleet(plan)
    gateway = Gateway(fleet.source, config.gateway, connect, limits=config.limits)
    try:
        starting = asyncio.create_task(_start(config, fleet, gateway))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        announce(starting.result())
        await stopping
    finally:
        await gateway.stop(config.grace_s)
        await fleet.stop(config.grace_s)


async def _start(config: ServeConfig, fleet: ShardFleet, gateway: Gateway) -> str:
    """Bring everything up and answer one query; returns HOST:PORT."""
    await fleet.start(config.start_timeout_s)
    address = await gateway.start()
    await gateway.ready(config.start_timeout_s)
    return address


def ready_line(config: ServeConfig, generation: Generation, address: str) -> str:
    """The one line that says that queries are answered."""
    shards = _count(len(generation.manifest.shards), "shard")
    replicas = _count(config.replicas, "replica")
    passages = _count(generation.manifest.passages, "passage")
    return f"tartan: serving {config.index} ({shards} × {replicas}, {passages}) at {address}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
