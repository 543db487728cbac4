"""The side effects of the controller: Ray actors are started, asked how they are, and ended.

Each actor has the name of what it is, so that a controller that was restarted finds it again. Ray
restarts one that died (`max_restarts=-1`); the next question starts its server again, at another
address. One that Ray has given up, with its node, is made anew.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from cluster.controller.placement import NodeRoom, choose_node, options_for
from cluster.controller.state import GatewaySlot, Probe, Replica, Service
from cluster.controller.store import CONTROLLER, NAMESPACE, actor_name
from cluster.telemetry.process import ShardTelemetry
from cluster.wire.inner_tls import InnerTls
from colbert_core.errors import TartanError
from workers.process_meter import ProcessState
from workers.shard_actor import ShardServerActor

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 1.0
AGAIN_S = 0.2  # while an actor is away
ERROR_PAUSE_S = 5.0  # before one that cannot start is asked to try again
STOP_MARGIN_S = 2.0
# A gateway on the same machine goes first: to refuse a query must not wait for searches.
NICENESS = 10


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """How shard servers are run.

    Attributes:
        host: what they listen on; "" means each node's own address.
        cpus, gpus: what Ray reserves for each.
        device: where shards are searched.
        token: what they ask their callers for.
        tls: their certificates, for gateways alone; in clear text if None.
        telemetry: what they tell about themselves, and where.
        grace_s: for calls under way when one is stopped.
    """

    host: str
    cpus: float
    gpus: float = 0.0
    device: str = "cpu"
    token: str | None = field(default=None, repr=False)
    tls: InnerTls | None = None
    telemetry: ShardTelemetry | None = None
    grace_s: float = 5.0


MakeGateway = Callable[[GatewaySlot, dict[str, Any]], Any]
"""(slot, options that name it) → the actor of a further gateway."""


class Servers:
    """The actors of one service. Belongs to one event loop."""

    def __init__(self, service: str, plan: ServerPlan, make_gateway: MakeGateway) -> None:
        self.probes: dict[str, Probe] = {}
        self.changed = asyncio.Event()
        self._service = service
        self._plan = plan
        self._make_gateway = make_gateway
        self._indexes: dict[str, str] = {}  # path or URI, by generation
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._promised: dict[str, tuple[str, str, str]] = {}  # node, generation, shard
        self._choosing = threading.Lock()

    async def adopt(self, service: Service) -> None:
        """End what runs under the service's name and should not: a controller died in between."""
        prefix = actor_name(self._service, "")
        wanted = {CONTROLLER} | {one.replica_id for one in service.replicas}
        wanted |= {slot.gateway for slot in service.gateways}
        named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        for entry in named:
            name = entry["name"]
            orphan = name.removeprefix(prefix)
            if entry["namespace"] == NAMESPACE and name.startswith(prefix) and orphan not in wanted:
                self._end(orphan)

    def follow(self, service: Service) -> None:
        """Start what should exist and is not watched; end what is watched and should not exist."""
        rollout = service.rollout
        for spec in (service.live, None if rollout is None else rollout.target):
            if spec is not None:
                self._indexes[spec.generation] = spec.index
        wanted: dict[str, Callable[[], Any]] = {}
        for replica in service.replicas:
            wanted[replica.replica_id] = partial(self._new_server, service, replica)
        for slot in service.gateways:
            wanted[slot.gateway] = partial(self._new_gateway, slot)
        for name in self._watchers.keys() - wanted.keys():
            self._end(name)
            self.probes.pop(name, None)
            self._promised.pop(name, None)
        for name in wanted.keys() - self._watchers.keys():
            self._watchers[name] = asyncio.create_task(self._watch(name, wanted[name]))

    async def stop(self, grace_s: float) -> None:
        """End all of them, after calls under way, for up to `grace_s`."""
        for name in list(self._watchers):
            self._end(name, grace_s)
        if self._ending:
            await asyncio.wait(self._ending, timeout=grace_s + 2 * STOP_MARGIN_S)

    async def _watch(self, name: str, make: Callable[[], Any]) -> None:
        """Make the actor, or find it, and ask it how it is, for as long as it should exist."""
        actor: Any = None
        while True:
            try:
                if actor is None:
                    actor = await _made(make)
                said: ProcessState = await actor.probe.remote()
            except (ActorDiedError, ActorUnavailableError) as error:
                self._note(name, Probe(alive=False, message=_first_line(error)))
                actor = None if isinstance(error, ActorDiedError) else actor
                pause_s = AGAIN_S
            except (RayTaskError, TartanError) as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                known = type(cause).__name__ if isinstance(cause, TartanError) else "TartanError"
                self._note(name, Probe(error=known, message=_first_line(cause)))
                pause_s = ERROR_PAUSE_S
            except (RayError, ValueError) as error:  # ValueError: the name is still taken
                log.info("%s is not there yet: %s", name, _first_line(error))
                pause_s = AGAIN_S
            except Exception as error:  # nobody else would look after it
                log.exception("%s cannot be seen to", name)
                self._note(name, Probe(error="TartanError", message=_first_line(error)))
                pause_s = ERROR_PAUSE_S
            else:
                self._note(name, _probe_of(said))
                pause_s = PROBE_INTERVAL_S
            await asyncio.sleep(pause_s)

    def _note(self, name: str, probe: Probe) -> None:
        before = self.probes.get(name, Probe())
        self.probes[name] = probe
        if (before.address, before.alive, before.error) != (
            probe.address,
            probe.alive,
            probe.error,
        ):
            if before.address or probe.error:
                log.warning("%s: %s", name, probe.message or f"answers at {probe.address}")
            self.changed.set()

    def _new_server(self, service: Service, replica: Replica) -> Any:
        """The actor of a replica, on a node of its own where there is one. Blocking."""
        with self._choosing:  # one after another: each must know what the others were promised
            node, taken = self._node_for(service, replica)
            if node is not None:
                self._promised[replica.replica_id] = (node, replica.generation, replica.shard_id)
        plan = self._plan
        return (
            ray.remote(ShardServerActor)
            .options(
                **self._naming(replica.replica_id),
                **options_for(node, taken),
                num_cpus=plan.cpus,
                num_gpus=plan.gpus,
            )
            .remote(
                self._indexes[replica.generation],
                replica.generation,
                replica.shard_id,
                plan.host,
                device=plan.device,
                token=plan.token,
                tls=plan.tls,
                telemetry=plan.telemetry,
                niceness=NICENESS,
            )
        )

    def _new_gateway(self, slot: GatewaySlot) -> Any:
        return self._make_gateway(slot, self._naming(slot.gateway))

    def _naming(self, name: str) -> dict[str, Any]:
        return {
            "name": actor_name(self._service, name),
            "namespace": NAMESPACE,
            "lifetime": "detached",  # it outlives the controller
            "get_if_exists": True,
            "max_restarts": -1,
            "max_task_retries": 0,
        }

    def _node_for(self, service: Service, replica: Replica) -> tuple[str | None, set[str]]:
        """The node to prefer, and those that have the same shard already."""
        nodes = _nodes()
        if len(nodes) < 2:
            return None, set()
        places = {one.replica_id: (one.node_id, one.generation, one.shard_id)
                  for one in service.replicas if one.node_id}  # fmt: skip
        places = self._promised | places
        places.pop(replica.replica_id, None)
        shard = (replica.generation, replica.shard_id)
        taken = {node for node, *held in places.values() if tuple(held) == shard}
        taken |= set(service.avoided)
        counts = Counter(node for node, *_ in places.values())
        return choose_node(nodes, taken, counts, self._plan.cpus, self._plan.gpus), taken

    def _end(self, name: str, grace_s: float | None = None) -> None:
        """Watch it no longer, and end it."""
        watcher = self._watchers.pop(name, None)
        grace_s = self._plan.grace_s if grace_s is None else grace_s
        task = asyncio.create_task(_ended(actor_name(self._service, name), watcher, grace_s))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _made(make: Callable[[], Any]) -> Any:
    """The actor, made in a thread. Cancelled, it is waited for all the same: one that came to be
    after it was to be ended would never be ended."""
    making = asyncio.create_task(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.gather(making, return_exceptions=True)
        raise


async def _ended(name: str, watcher: asyncio.Task[None] | None, grace_s: float) -> None:
    """Let an actor finish, and kill it, once nobody makes it any more; until it is gone, whatever
    Ray answers meanwhile: nobody else would end it."""
    if watcher is not None:
        watcher.cancel()
        await asyncio.wait([watcher])
    while True:
        try:
            actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            await _finished(actor, name, grace_s)
            ray.kill(actor)
        except ValueError:
            return  # it was never made, or has gone
        except RayError as error:
            log.warning("%s is yet to be ended: %s", name, _first_line(error))
        await asyncio.sleep(AGAIN_S)


async def _finished(actor: Any, name: str, grace_s: float) -> None:
    """Calls under way have ended, or had their time."""
    try:
        async with asyncio.timeout(grace_s + STOP_MARGIN_S):
            await actor.stop.remote(grace_s)
    except (RayError, TimeoutError) as error:
        log.info("%s was not there to be stopped: %s", name, _first_line(error))


def _nodes() -> list[NodeRoom]:
    """The nodes that are alive, and their room. Blocking."""
    free = ray._private.state.available_resources_per_node()
    return [
        NodeRoom(
            node["NodeID"],
            free.get(node["NodeID"], {}).get("CPU", 0.0),
            free.get(node["NodeID"], {}).get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _probe_of(said: ProcessState) -> Probe:
    return Probe(
        address=said.address,
        heard_at=time.time(),
        node_id=said.node_id,
        node_address=said.node_address,
        pid=said.pid,
        cpu=said.cpu,
        memory_bytes=said.memory_bytes,
    )


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
