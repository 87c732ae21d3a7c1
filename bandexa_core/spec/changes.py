"""What becomes of a configuration: of a new bandit's, and of a change of one that is known.

Each key of a bandit belongs to one of three parts. The fixed part stays as it was; the relearned
part is learned anew from the log, in a round; the changeable part holds at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from bandexa_core.spec.arms import ArmSpec
from bandexa_core.spec.bandit import EDITION, BanditSpec, PolicyName
from bandexa_core.spec.encoder import AUTO, EncoderSpec
from bandexa_core.spec.inputs import ActionsSpec, ContextSpec
from bandexa_core.spec.rewards import RewardSpec
from bandexa_core.spec.selection import DRAWS

ARM_KEYS = frozenset({"arms", "sticky", "guard", "mode", "serve"})
SIDES = ("context", "actions")
MAX_BYTES = "max_bytes"  # of both sides: the part of a config row that has them
# The keys that a change takes at once; others have to be relearned from the log.
CHANGEABLE = frozenset(
    {"training", "replay", "selection", "rewards", "limits", "segment"} | ARM_KEYS
)


def completed_spec(
    spec: BanditSpec, seed: int, known: BanditSpec | None = None, given: Collection[str] = ()
) -> BanditSpec:
    """Return the spec of a new bandit, or of a change of a `known` one.

    What may be left out, and is a value of its own from the creation on, is filled in. `given`:
    the keys that a change names, so that a `reward_range` of null is not one that is left out.

    Raises:
        ValueError: The reward rules do not fit each other.
    """
    spec.rewards.check_learn()
    if known is None:
        if any(arm.challenger is not None for arm in spec.arms):
            raise ValueError("arms: a new bandit has no challengers")
        edition = EDITION if spec.edition is None else spec.edition
        return replace(
            spec,
            seed=seed if spec.seed is None else spec.seed,
            edition=edition,
            mode=spec.mode or "learn",
            limits=spec.limits or {},
            rewards=spec.rewards if edition == 1 else _new_rewards(spec),
            selection=spec.selection.completed(DRAWS),
        )
    edition = (known.edition or EDITION) if spec.edition is None else spec.edition
    arms = _completed_arms(spec, known)
    bounds = spec.reward_range
    if bounds is None and "reward_range" not in given:
        bounds = known.reward_range
    policy, encoder = _completed_policy(spec, known)
    return replace(
        spec,
        policy=policy,
        encoder=encoder,
        rewards=_completed_rewards(spec, known, edition),
        selection=spec.selection.completed(known.selection.version),
        seed=known.seed if spec.seed is None else spec.seed,
        edition=edition,
        reward_range=bounds,
        arms=arms,
        mode=spec.mode or known.mode,
        serve=known.serve if spec.mode is None and spec.serve is None else spec.serve,
        limits=known.limits if spec.limits is None else spec.limits,
    )


def _completed_arms(spec: BanditSpec, known: BanditSpec) -> tuple[ArmSpec, ...]:
    """Return the arms of a change: a configuration neither makes nor ends those of challengers.

    Raises:
        ValueError: It would make one.
    """
    trials = tuple(arm for arm in known.arms if arm.challenger is not None)
    names = {arm.name for arm in trials}
    for number, arm in enumerate(spec.arms):
        if arm.challenger is not None and arm.name not in names:
            raise ValueError(
                f"arms.{number}.challenger: is made by promoting a challenger, not by a"
                " configuration"
            )
    return (*(arm for arm in spec.arms if arm.challenger is None), *trials)


def _completed_policy(spec: BanditSpec, known: BanditSpec) -> tuple[PolicyName | None, EncoderSpec]:
    """Return policy and encoder of a change; None and "auto": they follow from the other one.

    A change of one of them, without a word on the other, leaves the other to its default.
    """
    policy, encoder = spec.policy, spec.encoder
    if encoder == EncoderSpec():
        same = policy in (None, known.policy)
        return (known.policy, known.encoder) if same else (policy, encoder)
    if encoder.name == AUTO and not encoder.params and policy in (None, known.policy):
        return known.policy, replace(known.encoder, standardize=encoder.standardize)
    if policy is None and encoder.name == known.encoder.name:
        policy = known.policy
    return policy, encoder


def _new_rewards(spec: BanditSpec) -> RewardSpec:
    rewards = spec.rewards.matured()
    return replace(rewards, outside="clip") if rewards.outside is None else rewards


def _completed_rewards(spec: BanditSpec, known: BanditSpec, edition: int) -> RewardSpec:
    rewards, before = spec.rewards, known.rewards
    if rewards.outside is None:
        rewards = replace(rewards, outside=before.outside)
    if edition == 1:  # it has no other maturity than "report", which goes without saying
        return replace(rewards, maturity=None) if rewards.maturity == "report" else rewards
    return _maturity_as_before(rewards, before).matured()


def _maturity_as_before(rewards: RewardSpec, before: RewardSpec) -> RewardSpec:
    """Return rules with the maturity of those before, where they leave it out.

    With a default_reward that comes or goes, or without a window, it follows from the rules.
    """
    derived = (rewards.default_reward is None) != (before.default_reward is None)
    waits = before.waits and rewards.reward_window_s is None
    if rewards.maturity is not None or derived or waits:
        return rewards
    try:
        return replace(rewards, maturity=before.maturity)
    except ValueError as error:  # seconds that are longer than another window
        raise ValueError(f"rewards.{error}") from error


def fixed_part(spec: BanditSpec) -> dict[str, Any]:
    """Return what the log cannot answer for another value of: the form of what it stores."""
    return {
        "context": _stored_form(spec.context) | {"dtype": spec.context.dtype},
        "action_dim": spec.action_dim,
        "actions": _stored_form(spec.actions),
    }


def relearned_part(spec: BanditSpec) -> dict[str, Any]:
    """Return the sections that a model learns under, as JSON-able values."""
    whole = dataclasses.asdict(spec)
    relearned = {key: value for key, value in whole.items() if key not in CHANGEABLE}
    for side in SIDES:  # a limit of requests: no model depends on it
        del relearned[side]["max_bytes"]
    rewards = spec.rewards
    outside = "clip" if rewards.outside == "clip" else None
    return relearned | {"rewards": {"learn": rewards.learn, "outside": outside}}


def changeable_part(spec: BanditSpec) -> dict[str, Any]:
    """Return the sections that a change takes at once, as JSON-able values."""
    whole = dataclasses.asdict(spec)
    del whole["rewards"]["learn"]  # what is learned of the log's metrics is learned anew
    found = {key: whole[key] for key in sorted(CHANGEABLE)}
    if spec.has_named_features:
        found[MAX_BYTES] = {side: whole[side]["max_bytes"] for side in SIDES}
    return found


def _stored_form(side: ContextSpec | ActionsSpec) -> dict[str, Any]:
    """Return in which form the log has contexts or actions, apart from the type of numbers."""
    form: dict[str, Any] = {"features": "named" if side.features is not None else None}
    if isinstance(side, ContextSpec):
        form["shape"] = side.shape
    return form
