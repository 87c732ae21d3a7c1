"""`bandexa verify`: read a data directory again and compare all that follows from other parts.

Runs in the process of the command, in one thread, on read-only connections. Nothing is written.
`verify` returns a `Report`; `main` is the command.
"""

from service.tools.verify.command import main, verify
from service.tools.verify.findings import Report

__all__ = ["Report", "main", "verify"]
