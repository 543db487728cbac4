"""`tartan status`: asks a gateway's admin service, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

from cluster.client_admin import AdminClient
from cluster.interrupts import interruptible
from cluster.security.client import access_from_environment
from cluster.status_table import answers_whole, lines_of, problems
from cluster.wire.admin import Stats, Topology
from colbert_core.errors import TartanError

DEFAULT_TARGET = "127.0.0.1:50051"
INTERVAL_S = 2.0
CLEAR = "\x1b[H\x1b[2J"


def status_command(target: str | None, *, watch: bool, as_json: bool) -> int:
    """Print the status, with `watch` until Ctrl-C; the exit code is 1 where a shard is away."""
    with AdminClient(target or DEFAULT_TARGET, **access_from_environment()) as admin:
        if not watch:
            topology, stats = admin.list_shards(), admin.stats()
            print(_shown(topology, stats, as_json=as_json))
            return 0 if answers_whole(topology) else 1
        while True:
            with interruptible():
                _again(admin, as_json=as_json)
            time.sleep(INTERVAL_S)


def _again(admin: AdminClient, *, as_json: bool) -> None:
    """One look of many: a service that is away for a while is waited for."""
    try:
        shown = _shown(admin.list_shards(), admin.stats(), as_json=as_json)
    except TartanError as error:
        shown = json.dumps({"error": str(error)}) if as_json else f"tartan: {error}"
    clears = sys.stdout.isatty() and not as_json
    print(f"{CLEAR if clears else ''}{shown}", flush=True)


def _shown(topology: Topology, stats: Stats, *, as_json: bool) -> str:
    if not as_json:
        return "\n".join(lines_of(topology, stats))
    report: dict[str, Any] = {
        "topology": asdict(topology),
        "stats": asdict(stats),
        "problems": problems(topology, stats),
    }
    return json.dumps(report)
