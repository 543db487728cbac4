"""Presets measured with queries of one's own: `Index.calibrate`, `tartan index calibrate`.

Where an index is built there are no queries, so its presets come from such as are made of its
passages. These are like real ones and not the same (docs/decisions/recall-presets.md). Real ones
tell better what each recall takes of them; and what searches for them find, beside exact ones, sets
right what is left (search/adjust.py), where an index is not so large that this takes too long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from colbert_core import kernels
from colbert_core.change import changing
from colbert_core.errors import InvalidInput, QueryError
from colbert_core.index import Manifest, publish_change
from colbert_core.index.presets import CALIBRATED_ON
from colbert_core.search import Searcher
from colbert_core.search.adjust import adjusted
from colbert_core.search.calibrate import FEWEST_PASSAGES, calibrate
from colbert_core.search.pseudo_queries import TrialQuery
from colbert_core.types import F32

if TYPE_CHECKING:
    from colbert_core.build import OnProgress

FEWEST_QUERIES = 50  # for .99 of ten hits, two gaps of so many decide the margin
MOST_QUERIES = 512  # of more, a sample
SEARCHED_TOKENS = 1 << 34  # that are scored for all queries: minutes on one processor

Item = TypeVar("Item")
Query = TypeVar("Query")  # a text or a matrix


def calibrate_index(
    path: Path,
    queries: Sequence[Query],
    encode: Callable[[Query], F32],
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Measure the presets of the live generation anew, and publish them; see `Index.calibrate`.

    Args:
        encode: a query → float32 [L, D], checked, not rotated.
    """
    report = on_progress or (lambda _stage, _done, _total: None)
    if len(queries) < FEWEST_QUERIES:
        raise InvalidInput(
            f"{len(queries)} queries say too little of others: give {FEWEST_QUERIES} at least, of "
            "the kind that will be asked, and better some hundreds"
        )
    if kernels.isa() == "reference":
        raise InvalidInput(
            "presets are measured with native kernels, and here are none "
            f"({kernels.IMPLEMENTATION}): build the extension, or unset TARTAN_KERNELS"
        )
    with changing(path) as change:
        live, manifest = change.live, change.live.manifest
        if manifest.passages < FEWEST_PASSAGES:
            raise InvalidInput(
                f"{path} has {manifest.passages:,} passages; of fewer than {FEWEST_PASSAGES} "
                "nothing is measured, and all of them are soon compared"
            )
        seed = int(manifest.extras.get("seed", 0))
        matrices = [
            _encoded(number, query, encode)
            for number, query in _some(list(enumerate(queries, 1)), MOST_QUERIES, seed)
        ]
        trials = [TrialQuery(live.codec.rotate(query_LD)) for query_LD in matrices]
        presets = calibrate(
            live.shards, live.codec, seed, trials, on_query=partial(report, "measure")
        )
        searched = _some(matrices, SEARCHED_TOKENS // max(1, manifest.tokens), seed)
        if len(searched) >= FEWEST_QUERIES:
            presets = adjusted(presets, Searcher(live), searched, partial(report, "search"))
        return publish_change(
            path,
            manifest,
            change.generation,
            [shard.entry for shard in live.shards],
            presets=presets,
            extras={**manifest.extras, CALIBRATED_ON: len(trials)},
        )


def _encoded(number: int, query: Query, encode: Callable[[Query], F32]) -> F32:
    """A query as a matrix; what is wrong with it names it."""
    try:
        query_LD = encode(query)
    except QueryError as error:
        raise QueryError(f"query {number} of those to measure with: {error}") from error
    if not query_LD.any():
        raise QueryError(f"query {number} of those to measure with is all zeros: leave it out")
    return query_LD


def _some(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """All of them, or as many as that."""
    if len(items) <= most:
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[at] for at in sorted(chosen.tolist())]
