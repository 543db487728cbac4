"""The tables of `benchmarks/filters.py`, from its JSON document."""

from __future__ import annotations

from typing import Any

from report.write import conditions


def filters_markdown(document: dict[str, Any]) -> str:
    """All rows: recall@10 beside p50 of each way, and what is chosen."""
    about = document["about"]
    ways = list(document["rows"][0]["ways"])
    lines = [
        f"# Searching under filters: {about['collection']}, {about['date']}",
        "",
        f"{about['passages']:,} passages, {about['tokens']:,} tokens, {about['bits']} bits, "
        f"{about['queries']} queries, k = 10, default recall, one thread. {conditions(about)}",
        "",
        f"Chosen: all are scored precisely up to {about['scored_tokens']:,} tokens that a filter "
        f"leaves, and all are compared by their centroids up to {about['compared_tokens']:,}. "
        "Every search gave min(10, matching) hits.",
        "",
        "recall@10 among what the filter leaves · processor ms of a query, p50 (p95 as chosen), "
        "which on an idle machine is its latency:",
        "",
        "| filter | passages | evaluated in ms | " + " | ".join(ways) + " |",
        "|---|--:|--:|" + "--:|" * len(ways),
    ]
    for row in document["rows"]:
        cells = [_cell(row["ways"][way], way == "as chosen") for way in ways]
        name = "none" if row["kind"] == "none" else f"`{row['filter']}`"
        lines.append(
            f"| {name} | {row['matching']:,} | {row['evaluate_ms']:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _cell(way: dict[str, float], with_p95: bool) -> str:
    tail = f" ({way['p95_ms']:.2f})" if with_p95 else ""
    return f"{way['recall']:.3f} · {way['p50_ms']:.2f}{tail}"
