"""How long the controller waits for what, and whom it still counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.controller.state import Observed
from cluster.topology import GatewayReport


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    Attributes:
        silent_s: after so long without a report a gateway is not waited for.
        hung_s: after so long without an answer a server whose process lives is replaced.
        drain_s: for calls under way on a server that was drained; then it ends all the same.
    """

    silent_s: float = 5.0
    hung_s: float = 30.0
    drain_s: float = 60.0


DEFAULT_TIMING = Timing()


def reporting(seen: Observed, now: float, timing: Timing) -> Iterator[GatewayReport]:
    """The reports of gateways that are there."""
    return (heard.report for heard in seen.reports.values() if now - heard.at <= timing.silent_s)


def serving(seen: Observed, now: float, timing: Timing) -> list[GatewayReport]:
    """The reports of gateways that answer new queries."""
    return [one for one in reporting(seen, now, timing) if one.live and not one.draining]


def settled(seen: Observed, now: float, timing: Timing) -> bool:
    """Whether every gateway that is there had the time to report to this controller."""
    return now - seen.since > timing.silent_s
