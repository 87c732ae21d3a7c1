"""Tables as bandits: the actions are a table's labels, and the right one pays 1, any other 0.

A seed draws the rows of the T steps: a permutation where the table has T rows, so that no row comes
twice. A row's context is the table's encoding (`encoding.py`), and the row itself as an object for
who takes objects; the label is not in it.

MovieLens: a step is a visit of a user who is offered 50 films that he has rated, and a film pays 1
if he gave it 4 or 5 stars. Every rating is offered once: the ratings of a user are shuffled and cut
into visits of 50, and what is left over is not used, so there are 1,528 visits of 568 users. Users
are described by age, gender and occupation, films by genres and year.
"""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np

from benchmarks.peers.convert import Arrays
from benchmarks.peers.stream import Stream

OFFERED = 50
_LIKED = 4


def classification_stream(table: Arrays, seed: int, horizon: int) -> Stream:
    """Return a classification table as a stream of at most `horizon` steps."""
    x, y, names = table["x"], table["y"], table["labels"]
    rows = np.random.default_rng(seed).permutation(len(x))[:horizon]
    right = np.zeros((len(rows), len(names)))
    right[np.arange(len(rows)), y[rows]] = 1.0
    return Stream(
        contexts=x[rows],
        action_ids=tuple(str(name) for name in names),
        means=right,
        rewards=right,
        objects=tuple(map(json.loads, table["objects"][rows])) if "objects" in table else None,
    )


def movielens_stream(table: Arrays, seed: int, horizon: int) -> Stream:
    """Return the visits as a stream of at most `horizon` steps."""
    ratings, rng = table["ratings"], np.random.default_rng(seed)
    ratings = ratings[rng.permutation(len(ratings))]
    ratings = ratings[np.argsort(ratings[:, 0], kind="stable")]
    starts = np.searchsorted(ratings[:, 0], np.arange(len(table["users"]) + 1))
    visits = np.array(
        [
            np.arange(first, first + OFFERED)
            for start, end in pairwise(starts.tolist())
            for first in range(start, end - OFFERED + 1, OFFERED)
        ]
    )
    visits = visits[rng.permutation(len(visits))[:horizon]]
    # The offered films of a visit are in the order of the catalogue.
    films = ratings[visits, 1]
    order = np.argsort(films, axis=1)
    visits = np.take_along_axis(visits, order, axis=1)
    liked = (ratings[visits, 2] >= _LIKED).astype(np.float64)
    return Stream(
        contexts=table["users"][ratings[visits[:, 0], 0]],
        action_ids=tuple(str(name) for name in table["item_ids"]),
        action_features=table["items"],
        means=liked,
        rewards=liked,
        offered=ratings[visits, 1],
    )
