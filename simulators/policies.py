"""The bandits that a workload compares, as bodies of PUT /bandits/{name}.

A label such as `linear_ts_strong` stands for one policy of the service with one encoder. A body
contains only the settings that were given, so the service's defaults apply to all others. Pure
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from simulators.environments import Environment
from simulators.environments.shop import WORLDS
from simulators.overrides import NO_OVERRIDES, Overrides, apply_overrides

_NO_PARAMETERS: Mapping[str, object] = MappingProxyType({})


class Plan(NamedTuple):
    """A policy of the service and its encoder on a workload; uniform has no encoder."""

    policy: str
    encoder: str | None
    parameters: Mapping[str, object] = _NO_PARAMETERS


def _plans(
    *,
    linear: str,
    neural: str,
    strong: Mapping[str, str],
    parameters: Mapping[str, object] = _NO_PARAMETERS,
) -> Mapping[str, Plan]:
    """Return the plans of a workload by label.

    Args:
        linear: fixed encoder of `linear_ts`.
        neural: learned encoder of `neural_linear_ts` and `greedy`.
        strong: further labels of `linear_ts` with their fixed encoders.
        parameters: parameters of the learned encoder.
    """
    return {
        "linear_ts": Plan("linear_ts", linear),
        **{label: Plan("linear_ts", encoder) for label, encoder in strong.items()},
        "neural_linear_ts": Plan("neural_linear_ts", neural, parameters),
        "greedy": Plan("greedy", neural, parameters),
        "uniform": Plan("uniform", None),
    }


_INTERACTIONS = {"linear_ts_strong": "interactions"}

PLANS: dict[str, Mapping[str, Plan]] = {
    "synthetic": _plans(linear="concat", strong=_INTERACTIONS, neural="mlp"),
    "mnist": _plans(linear="per_action", strong={}, neural="conv"),
    "two-tower": _plans(
        linear="concat",
        strong={**_INTERACTIONS, "linear_ts_bilinear": "bilinear"},
        neural="two_tower",
    ),
    "wheel": _plans(
        linear="per_action", strong={}, neural="mlp", parameters={"heads": "per_action"}
    ),
}

# Named features need a network, and the service chooses it.
_SHOP: Mapping[str, Plan] = {
    "neural_linear_ts": Plan("neural_linear_ts", "auto"),
    "greedy": Plan("greedy", "auto"),
    "uniform": Plan("uniform", None),
}
PLANS = PLANS | dict.fromkeys(WORLDS, _SHOP)

_LEARNED = ("neural_linear_ts", "greedy")

# The settings of a learned encoder and of its training.
_OF_LEARNED = ("encoder.name", "encoder.params", "training", "replay")


def takes(plan: Plan, key: str) -> bool:
    """Return whether a setting applies to a plan.

    Settings of training, replay and the learned encoder apply to policies with a learned encoder,
    all others to every policy but uniform.
    """
    if plan.encoder is None:
        return False
    learned = any(key == prefix or key.startswith(f"{prefix}.") for prefix in _OF_LEARNED)
    return plan.policy in _LEARNED or not learned


def shop_spec(
    plan: Plan, *, seed: int, live: bool = False, overrides: Overrides = NO_OVERRIDES
) -> dict[str, object]:
    """Return the body that creates the bandit of one run of a shop: nothing is declared."""
    spec: dict[str, object] = {
        "policy": plan.policy,
        "context": {"features": "auto"},
        "actions": {"features": "auto"},
        "training": {"mode": "background" if live else "lockstep"},
        "seed": seed,
    }
    apply_overrides(spec, {key: value for key, value in overrides.items() if takes(plan, key)})
    return spec


def bandit_spec(
    plan: Plan,
    environment: Environment,
    *,
    seed: int,
    live: bool = False,
    overrides: Overrides = NO_OVERRIDES,
) -> dict[str, object]:
    """Return the body that creates the bandit of one run.

    Args:
        plan: policy and encoder.
        environment: defines context, actions and reward range.
        seed: the seed of the bandit.
        live: train in the background; otherwise in lockstep, when the simulator requests it.
        overrides: settings of the bandit; the body contains those that apply to the plan.
    """
    features = environment.action_features
    spec: dict[str, object] = {
        "policy": plan.policy,
        "context": {
            "shape": list(environment.context_shape),
            "dtype": environment.context_dtype,
        },
        "action_dim": 0 if features is None else int(features.shape[1]),
        "training": {"mode": "background" if live else "lockstep"},
        "reward_range": list(environment.reward_range),
        "seed": seed,
    }
    if plan.encoder is not None:
        spec["encoder"] = {"name": plan.encoder}
        own = {key: value for key, value in overrides.items() if takes(plan, key)}
        # The plan's parameters belong to the plan's encoder alone.
        if plan.parameters and own.get("encoder.name", plan.encoder) == plan.encoder:
            spec["encoder"] = {"name": plan.encoder, "params": dict(plan.parameters)}
        apply_overrides(spec, own)
    return spec
