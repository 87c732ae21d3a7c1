"""`bandexa verify`: recomputes what a data directory holds, and compares.

Runs in the process of the command, in one thread, on read-only connections. Nothing is written.
`verify` returns a `Report`; `main` is the command.
"""

from service.store.findings import Report
from service.tools.verify.command import main, verify

__all__ = ["Report", "main", "verify"]
