"""The bandit behind a resource of Personalizer: what a new one is, and its learning mode.

Personalizer's learning modes are the bandit's arms: in Apprentice and in LoggingOnly an arm that
serves the caller's own action decides everything, and its name says which of the two it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec, RewardSpec, SelectionSpec
from bandexa_core.spec.arms import ArmSpec, GuardSpec
from service.http.personalizer.errors import CODES, Refused
from service.http.personalizer.features import EVENT, SLOTS
from service.serving.engine import Engine
from service.serving.errors import UnknownBandit
from service.serving.inputs import NamedSide
from service.store.errors import InvalidRequest

LearningMode = Literal["Online", "Apprentice", "LoggingOnly"]
APPRENTICE, LOGGING = "apprentice", "logging_only"  # names of arms
_ARMS: dict[str, LearningMode] = {APPRENTICE: "Apprentice", LOGGING: "LoggingOnly"}
CONTEXT_BYTES, ACTION_BYTES = 8192, 4096
WAIT_S = 600.0  # Personalizer's default
NEW = BanditSpec(
    context=ContextSpec(
        features={"*": "namespaces", EVENT: "ignore", SLOTS: "ignore"}, max_bytes=CONTEXT_BYTES
    ),
    actions=ActionsSpec(features={"*": "namespaces"}, max_bytes=ACTION_BYTES),
    rewards=RewardSpec(aggregate="first", reward_window_s=WAIT_S, default_reward=0.0),
    selection=SelectionSpec(log_propensities="all"),
)


@dataclass(frozen=True, slots=True)
class Loop:
    """A bandit as the calls know it.

    Attributes:
        name: Its name.
        contexts, actions: What their named features may be.
        mode: Its learning mode.
        exists: Whether it is there; else it is what the first Rank creates.
    """

    name: str
    contexts: NamedSide
    actions: NamedSide
    mode: LearningMode
    exists: bool = True


def loop_of(engine: Engine, name: str) -> Loop:
    """Return the bandit of a caller.

    Raises:
        Refused: There is none.
        InvalidRequest: Its contexts or actions have no named features.
    """
    try:
        bandit = engine.bandit(name)
    except UnknownBandit as error:
        raise Refused(
            CODES[404],
            f"{error}: create it, or let the first Rank do so, with `create` in [personalizer]"
            " and, where there are keys, one with the scope admin",
            404,
        ) from error
    contexts, actions = bandit.contexts, bandit.actions
    if contexts is None or actions is None:
        raise InvalidRequest(
            "bandit",
            f"contexts and actions of the bandit {name!r} need named features: create it with"
            ' "features": {"*": "namespaces"} for both',
        )
    return Loop(name, contexts, actions, learning_mode(bandit.model.spec))


def new_loop(name: str) -> Loop:
    """Return what the first Rank creates."""
    contexts, actions = NamedSide.of(NEW.context, b""), NamedSide.of(NEW.actions, b"")
    assert contexts is not None, "they have names"
    assert actions is not None, "they have names"
    return Loop(name, contexts, actions, "Online", exists=False)


def learning_mode(spec: BanditSpec) -> LearningMode:
    """Return the learning mode of a bandit."""
    if spec.mode == "control_only" and spec.serve is None:
        return _ARMS.get(spec.guard.arm, "Online")
    return "Online"


def in_mode(spec: BanditSpec, mode: LearningMode) -> BanditSpec:
    """Return a configuration in a learning mode; arms of others stay."""
    arms = tuple(arm for arm in spec.arms if arm.name not in _ARMS)
    if mode == "Online":
        guard = GuardSpec() if spec.guard.arm in _ARMS else spec.guard
        return dataclasses.replace(spec, arms=arms, guard=guard, mode="learn", serve=None)
    name = APPRENTICE if mode == "Apprentice" else LOGGING
    arm = ArmSpec(name=name, share=0.0, policy="request")
    return dataclasses.replace(
        spec, arms=(*arms, arm), guard=GuardSpec(arm=name), mode="control_only", serve=None
    )
