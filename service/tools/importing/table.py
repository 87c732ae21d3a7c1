"""Reads a table of decisions, CSV with a head.

| column | what it is |
|---|---|
| `action` | needed: the chosen action |
| `reward`, or `cost` | its value, or the negative of it; empty: none is known |
| `metrics.NAME` | a metric, in place of it; empty: it was not reported |
| `propensity` | its probability; empty: it is not known |
| `context.NAME` | a feature of the context; of a bandit with numbers `context.0`, ... |
| `context` | in place of these: the whole context, as JSON |
| `decision_id`, `time` | its id; seconds since the epoch, or ISO 8601 (without an offset: UTC) |
| `candidates` | the ids of what could be chosen, with blanks between, or a JSON list |
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Any

from service.tools.importing.found import Action, Found
from service.tools.importing.shape import Shape, Unfit, finite

Row = dict[str, Any]
METRIC, CONTEXT = "metrics.", "context."  # begin the names of columns
KNOWN = ("action", "reward", "cost", "propensity", "context", "decision_id", "time", "candidates")
_WORDS: dict[str, bool] = {"true": True, "false": False}


def read_csv(lines: IO[bytes], shape: Shape, names: list[str]) -> Iterator[Found]:
    """Yield the decisions of a table."""
    text = io.TextIOWrapper(lines, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        _check(list(reader.fieldnames or ()), shape)
        for row in reader:
            yield _found(reader.line_num, row, shape)
    finally:
        text.detach()  # whoever opened the file closes it


def _found(line: int, row: Mapping[str, Any], shape: Shape) -> Found:
    if None in row:
        return Found(line, reason="has more fields than the head")
    try:
        return _decision(line, {key: each or "" for key, each in row.items()}, shape)
    except Unfit as error:
        return Found(line, reason=str(error))


def _check(columns: list[str], shape: Shape) -> None:
    if "action" not in columns:
        raise csv.Error("the column 'action' is missing")
    free = (CONTEXT, METRIC)
    unknown = [name for name in columns if name not in KNOWN and not name.startswith(free)]
    if unknown:
        raise csv.Error(f"the column {unknown[0]!r} is unknown: it is none of {', '.join(KNOWN)}")
    if "reward" in columns and "cost" in columns:
        raise csv.Error("give reward or cost, not both")
    metric = next((name for name in columns if name.startswith(METRIC)), None)
    if metric is not None and not shape.has_metrics:
        raise csv.Error(
            f"the column {metric!r}: the bandit learns single values; its rewards.learn says what"
            " is learned of metrics"
        )


def _decision(line: int, row: Mapping[str, str], shape: Shape) -> Found:
    action = row["action"].strip()
    if not action:
        raise Unfit("action: is missing")
    item: Row = {
        "id": row.get("decision_id", "").strip(), "context": shape.context(_context(row)),
        "action": action,
    }  # fmt: skip
    metrics = {
        name.removeprefix(METRIC): finite(text, name)
        for name, text in row.items()
        if name.startswith(METRIC) and text.strip()
    }
    if metrics:
        if row.get("reward", "").strip() or row.get("cost", "").strip():
            raise Unfit("metrics: give these, or a reward or cost, not both")
        item["metrics"] = metrics
    elif row.get("reward", "").strip():
        item["value"] = finite(row["reward"], "reward")
    elif row.get("cost", "").strip():
        item["value"] = -finite(row["cost"], "cost") + 0.0
    if row.get("propensity", "").strip():
        item["propensity"] = propensity = finite(row["propensity"], "propensity")
        if not 0.0 < propensity <= 1.0:
            raise Unfit(f"propensity: {row['propensity']} is none")
    if row.get("time", "").strip():
        item["time"] = _time(row["time"].strip())
    ids = [action]
    if row.get("candidates", "").strip():
        item["candidates"] = ids = _candidates(row["candidates"].strip())
        if action not in ids:
            raise Unfit(f"candidates: the action {action!r} is none of them")
    text = json.dumps(dict(row), sort_keys=True).encode()
    return Found(line, item, text=text, actions=tuple(Action(name, None) for name in ids))


def _context(row: Mapping[str, str]) -> Any:
    if row.get("context", "").strip():
        try:
            return json.loads(row["context"])
        except ValueError as error:
            raise Unfit(f"context: is no JSON: {error}") from None
    found = {}
    for name, text in row.items():
        if name.startswith(CONTEXT) and text.strip():
            found[name.removeprefix(CONTEXT)] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    """Return a cell as what it reads as: a number, true or false, or text."""
    try:
        return finite(text, "")
    except Unfit:
        return _WORDS.get(text.lower(), text)


def _time(text: str) -> float:
    try:
        seconds: float | None = float(text)
    except ValueError:
        seconds = None
    if seconds is not None:
        return finite(seconds, "time")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Unfit(f"time: {text!r} is no time") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _candidates(text: str) -> list[str]:
    if not text.startswith("["):
        return text.split()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise Unfit("candidates: must be ids with blanks between, or a JSON list of them")
    return found
