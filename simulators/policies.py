"""Which bandits a workload compares, as bodies of PUT /bandits/{name}.

A label such as `linear_ts_strong` stands for one policy of the service with one encoder. A knob
that was not given is left out of the body, so that the service's own default rules. Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from simulators.environments import Environment

_NO_PARAMETERS: Mapping[str, object] = MappingProxyType({})


class Plan(NamedTuple):
    """A policy of the service and the encoder it uses on a workload; uniform needs none."""

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
        neural: learned encoder.
        strong: further labels of `linear_ts` with their fixed encoders.
        parameters: of the learned encoder.
    """
    return {
        "linear_ts": Plan("linear_ts", linear),
        **{label: Plan("linear_ts", encoder) for label, encoder in strong.items()},
        "neural_linear_ts": Plan("neural_linear_ts", neural, parameters),
        "greedy": Plan("greedy", neural, parameters),
        "uniform": Plan("uniform", None),
    }


_INTERACTIONS = {"linear_ts_strong": "interactions"}

PLANS: Mapping[str, Mapping[str, Plan]] = {
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

_LEARNED = ("neural_linear_ts", "greedy")

# What --feature-dim means to an encoder; others get it as `feature_dim`.
_WIDTH_PARAMETER = {"two_tower": "tower_dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Tuning of the bandits of a run; None leaves the service's own value."""

    live: bool = False
    encoder: str | None = None
    weights: str | None = None
    feature_dim: int | None = None
    prior_var: float | None = None
    train_every: int | None = None
    optimizer_steps: int | None = None
    batch_size: int | None = None
    rebuild_chunk: int | None = None
    action_chunk: int | None = None
    warmup_random: int | None = None
    half_life: float | None = None
    buffer_backend: str | None = None
    disk_shard_size: int | None = None
    disk_cache_shards: int | None = None
    flush_every: int | None = None


def bandit_spec(
    plan: Plan, environment: Environment, knobs: Knobs, *, seed: int
) -> dict[str, object]:
    """Return the body that creates the bandit of one run.

    Knobs of training, replay and the learned encoder go to policies that learn one; the prior,
    chunking and warm-up go to all that choose by a model.
    """
    features = environment.action_features
    training: dict[str, object] = {"mode": "background" if knobs.live else "lockstep"}
    spec: dict[str, object] = {
        "policy": plan.policy,
        "context": {
            "shape": list(environment.context_shape),
            "dtype": environment.context_dtype,
        },
        "action_dim": 0 if features is None else int(features.shape[1]),
        "training": training,
        "reward_range": list(environment.reward_range),
        "seed": seed,
    }
    if plan.encoder is None:
        return spec
    learned = plan.policy in _LEARNED
    spec["encoder"] = _encoder(plan, knobs) if learned else {"name": plan.encoder}
    groups: dict[str, dict[str, object]] = {
        "posterior": {"prior_var": knobs.prior_var},
        "selection": {"action_chunk": knobs.action_chunk, "warmup_random": knobs.warmup_random},
        "forgetting": {"half_life": knobs.half_life},
    }
    if learned:
        groups["training"] = training | {
            "train_every": knobs.train_every,
            "optimizer_steps": knobs.optimizer_steps,
            "batch_size": knobs.batch_size,
            "rebuild_chunk": knobs.rebuild_chunk,
        }
        groups["replay"] = {
            "backend": knobs.buffer_backend,
            "shard_size": knobs.disk_shard_size,
            "cache_shards": knobs.disk_cache_shards,
            "flush_every": knobs.flush_every,
        }
    for group, values in groups.items():
        given = {key: value for key, value in values.items() if value is not None}
        if given:
            spec[group] = given
    return spec


def _encoder(plan: Plan, knobs: Knobs) -> dict[str, object]:
    """Return the learned encoder of a plan; one that a knob names gets none of its parameters."""
    name = knobs.encoder or plan.encoder
    assert name is not None
    parameters = dict(plan.parameters) if name == plan.encoder else {}
    if knobs.weights is not None:
        parameters["weights"] = knobs.weights
    if knobs.feature_dim is not None:
        parameters[_WIDTH_PARAMETER.get(name, "feature_dim")] = knobs.feature_dim
    return {"name": name, "params": parameters} if parameters else {"name": name}
