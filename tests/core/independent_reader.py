"""A reader of an index written from `docs/formats.md` alone: numpy, json, pyarrow, nothing of ours.

Slow and literal: one function a paragraph of the document.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


def width(largest: int) -> int:
    """The bits that x takes, at least 1."""
    return max(1, int(largest).bit_length())


def unpack(data: np.ndarray, count: int, largest: int) -> list[int]:
    """packed(x) [n]."""
    w = width(largest)
    assert (data.dtype, data.shape) == (np.uint8, (-(-count * w // 8) + 7,))
    whole = int.from_bytes(data.tobytes(), "little")  # bit k is bit k mod 8 of byte k div 8
    assert whole >> (count * w) == 0  # what is left is zero
    return [(whole >> (i * w)) & ((1 << w) - 1) for i in range(count)]


class Shard:
    """One folder under `shards/`."""

    def __init__(self, folder: Path, entry: dict[str, Any], codec: dict[str, Any]) -> None:
        def load(name: str) -> np.ndarray:
            array: np.ndarray = np.load(folder / f"{name}.npy")
            return array

        self.tokens, self.passages = entry["tokens"], entry["passages"]
        self.codes = unpack(load("codes"), self.tokens, codec["centroids"] - 1)
        self.residuals = load("residuals")
        assert self.residuals.shape == (self.tokens, codec["dim"] * codec["bits"] // 8)
        self.scales = load("scales")
        self.offsets = unpack(load("offsets"), self.passages + 1, self.tokens)
        self.contexts = load("contexts") if entry.get("contexts") else None
        lists = load("postings")
        assert not lists[-7:].any()
        self.lists = lists[:-7]
        self.starts = unpack(load("posting_offsets"), codec["centroids"] + 1, len(self.lists))
        self.ids = column(folder / "ids.arrow", "id")
        self.texts = column(folder / "texts.arrow", "text")
        metadata = column(folder / "texts.arrow", "metadata")
        self.metadata = [json.loads(row) if row is not None else {} for row in metadata]

    def postings(self, centroid: int) -> list[int]:
        """A posting list: the passages with a token of a code."""
        data = self.lists[self.starts[centroid] : self.starts[centroid + 1]].tolist()
        if not data:
            return []
        n = at = shift = 0
        while True:
            n |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                break
        low = int(np.floor(np.log2(self.passages / n)))
        low_bytes = -(-n * low // 8)
        lows = int.from_bytes(bytes(data[at : at + low_bytes]), "little")
        highs = int.from_bytes(bytes(data[at + low_bytes :]), "little")
        ones = [bit for bit in range(highs.bit_length()) if highs >> bit & 1]
        assert (len(ones), data[-1] != 0) == (n, True)
        mask = (1 << low) - 1
        return [((one - i) << low) + (lows >> (i * low) & mask) for i, one in enumerate(ones)]


def column(path: Path, name: str) -> list[Any]:
    """A column of an Arrow IPC file; record batches of 4,096 rows."""
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for i in range(file.num_record_batches - 1):
            assert file.get_batch(i).num_rows == 4096
        rows: list[Any] = file.read_all().column(name).to_pylist()
    return rows


class Reader:
    """An index."""

    def __init__(self, index: Path) -> None:
        current = json.loads((index / "CURRENT").read_text())
        data = (index / "generations" / f"{current['generation']}.json").read_bytes()
        assert hashlib.sha256(data).hexdigest() == current["manifest_sha256"]
        self.manifest = json.loads(data)
        assert self.manifest["format"] == "tartan-index"
        for name, entry in self.manifest["files"].items():
            content = (index / name).read_bytes()
            assert len(content) == entry["size_bytes"]
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]
            if name.endswith(".npy") and name.startswith("shards/"):
                assert content[:8] == b"\x93NUMPY\x01\x00"
                assert int.from_bytes(content[8:10], "little") == 118  # a header of 128 bytes
        self.codec = self.manifest["codec"]
        self.folder = index / "global" / self.manifest["codec_id"]
        self.shards = [
            Shard(index / "shards" / entry["id"], entry, self.codec)
            for entry in self.manifest["shards"]
        ]
        self.deleted = [
            np.load(index / entry["tombstones"]["file"]).tolist() if entry.get("tombstones") else []
            for entry in self.manifest["shards"]
        ]
        header = json.loads((self.folder / "codec.json").read_text())
        assert (header["name"], header["bits"]) == (self.codec["name"], self.codec["bits"])

    def array(self, name: str) -> np.ndarray:
        array: np.ndarray = np.load(self.folder / f"{name}.npy")
        return array

    def decode(self, shard: Shard) -> np.ndarray:
        """Every token's vector, float64 [T, D], in the model's space."""
        dim, bits = self.codec["dim"], self.codec["bits"]
        centroids = self.array("centroids").astype(np.float64)
        levels = self.array("levels").astype(np.float64)
        if self.codec["name"] == "colbertv2":
            indices = np.array([plane_indices(row, dim, bits) for row in shard.residuals])
            decoded = centroids[shard.codes] + levels[indices]
            return np.asarray(decoded / np.linalg.norm(decoded, axis=1, keepdims=True))
        centroids *= self.array("centroid_scales")[:, None]
        alpha, beta = self.array("alpha"), self.array("beta")
        indices = np.array([trellis_indices(row, dim, bits) for row in shard.residuals])
        decoded = (
            alpha[shard.scales, None] * centroids[shard.codes]
            + beta[shard.scales, None] * levels[indices]
        )
        if shard.contexts is not None:
            for pid, row in enumerate(shard.contexts):
                (scale,) = row[dim * bits // 8 :].copy().view("<f4")
                of_it = slice(shard.offsets[pid], shard.offsets[pid + 1])
                decoded[of_it] += float(scale) * levels[trellis_indices(row, dim, bits)]
        return np.asarray(decoded @ self.array("rotation").T)  # stored = model's × rotation


def plane_indices(row: np.ndarray, dim: int, bits: int) -> list[int]:
    """The bits of `colbertv2`."""
    indices = [0] * dim
    begin = shift = 0
    for w in [2, 1] if bits == 3 else [bits]:
        n = dim * w // 8
        for i in range(n):
            for j in range(8 // w):
                indices[i + j * n] |= (int(row[begin + i]) >> (j * w) & ((1 << w) - 1)) << shift
        begin, shift = begin + n, shift + w
    return indices


def trellis_indices(row: np.ndarray, dim: int, bits: int) -> list[int]:
    """The bits of `tartan`: of each dimension the six bits that end with its own."""
    string = int.from_bytes(row.tobytes(), "little") << 6  # bits before the string are zero
    return [(string >> (bits * d + bits)) & 63 for d in range(dim)]
