"""The JSON schemas of all bodies that are decoded by type, for the OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from service.http.schemas.catalogue import ActionsRequest
from service.http.schemas.decide import (
    ID_PATTERN,
    WHOLE_ID,
    ActivateAnswer,
    ActivateRequest,
    Problem,
    RewardAnswer,
    RewardBatch,
    RewardBatchAnswer,
    RewardRequest,
    ScoreAnswer,
    ScoreRequest,
    SelectAnswer,
    SelectBatch,
    SelectBatchAnswer,
    SelectRequest,
)
from service.http.schemas.importing import ImportBatchAnswer, ImportItem, ImportRequest

REFERENCE = "#/components/schemas/{name}"
BATCHES = (
    ("SelectBatch", "SelectRequest"), ("RewardBatch", "RewardRequest"),
    ("ImportRequest", "ImportItem"),
)  # fmt: skip


def components() -> dict[str, Any]:
    """Return the JSON schemas by name."""
    kinds = (
        SelectRequest, SelectAnswer, RewardRequest, RewardAnswer, ActivateRequest, ActivateAnswer,
        SelectBatch, SelectBatchAnswer, RewardBatch, RewardBatchAnswer, ScoreRequest, ScoreAnswer,
        ActionsRequest, ImportRequest, ImportItem, ImportBatchAnswer, Problem,
    )  # fmt: skip
    _, found = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    for batch, item in BATCHES:
        found[batch]["properties"]["items"]["items"] = {"$ref": REFERENCE.format(name=item)}
    readable: dict[str, Any] = json.loads(
        json.dumps(found).replace(json.dumps(WHOLE_ID), json.dumps(ID_PATTERN))
    )
    return readable
