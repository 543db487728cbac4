"""How much work a query does: one knob, `recall`, or the raw numbers."""

from __future__ import annotations

from colbert_core.errors import QueryError
from colbert_core.types import MAX_K, SearchParams

DEFAULT_RECALL = 0.95
SHARE = 2
LEAST_PER_SHARD = 32

PRESETS: tuple[tuple[float, int, float, int], ...] = (
    (0.80, 4, 8.0, 64),
    (0.90, 8, 12.0, 128),
    (0.95, 16, 16.0, 256),
    (0.98, 24, 24.0, 512),
    (0.99, 32, 32.0, 1024),
)
"""(recall, nprobe, candidates per hit, least candidates), of the whole index. That .95 keeps .98
and more is measured on four collections; the rest follow the curves of docs/decisions/search.md."""


def derive_params(
    k: int,
    *,
    recall: float | None = None,
    nprobe: int | None = None,
    candidates: int | None = None,
    exact: bool = False,
    shards: int = 1,
) -> SearchParams:
    """The parameters of one request.

    Args:
        k: hits asked for, 1 to 10,000.
        recall: the share of the exact top k to be found, above 0 and at most 1; 1 means exact.
        nprobe: centroids probed per query token; replaces what `recall` chooses.
        candidates: passages scored exactly in each shard; replaces what `recall` chooses.
        exact: score every passage.
        shards: shards of the index. Each takes twice its even share of what `recall` chooses, for
            the passages that answer a query are not spread evenly.

    Raises:
        QueryError: a value is out of its range.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise QueryError(f"k is {k!r}; ask for 1 to {MAX_K:,} hits")
    target = DEFAULT_RECALL if recall is None else recall
    if not 0.0 < target <= 1.0:
        raise QueryError(f"recall is {recall}; give a share above 0 and at most 1 (1 is exact)")
    for name, value in (("nprobe", nprobe), ("candidates", candidates)):
        if value is not None and value < 1:
            raise QueryError(f"{name} is {value}; give 1 or more, or leave it out")
    preset = next((row for row in PRESETS if row[0] >= target - 1e-9), None)
    if exact or (preset is None and nprobe is None and candidates is None):
        return SearchParams(k, 0, 0, exact=True)
    _, probes, per_hit, least = preset or PRESETS[-1]
    if candidates is None:
        whole = max(least, int(k * per_hit))
        candidates = min(whole, max(LEAST_PER_SHARD, -(-SHARE * whole // shards)))
    return SearchParams(k, nprobe or probes, max(k, candidates))
