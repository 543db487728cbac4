"""Strings of a column that lies in memory, as Arrow lays them out."""

from __future__ import annotations

from colbert_core.reference.checks import check_array, corrupt, require
from colbert_core.types import I32, I64, U8


class StringColumn:
    """A column in batches of equally many rows, each of which is added when it is first asked for.

    Args:
        batch_rows: rows of each batch but the last.
    """

    def __init__(self, batch_rows: int) -> None:
        require(batch_rows >= 1, f"batch_rows {batch_rows} must be at least 1")
        self._batch_rows = batch_rows
        self._batches: dict[int, tuple[I32, U8]] = {}

    def add(self, number: int, offsets: I32, data: U8) -> None:
        """Batch `number`: string i lies in data[offsets[i]] … data[offsets[i + 1] − 1], UTF-8.

        Args:
            offsets: int32 [R + 1].
            data: uint8.
        """
        check_array("offsets", offsets, 1, "int32")
        check_array("data", data, 1, "uint8")
        require(len(offsets) > 0, "offsets must have an entry more than there are strings")
        self._batches[number] = offsets, data

    def take(self, rows_M: I64) -> list[str]:
        """The strings of rows, int64 [M].

        Raises:
            KeyError: with the number of a batch that was not added.
            RuntimeError: offsets lead outside of the data; UnicodeDecodeError: it is not UTF-8.
        """
        check_array("rows_M", rows_M, 1, "int64")
        return [self._string(int(row)) for row in rows_M]

    def _string(self, row: int) -> str:
        require(row >= 0, f"row {row} must be at least 0")
        number, at = divmod(row, self._batch_rows)
        offsets, data = self._batches[number]
        require(at + 1 < len(offsets), f"row {row} lies beyond its batch")
        begin, end = int(offsets[at]), int(offsets[at + 1])
        if not 0 <= begin <= end <= len(data):
            raise corrupt(f"row {row} spans bytes {begin} to {end} of {len(data)}")
        return data[begin:end].tobytes().decode("utf-8")
