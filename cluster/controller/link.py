"""A gateway's and an operator's way to the controller: calls on a named actor, with time-outs.

ControllerLink      any method, as it is
FollowedTable       what gateways follow: TableSource
ControllerAdmin     what the admin service passes on to: AdminBackend
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.controller.store import NAMESPACE, actor_name
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

WATCH_TIMEOUT_S = 5.0
ASK_TIMEOUT_S = 10.0
READ_INDEX_TIMEOUT_S = 60.0  # a manifest may lie in a bucket


class ControllerLink:
    """The controller of a service, found by its name. Belongs to one event loop."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._handle: Any = None

    async def ask(self, method: str, *arguments: Any, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        """Call a method.

        Raises:
            Unavailable: it is away, or does not answer in time.
            TartanError: what it refused the call with.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if self._handle is None:
                    name = actor_name(self.service)
                    self._handle = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
                return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            if isinstance(error.cause, TartanError):
                raise error.cause from None
            raise Unavailable(f"the controller of {self.service} failed: {error}") from error
        except (RayError, ValueError) as error:
            self._handle = None
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise Unavailable(
                f"the controller of {self.service} is away ({said[0]}); it restarts by itself, "
                "and searches go on meanwhile"
            ) from error
        except TimeoutError:
            raise Unavailable(
                f"the controller of {self.service} did not answer {method} in {timeout_s:.0f} s; "
                "searches go on meanwhile"
            ) from None


class FollowedTable:
    """The routing table that a controller tells: a TableSource."""

    def __init__(self, link: ControllerLink) -> None:
        self._link = link

    async def watch(self, report: GatewayReport) -> RoutingTable:
        """See TableSource."""
        table: RoutingTable = await self._link.ask("watch", report, timeout_s=WATCH_TIMEOUT_S)
        return table


class ControllerAdmin:
    """What the admin service of a gateway passes calls on to."""

    def __init__(self, link: ControllerLink) -> None:
        self._link = link

    async def list_shards(self) -> Topology:
        """See Controller."""
        topology: Topology = await self._link.ask("list_shards")
        return topology

    async def stats(self) -> Stats:
        """See Controller."""
        stats: Stats = await self._link.ask("stats", timeout_s=READ_INDEX_TIMEOUT_S)
        return stats

    async def roll_out(self, call: RolloutCall) -> RolloutState:
        """See Controller."""
        state: RolloutState = await self._link.ask("roll_out", call, timeout_s=READ_INDEX_TIMEOUT_S)
        return state

    async def rollout(self, rollout_id: str) -> RolloutState:
        """See Controller."""
        state: RolloutState = await self._link.ask("rollout", rollout_id)
        return state

    async def scale(self, change: ScaleChange) -> ScaleState:
        """See Controller."""
        scale: ScaleState = await self._link.ask("scale", change)
        return scale

    async def drain(self, kind: str, name: str) -> Drained:
        """See Controller."""
        drained: Drained = await self._link.ask("drain", kind, name)
        return drained
