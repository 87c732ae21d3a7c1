"""What a finding is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["alarm", "notice"]
ALARM: Severity = "alarm"
NOTICE: Severity = "notice"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is, or may be, wrong: a stable name, what was observed, what to do."""

    name: str
    severity: Severity
    message: str
    remedy: str
