"""The table of Personalizer's calls: what each answers in each generation of its API.

A call that is not offered says so: 403 OperationNotAllowed. The rules behind the calls have tests
of their own: ranking, retries, ids (test_rank), slots (test_multislot), settings and modes
(test_configuration), errors (test_errors), clients (test_sdks, test_node_sdks).
"""

from __future__ import annotations

from typing import Any, Literal

import pytest

from tests.http.personalizer.conftest import ACTIONS, error_of

Generation = Literal["v1.0", "v1.1", "2022"]
ROOTS: dict[Generation, str] = {
    "v1.0": "/personalizer/v1.0{}", "v1.1": "/personalizer/v1.1-preview.2{}",
    "2022": "/personalizer{}?api-version=2022-09-01-preview",
}  # fmt: skip
ALL: tuple[Generation, ...] = ("v1.0", "v1.1", "2022")
LATER: tuple[Generation, ...] = ("v1.1", "2022")
NOT_OFFERED = 403
RANK = {"actions": ACTIONS}
SLOTS = RANK | {"slots": [{"id": "s", "baselineAction": "soup"}]}
EVALUATION = {"name": "e", "startTime": "2026-01-01T00:00:00Z", "endTime": "2026-02-01T00:00:00Z"}
CONFIGURED = {
    "rewardWaitTime": "PT10M", "defaultReward": 0, "rewardAggregation": "earliest",
    "explorationPercentage": 0.02, "modelExportFrequency": "PT5M", "logRetentionDays": 90,
    "modelRetrainDays": 2, "learningMode": "Online", "logMirrorEnabled": False,
    "isAutoOptimizationEnabled": True, "autoOptimizationFrequency": "P28D",
}  # fmt: skip
# Method, path, the generations that have it, the answer, and the body that is sent.
CALLS: list[tuple[str, str, tuple[Generation, ...], int, Any]] = [
    ("POST", "/rank", ALL, 201, RANK),
    ("POST", "/events/e/reward", ALL, 204, {"value": 1}),
    ("POST", "/events/e/activate", ALL, 204, None),
    ("POST", "/multislot/rank", LATER, 201, SLOTS),
    ("POST", "/multislot/events/e/reward", LATER, 204, {"reward": [{"slotId": "s", "value": 1}]}),
    ("POST", "/multislot/events/e/activate", LATER, 204, None),
    ("GET", "/configurations/service", ALL, 200, None),
    ("PUT", "/configurations/service", ALL, 200, CONFIGURED),
    ("GET", "/configurations/policy", ALL, NOT_OFFERED, None),
    ("PUT", "/configurations/policy", ALL, NOT_OFFERED, {"name": "p", "arguments": "--epsilon 0"}),
    ("DELETE", "/configurations/policy", ALL, NOT_OFFERED, None),
    ("POST", "/configurations/applyFromEvaluation", ALL, NOT_OFFERED, {"evaluationId": "e"}),
    ("GET", "/model", ALL, NOT_OFFERED, None),
    ("PUT", "/model", LATER, NOT_OFFERED, b"model"),
    ("DELETE", "/model", ALL, 204, None),
    ("GET", "/model/properties", ALL, 200, None),
    ("GET", "/logs/properties", ALL, NOT_OFFERED, None),
    ("DELETE", "/logs", ALL, NOT_OFFERED, None),
    ("POST", "/logs/interactions", LATER, NOT_OFFERED, b"x"),
    ("POST", "/logs/observations", LATER, NOT_OFFERED, b"x"),
    ("GET", "/metrics/learning", ("v1.0",), NOT_OFFERED, None),
    ("GET", "/evaluations", ALL, NOT_OFFERED, None),
    ("POST", "/evaluations", ("v1.0", "v1.1"), NOT_OFFERED, EVALUATION),
    ("GET", "/evaluations/e", ALL, NOT_OFFERED, None),
    ("DELETE", "/evaluations/e", ("v1.0", "v1.1"), NOT_OFFERED, None),
    ("PUT", "/evaluations/e", ("2022",), NOT_OFFERED, EVALUATION),
    ("PUT", "/featureImportances/f", ("2022",), NOT_OFFERED, EVALUATION),
    ("GET", "/featureImportances/f", ("2022",), NOT_OFFERED, None),
    ("DELETE", "/featureImportances/f", ("2022",), NOT_OFFERED, None),
    ("GET", "/featureImportances", ("2022",), NOT_OFFERED, None),
]
ROWS = [(*call, generation) for call in CALLS for generation in ALL]


@pytest.mark.parametrize(
    ("method", "path", "known", "status", "body", "generation"),
    ROWS,
    ids=[f"{row[0]} {row[1]} {row[5]}" for row in ROWS],
)
def test_each_call_answers_as_it_should(
    personalizer, method, path, known, status, body, generation
) -> None:
    answer = personalizer.send(method, ROOTS[generation].format(path), body)
    if generation not in known:
        assert answer.status_code in (403, 404, 405)
        error_of(answer)
        return
    assert answer.status_code == status, answer.text
    if status == NOT_OFFERED:
        error = error_of(answer)
        assert error["code"] == "OperationNotAllowed"
        assert "is not offered here" in error["message"]
    elif status == 204:
        assert answer.content == b""
        assert "content-type" not in answer.headers
    else:
        assert answer.headers["content-type"].startswith("application/json")
        assert "error" not in answer.json()
