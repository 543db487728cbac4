"""The kernels in plain numpy: what the native ones must compute, bit for bit.

Shapes: L query tokens, D dimensions, C centroids, P probes per query token, T passage tokens,
N passages, B packed residual bytes per token, M passages asked for, K hits.

Integers are exact, so their order does not matter. Floats are float32, every product is rounded
before it is added (no fused multiply-add), and every sum has a stated order; where an order is
stated, native and reference agree on every bit.

Everything but `rotate` happens in the codec's rotated space; a query arrives rotated.

    arithmetic.py  quantising, unpacking, dot products and sums: the definitions
    table.py       the global centroids and the best of them per query token
    arrays.py      one shard: its arrays, checked and read
    choosing.py    which passages go on: estimates, margins, ties
    stopping.py    when enough of them is scored
    shard.py       one shard: candidates, centroid interaction, precise scoring
    nearest.py     rotation; building: int8 rows, their nearest centroids, and their sums
    strings.py     ids, many at once
    contexts.py    what the tokens of a passage share
    residuals.py   building: what a codec stores of a token
    trellis.py     how its bits become levels, and which bits are best
    checks.py      what is refused, and in which words
"""

from __future__ import annotations

from colbert_core.reference.nearest import (
    MAX_WEIGHT,
    RUN,
    NearestCentroid,
    add_rows,
    rotate,
    to_int8,
)
from colbert_core.reference.residuals import quantise_colbertv2, quantise_tartan
from colbert_core.reference.shard import Shard
from colbert_core.reference.strings import StringColumn
from colbert_core.reference.table import CentroidTable
from colbert_core.reference.trellis import best_bits

__all__ = [
    "MAX_WEIGHT",
    "RUN",
    "CentroidTable",
    "NearestCentroid",
    "Shard",
    "StringColumn",
    "add_rows",
    "best_bits",
    "quantise_colbertv2",
    "quantise_tartan",
    "rotate",
    "to_int8",
]
