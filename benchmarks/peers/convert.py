"""Converts the files of packages to the arrays of a table.

A classification table has `x` float32 (n, d), `y` int64 (n,), the names of the d columns and of the
K labels. MovieLens has `users` float32 (U, d), `items` float32 (M, A), `item_ids` (M,), and
`ratings` int64 (N, 3): user, item, stars.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.encoding import encode, labels
from benchmarks.peers.r_files import read_lazy, read_rda

Arrays = dict[str, NDArray[Any]]
Files = Mapping[str, bytes]
"""Contents of a package's files by their name without folders."""


def classification(frame: Any, target: str, *, logs: Collection[str] = ()) -> Arrays:
    """Return the table that predicts the column `target` from all others."""
    x = encode(frame.drop(columns=[target]), logs=logs)
    y, names = labels(frame[target])
    return {"x": x.values, "columns": np.array(x.names), "y": y, "labels": np.array(names)}


def mushroom(files: Files) -> Arrays:
    """Edible or poisonous, from 22 categories."""
    return classification(read_rda(files["Mushroom.rda"], "Mushroom"), "class")


def attrition(files: Files) -> Arrays:
    """Whether an employee leaves, from 30 columns."""
    logs = ("MonthlyIncome",)
    return classification(_lazy(files, "attrition"), "Attrition", logs=logs)


def credit(files: Files) -> Arrays:
    """Good or bad credit, from 13 columns with missing values."""
    logs = ("Income", "Assets", "Debt")
    return classification(_lazy(files, "credit_data"), "Status", logs=logs)


def adult(files: Files) -> Arrays:
    """The occupation, one of 14, from the other 14 columns; rows without one are left out."""
    frame = _parquet(files["adult.parquet.brotli"])
    known = frame[frame["occupation"] != "?"]
    return classification(known, "occupation", logs=("capital-gain", "capital-loss"))


def phishing(files: Files) -> Arrays:
    """Whether a website is a phishing one, from nine numbers."""
    import pandas

    content = io.BytesIO(files["phishing.csv.gz"])
    return classification(pandas.read_csv(content, compression="gzip"), "is_phishing")


def segments(files: Files) -> Arrays:
    """What a piece of an outdoor image shows, one of seven, from 18 numbers."""
    import pandas

    with zipfile.ZipFile(io.BytesIO(files["segment.csv.zip"])) as archive:
        frame = pandas.read_csv(io.BytesIO(archive.read(archive.namelist()[0])))
    return classification(frame, "category")


def movielens(files: Files) -> Arrays:
    """100,000 ratings: age, gender and occupation of users, genres and year of films."""
    import pandas

    ratings = _parquet(files["MovieLens100k_data.parquet.brotli"])
    items = _parquet(files["MovieLens100k_items.parquet.brotli"])
    users = _parquet(files["MovieLens100k_users.parquet.brotli"])
    genres = items.loc[:, "unknown":"Western"].to_numpy(np.float64)
    year = encode(pandas.DataFrame({"year": _years(items["release_date"])}))
    by_user = {int(name): row for row, name in enumerate(users["user_id"])}
    by_item = {int(name): row for row, name in enumerate(items["movie_id"])}
    return {
        "users": encode(users[["age", "gender", "occupation"]]).values,
        "items": np.concatenate([genres, year.values[:, :1]], axis=1).astype(np.float32),
        "item_ids": np.array([f"film{name}" for name in items["movie_id"]]),
        "ratings": np.stack(
            [
                [by_user[int(name)] for name in ratings["user_id"]],
                [by_item[int(name)] for name in ratings["movie_id"]],
                ratings["rating"].to_numpy(),
            ],
            axis=1,
        ).astype(np.int64),
    }


def _years(dates: Sequence[Any]) -> list[float]:
    return [float(str(date)[-4:]) if str(date)[-4:].isdigit() else np.nan for date in dates]


def _lazy(files: Files, name: str) -> Any:
    return read_lazy(files["Rdata.rdx"], files["Rdata.rdb"], name)


def _parquet(content: bytes) -> Any:
    import pandas

    return pandas.read_parquet(io.BytesIO(content))


Convert = Callable[[Files], Arrays]
