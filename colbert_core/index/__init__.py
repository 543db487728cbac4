"""The on-disk format: writing, opening, checking and measuring an index."""

from colbert_core.index.inspect import component_bytes, describe, predicted_bytes
from colbert_core.index.manifest import Manifest, ShardEntry, read_current
from colbert_core.index.passages import StoredRow
from colbert_core.index.presets import Preset
from colbert_core.index.reader import Generation, ShardReader, open_generation
from colbert_core.index.verify import check_shard, verify, verify_checksums
from colbert_core.index.writer import ShardWriter, new_generation_id, publish, write_codec

__all__ = [
    "Generation",
    "Manifest",
    "Preset",
    "ShardEntry",
    "ShardReader",
    "ShardWriter",
    "StoredRow",
    "check_shard",
    "component_bytes",
    "describe",
    "new_generation_id",
    "open_generation",
    "predicted_bytes",
    "publish",
    "read_current",
    "verify",
    "verify_checksums",
    "write_codec",
]
