"""`tartan plan`: prints what an index of a given size takes, with every formula."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cluster.capacity import Line, Workload, plan_capacity

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def plan_command(work: Workload, *, as_json: bool) -> None:
    """Print the plan of a workload."""
    plan = plan_capacity(work)
    if as_json:
        lines = {line.name: _number(line.value) for line in plan.lines}
        print(json.dumps({"asked": asdict(work), "plan": lines, "warnings": plan.warnings}))
        return
    table = Table("what", "how much", "formula", box=None)
    for line in plan.lines:
        table.add_row(line.name, shown(line), line.formula)
    console = Console()
    console.print(table)
    for warning in plan.warnings:
        console.print(f"note: {warning}", highlight=False)


def shown(line: Line) -> str:
    """A figure as people read it."""
    if math.isinf(line.value):
        return "does not fit"
    if line.unit == "bytes" and line.value >= 1024:
        power = min(int(math.log(line.value, 1024)), len(_UNITS) - 1)
        return f"{line.value / 1024**power:,.1f} {_UNITS[power]}"
    digits = 0 if not line.unit or line.value >= 100 else 1 if line.value >= 1 else 3
    return f"{line.value:,.{digits}f} {line.unit}".rstrip()


def _number(value: float) -> float | int | None:
    """As JSON has it: None where it does not fit at all."""
    if math.isinf(value):
        return None
    return int(value) if float(value).is_integer() else round(value, 6)
