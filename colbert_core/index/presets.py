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
        candidates: the most passages that a shard scores.
        margin: candidates whose approximate score lies more than margin · √(query tokens) below
            the k-th best of their shard are not scored.
        overlap: the share that was found. Above `recall` where the least work finds more.
        scored: passages scored per query, of all shards together; the mean.
    """

    recall: float
    k: int
    nprobe: int
    candidates: int
    margin: float
    overlap: float
    scored: int
