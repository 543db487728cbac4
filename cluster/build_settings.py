"""How an index is built: the choices of the person who asks for it, checked before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from colbert_core.codec import check_settings
from colbert_core.errors import InvalidInput
from colbert_core.pooling import check_pool_factor
from colbert_core.text.aliases import DEFAULT_MODEL, locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.identity import ModelIdentity

PLAIN_DIM = 192
"""What PCA keeps of a plain encoder's 384: half of the bytes, and nDCG@10 within .005 on each of
four collections, where 128 lose up to .017 (docs/decisions/text-encoder.md)."""

LONG_DOCUMENTS = ("error", "truncate", "split")
"""What becomes of a document that has more tokens than are kept of a passage."""


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How to build. `None` means: derived from the corpus, the model or the cluster."""

    model: str = DEFAULT_MODEL
    bits: int = 2
    codec: str = "tartan"
    shards: int | None = None
    dim: int | None = None
    centroids: int | None = None
    seed: int = 0
    doc_maxlen: int | None = None
    pool_factor: int = 1
    long_documents: str = "truncate"
    language: str | None = None

    def kept_dim(self, identity: ModelIdentity) -> int:
        """Dimensions to store: as asked, or the model's own, a plain encoder's reduced."""
        if self.dim is not None:
            return self.dim
        if identity.format == "plain":
            return min(identity.dim, PLAIN_DIM)
        return identity.dim

    def check(self) -> None:
        """Refuse what cannot work, before any work.

        Raises:
            InvalidInput: naming the value, the limit and the remedy.
            ModelError: there is no such model, or it is no checkpoint.
        """
        check_settings(name=self.codec, bits=self.bits, dim=self.dim or 8)
        for name in ("shards", "centroids", "doc_maxlen"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} is {value}; give 1 or more, or leave it out")
        check_pool_factor(self.pool_factor)
        if self.long_documents not in LONG_DOCUMENTS:
            raise InvalidInput(
                f"long_documents is {self.long_documents!r}; give {', '.join(LONG_DOCUMENTS)}"
            )
        if self.seed < 0:
            raise InvalidInput(f"seed is {self.seed}; give 0 or more")
        read_checkpoint(locate(self.model)).languages.choose(self.language)


def absolute_if_folder(model: str | os.PathLike[str]) -> str:
    """A model's folder by its full path, for workers start elsewhere; names stay as they are."""
    name = os.fspath(model)
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name
