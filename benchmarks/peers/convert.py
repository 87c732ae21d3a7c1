"""Converts the files of packages to the arrays of a table.

A classification table has `x` float32 (n, d), `y` int64 (n,), the names of the d columns and of the
K labels, and `objects` (n,): each row as JSON, by the names of the table's own columns. MovieLens
has `users` float32 (U, d), `items` float32 (M, A), `item_ids` (M,), and `ratings` int64 (N, 3):
user, item, stars.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.encoding import MISSING, Column, column, encode, labels
from benchmarks.peers.r_files import read_lazy, read_rda

Arrays = dict[str, NDArray[Any]]
Columns = dict[str, Column]
Files = Mapping[str, bytes]
"""Contents of a package's files by their names without folders."""
Convert = Callable[[Files], Arrays]


def classification(columns: Columns, target: str, *, logs: Collection[str] = ()) -> Arrays:
    """Return the table that predicts the column `target` from all others."""
    inputs = {name: values for name, values in columns.items() if name != target}
    x = encode(inputs, logs=logs)
    y, names = labels(columns[target])
    return {
        "x": x.values, "columns": np.array(x.names), "y": y, "labels": np.array(names),
        "objects": np.array(objects(inputs)),
    }  # fmt: skip


def objects(columns: Columns) -> list[bytes]:
    """Return the rows of a table as JSON, without what is missing, as a caller has them."""
    listed = [
        (name, values if isinstance(values, tuple) else values.tolist())
        for name, values in columns.items()
    ]
    rows = zip(*(values for _, values in listed), strict=True)
    return [
        json.dumps(
            {
                name: value
                for (name, _), value in zip(listed, row, strict=True)
                if value != MISSING and value == value  # NaN, which is missing, is not
            }
        ).encode()
        for row in rows
    ]


def mushroom(files: Files) -> Arrays:
    """Edible or poisonous, from 22 categories."""
    return classification(_columns(read_rda(files["Mushroom.rda"], "Mushroom")), "class")


def attrition(files: Files) -> Arrays:
    """Whether an employee leaves, from 30 columns."""
    columns = _columns(read_lazy(files["Rdata.rdx"], files["Rdata.rdb"], "attrition"))
    return classification(columns, "Attrition", logs=("MonthlyIncome",))


def credit(files: Files) -> Arrays:
    """Good or bad credit, from 13 columns with missing values."""
    columns = _columns(read_lazy(files["Rdata.rdx"], files["Rdata.rdb"], "credit_data"))
    return classification(columns, "Status", logs=("Income", "Assets", "Debt"))


def adult(files: Files) -> Arrays:
    """The occupation, one of 14, from the other 14 columns; rows without one are left out."""
    rows = _parquet(files["adult.parquet.brotli"])
    known = [place for place, value in enumerate(rows["occupation"]) if value != "?"]
    kept = {name: [values[place] for place in known] for name, values in rows.items()}
    logs = ("capital-gain", "capital-loss")
    return classification(_columns(kept), "occupation", logs=logs)


def phishing(files: Files) -> Arrays:
    """Whether a website is a phishing one, from nine numbers."""
    return classification(read_csv(gzip.decompress(files["phishing.csv.gz"])), "is_phishing")


def segments(files: Files) -> Arrays:
    """What a piece of an outdoor image shows, one of seven, from 18 numbers."""
    with zipfile.ZipFile(io.BytesIO(files["segment.csv.zip"])) as archive:
        content = archive.read(archive.namelist()[0])
    return classification(read_csv(content), "category")


def movielens(files: Files) -> Arrays:
    """100,000 ratings: age, gender and occupation of users, genres and year of films."""
    ratings = _parquet(files["MovieLens100k_data.parquet.brotli"])
    items = _parquet(files["MovieLens100k_items.parquet.brotli"])
    users = _parquet(files["MovieLens100k_users.parquet.brotli"])
    names = list(items)
    genres = [items[name] for name in names[names.index("unknown") :]]
    years = encode({"year": column(_year(date) for date in items["release_date"])})
    by_user = {name: row for row, name in enumerate(users["user_id"])}
    by_item = {name: row for row, name in enumerate(items["movie_id"])}
    described = {name: users[name] for name in ("age", "gender", "occupation")}
    columns = [
        [by_user[name] for name in ratings["user_id"]],
        [by_item[name] for name in ratings["movie_id"]],
        ratings["rating"],
    ]
    return {
        "users": encode(_columns(described)).values,
        "items": np.column_stack([np.array(genres).T, years.values[:, 0]]).astype(np.float32),
        "item_ids": np.array([f"film{name}" for name in items["movie_id"]]),
        "ratings": np.array(columns, np.int64).T,
    }


def read_csv(content: bytes) -> Columns:
    """Return the columns of a CSV file; one whose values are all numbers is one of numbers."""
    head, *rows = csv.reader(io.StringIO(content.decode()))
    found: Columns = {}
    for place, name in enumerate(head):
        texts = [row[place] for row in rows]
        try:
            found[name] = column(float(text) for text in texts)
        except ValueError:
            found[name] = column(texts)
    return found


def _year(date: str | None) -> int | None:
    """Return the year of a date such as 01-Jan-1995."""
    return int(date[-4:]) if date and date[-4:].isdigit() else None


def _columns(rows: Mapping[str, Any]) -> Columns:
    return {name: column(values) for name, values in rows.items()}


def _parquet(content: bytes) -> dict[str, list[Any]]:
    import pyarrow.parquet

    rows: dict[str, list[Any]] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
    return {name: rows[name] for name in rows if not name.startswith("__index")}
