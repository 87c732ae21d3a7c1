"""The proof of slow peers in its short form."""

from __future__ import annotations

import json

import pytest

from benchmarks.proofs.slow_peers import main


@pytest.mark.slow
def test_a_good_client_is_served_beside_more_slow_peers_than_there_are_files(tmp_path) -> None:
    report = tmp_path / "slow_peers.json"
    limits = ["--peers", "500", "--files", "400", "--hold-s", "1"]
    kinds = ["--kinds", "half heads", "slow bodies"]
    assert main([*limits, *kinds, "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["opened: half heads"] >= 200
    assert results["opened: slow bodies"] >= 200
    assert results["answered"] > 0
