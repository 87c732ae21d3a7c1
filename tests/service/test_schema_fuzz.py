"""A short, seeded run of schemathesis: whatever is sent along the schema, no answer is a 5xx.

Every answer must also be one that the schema documents, in status, media type and shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import create_app
from service.settings import Settings

NUM_CASES = 12  # of each operation along the schema, and as many against it: about 300
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(create_app(Settings(data_dir=Path("unused"))).openapi())
OPERATIONS: dict[str, Any] = {}
for _found in SCHEMA.get_all_operations():
    assert isinstance(_found, Ok), _found
    OPERATIONS[_found.ok().label] = _found.ok()
# What takes neither parameters nor a body cannot be called against its schema.
RUNS = [
    pytest.param(label, mode, id=f"{label}-{mode.value}")
    for label, operation in OPERATIONS.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or "{" in label or operation.body
]


@pytest.fixture(scope="module")
def bandit(api) -> str:
    """A bandit that exists, for the cases that are given its name."""
    name: str = api.two_actions()
    api.select(name, [1, 2], decision_id=f"of-{name}")
    return name


def aimed(case: schemathesis.Case[Any], bandit: str) -> None:
    """Point a case at what exists, so that it gets further than 404."""
    if "name" in (case.path_parameters or {}) and case.method != "DELETE":
        case.path_parameters["name"] = bandit
    if isinstance(case.body, dict):
        if "bandit" in case.body:
            case.body["bandit"] = bandit
        if "decision_id" in case.body:
            case.body["decision_id"] = f"of-{bandit}"


@pytest.mark.parametrize(("label", "mode"), RUNS)
def test_no_request_along_or_against_the_schema_breaks_the_server(
    api, server, bandit: str, label: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[label]

    @seed(20)
    @settings(
        max_examples=NUM_CASES,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), aim=st.booleans())
    def send(case: schemathesis.Case[Any], aim: bool) -> None:
        if aim:
            aimed(case, bandit)
        response: Any = case.call(base_url=server.url, timeout=30)
        case.validate_response(response, checks=CHECKS)

    send()
    assert api.call("GET", "/readyz")["status"] == "ready"
