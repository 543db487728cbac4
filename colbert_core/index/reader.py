"""One shard as arrays behind the search kernel, and its ids, texts and metadata.

Files are mapped, and only what is touched is read; what is searched often may be copied into memory
when it is opened (`in_memory.py`).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from colbert_core import kernels
from colbert_core.codec import Codec, Compressed
from colbert_core.errors import IndexCorrupt
from colbert_core.index.files import map_bytes
from colbert_core.index.in_memory import copied
from colbert_core.index.manifest import ShardEntry
from colbert_core.index.metadata import MetadataReader
from colbert_core.index.passages import PassageReader, StoredRow
from colbert_core.index.tombstones import read_tombstones
from colbert_core.index.windows import WindowsReader
from colbert_core.packed_ints import PackedInts
from colbert_core.types import I32, I64, U8, AnyArray

if TYPE_CHECKING:
    from colbert_core.torch_kernels import TorchShard, TorchTable

ARRAYS = ("codes", "residuals", "scales", "offsets", "posting_offsets", "postings")
SEARCHED = (*ARRAYS, "contexts")


@dataclass(frozen=True)
class ShardArrays:
    """The arrays of a shard, as `docs/formats.md` describes them; some have no contexts."""

    codes: AnyArray
    residuals: AnyArray
    scales: AnyArray
    offsets: AnyArray
    posting_offsets: AnyArray
    postings: AnyArray
    contexts: AnyArray | None


class ShardReader:
    """One shard, open for searching; what it tells never changes, safe to share between threads.

    Args:
        table: the centroids on the device that the shard is to be searched on; None for the CPU.
    """

    def __init__(
        self, index: Path, entry: ShardEntry, codec: Codec, table: TorchTable | None = None
    ) -> None:
        self._index = index
        self.folder = index / "shards" / entry.id
        self.entry = entry
        self.codec = codec
        self._table = table
        contexts = map_bytes(self.folder / "contexts.npy") if entry.contexts else None
        stored = {name: map_bytes(self.folder / f"{name}.npy") for name in ARRAYS}
        self.arrays = ShardArrays(**stored, contexts=contexts)
        if len(self.arrays.scales) != entry.tokens:
            raise IndexCorrupt(
                f"{self.folder / 'scales.npy'}: it has {len(self.arrays.scales)} tokens; the "
                f"manifest says {entry.tokens}"
            )
        self._searched = self.arrays
        self.metadata = MetadataReader(self.folder, entry.passages, entry.fields)
        self.windows = (
            WindowsReader(self.folder, entry.passages, entry.continued) if entry.continued else None
        )
        self._passages = PassageReader(self.folder)
        if len(self._passages) != entry.passages:
            raise IndexCorrupt(
                f"{self.folder / 'ids.arrow'}: it names {len(self._passages)} passages; the "
                f"manifest says {entry.passages}"
            )

    @property
    def passages(self) -> int:
        """Passages that are stored, deleted ones among them."""
        return self.entry.passages

    @property
    def tokens(self) -> int:
        """Tokens of these."""
        return self.entry.tokens

    @cached_property
    def live_N(self) -> U8 | None:  # noqa: N802
        """Uint8 [N], 0 for passages that were deleted; None where none was.

        Raises:
            IndexCorrupt: the tombstones cannot be read.
        """
        if self.entry.tombstones is None:
            return None
        live_N = np.ones(self.passages, np.uint8)
        live_N[read_tombstones(self._index, self.entry.tombstones, self.passages)] = 0
        return live_N

    def allowed(self, allowed_N: U8 | None) -> U8 | None:
        """What a filter allows, uint8 [N] or None for all, less what was deleted."""
        if self.live_N is None or allowed_N is None:
            return self.live_N if allowed_N is None else allowed_N
        both_N: U8 = self.live_N & (allowed_N != 0)
        return both_N

    def into_memory(self) -> None:
        """Copy what is searched on the CPU into memory (`in_memory.py`); later searches use it.

        Raises:
            IndexCorrupt: a file cannot be read.
        """
        self._searched = copied(self.arrays)
        if "kernel" in self.__dict__:  # searches that are under way keep the one that they have
            self.__dict__["kernel"] = self._kernel()

    @property
    def copied_bytes(self) -> int:
        """Of the arrays that are searched, what was copied into memory: all or nothing."""
        return 0 if self._searched is self.arrays else self.searched_bytes

    @property
    def searched_bytes(self) -> int:
        """Of the arrays that are searched."""
        arrays = (getattr(self.arrays, name) for name in SEARCHED)
        return sum(array.nbytes for array in arrays if array is not None)

    @cached_property
    def kernel(self) -> kernels.Shard | TorchShard:
        """The kernel's view of this shard; on a GPU, a copy of its arrays.

        Raises:
            IndexCorrupt: the arrays do not fit each other.
        """
        return self._kernel()

    def _kernel(self) -> kernels.Shard | TorchShard:
        try:
            native = self._native()
            return native if self._table is None else self._on_device(native, self._table)
        except ValueError as error:
            raise IndexCorrupt(
                f"{self.folder}: {error}; run `tartan index verify` to find the damaged file"
            ) from error

    def _native(self) -> kernels.Shard:
        arrays, codec = self._searched, self.codec
        return kernels.Shard(
            codec.centroid_table,
            self.passages,
            arrays.codes,
            arrays.residuals,
            arrays.scales,
            arrays.contexts,
            arrays.offsets,
            arrays.posting_offsets,
            arrays.postings,
            codec.bits,
            codec.tables.levels,
            codec.tables.alpha,
            codec.tables.beta,
            codec.centroids_CD if codec.normalize else None,
            codec.normalize,
        )

    def _on_device(self, native: kernels.Shard, table: TorchTable) -> TorchShard:
        from colbert_core.torch_kernels import TorchShard

        arrays, codec = self.arrays, self.codec
        return TorchShard(
            table,
            native,
            arrays.codes,
            arrays.residuals,
            arrays.scales,
            arrays.contexts,
            arrays.offsets,
            codec.bits,
            codec.tables.levels,
            codec.tables.alpha,
            codec.tables.beta,
            codec.centroids_CD if codec.normalize else None,
            codec.normalize,
        )

    @property
    def table(self) -> kernels.CentroidTable | TorchTable:
        """The centroids where this shard is searched."""
        return self._table or self.codec.centroid_table

    @property
    def implementation(self) -> str:
        """Which kernels search this shard, for people."""
        return kernels.IMPLEMENTATION if self._table is None else f"torch ({self._table.device})"

    @property
    def codes(self) -> PackedInts:
        """The centroid of each token, [T]."""
        return PackedInts("codes", self.arrays.codes, self.tokens, self.codec.centroid_count - 1)

    @property
    def offsets(self) -> PackedInts:
        """The first token of each passage, then the number of tokens, [N+1]."""
        return PackedInts("offsets", self.arrays.offsets, self.passages + 1, self.tokens)

    def compressed(self, first: int, stop: int) -> tuple[Compressed, I32]:
        """Passages first … stop − 1 as they are stored, and their lengths, int32 [N]."""
        offsets_N1 = self.offsets.read(first, stop + 1)
        begin, end = int(offsets_N1[0]), int(offsets_N1[-1])
        contexts = self.arrays.contexts
        tokens = Compressed(
            self.codes.read(begin, end).astype(np.int32),
            np.asarray(self.arrays.residuals[begin:end]),
            np.asarray(self.arrays.scales[begin:end]),
            np.zeros((stop - first, 0), np.uint8)
            if contexts is None
            else np.asarray(contexts[first:stop]),
        )
        return tokens, np.diff(offsets_N1).astype(np.int32)

    def passage_of(self, token: int) -> int:
        """The passage that a token belongs to."""
        return bisect.bisect_right(self.offsets, token, 0, self.passages) - 1

    def runs(self, first: int, stop: int, tokens: int) -> Iterator[tuple[int, int]]:
        """Passages first … stop − 1 in runs of at most so many tokens, or of one passage that has
        more; and of whole documents."""
        while first < stop:
            most = self.offsets[first] + tokens
            end = bisect.bisect_right(self.offsets, most, first + 1, stop + 1) - 1
            end = max(first + 1, end)
            if self.windows is not None:
                first_N = self.windows.is_first_N
                while end < stop and not first_N[end]:
                    end += 1
            yield first, end
            first = end

    def stored(self, pid: int) -> StoredRow:
        """Id, text and metadata of a passage as they lie on disk, unparsed: of a window, those of
        its document."""
        row = self._passages.stored(self._document(pid))
        return row if self.windows is None else replace(row, window=self.window(pid))

    def window(self, pid: int) -> tuple[int, int] | None:
        """The characters of its document that a passage covers; None where it is all of one."""
        return None if self.windows is None else self.windows.span(int(pid))

    def id(self, pid: int) -> str:
        """The user's id of passage `pid`: of a window, its document's."""
        return self._passages.id(self._document(pid))

    def ids_of(self, pids: I64) -> list[str]:
        """The user's ids of passages: of windows, their documents'."""
        if self.windows is not None:
            pids = self.windows.documents_N[pids].astype(np.int64)
        return self._passages.ids_of(pids)

    def ids(self) -> list[str]:
        """All ids that are stored, deleted ones among them, in the order of the corpus, each
        document's once."""
        ids = self._passages.ids()
        if self.windows is None:
            return ids
        return [one for one, first in zip(ids, self.windows.is_first_N, strict=True) if first]

    def live_ids(self) -> list[str]:
        """The ids of what was not deleted, in the order of the corpus, each document's once."""
        kept_N = np.ones(self.passages, bool) if self.live_N is None else self.live_N != 0
        if self.windows is not None:
            kept_N = kept_N & self.windows.is_first_N
        return [one for one, kept in zip(self._passages.ids(), kept_N, strict=True) if kept]

    def id_column(self) -> pa.ChunkedArray:
        """The id of each passage as it is mapped: empty but for a document's first window."""
        return self._passages.id_column()

    def _document(self, pid: int) -> int:
        return int(pid) if self.windows is None else int(self.windows.documents_N[int(pid)])

    def with_windows(self, pids_F: I64) -> I64:
        """Passages and, where they begin a document in windows, all of its windows; ascending."""
        if self.windows is None:
            return np.sort(pids_F)
        return np.flatnonzero(np.isin(self.windows.documents_N, pids_F))

    def find(self, ids: pa.StringArray) -> tuple[I64, I64]:
        """Which of `ids` are passages of this shard that were not deleted.

        Returns:
            places in `ids`, int64 [F], and the passages, int64 [F], in the order of the corpus: of
            a document in windows the first.
        """
        places_F, pids_F = self._passages.find(ids)
        if self.live_N is None:
            return places_F, pids_F
        live_F = self.live_N[pids_F] != 0
        return places_F[live_F], pids_F[live_F]
