"""What an index job takes: tables of memory by size, and of speed by workers."""

from __future__ import annotations

from statistics import median
from typing import Any

from report.write import conditions

MIB = 2**20
MS_MARCO_V2 = 140_000_000


def growth_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Bytes a passage by which the last size's peak of each process exceeds the one's before."""
    before, last = rows[-2:]
    more = last["passages"] - before["passages"]
    return {
        role: {
            kind: (last["memory"][role][kind] - before["memory"][role][kind]) / more
            for kind in ("anonymous", "rss")
        }
        for role in ("driver", "worker")
    }


def memory_markdown(document: dict[str, Any], plot: str) -> str:
    """Conditions, plot, peaks by size, anonymous memory by stage, seconds by stage."""
    about, rows = document["about"], document["rows"]
    lines = [
        f"# Memory of an index job, {about['collection']}, {about['date']}",
        "",
        f"`tartan index build` with {about['workers']} workers of passages of {about['words'][0]} "
        f"to {about['words'][1]} words. The model is a random BERT of one layer and {about['dim']} "
        "dimensions: what is measured is memory. Peaks of samples every 0.2 s, of the largest "
        "worker; anonymous memory is a process's own, resident memory counts mapped files, too.",
        "",
        conditions(about),
        "",
        f"![{plot}]({plot})",
        "",
        "| passages | tokens | centroids | corpus MB | driver anonymous MiB | driver RSS "
        "| worker anonymous MiB | worker RSS | seconds |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['passages']:,} | {row['tokens']:,} | {row['centroids']:,} "
        f"| {row['corpus_bytes'] / 1e6:,.1f} | "
        + " | ".join(
            _mib(row["memory"][role][kind])
            for role in ("driver", "worker")
            for kind in ("anonymous", "rss")
        )
        + f" | {row['seconds']['total']:,.0f} |"
        for row in rows
    ]
    stages = list(rows[0]["memory"]["driver"]["anonymous_by_stage"])
    lines += ["", "Peak anonymous MiB by stage (driver / largest worker):", "", _head(stages)]
    for row in rows:
        driver, worker = (row["memory"][r]["anonymous_by_stage"] for r in ("driver", "worker"))
        cells = (f"{_mib(driver[stage])} / {_mib(worker[stage])}" for stage in stages)
        lines.append(f"| {row['passages']:,} | " + " | ".join(cells) + " |")
    lines += ["", "Seconds by stage:", "", _head(stages)]
    for row in rows:
        cells = (f"{row['seconds'].get(stage, 0):,.1f}" for stage in stages)
        lines.append(f"| {row['passages']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def scaling_markdown(document: dict[str, Any]) -> str:
    """Conditions, and tokens a second by workers beside what the processor gives at best."""
    about, rows = document["about"], document["rows"]
    workers = sorted({row["workers"] for row in rows})
    lines = [
        f"# Scaling of an index job, {about['collection']}, {about['date']}",
        "",
        f"`tartan index build` of {rows[0]['passages']:,} passages, {rows[0]['tokens']:,} tokens, "
        f"with `{about['model']}`. Tokens a second of encoding and compressing: all tokens over "
        "the seconds of the stages sample and encode, in which each is encoded and compressed "
        "once; tokens a processor second: the same over the workers' processor time. The ceiling "
        "is what float32 matrix products of as many processes do, measured "
        "before each build. Medians of "
        f"{len(rows) // len(workers)} builds with each number of workers.",
        "",
        conditions(about),
        "",
        "| workers | tokens a second | beside one | ceiling | tokens a processor second "
        "| sample s | encode s | write s | total s | load before |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    one = [row for row in rows if row["workers"] == workers[0]]
    for count in workers:
        mine = [row for row in rows if row["workers"] == count]
        rate, base = median(map(_rate, mine)), median(map(_rate, one))
        ceiling = median(r["products_per_s"] for r in mine) / median(
            r["products_per_s"] for r in one
        )
        seconds = (
            f"{median(row['seconds'][stage] for row in mine):,.1f}"
            for stage in ("sample", "encode", "write", "total")
        )
        loads = ", ".join(f"{row['load']:g}" for row in mine)
        lines.append(
            f"| {count} | {rate:,.0f} | {rate / base:.2f} × | {ceiling:.2f} × "
            f"| {median(row['tokens'] / row['worker_cpu_s'] for row in mine):,.0f} | "
            + " | ".join(seconds)
            + f" | {loads} |"
        )
    return "\n".join(lines) + "\n"


def _rate(row: dict[str, Any]) -> float:
    seconds = row["seconds"]
    return float(row["tokens"] / (seconds["sample"] + seconds["encode"]))


def _head(columns: list[str]) -> str:
    return f"| passages | {' | '.join(columns)} |\n|{'--:|' * (len(columns) + 1)}"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / MIB:,.0f}"
