"""Importing the index of another engine: its centroids, buckets, codes and residuals, unchanged.

    source folder ─ importers ─ check ─ per batch: codes, residuals, postings compared ─ shard files
                                                                       └─ presets ─ publish

What decides where a passage lands is kept, so that a search here ranks as an exhaustive search
there. Only the layout changes: residual bits are packed for our kernels, postings are derived from
the codes, and each token gets the byte of its inverse norm.

Shapes: N passages, T tokens, D dimensions, C centroids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.build import OnProgress
from colbert_core.codec import Codec, Compressed, colbertv2
from colbert_core.codec.packing import unpack_stanford
from colbert_core.compact import shard_ranges
from colbert_core.errors import IndexExists, InvalidInput
from colbert_core.importing.batches import Batch, ShardCutter
from colbert_core.importing.columns import Columns
from colbert_core.importing.model import model_of
from colbert_core.importing.report import ImportReport
from colbert_core.index import (
    Manifest,
    ShardEntry,
    ShardReader,
    ShardWriter,
    new_generation_id,
    publish,
    remove_unpublished,
    write_codec,
    write_lock,
)
from colbert_core.index.importers import Source, open_source
from colbert_core.index.importers.postings import PostingsCheck
from colbert_core.index.manifest import CURRENT
from colbert_core.search.calibrate import calibrate
from colbert_core.types import I32, U8, AnyArray


def import_index(
    source: str | Path,
    path: str | Path,
    *,
    format: str = "auto",
    ids: Path | None = None,
    collection: list[str] | None = None,
    model: str | None = None,
    language: str | None = None,
    shards: int = 1,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Read another engine's index, check it, and publish it as an index of ours.

    Args:
        source: its folder.
        path: folder of the index to write.
        format: "stanford", "fast-plaid", "next-plaid", or "auto" to look.
        ids: a text file with an id a line, in the order of their passages; by default their
            numbers in decimal.
        collection: files of a corpus in the order of their passages: gives ids, texts, metadata.
        model: the encoder that made it; by default what its metadata name, if it can be loaded.
        language: in which it was made, where the model has an adapter for each.
        shards: how many to cut it into.
        overwrite: publish a new generation where an index exists.
        on_progress: called with (stage, done, total).

    Raises:
        IndexMissing: there is no index of a known format at `source`.
        IndexCorrupt: `source` is damaged; nothing is published.
        InvalidInput: it has bits or dimensions that cannot be imported, or an argument is wrong.
        IndexExists: there is an index at `path`, and `overwrite` is false; or another writer is at
            work there.
    """
    path, report_progress = Path(path), on_progress or (lambda _stage, _done, _total: None)
    if (path / CURRENT).exists() and not overwrite:
        raise IndexExists(f"{path}: there is an index here; choose another place, or overwrite it")
    if shards < 1:
        raise InvalidInput(f"shards is {shards}; give 1 or more")
    opened = open_source(Path(source), format)
    report = ImportReport(
        str(source), opened.format, opened.bits, opened.dim, len(opened.centroids_CD)
    )
    report.notes += opened.notes
    kept_N = np.flatnonzero(opened.all_doclens)
    report.compare_counts(opened)
    columns = Columns.open(len(opened.all_doclens), ids, collection, opened.metadata)
    identity = model_of(opened, model, language, report)
    codec = _codec(opened)
    ranges = shard_ranges(opened.all_doclens[kept_N].astype(np.int32), shards)
    path.mkdir(parents=True, exist_ok=True)
    with write_lock(path):
        generation = new_generation_id(path)
        try:
            work = _Import(opened, codec, columns, report, report_progress)
            manifest = work.publish(path, generation, ranges, identity)
        except BaseException:
            remove_unpublished(path, generation)
            raise
    report.finish(manifest)
    return report


class _Import:
    """The one pass over their tokens."""

    def __init__(
        self,
        source: Source,
        codec: Codec,
        columns: Columns,
        report: ImportReport,
        progress: OnProgress,
    ) -> None:
        self._source, self._codec, self._columns = source, codec, columns
        self._report, self._progress = report, progress
        self._total = int(source.all_doclens.sum())
        self._postings = None
        if source.ivf is None:
            report.notes.append("it has no postings to compare; ours follow from the codes")
        else:
            self._postings = PostingsCheck(*source.ivf, codec.centroid_count)
            if self._postings.problem:
                report.notes.append(f"its postings cannot be compared: {self._postings.problem}")

    def publish(
        self,
        path: Path,
        generation: str,
        ranges: list[tuple[int, int]],
        model: Mapping[str, Any] | None,
    ) -> Manifest:
        """Write codec and shards, calibrate, and make that the live generation."""
        source, codec = self._source, self._codec
        write_codec(path, generation, codec)
        entries = self._write(path, generation, ranges)
        self._progress("calibrate", 0, 1)
        presets = calibrate([ShardReader(path, entry, codec) for entry in entries], codec)
        self._progress("calibrate", 1, 1)
        return publish(
            path,
            generation,
            generation,
            codec,
            entries,
            model=model,
            pool_factor=1,
            presets=presets,
            extras={"imported": {"format": source.format, "settings": dict(source.settings)}},
        )

    def _write(
        self, path: Path, generation: str, ranges: list[tuple[int, int]]
    ) -> list[ShardEntry]:
        """Write all shards; `ranges` are passages that have tokens, counted from 0."""
        batches = ShardCutter(self._batches())
        entries = []
        for number, (first, last) in enumerate(ranges):
            with ShardWriter(path, f"{generation}-{number:04d}", self._codec) as writer:
                for tokens, doclens_n, ids, texts, metadata in batches.take(last - first):
                    writer.add(tokens, doclens_n, ids, texts, metadata)
                entries.append(writer.finish())
        if self._postings and not self._postings.problem:
            self._report.lists_compared = self._codec.centroid_count
            self._report.lists_differing = self._postings.finish()
        return entries

    def _batches(self) -> Iterator[Batch]:
        done = 0
        for first, lengths_n, codes_T, residuals_TB in self._source.batches():
            self._check_codes(first, codes_T)
            codes_T = codes_T.astype(np.int64)
            pids_T = np.repeat(np.arange(first, first + len(lengths_n)), lengths_n)
            if self._postings:
                self._postings.add(codes_T, pids_T)
            kept_n = lengths_n > 0
            tokens = self._convert(codes_T.astype(np.int32), residuals_TB, int(kept_n.sum()))
            self._report.empty += int((~kept_n).sum())
            columns = self._columns.read(first, kept_n)
            yield Batch(tokens, lengths_n[kept_n].astype(np.int32), *columns)
            done += len(codes_T)
            self._progress("import", done, self._total)

    def _check_codes(self, first: int, codes_T: AnyArray) -> None:
        if len(codes_T) and not 0 <= int(codes_T.min()) <= int(codes_T.max()) < len(
            self._source.centroids_CD
        ):
            self._source.fail(
                f"a code of passage {first} or after is {int(codes_T.max())} or "
                f"{int(codes_T.min())}, and there are {len(self._source.centroids_CD)} centroids"
            )

    def _convert(self, codes_T: I32, residuals_TB: U8, passages: int) -> Compressed:
        codec, report = self._codec, self._report
        indices_TD = unpack_stanford(residuals_TB, codec.bits, codec.dim)
        packed_TB, scales_T, norms_T = colbertv2.from_indices(
            codec.tables, indices_TD, codes_T, codec.centroids_CD, codec.bits
        )
        if len(norms_T):
            if float(norms_T.min()) < 1e-3:
                self._source.fail("a token decodes to nothing, which has no direction")
            report.add_norms(norms_T, self._total)
        return Compressed(codes_T, packed_TB, scales_T, np.zeros((passages, 0), np.uint8))


def _codec(source: Source) -> Codec:
    return Codec(
        name="colbertv2",
        bits=source.bits,
        rotation_DD=None,
        centroids_CD=np.ascontiguousarray(source.centroids_CD, np.float32),
        tables=colbertv2.tables_from(source.cutoffs, source.weights),
    )
