"""The search kernels in torch, for shards that lie on a GPU. Imported only where one is asked for.

    TorchTable    the global centroids on a device: probing, and scores of every centroid
    TorchShard    one shard on a device: the stages of `reference/shard.py`, many queries at a time

Results are those of the native kernels: bit for bit for `tartan`, whose precise scores are sums of
integers; for `colbertv2`, which is scored in float32, within the rounding of its dot products.
docs/decisions/gpu-search.md says how, and what has not been measured.
"""

from colbert_core.torch_kernels.device import open_device
from colbert_core.torch_kernels.shard import TorchShard
from colbert_core.torch_kernels.table import TorchTable

__all__ = ["TorchShard", "TorchTable", "open_device"]
