"""What a configuration cannot learn, whatever comes: said when it is put, and while it holds.

Everything else is a matter of the data, and a finding where the data show it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from bandexa_core.spec.bandit import BanditSpec
from bandexa_core.spec.inputs import ActionsSpec, ContextSpec

# Encoders that know an action by its features alone, unless their heads are "per_action".
BY_FEATURES = frozenset({"concat", "bilinear", "interactions", "crosses", "mlp", "two_tower"})


class Unlearnable(NamedTuple):
    """What cannot be learned under a configuration.

    Attributes:
        name: Whether it is which action suits which context, or which action is better at all.
        message: Why not, beginning with the key, and what helps.
    """

    name: Literal["context-ignored", "actions-alike"]
    message: str


def warnings_of(spec: BanditSpec) -> tuple[Unlearnable, ...]:
    """Return what keeps a bandit from learning which action is best, or for which context.

    The policy `uniform` learns nothing, and whoever names it wants that.
    """
    if spec.policy == "uniform":
        return ()
    found = []
    if (why := _why_ignored(spec)) is not None:
        found.append(Unlearnable("context-ignored", why))
    if (why := _why_alike(spec)) is not None:
        found.append(Unlearnable("actions-alike", why))
    return tuple(found)


def _why_ignored(spec: BanditSpec) -> str | None:
    """Return why the same action is the best for every context; None: it need not be."""
    encoder = spec.encoder
    if _has_no_input(spec.context):
        return (
            "context.features: no field is an input, so that the same action is the best for every"
            ' context; declare some, or add {"*": "auto"}'
        )
    if encoder.name == "concat":
        return (
            "encoder.name: concat adds up context and action, so that the same action is the best"
            " for every context; bilinear has their products, per_action a model for each action"
        )
    without = encoder.params.get("crosses") == "none" and spec.actions.features is not None
    if encoder.name == "crosses" and without:
        return (
            "encoder.params.crosses: without crosses, context and action are added up, so that the"
            ' same action is the best for every context; "auto" chooses some'
        )
    return None


def _why_alike(spec: BanditSpec) -> str | None:
    """Return why no action can look better than another one; None: one can."""
    encoder = spec.encoder
    if encoder.name not in BY_FEATURES or encoder.params.get("heads") == "per_action":
        return None
    if _has_no_input(spec.actions):
        return (
            "actions.features: no field is an input, so that all actions look alike; declare some,"
            ' or add {"*": "auto"}'
        )
    if encoder.name == "crosses" or spec.has_action_features:
        return None
    return (
        f"encoder.name: {encoder.name} knows actions by their features, and they have none, so that"
        " all actions look alike; per_action has a model for each action"
    )


def _has_no_input(side: ContextSpec | ActionsSpec) -> bool:
    """Whether all named features of a side are ignored, or dropped before a model sees them."""
    features = side.declared
    if features is None or features.auto:
        return False
    return all(known.most_inputs == 0 for known in features.learned.values())
