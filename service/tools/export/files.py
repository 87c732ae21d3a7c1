"""Files of exported rows: JSON lines, Parquet, and VW's dsjson. A file is complete, or missing.

Each writer takes rows in order and holds at most a few thousand of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from service.tools.export.rows import Row

Format = Literal["jsonl", "parquet", "dsjson"]
FORMATS: tuple[Format, ...] = ("jsonl", "parquet", "dsjson")
_ROWS_OF_A_GROUP = 4096  # of a Parquet file that are held before they are written
BANDIT_KEY, ACTIONS_KEY = b"bandexa.bandit", b"bandexa.actions"


class Unwritable(ValueError):
    """The file cannot be written; the message says why."""


def write(rows: Iterable[Row], file: Path, kind: Format) -> int:
    """Write rows to a new file; returns how many decisions it has.

    It appears under its name once it is complete.

    Raises:
        Unwritable: It exists, Parquet needs pyarrow, or a row cannot be written so.
        OSError: The disk refuses.
    """
    if file.exists():
        raise Unwritable(f"{file} exists already")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            num = {"jsonl": _lines, "parquet": _parquet, "dsjson": _dsjson}[kind](rows, out)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(part, file)  # unlike a rename, it replaces no file that came meanwhile
        except FileExistsError:
            raise Unwritable(f"{file} exists already") from None
        except OSError:  # a file system without links
            part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return num


def lines(file: Path) -> Iterator[Row]:
    """Yield the rows of a file: of Parquet where its name ends in .parquet, else of JSON lines.

    Raises:
        ValueError: It is no export, or not complete.
        OSError: It cannot be read.
    """
    if file.suffix == ".parquet":
        yield from _read_parquet(file)
        return
    ended = False
    with file.open("rb") as source:
        for number, line in enumerate(source, 1):
            try:
                row = msgspec.json.decode(line)
                kind = row["kind"]
            except (msgspec.DecodeError, KeyError, TypeError):
                raise ValueError(f"{file}: line {number} is not of an export") from None
            if number == 1 and kind != "bandit":
                raise ValueError(f"{file}: its first line names no bandit")
            ended = kind == "end"
            yield row
    if not ended:
        raise ValueError(f"{file}: it is not complete: its last line is no end")


def _lines(rows: Iterable[Row], out: IO[bytes]) -> int:
    num = 0
    for row in rows:
        out.write(msgspec.json.encode(row) + b"\n")
        num += row["kind"] == "decision"
    return num


# -- Parquet --------------------------------------------------------------------------------------

_TEXT = (
    "context", "action_features", "features", "propensities", "rewards", "actions", "metrics",
    "shadows",
)  # fmt: skip


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Unwritable("Parquet needs pyarrow: pip install 'bandexa[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _parquet(rows: Iterable[Row], out: IO[bytes]) -> int:
    """Write a table of the decisions; what has no fixed shape is a column of JSON."""
    pa, parquet = _arrow()
    reward = pa.struct(
        [
            ("reward", pa.float64()), ("reward_id", pa.string()), ("time", pa.float64()),
            ("delay", pa.float64()), ("status", pa.string()), ("action", pa.string()),
            ("metrics", pa.string()),
        ]
    )  # fmt: skip
    schema = pa.schema(
        [
            ("row", pa.int64()), ("decision_id", pa.string()), ("time", pa.float64()),
            ("context", pa.string()), ("candidates", pa.list_(pa.string())),
            ("num_candidates", pa.int32()), ("retrieved_from", pa.int32()),
            ("features", pa.string()), ("action", pa.string()), ("index", pa.int32()),
            ("action_features", pa.string()), ("propensity", pa.float64()),
            ("propensities", pa.string()), ("value", pa.float64()), ("void", pa.bool_()),
            ("rewards", pa.list_(reward)), ("snapshot", pa.int64()), ("position", pa.int64()),
            ("explored", pa.bool_()), ("activated", pa.bool_()), ("closed", pa.float64()),
            ("actions", pa.string()), ("metrics", pa.string()), ("arm", pa.string()),
            ("served", pa.string()), ("shadows", pa.string()), ("first_of_unit", pa.bool_()),
        ]
    )  # fmt: skip
    names, num = set(schema.names), 0
    text = {name for name in _TEXT if schema.field(name).type == pa.string()}
    waiting: list[Row] = []
    changes: list[Row] = []
    with parquet.ParquetWriter(out, schema) as writer:
        for row in rows:
            if row["kind"] == "bandit":
                writer.add_key_value_metadata({BANDIT_KEY: msgspec.json.encode(row)})
            elif row["kind"] in ("actions", "configuration", "audit"):
                changes.append(row | {"before": num})
            elif row["kind"] == "decision":
                waiting.append(
                    {
                        key: msgspec.json.encode(value).decode()
                        if key in text and value is not None
                        else value
                        for key, value in row.items()
                        if key in names
                    }
                    | {"rewards": [_as_text(reward) for reward in row["rewards"]]}
                )
                num += 1
                if len(waiting) == _ROWS_OF_A_GROUP:
                    writer.write_table(pa.Table.from_pylist(waiting, schema))
                    waiting.clear()
        writer.write_table(pa.Table.from_pylist(waiting, schema))
        writer.add_key_value_metadata({ACTIONS_KEY: msgspec.json.encode(changes)})
    return num


def _as_text(reward: Row) -> Row:
    """Return a reward whose metrics, of any names, are JSON."""
    if "metrics" not in reward:
        return reward
    return reward | {"metrics": msgspec.json.encode(reward["metrics"]).decode()}


def _read_parquet(file: Path) -> Iterator[Row]:
    pa, parquet = _arrow()
    try:
        source = parquet.ParquetFile(file)
        known = source.metadata.metadata or {}
        header = msgspec.json.decode(known[BANDIT_KEY])
        changes = msgspec.json.decode(known[ACTIONS_KEY])
    except (pa.ArrowException, KeyError, msgspec.DecodeError):
        raise ValueError(f"{file}: it is no export") from None
    yield header
    text = [name for name in _TEXT if name != "rewards"]
    num, next_change = 0, 0
    with source:
        for batch in source.iter_batches(batch_size=_ROWS_OF_A_GROUP):
            for row in batch.to_pylist():
                while next_change < len(changes) and changes[next_change]["before"] <= num:
                    yield changes[next_change]
                    next_change += 1
                for name in text:
                    if row.get(name) is not None:  # earlier exports have no metrics
                        row[name] = json.loads(row[name])
                for name in ("arm", "served", "shadows", "first_of_unit"):  # not in all lines
                    if row.get(name) is None:
                        row.pop(name, None)
                for reward in row["rewards"] or ():
                    metrics = reward.pop("metrics", None)  # lines have none where none came
                    if metrics is not None:
                        reward["metrics"] = json.loads(metrics)
                yield {"kind": "decision"} | row
                num += 1
    yield from changes[next_change:]  # the audit trail stands behind all decisions
    yield {"kind": "end", "num_decisions": num}


# -- dsjson ---------------------------------------------------------------------------------------


def _dsjson(rows: Iterable[Row], out: IO[bytes]) -> int:
    """Write VW's decision service JSON, one decision a line: those that have a value.

    Costs are negative values. VW needs a probability of every candidate; where only that of the
    chosen one is known, the others share the rest equally, and `_label_probability` is exact.
    """
    known: dict[str, Row] = {}
    num = 0
    for row in rows:
        if row["kind"] == "actions":
            known |= {line["id"]: known.get(line["id"], {}) | line for line in row["actions"]}
        if row["kind"] != "decision" or row["value"] is None or not row["propensity"]:
            continue
        out.write(msgspec.json.encode(_dsjson_line(row, known)) + b"\n")
        num += 1
    return num


def _dsjson_line(row: Row, known: dict[str, Row]) -> Row:
    candidates = row["candidates"]
    if candidates is None:
        candidates = [name for name, line in known.items() if line["enabled"]]
    features = row.get("features") or [known.get(name, {}).get("features") for name in candidates]
    if row["action"] not in candidates:
        raise Unwritable(f"decision {row['decision_id']}: its action is not among its candidates")
    chosen = candidates.index(row["action"])
    order = [chosen, *(index for index in range(len(candidates)) if index != chosen)]
    all_of = row.get("propensities")
    rest = (1.0 - row["propensity"]) / max(1, len(candidates) - 1)
    chances = [
        all_of[candidates[index]] if all_of else row["propensity"] if index == chosen else rest
        for index in order
    ]
    context = row["context"]
    shared = context if isinstance(context, dict) and "data" not in context else {"x": context}
    multi = [
        {"_tag": name, "id": {name: 1}}
        | (each if isinstance(each, dict) else {} if each is None else {"f": each})
        for name, each in zip(candidates, features, strict=True)
    ]
    stamp = datetime.fromtimestamp(row["time"], UTC).isoformat().replace("+00:00", "Z")
    return {
        "_label_cost": -row["value"], "_label_probability": row["propensity"],
        "_label_Action": chosen + 1, "_labelIndex": chosen,
        "o": [{"EventId": row["decision_id"], "v": row["value"]}],
        "Timestamp": stamp, "Version": "1", "EventId": row["decision_id"],
        "a": [index + 1 for index in order], "c": shared | {"_multi": multi}, "p": chances,
    }  # fmt: skip
