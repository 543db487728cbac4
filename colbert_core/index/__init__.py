"""The on-disk format: writing, opening, checking and measuring an index."""

from colbert_core.index.inspect import component_bytes, describe, predicted_bytes
from colbert_core.index.manifest import Manifest, ShardEntry, read_current
from colbert_core.index.presets import Preset
from colbert_core.index.reader import Generation, ShardReader, open_generation
from colbert_core.index.repair import Repair, repair
from colbert_core.index.verify import Problem, Report, check_index, verify, verify_checksums
from colbert_core.index.writer import ShardWriter, new_generation_id, publish, write_codec

__all__ = [
    "Generation",
    "Manifest",
    "Preset",
    "Problem",
    "Repair",
    "Report",
    "ShardEntry",
    "ShardReader",
    "ShardWriter",
    "check_index",
    "component_bytes",
    "describe",
    "new_generation_id",
    "open_generation",
    "predicted_bytes",
    "publish",
    "read_current",
    "repair",
    "verify",
    "verify_checksums",
    "write_codec",
]
