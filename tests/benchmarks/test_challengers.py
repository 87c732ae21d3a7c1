"""The proof of challengers in its short form, without a server."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.proofs.challengers import CHAMPION, EQUAL, PRODUCTS, main, world


def test_an_equal_challenger_is_not_found_better(tmp_path: Path) -> None:
    file = tmp_path / "challengers.json"
    short = ["--better", "0", "--equal", "3", "--equal-decisions", "1200", "--no-server"]
    assert main([*short, "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert (results["equal: worlds"], results["equal: found better"]) == (3, 0)


def test_the_estimate_of_a_better_one_has_its_lift_in_its_interval() -> None:
    better = world(CHAMPION, PRODUCTS, 0, 2500)
    assert better.low < 0.05 < better.high
    assert better.lift > 0.0
    equal = world(CHAMPION | PRODUCTS, EQUAL, 0, 1500)
    assert equal.low < 0.0 < equal.high
