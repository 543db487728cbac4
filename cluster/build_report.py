"""What an index job reports when it is done."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from colbert_core.index import Manifest
from colbert_core.index.inspect import describe


@dataclass(frozen=True, slots=True)
class BuildReport:
    """An index that was built.

    Attributes:
        index: its folder.
        generation: the generation that is live now.
        model: what was asked for.
        passages, tokens: what is indexed.
        documents: what hits are; fewer than passages where long ones were split.
        truncated: passages that were cut to the model's length.
        empty: passages without text.
        skipped: ids of passages that were left out, for the model fails on them.
        dim, bits, codec, centroids, shards: how it is stored.
        workers: the most processes that encoded at a time.
        seconds: of each stage in this run, and `total`; what an earlier run did is not in them.
        bytes_total: of all files of the generation.
        bytes_per_token: of everything but texts, metadata and ids.
        driver_peak_rss_bytes: most memory that the driver's process has held.
    """

    index: str
    generation: str
    model: str
    passages: int
    documents: int
    tokens: int
    truncated: int
    empty: int
    skipped: tuple[str, ...]
    dim: int
    bits: int
    codec: str
    centroids: int
    shards: int
    workers: int
    seconds: Mapping[str, float]
    bytes_total: int
    bytes_per_token: float
    driver_peak_rss_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def make_report(
    manifest: Manifest,
    *,
    index: str,
    model: str,
    empty: int,
    skipped: tuple[str, ...],
    workers: int,
    seconds: Mapping[str, float],
) -> BuildReport:
    """The report of a generation that was just published."""
    figures = describe(manifest)
    return BuildReport(
        index=index,
        generation=manifest.generation,
        model=model,
        passages=manifest.passages,
        documents=manifest.documents,
        tokens=manifest.tokens,
        truncated=manifest.truncated,
        empty=empty,
        skipped=skipped,
        dim=int(figures["dim"]),
        bits=int(figures["bits"]),
        codec=str(figures["codec"]),
        centroids=int(figures["centroids"]),
        shards=len(manifest.shards),
        workers=workers,
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        bytes_total=int(figures["bytes_total"]),
        bytes_per_token=float(figures["bytes_per_token"]),
        driver_peak_rss_bytes=_peak_rss_bytes(),
    )


def _peak_rss_bytes() -> int:
    """The most memory that this process has held (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
