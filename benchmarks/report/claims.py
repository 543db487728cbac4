"""What the project says it is, held against the figures of one run, line by line.

A claim is a dictionary: `group`; `line`, what is compared; `peer` and `ours`, the two sides in
words; `measured`, a number; `asked`, the bound; `holds`. Nothing is rounded before comparing.
"""

from __future__ import annotations

from typing import Any

from colbert_core.search import DEFAULT_RECALL
from report.select import (
    Row,
    answers,
    at,
    best_overlap,
    fastest,
    frontier,
    name,
    ours,
    peers,
    searches,
)

Claim = dict[str, Any]
LATENCY_RATIO = 10.0
FAST_PLAID_RATIO = 100.0
TAIL = 2.0
BYTES_SHARE = 0.6
FP16_RATIO = 12.0
BUILD_RATIO = 5.0
MEMORY_SHARE = 0.5
FOUR_BIT_OVERLAP = 0.96
RECALL_TOLERANCE = 0.02
RECALLS = (0.8, 0.99)
FLOAT_NOISE = 1e-9  # 1 − 0.98 is a little more than 0.02


def claims(document: dict[str, Any]) -> list[Claim]:
    """Every claim that the document has the figures for."""
    ks = document["about"]["ks"]
    lines = [line for k in ks for line in _latency(document, k)]
    lines += [line for k in ks for line in _tail(document, k)]
    return lines + _quality(document) + _bytes(document) + _building(document) + _recall(document)


def claim(group: str, line: str, peer: str, us: str, measured: float, bound: str) -> Claim:
    """One line; `bound` is "≥ x" or "≤ x"."""
    over = measured - float(bound[1:])
    holds = over >= -FLOAT_NOISE if bound[0] == "≥" else over <= FLOAT_NOISE
    return {
        "group": group,
        "line": line,
        "peer": peer,
        "ours": us,
        "measured": measured,
        "asked": bound,
        "holds": holds,
    }


def _latency(document: dict[str, Any], k: int) -> list[Claim]:
    rows = at(searches(document), k)
    theirs, us = peers(rows), ours(rows)
    if not us:
        return []
    lines = []
    default = fastest(row for row in theirs if row["default"])
    if default:
        lines.append(_faster(f"k = {k}: the fastest peer's default", default, us, LATENCY_RATIO))
    for row in reversed(
        frontier(filter(answers, theirs), lambda row: float(row["p50_ms"]), "overlap")
    ):
        line = f"k = {k}: the fastest peer from overlap {row['overlap']:.3f} on"
        lines.append(_faster(line, row, us, LATENCY_RATIO, equal=True))
    plaid = fastest(row for row in theirs if row["default"] and row["engine"] == "fast-plaid")
    if plaid:
        lines.append(_faster(f"k = {k}: fast-plaid's default", plaid, us, FAST_PLAID_RATIO))
    return lines


def _faster(line: str, peer: Row, us: list[Row], ratio: float, *, equal: bool = False) -> Claim:
    """How many times faster than `peer` our fastest is that finds more (or as much)."""
    least = peer["overlap"]
    able = [row for row in us if row["overlap"] > least or (equal and row["overlap"] == least)]
    best = fastest(able)
    speedup = peer["p50_ms"] / best["p50_ms"] if best else 0.0
    shown = _timed(best) if best else "none finds as much"
    return claim("latency", line, _timed(peer), shown, speedup, f"≥ {ratio:g}")


def _timed(row: Row) -> str:
    return f"{name(row)}: {row['p50_ms']:.2f} ms, {row['overlap']:.3f}"


def _tail(document: dict[str, Any], k: int) -> list[Claim]:
    """p95 beside p50 of our default, for each width."""
    return [
        claim(
            "tail",
            f"k = {k}: p95 / p50",
            "",
            f"{name(row)}: {row['p50_ms']:.2f} and {row['p95_ms']:.2f} ms",
            row["p95_ms"] / row["p50_ms"],
            f"≤ {TAIL:g}",
        )
        for row in ours(at(searches(document), k))
        if row["default"]
    ]


def _quality(document: dict[str, Any]) -> list[Claim]:
    """What exhaustive scoring of our indexes keeps, beside the paper's codec at twice the bits."""
    exact = [
        row
        for row in at(searches(document), 10)
        if row["setting"] == "exact" and "centroids_factor" not in row
    ]
    keeps = {row["bits"]: row["overlap"] for row in ours(exact)}
    paper = {row["bits"]: row["overlap"] for row in ours(exact, "colbertv2")}
    lines = [
        claim(
            "quality per byte",
            f"overlap@10 of our {bits} bits above the colbertv2 codec's {theirs}",
            f"{paper[theirs]:.3f}",
            f"{keeps[bits]:.3f}",
            keeps[bits] - paper[theirs],
            "≥ 0",
        )
        for bits, theirs in ((2, 4), (1, 2))
        if bits in keeps and theirs in paper
    ]
    if 4 in keeps:
        shown = f"{keeps[4]:.3f}"
        bound = f"≥ {FOUR_BIT_OVERLAP}"
        line = "overlap@10 of our 4 bits"
        lines.append(claim("quality per byte", line, "", shown, keeps[4], bound))
    return lines


def _bytes(document: dict[str, Any]) -> list[Claim]:
    """Bytes a token, stored texts apart, beside the smallest peer that finds as much."""
    indexes = [
        row | {"best": best_overlap(document, row, 10)}
        for row in document["indexes"]
        if best_overlap(document, row, 10) is not None
    ]
    us, lines = ours(indexes), []
    for peer in frontier(peers(indexes), lambda row: float(row["bytes_once_per_token"]), "best"):
        able = [row for row in us if row["best"] >= peer["best"]]
        smallest = min(able, key=lambda row: float(row["bytes_per_token"]), default=None)
        share = (
            smallest["bytes_per_token"] / peer["bytes_once_per_token"] if smallest else float("inf")
        )
        lines.append(
            claim(
                "quality per byte",
                f"bytes a token, at overlap@10 {peer['best']:.3f} and more",
                f"{name(peer)}: {peer['bytes_once_per_token']:.1f}",
                _sized(smallest) if smallest else "none finds as much",
                share,
                f"≤ {BYTES_SHARE}",
            )
        )
    lines += [
        claim(
            "quality per byte",
            "1 bit: times smaller than fp16 vectors",
            "",
            _sized(row),
            row["smaller_than_fp16"],
            f"≥ {FP16_RATIO:g}",
        )
        for row in us
        if row["bits"] == 1
    ]
    return lines


def _sized(row: Row) -> str:
    return f"{name(row)}: {row['bytes_per_token']:.1f} at {row['best']:.3f}"


def _building(document: dict[str, Any]) -> list[Claim]:
    """Speed and memory beside the fastest peer, for each of our widths."""
    theirs = [row for row in peers(document["indexes"]) if "build_tokens_per_s" in row]
    if not theirs:
        return []
    lines = []
    for key, what in (
        ("build_tokens_per_s", "tokens a second"),
        ("build_tokens_per_cpu_s", "tokens a processor second"),
    ):
        peer = max(theirs, key=lambda row: float(row[key]))
        lines += [
            claim(
                "building",
                what,
                f"{name(peer)}: {peer[key]:,.0f}",
                f"{name(row)}: {row[key]:,.0f}",
                row[key] / peer[key],
                f"≥ {BUILD_RATIO:g}",
            )
            for row in ours(document["indexes"])
        ]
    peer = max(theirs, key=lambda row: float(row["build_tokens_per_cpu_s"]))
    us = ours(document["indexes"])
    private = all(row["build_peak_private_bytes"] for row in (peer, *us))
    key, what = (
        ("build_peak_private_bytes", "peak private memory")
        if private
        else ("build_peak_bytes", "peak memory")
    )
    lines += [
        claim(
            "building",
            f"{what}, share of the fastest peer's",
            f"{name(peer)}: {peer[key] / 2**20:,.0f} MiB",
            f"{name(row)}: {row[key] / 2**20:,.0f} MiB",
            row[key] / peer[key],
            f"≤ {MEMORY_SHARE}",
        )
        for row in us
    ]
    return lines


def _recall(document: dict[str, Any]) -> list[Claim]:
    """Overlap@10 with exhaustive search of the same index beside the recall that was asked for."""
    asked: dict[float, list[Row]] = {}
    for row in ours(at(searches(document), 10)):
        if row["kept"] is not None and not set(row["knobs"]) - {"recall"}:
            asked.setdefault(row["knobs"].get("recall", DEFAULT_RECALL), []).append(row)
    lines = []
    for recall, rows in sorted(asked.items()):
        if RECALLS[0] <= recall <= RECALLS[1]:
            worst = max(rows, key=lambda row: abs(float(row["kept"]) - recall))
            kept = ", ".join(f"{row['kept']:.3f} ({row['bits']} bits)" for row in rows)
            off = abs(worst["kept"] - recall)
            line = f"recall {recall:g} asked: farthest from it"
            lines.append(claim("recall", line, "", kept, off, f"≤ {RECALL_TOLERANCE}"))
    return lines
