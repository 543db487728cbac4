"""Which files of an index follow from others, and how to make them again, byte for byte.

| file | follows from |
|---|---|
| postings.npy, posting_offsets.npy | codes and offsets of the shard |
| metadata.arrow | texts.arrow of the shard |
| scales.npy, of `colbertv2` | codes, residuals and the codec: the byte is an inverse norm |
| alpha.npy, beta.npy, of `colbertv2` | nothing: they are the same in every index |
| codec.json | the manifest |

Nothing else does: codes, residuals, offsets, ids and texts exist once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from colbert_core.codec import Codec, colbertv2
from colbert_core.codec.packing import unpack_planes
from colbert_core.index import metadata
from colbert_core.index.files import ArrayWriter, map_array
from colbert_core.index.manifest import Manifest
from colbert_core.index.postings import write_postings
from colbert_core.packed_ints import PackedInts

_BLOCK = 1 << 16
_CODEC = ("codec.json", "centroids.npy", "levels.npy", "alpha.npy", "beta.npy", "cutoffs.npy")


def follows_from(manifest: Manifest, name: str) -> tuple[str, ...] | None:
    """The files that a file of the index can be made from; None where it cannot be made.

    Args:
        name: path relative to the index, as the manifest lists it.
    """
    folder, _, file = name.rpartition("/")
    papers = manifest.codec["name"] == "colbertv2"
    if folder.startswith("shards/"):
        if file in ("postings.npy", "posting_offsets.npy"):
            return f"{folder}/codes.npy", f"{folder}/offsets.npy"
        if file == metadata.NAME:
            return (f"{folder}/texts.arrow",)
        if file == "scales.npy" and papers:
            codec = tuple(f"global/{manifest.codec_id}/{part}" for part in _CODEC)
            return f"{folder}/codes.npy", f"{folder}/residuals.npy", *codec
    same = file == "codec.json" or (papers and file in ("alpha.npy", "beta.npy"))
    return () if same and folder == f"global/{manifest.codec_id}" else None


def derive(index: Path, manifest: Manifest, name: str, folder: Path) -> Path:
    """Make a file again in an empty folder, from files that are whole; gives its path.

    Raises:
        ValueError: the files that it follows from do not fit each other.
        IndexCorrupt: one of them cannot be read.
    """
    parent, _, file = name.rpartition("/")
    if file == "codec.json":
        Codec.write_header(folder, str(manifest.codec["name"]), int(manifest.codec["bits"]))
    elif file in ("alpha.npy", "beta.npy"):
        steps = colbertv2.tables_from(np.zeros(0, np.float32), np.zeros(0, np.float32)).alpha
        np.save(folder / file, steps)
    elif file == metadata.NAME:
        (folder / "texts.arrow").symlink_to((index / parent / "texts.arrow").absolute())
        metadata.write_metadata(folder)
    elif file == "scales.npy":
        _write_scales(index, manifest, index / parent, folder)
    else:
        codes_T, offsets_N1 = _tokens(manifest, index / parent)
        write_postings(folder, codes_T, offsets_N1, int(manifest.codec["centroids"]))
    return folder / file


def _tokens(manifest: Manifest, shard: Path) -> tuple[PackedInts, PackedInts]:
    entry = next(entry for entry in manifest.shards if entry.id == shard.name)
    largest = int(manifest.codec["centroids"]) - 1
    codes_T = PackedInts("codes", map_array(shard / "codes.npy"), entry.tokens, largest)
    packed = map_array(shard / "offsets.npy")
    return codes_T, PackedInts("offsets", packed, entry.passages + 1, entry.tokens)


def _write_scales(index: Path, manifest: Manifest, shard: Path, folder: Path) -> None:
    codec = Codec.load(index / "global" / manifest.codec_id)
    residuals_TB = map_array(shard / "residuals.npy")
    largest = codec.centroid_count - 1
    codes_T = PackedInts("codes", map_array(shard / "codes.npy"), len(residuals_TB), largest)
    with ArrayWriter(folder / "scales.npy", np.uint8) as writer:
        for start in range(0, len(residuals_TB), _BLOCK):
            block_TB = residuals_TB[start : start + _BLOCK]
            indices_TD = unpack_planes(block_TB, codec.bits, codec.dim)
            codes = codes_T.read(start, start + len(block_TB)).astype(np.int32)
            _, scales_T, _ = colbertv2.from_indices(
                codec.tables, indices_TD, codes, codec.centroids_CD, codec.bits
            )
            writer.append(scales_T)
