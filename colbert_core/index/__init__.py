"""The on-disk format: writing, opening, checking and measuring an index."""

from colbert_core.index.cache import Pin, discard
from colbert_core.index.fetch import fetched_afresh
from colbert_core.index.inspect import component_bytes, describe, predicted_bytes
from colbert_core.index.manifest import Manifest, ShardEntry, read_current
from colbert_core.index.presets import Preset
from colbert_core.index.push import check_remote_place, live_generation, number_after, push
from colbert_core.index.reader import Generation, ShardReader, open_generation
from colbert_core.index.verify import check_shard, verify, verify_checksums
from colbert_core.index.writer import ShardWriter, new_generation_id, publish, write_codec

__all__ = [
    "Generation",
    "Manifest",
    "Pin",
    "Preset",
    "ShardEntry",
    "ShardReader",
    "ShardWriter",
    "check_remote_place",
    "check_shard",
    "component_bytes",
    "describe",
    "discard",
    "fetched_afresh",
    "live_generation",
    "new_generation_id",
    "number_after",
    "open_generation",
    "predicted_bytes",
    "publish",
    "push",
    "read_current",
    "verify",
    "verify_checksums",
    "write_codec",
]
