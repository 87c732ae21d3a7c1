"""`bandexa verify`: recomputes what a data directory holds, and compares.

Runs in the process of the command, in one thread, on read-only connections. Nothing is written.
`verify` returns a `Report`; `main` is the command.
"""

from service.tools.verify.command import main, verify
from service.tools.verify.findings import Report

__all__ = ["Report", "main", "verify"]
