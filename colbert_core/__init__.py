"""Late interaction as a library: encode, build, search. Needs neither Ray nor gRPC.

`Index` is the way in: `Index.build`, `Index.open`, `index.search`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from colbert_core.types import Hit, Passage, SearchParams, TokenMatch

if TYPE_CHECKING:
    from colbert_core.api import Index
    from colbert_core.hits import Hits

__all__ = ["Hit", "Hits", "Index", "Passage", "SearchParams", "TokenMatch"]


def __getattr__(name: str) -> object:
    # These bring pyarrow and the kernels; the thin client takes only types from this package.
    if name == "Index":
        from colbert_core.api import Index

        return Index
    if name == "Hits":
        from colbert_core.hits import Hits

        return Hits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
