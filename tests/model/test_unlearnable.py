"""What a configuration cannot learn, whatever comes, is said by name, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec, EncoderSpec
from bandexa_core.spec.warnings import warnings_of

NUMBERS = ContextSpec(shape=(2,))
NAMED = ContextSpec(features="auto")
OFFERS = ActionsSpec(features="auto")
BLIND: dict[str, Any] = {"id": "ignore", "mail": {"type": "text", "log": "drop"}}


def linear(encoder: str, context: ContextSpec = NUMBERS, **more: Any) -> BanditSpec:
    params = more.pop("params", {})
    return BanditSpec(
        policy=more.pop("policy", "linear_ts"),
        context=context,
        encoder=EncoderSpec(name=encoder, params=params),
        **more,
    )


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (linear("concat", action_dim=2), {"context-ignored": "encoder.name: concat adds up"}),
        (
            linear("concat"),
            {
                "context-ignored": "encoder.name: concat adds up",
                "actions-alike": "encoder.name: concat knows actions by their features",
            },
        ),
        (linear("bilinear"), {"actions-alike": "encoder.name: bilinear knows actions by"}),
        (linear("bilinear", action_dim=2), {}),
        (linear("per_action"), {}),
        (linear("concat", policy="uniform"), {}),
        (linear("crosses", NAMED, actions=OFFERS), {}),
        (
            linear("crosses", NAMED, actions=OFFERS, params={"crosses": "none"}),
            {"context-ignored": "encoder.params.crosses: without crosses, context and action are"},
        ),
        (linear("crosses", NAMED, params={"crosses": "none"}), {}),
        (
            linear("crosses", ContextSpec(features=BLIND), actions=OFFERS),
            {"context-ignored": "context.features: no field is an input"},
        ),
        (linear("crosses", ContextSpec(features=BLIND | {"*": "auto"}), actions=OFFERS), {}),
        (linear("crosses", ContextSpec(features=BLIND | {"age": "number"}), actions=OFFERS), {}),
        (
            linear("crosses", NAMED, actions=ActionsSpec(features=BLIND)),
            {"actions-alike": "actions.features: no field is an input"},
        ),
        (
            linear("mlp", NAMED, actions=ActionsSpec(features=BLIND), policy="neural_linear_ts"),
            {"actions-alike": "actions.features: no field is an input"},
        ),
        (
            linear(
                "mlp", NAMED, actions=ActionsSpec(features=BLIND), policy="neural_linear_ts",
                params={"heads": "per_action"},
            ),
            {},
        ),
        (linear("kernel", NAMED, actions=ActionsSpec(features=BLIND), policy="greedy"), {}),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_named(spec: BanditSpec, found: dict[str, str]) -> None:
    warnings = warnings_of(spec)
    assert [each.name for each in warnings] == list(found)
    for each, message in zip(warnings, found.values(), strict=True):
        assert each.message.startswith(message)
