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
from simulators.policies import PLANS, Knobs, bandit_spec

TUNED = Knobs(
    feature_dim=8,
    prior_var=2.0,
    train_every=10,
    optimizer_steps=5,
    batch_size=16,
    rebuild_chunk=64,
    action_chunk=32,
    warmup_random=7,
    buffer_backend="disk",
    disk_shard_size=128,
    disk_cache_shards=3,
    flush_every=20,
)


def environment_of(workload: str) -> Environment:
    if workload == "mnist":
        return MnistEnvironment(shipped_digits(), horizon=1)
    if workload == "two-tower":
        return TwoTowerEnvironment(horizon=1, num_actions=4, candidate_size=2)
    if workload == "wheel":
        return WheelEnvironment(horizon=1)
    return SyntheticEnvironment(horizon=1)


def spec(workload: str, policy: str, knobs: Knobs | None = None) -> dict[str, object]:
    plan = PLANS[workload][policy]
    return bandit_spec(plan, environment_of(workload), knobs or Knobs(), seed=3)


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
def test_without_knobs_a_body_says_only_what_the_problem_is(
    workload: str, context: object, action_dim: int, reward_range: list[float]
) -> None:
    """All that is left out is the service's own default; uniform needs nothing else at all."""
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


def test_all_knobs_reach_a_learned_policy() -> None:
    body = spec("synthetic", "neural_linear_ts", TUNED)
    assert body["encoder"] == {"name": "mlp", "params": {"feature_dim": 8}}
    assert body["posterior"] == {"prior_var": 2.0}
    assert body["selection"] == {"action_chunk": 32, "warmup_random": 7}
    assert body["training"] == {
        "mode": "lockstep",
        "train_every": 10,
        "optimizer_steps": 5,
        "batch_size": 16,
        "rebuild_chunk": 64,
    }
    assert body["replay"] == {
        "backend": "disk",
        "shard_size": 128,
        "cache_shards": 3,
        "flush_every": 20,
    }


def test_a_fixed_encoder_gets_the_knobs_of_posterior_and_selection_alone() -> None:
    body = spec("synthetic", "linear_ts", TUNED)
    assert body["encoder"] == {"name": "concat"}
    assert body["posterior"] == {"prior_var": 2.0}
    assert body["selection"] == {"action_chunk": 32, "warmup_random": 7}
    assert body["training"] == {"mode": "lockstep"}
    assert "replay" not in body


def test_uniform_ignores_every_knob() -> None:
    assert spec("synthetic", "uniform", TUNED) == spec("synthetic", "uniform")


def test_the_width_of_a_two_tower_encoder_is_that_of_a_tower() -> None:
    body = spec("two-tower", "neural_linear_ts", Knobs(feature_dim=8))
    assert body["encoder"] == {"name": "two_tower", "params": {"tower_dim": 8}}


@pytest.mark.parametrize("policy", ["neural_linear_ts", "greedy"])
def test_the_learned_encoder_of_the_wheel_has_a_head_per_action(policy: str) -> None:
    encoder = spec("wheel", policy)["encoder"]
    assert encoder == {"name": "mlp", "params": {"heads": "per_action"}}
    wider = spec("wheel", policy, Knobs(feature_dim=8))["encoder"]
    assert wider == {"name": "mlp", "params": {"heads": "per_action", "feature_dim": 8}}
    assert spec("wheel", policy, Knobs(encoder="mine"))["encoder"] == {"name": "mine"}


def test_a_registered_encoder_replaces_the_learned_one_only() -> None:
    knobs = Knobs(encoder="mine")
    assert spec("mnist", "neural_linear_ts", knobs)["encoder"] == {"name": "mine"}
    assert spec("mnist", "linear_ts", knobs)["encoder"] == {"name": "per_action"}


def test_weights_go_to_the_learned_encoder_alone() -> None:
    knobs = Knobs(encoder="resnet18", weights="imagenet", feature_dim=8)
    expected = {"name": "resnet18", "params": {"weights": "imagenet", "feature_dim": 8}}
    assert spec("mnist", "greedy", knobs)["encoder"] == expected
    assert spec("mnist", "linear_ts", knobs)["encoder"] == {"name": "per_action"}


@pytest.mark.parametrize("policy", ["linear_ts", "neural_linear_ts", "uniform"])
def test_live_runs_train_in_the_background(policy: str) -> None:
    assert spec("synthetic", policy, Knobs(live=True))["training"] == {"mode": "background"}
