"""What a server has imported and opened is no garbage to look for."""

from __future__ import annotations

import atexit
import gc


def freeze_heap() -> None:
    """Leave all objects that there are now out of the search for garbage, until the process ends.

    Libraries leave hundreds of thousands of objects. To look through them again and again took a
    busy gateway with a model a tenth of its time, and stops it for a tenth of a second or more.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # else nanobind takes what is left at the end for leaks
