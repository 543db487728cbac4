"""The small tables of a codec."""

from __future__ import annotations

from dataclasses import dataclass

from colbert_core.types import F32


@dataclass(frozen=True)
class Tables:
    """Residual levels and scales.

    Attributes:
        levels: float32 [2^bits], ascending, what a residual index decodes to before scaling.
        cutoffs: float32 [2^bits − 1], the boundaries between neighbouring levels.
        alpha: float32 [256], what a scale byte multiplies the centroid by.
        beta: float32 [256], what a scale byte multiplies the levels by.
    """

    levels: F32
    cutoffs: F32
    alpha: F32
    beta: F32
