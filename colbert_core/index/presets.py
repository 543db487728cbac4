"""Presets: how much work a recall target takes on one index; part of its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSED_BY_POSTINGS = 0.4
"""The share, of what may be missed, that candidates may lack; the rest is not scored."""

OPTIMISM = 5.0
"""How much more, in shares of itself, is expected to be missed than is: the more, the less the k-th
best of what is scored is the k-th best of all."""

PASSAGES_PER_HIT = 8
"""Fewer than so many passages for each hit, and the top k is no small part of them, as presets take
it to be."""

CALIBRATED_ON = "calibrated_on"
"""In a manifest's extras: how many real queries its presets were measured with, if with any."""

COMMON_SPREAD = 0.09  # as measured on five collections; before presets had one


def kept_for(recall: float) -> float:
    """The share of the top k that candidates must hold for a recall."""
    return 1 - MISSED_BY_POSTINGS * (1 - recall)


def missed_for(recall: float) -> float:
    """The share that scoring may be expected to miss for it, of candidates that hold `kept_for`."""
    missed = 1 - recall / kept_for(recall)
    return missed * (1 + OPTIMISM * missed)


@dataclass(frozen=True, slots=True)
class Preset:
    """What `recall` of the exact top `k` takes, as measured on the index itself.

    Attributes:
        recall: the share of the exact top k that is asked for.
        k: hits asked for.
        nprobe: centroids probed per query token.
        candidates: the most passages of a shard that centroid interaction compares.
        scored: the most passages of a shard that are scored precisely.
        margin: candidates whose estimated score lies more than margin · √Σ‖q‖² below the k-th
            best of their shard are not compared; q are the query's tokens.
        missed: scoring ends where it is expected to have missed no more than this share of the
            shard's top k.
        spread: by how much precise scores differ from what centroid interaction tells, over √Σ‖q‖².
        kept: the share of the top k that the margin kept.
        mean_scored: passages scored per query, of all shards together.
    """

    recall: float
    k: int
    nprobe: int
    candidates: int
    scored: int
    margin: float
    missed: float
    spread: float
    kept: float
    mean_scored: int

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> Preset:
        """From a manifest's JSON; an unknown key is a TypeError.

        Before scoring ended by itself, presets had a margin for what was scored, and told what
        both margins kept.
        """
        if "interaction_margin" not in raw:
            return cls(**raw)
        gone = ("interaction_margin", "overlap")
        missed = round(missed_for(raw["recall"]), 4)
        return cls(
            **{name: value for name, value in raw.items() if name not in gone},
            missed=missed,
            spread=COMMON_SPREAD,
            kept=raw["overlap"],
        )
