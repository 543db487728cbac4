"""Text to vectors: checkpoints, tokens, the encoder, and reading a corpus.

Names are loaded when they are first used, so that reading a corpus or a model's identity does not
import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colbert_core.text.aliases import ALIASES, DEFAULT_MODEL
    from colbert_core.text.encoded import EncodedPassages
    from colbert_core.text.encoder import Encoder
    from colbert_core.text.identity import ModelIdentity
    from colbert_core.text.projection import fit_pca

__all__ = [
    "ALIASES",
    "DEFAULT_MODEL",
    "EncodedPassages",
    "Encoder",
    "ModelIdentity",
    "fit_pca",
]

_HOMES = {
    "ALIASES": "aliases",
    "DEFAULT_MODEL": "aliases",
    "EncodedPassages": "encoded",
    "Encoder": "encoder",
    "ModelIdentity": "identity",
    "fit_pca": "projection",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
