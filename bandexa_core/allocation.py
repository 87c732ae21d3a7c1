"""Freed memory of a few hundred KB stays with the process, for the next decision.

Decisions that are drawn together need some arrays of up to half a megabyte. The C library of Linux
(glibc) returns freed memory at the end of the heap to the kernel once it is more than twice the
largest block that it had mapped by itself: at first 256 KB. Every draw would then get pages that
the kernel has to clear, ten for each decision, in half of its time. Other C libraries decide
otherwise, and lose nothing by this.
"""

from __future__ import annotations

from functools import cache

import numpy as np

LARGEST = 8 << 20  # bytes; twice as many stay


@cache
def retain_freed_memory() -> None:
    """Map and free a large block once, of which nothing is ever touched: glibc adapts to it."""
    np.empty(LARGEST, np.uint8)
