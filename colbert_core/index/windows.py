"""Long documents in windows: which passage of a shard is which part of which document.

A window is a passage like any other to the kernels. What it belongs to lies in `windows.npy`, in
shards that have any: int32 [N, 3], for each passage the first window of its document and the
characters that the window covers, or −1 and −1 where the document was not split. Ids, texts and
metadata lie with a document's first window; those of the others are empty.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.index.files import ArrayWriter, map_array
from colbert_core.types import I32, I64, AnyArray, Bool

NAME = "windows.npy"
WHOLE = (-1, -1)
"""The span of a document that was not split."""

Windows = I32
"""int32 [N, 3]: the document, counted from 0 in what is given at once, and its characters."""


class WindowsWriter:
    """Writes `windows.npy`, and takes it back where no document has two windows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._array = ArrayWriter(self._path, np.int32, (3,))
        self.continued = 0

    def append(self, documents: int, windows_N3: Windows | None) -> I64:
        """Append the passages of some documents; None where each is one passage.

        Returns:
            int64 [documents], the first passage of each, counted from the first of all of these.

        Raises:
            InvalidInput: the documents are not 0 to documents − 1, in order.
        """
        if windows_N3 is None:
            firsts = np.arange(documents, dtype=np.int64)
            spans = np.full((documents, 2), -1, np.int32)
            owners = firsts
        else:
            owners = windows_N3[:, 0].astype(np.int64)
            firsts = np.flatnonzero(np.diff(owners, prepend=-1))
            if (
                not np.array_equal(owners[firsts], np.arange(documents))
                or np.diff(owners).min(initial=0) < 0
            ):
                raise InvalidInput(f"windows do not name each of {documents} documents in order")
            spans = windows_N3[:, 1:]
        rows = np.column_stack([firsts[owners] + self._array.rows, spans])
        self._array.append(rows)
        self.continued += len(rows) - documents
        return firsts

    def close(self) -> None:
        """Finish the file, or remove it where it says nothing."""
        self._array.close()
        if not self.continued:
            self._path.unlink()

    def abandon(self) -> None:
        """Let go of the file as it is, unless it was closed."""
        self._array.abandon()


class WindowsReader:
    """Documents and windows of one shard, mapped.

    Args:
        folder: of the shard.
        passages: how many it has.
        continued: how many of these are later windows of a document.

    Raises:
        IndexCorrupt: the file does not fit these.
    """

    def __init__(self, folder: Path, passages: int, continued: int) -> None:
        self._rows_N3: AnyArray = map_array(folder / NAME)
        rows_N3 = self._rows_N3
        if rows_N3.shape != (passages, 3) or rows_N3.dtype != np.int32:
            raise IndexCorrupt(
                f"{folder / NAME}: it has shape {rows_N3.shape}; {(passages, 3)} is needed"
            )
        self._place = folder / NAME
        self._continued = continued

    @cached_property
    def documents_N(self) -> AnyArray:  # noqa: N802
        """int32 [N], the first window of each passage's document; looked through once.

        Raises:
            IndexCorrupt: windows do not follow one another.
        """
        firsts_N = self._rows_N3[:, 0]
        own_N = np.arange(len(firsts_N))
        is_first_N = firsts_N == own_N
        runs_N = np.maximum.accumulate(np.where(is_first_N, own_N, 0))
        if not np.array_equal(runs_N, firsts_N) or int((~is_first_N).sum()) != self._continued:
            raise IndexCorrupt(f"{self._place}: its windows do not follow one another")
        return firsts_N

    @cached_property
    def is_first_N(self) -> Bool:  # noqa: N802
        """bool [N], whether a passage is the first window of its document."""
        first_N: Bool = self.documents_N == np.arange(len(self.documents_N))
        return first_N

    def spans(self, pids: I64) -> AnyArray:
        """int32 [F, 2], the characters that passages cover, as they are stored."""
        return self._rows_N3[pids, 1:]

    def span(self, pid: int) -> tuple[int, int] | None:
        """The characters of the document that passage `pid` covers, or None for all."""
        start, end = int(self._rows_N3[pid, 1]), int(self._rows_N3[pid, 2])
        return None if (start, end) == WHOLE else (start, end)
