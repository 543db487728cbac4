"""The kernels in torch, for what lies on a GPU. Imported only where one is asked for.

    TorchTable    the global centroids on a device: probing, and scores of every centroid
    TorchShard    one shard on a device: the stages of `reference/shard.py`, many queries at a time

For building: `nearest.py` (the nearest centroid of vectors), `trellis.py` and `quantise.py`
(residuals to bytes), which `codec/on_device.py` puts together; docs/decisions/gpu-building.md.

Results are those of the native kernels, bit for bit; but for the scores of `colbertv2`, which are
float32, within the rounding of their dot products. docs/decisions/gpu-search.md says how, and what
has not been measured.
"""

from colbert_core.torch_kernels.device import open_device
from colbert_core.torch_kernels.shard import TorchShard
from colbert_core.torch_kernels.table import TorchTable

__all__ = ["TorchShard", "TorchTable", "open_device"]
