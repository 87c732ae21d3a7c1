"""Mixed rows as a shop has them, with gaps, and values that they explain."""

from __future__ import annotations

import math
import random
from typing import Any

COUNTRIES = ("DE", "FR", "GB", "NL", "US")
WORDS = ("red", "blue", "shoes", "jeans", "tea", "lamp", "green", "sale")
TASTES = {"DE": 0.6, "FR": -0.4, "GB": 0.3, "NL": -0.7, "US": 0.1}


def rows(num: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return objects of eight mixed fields; a tenth of the ages is missing."""
    rng = random.Random(seed)
    found = []
    for _ in range(num):
        day, hour = rng.randint(1, 28), rng.randint(0, 23)
        row: dict[str, Any] = {
            "country": rng.choice(COUNTRIES),
            "age": round(rng.gauss(40.0, 12.0), 1),
            "basket": round(rng.lognormvariate(3.0, 1.2), 2),
            "member": rng.random() < 0.5,
            "query": " ".join(rng.choices(WORDS, k=4)),
            "at": f"2026-05-{day:02d}T{hour:02d}:10:00Z",
            "interests": rng.sample(("art", "food", "music", "sport"), 2),
            "user": {"id": f"u-{rng.randint(0, 2000)}"},
        }
        if rng.random() < 0.1:
            row["age"] = None
        found.append(row)
    return found


def value_of(row: dict[str, Any]) -> float:
    """Return what an object is worth: curves of numbers, effects of categories, words and hours."""
    age = row["age"]
    worth = TASTES[row["country"]]
    worth += -0.8 if age is None else math.cos((age - 40.0) / 8.0)
    worth += 0.5 * math.log(row["basket"] / 20.0)
    worth += 0.7 * ("sale" in row["query"].split()) + 0.4 * ("music" in row["interests"])
    return worth + 0.5 * math.sin(2.0 * math.pi * int(row["at"][11:13]) / 24.0)
