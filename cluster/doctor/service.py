"""Checks of a running gateway: pure functions of what it said, and when."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.findings import Finding, fail, ok, warn
from cluster.wire.types import IndexInfo

SKEW_WARN_S, SKEW_FAIL_S = 2.0, 60.0


def clock(server_time: float, asked_at: float, answered_at: float) -> Finding:
    """How far this clock is from the gateway's; half of the answer's time is not known.

    Args:
        server_time: the gateway's clock, in seconds since 1970; 0 where it does not say.
        asked_at, answered_at: this machine's clock.
    """
    if not server_time:
        return warn("clock", "the gateway does not say its time", "it is older: upgrade it")
    skew_s = server_time - (asked_at + answered_at) / 2
    unsure_s = (answered_at - asked_at) / 2
    sure_s = max(0.0, abs(skew_s) - unsure_s)
    found = f"the gateway's is {skew_s:+.3f} s from this one, give or take {unsure_s:.3f} s"
    remedy = "set both by NTP (chrony): logs and traces do not line up, certificates may not hold"
    if sure_s > SKEW_FAIL_S:
        return fail("clock", found, remedy)
    return warn("clock", found, remedy) if sure_s > SKEW_WARN_S else ok("clock", found)


def version(own: str, served: str) -> Finding:
    """Whether the gateway runs the same software as this command."""
    if served == own:
        return ok("version", f"{own}, as here")
    return warn(
        "version",
        f"the gateway has {served or 'an older one'}, this is {own}",
        "upgrade servers first, then clients; `tartan rollout` replaces them one after another",
    )


def shards(info: IndexInfo) -> Iterator[Finding]:
    """Whether every shard has servers."""
    without = [shard.shard_id for shard in info.shards if not shard.replicas]
    served = f"generation {info.generation}, {info.passages:,} passages"
    if without:
        yield fail(
            "shards",
            f"{len(without)} of {len(info.shards)} have no server: {', '.join(without[:3])}",
            "`tartan status` says what each waits for; see the shard servers' logs",
        )
        return
    least = min((shard.replicas for shard in info.shards), default=0)
    yield ok("shards", f"{served}, {len(info.shards)} shards, {least} replicas or more")


def generation(served: str, on_disk: str) -> Finding:
    """Whether what is served is what the index says is live."""
    if served == on_disk:
        return ok("generation", f"{served}, as on disk")
    return warn(
        "generation",
        f"{served} is served, and {on_disk} is live on disk",
        "`tartan rollout` serves it, without losing a query",
    )


def health(statuses: dict[str, str]) -> Finding:
    """Whether the gateway says that it can answer.

    Args:
        statuses: of the health service, by service name; "" stands for all.
    """
    whole = statuses.get("", "UNKNOWN")
    away = [
        name.rpartition("/")[2]
        for name, status in statuses.items()
        if "/" in name and status != "SERVING"
    ]
    if whole == "SERVING":
        return ok("health", whole)
    found = whole + (f"; away: {', '.join(away[:3])}" if away else "")
    return fail("health", found, "it starts, drains, or lacks a shard: see `tartan status`")
