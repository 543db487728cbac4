"""Centroids and residual quantisation: float vectors to bytes and back."""

from colbert_core.codec.codec import Codec, check_settings, rotation_of
from colbert_core.codec.compressed import Compressed
from colbert_core.codec.tables import Tables
from colbert_core.codec.training import train_codec, train_codec_on

__all__ = [
    "Codec",
    "Compressed",
    "Tables",
    "check_settings",
    "rotation_of",
    "train_codec",
    "train_codec_on",
]
