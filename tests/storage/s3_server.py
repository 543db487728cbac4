"""An S3 server (moto's) as a real process on loopback, and a door before it that can misbehave."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

START_TIMEOUT_S = 60.0
ACCESS_KEY = "AKIATESTTESTTEST0001"
SECRET_KEY = "never-print-this-secret-9f8e7d6c5b4a"
SESSION_TOKEN = "never-print-this-token-1a2b3c4d5e6f"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class S3Server:
    """moto's server: what is stored lives in its memory and ends with it."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, "the S3 server has ended"
            time.sleep(0.05)  # another process: there is nothing to wait on
        raise AssertionError(f"waited {START_TIMEOUT_S} s for the S3 server on port {self.port}")

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_TIMEOUT_S)
            self._process = None


class Door:
    """A TCP proxy in a process of its own: the server behind it stays, whatever happens to it.

    `kill` ends it with SIGKILL, which resets what is under way, as the death of a server would;
    `start` opens it again, at the same port. `after_bytes` makes it die by itself, in the middle of
    an answer or of an upload.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._target = target
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, mode: str = "pass", after_bytes: int = 0, up: bool = False) -> None:
        """Open it; `mode` "die" or "stall" once so many bytes went down, or up, through it."""
        command = [sys.executable, str(Path(__file__)), str(self.port), str(self._target)]
        command += [mode, str(after_bytes), "up" if up else "down"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"open\n"

    @property
    def dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_TIMEOUT_S)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None


def _serve(port: int, target: int, mode: str, after_bytes: int, up: bool) -> None:
    """The door's process: copies bytes both ways, and counts those of one direction."""
    listening = socket.create_server(("127.0.0.1", port))
    print("open", flush=True)
    counted = 0
    lock = threading.Lock()

    def pump(client: socket.socket) -> None:
        nonlocal counted
        server = socket.create_connection(("127.0.0.1", target))
        pairs = {client: server, server: client}
        while True:
            for source in select.select(list(pairs), [], [])[0]:
                data = source.recv(1 << 14)
                if not data:
                    client.close()
                    server.close()
                    return
                if (source is client) == up:
                    with lock:
                        counted += len(data)
                        if mode == "die" and counted > after_bytes:
                            os.kill(os.getpid(), signal.SIGKILL)
                    if mode == "stall" and counted > after_bytes:
                        threading.Event().wait()
                    if mode == "cut" and counted > after_bytes:
                        counted = 0
                        client.close()
                        server.close()
                        return
                pairs[source].sendall(data)

    def guarded(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            pump(client)

    while True:
        client, _ = listening.accept()
        threading.Thread(target=guarded, args=(client,), daemon=True).start()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5] == "up")
