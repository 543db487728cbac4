"""What a controller remembers: frozen values, and the same as JSON, so that they survive it.

    Service ─ live: Spec            what queries are answered from
            ├ rollout: Rollout      what is being made ready, or the last that was
            ├ replicas: Replica …   every shard server that should exist now
            ├ gateways: GatewaySlot every gateway that should exist beside the first
            └ scale: Scale          how many there should be

Times are seconds of the wall clock, which goes on while a controller is away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cluster.topology import GatewayReport
from cluster.wire.admin import ReplicaPhase, RolloutPhase

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ShardSize:
    """One shard of a generation."""

    shard_id: str
    passages: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Spec:
    """One generation that is, or will be, served."""

    index: str
    generation: str
    shards: tuple[ShardSize, ...]


@dataclass(frozen=True, slots=True)
class Replica:
    """One shard server that should exist.

    Attributes:
        replica_id: also the end of its actor's name.
        software: the round of restarts that it was started in.
        since: when its phase began.
        address: where it answers; "" while it does not.
        leaving: it is drained as soon as enough others are ready.
        left_at: the table's version that no longer admits to it; 0 before.
    """

    replica_id: str
    generation: str
    shard_id: str
    software: int
    since: float
    phase: ReplicaPhase = ReplicaPhase.STARTING
    address: str = ""
    node_id: str = ""
    leaving: bool = False
    left_at: int = 0


@dataclass(frozen=True, slots=True)
class GatewaySlot:
    """One gateway beside the first. `number`, from 1, decides its port."""

    gateway: str
    number: int
    software: int
    since: float
    address: str = ""
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many there should be, within bounds. Gateways count the first one, too."""

    replicas: int = 1
    min_replicas: int = 1
    max_replicas: int = 1
    gateways: int = 1
    min_gateways: int = 1
    max_gateways: int = 1
    reason: str = ""


def resized(scale: Scale, kind: str, number: int) -> Scale:
    """The scale with another number of "replicas" or "gateways". Bounds that allow but one number
    move with it: what does not follow the load goes on not to; others widen if they must."""
    low, high = getattr(scale, f"min_{kind}"), getattr(scale, f"max_{kind}")
    fixed = low == high
    low, high = (number, number) if fixed else (min(low, number), max(high, number))
    changed: Any = {kind: number, f"min_{kind}": low, f"max_{kind}": high}
    return replace(scale, **changed)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A change of what is served, under way or over.

    Attributes:
        previous: what was served before; None at the first start.
        restart: the same generation on new processes.
        replicas: for each shard from then on; 0 for as many as there are.
        replicas_before: what that was when it began.
        began, since: when it, and its phase, began.
        deadline: when loading and warming are given up.
        table: the table's version that its phase began with.
        reason, error: why it was rolled back, and the class of the error.
    """

    rollout_id: str
    target: Spec
    previous: Spec | None
    began: float
    since: float
    deadline: float
    phase: RolloutPhase = RolloutPhase.LOADING
    restart: bool = False
    replicas: int = 0
    replicas_before: int = 0
    table: int = 0
    message: str = ""
    reason: str = ""
    error: str = ""

    @property
    def under_way(self) -> bool:
        """Whether something is still to happen."""
        return not self.phase.over

    @property
    def same(self) -> bool:
        """Whether the generation stays what it is."""
        return self.previous is not None and self.previous == self.target


@dataclass(frozen=True, slots=True)
class Service:
    """All that must survive a controller.

    Attributes:
        version: of the routing table.
        software: the round of restarts that new processes belong to.
        serial: grows with every name that is given.
        avoided: nodes that nothing is started on.
        starts: of the controller.
    """

    name: str
    version: int = 0
    live: Spec | None = None
    rollout: Rollout | None = None
    replicas: tuple[Replica, ...] = ()
    gateways: tuple[GatewaySlot, ...] = ()
    scale: Scale = Scale()
    software: int = 0
    serial: int = 0
    avoided: tuple[str, ...] = ()
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """What an actor said last.

    Attributes:
        address: where it answers; "" where it does not.
        alive: False where its process has ended.
        error, message: class and text of the error that keeps it from starting.
        heard_at: when it answered last; 0.0 for never.
    """

    address: str = ""
    alive: bool = True
    error: str = ""
    message: str = ""
    heard_at: float = 0.0
    node_id: str = ""
    node_address: str = ""
    pid: int = 0
    cpu: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """A gateway's last report, and when it came."""

    report: GatewayReport
    at: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What runs, as far as it is known.

    Attributes:
        probes: by replica id, and by the name of a gateway's slot.
        reports: by gateway id.
        since: when this controller began to listen: who has not reported by then may still exist.
    """

    probes: Mapping[str, Probe]
    reports: Mapping[str, Heard]
    since: float


def to_json(service: Service) -> bytes:
    """The state as JSON."""
    return json.dumps(asdict(service), separators=(",", ":")).encode()


def from_json(data: bytes) -> Service:
    """What `to_json` gave; of another version of the software, keys that it does not know are left
    out, and those that it misses have their defaults."""
    service: Service = _build(Service, json.loads(data))
    return service


def _build(kind: Any, raw: Any) -> Any:
    """A value of a type from what JSON made of it."""
    if get_origin(kind) is tuple:
        return tuple(_build(get_args(kind)[0], one) for one in raw)
    if get_origin(kind) is UnionType:
        return None if raw is None else _build(get_args(kind)[0], raw)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        known = [field.name for field in fields(kind) if field.name in raw]
        return kind(**{name: _build(hints[name], raw[name]) for name in known})  # type: ignore[operator]
    return kind(raw)
