"""Exporting an index to plain files, so that nobody is locked in.

    embeddings.npy   float16 or float32 [T, D]: every token's vector as the index decodes it
    doclens.npy      int32 [N]: tokens of each passage, in order
    passages.jsonl   one object a passage, in order: `_id`, and `text` and `metadata` where stored;
                     of a window of a long document its own text, `_id` with the span, `document`
    export.json      what these are: counts, model, codec
    README.md        the same for people, with the lines that read it

Memory does not grow with the index; `embeddings.npy` can be mapped, and `passages.jsonl` is a
corpus that `tartan index build` reads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.codec import Codec
from colbert_core.errors import IndexExists, InvalidInput
from colbert_core.index import Generation, ShardReader, open_generation
from colbert_core.index.files import ArrayWriter, sync_folder
from colbert_core.types import F32

DTYPES = ("float16", "float32")
_BLOCK = 1 << 15

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """What an export holds; `export.json` is this."""

    generation: str
    passages: int
    tokens: int
    dim: int
    dtype: str
    codec: str
    bits: int
    pool_factor: int
    model: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": "tartan-export", "version": 1, **asdict(self)}


def export_index(
    path: str | Path,
    out: str | Path,
    *,
    dtype: str = "float16",
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write an index as plain files; the folder appears whole or not at all.

    Args:
        path: folder of the index; its live generation is exported.
        out: folder that does not exist, or is empty.
        dtype: of the vectors: "float16" or "float32".
        on_progress: called with (tokens done, all tokens).

    Raises:
        InvalidInput: the dtype is another, or the folder cannot be made.
        IndexExists: there is something at `out`.
        IndexMissing: there is no index at `path`.
        IndexCorrupt: it is damaged.
    """
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype {dtype!r} cannot be exported; choose float16 or float32")
    target = Path(out).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IndexExists(f"{target}: there is something here; choose a new or empty folder")
    generation = open_generation(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InvalidInput(f"{target}: the folder cannot be made: {error.strerror}") from error
    try:
        about = _about(generation, dtype)
        _write_vectors(generation, temporary, dtype, on_progress)
        _write_passages(generation, temporary)
        _write_text(temporary / "export.json", json.dumps(about.to_dict(), indent=1) + "\n")
        _write_text(temporary / "README.md", _readme(about))
        if target.exists():
            target.rmdir()
        temporary.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return about


def decoded(shard: ShardReader, codec: Codec) -> Iterator[F32]:
    """Every token's vector of a shard, float32 [t, D] in the model's space, some passages at a
    time."""
    for first, stop in shard.runs(0, shard.passages, _BLOCK):
        yield codec.decode(*shard.compressed(first, stop))


def _about(generation: Generation, dtype: str) -> Exported:
    manifest, codec = generation.manifest, generation.codec
    return Exported(
        manifest.generation,
        manifest.passages,
        manifest.tokens,
        codec.dim,
        dtype,
        codec.name,
        codec.bits,
        manifest.pool_factor,
        dict(manifest.model) if manifest.model else None,
    )


def _write_vectors(
    generation: Generation, folder: Path, dtype: str, on_progress: OnProgress | None
) -> None:
    codec, done = generation.codec, 0
    with (
        ArrayWriter(folder / "embeddings.npy", dtype, (codec.dim,)) as vectors,
        ArrayWriter(folder / "doclens.npy", np.int32) as doclens,
    ):
        for shard in generation.shards:
            lengths_N = np.diff(shard.offsets.read(0, shard.passages + 1))
            live_N = np.ones(shard.passages, bool) if shard.live_N is None else shard.live_N != 0
            doclens.append(lengths_N[live_N])
            live_T, at = np.repeat(live_N, lengths_N), 0
            for block_TD in decoded(shard, codec):
                kept_TD = block_TD[live_T[at : at + len(block_TD)]]
                at += len(block_TD)
                vectors.append(kept_TD)
                done += len(kept_TD)
                if on_progress:
                    on_progress(done, generation.manifest.tokens)


def _write_passages(generation: Generation, folder: Path) -> None:
    with (folder / "passages.jsonl").open("w", encoding="utf-8") as file:
        for shard in generation.shards:
            for pid in range(shard.passages):
                if shard.live_N is not None and not shard.live_N[pid]:
                    continue
                stored = shard.stored(pid)
                row: dict[str, Any] = {"_id": stored.id, "text": stored.window_text}
                if stored.window is not None:
                    start, stop = stored.window
                    row |= {"_id": f"{stored.id}#{start}-{stop}", "document": stored.id}
                if stored.metadata_json:
                    row["metadata"] = stored.metadata
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _readme(about: Exported) -> str:
    pooled = (
        f"\nA passage has one vector for about {about.pool_factor} tokens (pooled).\n"
        if about.pool_factor > 1
        else ""
    )
    model = about.model["source"] if about.model else "unknown: the index was built from vectors"
    return f"""# Token vectors of a Tartan index

Generation {about.generation}: {about.passages:,} passages, {about.tokens:,} vectors of {about.dim}
dimensions in {about.dtype}, model: {model}.

These are the vectors as the index decodes them ({about.codec}, {about.bits} bits a dimension): near
to the model's, not equal, and of about unit length.
{pooled}
| file | |
|---|---|
| `embeddings.npy` | {about.dtype} [{about.tokens}, {about.dim}], all passages end to end |
| `doclens.npy` | int32 [{about.passages}], vectors of each passage |
| `passages.jsonl` | one JSON object a passage, in the same order: `_id`, `text`, `metadata` |
| `export.json` | these counts, the model's identity, the codec |

```python
import numpy as np

vectors = np.load("embeddings.npy", mmap_mode="r")
ends = np.cumsum(np.load("doclens.npy"))
second_passage = vectors[ends[0] : ends[1]]
```

To index them again: `Index.build(PATH, vectors, ids, doclens=doclens, normalize=True)`.
"""
