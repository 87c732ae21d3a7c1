"""Reads rewards from a CSV or Parquet file, some rows at once, however long the file is."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bandexa_client import RewardReport

KNOWN = ("decision_id", "reward", "reward_id", "action", "bandit")
METRIC = "metrics."  # begins the name of a column that has a metric
ROWS = 1000  # at once: a batch of the service has as many
INSTALL = "pip install 'bandexa[parquet]'"


class Unreadable(Exception):
    """A file that is no table of rewards; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the file.

    Attributes:
        line: Its line in a CSV file (the last one, where it has several); its number in a Parquet
            file, from 1.
        decision_id: As it stands there; "" where it is missing.
        report: What it reports; None where it is none.
        problem: Why it is none; "" where it is.
    """

    line: int
    decision_id: str
    report: RewardReport | None
    problem: str = ""


def read(path: Path, bandit: str | None) -> Iterator[Row]:
    """Yield the rows of a file; `.parquet` is Parquet, anything else CSV with a head.

    Args:
        path: The file.
        bandit: The bandit of rows that name none.

    Raises:
        Unreadable: It cannot be read, or lacks a column.
    """
    records = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    try:
        for line, record in records:
            yield _row(line, record, bandit)
    except FileNotFoundError as error:
        raise Unreadable(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: it is not in UTF-8 ({error.reason})") from error
    except (OSError, csv.Error) as error:
        raise Unreadable(f"{path}: {error}") from error


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from _csv_rows(path, file)


def _csv_rows(path: Path, file: IO[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    _check_columns(path, reader.fieldnames or ())
    for record in reader:
        if None in record:
            yield reader.line_num, {"problem": "it has more fields than the head"}
        else:
            yield reader.line_num, record


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise Unreadable(f"{path}: Parquet needs pyarrow ({INSTALL})") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, names)
            wanted = [name for name in names if name in KNOWN or name.startswith(METRIC)]
            for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except ArrowException as error:
        raise Unreadable(f"{path}: {error}") from error


def _check_columns(path: Path, names: Any) -> None:
    if "decision_id" not in names:
        raise Unreadable(f"{path}: the column 'decision_id' is missing; {_head(names)}")
    if "reward" not in names and not any(name.startswith(METRIC) for name in names):
        missing = "the column 'reward' is missing, or one like 'metrics.click'"
        raise Unreadable(f"{path}: {missing}; {_head(names)}")


def _head(names: Sequence[str]) -> str:
    """Return what a file has in its first line, and what is probably wrong with it."""
    if not names:
        return "it is empty"
    if len(names) == 1 and (found := re.search(r"[;\t|]", names[0])):
        mark = {";": "semicolons", "\t": "tabs", "|": "bars"}[found[0]]
        return f"its first line has {mark} between columns, which commas have to be"
    shown = ", ".join(repr(name[:40]) for name in names[:8])
    written = [name for name in names if name not in KNOWN and name.strip().lower() in KNOWN]
    hint = "; names are in small letters, without blanks" if written else ""
    return f"its first line, which names the columns, has {shown}{hint}"


def _row(line: int, record: Mapping[str, Any], bandit: str | None) -> Row:
    from bandexa_client import RewardReport

    texts = {name: _text(record.get(name)) for name in KNOWN if name != "reward"}
    decision_id = texts["decision_id"]
    problem = record.get("problem") or ("" if decision_id else "decision_id: it is missing")
    numbers, wrong = _numbers(record)
    problem = problem or wrong
    if problem:
        return Row(line, decision_id, None, problem)
    reward = numbers.pop("reward", None)
    metrics = {name.removeprefix(METRIC): number for name, number in numbers.items()}
    report = RewardReport(
        decision_id, reward, texts["reward_id"] or None, texts["action"] or None,
        texts["bandit"] or bandit, metrics or None,
    )  # fmt: skip
    return Row(line, decision_id, report)


def _numbers(record: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Return the reward and the metrics of a row, without empty cells, and what is wrong."""
    found: dict[str, float] = {}
    columns = [name for name in record if name and name.startswith(METRIC) and _text(record[name])]
    if _text(record.get("reward")) or not columns:
        columns.insert(0, "reward")
    for name in columns:
        number = _number(record.get(name))
        if number is None:
            given = record.get(name)
            return {}, f"{name}: it is missing" if not _text(given) else (
                f"{name}: {given!r} is no finite number{_comma(given)}"
            )
        found[name] = number
    return found, ""


def _comma(value: Any) -> str:
    """Return a hint where a number has a comma in place of a point."""
    is_one = isinstance(value, str) and _number(value.replace(",", ".", 1)) is not None
    return "; write a point, not a comma" if is_one else ""


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
