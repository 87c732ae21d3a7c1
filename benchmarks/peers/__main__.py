"""The command `python -m benchmarks.peers`, which is `python -m benchmarks peers`."""

from __future__ import annotations

import sys

from benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["peers", *sys.argv[1:]]))
