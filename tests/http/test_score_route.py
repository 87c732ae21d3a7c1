"""POST .../score against the textbook: the closed form after known rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

ROWS = [
    # context, action, reward: numbers that float32 holds exactly
    ([0.5, -1.0], "x", 0.75),
    ([1.5, 0.25], "y", -0.5),
    ([-2.0, 1.0], "x", 0.125),
    ([0.0, 0.5], "y", 1.0),
    ([1.0, 1.0], "x", 0.5),
]
FEATURES = {"x": [1.0, -0.5], "y": [0.25, 2.0]}
PROBE = [0.75, -1.25]
PRIOR_VAR, NOISE_VAR, NOISE_SHAPE = 2.0, 0.25, 1.5


def concat(x: Sequence[float], a: Sequence[float]) -> list[float]:
    return [*x, *a, 1.0]


def interactions(x: Sequence[float], a: Sequence[float]) -> list[float]:
    return [*x, *a, *(p * q for p, q in zip(x, a, strict=True)), 1.0]


def closed_form(
    z_ND: Any, r_N: Any, probe_KD: Any, noise: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return mean and standard deviation of z.w, as a book on Bayesian regression has them."""
    z, r, probe = np.atleast_2d(z_ND), np.asarray(r_N), np.asarray(probe_KD)
    dim = probe.shape[1]
    z = z.reshape(-1, dim)
    ridge = NOISE_VAR / PRIOR_VAR
    precision = z.T @ z + ridge * np.eye(dim)
    mean = np.linalg.solve(precision, z.T @ r)
    spread = np.einsum("kd,kd->k", probe, np.linalg.solve(precision, probe.T).T)
    if noise == "fixed":
        variance = NOISE_VAR
    else:
        a = NOISE_SHAPE + len(r) / 2
        b = NOISE_SHAPE * NOISE_VAR + (r @ r - mean @ precision @ mean) / 2
        variance = b / (a - 1)
    return probe @ mean, np.sqrt(variance * spread)


def spec(encoder: str, noise: str, **more: Any) -> dict[str, Any]:
    return {
        "encoder": {"name": encoder, "standardize": False}, "rewards": {"outside": "keep"},
        "posterior": {
            "prior_var": PRIOR_VAR, "noise": noise, "noise_var": NOISE_VAR,
            "noise_shape": NOISE_SHAPE,
        },
    } | more  # fmt: skip


@pytest.mark.parametrize("noise", ["nig", "fixed"])
@pytest.mark.parametrize("features", [concat, interactions], ids=["concat", "interactions"])
def test_scores_are_the_closed_form(api, noise: str, features: Any) -> None:
    name = api.bandit(list(FEATURES), list(FEATURES.values()), **spec(features.__name__, noise))
    for context, action, reward in ROWS:
        api.teach(name, context, action, reward)
    answer = api.scores(name, PROBE)
    means, stds = closed_form(
        [features(x, FEATURES[a]) for x, a, _ in ROWS],
        [reward for _, _, reward in ROWS],
        [features(PROBE, a) for a in FEATURES.values()],
        noise,
    )
    assert set(answer) == {"scores", "snapshot", "position"}
    assert [(row["id"], row["index"]) for row in answer["scores"]] == [("x", 0), ("y", 1)]
    np.testing.assert_allclose([row["mean"] for row in answer["scores"]], means, rtol=1e-10)
    np.testing.assert_allclose([row["std"] for row in answer["scores"]], stds, rtol=1e-10)


@pytest.mark.parametrize("noise", ["nig", "fixed"])
def test_per_action_posteriors_are_the_closed_form_of_each_actions_own_rows(
    api, noise: str
) -> None:
    name = api.bandit(["x", "y", "z"], action_dim=0, **spec("per_action", noise))
    for context, action, reward in ROWS:
        api.teach(name, context, action, reward)
    scores = {row["id"]: row for row in api.scores(name, PROBE)["scores"]}
    probe = [[*PROBE, 1.0]]
    own = {a: [(x, reward) for x, b, reward in ROWS if b == a] for a in "xyz"}
    laws = {
        action: closed_form(
            [[*x, 1.0] for x, _ in rows] or np.zeros((0, 3)), [r for _, r in rows], probe, noise
        )
        for action, rows in own.items()
    }
    if noise == "nig":  # all actions have one noise variance, of all their errors
        joint = np.zeros((len(ROWS), 9))
        for row, (x, action, _) in enumerate(ROWS):
            first = 3 * "xyz".index(action)
            joint[row, first : first + 3] = [*x, 1.0]
        probes = np.kron(np.eye(3), probe)
        means, stds = closed_form(joint, [reward for *_, reward in ROWS], probes, noise)
        laws = {a: (means[i : i + 1], stds[i : i + 1]) for i, a in enumerate("xyz")}
    for action, (means, stds) in laws.items():
        assert scores[action]["mean"] == pytest.approx(means[0], rel=1e-10, abs=1e-12)
        assert scores[action]["std"] == pytest.approx(stds[0], rel=1e-10)


def test_bytes_are_scaled_to_0_1(api) -> None:
    name = api.bandit(
        ["x"], action_dim=0, **spec("per_action", "fixed"),
        context={"shape": [2, 2], "dtype": "uint8"},
    )  # fmt: skip
    api.teach(name, [[0, 51], [102, 255]], "x", 1.0)
    means, stds = closed_form([[0, 0.2, 0.4, 1, 1]], [1.0], [[1, 1, 0, 0, 1]], "fixed")
    [row] = api.scores(name, [[255, 255], [0, 0]])["scores"]
    assert row["mean"] == pytest.approx(means[0], rel=1e-10)
    assert row["std"] == pytest.approx(stds[0], rel=1e-10)


def test_a_fresh_bandit_scores_the_prior(api) -> None:
    name = api.bandit(list(FEATURES), list(FEATURES.values()), **spec("concat", "fixed"))
    for row in api.scores(name, PROBE)["scores"]:
        z = np.array(concat(PROBE, FEATURES[row["id"]]))
        assert row["mean"] == 0.0
        assert row["std"] == pytest.approx(np.sqrt(PRIOR_VAR * (z @ z)), rel=1e-12)


def test_sent_candidates_are_scored_in_their_order(api) -> None:
    name = api.two_actions()
    api.teach(name, [1, 1], "x", 1.0)
    whole = {row["id"]: row for row in api.scores(name, PROBE)["scores"]}
    part = api.scores(name, PROBE, ["y", "x"])["scores"]
    assert [(row["id"], row["index"]) for row in part] == [("y", 0), ("x", 1)]
    for row in part:
        assert row["mean"] == pytest.approx(whole[row["id"]]["mean"], rel=1e-12)
        assert row["std"] == pytest.approx(whole[row["id"]]["std"], rel=1e-12)
    inline = [{"id": "new", "features": [0, 1]}, {"id": "x", "features": [1, 0]}]
    rows = api.scores(name, PROBE, inline)["scores"]
    assert [row["id"] for row in rows] == ["new", "x"]
    assert rows[0]["mean"] == pytest.approx(whole["y"]["mean"], rel=1e-12)
    assert rows[1]["mean"] == pytest.approx(whole["x"]["mean"], rel=1e-12)


def test_scoring_changes_nothing(api) -> None:
    name = api.two_actions()
    before = api.state(name)
    first = api.scores(name, PROBE)
    assert [api.scores(name, PROBE) for _ in range(3)] == [first] * 3
    assert api.state(name) == before
    assert first["position"] == before["position"]
    assert first["snapshot"] == before["snapshot"]


def test_a_convolutional_bandit_learns_each_action_separately(api) -> None:
    name = api.bandit(
        ["cat", "dog"], action_dim=0, policy="neural_linear_ts",
        context={"shape": [8, 8], "dtype": "uint8"},
        encoder={
            "name": "conv", "params": {"channels": [2], "hidden": 4, "feature_dim": 4},
        },
        training={"mode": "lockstep", "optimizer_steps": 5},
    )  # fmt: skip
    image = [[(row * column) % 256 for column in range(8)] for row in range(8)]
    assert api.means(name, image) == [0.0, 0.0]
    api.teach(name, image, "dog", 1.0)
    cat, dog = api.means(name, image)
    assert cat == 0.0
    assert dog > 0.3
    api.train(name)
    cat, dog = api.means(name, image)
    assert cat == 0.0
    assert dog > 0.3


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("context", {"context": [1]}),
        ("context", {"context": None}),
        ("candidates", {"candidates": []}),
        ("candidates", {"candidates": [{"id": "q", "features": [1]}]}),
        ("candidates.0", {"candidates": ["a b"]}),
        ("k", {"k": 1}),
    ],
)
def test_a_wrong_score_request_names_the_field(
    api, problem, field: str, change: dict[str, Any]
) -> None:
    name = api.two_actions()
    body = {"context": [1, 2]} | change
    response = api.http.post(f"/bandits/{name}/score", json=body)
    problem(response, 422, "invalid-request", field)


def test_score_of_unknown_bandits_and_actions_is_404(api, problem) -> None:
    body: dict[str, Any] = {"context": [1, 2]}
    path = f"/bandits/{api.fresh()}/score"
    problem(api.http.post(path, json=body), 404, "unknown-bandit")
    path = f"/bandits/{api.two_actions()}/score"
    body["candidates"] = ["zz"]
    problem(api.http.post(path, json=body), 404, "unknown-action")
