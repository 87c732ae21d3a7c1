"""Reads what `bandexa export` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from service.tools.importing.found import Action, Found, offered
from service.tools.importing.shape import Shape, Unfit

Row = dict[str, Any]


def last_actions(rows: Iterable[Row]) -> list[Action]:
    """Return the actions of a log as they are in its end."""
    known: dict[str, Row] = {}
    for row in rows:
        if row["kind"] == "actions":
            for line in row["actions"]:
                known[line["id"]] = known.get(line["id"], {}) | line
    return [Action(name, line.get("features"), line["enabled"]) for name, line in known.items()]


def read_own(rows: Iterable[Row], shape: Shape) -> Iterator[Found]:
    """Yield the decisions of an export."""
    known: dict[str, Row] = {}
    enabled: list[str] = []
    for number, row in enumerate(rows, 1):
        if row["kind"] == "actions":
            for line in row["actions"]:
                known[line["id"]] = known.get(line["id"], {}) | line
            enabled = [name for name, line in known.items() if line["enabled"]]
        elif row["kind"] == "decision":
            try:
                yield _decision(number, row, enabled, shape)
            except Unfit as error:
                yield Found(number, reason=str(error))


def _decision(line: int, row: Row, enabled: list[str], shape: Shape) -> Found:
    if not row["activated"]:
        return Found(line, reason="was never activated", passed=True)
    ids = enabled if row["candidates"] is None else row["candidates"]
    features = row.get("features")
    candidates, actions = offered(
        ids, None if features is None else [shape.features(each) for each in features],
        shape.has_action_features,
    )  # fmt: skip
    item: Row = {
        "id": row.get("imported") or row["decision_id"],
        "time": row["time"],
        "context": shape.context(row["context"]),
        "candidates": candidates,
    }
    if row["propensity"]:
        item["propensity"] = row["propensity"]
    if row.get("propensities") is not None:
        item["propensities"] = row["propensities"]
    rewards = row["rewards"]
    if row["value"] is not None and rewards:
        item["delay"] = max(0.0, rewards[-1]["time"] - row["time"])
    if row.get("actions"):
        item["actions"] = [_chosen(each, shape) for each in row["actions"]]
    else:
        names = ("action", "value", "void", "metrics")
        item |= _chosen({name: row.get(name) for name in names}, shape)
    own = shape.features(row.get("action_features"))
    if own is not None and "actions" not in item:
        item["action_features"] = own
    return Found(line, item, actions=actions)


def _chosen(action: Row, shape: Shape) -> Row:
    """Return a chosen action as an import has it, without what is not known.

    Its metrics are there where the bandit learns of metrics; else the value that they made.
    """
    metrics = action.get("metrics") if shape.has_metrics else None
    known = action.get("value") if metrics is None else None
    found = {
        "action": action.get("action"), "id": action.get("id"),
        "propensity": action.get("propensity"),
        "value": None if action.get("void") else known,
        "metrics": None if action.get("void") else metrics,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}
