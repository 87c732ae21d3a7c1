"""`python -m benchmarks.peers`: our policies and other bandit libraries on the same streams.

Nothing of the other libraries is imported before a run asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Play the comparison, or fetch its tables; returns the exit status."""
    from benchmarks.peers import command, data

    if argv and argv[0] == "fetch":
        return data.main(argv[1:])
    return command.main(argv)
