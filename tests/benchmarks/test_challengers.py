"""The proof of challengers in its short form, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from benchmarks.in_process import InProcessClient
from benchmarks.proofs.challengers import (
    CHAMPION,
    CONTEXTS,
    EQUAL,
    IDS,
    OFTEN,
    PLAIN,
    PRODUCTS,
    SMALL,
    SUMS,
    main,
    world,
    worlds,
)
from benchmarks.proofs.finite_worlds import LinearHeads
from service.tools.evaluate.cases import Case, Changes
from service.tools.evaluate.learner import Learner


@pytest.mark.slow
def test_an_equal_challenger_is_not_found_better(tmp_path: Path) -> None:
    file = tmp_path / "challengers.json"
    short = [
        "--better",
        "0",
        "--many",
        "0",
        "--equal",
        "60",
        "--equal-decisions",
        "1500",
        "--no-server",
    ]
    assert main([*short, "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    assert results["equal: worlds"] == 60
    assert results["equal: found better"] <= 1


@pytest.mark.slow
def test_lifts_of_many_worlds_center_on_the_truth() -> None:
    """What learns the products of context and action earns .05 more than what does not."""
    better = worlds(CHAMPION | SUMS, PLAIN, 40, 4000, means=SMALL, rare=OFTEN)
    lifts = [each.lift for each in better]
    error = np.std(lifts, ddof=1) / np.sqrt(len(lifts))
    assert abs(np.mean(lifts) - 0.05) < 3.0 * error + 0.01  # it has to learn first
    assert np.mean(lifts) > 3.0 * error
    assert sum(each.low < 0.05 < each.high for each in better) >= 38


def test_posteriors_in_closed_form_are_those_that_are_served() -> None:
    spec = InProcessClient("closed", CHAMPION | PLAIN | {"seed": 0}, IDS, np.eye(3)).model.spec
    actions, rng = np.eye(3, dtype=np.float32), np.random.default_rng(3)
    heads = LinearHeads(spec, CONTEXTS, actions, 1)
    learner = Learner("served", spec, EncoderRegistry())
    rows = zip(IDS, actions.tolist(), strict=True)
    learner.change(Changes([{"id": n, "enabled": True, "features": row} for n, row in rows]))

    def case(number: int, kind: int, chosen: int, value: float) -> Case:
        context = CONTEXTS[kind].tolist()
        return Case(f"d{number}", 0.0, context, IDS, None, False, chosen, 0.5, None, value)

    for start, size in ((0, 3), (3, 70), (73, 200)):
        kinds, chosen = rng.integers(2, size=size), rng.integers(3, size=size)
        values = (rng.random(size) < 0.3 + 0.1 * chosen * kinds).astype(float)
        heads.learn((kinds * 3 + chosen)[None], values[None])
        learner.learn([
            case(start + row, int(kinds[row]), int(chosen[row]), float(values[row]))
            for row in range(size)
        ])  # fmt: skip
        laws = heads.laws()
        for kind in (0, 1):
            expected = learner.means(case(10**6, kind, 0, 0.0))
            assert expected is not None
            np.testing.assert_allclose(
                laws.mean[0, kind] + heads.center_R[0], expected, rtol=1e-9, atol=1e-12
            )
    for kind in (0, 1):
        asked = range(10**6, 10**6 + 1500)
        served = np.array([learner.chances(case(number, kind, 0, 0.0)) for number in asked])
        _, chances = heads.ballots(laws, np.full((1, len(served)), kind), rng)
        apart = chances[0].mean(axis=0) - served.mean(axis=0)
        errors = np.sqrt((chances[0].var(axis=0) + served.var(axis=0)) / len(served))
        assert (np.abs(apart) < 4.0 * errors + 1e-12).all()
        np.testing.assert_allclose(chances[0].std(axis=0), served.std(axis=0), rtol=0.15)


@pytest.mark.slow
def test_the_estimate_of_a_better_one_has_its_lift_in_its_interval() -> None:
    """One world of so many decisions says no more: `worlds` has what 40 say together."""
    better = world(CHAMPION, PRODUCTS, 0, 2500)
    assert better.low < 0.05 < better.high < 0.2
    equal = world(CHAMPION | PRODUCTS, EQUAL, 0, 1500)
    assert equal.low < 0.0 < equal.high
