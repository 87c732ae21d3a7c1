"""The list of what Personalizer's users rely on is whole, and what no other test holds."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import service.http.personalizer
from service.http.personalizer import bodies
from service.http.personalizer.errors import CODES, INTERNAL, shaped
from service.http.personalizer.ranking import ranked
from service.http.problems import Refusal
from tests.fixtures.waiting import poll
from tests.http.personalizer.conftest import ACTIONS, Personalizer, error_of
from tests.http.personalizer.rows import NOT_OFFERED, ROWS, Part
from tests.http.personalizer.test_conformance import CALLS
from tests.http.personalizer.test_conformance import NOT_OFFERED as REFUSED

HERE = Path(__file__).parent
SERVICE = "/v1.1-preview.3/configurations/service"
BODIES: dict[Part, tuple[type[msgspec.Struct], ...]] = {
    "rank": (bodies.RankRequest, bodies.Action, bodies.RankAnswer, bodies.Ranked),
    "reward": (bodies.RewardRequest,),
    "slots": (
        bodies.MultiSlotRankRequest, bodies.Slot, bodies.MultiSlotRankAnswer, bodies.SlotAnswer,
        bodies.MultiSlotRewardRequest, bodies.SlotReward,
    ),
    "configuration": (bodies.ServiceConfiguration,),
}  # fmt: skip


# -- the list is whole --------------------------------------------------------------------------


def names_in(name: str) -> set[str]:
    parsed = ast.parse((HERE / name).read_text())
    return {each.name for each in parsed.body if isinstance(each, ast.FunctionDef)}


def test_each_row_is_held_by_a_test_or_says_why_not() -> None:
    known = {path.name: names_in(path.name) for path in HERE.glob("test_*.py")}
    assert len({(row.part, row.what) for row in ROWS}) == len(ROWS)
    assert {row.part for row in ROWS} == set(get_args(Part))
    for row in ROWS:
        named = [each.rstrip(",") for each in row.held.split() if ".py::" in each]
        assert named or row.held.startswith(("not offered: ", "not given: ")), row
        for each in named:
            file, _, test = each.partition("::")
            assert test in known[file], row


def test_each_call_has_a_row() -> None:
    rows = {row.what: row.held == NOT_OFFERED for row in ROWS if row.part == "calls"}
    assert rows == {f"{method} {path}": status == REFUSED for method, path, _, status, _ in CALLS}


@pytest.mark.parametrize("part", list(BODIES))
def test_each_field_of_a_body_has_a_row(personalizer, part: Part) -> None:
    fields = {each.encode_name for kind in BODIES[part] for each in msgspec.structs.fields(kind)}
    if part == "configuration":
        fields |= set(personalizer.call("GET", SERVICE))
    listed = {name for row in ROWS if row.part == part for name in row.fields}
    assert listed == fields


def test_each_code_that_is_given_has_a_row() -> None:
    given = {*CODES.values(), INTERNAL}
    for path in Path(service.http.personalizer.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Refused", "Served"):
                place = 0 if getattr(node.func, "id", "") == "Refused" else 1
                code = node.args[place]
                if isinstance(code, ast.Constant):
                    given.add(str(code.value))
    listed = {row.what: row.held for row in ROWS if row.part == "errors"}
    assert given <= set(listed), given - set(listed)
    assert not [code for code in given if listed[code].startswith("not given")]


# -- what no other test holds -------------------------------------------------------------------


@pytest.fixture
def own(start_server: Callable[..., Any]) -> Iterator[Personalizer]:
    """A server of its own, whose bandit exists."""
    flags = {f"BANDEXA_PERSONALIZER__{name}": "true" for name in ("ENABLED", "CREATE")}
    with start_server(env=flags).client() as http:
        calls = Personalizer(http)
        calls.rank(eventId="first")
        yield calls


def test_the_order_is_that_of_the_probabilities() -> None:
    chances = {"a": 0.1, "b": 0.6, "c": 0.3}
    found = ranked(["a", "x", "b", "c"], {"x"}, "a", chances)
    assert found == [("a", 0.1), ("x", 0.0), ("c", 0.3), ("b", 0.6)]
    assert [name for name, _ in ranked("abc", (), "b", chances)] == ["b", "c", "a"]


def test_what_is_learned_at_the_end_of_the_wait_time(own: Personalizer) -> None:
    before = own.call("GET", SERVICE)
    own.call("PUT", SERVICE, before | {"rewardWaitTime": "PT5S", "defaultReward": -0.5})
    own.rank(eventId="silent")
    own.rank(eventId="deferred", deferActivation=True)
    own.reward("deferred", 1)

    def closed() -> bool:
        return all(own.decision(name)["window_closed"] for name in ("silent", "deferred"))

    poll(closed, "the windows close")
    own.reward("silent", 1)
    (chosen,) = own.decision("silent")["chosen"]
    assert chosen["value"] == -0.5
    assert [each["status"] for each in chosen["rewards"]] == ["late"]
    (deferred,) = own.decision("deferred")["chosen"]
    assert deferred["value"] is None


def test_settings_that_are_not_there_are_answered_as_they_are_here(personalizer) -> None:
    before = personalizer.call("GET", SERVICE)
    asked = {
        "modelExportFrequency": "PT5M", "isAutoOptimizationEnabled": True,
        "isInferenceExplainabilityEnabled": True, "modelRetrainDays": 2,
        "autoOptimizationFrequency": "P28D", "autoOptimizationStartDate": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert personalizer.call("PUT", SERVICE, before | asked) == before
    assert before["modelExportFrequency"] == "PT1M"
    assert (before["isAutoOptimizationEnabled"], before["logMirrorSasUri"]) == (False, None)
    body = {"actions": ACTIONS}
    path = "/personalizer/rank?api-version=2022-09-01-preview"
    assert "inferenceExplanation" not in personalizer.send("POST", path, body).json()


def test_the_newest_generation_needs_the_days_of_retraining(personalizer) -> None:
    body = personalizer.call("GET", SERVICE)
    del body["modelRetrainDays"]
    assert personalizer.call("PUT", "/v1.0/configurations/service", body)
    newest = "/personalizer/configurations/service?api-version=2022-09-01-preview"
    refused = personalizer.send("PUT", newest, body)
    assert refused.status_code == 400
    error = error_of(refused)
    assert (error["code"], error["target"]) == ("InvalidServiceConfiguration", "modelRetrainDays")


def test_every_action_has_its_share_of_exploration(own: Personalizer) -> None:
    own.call("PUT", SERVICE, own.call("GET", SERVICE) | {"explorationPercentage": 0.6})
    answer = own.rank()
    assert min(each["probability"] for each in answer["ranking"]) >= 0.6 / len(ACTIONS) - 1e-12


def test_a_new_bandit_chooses_each_action_with_some_probability(own: Personalizer) -> None:
    chances = [each["propensity"] for each in own.decision("first")["candidates"]]
    assert sum(chances) == pytest.approx(1.0)
    assert min(chances) > 0.1  # draws of the prior, which knows no action from another


def test_a_wrong_id_of_an_event_to_activate(personalizer) -> None:
    root = f"/personalizer/v1.0/events/{'x' * 257}"
    for refused, code in (
        (personalizer.send("POST", f"{root}/activate"), "InvalidEventIdToActivate"),
        (personalizer.send("POST", f"{root}/reward", {"value": 1}), "InvalidRewardRequest"),
    ):
        assert refused.status_code == 400
        error = error_of(refused)
        assert (error["code"], error["target"]) == (code, "eventId")


@pytest.mark.parametrize(("status", "code"), [*CODES.items(), (500, INTERNAL), (507, INTERNAL)])
def test_each_status_has_a_code(status: int, code: str) -> None:
    """Some come from what is hard to bring about: a slow body, a full disk, a store that ended."""
    problem = json.dumps({"title": "wrong", "detail": "what is wrong"}).encode()
    found, named, body = shaped(Refusal(status, {}, problem), code)
    assert (found, named) == (status, code)
    assert json.loads(body)["error"] == {"code": code, "message": "what is wrong"}
