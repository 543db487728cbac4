"""The codec of an index: the global centroid table and how residuals become bytes and back.

Shapes: N passages, T tokens, D dimensions, C centroids, B packed bytes per token, X bytes of a
context.

A stored token is a centroid code, b residual bits per dimension that name a level, and one byte
that selects two scales. In the codec's rotated space it decodes as

    decoded = alpha[scale] · centroid[code] + beta[scale] · level + context[passage]

Two codecs share this form, this file and the search kernels: `tartan` (tartan.py), our default,
and `colbertv2` (colbertv2.py), the paper's, which has no contexts (contexts.py) and whose decoded
vectors are then L2-normalised. A query is rotated once (`rotate`) before anything is compared
with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from colbert_core import kernels
from colbert_core.codec import colbertv2, tartan
from colbert_core.codec.assign import Assigner
from colbert_core.codec.compressed import Compressed
from colbert_core.codec.contexts import check_doclens, encode_contexts, mean_residuals
from colbert_core.codec.packing import PLANES, packed_bytes
from colbert_core.codec.rows import Rows, rotated
from colbert_core.codec.tables import Tables
from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.npy import read_npy
from colbert_core.reference.contexts import context_bytes, decode_contexts
from colbert_core.types import F32, I8, I32, MAX_DIM, U8, AnyArray

CODECS = {"tartan": tartan, "colbertv2": colbertv2}
_ARRAYS = {
    "tartan": ("levels", "alpha", "beta"),
    "colbertv2": ("levels", "cutoffs", "alpha", "beta"),
}
_LARGEST = 1e3
"""What no value of a codec reaches: its vectors are of unit length."""


@dataclass(frozen=True)
class Codec:
    """A trained codec; immutable, safe to share between threads.

    Attributes:
        name: "tartan" or "colbertv2".
        bits: residual bits per dimension, 1 to 4.
        rotation_DD: orthonormal float32 [D, D], or None where the codec does not rotate.
        centroids_CD: float32 [C, D] in the rotated space, exactly as they decode.
        tables: residual levels and scales.
    """

    name: str
    bits: int
    rotation_DD: F32 | None
    centroids_CD: F32
    tables: Tables

    @property
    def dim(self) -> int:
        return int(self.centroids_CD.shape[1])

    @property
    def centroid_count(self) -> int:
        return len(self.centroids_CD)

    @property
    def token_bytes(self) -> int:
        """Packed residual bytes of one token."""
        return packed_bytes(self.dim, self.bits)

    @property
    def normalize(self) -> bool:
        """Whether decoded vectors are L2-normalised (the paper's codec) or used as they are."""
        return self.name == "colbertv2"

    @cached_property
    def centroid_table(self) -> kernels.CentroidTable:
        """The int8 table that kernels probe; for `tartan` it is the exact definition."""
        return kernels.CentroidTable(*self.centroids_i8)

    @cached_property
    def centroids_i8(self) -> tuple[I8, F32]:
        """The centroids as int8 [C, D] and a float32 scale of each [C]."""
        return tartan.quantise_centroids(self.centroids_CD)

    @cached_property
    def _assigner(self) -> Assigner:
        return Assigner(self.centroids_CD)

    def rotate(self, vectors_TD: F32) -> F32:
        """Float32 [T, D] in the model's space, of passages or a query → contiguous float32 [T, D]
        in the codec's, as kernels take it."""
        return rotated(vectors_TD, self.rotation_DD)

    @property
    def context_bytes(self) -> int:
        """Bytes of a passage's context; 0 where the codec has none."""
        return context_bytes(self.dim, self.bits) if self.name == "tartan" else 0

    def compress(self, vectors_TD: F32, doclens_N: I32) -> Compressed:
        """Float32 [T, D] unit vectors, and how many belong to each passage → compressed tokens.

        Raises:
            InvalidInput: the lengths do not fit the vectors, or a passage has none.
        """
        check_doclens(doclens_N, len(vectors_TD))
        if not len(vectors_TD):
            return Compressed.empty(self.token_bytes, self.context_bytes)
        rotated_TD = self.rotate(vectors_TD)
        codes_T = self._assigner(Rows.of(rotated_TD))
        contexts_NX = np.zeros((len(doclens_N), self.context_bytes), np.uint8)
        if self.context_bytes:
            residuals_TD = self.centroids_CD[codes_T]
            np.subtract(rotated_TD, residuals_TD, out=residuals_TD)
            contexts_NX = self.encode_contexts(mean_residuals(residuals_TD, doclens_N))
            shared_TD = self._contexts_of_tokens(contexts_NX, doclens_N)
            rotated_TD = np.subtract(rotated_TD, shared_TD, out=shared_TD)
        quantise = CODECS[self.name].quantise
        packed_TB, scales_T = quantise(
            self.tables, rotated_TD, codes_T, self.centroids_CD, self.bits
        )
        return Compressed(codes_T, packed_TB, scales_T, contexts_NX)

    def encode_contexts(self, means_ND: F32) -> U8:
        """Passages' mean residuals, float32 [N, D] → contexts, uint8 [N, X]."""
        return encode_contexts(means_ND, self.bits, self.tables.levels)

    def decode_contexts(self, contexts_NX: U8) -> F32:
        """Contexts, uint8 [N, X] → float32 [N, D], in the codec's space."""
        return decode_contexts(contexts_NX, self.bits, self.tables.levels, self.dim)

    def decode(self, tokens: Compressed, doclens_N: I32) -> F32:
        """Compressed tokens of passages of these lengths → float32 [T, D] in the model's space, for
        tests and export."""
        levels_TD = CODECS[self.name].residual_levels(
            self.tables, tokens.residuals_TB, self.bits, self.dim
        )
        decoded_TD: F32 = self.centroids_CD[tokens.codes_T]
        decoded_TD *= self.tables.alpha[tokens.scales_T, None]
        decoded_TD += self.tables.beta[tokens.scales_T, None] * levels_TD
        if tokens.contexts_NX.shape[1]:
            decoded_TD += self._contexts_of_tokens(tokens.contexts_NX, doclens_N)
        if self.normalize:
            decoded_TD /= np.linalg.norm(decoded_TD, axis=1, keepdims=True).astype(np.float32)
        if self.rotation_DD is None:
            return decoded_TD
        return rotated(decoded_TD, np.ascontiguousarray(self.rotation_DD.T))

    def _contexts_of_tokens(self, contexts_NX: U8, doclens_N: I32) -> F32:
        """The context of each token's passage, float32 [T, D]."""
        repeated_TD: F32 = np.repeat(self.decode_contexts(contexts_NX), doclens_N, axis=0)
        return repeated_TD

    def save(self, folder: Path) -> None:
        """Write the codec into an existing, empty folder (the caller syncs and publishes it)."""
        self.write_header(folder, self.name, self.bits)
        if self.name == "tartan":
            codes_CD, scales_C = self.centroids_i8
            np.save(folder / "centroids.npy", codes_CD)
            np.save(folder / "centroid_scales.npy", scales_C)
        else:
            half_CD = self.centroids_CD.astype(np.float16)
            exact = np.array_equal(half_CD, self.centroids_CD)  # imported ones may not be
            np.save(folder / "centroids.npy", half_CD if exact else self.centroids_CD)
        if self.rotation_DD is not None:
            np.save(folder / "rotation.npy", self.rotation_DD)
        for name in _ARRAYS[self.name]:
            np.save(folder / f"{name}.npy", getattr(self.tables, name))

    @staticmethod
    def write_header(folder: Path, name: str, bits: int) -> None:
        """Write `codec.json`, which says how the arrays beside it are to be read."""
        header = {"name": name, "bits": bits}
        (folder / "codec.json").write_text(json.dumps(header) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Codec:
        """Read what `save` wrote.

        Raises:
            IndexCorrupt: a file is missing or is not what the header says.
        """
        try:
            return cls._read(folder)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, InvalidInput) as error:
            raise IndexCorrupt(f"{folder}: the codec cannot be read: {error}") from error

    @classmethod
    def _read(cls, folder: Path) -> Codec:
        header = json.loads((folder / "codec.json").read_bytes())
        name, bits = header["name"], header["bits"]
        if name not in CODECS or type(bits) is not int or bits not in PLANES:
            raise ValueError(f"codec {name!r} with {bits!r} bits is not known to this version")
        centroids = _read_centroids(folder, name)
        check_settings(name=name, bits=bits, dim=centroids.shape[1])
        tables = _read_tables(folder, name, bits)
        rotation = _read_rotation(folder, centroids.shape[1]) if name == "tartan" else None
        if not (np.abs(centroids) <= _LARGEST).all():
            raise ValueError(f"its centroids hold values beyond {_LARGEST:g}, or not finite")
        return cls(name, bits, rotation, centroids.astype(np.float32, copy=False), tables)


def _read_centroids(folder: Path, name: str) -> AnyArray:
    centroids = read_npy(folder / "centroids.npy")
    if name == "tartan":
        scales = read_npy(folder / "centroid_scales.npy")
        _check_shape("centroid_scales", scales, (len(centroids),))
        centroids = centroids * scales[:, None]
    if centroids.ndim != 2 or not len(centroids):
        raise ValueError(f"its centroids are {list(centroids.shape)}")
    return centroids


def _read_tables(folder: Path, name: str, bits: int) -> Tables:
    levels = CODECS[name].level_count(bits)
    sizes = {"levels": levels, "cutoffs": levels - 1, "alpha": 256, "beta": 256}
    arrays = {array: read_npy(folder / f"{array}.npy") for array in _ARRAYS[name]}
    for array, values in arrays.items():
        _check_shape(array, values, (sizes[array],))
    return Tables(arrays["levels"], arrays.get("cutoffs"), arrays["alpha"], arrays["beta"])


def _read_rotation(folder: Path, dim: int) -> F32:
    rotation = read_npy(folder / "rotation.npy")
    _check_shape("rotation", rotation, (dim, dim))
    if not np.allclose(np.linalg.norm(rotation, axis=0), 1, atol=1e-2):
        raise ValueError("its rotation is not orthonormal")
    return rotation


def _check_shape(name: str, values: AnyArray, shape: tuple[int, ...]) -> None:
    """What a codec computes with: float32 of one shape, finite and not large."""
    fits = values.dtype == np.float32 and values.shape == shape
    if not fits or not (np.abs(values) <= _LARGEST).all():
        raise ValueError(
            f"its {name} are {values.dtype} {list(values.shape)}, and should be float32 "
            f"{list(shape)} within {_LARGEST:g}"
        )


def rotation_of(name: str, dim: int, seed: int) -> F32 | None:
    """What turns vectors into a codec's space, float32 [D, D]; None where it does not rotate."""
    rotation_DD: F32 | None = CODECS[name].rotation(dim, seed)
    return rotation_DD


def check_settings(*, name: str, bits: int, dim: int) -> None:
    """Refuse what no codec can do, before any work.

    Raises:
        InvalidInput: naming the value, what is possible, and the remedy.
    """
    if name not in CODECS:
        raise InvalidInput(f"codec {name!r} is unknown; choose one of {', '.join(CODECS)}")
    if bits not in PLANES:
        raise InvalidInput(f"bits is {bits}; choose 1, 2, 3 or 4")
    if dim % 8 or not 8 <= dim <= MAX_DIM:
        raise InvalidInput(
            f"vectors have {dim} dimensions; a multiple of 8 from 8 to {MAX_DIM} is needed: "
            "pad with zeros or reduce by PCA"
        )
