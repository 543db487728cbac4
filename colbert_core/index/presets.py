"""Presets: how much work a recall target takes on one index; part of its manifest."""

from __future__ import annotations

from dataclasses import dataclass


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
        interaction_margin: the same of scores by centroid interaction, and what is then scored.
        overlap: the share that was found. Above `recall` where the least work finds more.
        mean_scored: passages scored per query, of all shards together.
    """

    recall: float
    k: int
    nprobe: int
    candidates: int
    scored: int
    margin: float
    interaction_margin: float
    overlap: float
    mean_scored: int
