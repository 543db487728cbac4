"""The controller: a named Ray actor that owns what should run of one service.

    every half second, and at once when something changes:
        what is remembered + what is seen ──reconcile (pure)──▶ what should exist
        remembered anew (store.py), then done (servers.py), then told to gateways (`watch`)

It is restarted by Ray wherever it dies, remembers, finds its shard servers by their names, and goes
on. No query needs it: gateways keep the last table while it is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from cluster.autoscale import AutoscalePolicy, Sample, rescaled
from cluster.controller import requests, views
from cluster.controller.gateways import GatewaySettings, make_gateway_actor
from cluster.controller.load import sample_of
from cluster.controller.reconcile import reconcile
from cluster.controller.servers import ServerPlan, Servers
from cluster.controller.state import Heard, Observed, Probe, Service, from_json, to_json
from cluster.controller.store import InternalKv, Store
from cluster.controller.table import table_of
from cluster.controller.timing import Timing, reporting
from cluster.topology import GatewayReport, RoutingTable
from cluster.wire.admin import (
    Drained,
    RolloutCall,
    RolloutState,
    ScaleChange,
    ScaleState,
    Stats,
    Topology,
)
from colbert_core.errors import TartanError, Unavailable

log = logging.getLogger(__name__)

STEP_S = 0.5
SAMPLE_S = 1.0
POLL_S = 1.0  # that `watch` waits for news
POLL_IN_ROLLOUT_S = 0.2  # so that reports come quickly while somebody waits for them
FORGET_S = 60.0  # after which a gateway that is silent is not shown any more
GONE_S = 2.0  # the same of one that said that it ends
FOLLOW_S = 5.0
DISK_S = 1.0


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """How a service is run.

    Attributes:
        service: its name on the Ray cluster.
        follow: whether what becomes live on disk is rolled out by itself.
        rollout_timeout_s: for loading and warming, where a rollout names no other.
    """

    service: str
    servers: ServerPlan
    gateways: GatewaySettings
    policy: AutoscalePolicy = field(default_factory=AutoscalePolicy)
    timing: Timing = field(default_factory=Timing)
    follow: bool = False
    rollout_timeout_s: float = 600.0


class ActorsOfService(Protocol):
    """What a controller has done: `Servers` in service."""

    probes: dict[str, Probe]
    changed: asyncio.Event

    async def adopt(self, service: Service) -> None:
        """End what runs under the service's name and should not."""

    def follow(self, service: Service) -> None:
        """Start what should exist, end what should not."""

    async def stop(self, grace_s: float) -> None:
        """End everything."""


class Controller:
    """All of it but Ray. `begin` first."""

    def __init__(self, config: ControllerConfig, store: Store, servers: ActorsOfService) -> None:
        self._config = config
        self._store = store
        self._servers = servers
        self._reports: dict[str, Heard] = {}
        self._samples: deque[Sample] = deque(maxlen=3600)
        self._told = asyncio.Condition()
        self._saving = asyncio.Lock()
        self._disk = ""  # the generation that is live on disk
        self._disk_at = 0.0
        self._scaled_at = time.time()
        self._since = time.time()
        self._ended = False
        self._service = self._saved = Service(config.service)
        self._loop: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Remember, find what runs, and begin to see to it."""
        saved = await asyncio.to_thread(self._store.load)
        service = self._service if saved is None else from_json(saved)
        self._service = self._saved = replace(service, starts=service.starts + 1)
        await asyncio.to_thread(self._store.save, to_json(self._service))
        await self._servers.adopt(self._service)
        self._servers.follow(self._service)
        self._loop = asyncio.create_task(self._run())

    async def watch(self, report: GatewayReport) -> RoutingTable:
        """See TableSource.

        Raises:
            Unavailable: nothing is served yet.
        """
        before = self._reports.get(report.gateway_id)
        self._reports[report.gateway_id] = Heard(report, time.time())
        if before is None or _news(before.report) != _news(report):
            self._servers.changed.set()
        rollout = self._service.rollout
        wait_s = POLL_IN_ROLLOUT_S if rollout is not None and rollout.under_way else POLL_S
        await self._change(lambda: self._saved.version > report.version, wait_s)
        table = table_of(self._saved)
        if table is None:
            raise Unavailable("nothing is served yet")
        return table

    async def list_shards(self) -> Topology:
        """The topology now."""
        return views.topology(self._service, self._seen(), time.time())

    async def stats(self) -> Stats:
        """Gateways, load, versions."""
        await self._read_disk()
        timing = self._config.timing
        return views.stats(self._service, self._seen(), time.time(), timing, self._disk)

    async def roll_out(self, call: RolloutCall) -> RolloutState:
        """Begin a rollout.

        Raises:
            AlreadyRunning: another one is under way.
            InvalidInput: a value is not possible.
            IndexMissing, IndexCorrupt: there is no such index or generation.
        """
        requests.check_idle(self._service, time.time())
        target = await asyncio.to_thread(requests.target_of, self._service, call)
        now = time.time()
        timeout_s = call.timeout_s or self._config.rollout_timeout_s
        service = requests.with_rollout(self._service, target, call, now, timeout_s)
        assert service.rollout is not None
        await self._become(service)
        return views.rollout_state(service.rollout, now)

    async def rollout(self, rollout_id: str, wait_s: float = 0.0) -> RolloutState:
        """How it stands with a rollout; waits for so long until it is over.

        Raises:
            InvalidInput: it is not the last one.
        """
        requests.check_rollout(self._service, rollout_id)
        await self._change(lambda: not requests.under_way(self._service), wait_s)
        rollout = requests.check_rollout(self._service, rollout_id)
        return views.rollout_state(rollout, time.time())

    async def scale(self, change: ScaleChange) -> ScaleState:
        """Change how many there are, or the bounds.

        Raises:
            InvalidInput: they contradict.
        """
        await self._become(requests.with_scale(self._service, change))
        return views.scale_state(self._service)

    async def drain(self, kind: str, name: str) -> Drained:
        """Take a "replica", a "gateway" or a "node" out of service.

        Raises:
            InvalidInput: there is no such one.
        """
        service, drained = requests.with_drain(self._service, self._seen(), kind, name)
        await self._become(service)
        return drained

    async def gateway_settings(self) -> GatewaySettings:
        """What gateways of this service are made with."""
        return self._config.gateways

    async def foreign_gateways(self) -> list[str]:
        """Addresses of gateways that report and were not started here: that of `tartan serve`."""
        own = {slot.address for slot in self._service.gateways}
        now, timing = time.time(), self._config.timing
        reports = reporting(self._seen(), now, timing)
        return [one.address for one in reports if one.address not in own and not one.draining]

    async def stop(self, grace_s: float) -> None:
        """End everything, for good: further gateways, then shard servers; and forget."""
        self._ended = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._servers.stop(grace_s)
        await asyncio.to_thread(self._store.clear)

    async def _run(self) -> None:
        sampled_at = followed_at = 0.0
        while True:
            now = time.time()
            try:
                if now - sampled_at >= SAMPLE_S:
                    sampled_at = now
                    self._sample(now)
                if self._config.follow and now - followed_at >= FOLLOW_S:
                    followed_at = now
                    await self._follow_disk()
                await self._become(reconcile(self._service, self._seen(), now, self._config.timing))
            except Exception:  # it must not end: nobody would see to the service any more
                log.exception("a step of the controller failed; the next comes in %.1f s", STEP_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(STEP_S):
                    await self._servers.changed.wait()
            self._servers.changed.clear()

    async def _become(self, service: Service) -> None:
        """Remember, then do, then tell: in this order, so that nothing is told and forgotten."""
        if service == self._service:
            return
        self._service = service
        async with self._saving:
            service = self._service
            await asyncio.to_thread(self._store.save, to_json(service))
            self._saved = service
        if not self._ended:
            self._servers.follow(service)
            self._servers.changed.set()
        async with self._told:
            self._told.notify_all()

    async def _change(self, is_so: Callable[[], bool], wait_s: float) -> None:
        """Wait until something is so, for at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s), self._told:
                await self._told.wait_for(is_so)

    def _seen(self) -> Observed:
        return Observed(self._servers.probes, self._reports, self._since)

    def _sample(self, now: float) -> None:
        """Note the load, and follow it; forget gateways that have been silent for long."""
        self._reports = {
            name: heard
            for name, heard in self._reports.items()
            if now - heard.at < (GONE_S if heard.report.draining else FORGET_S)
        }
        self._samples.append(sample_of(self._service, self._seen(), now, self._config.timing))
        if requests.under_way(self._service):
            return
        scale = rescaled(
            self._config.policy, self._service.scale, self._samples, now, self._scaled_at
        )
        if scale != self._service.scale:
            log.warning("scaled: %s", scale.reason)
            self._service = replace(self._service, scale=scale)
            self._scaled_at = now

    async def _read_disk(self) -> None:
        """Look which generation is live on disk, if that was not done just now."""
        live = self._service.live
        if live is None or time.time() - self._disk_at < DISK_S:
            return
        self._disk_at = time.time()
        try:
            self._disk = await asyncio.to_thread(requests.generation_on_disk, live.index)
        except (TartanError, OSError) as error:
            log.warning("cannot tell which generation is live on disk: %s", error)
            self._disk = ""

    async def _follow_disk(self) -> None:
        """Roll out what has become live on disk, once."""
        await self._read_disk()
        live, rollout = self._service.live, self._service.rollout
        known = {"" if live is None else live.generation}
        if rollout is not None:
            known.add(rollout.target.generation)  # one that was rolled back is not tried again
        if live is None or requests.under_way(self._service) or self._disk in {"", *known}:
            return
        try:
            await self.roll_out(RolloutCall(generation=self._disk))
        except TartanError as error:
            log.warning("generation %s cannot be rolled out: %s", self._disk, error)


class ControllerActor(Controller):
    """The class of the Ray actor. Ray awaits its making, first and after each restart."""

    async def __init__(self, config: ControllerConfig) -> None:  # type: ignore[misc]
        make_gateway = partial(make_gateway_actor, config.service, config.gateways)
        servers = Servers(config.service, config.servers, make_gateway)
        super().__init__(config, InternalKv(config.service), servers)
        await self.begin()


def _news(report: GatewayReport) -> tuple[object, ...]:
    """What of a report a decision may wait for."""
    idle = tuple(sorted(name for name, calls in report.outstanding.items() if calls))
    return report.version, report.live, report.warmed, report.problem, report.in_use, idle
