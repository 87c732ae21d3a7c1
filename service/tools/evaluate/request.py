"""What an evaluation is asked for, as plain values; light, for a server that only passes it on."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Method = Literal["mixture", "betting", "plug_in"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a log.

    Attributes:
        actions: Serving each of these always.
        configs: Other configurations by name, as JSON.
        low, high: The range of values; None: the bandit's `reward_range`.
        missing: The value of decisions without one; None: they are left out.
        alpha: How often an interval may ever be wrong.
        precision: The difference that should be seen, as a share of the range.
        method: Of intervals; None: what suits each policy.
    """

    actions: tuple[str, ...] = ()
    configs: dict[str, dict[str, Any]] = {}
    low: float | None = None
    high: float | None = None
    missing: float | None = None
    alpha: float = 0.05
    precision: float = 0.05
    method: Method | None = None
