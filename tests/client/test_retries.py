"""Both clients: what is sent again, with which ids, and when the fallback is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from bandexa_client import (
    NO_RETRY,
    ContractBroken,
    Invalid,
    NotFound,
    Rejected,
    Retry,
    RewardStatus,
    SelectRequest,
    ServiceFailed,
    ServiceUnavailable,
)
from tests.client.scripted import Connect, dripping

QUICK = Retry(attempts=3, first_wait_s=0.001, max_wait_s=0.002)
APPLIED = {"status": "applied", "train_due": False}
Call = Callable[..., Any]


@pytest.fixture
def call(connect: Connect) -> Call:
    """Call a method of either client by its name."""

    def named_call(url: str, method: str, *args: Any, retry: Retry = QUICK, **named: Any) -> Any:
        client = connect(url, retry=retry, timeout_s=5.0)
        return getattr(client, method)(*args, **named)

    return named_call


@pytest.mark.parametrize("status", [429, 503])
def test_a_select_is_sent_again_with_the_same_id(script, call, selected, status):
    script.then(status, {}).then_hang_up().then(200, selected)
    assert call(script.url, "select", "b", [1.0]).propensity == 0.25
    ids = [body["decision_id"] for body in script.bodies()]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert ids[0]


def test_two_selects_have_different_ids(script, call, selected):
    script.then(200, selected)
    for _ in range(2):
        call(script.url, "select", "b", [1.0])
    assert len({body["decision_id"] for body in script.bodies()}) == 2


def test_a_reward_is_sent_again_as_it_was(script, call):
    script.then(503, {}).then(200, APPLIED)
    assert call(script.url, "reward", "d", 1.0, reward_id="r").status == "applied"
    assert script.bodies() == [{"decision_id": "d", "reward": 1.0, "reward_id": "r"}] * 2


def test_attempts_are_bounded(script, call):
    script.then(503, {"detail": "full"})
    with pytest.raises(ServiceUnavailable, match="503 full"):
        call(script.url, "get_bandit", "b")
    assert len(script.requests) == 3


def test_no_retry_is_one_attempt_and_leaves_the_id_to_the_service(script, call):
    script.then(503, {})
    with pytest.raises(ServiceUnavailable):
        call(script.url, "select", "b", [1.0], retry=NO_RETRY)
    assert script.bodies() == [{"bandit": "b", "context": [1.0]}]


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, Rejected), (403, Rejected), (404, NotFound), (422, Invalid), (500, ServiceFailed)],
)
def test_a_refusal_is_final(script, call, status, error):
    script.then(status, {"detail": "no"})
    with pytest.raises(error):
        call(script.url, "select", "b", [1.0])
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("train", ("b",)), ("import_snapshot", ("b", b"{}")), ("delete_bandit", ("b",)),
     ("select_batch", ([SelectRequest("b", [1.0])],))],
)  # fmt: skip
def test_what_cannot_be_repeated_is_not(script, call, method, arguments):
    script.then(503, {})
    with pytest.raises(ServiceUnavailable):
        call(script.url, method, *arguments)
    assert len(script.requests) == 1


def test_a_batch_of_selects_with_ids_is_sent_again(script, call, selected):
    script.then(503, {}).then(200, {"items": [{"code": 200, "answer": selected}]})
    assert call(script.url, "select_batch", [SelectRequest("b", [1.0], decision_id="d")])
    assert len(script.requests) == 2


def test_the_service_says_how_long_to_wait(script, call, selected):
    script.then(503, {}, Retry_After="1").then(200, selected)
    started = time.monotonic()
    call(script.url, "select", "b", [1.0], retry=Retry(first_wait_s=0.001, max_wait_s=5.0))
    assert time.monotonic() - started >= 1.0


def test_a_select_ends_within_its_limit(script, call):
    script.then(503, {}, Retry_After="60")
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        call(
            script.url, "select", "b", [1.0], within_s=0.3,
            retry=Retry(attempts=50, max_wait_s=60.0),
        )  # fmt: skip
    assert time.monotonic() - started < 30.0
    assert len(script.requests) == 1, "a pause that would use up the limit is not begun"


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_dripping_answer_does_not_exceed_the_limit(call, part):
    """Each byte arrives in time, all of them would take minutes."""
    with dripping(part) as url:
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable) as error:
            call(url, "select", "b", [1.0], within_s=0.5, retry=NO_RETRY)
        assert error.value.timed_out
        assert time.monotonic() - started < 20.0


def test_an_answer_to_another_select_is_an_error(script, call, selected):
    script.then(200, selected | {"decision_id": "another"})
    with pytest.raises(ContractBroken, match="another"):
        call(script.url, "select", "b", [1.0], decision_id="d")
    assert len(script.requests) == 1


def test_an_answer_to_another_batch_is_an_error(script, call, selected):
    script.then(200, {"items": [{"code": 200, "answer": selected | {"decision_id": "another"}}]})
    with pytest.raises(ContractBroken, match="another"):
        call(script.url, "select_batch", [SelectRequest("b", [1.0], decision_id="d")])


def test_the_fallback_is_used_after_an_answer_to_another_select(script, call, selected):
    script.then(200, selected | {"decision_id": "another"})
    assert call(script.url, "select", "b", [1.0], fallback="safe").fallback


def test_the_fallback_is_used_when_the_service_is_away(nobody, call):
    found = call(nobody, "select", "b", [1.0], fallback="safe")
    assert (found.action.id, found.fallback, found.propensity) == ("safe", True, None)
    assert call(nobody, "reward", found.decision_id, 1.0) == RewardStatus("fallback", False)


def test_the_fallback_hides_no_mistake(script, call):
    script.then(422, {"detail": "context: wrong"})
    with pytest.raises(Invalid, match="context: wrong"):
        call(script.url, "select", "b", [1.0], fallback="safe")


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"first_wait_s": 0.0}, {"first_wait_s": 2.0, "max_wait_s": 1.0}]
)
def test_a_retry_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


def test_pauses_grow_up_to_their_bound():
    retry = Retry(attempts=100, first_wait_s=1.0, max_wait_s=8.0)
    for attempt, bound in [(1, 1.0), (2, 2.0), (4, 8.0), (99, 8.0)]:
        pauses = [retry.pause_s(attempt, ServiceUnavailable("")) for _ in range(200)]
        assert 0.7 * bound < max(pauses) <= bound
        assert min(pauses) < 0.3 * bound
