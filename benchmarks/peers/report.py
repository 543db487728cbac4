"""Results as JSON and as Markdown tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from adapter import Vectors
from collection import Collection
from engines import EngineSpec
from launch import label_of
from truth import ndcg_at_10, overlap

MIB = 2**20


def row(
    spec: EngineSpec,
    options: dict[str, Any],
    label: str,
    found: dict[str, Any],
    built: dict[str, Any],
    searched: dict[str, Any],
    sizes: dict[str, int],
    collection: Collection,
    vectors: Vectors,
    exact: np.ndarray,
) -> dict[str, Any]:
    """All figures of one run: latency in ms, sizes in bytes, times in seconds."""
    tokens = len(vectors.tokens)
    p50, p95, p99 = np.percentile(found["latency_ms"], [50, 95, 99])
    return {
        "engine": spec.name,
        "index": label_of(options),
        "setting": label,
        "k": found["k"],
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "mean_ms": float(np.mean(found["latency_ms"])),
        "cpu_p50_ms": float(np.median(found["cpu_ms"])),
        "passes": found["passes"],
        "cpu_per_wall": found["cpu_per_wall"],
        "overlap": overlap(found["top"], exact, found["k"]),
        "ndcg_at_10": ndcg_at_10(found["top"], collection),
        "bytes": sizes["total"],
        "bytes_once": sizes["once"],
        "bytes_per_token": sizes["total"] / tokens,
        "build_seconds": built["seconds"],
        "build_cpu_seconds": built["cpu_seconds"],
        "build_tokens_per_s": tokens / built["seconds"],
        "build_tokens_per_cpu_s": tokens / built["cpu_seconds"],
        "build_peak_bytes": built["memory"]["peak"],
        "build_load": [built["load_before"], built["load_after"]],
        "search_peak_bytes": searched["memory"]["peak"],
        "search_anonymous_bytes": searched["memory"]["anonymous"],
        "search_load": [searched["load_before"], searched["load_after"]],
        "open_seconds": searched["open_seconds"],
    }


def write_report(folder: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """`<theme>-<date>.json` and `.md` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{about['theme']}-{about['date']}"
    document = {"about": about, "rows": rows}
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / f"{stem}.md").write_text(markdown(about, rows), encoding="utf-8")
    print(f"written: {folder / stem}.json and .md")


def markdown(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """A heading with the conditions, one search table per k, one table of indexes."""
    vectors, computer = about["vectors"], about["machine"]
    lines = [
        f"# {about['theme']}, {about['date']}",
        "",
        f"{vectors['collection']}: {vectors['passages']:,} passages, {vectors['tokens']:,} tokens, "
        f"{vectors['dim']} dimensions ({vectors['model']}), {about['queries']} queries. "
        f"{about['threads']} thread, one query at a time, median of up to {about['passes']} passes "
        f"after {about['warmup']} warm-up queries.",
        "",
        f"{computer['processor']}, {computer['cores']} cores ({', '.join(computer['flags'])}), "
        f"{computer['memory_gib']} GiB. Load average {about['load_before']} at the start and "
        f"{about['load_after']} at the end; `busy` is the share of the wall time that the search "
        "did not run although it wanted to (0 on an idle machine).",
        "",
        "Overlap is with exact MaxSim over the uncompressed vectors.",
        "",
    ]
    for k in sorted({cells["k"] for cells in rows}):
        lines += [f"## Search, k = {k}", "", *search_table(k, rows), ""]
    lines += ["## Indexes", "", *index_table(rows), ""]
    for engine, packages in about["versions"].items():
        lines.append(f"- {engine}: " + ", ".join(f"{n} {v}" for n, v in packages.items()))
    return "\n".join(lines) + "\n"


def search_table(k: int, rows: list[dict[str, Any]]) -> list[str]:
    """Latency beside overlap and nDCG."""
    lines = [
        f"| engine | index | setting | p50 ms | p95 ms | processor ms | overlap@{k} | nDCG@10 "
        "| busy |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {c['engine']} | {c['index']} | {c['setting']} | {c['p50_ms']:.2f} | {c['p95_ms']:.2f} "
        f"| {c['cpu_p50_ms']:.2f} | {c['overlap']:.3f} | {c['ndcg_at_10']:.4f} "
        f"| {max(0.0, 1 - c['cpu_per_wall']):.2f} |"
        for c in rows
        if c["k"] == k
    ]
    return lines


def index_table(rows: list[dict[str, Any]]) -> list[str]:
    """Size, building and memory of each index, once."""
    lines = [
        "| engine | index | MiB on disk | without copies | bytes a token | build s "
        "| of it processor s | tokens a processor s "
        "| build peak MiB | search peak MiB | of it private |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    seen = set()
    for c in rows:
        if (c["engine"], c["index"]) in seen:
            continue
        seen.add((c["engine"], c["index"]))
        lines.append(
            f"| {c['engine']} | {c['index']} | {c['bytes'] / MIB:.1f} | {c['bytes_once'] / MIB:.1f}"
            f" | {c['bytes_per_token']:.1f} | {c['build_seconds']:.0f} "
            f"| {c['build_cpu_seconds']:.0f} | {c['build_tokens_per_cpu_s']:,.0f} "
            f"| {c['build_peak_bytes'] / MIB:,.0f} | {c['search_peak_bytes'] / MIB:,.0f} "
            f"| {c['search_anonymous_bytes'] / MIB:,.0f} |"
        )
    return lines
