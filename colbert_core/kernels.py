"""The kernels: native where the extension is there, the numpy reference otherwise. Chosen once.

`IMPLEMENTATION` says which and why. `TARTAN_KERNELS=reference` forces the reference, `native` makes
a missing extension an error; `TARTAN_ISA=amx|avx512vnni|avx2|neon|portable` forces one native path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = [
    "IMPLEMENTATION",
    "RUN",
    "CentroidTable",
    "NearestCentroid",
    "Shard",
    "StringColumn",
    "add_rows",
    "best_bits",
    "isa",
    "isas",
    "quantise_colbertv2",
    "quantise_tartan",
    "rotate",
    "to_int8",
    "use_isa",
]


def _why_not_native() -> str | None:
    """The reason to take the reference; None where the native kernels are to be used."""
    wish = os.environ.get("TARTAN_KERNELS", "")
    if wish == "reference":
        return "TARTAN_KERNELS=reference"
    if wish not in ("", "native"):
        raise ImportError(f"TARTAN_KERNELS is {wish!r}; it may be 'native' or 'reference'")
    try:
        import colbert_core._native  # noqa: F401
    except ModuleNotFoundError as error:
        if wish == "native" or error.name != "colbert_core._native":
            raise
        return "the native extension is not built (`pip install -e .` builds it)"
    return None


_REASON = _why_not_native()

if TYPE_CHECKING or _REASON is None:
    from colbert_core._native import (
        RUN,
        CentroidTable,
        NearestCentroid,
        Shard,
        StringColumn,
        add_rows,
        best_bits,
        isa,
        isas,
        quantise_colbertv2,
        quantise_tartan,
        rotate,
        to_int8,
        use_isa,
    )

    IMPLEMENTATION = f"native ({isa()})"
else:
    from colbert_core.reference import (
        RUN,
        CentroidTable,
        NearestCentroid,
        Shard,
        StringColumn,
        add_rows,
        best_bits,
        quantise_colbertv2,
        quantise_tartan,
        rotate,
        to_int8,
    )

    IMPLEMENTATION = f"reference: {_REASON}"

    def isa() -> str:
        """The SIMD path in use: none."""
        return "reference"

    def isas() -> list[str]:
        """The SIMD paths that can be chosen: none but the reference."""
        return ["reference"]

    def use_isa(name: str) -> None:
        """Chooses a SIMD path; the reference has no other."""
        if name != "reference":
            raise ValueError(f"SIMD path {name!r} needs the native extension")
