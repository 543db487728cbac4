"""What an operator sees and asks of a service: plain values, and their messages of admin.proto.

Fields are named as in the protocol, so that one function each way converts them all. Enumerations
are strings here, `ready` for `REPLICA_PHASE_READY`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_type_hints

from google.protobuf.message import Message

Value = TypeVar("Value")
Proto = TypeVar("Proto", bound=Message)


class GenerationRole(StrEnum):
    """What a generation is for."""

    LIVE = "live"
    NEXT = "next"
    LEAVING = "leaving"


class ReplicaPhase(StrEnum):
    """How far a shard server is."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class GatewayPhase(StrEnum):
    """How far a gateway is."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    SILENT = "silent"


class RolloutPhase(StrEnum):
    """How far a rollout is; the last two are its ends."""

    LOADING = "loading"
    WARMING = "warming"
    SWITCHING = "switching"
    RELEASING = "releasing"
    DONE = "done"
    ROLLED_BACK = "rolled_back"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (RolloutPhase.DONE, RolloutPhase.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One shard server."""

    replica_id: str
    address: str
    node_id: str
    node_address: str
    phase: ReplicaPhase
    seconds_in_phase: float
    leaving: bool = False
    problem: str = ""
    outstanding: int = 0
    cpu: float = 0.0
    memory_bytes: int = 0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard of one generation."""

    shard_id: str
    passages: int
    tokens: int
    replicas_wanted: int
    replicas: tuple[ReplicaState, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationState:
    """One generation that has, or should have, shard servers."""

    index: str
    generation: str
    role: GenerationRole
    shards: tuple[ShardState, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """ListShardsResponse."""

    table_version: int
    generations: tuple[GenerationState, ...]


@dataclass(frozen=True, slots=True)
class GatewayState:
    """One gateway, by its last report."""

    gateway_id: str
    address: str
    node_id: str
    phase: GatewayPhase
    seconds_since_report: float
    table_version: int = 0
    live: str = ""
    warmed: str = ""
    problem: str = ""
    in_flight: int = 0
    queue_delay_ms: float = 0.0
    cpu: float = 0.0
    queries: int = 0


@dataclass(frozen=True, slots=True)
class ScaleState:
    """How many there should be, and between which bounds that may move."""

    replicas: int
    min_replicas: int
    max_replicas: int
    gateways: int
    min_gateways: int
    max_gateways: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """ScaleRequest: what is None stays as it is."""

    replicas: int | None = None
    gateways: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    min_gateways: int | None = None
    max_gateways: int | None = None


@dataclass(frozen=True, slots=True)
class RolloutState:
    """A rollout, under way or over."""

    rollout_id: str
    index: str
    generation: str
    from_generation: str
    phase: RolloutPhase
    message: str
    reason: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class RolloutCall:
    """RolloutRequest: "" is the index that is served, and the generation that is live on disk."""

    index: str = ""
    generation: str = ""
    replicas: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ControllerState:
    """The controller itself."""

    seconds_up: float
    restarts: int


@dataclass(frozen=True, slots=True)
class Stats:
    """GetStatsResponse."""

    service: str
    index: str
    live_generation: str
    disk_generation: str
    behind_disk: bool
    table_version: int
    gateways: tuple[GatewayState, ...]
    in_flight: int
    queries: int
    scale: ScaleState
    rollout: RolloutState | None
    controller: ControllerState


@dataclass(frozen=True, slots=True)
class Drained:
    """DrainResponse: what will end."""

    replica_ids: tuple[str, ...] = ()
    gateway_ids: tuple[str, ...] = ()


def to_proto(value: Any, message: Proto) -> Proto:
    """Fill a message from the value whose fields have its fields' names; None stays unset."""
    for field in message.DESCRIPTOR.fields:
        given = getattr(value, field.name)
        if given is None:
            continue
        if field.enum_type is not None:
            name = _prefix(field.enum_type.name) + given.upper()
            setattr(message, field.name, field.enum_type.values_by_name[name].number)
        elif field.message_type is None:
            target = getattr(message, field.name)
            target.extend(given) if field.is_repeated else setattr(message, field.name, given)
        elif field.is_repeated:
            for one in given:
                to_proto(one, getattr(message, field.name).add())
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
            to_proto(given, inner)
    return message


def from_proto(kind: type[Value], message: Message) -> Value:
    """The value that a message stands for; an unset `optional` field, or message, is None."""
    hints = get_type_hints(kind)
    given = {}
    for field in fields(kind):  # type: ignore[arg-type]  # of dataclasses
        described = message.DESCRIPTOR.fields_by_name[field.name]
        here: Any = getattr(message, field.name)
        if described.has_presence and not message.HasField(field.name):
            here = None
        elif described.enum_type is not None:
            name = described.enum_type.values_by_number[here].name
            here = hints[field.name](name.removeprefix(_prefix(described.enum_type.name)).lower())
        elif described.is_repeated:
            inner = get_args(hints[field.name])[0]
            plain = described.message_type is None
            here = tuple(one if plain else from_proto(inner, one) for one in here)
        elif described.message_type is not None:
            options = get_args(hints[field.name])
            here = from_proto(options[0] if options else hints[field.name], here)
        given[field.name] = here
    return kind(**given)


def _prefix(enum: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper() + "_"
