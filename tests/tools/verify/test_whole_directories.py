"""A directory with every kind of bandit and report is found good."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_a_whole_directory_is_found_good(copy, specs):
    report = copy.verify()
    assert report.to_json()["num_problems"] == 0
    assert {check.bandit for check in report.checks} == {None, *specs} - {"photos"}
    models = {check.bandit: check for check in report.checks if check.name == "model"}
    for name, check in models.items():
        assert check.notes == []
        if name != "uniform":
            assert check.difference is not None
            assert check.difference <= 1e-8
    assert models["linear"].compared == "rows applied to older snapshots: 2 to 3, 3 to 4"
    assert models["neural"].compared == "rebuilt from the log: 2, 3, 4"
