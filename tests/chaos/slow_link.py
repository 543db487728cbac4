"""A link between two network namespaces whose packets a thread of ours carries: it may lose some,
or all, or take its time, as `tc netem` does in kernels that have it.

Each end is a TUN device: what is sent to it is read here, and written to the other.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
LARGEST_PACKET = 65_535
TICK_S = 0.05


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@dataclass(frozen=True)
class Quality:
    """Of a link: the share of packets that is lost, and seconds that others take, ± jitter."""

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


class SlowLink:
    """A namespace that is reached at `far`, and reaches this one at `near`. A context manager."""

    def __init__(self, space: str, near: str, far: str) -> None:
        self.space = space
        self.quality = Quality()
        self.carried = self.lost = 0
        self._near, self._far = near, far
        self._chance = random.Random(7)
        self._ends: list[int] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> SlowLink:
        """Raises OSError or CalledProcessError where there are no namespaces, or no TUN devices."""
        ip("netns", "add", self.space)
        try:
            here, there = f"{self.space}-a", f"{self.space}-b"
            self._ends = [_tun(here), _tun(there)]
            ip("link", "set", there, "netns", self.space)
            ip("addr", "add", self._near, "peer", self._far, "dev", here)
            ip("link", "set", here, "up")
            inside = ("-n", self.space)
            ip(*inside, "addr", "add", self._far, "peer", self._near, "dev", there)
            ip(*inside, "link", "set", there, "up")
            ip(*inside, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the link away, and the namespace."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        for end in self._ends:
            os.close(end)
        ip("netns", "del", self.space)

    def _carry(self) -> None:
        """Packets wait in a heap until they are due: one may overtake another, as in a network."""
        waiting: list[tuple[float, int, int, bytes]] = []
        while not self._ending.is_set():
            until = waiting[0][0] - time.monotonic() if waiting else TICK_S
            ready, _, _ = select.select(self._ends, [], [], min(TICK_S, max(0.0, until)))
            for end in ready:
                packet = os.read(end, LARGEST_PACKET)
                quality = self.quality
                if self._chance.random() < quality.loss:
                    self.lost += 1
                    continue
                jitter_s = self._chance.uniform(-quality.jitter_s, quality.jitter_s)
                due = time.monotonic() + max(0.0, quality.delay_s + jitter_s)
                self.carried += 1
                other = self._ends[1 - self._ends.index(end)]
                heapq.heappush(waiting, (due, self.carried, other, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(waiting)
                os.write(other, packet)


def _tun(name: str) -> int:
    """A TUN device's descriptor, which stays its own in whatever namespace the device is."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError:
        os.close(end)
        raise
    return end
