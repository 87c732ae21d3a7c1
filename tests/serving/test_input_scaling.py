"""Standardised inputs over HTTP: linear bandits' first rounds, and scores by the closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fixtures.waiting import poll

Array64 = NDArray[np.float64]
PRIOR_VAR, NOISE_VAR, NOISE_SHAPE = 2.0, 0.25, 1.5
POSTERIOR = {
    "prior_var": PRIOR_VAR,
    "noise_var": NOISE_VAR,
    "noise_shape": NOISE_SHAPE,
    "prior_mean": 0.5,
}
# An age in days and a share: numbers that float32 holds exactly, far from zero and from one.
CONTEXTS = np.array([[11_000.0 + 37 * (n % 11), (n * n % 7) / 1024] for n in range(64)])
FEATURES = {"x": [100.0, 0.5], "y": [140.0, -0.25], "z": [90.0, 1.5]}
ACTIONS = ["xyz"[n * n % 3 if n % 2 else 2] for n in range(64)]
REWARDS = (np.arange(64) * 5 % 9) / 8
PROBE = [11_111.0, 3 / 1024]


def _standardised(raw: Any, by: Any) -> Array64:
    values, rows = np.asarray(raw, np.float64), np.asarray(by, np.float64)
    scaled: Array64 = (values - rows.mean(axis=0)) / rows.std(axis=0)
    return scaled


def _closed_form(z_ND: Array64, r_N: Array64, probe_KD: Array64) -> tuple[Array64, Array64]:
    """Return mean and standard deviation of z.w, as a book on Bayesian regression has them.

    The prior expects 1/2.
    """
    r_N = r_N - 0.5
    precision = z_ND.T @ z_ND + NOISE_VAR / PRIOR_VAR * np.eye(z_ND.shape[1])
    mean = np.linalg.solve(precision, z_ND.T @ r_N)
    spread = np.einsum("kd,kd->k", probe_KD, np.linalg.solve(precision, probe_KD.T).T)
    a = NOISE_SHAPE + len(r_N) / 2
    b = NOISE_SHAPE * NOISE_VAR + (r_N @ r_N - mean @ precision @ mean) / 2
    return probe_KD @ mean + 0.5, np.sqrt(b / (a - 1) * spread)


def _pairs(contexts: Array64, actions: Array64) -> Array64:
    """z of `interactions`."""
    ones = np.ones((len(contexts), 1))
    return np.concatenate([contexts, actions, contexts * actions, ones], axis=1)


def _expected(
    num: int, scaled_by: int | None, offered: list[list[float]]
) -> tuple[Array64, Array64]:
    """Return the scores of `num` learned rows, standardised by the first `scaled_by` of them.

    With 0 of them the actions are, by the catalogue; None: nothing is.
    """
    contexts, probe = CONTEXTS[:num], np.repeat([PROBE], len(offered), axis=0)
    catalogue = list(FEATURES.values())
    actions, candidates = np.array([FEATURES[a] for a in ACTIONS[:num]]), np.array(offered)
    if scaled_by:
        by = CONTEXTS[:scaled_by]
        contexts, probe = _standardised(contexts, by), _standardised(probe, by)
    if scaled_by is not None:
        actions, candidates = _standardised(actions, catalogue), _standardised(offered, catalogue)
    return _closed_form(_pairs(contexts, actions), REWARDS[:num], _pairs(probe, candidates))


def _assert_scores(api, name: str, num: int, scaled_by: int | None, precision: float) -> None:
    """Check the catalogue's scores, and those of candidates that bring their features."""
    inline = [{"id": "new", "features": [77.0, 0.125]}, {"id": "x", "features": [91.0, 2.0]}]
    for sent, offered in (
        (None, list(FEATURES.values())),
        (inline, [[77.0, 0.125], [91.0, 2.0]]),
    ):
        rows = api.scores(name, PROBE, sent)["scores"]
        means, stds = _expected(num, scaled_by, offered)
        np.testing.assert_allclose([row["mean"] for row in rows], means, rtol=precision)
        np.testing.assert_allclose([row["std"] for row in rows], stds, rtol=precision)


def _bandit(api, **more: Any) -> str:
    name: str = api.bandit(
        list(FEATURES), list(FEATURES.values()), encoder={"name": "interactions"},
        posterior=POSTERIOR, **more,
    )  # fmt: skip
    return name


def _teach(api, name: str, first: int, end: int) -> None:
    for n in range(first, end):
        api.teach(name, CONTEXTS[n].tolist(), ACTIONS[n], float(REWARDS[n]))


def _wait_for(api, name: str, snapshot: int) -> None:
    poll(lambda: api.state(name)["snapshot"] >= snapshot, f"snapshot {snapshot}")


def test_the_first_rounds_come_at_8_16_and_32_learned_values_and_scores_are_exact(api) -> None:
    name = _bandit(api)
    _teach(api, name, 0, 7)
    assert api.state(name)["snapshot"] == 0
    _assert_scores(api, name, 7, 0, 1e-6)
    done = 7
    for snapshot, due in enumerate((8, 16, 32, 64), start=1):
        _teach(api, name, done, due - 1)
        assert api.state(name)["snapshot"] == snapshot - 1
        _teach(api, name, max(done, due - 1), due)
        _wait_for(api, name, snapshot)
        _assert_scores(api, name, due, due, 1e-6)
        done = due
    state = api.state(name)
    assert (state["num_learned"], state["train_due"]) == (64, False)


def test_in_lockstep_the_reward_that_doubles_the_data_says_that_a_round_is_due(api) -> None:
    name = _bandit(api, training={"mode": "lockstep"})
    due = []
    for n in range(64):
        decision = api.select(name, CONTEXTS[n].tolist(), candidates=[ACTIONS[n]])
        if api.reward(decision["decision_id"], float(REWARDS[n]))["train_due"]:
            due.append(n + 1)
            before = api.scores(name, PROBE)["scores"]
            api.train(name)
            assert api.scores(name, PROBE)["scores"] != before
            assert not api.state(name)["train_due"]
    assert due == [8, 16, 32, 64]
    _assert_scores(api, name, 64, 64, 1e-6)


def test_a_scaling_travels_with_its_snapshot_and_new_actions_come_under_it(api) -> None:
    name, copy = (_bandit(api, training={"mode": "lockstep"}) for _ in range(2))
    _teach(api, name, 0, 40)
    api.train(name)
    data = api.http.get(f"/bandits/{name}/snapshot").content
    assert api.http.put(f"/bandits/{copy}/snapshot", content=data).status_code == 200
    assert api.means(copy, PROBE) == pytest.approx(api.means(name, PROBE), rel=1e-12)
    for bandit in (name, copy):
        body = {"ids": ["late"], "features": [[77.0, 0.125]]}
        api.call("PUT", f"/bandits/{bandit}/actions", body)
        means, _ = _expected(40, 40, [[77.0, 0.125]])
        assert api.means(bandit, PROBE, ["late"]) == pytest.approx(means.tolist(), rel=1e-6)


def test_where_it_is_switched_off_no_round_is_due_and_a_round_changes_no_score(api) -> None:
    encoder = {"name": "interactions", "standardize": False}
    name = api.bandit(list(FEATURES), list(FEATURES.values()), encoder=encoder, posterior=POSTERIOR)
    _teach(api, name, 0, 40)
    assert api.state(name)["spec"]["encoder"]["standardize"] is False
    assert api.state(name)["train_due"] is False
    assert api.train(name)["snapshot"] == 1
    _assert_scores(api, name, 40, None, 1e-4)


def test_values_that_dwarf_all_seen_before_are_answered_and_learned(api) -> None:
    """The deviations are of 1e-30 when 1e20 comes; nothing overflows."""
    name = _bandit(api, training={"mode": "lockstep"}, context={"shape": [2], "dtype": "float64"})
    for n in range(32):
        api.teach(name, [n % 5 * 1e-30, -(n % 3) * 1e-30], ACTIONS[n], float(REWARDS[n]))
    api.train(name)
    huge = [1e20, -1e20]
    decision = api.select(name, huge)
    assert api.reward(decision["decision_id"], 1.0)["status"] == "applied"
    for means in (api.means(name, huge), api.means(name, [0.0, 0.0])):
        assert np.isfinite(means).all()
    for n in range(31):
        api.teach(name, [n % 5 * 1e-30, 0.0], ACTIONS[n], float(REWARDS[n]))
    assert api.train(name)["snapshot"] == 2
    assert np.isfinite(api.means(name, huge)).all()
