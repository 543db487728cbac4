"""The tiny checkpoints of the text tests serve here too."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))

# The models are tiny: more threads would only wait for one another.
torch.set_num_threads(1)
