"""Latency against the size of the corpus: the exponent, its claim, its table."""

from __future__ import annotations

from typing import Any

import numpy as np

from report.claims import Claim, claim
from report.tables import claim_table
from report.write import conditions

EXPONENT_FROM = 100_000
BOUND = 0.5
NEAR_CODES = (
    " Tokens' centroids were looked for near the nearest mean of a run alone, as k-means does at "
    "its beginning: one in five is not the nearest."
)


def exponent(rows: list[dict[str, Any]], least: int, figure: str = "p50_ms") -> float | None:
    """The e of `latency ≈ c · passages^e`, fitted to the sizes from `least` on; two are needed."""
    kept = [row for row in rows if row["passages"] >= least]
    if len(kept) < 2:
        return None
    sizes = np.log([row["passages"] for row in kept])
    slope, _ = np.polyfit(sizes, np.log([row[figure] for row in kept]), 1)
    return float(slope)


def growth_claims(document: dict[str, Any]) -> list[Claim]:
    """That latency grows slower than the square root of the corpus."""
    if document["exponent"] is None:
        return []
    kept = [row for row in document["rows"] if row["passages"] >= EXPONENT_FROM]
    first, last = kept[0], kept[-1]
    shown = (
        f"{first['p50_ms']:.2f} ms ({first['kept']:.3f} kept) → {last['p50_ms']:.2f} ms "
        f"({last['kept']:.3f} kept)"
    )
    line = f"growth exponent from {first['passages']:,} to {last['passages']:,} passages"
    return [claim("growth", line, "", shown, document["exponent"], f"≤ {BOUND}")]


def growth_markdown(document: dict[str, Any], plot: str) -> str:
    """Conditions, claim, plot, table."""
    about = document["about"]
    lines = [
        f"# growth, {about['collection']}, {about['date']}",
        "",
        f"Passages of {about['length']} tokens, cut from real ones; where `copies` is above 1 also "
        "perturbed copies of them, each token with a cosine of about .85 to its original. "
        f"{about['bits']} bits, recall {about['recall']:g}, k = {about['k']}, {about['queries']} "
        f"queries one at a time on one thread, median of {about['passes']} passes. `kept` is the "
        "overlap with exhaustive search of the same index."
        + NEAR_CODES
        * about.get("near_codes", False),
        "",
        conditions(about),
        "",
    ]
    if document["claims"]:
        lines += [*claim_table(document["claims"]), ""]
    lines += [f"![{plot}]({plot})", ""]
    lines += [
        "| passages | copies | tokens | centroids | p50 ms | p95 ms | processor ms "
        "| of it centroids | kept | bytes a token | tokens built a second | private MiB at most |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r['passages']:,} | {max(1, r['copies']):.1f} | {r['tokens']:,} | {r['centroids']:,} "
        f"| {r['p50_ms']:.2f} | {r['p95_ms']:.2f} | {r['cpu_p50_ms']:.2f} | {r['probe_ms']:.2f} "
        f"| {r['kept']:.3f} | {r['bytes'] / r['tokens']:.1f} "
        f"| {r['tokens'] / r['build_seconds']:,.0f} "
        f"| {r['build_peak_private_bytes'] / 2**20:,.0f} |"
        for r in document["rows"]
    ]
    return "\n".join(lines) + "\n"
