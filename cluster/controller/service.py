"""Bringing a service up, finding one that is up, and ending it: what the command does with Ray."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

import ray

from cluster.controller.actor import ControllerActor, ControllerConfig
from cluster.controller.gateways import GatewaySettings
from cluster.controller.link import ControllerLink
from cluster.controller.store import NAMESPACE, actor_name
from cluster.wire.admin import (
    GatewayPhase,
    RolloutCall,
    RolloutPhase,
    RolloutState,
    ScaleChange,
    Stats,
)
from cluster.wire.status import error_named
from colbert_core.errors import AlreadyRunning, Unavailable
from colbert_core.storage import is_uri

STOP_MARGIN_S = 10.0
LEFT_S = 8.0  # after which a gateway that was killed is known to be gone
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a service should be like: which generation of which index, and how much of it."""

    index: str
    generation: str
    shards: int
    scale: ScaleChange
    start_timeout_s: float


async def bring_up(config: ControllerConfig, wanted: Wanted) -> GatewaySettings:
    """Start a service's controller and its shard servers; or go on with those that are there, from
    a `tartan serve` that was killed.

    Returns:
        What the first gateway is to be made with.

    Raises:
        AlreadyRunning: the service has its first gateway, or serves another index.
        IndexMissing, IndexCorrupt: a shard cannot be opened.
        Unavailable: shard servers did not come up in time; names which.
    """
    link = ControllerLink(config.service)
    if await exists(config.service):
        return await _adopted(link, config.gateways, wanted)
    await asyncio.to_thread(_start, config)
    timeout_s = wanted.start_timeout_s
    await link.ask("scale", wanted.scale, timeout_s=timeout_s)
    call = RolloutCall(wanted.index, wanted.generation, timeout_s=timeout_s)
    state = await link.ask("roll_out", call, timeout_s=timeout_s)
    await _loaded(link, state, wanted)
    return config.gateways


async def all_serve(service: str, gateways: int, timeout_s: float) -> list[str]:
    """Wait for the further gateways; returns the addresses of all.

    Raises:
        Unavailable: some did not answer in time.
    """
    link = ControllerLink(service)
    end = time.monotonic() + timeout_s
    while True:
        stats: Stats = await link.ask("stats")
        ready = [one.address for one in stats.gateways if one.phase is GatewayPhase.SERVING]
        if len(ready) >= gateways:
            return ready
        if time.monotonic() > end:
            raise Unavailable(
                f"waited {timeout_s:.0f} s for {gateways - len(ready)} of {gateways} gateways: "
                f"Ray has {_free()}; start fewer, or see Ray's logs of GatewayActor"
            )
        await asyncio.sleep(POLL_S)


async def end(service: str, grace_s: float) -> None:
    """End everything of a service, and forget it."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, actor_name(service), namespace=NAMESPACE)
    except ValueError:
        return
    try:
        await ControllerLink(service).ask("stop", grace_s, timeout_s=grace_s + STOP_MARGIN_S)
    finally:
        ray.kill(actor)


async def exists(service: str) -> bool:
    """Whether a service of this name has a controller on this Ray cluster."""
    try:
        await asyncio.to_thread(ray.get_actor, actor_name(service), namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _start(config: ControllerConfig) -> Any:
    return (
        ray.remote(ControllerActor)
        .options(
            name=actor_name(config.service),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
        )
        .remote(config)
    )


async def _loaded(link: ControllerLink, state: RolloutState, wanted: Wanted) -> None:
    """Wait for the first rollout.

    Raises:
        TartanError: it was rolled back; of the class of its reason.
    """
    while not state.phase.over:
        try:
            state = await link.ask("rollout", state.rollout_id, 1.0)
        except Unavailable:  # the controller was killed: it comes back, and goes on
            await asyncio.sleep(POLL_S)
    if state.phase is RolloutPhase.ROLLED_BACK:
        remedy = ""
        if state.error == "Unavailable":
            remedy = (
                f": Ray has {_free()}; free or add resources, or start fewer replicas; servers "
                f"that {_opening(wanted.index)} need a longer --start-timeout"
            )
        raise error_named(state.error)(f"{state.reason}{remedy}")


async def _adopted(
    link: ControllerLink, gateways: GatewaySettings, wanted: Wanted
) -> GatewaySettings:
    """Go on with a service whose first gateway was killed."""
    end_at = time.monotonic() + LEFT_S
    while first := await _first_gateways(link):
        if time.monotonic() > end_at:
            raise AlreadyRunning(
                f"a service {link.service} runs on this Ray cluster, with a gateway at "
                f"{', '.join(first)}: stop that `tartan serve`, or give this one another --name"
            )
        await asyncio.sleep(POLL_S)
    stats: Stats = await link.ask("stats")
    if stats.index and stats.index != wanted.index:
        raise AlreadyRunning(
            f"a service {link.service} serves {stats.index} on this Ray cluster: give another "
            "--name, or roll that out with `tartan rollout`"
        )
    await link.ask("scale", wanted.scale)
    settings: GatewaySettings = await link.ask("gateway_settings")
    return replace(settings, config=gateways.config, telemetry=gateways.telemetry)


async def _first_gateways(link: ControllerLink) -> list[str]:
    """Addresses of gateways that report and are not the controller's own."""
    return list(await link.ask("foreign_gateways"))


def _opening(index: str) -> str:
    return f"still fetch from {index}" if is_uri(index) else "still read their shard"


def _free() -> str:
    free, of = ray.available_resources(), ray.cluster_resources()
    return ", ".join(
        f"{free.get(kind, 0):g} {kind}s free of {of[kind]:g}"
        for kind in ("CPU", "GPU")
        if kind in of
    )
