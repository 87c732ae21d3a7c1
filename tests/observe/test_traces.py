"""Request ids and traces: in answers and log lines, and as spans at a receiver of OpenTelemetry."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.observe.correlation import Correlation, trace_of
from tests.fixtures.servers import Server
from tests.fixtures.waiting import WITHIN_S, poll

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Span(NamedTuple):
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    start: int
    end: int
    failed: bool
    service: str


class Receiver:
    """A receiver of OTLP over HTTP on a free port; it keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                spans.extend(read(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def named(self, name: str, trace: str = TRACE) -> list[Span]:
        return [span for span in self.spans if span.name == name and span.trace == trace]

    def children(self, parent: Span) -> list[str]:
        found = [span for span in self.spans if span.parent == parent.id]
        assert all(parent.start <= span.start <= span.end <= parent.end for span in found)
        return [span.name for span in sorted(found, key=lambda span: span.start)]


def read(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                values = {
                    each.key: each.value.string_value or each.value.int_value
                    for each in span.attributes
                }
                yield Span(
                    span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                    values, span.start_time_unix_nano, span.end_time_unix_nano,
                    span.status.code == 2, about["service.name"],
                )  # fmt: skip


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log_text().splitlines()]


def test_answers_and_log_lines_have_the_id_and_the_trace_of_a_request(start_server, api_of) -> None:
    server: Server = start_server(env={"BANDEXA_LOG_LEVEL": "debug"})
    with server.client() as http:
        name = api_of(http).two_actions()
        body = {"bandit": name, "context": [1, 2], "decision_id": "visit-1"}
        headers = {"x-request-id": "edge/7f3=", "traceparent": UNSAMPLED}
        chosen = http.post("/select", json=body, headers=headers)
        assert chosen.headers["x-request-id"] == "edge/7f3="
        assert "x-request-id" not in http.post("/select", json=body).headers
        [line] = [each for each in lines(server) if each["event"] == "decision"]
        assert (line["request_id"], line["trace_id"]) == ("edge/7f3=", TRACE)
        for call in (http.post("/select", json={}), http.get("/bandits/nobody")):
            assert call.status_code in (404, 422)
            made = call.headers["x-request-id"]  # a refusal has one in any case
            assert re.fullmatch("[0-9a-f]{16}", made)
            [line] = [each for each in lines(server) if each.get("request_id") == made]
            assert "is refused" in line["event"]
            assert "trace_id" not in line
        http.delete(f"/bandits/{name}", headers=headers)
        [audited] = [each for each in lines(server) if each["logger"] == "bandexa.audit"][-1:]
        assert (audited["request_id"], audited["trace_id"]) == ("edge/7f3=", TRACE)
        bad = http.get("/bandits/nobody", headers={"x-request-id": "x" * 129})
        assert re.fullmatch("[0-9a-f]{16}", bad.headers["x-request-id"])


@pytest.mark.parametrize(
    ("trusted", "client"),
    [(None, "203.0.113.7"), ('["127.0.0.0/8"]', "203.0.113.7"), ("[]", "127.0.0.1")],
)
def test_the_audit_log_has_the_client_that_a_trusted_proxy_names(
    start_server, trusted: str | None, client: str
) -> None:
    env = {} if trusted is None else {"BANDEXA_TRUSTED_PROXIES": trusted}
    server: Server = start_server(env=env)
    with server.client() as http:
        http.delete("/bandits/nobody", headers={"x-forwarded-for": "203.0.113.7"})
    [line] = [each for each in lines(server) if each["logger"] == "bandexa.audit"]
    assert line["client"] == client


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (SAMPLED, TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", TRACE),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("", None),
    ],
)
def test_a_trace_is_read_as_its_specification_says(value: str, found: str | None) -> None:
    assert trace_of(value.encode()) == found


def test_an_id_that_could_forge_log_lines_is_not_used() -> None:
    for wrong in (b"", b"a b", b"a\tb", b"\xff", b"a\x7f", b"x" * 129):
        assert Correlation.of([(b"x-request-id", wrong)]).given is None


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture(scope="module")
def traced(start_module_server, receiver: Receiver) -> Server:
    """A server that traces what its callers trace, and nothing else."""
    found: Server = start_module_server(
        env={
            "BANDEXA_OTLP_ENDPOINT": receiver.url, "BANDEXA_TRACE_RATIO": "0",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
    )  # fmt: skip
    return found


def test_a_trace_goes_on_from_a_request_to_select_reward_and_round(
    traced: Server, receiver: Receiver, api_of
) -> None:
    with traced.client() as http:
        name = api_of(http).two_actions(
            policy="neural_linear_ts", encoder={"name": "mlp", "params": {"feature_dim": 4}},
            training={"mode": "lockstep", "optimizer_steps": 4},
        )  # fmt: skip
        headers = {"traceparent": SAMPLED}
        select = {"bandit": name, "context": [1, 2]}
        made = http.post("/select", json=select, headers=headers).json()["decision_id"]
        reward = {"decision_id": made, "reward": 1}
        assert http.post("/reward", json=reward, headers=headers).status_code == 200
        trained = http.post(f"/bandits/{name}/train?wait=true", headers=headers)
        assert trained.status_code == 200
        batch = {"items": [select, select]}
        http.post("/select/batch", json=batch, headers=headers)
        http.post("/select", json=select, headers={"traceparent": UNSAMPLED})
        http.post("/select", json=select)
        http.get("/bandits/nobody", headers=headers)
    wanted = {
        "POST /select", "POST /reward", "POST /bandits/{name}/train", "round",
        "POST /select/batch", "GET /bandits/{name}",
    }  # fmt: skip
    poll(lambda: wanted <= {span.name for span in receiver.spans}, "spans arrive")
    [request] = receiver.named("POST /select")
    assert request.parent == PARENT
    assert request.attributes["http.response.status_code"] == 200
    assert (request.service, request.attributes["http.route"]) == ("bandexa", "/select")
    assert receiver.children(request) == ["select"]
    [chosen] = [span for span in receiver.named("select") if span.parent == request.id]
    assert receiver.children(chosen) == ["decode", "encode", "draw", "commit"]
    assert chosen.attributes["bandexa.decision_id"] == made
    assert chosen.attributes["bandexa.bandit"] == name
    [rewarded] = receiver.named("reward")
    assert receiver.children(rewarded) == ["commit", "apply"]
    [trains], [trained_round] = (
        receiver.named("POST /bandits/{name}/train"),
        receiver.named("round"),
    )
    assert trained_round.parent == trains.id
    assert trained_round.attributes["bandexa.snapshot"] == trained.json()["snapshot"]
    assert [span.name for span in receiver.spans if span.parent == trained_round.id] == [
        "train", "swap",
    ]  # fmt: skip
    [batched] = receiver.named("POST /select/batch")
    assert receiver.children(batched) == ["select", "select"]
    [missing] = receiver.named("GET /bandits/{name}")
    assert missing.attributes["http.response.status_code"] == 404
    assert not missing.failed
    assert {span.trace for span in receiver.spans} == {TRACE}
    assert len(receiver.named("POST /select")) == 1


def test_what_is_left_is_sent_at_the_end_and_a_receiver_that_is_gone_delays_nothing(
    start_server, api_of
) -> None:
    receiver = Receiver()
    server: Server = start_server(env={"BANDEXA_OTLP_ENDPOINT": receiver.url})
    with server.client() as http:
        assert http.get("/healthz").status_code == 200
    assert server.stop() == 0
    receiver.close()
    [span] = [span for span in receiver.spans if span.name == "GET /healthz"]
    assert span.parent == ""  # it begins a trace
    gone: Server = start_server(env={"BANDEXA_OTLP_ENDPOINT": receiver.url})
    with gone.client() as http:
        name = api_of(http).two_actions()
        assert api_of(http).select(name, [1, 2])
    assert gone.stop() == 0


def test_a_server_without_the_extra_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None;"
        "sys.argv = ['bandexa', 'serve', '--port', '0']; from service.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={"BANDEXA_OTLP_ENDPOINT": "http://127.0.0.1:1"}, timeout=WITHIN_S,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "otlp_endpoint: traces need OpenTelemetry: pip install 'bandexa[otel]'" in ended.stderr


def test_an_endpoint_that_is_no_address_is_refused() -> None:
    from service.settings import SettingsError, load_settings

    for wrong in (
        {"otlp_endpoint": "collector:4318"}, {"trace_ratio": 1.5}, {"trusted_proxies": ["proxy"]},
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            load_settings(None, **wrong)
