"""Named features and their crosses as tables: what the model has of each field, and what it met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from service.cli.options import columns

HEAD = (
    "type", "inputs", "missing", "unseen", "wrong", "extreme", "converted", "collided", "drift",
    "log",
)  # fmt: skip
OBJECTS = ("missing", "unseen", "wrong", "extreme", "converted")  # of so many objects


def feature_lines(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to print of the named features of a bandit, by its state."""
    for side in ("context", "actions"):
        found = state.get(side)
        if found is not None:
            yield from _side_lines(side, found)
    crosses = state.get("crosses")
    if crosses:
        rows = [
            [each["context"], each["action"], each["inputs"], f"{each['gain']:.3g}"]
            for each in crosses
        ]
        yield ""
        yield columns(("cross of context", "and action", "inputs", "gain"), rows)


def _side_lines(side: str, found: Mapping[str, Any]) -> Iterator[str]:
    num = found["num_counted"]
    yield ""
    behind = f"from {found['num_rows']} values" if found["num_rows"] else "before the first round"
    yield f"{side}: {found['num_columns']} inputs, {behind}; {num} objects counted since"
    rows = []
    for path, field in found["fields"].items():
        kind = field["type"] or "not typed yet"
        inputs = "" if field["columns"] is None else field["columns"]
        shares = [_share(field[name], num) for name in OBJECTS]
        drift = "" if field["drift"] is None else f"{field['drift']:.2f}"
        collided = _share(field["collided"], field["hashed"])
        rows.append([path, kind, inputs, *shares, collided, drift, field["log"]])
    if rows:
        yield columns(("field", *HEAD), rows)
    if found["unknown_names"]:
        names = ", ".join(f"{name} {times}" for name, times in found["unknown_names"].items())
        yield f"keys that are no fields: {names}"


def _share(num: int, of: int) -> str:
    """Return a part of a whole in percent: "" for none, and "<1%" for a trace."""
    if not num or not of:
        return ""
    percent = 100.0 * num / of
    return f"{percent:.0f}%" if percent >= 1.0 else "<1%"
