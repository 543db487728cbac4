"""The least time that each stage of a query could take, beside what it takes.

Counted are only what no arrangement of the same algorithm can do without:

- centroids: every centroid with every query token, in int8; the table is read once.
- postings: every posting of the probed lists, and 8 bytes of its passage's running sum.
- centroid interaction: every candidate's codes, and for each the int16 scores of its centroid.
- precise: the tokens of the passages that are left with every query token, one int8 product, and
  their stored bytes. What two planes of the query take, where they are multiplied with all tokens,
  is not counted, for it need not be done but for those that may be the best; nor are scores of
  their centroids, since the first stage had them.

Query tokens count in whole groups of 16 lanes. Rotating the query and fetching ids have no floor
worth naming. A floor by bytes supposes a stream; a stage that jumps about memory cannot reach it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from report.write import conditions


@dataclass(frozen=True)
class Work:
    """One stage of one query.

    Attributes:
        stage: its name.
        ms: what it took.
        operations: int8 operations, at least.
        bytes: to read, at least.
        working_set: bytes of what it reads from, which decides the cache that they come from.
    """

    stage: str
    ms: float
    operations: float
    bytes: float
    working_set: float


def bandwidth(peaks: dict[str, Any], working_set: float) -> float:
    """Bytes a second: of the largest measured size within the working set, so never too few."""
    sizes = sorted((int(size), float(rate)) for size, rate in peaks["bytes_per_s"].items())
    return max(sizes[:1] + [one for one in sizes if one[0] <= working_set])[1]


def floors(works: list[list[Work]], peaks: dict[str, Any]) -> list[dict[str, Any]]:
    """Per stage the medians over queries of time and of floor, and how many times one is the other.

    Args:
        works: for each query its stages, the same in each.
        peaks: what `peak.cpp` printed. The fastest instruction counts.
    """
    peak = max(peaks["int8_operations_per_s"].values(), default=0.0)
    rows = []
    for stage in zip(*works, strict=True):
        ms = float(np.median([work.ms for work in stage]))
        by_operations = 1e3 * np.median([work.operations for work in stage]) / (peak or np.inf)
        seconds = [work.bytes / bandwidth(peaks, work.working_set) for work in stage]
        floor = max(float(by_operations), 1e3 * float(np.median(seconds)))
        rows.append(
            {
                "stage": stage[0].stage,
                "ms": ms,
                "operations": float(np.median([work.operations for work in stage])),
                "bytes": float(np.median([work.bytes for work in stage])),
                "floor_by_operations_ms": float(by_operations),
                "floor_by_bytes_ms": 1e3 * float(np.median(seconds)),
                "floor_ms": floor,
                "gap": ms / floor if floor else None,
            }
        )
    total, floor = (sum(row[key] for row in rows) for key in ("ms", "floor_ms"))
    return [*rows, {"stage": "query", "ms": total, "floor_ms": floor, "gap": total / floor}]


def roofline_markdown(document: dict[str, Any]) -> str:
    """Conditions, peaks, one row a stage."""
    about, peaks = document["about"], document["peaks"]
    int8 = ", ".join(f"{n} {r / 1e12:.2f} T" for n, r in peaks["int8_operations_per_s"].items())
    reads = ", ".join(
        f"{r / 1e9:.1f} GB ({int(n) >> 20} MiB)" for n, r in peaks["bytes_per_s"].items()
    )
    lines = [
        f"# roofline, {about['collection']}, {about['date']}",
        "",
        f"{about['passages']:,} passages, {about['tokens']:,} tokens, {about['codec']['bits']} "
        f"bits, {about['codec']['centroids']:,} centroids; k = {about['k']}, {about['nprobe']} "
        f"probes, {about['candidates']} candidates, {about['scored']} scored; "
        f"{about['queries']} queries, one thread, "
        f"kernels: {about['kernels']}.",
        "",
        conditions(about),
        "",
        f"Measured at best, one thread, a second: int8 operations {int8}; bytes read {reads}.",
        "",
        "| stage | ms | int8 operations | bytes | floor by operations, ms | by bytes, ms "
        "| times the floor |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in document["rows"][:-1]:
        gap = f"{row['gap']:.1f}" if row["gap"] else ""
        lines.append(
            f"| {row['stage']} | {row['ms']:.3f} | {row['operations'] / 1e6:,.1f} M "
            f"| {row['bytes'] / 1e3:,.0f} k | {row['floor_by_operations_ms']:.3f} "
            f"| {row['floor_by_bytes_ms']:.3f} | {gap} |"
        )
    last = document["rows"][-1]
    lines.append(
        f"| **query** | **{last['ms']:.3f}** | | | | floor {last['floor_ms']:.3f} "
        f"| **{last['gap']:.1f}** |"
    )
    return "\n".join(lines) + "\n"
