"""Opening a generation: the codec, and the shards that are asked for.

Files are checked by size and mapped, so that opening costs the same whatever the size of the index,
unless what is searched is asked into memory. `verify.py` reads everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_core import kernels
from colbert_core.codec import Codec
from colbert_core.errors import InvalidInput
from colbert_core.index.cache import Pin
from colbert_core.index.fetch import OnBytes, fetched
from colbert_core.index.files import check_size, read_matrix
from colbert_core.index.in_memory import keep_in_memory
from colbert_core.index.lease import Lease, lease_generation
from colbert_core.index.manifest import Manifest, ShardEntry, read_current, read_generation
from colbert_core.index.reader import ShardReader
from colbert_core.storage import RemotePath, location
from colbert_core.types import F32

if TYPE_CHECKING:
    from colbert_core.torch_kernels import TorchTable


@dataclass(frozen=True)
class Generation:
    """An open generation: immutable, whatever is published after it, and not collected."""

    path: Path
    manifest: Manifest
    codec: Codec
    shards: tuple[ShardReader, ...]
    device: str = "cpu"
    device_table: TorchTable | None = None
    lease: Lease | Pin | None = None

    @property
    def table(self) -> kernels.CentroidTable | TorchTable:
        """The centroids where shards are searched."""
        return self.device_table or self.codec.centroid_table

    @property
    def model(self) -> Mapping[str, Any] | None:
        """Identity of the encoder, or None where the vectors came from elsewhere."""
        return self.manifest.model

    @cached_property
    def projection(self) -> F32 | None:
        """The matrix float32 [model dim, D] that reduces the model's vectors, or None."""
        path = self.path / "global" / self.manifest.codec_id / "projection.npy"
        return read_matrix(path) if path.exists() else None


def open_generation(
    path: str | Path | RemotePath,
    *,
    shards: Sequence[str] | None = None,
    generation: str | None = None,
    device: str = "cpu",
    in_memory: bool | None = False,
    on_fetch: OnBytes | None = None,
) -> Generation:
    """Open a generation of an index.

    Args:
        path: folder of the index, or its URI: then what is opened of it is fetched into the local
            cache first, and verified.
        shards: ids of the shards to open; all by default, none for a gateway.
        generation: its id; the live one by default.
        device: where to search. "cpu" is the native kernels; "cuda", or "cuda:1" for one of
            several GPUs, is those in torch, with the shards copied there now; "torch:cpu" is the
            same without a GPU, for testing.
        in_memory: copy what is searched on the CPU into memory (`in_memory.py`); None does where
            it takes no more than half of what is available.
        on_fetch: called with the bytes fetched and wanted, of one folder after another.

    Raises:
        InvalidInput: there is no such device here, or the shards do not fit on it, or in memory.
        IndexMissing: there is no index here.
        IndexCorrupt: a file is missing, truncated, or does not fit the manifest.
        StorageError, Unavailable: the bucket refuses, or does not answer.
    """
    place = location(path)
    lease: Lease | Pin
    if isinstance(place, Path):
        index, (manifest, lease) = place, lease_generation(place, generation)
    else:
        manifest = read_generation(place, generation) if generation else read_current(place)
    wanted = [s for s in manifest.shards if shards is None or s.id in shards]
    needed = (f"global/{manifest.codec_id}/", *(name for s in wanted for name in files_of(s)))
    if isinstance(place, RemotePath):
        index, lease = fetched(place, manifest, needed, on_fetch)
    for name, entry in manifest.files.items():
        if name.startswith(needed):
            check_size(index / name, entry)
    codec = Codec.load(index / "global" / manifest.codec_id)
    table = None if device == "cpu" else _device_table(codec, device)
    readers = tuple(ShardReader(index, shard, codec, table) for shard in wanted)
    if table is not None:
        for reader in readers:  # copied now: threads that search first would each make a copy
            _ = reader.kernel
    else:
        keep_in_memory(readers, in_memory)
    return Generation(index, manifest, codec, readers, device, table, lease)


def files_of(shard: ShardEntry) -> tuple[str, ...]:
    """What the names of a shard's files in the manifest begin with."""
    folder = f"shards/{shard.id}/"
    return (folder, shard.tombstones.file) if shard.tombstones else (folder,)


def _device_table(codec: Codec, device: str) -> TorchTable:
    """The centroids on a device; torch is imported here, and nowhere else for searching."""
    try:
        from colbert_core.torch_kernels import TorchTable, open_device
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"device is {device!r}, which needs torch: install it (`pip install torch`), or search "
            "with device cpu"
        ) from error
    return TorchTable(*codec.centroids_i8, open_device(device))
