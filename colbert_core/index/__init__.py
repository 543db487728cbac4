"""The on-disk format: writing, opening, checking and measuring an index."""

from colbert_core.index.cache import Pin, discard
from colbert_core.index.fetch import fetched_afresh
from colbert_core.index.in_memory import keep_in_memory
from colbert_core.index.inspect import component_bytes, describe, predicted_bytes
from colbert_core.index.lease import Lease
from colbert_core.index.leftovers import remove_unpublished
from colbert_core.index.lock import take_lock, write_lock
from colbert_core.index.manifest import (
    Manifest,
    ShardEntry,
    Tombstones,
    read_current,
    read_generation,
)
from colbert_core.index.opening import Generation, files_of, open_generation
from colbert_core.index.passages import StoredRow
from colbert_core.index.presets import Preset
from colbert_core.index.publish import make_live, new_generation_id, publish, publish_change
from colbert_core.index.push import check_remote_place, live_generation, number_after, push
from colbert_core.index.reader import ShardReader
from colbert_core.index.repair import Repair, repair
from colbert_core.index.tombstones import write_tombstones
from colbert_core.index.verify import Problem, Report, check_index, verify, verify_checksums
from colbert_core.index.writer import ShardWriter, write_codec

__all__ = [
    "Generation",
    "Lease",
    "Manifest",
    "Pin",
    "Preset",
    "Problem",
    "Repair",
    "Report",
    "ShardEntry",
    "ShardReader",
    "ShardWriter",
    "StoredRow",
    "Tombstones",
    "check_index",
    "check_remote_place",
    "component_bytes",
    "describe",
    "discard",
    "fetched_afresh",
    "files_of",
    "keep_in_memory",
    "live_generation",
    "make_live",
    "new_generation_id",
    "number_after",
    "open_generation",
    "predicted_bytes",
    "publish",
    "publish_change",
    "push",
    "read_current",
    "read_generation",
    "remove_unpublished",
    "repair",
    "take_lock",
    "verify",
    "verify_checksums",
    "write_codec",
    "write_lock",
    "write_tombstones",
]
