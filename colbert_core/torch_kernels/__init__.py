"""The kernels in torch, for what lies on a GPU. Imported only where one is asked for.

    TorchTable    the global centroids on a device: probing, and scores of every centroid
    TorchShard    one shard on a device: the stages of `reference/shard.py`, many queries at a time

For building: `nearest.py` (the nearest centroid of vectors), `trellis.py` and `quantise.py` (residuals
to bytes), which `codec/on_device.py` puts together; docs/decisions/gpu-building.md.

Results of a search are those of the native kernels: bit for bit for `tartan`, whose precise scores are sums of
integers; for `colbertv2`, which is scored in float32, within the rounding of its dot products.
docs/decisions/gpu-search.md says how, and what has not been measured. What building stores is equal
to the bit.
"""

from colbert_core.torch_kernels.device import open_device
from colbert_core.torch_kernels.shard import TorchShard
from colbert_core.torch_kernels.table import TorchTable

__all__ = ["TorchShard", "TorchTable", "open_device"]
