"""`tartan rollout`, `tartan scale` and `tartan drain`: an operator's hands on a running service.

They ask the admin service of any gateway; no Ray is needed where they run.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from cluster.cli_search import DEFAULT_TARGET
from cluster.client_admin import AdminClient
from cluster.security.client import access_from_environment
from cluster.wire.admin import RolloutCall, RolloutState, ScaleChange
from colbert_core.errors import InvalidInput
from colbert_core.storage import RemotePath, location

WATCH_MARGIN_S = 300.0  # beyond the rollout's own time: to finish queries, and to release


def rollout_command(
    place: str, target: str | None, replicas: int | None, timeout_s: float, *, as_json: bool
) -> None:
    """Roll out, with a line for each step, until it is done."""
    index, generation = split_place(place)
    call = RolloutCall(index, generation, replicas, timeout_s)
    with _client(target) as client:
        for state in client.roll_out(call, timeout_s=timeout_s + WATCH_MARGIN_S):
            print(_json(state) if as_json else _line(state), flush=True)


def scale_command(change: ScaleChange, target: str | None, *, as_json: bool) -> None:
    """Change how many there are, or the bounds; print what holds now."""
    if change == ScaleChange():
        raise InvalidInput("scale what? Give --replicas, --gateways, or a bound")
    with _client(target) as client:
        scale = client.scale(change)
    if as_json:
        print(orjson.dumps(scale).decode())
        return
    print(f"replicas {scale.replicas} (of {scale.min_replicas} to {scale.max_replicas})")
    print(f"gateways {scale.gateways} (of {scale.min_gateways} to {scale.max_gateways})")


def drain_command(replica: str, gateway: str, node: str, target: str | None) -> None:
    """Take a replica, a gateway or a node out of service; print what will end."""
    if sum(map(bool, (replica, gateway, node))) != 1:
        raise InvalidInput("drain what? Give one of --replica, --gateway and --node")
    with _client(target) as client:
        drained = client.drain(replica=replica, gateway=gateway, node=node)
    for name in (*drained.replica_ids, *drained.gateway_ids):
        print(f"{name} leaves as soon as another is ready")


def split_place(place: str) -> tuple[str, str]:
    """The index and the generation of INDEX@GENERATION; "" where one is not given.

    A folder is made absolute, as the nodes must know it; one whose own name has an @ in it and that
    exists is taken as it is.
    """
    index, at, generation = place.rpartition("@")
    if not at or (not isinstance(location(place), RemotePath) and Path(place).exists()):
        index, generation = place, ""
    if not index:
        return "", generation
    where = location(index)
    return str(where if isinstance(where, RemotePath) else where.resolve()), generation


def _client(target: str | None) -> AdminClient:
    return AdminClient(target or DEFAULT_TARGET, **access_from_environment())


def _line(state: RolloutState) -> str:
    message = f": {state.message}" if state.message else ""
    return f"{state.seconds:6.1f} s  {state.generation}  {state.phase}{message}"


def _json(state: RolloutState) -> str:
    return orjson.dumps(state).decode()
