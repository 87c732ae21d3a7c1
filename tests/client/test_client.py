"""What both clients send, and how they read the answers of a scripted server."""

from __future__ import annotations

import threading

import pytest

import bandexa_client as client_module
from bandexa_client import (
    Action,
    ActivationStatus,
    BanditClient,
    BanditError,
    BanditLearning,
    Conflict,
    Finding,
    Invalid,
    LearnState,
    NotFound,
    Readiness,
    Rejected,
    RewardReport,
    RewardStatus,
    Selection,
    SelectRequest,
    ServiceFailed,
    ServiceUnavailable,
    TrainerState,
)
from tests.client.scripted import Connect, Script

SELECTED = {
    "decision_id": "d1",
    "action": {"id": "a1", "index": 1},
    "score": 0.5,
    "propensity": None,
    "snapshot": 2,
    "position": 7,
}
STATE = {
    "name": "b",
    "uid": "u",
    "spec": {"policy": "uniform"},
    "num_actions": 2,
    "snapshot": 0,
    "position": 3,
    "num_learned": 1,
    "train_due": False,
    "learning": {"findings": [], "join_rate": None, "reward_mean": 0.5},
    "trainer": {"state": "idle", "phase": "idle", "pid": 7, "rounds": 2},
}


TRAINED = {
    "status": "served",
    "trained": True,
    "snapshot": 3,
    "position": 9,
    "metrics": {"loss": 0.1},
}


def test_select_sends_what_was_given_and_reads_the_answer(
    script: Script, client: BanditClient
) -> None:
    script.always(SELECTED)
    selection = client.select("b", [1.0, 2.0], candidates=["a0", "a1"], decision_id="d1")
    assert script.asked() == ("POST", "/select")
    assert script.sent() == {
        "bandit": "b",
        "context": [1.0, 2.0],
        "candidates": ["a0", "a1"],
        "decision_id": "d1",
    }
    action = Action("a1", 1)
    assert selection == Selection("d1", action, (action,), 0.5, None, 2, 7)


def test_select_of_several_returns_all_of_them(script: Script, client: BanditClient) -> None:
    rows = [{"id": "a1", "index": 1}, {"id": "a0", "index": 0}]
    script.always({**SELECTED, "actions": rows})
    selection = client.select("b", [0.0], retrieve=9, k=2, activate=False)
    assert selection.actions == (Action("a1", 1), Action("a0", 0))
    assert script.sent() == {
        "bandit": "b",
        "context": [0.0],
        "retrieve": 9,
        "k": 2,
        "activate": False,
    }


def test_reward_reports_its_status(script: Script, client: BanditClient) -> None:
    script.always({"status": "duplicate", "train_due": True})
    assert client.reward("d1", 1.0, reward_id="r") == RewardStatus("duplicate", True)
    assert script.sent() == {"decision_id": "d1", "reward": 1.0, "reward_id": "r"}


def test_put_bandit_reports_whether_it_created(script: Script, client: BanditClient) -> None:
    script.always(STATE, 201)
    assert client.put_bandit("b", {"policy": "uniform"}).created
    script.always(STATE, 200)
    state = client.put_bandit("b", {"policy": "uniform"})
    assert not state.created
    assert (state.num_actions, state.position, state.num_learned) == (2, 3, 1)
    assert script.asked() == ("PUT", "/bandits/b")


def test_names_are_quoted_in_paths(script: Script, client: BanditClient) -> None:
    script.always(STATE)
    client.get_bandit("../a b")
    assert script.asked() == ("GET", "/bandits/..%2Fa%20b")


def test_delete_needs_no_answer_body(script: Script, client: BanditClient) -> None:
    script.always(None, 204)
    client.delete_bandit("b")
    assert script.asked() == ("DELETE", "/bandits/b")


def test_score_reads_integers_as_floats(script: Script, client: BanditClient) -> None:
    row = {"id": "a0", "index": 0, "mean": 1, "std": 0.5}
    script.always({"scores": [row], "snapshot": 1, "position": 2})
    scores = client.score("b", [0.0], ["a0"])
    assert isinstance(scores.scores[0].mean, float)
    assert scores.scores[0].mean == 1.0
    assert script.sent() == {"context": [0.0], "candidates": ["a0"]}


def test_train_waits_or_returns_at_once(script: Script, client: BanditClient) -> None:
    script.always(TRAINED)
    training = client.train("b")
    assert (training.trained, training.snapshot, training.metrics["loss"]) == (True, 3, 0.1)
    assert script.asked() == ("POST", "/bandits/b/train?wait=true")
    script.always({**TRAINED, "status": "queued", "trained": False, "metrics": {}}, 202)
    queued = client.train("b", wait=False)
    assert (queued.status, queued.trained) == ("queued", False)
    assert script.asked() == ("POST", "/bandits/b/train?wait=false")


def test_a_snapshot_travels_as_bytes(script: Script, client: BanditClient) -> None:
    script.always(b"\x00\xff")
    assert client.export_snapshot("b") == b"\x00\xff"
    script.always({"snapshot": 4, "position": 5})
    assert client.import_snapshot("b", b"\x00\xff").snapshot == 4
    assert script.asked() == ("PUT", "/bandits/b/snapshot")
    assert script.requests[-1].content == b"\x00\xff"
    assert script.requests[-1].headers["Content-Type"] == "application/octet-stream"


def test_an_activation_reports_its_status(script: Script, client: BanditClient) -> None:
    script.always({"status": "late"})
    assert client.activate("d1") == ActivationStatus("late")
    assert script.sent() == {"decision_id": "d1"}
    assert client.activate("fallback:" + "0a" * 16) == ActivationStatus("fallback")
    assert len(script.requests) == 1


def test_batches_answer_item_by_item(script: Script, client: BanditClient) -> None:
    problem = {"status": 404, "title": "Not found", "detail": "no bandit"}
    items = [{"code": 200, "answer": SELECTED}, {"code": 404, "error": problem}]
    script.always({"items": items})
    good, bad = client.select_batch([SelectRequest("b", [0.0]), SelectRequest("c", [0.0])])
    assert isinstance(good, Selection)
    assert isinstance(bad, NotFound)
    assert bad.problem["detail"] == "no bandit"
    assert str(bad) == "item 1 of a batch: 404 no bandit"
    script.always({"items": [{"code": 200, "answer": {"status": "late", "train_due": False}}]})
    assert client.reward_batch([RewardReport("d", 0.5)]) == [RewardStatus("late", False)]
    assert script.sent() == {"items": [{"decision_id": "d", "reward": 0.5}]}


def test_a_batch_of_another_length_is_a_failure(script: Script, client: BanditClient) -> None:
    script.always({"items": []})
    with pytest.raises(ServiceFailed, match="batch of 1 items was answered with 0"):
        client.reward_batch([RewardReport("d", 0.5)])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (404, NotFound), (409, Conflict), (413, Rejected), (422, Invalid)],
)
def test_refusals_carry_status_and_problem(
    script: Script, client: BanditClient, status: int, kind: type[Rejected]
) -> None:
    errors = [{"field": "reward", "message": "is not finite"}]
    problem = {"title": "Refused", "status": status, "detail": "look here", "errors": errors}
    script.always(problem, status)
    with pytest.raises(Rejected) as caught:
        client.reward("d", 0.0)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.problem == problem
    text = f"POST {script.url}/reward: {status} look here (reward: is not finite)"
    assert str(caught.value) == text


@pytest.mark.parametrize(("header", "seconds"), [("2.5", 2.5), ("Wed, 21 Oct 2015", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_overload_is_unavailable_with_the_time_to_wait(
    script: Script, client: BanditClient, status: int, header: str, seconds: float | None
) -> None:
    script.always({"detail": "too busy"}, status, Retry_After=header)
    with pytest.raises(ServiceUnavailable, match="too busy") as caught:
        client.reward("d", 0.0)
    assert caught.value.retry_after_s == seconds


def test_other_server_errors_are_failures(script: Script, client: BanditClient) -> None:
    script.always(b"<html>oops</html>", 500)
    with pytest.raises(ServiceFailed, match="500"):
        client.reward("d", 0.0)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        [],
        {},
        {"status": "applied"},
        {"status": 3, "train_due": False},
        {"status": "applied", "train_due": 1},
    ],
)
def test_an_answer_against_the_contract_is_a_failure(
    script: Script, client: BanditClient, body: object
) -> None:
    script.always(body)
    with pytest.raises(ServiceFailed):
        client.reward("d", 0.0)


def test_ready_reports_why_not(script: Script, client: BanditClient) -> None:
    script.always({"status": "ready", "detail": None})
    assert client.ready() == Readiness("ready", None, None)
    assert client.ready()
    trainer = {"state": "idle", "phase": "idle", "pid": None, "rounds": 0}
    script.always({"status": "not ready", "detail": "disk full", "trainer": trainer}, 503)
    found = client.ready()
    assert not found
    assert found.detail == "disk full"
    assert found.trainer == TrainerState("idle", "idle", None, 0)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (503, ServiceUnavailable), (200, ServiceFailed)]
)
@pytest.mark.parametrize("body", [b"no such page", {"status": 503}])
def test_the_probes_are_not_answered_by_another_server(
    script: Script, client: BanditClient, status: int, kind: type[Exception], body: object
) -> None:
    script.always(body, status)
    with pytest.raises(kind):
        client.ready()
    with pytest.raises(kind):
        client.learnz()


def test_learnz_reads_alarms_too(script: Script, client: BanditClient) -> None:
    finding = {"name": "silent", "severity": "alarm", "message": "m", "remedy": "r"}
    learning = {"findings": [finding], "join_rate": 0.5, "reward_mean": None}
    script.always({"status": "alarm", "findings": [], "bandits": {"b": learning}}, 503)
    found = Finding("silent", "alarm", "m", "r")
    assert client.learnz() == LearnState("alarm", (), {"b": BanditLearning((found,), 0.5, None)})


def test_a_refused_connection_is_unavailable(nobody: str, connect: Connect) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot reach the service at " + nobody) as caught:
        connect(nobody).ready()
    assert (caught.value.status, caught.value.timed_out) == (None, False)


def test_no_error_shows_the_password_of_the_address(
    script: Script, nobody: str, connect: Connect
) -> None:
    script.always({"detail": "not now"}, 500)
    for url in (nobody, script.url):
        with pytest.raises(BanditError) as caught:
            connect(url.replace("//", "//bob:secret@")).ready()
        assert url in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_connection_cut_off_is_unavailable(script: Script, client: BanditClient) -> None:
    script.then_hang_up()
    with pytest.raises(ServiceUnavailable):
        client.get_bandit("b")


def test_silence_is_unavailable_after_the_timeout(script: Script, connect: Connect) -> None:
    script.always({})
    script.go_on.clear()
    with pytest.raises(ServiceUnavailable, match=r"no answer within 0\.05 s") as caught:
        connect(script.url, timeout_s=0.05).get_bandit("b")
    assert caught.value.timed_out


def test_training_may_take_longer_than_other_calls(script: Script, connect: Connect) -> None:
    script.go_on.clear()
    script.always(TRAINED)
    release = threading.Timer(0.2, script.go_on.set)
    release.start()
    assert connect(script.url, timeout_s=0.05, train_timeout_s=10).train("b").trained
    release.join()


def test_every_request_is_counted(script: Script, client: BanditClient) -> None:
    script.always({"status": "applied", "train_due": False})
    client.reward("d", 0.0)
    client.reward("e", 0.0)
    assert client.num_requests == 2


def test_an_infinite_reward_never_leaves_the_client(script: Script, client: BanditClient) -> None:
    with pytest.raises(ValueError, match=r"^reward: is infinite, and JSON has finite numbers"):
        client.reward("d", float("inf"))
    assert script.requests == []


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://h:port"])
def test_an_address_that_is_none_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="not an"):
        connect(url)


def test_the_exports_exist_and_are_sorted() -> None:
    names = client_module.__all__
    assert all(hasattr(client_module, name) for name in names)
    kinds = [
        [n for n in names if n.isupper()],
        [n for n in names if n[0].isupper() and not n.isupper()],
        [n for n in names if n[0].islower()],
    ]
    assert names == [name for kind in kinds for name in sorted(kind)]
    errors = [client_module.ServiceUnavailable, client_module.ServiceFailed, client_module.Rejected]
    assert all(issubclass(error, BanditError) for error in errors)
