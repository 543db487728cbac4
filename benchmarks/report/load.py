"""Throughput and latency against offered load: a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from report.plots import COLOURS, STYLE, save
from report.write import conditions

NAMES = {"right": "right", "Overloaded": "refused", "DeadlineExceeded": "late", "HeldBack": ""}
CLIENTS = {True: "clients of ours", False: "clients that never hold back"}


def load_markdown(document: dict[str, Any], plot: str) -> str:
    """Conditions, verdict, plot, and a row for each load."""
    about, verdict = document["about"], document["verdict"]
    index = about["index"]
    lines = [
        f"# Load, {about['collection']}, {about['date']}",
        "",
        f"{index['passages']:,} passages in {index['shards']} shards × {about['replicas']} "
        "replicas, one gateway, `tartan serve`; the load comes from one more process of the same "
        f"machine. Poisson arrivals for {about['seconds']:g} s each, latency from when a query "
        f"should be sent, {about['distinct']:,} different queries as vectors, k = {about['k']}, "
        f"deadline {about['deadline_s']:g} s, no retries. Goodput: right answers, ids and scores "
        "to the bit, within the deadline. Past saturation each load comes twice: from clients of "
        "ours, which do not send all of it where most is refused, and from clients that send all.",
        "",
        conditions(about),
        "",
        f"Best goodput {verdict['peak']:.0f} a second; past saturation at least "
        f"{100 * verdict['kept']:.0f} % of it from clients of ours, and "
        f"{100 * verdict['kept_from_any']:.0f} % from clients that never hold back. Wrong answers: "
        f"{verdict['wrong']}.",
        "",
        f"![{plot}]({plot})",
        "",
        "| × saturation | offered a second | goodput | p50 ms | p90 | p99 | not sent | refused "
        "| late | other | sent late by, p99 ms |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in document["rows"]:
        kinds = row["kinds"]
        other = sum(count for kind, count in kinds.items() if kind not in NAMES)
        load = f"{row['load']:g}" if row["holds_back"] else f"{row['load']:g}, all sent"
        lines.append(
            f"| {load} | {row['offered']:.0f} | {row['goodput']:.0f} "
            f"| {row['p50_ms']:.1f} | {row['p90_ms']:.1f} | {row['p99_ms']:.1f} "
            f"| {kinds.get('HeldBack', 0)} | {kinds.get('Overloaded', 0)} "
            f"| {kinds.get('DeadlineExceeded', 0)} | {other} "
            f"| {row['lag_p99_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def plot_load(document: dict[str, Any], folder: Path, stem: str) -> str:
    """Goodput, and p50 and p99, against what was offered; the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        goodput, latency = figure.subplots(1, 2)
        most = max(row["offered"] for row in document["rows"])
        goodput.plot([0, most], [0, most], color="#cccccc", label="offered")
        for own, colour in ((False, "#888888"), (True, COLOURS["tartan"])):
            rows = [row for row in document["rows"] if row["holds_back"] is own]
            offered = [row["offered"] for row in rows]
            goodput.plot(
                offered, [row["goodput"] for row in rows], "o-", color=colour, label=CLIENTS[own]
            )
        latency.plot(offered, [row["p50_ms"] for row in rows], "o-", color=colour, label="p50")
        latency.plot(offered, [row["p99_ms"] for row in rows], "o:", color=colour, label="p99")
        goodput.set_ylabel("right answers a second")
        latency.set_yscale("log")
        latency.set_ylabel("ms, of right answers")
        for axes in (goodput, latency):
            axes.set_xlabel("queries a second")
            axes.legend(frameon=False)
        return save(figure, folder, stem)
