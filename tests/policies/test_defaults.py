"""A configuration that names no policy, or no encoder, and rewards in any range."""

from __future__ import annotations

from typing import Any

import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.policies.defaults import resolved
from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec, EncoderSpec
from benchmarks.peers.ours import PER_ACTION, policy
from benchmarks.peers.play import figures, play
from benchmarks.peers.problems import PROBLEMS

HEADS = {"heads": "per_action"}
IMAGE = ContextSpec(shape=(28, 28), dtype="uint8")
WIDE = ContextSpec(shape=(4, 5))
NAMED = ContextSpec(features="auto")
OFFERS = ActionsSpec(features="auto")


@pytest.mark.parametrize(
    ("given", "name", "encoder", "params"),
    [
        ({}, "neural_linear_ts", "mlp", HEADS),
        ({"action_dim": 2}, "neural_linear_ts", "two_tower", {}),
        ({"action_dim": 3}, "neural_linear_ts", "mlp", {}),
        ({"context": NAMED}, "neural_linear_ts", "mlp", HEADS),
        ({"context": NAMED, "actions": OFFERS}, "neural_linear_ts", "kernel", {}),
        ({"context": NAMED, "action_dim": 2}, "neural_linear_ts", "two_tower", {}),
        ({"policy": "linear_ts", "context": NAMED}, "linear_ts", "crosses", {}),
        (
            {"policy": "linear_ts", "context": NAMED, "actions": OFFERS},
            "linear_ts",
            "crosses",
            {},
        ),
        (
            {"encoder": EncoderSpec(name="crosses"), "context": NAMED, "actions": OFFERS},
            "linear_ts",
            "crosses",
            {},
        ),
        ({"context": IMAGE}, "neural_linear_ts", "conv", {}),
        ({"context": ContextSpec(shape=(2, 2), dtype="uint8")}, "neural_linear_ts", "mlp", HEADS),
        ({"policy": "neural_linear_ts"}, "neural_linear_ts", "mlp", HEADS),
        ({"policy": "linear_ts"}, "linear_ts", "per_action", {}),
        ({"policy": "linear_ts", "action_dim": 2}, "linear_ts", "bilinear", {}),
        ({"policy": "linear_ts", "action_dim": 85}, "linear_ts", "concat", {}),
        ({"policy": "greedy", "context": WIDE, "action_dim": 20}, "greedy", "interactions", {}),
        ({"policy": "greedy"}, "greedy", "per_action", {}),
        ({"encoder": EncoderSpec(name="bilinear"), "action_dim": 2}, "linear_ts", "bilinear", {}),
        ({"encoder": EncoderSpec(name="two_tower")}, "neural_linear_ts", "two_tower", {}),
    ],
)
def test_what_is_left_out_follows_from_the_shape(
    given: dict[str, Any], name: str, encoder: str, params: dict[str, Any]
) -> None:
    spec = BanditSpec(**{"context": ContextSpec(shape=(3,))} | given)
    found = resolved(spec, EncoderRegistry().is_learned)
    assert (found.policy, found.encoder.name, found.encoder.params) == (name, encoder, params)
    assert resolved(found, EncoderRegistry().is_learned) == found


@pytest.mark.parametrize(
    "problem",
    [
        "range-1000",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("range-.95", "range-.001")),
    ],
)
def test_rewards_in_any_range_are_learned_without_declaring_it(problem: str, tmp_path: Any) -> None:
    stream = PROBLEMS[problem].stream(1, 800, tmp_path)
    make = policy("linear_ts", PER_ACTION)
    found = figures(stream, play(make(stream, problem, 1), stream))
    assert found["best_share"] >= 0.9
