"""The bodies that create the bandits of a simulation."""

from __future__ import annotations

import pytest

from simulators.environments import (
    Environment,
    MnistEnvironment,
    SyntheticEnvironment,
    TwoTowerEnvironment,
    WheelEnvironment,
    shipped_digits,
)
from simulators.overrides import NO_OVERRIDES, Overrides
from simulators.policies import PLANS, bandit_spec, takes

TUNED = {
    "encoder.params.feature_dim": 8,
    "encoder.standardize": False,
    "posterior.prior_var": 2.0,
    "training.batch_size": 16,
    "training.rebuild_chunk": 64,
    "selection.warmup_random": 7,
    "replay.backend": "disk",
    "forgetting.half_life": 64.0,
    "reward_range": [0, 50],
}


def environment_of(workload: str) -> Environment:
    if workload == "mnist":
        return MnistEnvironment(shipped_digits(), horizon=1)
    if workload == "two-tower":
        return TwoTowerEnvironment(horizon=1, num_actions=4, candidate_size=2)
    if workload == "wheel":
        return WheelEnvironment(horizon=1)
    return SyntheticEnvironment(horizon=1)


def spec(workload: str, policy: str, overrides: Overrides = NO_OVERRIDES) -> dict[str, object]:
    environment = environment_of(workload)
    return bandit_spec(PLANS[workload][policy], environment, seed=3, overrides=overrides)


@pytest.mark.parametrize(
    ("workload", "policy", "encoder"),
    [
        ("synthetic", "linear_ts", "concat"),
        ("synthetic", "linear_ts_strong", "interactions"),
        ("synthetic", "neural_linear_ts", "mlp"),
        ("synthetic", "greedy", "mlp"),
        ("mnist", "linear_ts", "per_action"),
        ("mnist", "neural_linear_ts", "conv"),
        ("mnist", "greedy", "conv"),
        ("two-tower", "linear_ts", "concat"),
        ("two-tower", "linear_ts_strong", "interactions"),
        ("two-tower", "linear_ts_bilinear", "bilinear"),
        ("two-tower", "neural_linear_ts", "two_tower"),
        ("two-tower", "greedy", "two_tower"),
        ("wheel", "linear_ts", "per_action"),
    ],
)
def test_each_label_names_its_policy_and_encoder(workload: str, policy: str, encoder: str) -> None:
    body = spec(workload, policy)
    assert body["policy"] == policy.removesuffix("_strong").removesuffix("_bilinear")
    assert body["encoder"] == {"name": encoder}


@pytest.mark.parametrize(
    ("workload", "context", "action_dim", "reward_range"),
    [
        ("synthetic", {"shape": [16], "dtype": "float32"}, 16, [-1.0, 1.0]),
        ("mnist", {"shape": [28, 28], "dtype": "uint8"}, 0, [0.0, 1.0]),
        ("two-tower", {"shape": [32], "dtype": "float32"}, 32, [0.0, 1.0]),
        ("wheel", {"shape": [2], "dtype": "float32"}, 0, [0.0, 50.0]),
    ],
)
def test_without_settings_a_body_describes_the_problem_alone(
    workload: str, context: object, action_dim: int, reward_range: list[float]
) -> None:
    """The service fills in its defaults; uniform needs nothing else."""
    problem = {
        "context": context,
        "action_dim": action_dim,
        "training": {"mode": "lockstep"},
        "reward_range": reward_range,
        "seed": 3,
    }
    assert spec(workload, "uniform") == {"policy": "uniform", **problem}
    body = spec(workload, "neural_linear_ts")
    assert body == {
        "policy": "neural_linear_ts",
        "encoder": body["encoder"],
        **problem,
    }


def test_all_settings_reach_a_learned_policy() -> None:
    body = spec("synthetic", "neural_linear_ts", TUNED)
    assert body == {
        **spec("synthetic", "neural_linear_ts"),
        "encoder": {"name": "mlp", "params": {"feature_dim": 8}, "standardize": False},
        "posterior": {"prior_var": 2.0},
        "selection": {"warmup_random": 7},
        "training": {"mode": "lockstep", "batch_size": 16, "rebuild_chunk": 64},
        "replay": {"backend": "disk"},
        "forgetting": {"half_life": 64.0},
        "reward_range": [0, 50],
    }


def test_a_policy_with_fixed_features_gets_no_settings_of_learned_ones() -> None:
    body = spec("synthetic", "linear_ts", TUNED)
    assert body == {
        **spec("synthetic", "linear_ts"),
        "encoder": {"name": "concat", "standardize": False},
        "posterior": {"prior_var": 2.0},
        "selection": {"warmup_random": 7},
        "forgetting": {"half_life": 64.0},
        "reward_range": [0, 50],
    }


def test_uniform_takes_no_setting() -> None:
    assert spec("synthetic", "uniform", TUNED) == spec("synthetic", "uniform")


@pytest.mark.parametrize(
    ("policy", "key", "taken"),
    [
        ("greedy", "training.lr", True),
        ("greedy", "encoder.params.hidden", True),
        ("linear_ts", "training.lr", False),
        ("linear_ts", "encoder.name", False),
        ("linear_ts", "encoder.standardize", True),
        ("linear_ts", "posterior.noise", True),
        ("uniform", "posterior.noise", False),
    ],
)
def test_a_plan_says_which_settings_it_takes(policy: str, key: str, taken: bool) -> None:
    assert takes(PLANS["synthetic"][policy], key) is taken


@pytest.mark.parametrize("policy", ["neural_linear_ts", "greedy"])
def test_the_learned_encoder_of_the_wheel_has_a_head_per_action(policy: str) -> None:
    encoder = spec("wheel", policy)["encoder"]
    assert encoder == {"name": "mlp", "params": {"heads": "per_action"}}
    wider = spec("wheel", policy, {"encoder.params.feature_dim": 8})["encoder"]
    assert wider == {"name": "mlp", "params": {"heads": "per_action", "feature_dim": 8}}
    assert spec("wheel", policy, {"encoder.name": "mine"})["encoder"] == {"name": "mine"}
    assert spec("wheel", policy)["encoder"] == encoder


def test_a_registered_encoder_replaces_the_learned_one_only() -> None:
    overrides = {"encoder.name": "mine"}
    assert spec("mnist", "neural_linear_ts", overrides)["encoder"] == {"name": "mine"}
    assert spec("mnist", "linear_ts", overrides)["encoder"] == {"name": "per_action"}


@pytest.mark.parametrize("policy", ["linear_ts", "neural_linear_ts", "uniform"])
def test_live_runs_train_in_the_background(policy: str) -> None:
    plan, environment = PLANS["synthetic"][policy], environment_of("synthetic")
    assert bandit_spec(plan, environment, seed=3, live=True)["training"] == {"mode": "background"}
