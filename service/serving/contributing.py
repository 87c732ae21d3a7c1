"""What each named feature added to what was expected of a decision's action.

The model is asked again without one field at a time, as if the request had lacked it. What the mean
loses is what the field added. Products of fields are in both of them, so that the parts need not
add up to the mean.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId
from bandexa_core.model import ServingModel
from bandexa_core.policies import LinearHead
from bandexa_core.policies.named_inputs import object_of, padded
from bandexa_core.schema.objects import flatten, to_bytes
from service.store.objects import action_row, context_row
from service.store.records import DecisionRecord

MAX_FIELDS = 40  # of a side; the first ones by name


class Contribution(NamedTuple):
    """What a field added to the posterior mean of the chosen action.

    Attributes:
        side: Whether it is of the context or of the action.
        path: The field.
        value: What it was in this decision, as the log has it.
        added: The mean less that without the field.
    """

    side: Literal["context", "action"]
    path: str
    value: Any
    added: float


def contributions(model: ServingModel, record: DecisionRecord) -> tuple[Contribution, ...]:
    """Return what the fields of the context and of the first chosen action added, most first.

    Nothing where neither has named features, or the policy expects nothing.
    """
    spec, chosen = model.spec, record.chosen[0]
    if not isinstance(model.policy, LinearHead) or not spec.has_named_features:
        return ()
    context = context_row(spec.context, record.context)
    action = action_row(spec.actions, chosen.features)

    def mean(x: NDArray[Any], a: NDArray[Any]) -> float:
        offered = model.inline_candidates([ActionId(chosen.id)], a[None])
        return float(model.policy.score(x, offered)[0][0])

    whole = mean(context, action)
    found = []
    if spec.context.features is not None:
        for path, value, row in _without(context):
            found.append(Contribution("context", path, value, whole - mean(row, action)))
    if spec.actions.features is not None:
        for path, value, row in _without(action):
            found.append(Contribution("action", path, value, whole - mean(context, row)))
    return tuple(sorted(found, key=lambda each: -abs(each.added)))


def _without(row: NDArray[Any]) -> list[tuple[str, Any, NDArray[np.uint8]]]:
    """Return each field with its value, and the row without it."""
    fields, size = flatten(object_of(row)), len(row)
    return [
        (path, fields[path], padded(to_bytes({k: v for k, v in fields.items() if k != path}), size))
        for path in list(fields)[:MAX_FIELDS]
    ]
