"""The document of a run as Markdown: claims first, then what they were computed from."""

from __future__ import annotations

from typing import Any

from report.select import Row, at
from report.write import conditions

MIB = 2**20


def markdown(document: dict[str, Any], plots: list[str]) -> str:
    """Conditions, claims, plots, a table of searches per k, throughput, indexes, stages."""
    about = document["about"]
    lines = [f"# {about['theme']}, {about['collection']}, {about['date']}", "", _made_from(about)]
    lines += ["", conditions(about), ""]
    if document["claims"]:
        lines += ["## Claims", "", *claim_table(document["claims"]), ""]
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    for k in about["ks"]:
        lines += [f"## Search, k = {k}", "", *search_table(k, document["searches"]), ""]
    lines += ["## Many queries at a time", "", *throughput_table(document["throughput"]), ""]
    lines += ["## Indexes", "", *index_table(document["indexes"]), ""]
    lines += ["## Building", "", *build_table(document["indexes"]), ""]
    lines += [
        f"- {one['engine']} {one['index']}: failed: {one['error'].splitlines()[-1]}"
        for one in document["failed"]
    ]
    for engine, packages in about["versions"].items():
        lines.append(f"- {engine}: " + ", ".join(f"{n} {v}" for n, v in packages.items()))
    return "\n".join(lines) + "\n"


def _made_from(about: dict[str, Any]) -> str:
    vectors = about["vectors"]
    return (
        f"{about['passages']:,} passages, {about['tokens']:,} token vectors of {vectors['dim']} "
        f"dimensions ({vectors['model']}), {about['queries']} queries one at a time, median of up "
        f"to {about['passes']} passes after {about['warmup']} warm-up queries; built with "
        f"{about['build_threads']} thread(s). Overlap is with exact MaxSim over the uncompressed "
        "vectors, `kept` with exhaustive search of the same index. `busy` is the share of the wall "
        "time that a search did not run although it wanted to (0 on an idle machine)."
    )


def claim_table(claims: list[dict[str, Any]]) -> list[str]:
    """One row a claim, and how many hold."""
    holding = sum(claim["holds"] for claim in claims)
    lines = [f"{holding} of {len(claims)} hold.", ""]
    lines += ["| claim | peer | ours | measured | asked | |", "|---|---|---|--:|--:|---|"]
    lines += [
        f"| {c['line']} | {c['peer']} | {c['ours']} | {c['measured']:.3g} | {c['asked']} "
        f"| {'holds' if c['holds'] else '**does not hold**'} |"
        for c in claims
    ]
    return lines


def search_table(k: int, rows: list[Row]) -> list[str]:
    """Latency beside overlap and nDCG."""
    lines = [
        "| engine | index | setting | threads | p50 ms | p95 ms | p99 ms | processor ms "
        f"| hits | overlap@{k} | kept | nDCG@10 | busy |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for c in at(rows, k):
        kept = "" if c["kept"] is None else f"{c['kept']:.3f}"
        busy = f"{max(0.0, 1 - c['cpu_per_wall']):.2f}" if c["threads"] == 1 else ""
        lines.append(
            f"| {c['engine']} | {c['index']} | {c['setting']} | {c['threads']} "
            f"| {c['p50_ms']:.2f} | {c['p95_ms']:.2f} | {c['p99_ms']:.2f} | {c['cpu_p50_ms']:.2f} "
            f"| {c['hits']:.0f} | {c['overlap']:.3f} | {kept} | {c['ndcg_at_10']:.4f} | {busy} |"
        )
    return lines


def throughput_table(rows: list[Row]) -> list[str]:
    """Queries a second at each engine's default."""
    lines = [
        "| engine | index | setting | k | queries at a time | queries a second |",
        "|---|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| {c['engine']} | {c['index']} | {c['setting']} | {c['k']} | {c['at_once']} "
        f"| {c['queries_per_s']:,.1f} |"
        for c in rows
    ]
    return lines


def index_table(rows: list[Row]) -> list[str]:
    """Size on disk, and memory while searching."""
    lines = [
        "| engine | index | MiB on disk | without copies | bytes a token | without copies "
        "| smaller than fp16 | resident MiB | of it private | before opening "
        "| after all settings |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {c['engine']} | {c['index']} | {c['bytes'] / MIB:.1f} | {c['bytes_once'] / MIB:.1f} "
        f"| {c['bytes_per_token']:.1f} | {c['bytes_once_per_token']:.1f} "
        f"| {c['smaller_than_fp16']:.1f} × | {c['search_resident_bytes'] / MIB:,.0f} "
        f"| {c['search_private_bytes'] / MIB:,.0f} | {c['resident_before_bytes'] / MIB:,.0f} "
        f"| {c['search_peak_bytes'] / MIB:,.0f} |"
        for c in rows
    ]
    return lines


def build_table(rows: list[Row]) -> list[str]:
    """Time by stage, speed, memory."""
    lines = [
        "| engine | index | seconds | of it processor | stages | tokens a second "
        "| a processor second | peak MiB | of it private, at most | load |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|---|",
    ]
    for c in rows:
        if c["build_seconds"] is None:
            continue
        private = c["build_peak_private_bytes"]
        stages = ", ".join(f"{stage} {s:.1f}" for stage, s in c["build_stages"].items())
        lines.append(
            f"| {c['engine']} | {c['index']} | {c['build_seconds']:.0f} "
            f"| {c['build_cpu_seconds']:.0f} | {stages} | {c['build_tokens_per_s']:,.0f} "
            f"| {c['build_tokens_per_cpu_s']:,.0f} | {c['build_peak_bytes'] / MIB:,.0f} "
            f"| {f'{private / MIB:,.0f}' if private else ''} "
            f"| {c['build_load'][0]} → {c['build_load'][1]} |"
        )
    notes: dict[str, list[str]] = {}
    for c in rows:
        if c["build_note"]:
            notes.setdefault(c["build_note"], []).append(f"{c['engine']} {c['index']}")
    return lines + [
        x for note, names in notes.items() for x in ("", f"{', '.join(names)}: {note}.")
    ]
