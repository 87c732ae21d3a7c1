"""Durations as Personalizer writes them: ISO 8601, `PT10M`, and .NET's `00:10:00`."""

from __future__ import annotations

import re

_ISO = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_NET = re.compile(r"(?:(\d+)\.)?(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
_WEEK, _DAY, _HOUR, _MINUTE = 604800.0, 86400.0, 3600.0, 60.0
MOST_CHARACTERS = 64
_FORMS: tuple[tuple[re.Pattern[str], tuple[float, ...]], ...] = (
    (_ISO, (_WEEK, _DAY, _HOUR, _MINUTE, 1.0)), (_NET, (_DAY, _HOUR, _MINUTE, 1.0)),
)  # fmt: skip


def seconds_of(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: It is none.
    """
    short = text[:MOST_CHARACTERS]
    for pattern, units in _FORMS:
        found = pattern.fullmatch(short)
        if short == text and found and any(found.groups()):
            parts = zip(found.groups(), units, strict=True)
            return sum(float(part) * unit for part, unit in parts if part)
    raise ValueError("is no duration, such as PT10M")


def duration_of(seconds: float) -> str:
    """Return seconds as a duration in ISO 8601."""
    days, rest = divmod(seconds, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    date = f"{days:.0f}D" if days else ""
    time = "".join(
        f"{part:g}{unit}" for part, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if part
    )
    return f"P{date}" + (f"T{time}" if time or not date else "") + ("" if time or date else "0S")
