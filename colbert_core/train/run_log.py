"""The log of a run: a JSON object a line in `log.jsonl`, the same in TensorBoard, and its curves.

    log = RunLog(folder, resumed_at=trainer.done)
    log.add({"step": 1, "loss": …})
    draw_curves(folder)                              # curves.png

A run that goes on from a checkpoint drops what an earlier attempt wrote after it, so that every
step stands there once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "log.jsonl"


class RunLog:
    """Appends to the log of a run; one process writes it."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """Open it, keeping what it says of steps up to `resumed_at`."""
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in read_log(folder) if row["step"] <= resumed_at]
        # Of the start nothing is kept where the run begins anew.
        kept = kept if resumed_at else []
        temporary = folder / f".{NAME}.tmp"
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(folder / NAME)
        self._path = folder / NAME
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write what was measured at `row["step"]`."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()

    def close(self) -> None:
        """End TensorBoard's file."""
        self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a log, in order."""
    return read_rows(folder, 0)[0]


def identity(folder: Path) -> int | None:
    """Tells the log from the one of another attempt, which a `RunLog` puts in its place; None where
    there is none."""
    path = folder / NAME
    return path.stat().st_ino if path.is_file() else None


def read_rows(folder: Path, place: int) -> tuple[list[dict[str, Any]], int]:
    """The rows of a log from a byte on, and the byte where the next one will begin.

    A line that is being written, or was cut off when its writer was killed, is left out.
    """
    path = folder / NAME
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        file.seek(place)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], place + len(whole)


def draw_curves(folder: Path) -> Path:
    """Draw the log as `curves.png`: losses, and what was measured on the evaluation collection."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(folder)
    measured = list({row["step"]: row for row in rows if "ndcg@10" in row}.values())
    figure = Figure(figsize=(8, 3 * (1 + bool(measured))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1 + bool(measured), squeeze=False)[:, 0]
    for name in ("loss", "tuples", "in_batch"):
        points = [(row["step"], row[name]) for row in rows if name in row]
        panels[0].plot(*zip(*points, strict=True), label=name.replace("_", "-"))
    panels[0].set_ylabel("loss")
    if measured:
        for name in ("ndcg@10", "mrr@10", "recall@100"):
            steps = [row["step"] for row in measured]
            panels[1].plot(steps, [row[name] for row in measured], marker="o", label=name)
        panels[1].set_ylabel("on the evaluation collection")
    for panel in panels:
        panel.set_xlabel("step")
        panel.legend()
        panel.grid(alpha=0.3)
    path = folder / "curves.png"
    temporary = folder / ".curves.tmp.png"
    figure.savefig(temporary, dpi=120)
    temporary.replace(path)
    return path
