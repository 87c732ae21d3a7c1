"""Bodies of the call that imports decisions, decoded by type."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bandexa_core.spec import MAX_METRICS
from service.http.arrays import ActionFeatures
from service.http.schemas.decide import Array, Body, Candidates, Id, Items, Problem
from service.serving.inputs import MAX_SIZE

Probability = Annotated[float, Meta(gt=0.0, le=1.0)]
Value = Annotated[float, Meta(ge=-MAX_SIZE, le=MAX_SIZE)]
ImportedMetrics = Annotated[
    dict[str, Value],
    Meta(
        min_length=1, max_length=MAX_METRICS,
        description="In place of `value`: what it earned, of a bandit with `rewards.learn`.",
    ),
]  # fmt: skip
SourceId = Annotated[
    str, Meta(min_length=1, max_length=256, description="Its id where it was made; any text.")
]


class ImportedAction(Body, frozen=True, kw_only=True):
    """A chosen action of a decision that chose several."""

    id: Id
    features: (
        Annotated[
            ActionFeatures,
            Meta(description="Those that it had then; none: those of the candidate."),
        ]
        | None
    ) = None
    propensity: Annotated[Probability, Meta(description="That it stands at its place.")] | None = (
        None
    )
    value: Annotated[Value, Meta(description="What it earned.")] | None = None
    metrics: ImportedMetrics | None = None


class ImportItem(Body, frozen=True, kw_only=True):
    """A decision that was made elsewhere."""

    id: SourceId
    context: Array
    time: (
        Annotated[
            float,
            Meta(ge=0.0, le=1e11, description="Seconds since the epoch; none: now."),
        ]
        | None
    ) = None
    delay: Annotated[
        float, Meta(ge=0.0, le=1e11, description="Seconds from the decision to its value.")
    ] = 0.0
    candidates: Candidates | None = None
    action: Annotated[Id, Meta(description="The chosen action.")] | None = None
    action_features: (
        Annotated[
            ActionFeatures,
            Meta(description="Those that it had then; none: those of the candidate."),
        ]
        | None
    ) = None
    value: Annotated[Value, Meta(description="What it earned; none: nothing is known.")] | None = (
        None
    )
    metrics: ImportedMetrics | None = None
    actions: (
        Annotated[
            list[ImportedAction],
            Meta(
                min_length=1, max_length=1000,
                description="All chosen actions, best first, in place of `action`.",
            ),
        ]
        | None
    ) = None  # fmt: skip
    propensity: (
        Annotated[
            Probability,
            Meta(description="Of the (first) chosen action; none: it is not known."),
        ]
        | None
    ) = None
    propensities: (
        Annotated[
            dict[str, Annotated[float, Meta(ge=0.0, le=1.0)]],
            Meta(description="Those of the candidates, by id."),
        ]
        | None
    ) = None


class ImportRequest(Body, frozen=True, kw_only=True):
    """Up to 1000 decisions that were made elsewhere; each succeeds or fails on its own."""

    items: Items
    source: Annotated[
        str, Meta(max_length=256, description="Of which log the ids are: others differ.")
    ] = ""
    logged: Annotated[
        bool,
        Meta(
            description="The objects are of an export: a digest in place of a personal value is not"
            " hashed again."
        ),
    ] = False
    dry_run: Annotated[bool, Meta(description="Store nothing: check each, by itself.")] = False


class ImportAnswer(msgspec.Struct, frozen=True, gc=False):
    """What became of a decision; `updated`: it was there, and its value came or changed."""

    status: Literal["imported", "updated", "duplicate"]
    decision_id: Annotated[str, Meta(description="Its id here.")]


class ImportedItem(msgspec.Struct, frozen=True):
    """One answer of an import: `answer` with code 200, else `error`."""

    code: int
    answer: ImportAnswer | None = None
    error: Problem | None = None


class ImportBatchAnswer(msgspec.Struct, frozen=True):
    """The answers, in the order of the items."""

    items: list[ImportedItem]
