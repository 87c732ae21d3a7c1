"""Intervals of units with one draw hold, and those of all their decisions do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.proofs.lift import main
from benchmarks.proofs.units import Decision, challenger, decisions, value

RUNS = 12


@pytest.fixture(scope="module")
def logs() -> list[list[Decision]]:
    return [decisions(np.random.default_rng((3, seed)), 110, 30) for seed in range(RUNS)]


@pytest.mark.parametrize("interval", [value, challenger])
def test_an_interval_of_first_decisions_holds_and_one_of_all_does_not(interval, logs) -> None:
    firsts = [interval(made, firsts=True) for made in logs]
    every = [interval(made, firsts=False) for made in logs]
    assert sum(each.missed for each in firsts) == 0
    assert sum(each.missed for each in every) >= RUNS // 4
    assert all(one.width > other.width for one, other in zip(firsts, every, strict=True))


@pytest.mark.slow
def test_the_proof_of_units_in_its_short_form(tmp_path: Path) -> None:
    file = tmp_path / "units.json"
    assert main(["--units", "5", "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert results["lift, first of each unit: missed"] == 0.0
    assert results["lift, all: width"] < results["lift, first of each unit: width"]
