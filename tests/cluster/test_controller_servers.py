"""The controller's actors are ended also where they come into being meanwhile."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RaySystemError

from cluster.controller import servers as module
from cluster.controller.servers import ServerPlan, Servers
from cluster.controller.state import GatewaySlot, Service

SLOT = GatewaySlot("gateway.1", 1, 0, 0.0)


class Actors:
    """Named actors as Ray keeps them, as far as `Servers` asks for them."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}
        self.stopped: list[str] = []
        self.away = 0  # how often Ray is not there to be asked
        self.deaf = 0  # how often what is killed lives on

    def make(self, name: str) -> Any:
        async def probe() -> Any:
            await asyncio.sleep(60.0)

        async def stop(_grace_s: float) -> None:
            self.stopped.append(name)

        methods = {"probe": probe, "stop": stop}
        actor = SimpleNamespace(
            name=name, **{key: SimpleNamespace(remote=call) for key, call in methods.items()}
        )
        self.named[name] = actor
        return actor

    def get_actor(self, name: str, *, namespace: str) -> Any:
        if self.away:
            self.away -= 1
            raise RaySystemError("the control store does not answer")
        if name not in self.named:
            raise ValueError(f"no actor {name} in {namespace}")
        return self.named[name]

    def kill(self, actor: Any) -> None:
        if self.deaf:
            self.deaf -= 1
        else:
            del self.named[actor.name]


@pytest.mark.parametrize("made_before", [True, False])
def test_what_is_no_longer_wanted_ends_even_if_it_is_being_made(
    monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    actors = Actors()
    monkeypatch.setattr(module, "ray", actors)
    making, may_be_made = threading.Event(), threading.Event()

    def make_gateway(_slot: GatewaySlot, naming: dict[str, Any]) -> Any:
        making.set()
        assert may_be_made.wait(30.0)
        return actors.make(naming["name"])

    async def scene() -> None:
        servers = Servers("service", ServerPlan("127.0.0.1", 0.0), make_gateway)
        servers.follow(Service("service", gateways=(SLOT,)))
        assert await asyncio.to_thread(making.wait, 30.0)
        if made_before:
            may_be_made.set()
            while not actors.named:
                await asyncio.sleep(0.01)
        servers.follow(Service("service"))
        await asyncio.sleep(0.05)  # time to look for an actor that is not there yet
        may_be_made.set()
        await servers.stop(5.0)

    asyncio.run(scene())
    assert actors.named == {}
    assert len(actors.stopped) == 1


@pytest.mark.parametrize("fault", ["away", "deaf"])
def test_an_actor_is_ended_even_if_ray_fails_meanwhile(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    actors = Actors()
    monkeypatch.setattr(module, "ray", actors)
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    setattr(actors, fault, 2)

    async def scene() -> None:
        servers = Servers(
            "service",
            ServerPlan("127.0.0.1", 0.0),
            lambda _slot, naming: actors.make(naming["name"]),
        )
        servers.follow(Service("service", gateways=(SLOT,)))
        while not actors.named:
            await asyncio.sleep(0.01)
        servers.follow(Service("service"))
        await servers.stop(5.0)

    asyncio.run(scene())
    assert actors.named == {}
