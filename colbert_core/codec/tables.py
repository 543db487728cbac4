"""The small tables of a codec."""

from __future__ import annotations

from dataclasses import dataclass

from colbert_core.types import F32


@dataclass(frozen=True)
class Tables:
    """Residual levels and scales.

    Attributes:
        levels: float32, what residual bits decode to before scaling: of `tartan` [64], by the six
            bits that end with a dimension's own; of `colbertv2` [2^bits], ascending, by its index.
        cutoffs: float32 [2^bits − 1], the boundaries between neighbouring levels; None for
            `tartan`, which chooses the bits of all dimensions together.
        alpha: float32 [256], what a scale byte multiplies the centroid by.
        beta: float32 [256], what a scale byte multiplies the levels by.
    """

    levels: F32
    cutoffs: F32 | None
    alpha: F32
    beta: F32
