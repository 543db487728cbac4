"""Plots of a run's document, as SVG whose text stays text."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.select import Row, answers, at, best_overlap, frontier, searches

mpl.use("Agg")
# The same figures give the same file.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tartan",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLOURS = {
    "tartan": "#b3122d",
    "tartan colbertv2": "#e08a97",
    "colbert-ai": "#2b6cb0",
    "fast-plaid": "#2f855a",
    "xtr-warp-rs": "#805ad5",
    "exhaustive": "#555555",
}


def plot(document: dict[str, Any], folder: Path, stem: str) -> list[str]:
    """Draw what the document has figures for; the names of the files, which go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    about, names = document["about"], []
    with mpl.rc_context(STYLE):
        for what, draw in (("size", size_and_quality), ("latency", latency_and_quality)):
            figure = draw(document)
            figure.suptitle(f"{about['collection']}: {about['tokens']:,} token vectors", size=10)
            names.append(save(figure, folder, f"{stem}-{what}"))
    return names


def save(figure: Figure, folder: Path, stem: str) -> str:
    """Write one SVG; its name."""
    # No date inside, so that the file changes only when the figures do.
    figure.savefig(folder / f"{stem}.svg", metadata={"Date": None}, bbox_inches="tight")
    return f"{stem}.svg"


def size_and_quality(document: dict[str, Any]) -> Figure:
    """Bytes a token against the overlap@10 that the best setting of each index has."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    series: defaultdict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for row in document["indexes"]:
        best = best_overlap(document, row, 10)
        if best is not None and row["engine"] != "exhaustive":
            series[_series(row)].append((row["bytes_once_per_token"], best, row["bits"]))
    for name, points in series.items():
        sizes, overlaps, bits = zip(*sorted(points), strict=True)
        axes.plot(sizes, overlaps, "o-", color=COLOURS[name], label=_called(name), markersize=4)
        for size, overlap, width in zip(sizes, overlaps, bits, strict=True):
            axes.annotate(
                f"{width}", (size, overlap), xytext=(3, -9), textcoords="offset points", size=7
            )
    axes.set_xlabel("bytes a token, everything but stored texts (numbers: bits a dimension)")
    axes.set_ylabel("overlap@10 with exact MaxSim, best setting")
    axes.legend(loc="lower right", frameon=False)
    return figure


def latency_and_quality(document: dict[str, Any]) -> Figure:
    """For each k: every search with k hits as a point, and each engine's frontier as a line."""
    ks = document["about"]["ks"]
    figure = Figure(figsize=(3.6 * len(ks), 4.0), layout="constrained")
    for number, k in enumerate(ks):
        axes: Axes = figure.add_subplot(1, len(ks), number + 1)
        series: defaultdict[str, list[Row]] = defaultdict(list)
        for row in filter(answers, at(searches(document), k)):
            series[_series(row)].append(row)
        for name, rows in series.items():
            _curve(axes, name, rows)
        axes.set_xscale("log")
        axes.set_xlabel(f"p50 ms, k = {k}")
        axes.set_ylabel(f"overlap@{k}")
        if number == 0:
            axes.legend(loc="lower right", frameon=False, fontsize=7)
    return figure


def plot_growth(document: dict[str, Any], folder: Path, stem: str) -> str:
    """Latency against passages, both logarithmic, beside the square root; the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = document["rows"]
    sizes = [row["passages"] for row in rows]
    first = rows[0]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.8), layout="constrained")
        axes = figure.subplots()
        red = COLOURS["tartan"]
        axes.plot(sizes, [r["p50_ms"] for r in rows], "o-", color=red, label="p50")
        axes.plot(sizes, [r["p95_ms"] for r in rows], "o:", color=red, label="p95")
        axes.plot(sizes, [r["probe_ms"] for r in rows], ".--", color="#999999", label="centroids")
        root = [first["p50_ms"] * (size / first["passages"]) ** 0.5 for size in sizes]
        axes.plot(sizes, root, color="#cccccc", label="square root")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(f"passages of {document['about']['length']} tokens")
        axes.set_ylabel("ms a query, one thread")
        axes.legend(frameon=False)
        return save(figure, folder, f"{stem}-latency")


def plot_memory(document: dict[str, Any], folder: Path, stem: str) -> str:
    """Peak memory of an index job's processes against passages; the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = document["rows"]
    sizes = [row["passages"] for row in rows]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for role, colour in (("driver", COLOURS["tartan"]), ("worker", COLOURS["colbert-ai"])):
            for kind, line in (("anonymous", "o-"), ("rss", "o:")):
                peaks = [row["memory"][role][kind] / 2**20 for row in rows]
                axes.plot(sizes, peaks, line, color=colour, label=f"{role}, {kind}", markersize=4)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("passages of 8 to 12 words")
        axes.set_ylabel("peak MiB")
        axes.legend(frameon=False)
        return save(figure, folder, f"{stem}-peaks")


def _curve(axes: Axes, name: str, rows: list[Row]) -> None:
    colour = COLOURS[name]
    axes.plot(
        [row["p50_ms"] for row in rows],
        [row["overlap"] for row in rows],
        ".",
        color=colour,
        alpha=0.35,
    )
    best = frontier(rows, lambda row: float(row["p50_ms"]), "overlap")
    axes.plot(
        [row["p50_ms"] for row in best],
        [row["overlap"] for row in best],
        "o-",
        color=colour,
        markersize=4,
        label=_called(name),
    )


def _series(row: Row) -> str:
    own = row["engine"] == "tartan" and row.get("codec") == "colbertv2"
    return "tartan colbertv2" if own else str(row["engine"])


def _called(name: str) -> str:
    return "tartan, codec colbertv2" if name == "tartan colbertv2" else name
