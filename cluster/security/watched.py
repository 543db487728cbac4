"""Files that are read again when they change, without a restart: certificates and API keys.

What was read last stays in force when the new content is not usable (a file half written, a key
that does not belong to the certificate); the log says so once, and the files are read again at the
next look.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from colbert_core.errors import InvalidInput

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]


class Watched(Generic[T]):
    """The value that is read from files, as of now; safe to share between threads."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads the files.

        Args:
            read: makes the value; raises InvalidInput or OSError where the files are not usable.

        Raises:
            InvalidInput: the files are not usable.
        """
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._complaint = ""
        try:
            self._seen: Stamp | None = self._stamp()
            self._value = read()
        except OSError as error:
            raise InvalidInput(
                f"{error.filename}: {error.strerror}: give a readable file"
            ) from None

    def value(self) -> T:
        """The value, read again where a file has changed since."""
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp == self._seen:
                    return self._value
                value = self._read()
                if self._stamp() == stamp:  # else it is being written: wait for the next look
                    self._value, self._seen, self._complaint = value, stamp, ""
                    log.warning("read again, as it changed: %s", self._names())
            except (InvalidInput, OSError) as error:
                self._seen = None
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.error("what was read last holds: %s: %s", self._names(), error)
            return self._value

    def _stamp(self) -> Stamp:
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _names(self) -> str:
        return ", ".join(map(str, self._paths))
