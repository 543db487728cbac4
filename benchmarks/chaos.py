"""Processes of a service killed and paused under steady load, and how long the load felt it.

    .venv/bin/python benchmarks/chaos.py

A real `tartan serve`: two shards with two replicas each, and two gateways. Clients ask again as
ours do, and other gateways; every answer is compared with the truth. What must hold is in
tests/chaos.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from loadgen.service import CONTROLLER, GATEWAY, QUERY_TIMEOUT_S, SHARD_SERVER, K, Service, running
from loadgen.steady import Event, felt, steady
from machine import busy, machine
from report.write import SCHEMA, conditions, write

ROOT = Path(__file__).resolve().parents[1]
AT_S = 5.0


def main() -> None:
    """Measure, and write the results."""
    args = arguments()
    about: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": busy(),
        **{name: getattr(args, name) for name in ("rate", "seconds", "pause_s")},
    }
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        rows = [happened(service, name, events, args) for name, events in what(service, args)]
    about["load_after"] = busy()
    document = {"schema": SCHEMA, "about": about, "rows": rows}
    write(args.out, f"chaos-{about['date']}{args.tag}", document, markdown(document))
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


def what(service: Service, args: argparse.Namespace) -> list[tuple[str, list[Event]]]:
    """What happens, one after the other."""
    stop = stopper(service, args.pause_s)
    return [
        ("nothing", []),
        ("a shard server is killed", [(AT_S, service.end_one(SHARD_SERVER))]),
        ("a gateway is killed", [(AT_S, service.end_one(GATEWAY))]),
        ("the controller is killed", [(AT_S, service.end_one(CONTROLLER))]),
        (f"a shard server stands still for {args.pause_s:g} s", [(AT_S, stop)]),
    ]


def stopper(service: Service, pause_s: float) -> Callable[[], None]:
    """What pauses one shard server, and lets the same one go on."""

    def stop() -> None:
        service.pause_one(SHARD_SERVER, pause_s)

    return stop


def happened(
    service: Service, name: str, events: list[Event], args: argparse.Namespace
) -> dict[str, Any]:
    """One load with its event; figures of both."""
    service.wait_until_whole()
    offered = steady(
        service.targets,
        service.queries,
        service.truth,
        rate=args.rate,
        seconds=args.seconds,
        timeout_s=QUERY_TIMEOUT_S,
        events=events,
        k=K,
    )
    figures = dataclasses.asdict(felt(offered, AT_S))
    summary = offered.summary()
    right, count = summary["kinds"].get("right", 0), len(offered.outcomes)
    row = {"what": name, **summary, **figures, "failed_share": (count - right) / count}
    row["whole_again_s"] = service.wait_until_whole()
    row["holds"] = row["failed_share"] < 0.001
    print(row, flush=True)
    return row


def markdown(document: dict[str, Any]) -> str:
    """Conditions, and a row for each event."""
    about = document["about"]
    lines = [
        f"# Chaos, {about['date']}",
        "",
        f"Two shards × two replicas, two gateways, {about['rate']:g} queries a second (Poisson) "
        f"for {about['seconds']:g} s each; at {AT_S:g} s it happens. *Felt*: from then to the last "
        "query that failed or took 5 times the p99 of before. *Failed*: in spite of retries.",
        "",
        conditions(about),
        "",
        "| what | queries | wrong or failed | felt for s | longest ms | p50 ms | p99 ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in document["rows"]:
        count = sum(row["kinds"].values())
        bad = count - row["kinds"].get("right", 0)
        lines.append(
            f"| {row['what']} | {count} | {bad} | {row['recovery_s']:.2f} | {row['worst_ms']:.0f} "
            f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pause", dest="pause_s", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tag", default="", help="end of the files' names")
    return parser.parse_args()


if __name__ == "__main__":
    main()
