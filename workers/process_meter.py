"""What the process of an actor uses, and where it runs: what a controller asks it for."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process that answers.

    Attributes:
        address: HOST:PORT of its gRPC server.
        node_id, node_address: Ray's id of its node, and the node's address.
        cpu: share of one CPU since the last reading.
        memory_bytes: resident.
    """

    address: str
    node_id: str
    node_address: str
    pid: int
    cpu: float
    memory_bytes: int


class ProcessMeter:
    """Reads this process. Within a Ray actor."""

    def __init__(self) -> None:
        self._wall_s = time.monotonic()
        self._cpu_s = time.process_time()

    def cpu(self) -> float:
        """Share of one CPU that this process used since the last call."""
        wall_s, cpu_s = time.monotonic(), time.process_time()
        share = (cpu_s - self._cpu_s) / max(wall_s - self._wall_s, 1e-6)
        self._wall_s, self._cpu_s = wall_s, cpu_s
        return share

    def read(self, address: str) -> ProcessState:
        """This process, which answers at `address`."""
        import ray
        from ray.util import get_node_ip_address

        return ProcessState(
            address=address,
            node_id=str(ray.get_runtime_context().get_node_id()),
            node_address=str(get_node_ip_address()),
            pid=os.getpid(),
            cpu=self.cpu(),
            memory_bytes=resident_bytes(),
        )


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
