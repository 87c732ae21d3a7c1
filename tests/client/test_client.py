"""The client against a real HTTP server that answers what a test tells it to."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import bandexa_client as client_module
from bandexa_client import (
    NO_RETRY,
    Action,
    BanditClient,
    BanditError,
    Conflict,
    Invalid,
    NotFound,
    Rejected,
    RewardReport,
    RewardStatus,
    Selection,
    SelectRequest,
    ServiceFailed,
    ServiceUnavailable,
    array_body,
)

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
    "trainer": {"state": "idle"},
}


@dataclass
class Scripted:
    """What the server answers next, and the requests it got."""

    url: str = ""
    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, bytes, str | None]] = field(default_factory=list)

    def answers(self, body: object, status: int = 200, **headers: str) -> None:
        self.body, self.status = body, status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def sent(self) -> object:
        """Return the decoded body of the last request."""
        return json.loads(self.requests[-1][2])


@pytest.fixture
def service() -> Iterator[Scripted]:
    script = Scripted()
    script.go_on.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def handle_method(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append(
                (self.command, self.path, content, self.headers.get("Content-Type"))
            )
            script.go_on.wait(10)
            if script.hang_up:
                self.close_connection = True
                return
            body = script.body
            if not isinstance(body, bytes):
                body = b"" if body is None else json.dumps(body).encode()
            self.send_response(script.status)
            for name, value in script.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = handle_method

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_port}"
        yield script
        script.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def client(service: Scripted) -> Iterator[BanditClient]:
    with BanditClient(service.url, timeout_s=10, retry=NO_RETRY, trust_env=False) as connected:
        yield connected


def test_select_sends_what_was_given_and_reads_the_answer(
    service: Scripted, client: BanditClient
) -> None:
    service.answers(SELECTED)
    selection = client.select("b", [1.0, 2.0], candidates=["a0", "a1"], decision_id="d1")
    assert service.requests[-1][:2] == ("POST", "/select")
    assert service.sent() == {
        "bandit": "b",
        "context": [1.0, 2.0],
        "candidates": ["a0", "a1"],
        "decision_id": "d1",
    }
    action = Action("a1", 1)
    assert selection == Selection("d1", action, (action,), 0.5, None, 2, 7)


def test_select_of_several_returns_all_of_them(service: Scripted, client: BanditClient) -> None:
    rows = [{"id": "a1", "index": 1}, {"id": "a0", "index": 0}]
    service.answers({**SELECTED, "actions": rows})
    selection = client.select("b", [0.0], retrieve=9, k=2, activate=False)
    assert selection.actions == (Action("a1", 1), Action("a0", 0))
    assert service.sent() == {
        "bandit": "b",
        "context": [0.0],
        "retrieve": 9,
        "k": 2,
        "activate": False,
    }


def test_an_array_body_holds_dtype_shape_and_bytes() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    body = array_body(str(values.dtype), values.shape, values.tobytes())
    data = base64.b64decode(str(body["data"]))
    assert (body["dtype"], body["shape"]) == ("float32", [2, 3])
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(2, 3), values)


def test_reward_reports_its_status(service: Scripted, client: BanditClient) -> None:
    service.answers({"status": "duplicate", "train_due": True})
    assert client.reward("d1", 1.0, reward_id="r") == RewardStatus("duplicate", True)
    assert service.sent() == {"decision_id": "d1", "reward": 1.0, "reward_id": "r"}


def test_put_bandit_tells_creation_from_repetition(service: Scripted, client: BanditClient) -> None:
    service.answers(STATE, 201)
    assert client.put_bandit("b", {"policy": "uniform"}).created
    service.answers(STATE, 200)
    state = client.put_bandit("b", {"policy": "uniform"})
    assert not state.created
    assert (state.num_actions, state.position, state.num_learned) == (2, 3, 1)
    assert service.requests[-1][:2] == ("PUT", "/bandits/b")


def test_names_are_quoted_in_paths(service: Scripted, client: BanditClient) -> None:
    service.answers(STATE)
    client.get_bandit("../a b")
    assert service.requests[-1][:2] == ("GET", "/bandits/..%2Fa%20b")


def test_actions_go_in_columns_with_features_and_in_rows_without(
    service: Scripted, client: BanditClient
) -> None:
    service.answers({"num_actions": 2, "position": 1})
    assert client.put_actions("b", ["x", "y"], [[1.0], [2.0]]).num_actions == 2
    assert service.sent() == {"ids": ["x", "y"], "features": [[1.0], [2.0]]}
    client.put_actions("b", ["x", "y"])
    assert service.sent() == {"actions": [{"id": "x"}, {"id": "y"}]}


def test_delete_needs_no_answer_body(service: Scripted, client: BanditClient) -> None:
    service.answers(None, 204)
    client.delete_bandit("b")
    assert service.requests[-1][:2] == ("DELETE", "/bandits/b")


def test_score_reads_integers_as_floats(service: Scripted, client: BanditClient) -> None:
    row = {"id": "a0", "index": 0, "mean": 1, "std": 0.5}
    service.answers({"scores": [row], "snapshot": 1, "position": 2})
    scores = client.score("b", [0.0], ["a0"])
    assert isinstance(scores.scores[0].mean, float)
    assert scores.scores[0].mean == 1.0
    assert service.sent() == {"context": [0.0], "candidates": ["a0"]}


def test_train_waits_or_returns_at_once(service: Scripted, client: BanditClient) -> None:
    service.answers({"snapshot": 3, "position": 9, "trained": True, "metrics": {"loss": 0.1}})
    training = client.train("b")
    assert training is not None
    assert (training.trained, training.snapshot, training.metrics["loss"]) == (True, 3, 0.1)
    assert service.requests[-1][1] == "/bandits/b/train?wait=true"
    service.answers({}, 202)
    assert client.train("b", wait=False) is None
    assert service.requests[-1][1] == "/bandits/b/train?wait=false"


def test_a_snapshot_travels_as_bytes(service: Scripted, client: BanditClient) -> None:
    service.answers(b"\x00\xff")
    assert client.export_snapshot("b") == b"\x00\xff"
    service.answers({"snapshot": 4, "position": 5})
    assert client.import_snapshot("b", b"\x00\xff").snapshot == 4
    expected = ("PUT", "/bandits/b/snapshot", b"\x00\xff", "application/octet-stream")
    assert service.requests[-1] == expected


def test_batches_answer_item_by_item(service: Scripted, client: BanditClient) -> None:
    problem = {"status": 404, "title": "Not found", "detail": "no bandit"}
    items = [{"code": 200, "answer": SELECTED}, {"code": 404, "error": problem}]
    service.answers({"items": items})
    good, bad = client.select_batch([SelectRequest("b", [0.0]), SelectRequest("c", [0.0])])
    assert isinstance(good, Selection)
    assert isinstance(bad, NotFound)
    assert bad.problem["detail"] == "no bandit"
    assert str(bad) == "item 1 of a batch: 404 no bandit"
    service.answers({"items": [{"code": 200, "answer": {"status": "late", "train_due": False}}]})
    assert client.reward_batch([RewardReport("d", 0.5)]) == [RewardStatus("late", False)]
    assert service.sent() == {"items": [{"decision_id": "d", "reward": 0.5}]}


def test_a_batch_of_another_length_is_a_failure(service: Scripted, client: BanditClient) -> None:
    service.answers({"items": []})
    with pytest.raises(ServiceFailed, match="batch of 1 items was answered with 0"):
        client.reward_batch([RewardReport("d", 0.5)])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (404, NotFound), (409, Conflict), (413, Rejected), (422, Invalid)],
)
def test_refusals_carry_status_and_problem(
    service: Scripted, client: BanditClient, status: int, kind: type[Rejected]
) -> None:
    errors = [{"field": "reward", "message": "is not finite"}]
    problem = {"title": "Refused", "status": status, "detail": "look here", "errors": errors}
    service.answers(problem, status)
    with pytest.raises(Rejected) as caught:
        client.reward("d", 0.0)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.problem == problem
    text = f"POST {service.url}/reward: {status} look here (reward: is not finite)"
    assert str(caught.value) == text


@pytest.mark.parametrize(("header", "seconds"), [("2.5", 2.5), ("Wed, 21 Oct 2015", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_overload_is_unavailable_with_the_time_to_wait(
    service: Scripted, client: BanditClient, status: int, header: str, seconds: float | None
) -> None:
    service.answers({"detail": "too busy"}, status, Retry_After=header)
    with pytest.raises(ServiceUnavailable, match="too busy") as caught:
        client.reward("d", 0.0)
    assert caught.value.retry_after_s == seconds


def test_other_server_errors_are_failures(service: Scripted, client: BanditClient) -> None:
    service.answers(b"<html>oops</html>", 500)
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
    service: Scripted, client: BanditClient, body: object
) -> None:
    service.answers(body)
    with pytest.raises(ServiceFailed):
        client.reward("d", 0.0)


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_ready_follows_the_probe(
    service: Scripted, client: BanditClient, status: int, ready: bool
) -> None:
    service.answers({}, status)
    assert client.ready() is ready


def test_ready_is_no_answer_to_a_foreign_server(service: Scripted, client: BanditClient) -> None:
    service.answers(b"no such page", 404)
    with pytest.raises(NotFound):
        client.ready()


def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (
        BanditClient(url, trust_env=False) as client,
        pytest.raises(ServiceUnavailable, match="cannot reach the service at " + url),
    ):
        client.ready()


def test_a_connection_cut_off_is_unavailable(service: Scripted, client: BanditClient) -> None:
    service.hang_up = True
    with pytest.raises(ServiceUnavailable):
        client.get_bandit("b")


def test_silence_is_unavailable_after_the_timeout(service: Scripted) -> None:
    service.go_on.clear()
    with (
        BanditClient(service.url, timeout_s=0.05, trust_env=False) as client,
        pytest.raises(ServiceUnavailable, match=r"no answer within 0\.05 s"),
    ):
        client.get_bandit("b")


def test_training_may_take_longer_than_other_calls(service: Scripted) -> None:
    service.go_on.clear()
    service.answers({"snapshot": 1, "position": 1, "trained": True, "metrics": {}})
    with BanditClient(service.url, timeout_s=0.05, train_timeout_s=10, trust_env=False) as client:
        release = threading.Timer(0.2, service.go_on.set)
        release.start()
        assert client.train("b") is not None
        release.join()


def test_every_request_is_counted(service: Scripted, client: BanditClient) -> None:
    service.answers({"status": "applied", "train_due": False})
    client.reward("d", 0.0)
    client.reward("e", 0.0)
    assert client.num_requests == 2


def test_an_infinite_reward_never_leaves_the_client(
    service: Scripted, client: BanditClient
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        client.reward("d", float("inf"))
    assert service.requests == []


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://h:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not an"):
        BanditClient(url)


def test_exports_exist() -> None:
    assert len(set(client_module.__all__)) == len(client_module.__all__)
    assert all(hasattr(client_module, name) for name in client_module.__all__)
    errors = [client_module.ServiceUnavailable, client_module.ServiceFailed, client_module.Rejected]
    assert all(issubclass(error, BanditError) for error in errors)
