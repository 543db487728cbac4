"""What an import says: counts, what was compared, and what was odd."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from colbert_core.index import Manifest
from colbert_core.index.importers import Source
from colbert_core.types import F32

_ODD_NORM = (0.4, 2.0)
"""Lengths beyond which a decoded token is counted as odd: the codec's scale bytes end there."""


@dataclass
class ImportReport:
    """What was imported, and what was found on the way.

    Attributes:
        source, format: where it came from.
        generation, passages, tokens, shards, bits, dim, centroids: what was written.
        empty: passages without tokens, which were left out.
        lists_compared, lists_differing: posting lists; ours follow from the codes.
        norm_min, norm_mean, norm_max: lengths of decoded vectors before they are normalised.
        odd_norms: tokens whose length is below 0.4 or above 2.
        model: the encoder that text queries will use, or None: then the index takes vectors only.
        notes: what was odd, and how it was taken.
    """

    source: str
    format: str
    bits: int
    dim: int
    centroids: int
    generation: str = ""
    passages: int = 0
    tokens: int = 0
    shards: int = 0
    empty: int = 0
    lists_compared: int = 0
    lists_differing: int = 0
    norm_min: float = math.inf
    norm_mean: float = 0.0
    norm_max: float = 0.0
    odd_norms: int = 0
    model: str | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def add_norms(self, norms_T: F32, total: int) -> None:
        """Count the decoded vectors of some of all `total` tokens."""
        self.norm_min = min(self.norm_min, float(norms_T.min()))
        self.norm_max = max(self.norm_max, float(norms_T.max()))
        self.norm_mean += float(norms_T.sum(dtype=np.float64)) / total
        low, high = _ODD_NORM
        self.odd_norms += int(((norms_T < low) | (norms_T > high)).sum())

    def compare_counts(self, source: Source) -> None:
        """Say where metadata and arrays disagree; arrays are what is imported."""
        doclens_N = source.all_doclens
        real = {
            "passages": len(doclens_N),
            "tokens": int(doclens_N.sum()),
            "centroids": len(source.centroids_CD),
        }
        for name, stated in source.stated.items():
            if stated != real[name]:
                self.notes.append(
                    f"its metadata state {stated:,} {name} and its files hold {real[name]:,}; "
                    "the files were taken"
                )

    def finish(self, manifest: Manifest) -> None:
        self.generation = manifest.generation
        self.passages, self.tokens = manifest.passages, manifest.tokens
        self.shards = len(manifest.shards)
        if self.empty:
            self.notes.append(f"{self.empty:,} passages have no tokens and were left out")
        if self.lists_differing:
            self.notes.append(
                f"{self.lists_differing:,} of its {self.lists_compared:,} posting lists differ "
                "from its codes; ours follow from the codes"
            )
