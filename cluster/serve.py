"""`tartan serve`: a service on Ray, its first gateway in this process, until it is told to stop.

In order: check the index and the address (before anything is started), start or join Ray, start
the controller, which starts the shard servers and further gateways; start the gateway of this
process, answer one warm-up query, print one line. On SIGTERM or Ctrl-C: say NOT_SERVING, refuse new
queries, finish those under way, end all of it and what was started of Ray, and return 0. Where the
process is killed, the rest goes on on a cluster, and the same command takes it over.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from cluster.ray_session import RaySession, ray_session  # isort: skip  # it sets what ray reads on import

import ray

from cluster.controller.actor import ControllerConfig
from cluster.controller.gateways import FollowingGateway, GatewaySettings
from cluster.controller.placement import gpu_share
from cluster.controller.servers import ServerPlan
from cluster.controller.service import Wanted, all_serve, bring_up, end, exists
from cluster.listening import try_to_listen
from cluster.security.inner_certificates import inner_certificates
from cluster.serve_config import ServeConfig
from cluster.telemetry.process import ShardTelemetry
from cluster.wire.admin import ScaleChange
from colbert_core.errors import AddressInUse
from colbert_core.index import Generation, open_generation, verify_checksums

LOOK_AT_RAY_S = 0.5

_log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serve the live generation of an index until SIGTERM or SIGINT. Call from the main thread.

    Returns:
        0, the exit code of a clean stop.

    Raises:
        InvalidInput: a setting is not possible; or others could reach the gateway, and there is
            no TLS or no authentication.
        IndexMissing, IndexCorrupt: the index cannot be opened.
        AddressInUse: the address is taken.
        Unavailable: Ray or a shard server did not start.
    """
    config.check()
    generation = open_generation(config.index, shards=())
    verify_checksums(generation.path, generation.manifest, under="global/")
    check_address(config.gateway.host, config.gateway.port)
    stdout = sys.stdout

    def announce(addresses: Sequence[str]) -> None:
        print(ready_line(config, generation, addresses), file=stdout, flush=True)

    try:
        # Ray prints reports of its own, such as a worker's death; stdout is for our one line.
        with (
            redirect_stdout(sys.stderr),
            ray_session(purpose="serving", answers=True) as session,
        ):
            asyncio.run(_run(config, generation, session, announce))
    except KeyboardInterrupt:
        pass  # Ctrl-C before the signal handlers were in place
    except SystemExit as stop:  # SIGTERM then: Ray's handler exits
        if stop.code != signal.SIGTERM:
            raise
    return 0


def check_address(host: str, port: int) -> None:
    """Raise AddressInUse now, before Ray is started, where the gateway could not listen later."""
    try:
        try_to_listen(host, port)
    except OSError as error:
        raise AddressInUse(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another with "
            "--port (0 takes a free one) or --host"
        ) from error


async def _run(
    config: ServeConfig,
    generation: Generation,
    session: RaySession,
    announce: Callable[[Sequence[str]], None],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which sets its own
        loop.add_signal_handler(number, stop.set)
    running = _Running(config, generation, session)
    try:
        starting = asyncio.create_task(running.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        announce(starting.result())
        await stopping
    finally:
        await running.stop()


class _Running:
    """A service and its first gateway, which is in this process."""

    def __init__(self, config: ServeConfig, generation: Generation, session: RaySession) -> None:
        self._config = config
        self._generation = generation
        self._session = session
        self._gateway: FollowingGateway | None = None
        self._owned = False  # what is somebody else's is not ended here

    async def start(self) -> Sequence[str]:
        """Bring everything up and answer one query; returns HOST:PORT of every gateway."""
        config = self._config
        wanted = Wanted(
            str(config.index),
            self._generation.manifest.generation,
            len(self._generation.manifest.shards),
            ScaleChange(
                config.scale.replicas,
                config.scale.gateways,
                config.scale.min_replicas,
                config.scale.max_replicas,
                config.scale.min_gateways,
                config.scale.max_gateways,
            ),
            config.start_timeout_s,
        )
        self._owned = not await exists(config.service)
        settings = await bring_up(_controller_config(config, self._session.started, wanted), wanted)
        self._owned = True
        self._gateway = FollowingGateway(config.service, settings)
        address = await self._gateway.start()
        await self._gateway.ready(config.start_timeout_s)
        if config.scale.gateways == 1:
            return [address]
        others = await all_serve(config.service, config.scale.gateways, config.start_timeout_s)
        return [address, *(other for other in others if other != address)]

    async def stop(self) -> None:
        """Say so, wait for that to be noticed, finish what is under way, and end everything."""
        grace_s = self._config.grace_s
        if self._gateway is not None:
            await self._gateway.stop(grace_s)
        if self._owned:
            await self._end(grace_s)

    async def _end(self, grace_s: float) -> None:
        """End the service. Where the Ray that was started here is gone, it went with it: a signal
        to all processes of `tartan serve`, such as systemd's, reaches Ray too."""
        ending = asyncio.create_task(end(self._config.service, grace_s))
        while not (await asyncio.wait((ending,), timeout=LOOK_AT_RAY_S))[0]:
            if await self._ray_is_gone():
                ending.cancel()
        failed = ending.cancelled() or ending.exception() is not None
        if failed and await self._ray_is_gone():
            _log.warning("Ray was ended too, and its shard servers with it")
        else:
            ending.result()

    async def _ray_is_gone(self) -> bool:
        return self._session.started and not await asyncio.to_thread(self._session.answers)


def _controller_config(config: ServeConfig, own_ray: bool, wanted: Wanted) -> ControllerConfig:
    token = secrets.token_urlsafe(32)  # between gateways and shard servers
    inner = None if own_ray else inner_certificates()  # on loopback nobody listens in between
    cpus = config.shard_cpus if config.shard_cpus is not None else float(not own_ray)
    gpus = 0.0
    if config.device == "cuda":
        servers = wanted.shards * config.scale.replicas
        gpus = gpu_share(servers, ray.cluster_resources().get("GPU", 0))
    return ControllerConfig(
        service=config.service,
        servers=ServerPlan(
            host="127.0.0.1" if own_ray else "",
            cpus=cpus,
            gpus=gpus,
            device=config.device,
            token=token,
            tls=None if inner is None else inner.shard,
            telemetry=ShardTelemetry(config.telemetry),
            grace_s=config.grace_s,
        ),
        gateways=GatewaySettings(
            config=config.gateway,
            home=str(ray.get_runtime_context().get_node_id()),
            limits=config.limits,
            token=token,
            tls=None if inner is None else inner.gateway,
            telemetry=config.telemetry,
            cpus=cpus,
            notice_s=config.notice_s,
        ),
        policy=config.policy,
        timing=config.timing,
        follow=config.follow,
    )


def ready_line(config: ServeConfig, generation: Generation, addresses: Sequence[str]) -> str:
    """The one line that says that queries are answered."""
    shards = _count(len(generation.manifest.shards), "shard")
    replicas = _count(config.scale.replicas, "replica")
    passages = _count(generation.manifest.passages, "passage")
    where = ", ".join(addresses)
    return f"tartan: serving {config.index} ({shards} × {replicas}, {passages}) at {where}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
