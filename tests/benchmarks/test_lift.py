"""The proof of the lift over a control in its short form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.proofs.lift import main


@pytest.mark.slow
def test_the_lift_of_a_learning_bandit_is_covered_in_twenty_worlds(tmp_path: Path) -> None:
    file = tmp_path / "lift.json"
    assert main(["--worlds", "20", "--rows", "500", "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert results["always covered"] >= 19
    assert 0.0 < results["true lift"] < 0.06
