"""Arrays of a few hundred KB come from memory that the process has, not from the kernel."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from bandexa_core.allocation import retain_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        arrays = [np.ones(50_000) for _ in range(3)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(20))
retain_freed_memory()
faults(2)
print(faults(200))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc: use Linux with it")
def test_freed_arrays_of_many_decisions_are_used_again_without_the_kernel() -> None:
    """Three arrays of 400 KB are 293 pages; before, nearly each of them is a page fault."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=60
    )
    before, after = map(int, done.stdout.split())
    assert before > 20 * 100
    assert after < 100
