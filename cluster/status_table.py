"""`tartan status` as people read it: a service in lines of at most 80 columns. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.wire.admin import (
    GatewayState,
    GenerationRole,
    GenerationState,
    ReplicaPhase,
    ReplicaState,
    Stats,
    Topology,
)

WIDTH = 80


def lines_of(topology: Topology, stats: Stats) -> list[str]:
    """Everything, top to bottom: what is served, gateways, shards, what is wrong."""
    lines = [*_head(stats), "", *_gateways(stats)]
    for generation in topology.generations:
        lines += ["", *_shards(generation)]
    if found := problems(topology, stats):
        lines += ["", "problems", *(f"  {fit(problem, WIDTH - 2)}" for problem in found)]
    return lines


def problems(topology: Topology, stats: Stats) -> list[str]:
    """What keeps queries from being answered whole, or soon will."""
    found = [
        f"gateway {one.gateway_id}: {one.problem or 'silent'}"
        for one in stats.gateways
        if one.problem or one.phase == "silent"
    ]
    for generation in topology.generations:
        for shard in generation.shards:
            if generation.role is GenerationRole.LIVE and not _ready(shard.replicas):
                found.append(f"shard {shard.shard_id} has no replica that answers")
            found += [f"{one.replica_id}: {one.problem}" for one in shard.replicas if one.problem]
    return found


def answers_whole(topology: Topology) -> bool:
    """Whether every shard of the live generation has a replica that answers."""
    live = [one for one in topology.generations if one.role is GenerationRole.LIVE]
    return bool(live) and all(_ready(shard.replicas) for one in live for shard in one.shards)


def _head(stats: Stats) -> Iterator[str]:
    yield fit(f"{stats.service or 'tartan'}  {stats.index}", WIDTH)
    behind = f"; {stats.disk_generation} on disk: `tartan rollout`" if stats.behind_disk else ""
    yield fit(f"generation {stats.live_generation or 'none'}{behind}", WIDTH)
    controller, scale = stats.controller, stats.scale
    yield (
        f"{_count(stats.queries, 'query', 'queries')} answered, {stats.in_flight:,} in flight; "
        f"table {stats.table_version}; controller up {span(controller.seconds_up)}, "
        f"{_count(controller.restarts, 'restart')}"
    )
    why = f"; {scale.reason}" if scale.reason else ""
    yield fit(
        f"replicas {scale.replicas} of {scale.min_replicas}…{scale.max_replicas}, gateways "
        f"{scale.gateways} of {scale.min_gateways}…{scale.max_gateways}{why}",
        WIDTH,
    )
    if (rollout := stats.rollout) is not None:
        about = rollout.reason or rollout.message
        yield fit(
            f"rollout to {rollout.generation}: {rollout.phase.replace('_', ' ')}, "
            f"{span(rollout.seconds)}{': ' + about if about else ''}",
            WIDTH,
        )


def _gateways(stats: Stats) -> Iterator[str]:
    yield _row("gateway", "phase", "heard", "lag", "flight", "queue", "cpu", "queries")
    for one in stats.gateways:
        yield _row(
            one.address or one.gateway_id,
            one.phase,
            span(one.seconds_since_report) if one.seconds_since_report >= 0 else "never",
            _lag(one, stats),
            f"{one.in_flight:,}",
            f"{one.queue_delay_ms:,.1f} ms",
            f"{one.cpu:.2f}",
            f"{one.queries:,}",
        )


def _lag(one: GatewayState, stats: Stats) -> str:
    """How many tables the gateway is behind, and whether it answers from another generation."""
    behind = max(0, stats.table_version - one.table_version)
    other = one.live and one.live != stats.live_generation
    return f"{behind}{' old' if other else ''}"


def _shards(generation: GenerationState) -> Iterator[str]:
    name = f"{generation.generation}, {generation.role}"
    yield _replica_row(name, "phase", "since", "flight", "cpu", "memory", "node")
    for shard in generation.shards:
        wanted = f"{len(_ready(shard.replicas))}/{shard.replicas_wanted} ready"
        about = f"{shard.passages:,} passages, {wanted}"
        yield f"{fit(shard.shard_id, WIDTH - len(about) - 2)}  {about}"
        for one in shard.replicas:
            yield _replica_row(
                f"  {one.address or one.replica_id}",
                "leaving" if one.leaving else one.phase,
                span(one.seconds_in_phase),
                f"{one.outstanding:,}",
                f"{one.cpu:.2f}",
                size(one.memory_bytes),
                one.node_address,
            )


def _ready(replicas: Sequence[ReplicaState]) -> list[ReplicaState]:
    return [one for one in replicas if one.phase is ReplicaPhase.READY]


def _row(name: str, *cells: str) -> str:
    widths = (9, 6, 5, 6, 9, 5, 9)
    return _cells(name, WIDTH - sum(widths) - len(widths), cells, widths)


def _replica_row(name: str, *cells: str) -> str:
    widths = (9, 6, 6, 5, 9, 15)
    return _cells(name, WIDTH - sum(widths) - len(widths), cells, widths)


def _cells(name: str, width: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = [f"{fit(cell, size):>{size}}" for cell, size in zip(cells, widths, strict=True)]
    return " ".join([f"{fit(name, width):<{width}}", *shown]).rstrip()


def fit(text: str, width: int) -> str:
    """The text in so many columns; where it is too long its middle is left out."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def span(seconds: float) -> str:
    """A time as people say it, in the largest unit that is whole: 12 s, 3 min, 5 h, 2 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def size(bytes_: int) -> str:
    """Bytes as people read them; nothing where they are not known."""
    if not bytes_:
        return ""
    return f"{bytes_ / 2**30:,.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:,.0f} MiB"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
