"""The proof of intervals in its short form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.proofs.evaluation import main, open_bandit


@pytest.mark.slow
def test_intervals_hold_in_a_few_short_logs(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    few = ["--runs", "20", "--rows", "300", "--wide", "1", "--worlds", "3"]
    assert main([*few, "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert results["learning log, effect 0.1, normal: ever missed"] > 0.2
    assert results["lift: covered"] == 3


def test_logs_of_two_policies_say_each_others_value(tmp_path: Path) -> None:
    """Files like those of the Open Bandit data: three items, one position; item 2 earns most."""
    rng = np.random.default_rng(0)
    for policy, chances in (("random", [1 / 3] * 3), ("bts", [0.2, 0.2, 0.6])):
        for campaign in ("all", "men", "women"):
            lines = ["item_id,position,click,propensity_score"]
            for item in rng.choice(3, size=1500, p=chances):
                click = rng.random() < [0.1, 0.1, 0.3][item]
                lines.append(f"{item},1,{int(click)},{chances[item]}")
            folder = tmp_path / policy / campaign
            folder.mkdir(parents=True)
            (folder / f"{campaign}.csv").write_text("\n".join(lines))
    found, wrong = open_bandit(tmp_path)
    assert not wrong
    assert all(figures["average one"] for figures in found.values())
