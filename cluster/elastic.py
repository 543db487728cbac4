"""How many workers, and which work is done twice: the decisions of the worker pool, pure.

Workers follow the cluster: a node that joins gets some, a node that leaves takes its own along.
When the queue is empty, a piece that takes far longer than usual is begun again on an idle worker;
commits are idempotent, so the first to finish wins.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cluster.plan import WorkerPlan

STRAGGLER_S = 120.0  # noted where nothing else is known
STRAGGLER_FACTOR = 5.0
COPY_S = 15.0  # no copy earlier: starting one costs a worker
COPY_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Running:
    """A piece of work on a worker: `rank` 0 is being done, more waits behind it.

    `seconds` is how long the worker has been at its rank 0; `copies` on how many workers it is.
    """

    key: Hashable
    rank: int
    seconds: float
    copies: int


def room(plan: WorkerPlan, nodes: Iterable[Mapping[str, float]]) -> int:
    """Workers that fit on a cluster, node by node, if they had it for themselves.

    Args:
        nodes: the resources of each node that is alive, as Ray names them.
    """
    fitting = 0
    for node in nodes:
        most = int(node.get("CPU", 0.0) / plan.cpus)
        if plan.gpus:
            # A share of a GPU is never made of two; rounding keeps 1/3 from giving 2.
            most = min(most, int(node.get("GPU", 0.0)) * round(1 / plan.gpus))
        fitting += most
    return fitting


def wanted_workers(plan: WorkerPlan, fitting: int) -> int:
    """How many workers there should be: as many as fit, between the plan's bounds.

    The least is wanted even where it does not fit: that is what an autoscaler reacts to.

    Args:
        fitting: what fits on the cluster now (`room`).
    """
    return max(min(fitting, plan.most), plan.least)


def usual_seconds(seconds: Sequence[float]) -> float:
    """What a piece takes, from those that are done; 0 where none is."""
    return median(seconds) if seconds else 0.0


def straggles(seconds: float, usual: float) -> bool:
    """Whether a piece takes so long that a person should know."""
    return seconds > max(STRAGGLER_S, STRAGGLER_FACTOR * usual)


def to_copy(running: Iterable[Running], usual: float) -> Hashable | None:
    """The piece that an idle worker should begin as well, or None.

    What waits behind a piece that hangs is as stuck as that piece.
    """
    limit = max(COPY_S, COPY_FACTOR * usual) if usual else STRAGGLER_S
    stuck = [one for one in running if one.copies == 1 and one.seconds > limit]
    if not stuck:
        return None
    return max(stuck, key=lambda one: (one.seconds, -one.rank)).key
