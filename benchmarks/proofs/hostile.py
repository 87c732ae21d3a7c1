"""Proves that no request breaks a server: requests along and against its schema, and raw bytes.

schemathesis generates valid and invalid requests for every operation of the OpenAPI document; each
is sent as JSON and, if it has a body, as msgpack, too. Then come raw requests over a socket (see
`raw_requests`). It holds if no answer is a 5xx but the documented 503, each answer is documented,
JSON and msgpack of one invalid body are refused alike, a rejected request leaves the database as it
was, resident memory is level, the log has no error, and at the end the server is ready and
`bandexa verify` passes.
"""

from __future__ import annotations

import base64
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgpack
import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core import NotSet
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks.processes import resident_bytes
from benchmarks.proofs.hostile_frame import Findings, Fingerprint, after_the_end, level
from benchmarks.proofs.raw_requests import RawRequests, Valid
from benchmarks.report import arguments, report
from benchmarks.server import Server

_CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip
_LOCKSTEP = {"mode": "lockstep", "optimizer_steps": 5}
_KEPT: dict[str, dict[str, Any]] = {
    "linear": {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2},
    "neural": {
        "policy": "neural_linear_ts", "context": {"shape": [2]}, "action_dim": 2,
        "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [4]}},
    },
    "arms": {
        "policy": "linear_ts", "context": {"shape": [2], "dtype": "uint8"},
        "encoder": {"name": "per_action"}, "rewards": {"aggregate": "sum"},
    },
}  # fmt: skip
_RAW_SHARE = 0.25
_GRACE_S = 0.05  # for the answer to what need not be answered
_RSS_RISE = 0.05


class Attack:
    """Sends requests, and checks the answers and the database behind them."""

    def __init__(self, server: Server, seed_: int) -> None:
        self.found = Findings()
        self._server = server
        self._seed = seed_
        self._url = server.address
        self._http = httpx.Client(base_url=self._url, trust_env=False, timeout=60.0)
        self._session = requests.Session()
        self._session.trust_env = False
        self._print = Fingerprint(server.data_dir / "bandexa.db")
        self._valid: list[Valid] = []
        self._settle()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()
        self._http.close()
        self._print.close()

    def _prepare(self) -> list[Valid]:
        """Create the bandits, and return the valid requests that raw requests are made from."""
        valid = []
        for name, spec in _KEPT.items():
            whole = spec | {"training": _LOCKSTEP, "seed": 0}
            self._http.put(f"/bandits/{name}", json=whole).raise_for_status()
            actions: list[dict[str, Any]] = [{"id": "x"}, {"id": "y"}]
            if spec.get("action_dim"):
                actions = [a | {"features": [n, 1 - n]} for n, a in enumerate(actions)]
            body: dict[str, Any] = {"actions": actions}
            self._http.put(f"/bandits/{name}/actions", json=body).raise_for_status()
            for number in range(12):
                select: dict[str, Any] = {
                    "bandit": name,
                    "context": [1, 2],
                    "decision_id": f"{name}.{number}",
                }
                self._http.post("/select", json=select).raise_for_status()
                if number < 6:
                    reward = {"decision_id": f"{name}.{number}", "reward": 0.5, "reward_id": "r"}
                    self._http.post("/reward", json=reward).raise_for_status()
            envelope = {
                "dtype": "float32", "shape": [2],
                "data": base64.b64encode(np.ones(2, "<f4").tobytes()).decode(),
            }  # fmt: skip
            selects: list[dict[str, Any]] = [
                select,
                select | {"context": envelope, "decision_id": f"{name}.e"},
            ]
            rewards: list[dict[str, Any]] = [
                {"decision_id": f"{name}.{n}", "reward": 0.25, "reward_id": "q"} for n in (7, 8)
            ]
            valid += [
                Valid("PUT", f"/bandits/{name}", whole),
                Valid("PUT", f"/bandits/{name}/actions", body),
                Valid("POST", f"/bandits/{name}/score", {"context": [1, 2], "candidates": ["x"]}),
                Valid("POST", "/select", selects[1] | {"candidates": ["x", "y"], "k": 2}),
                Valid("POST", "/reward", rewards[0]),
                Valid("POST", "/select/batch", {"items": selects}),
                Valid("POST", "/reward/batch", {"items": rewards}),
                Valid("POST", "/activate", {"decision_id": f"{name}.9"}),
                Valid("PUT", f"/bandits/{name}/snapshot", self._export(name)),
            ]
        return valid

    def _export(self, name: str) -> bytes:
        return self._http.get(f"/bandits/{name}/snapshot").raise_for_status().content

    # -- along and against the schema -------------------------------------------------------------

    def generated(self, num: int) -> None:
        """Send `num` generated requests; JSON and msgpack count as two."""
        schema = schemathesis.openapi.from_dict(self._http.get("/openapi.json").json())
        operations = []
        for one in schema.get_all_operations():
            assert isinstance(one, Ok), one
            operations.append(one.ok())
        runs = [
            (operation, mode)
            for operation in operations
            for mode in GenerationMode
            # An operation without parameters and body cannot be called against its schema.
            if mode is GenerationMode.POSITIVE or "{" in operation.label or operation.body
        ]
        target, turn = sum(self.found.sent.values()) + num, 0
        while (left := target - sum(self.found.sent.values())) > 0:
            each = max(1, min(20, left // (2 * len(runs))))
            for operation, mode in runs:
                if sum(self.found.sent.values()) < target:
                    self._generate(operation, mode, each, self._seed + turn)
            turn += 1
            self._settle()
            _show(self.found, target)

    def _generate(self, operation: Any, mode: GenerationMode, num: int, turn: int) -> None:
        @seed(turn)
        @settings(
            max_examples=num, phases=[Phase.generate], database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode), aim=st.integers(0, 5))
        def send(case: schemathesis.Case[Any], aim: int) -> None:
            if aim:
                self._aim(case, sorted(_KEPT)[aim % 3], aim)
            self._send(case)

        send()

    @staticmethod
    def _aim(case: schemathesis.Case[Any], name: str, number: int) -> None:
        """Point a case at an existing bandit, so that it does not end with 404."""
        if "name" in (case.path_parameters or {}) and case.method != "DELETE":
            case.path_parameters["name"] = name
        if isinstance(case.body, dict):
            if "bandit" in case.body:
                case.body["bandit"] = name
            if "decision_id" in case.body:
                case.body["decision_id"] = f"{name}.{number}"

    def _send(self, case: schemathesis.Case[Any]) -> None:
        what = f"{case.method} {case.path} {str(case.body)[:300]!r}"
        before = self._print.take()
        answer: Any = case.call(base_url=self._url, session=self._session, timeout=60)
        self._check("JSON", answer.status_code, answer.content, before, what)
        try:
            case.validate_response(answer, checks=_CHECKS)
        except (Failure, FailureGroup) as error:
            self.found.wrong.append(f"{what}: {str(error)[:500]}")
        if not isinstance(case.body, NotSet) and case.media_type != "application/octet-stream":
            self._send_packed(case, answer.status_code, what)

    def _send_packed(self, case: schemathesis.Case[Any], status: int, what: str) -> None:
        """Send the body of a case again as msgpack; both encodings must be refused alike."""
        try:
            content = msgpack.packb(_with_bytes(case.body))
        except (OverflowError, ValueError, TypeError, UnicodeEncodeError):
            return  # msgpack has no integers beyond 64 bits and no lone surrogates
        headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
        before = self._print.take()
        answer = self._http.request(
            case.method, case.formatted_path, params=case.query, content=content, headers=headers
        )
        self._check("msgpack", answer.status_code, answer.content, before, what)
        if (status == 422) != (answer.status_code == 422):
            self.found.wrong.append(f"{what}: {status}, as msgpack {answer.status_code}")

    # -- raw bytes --------------------------------------------------------------------------------

    def raw(self, num: int) -> None:
        """Send `num` requests over a socket, all kinds in turn."""
        rng = np.random.default_rng(self._seed)
        makers = RawRequests(self._valid, rng)
        kinds = list(makers.kinds)
        for number in range(num):
            kind = kinds[number % len(kinds)]
            content = makers.of(kind)
            before = self._print.take()
            answer = self._exchange(content, whole=kind not in makers.unfinished)
            # The bytes after a wrong length are read as another request.
            found = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]
            self._check(
                kind, found[0] if found else 0, answer, before, repr(content[:300]),
                all_rejected=bool(found) and all(status >= 400 for status in found),
            )  # fmt: skip
            if not found:  # it may have been accepted all the same
                self._http.post("/select", json=self._valid[3].body)
            if number % 500 == 499:
                self._settle()
                makers = RawRequests(self._valid, rng)
                _show(self.found, sum(self.found.sent.values()) + num - number)

    def _exchange(self, content: bytes, *, whole: bool) -> bytes:
        """Send bytes and return the whole answer; unless `whole`, sending is shut down."""
        address = urlsplit(self._url)
        assert address.hostname is not None
        answer = b""
        with socket.create_connection((address.hostname, address.port or 80), timeout=30) as peer:
            try:
                peer.sendall(content)
                if not whole:
                    answer = _received(peer, _GRACE_S)
                    peer.shutdown(socket.SHUT_WR)
                while received := peer.recv(1 << 16):
                    answer += received
            except (BrokenPipeError, ConnectionResetError, OSError) as error:
                if isinstance(error, TimeoutError):
                    self.found.wrong.append(f"no end of the answer to {content[:200]!r}")
        return answer

    # -- checks -----------------------------------------------------------------------------------

    def _check(
        self, kind: str, status: int, content: bytes, before: tuple[Any, ...], what: str, *,
        all_rejected: bool = True,
    ) -> None:  # fmt: skip
        self.found.sent[kind] += 1
        self.found.statuses[status] += 1
        if status >= 500 and status != 503:
            self.found.wrong.append(f"{kind}: {what}: {status} {content[:300]!r}")
        if b"Traceback" in content:
            self.found.wrong.append(f"{kind}: {what}: a traceback")
        if status >= 400 and all_rejected and self._print.take() != before:
            self.found.wrong.append(f"{kind}: {what}: {status}, and the database changed")

    def _settle(self) -> None:
        """Replace all bandits, so that their growth does not count as growth of memory."""
        for bandit in self._http.get("/bandits").json()["bandits"]:
            self._http.delete(f"/bandits/{bandit['name']}").raise_for_status()
        self._valid = self._prepare()
        self.found.rss_mb.append(resident_bytes(self._server.pid) / 1e6)


def _received(peer: socket.socket, within_s: float) -> bytes:
    """Return the first bytes that arrive in time; empty if none do."""
    timeout = peer.gettimeout()
    peer.settimeout(within_s)
    try:
        return peer.recv(1 << 16)
    except TimeoutError:
        return b""
    finally:
        peer.settimeout(timeout)


def _with_bytes(body: Any) -> Any:
    """Return a JSON body as it is in msgpack: arrays have bytes where JSON has base64 text."""
    if isinstance(body, list):
        return [_with_bytes(each) for each in body]
    if not isinstance(body, dict):
        return body
    body = {name: _with_bytes(each) for name, each in body.items()}
    if {"dtype", "shape", "data"} <= body.keys() and isinstance(body["data"], str):
        with suppress(ValueError):  # no base64: refused in both
            body["data"] = base64.b64decode(body["data"], validate=True)
    return body


def _show(found: Findings, target: int) -> None:
    if sys.stdout.isatty():
        print(f"\r{sum(found.sent.values())} of {target} requests", end="", flush=True)


def _run(folder: Path, num: int, seed_: int) -> tuple[dict[str, float], list[str]]:
    server = Server(folder / "data", "os")
    started = time.perf_counter()
    try:
        server.spawn()
        server.wait_ready()
        with closing(Attack(server, seed_)) as attack:
            attack.raw(
                round(num * _RAW_SHARE / 5)
            )  # large bodies first: they set the memory's level
            attack.generated(round(num * (1 - _RAW_SHARE)))
            attack.raw(num - sum(attack.found.sent.values()))
        found, wrong = attack.found, attack.found.wrong
        with httpx.Client(base_url=server.address, trust_env=False, timeout=60.0) as http:
            if (ready := http.get("/readyz")).status_code != 200:
                wrong.append(f"not ready at the end: {ready.text}")
        if (status := server.stop()) != 0:
            wrong.append(f"the server ended with status {status}")
    finally:
        server.close()
    wrong += after_the_end(server)
    mean, rise = level(found)
    if rise > _RSS_RISE * mean:
        wrong.append(f"resident memory rose by {rise:.1f} MB from about {mean:.1f}")
    results: dict[str, float] = {
        "requests": sum(found.sent.values()),
        **{f"sent: {kind}": count for kind, count in found.sent.items()},
        **{f"answered {status}": count for status, count in sorted(found.statuses.items())},
        "rss_mb": round(mean, 1),
        "rss_rise_mb": round(rise, 2),
        "seconds": round(time.perf_counter() - started, 1),
        "wrong": len(wrong),
    }
    return results, wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("hostile", __doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="requests, all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="of all that is generated")
    given_ = parser.parse_args(argv)
    if given_.cases < 1:
        parser.error("--cases must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bandexa-hostile-") as name:
        results, wrong = _run(Path(name), given_.cases, given_.seed)
    claim = "no request breaks the server, and none that is rejected changes anything"
    return report("hostile", results, given_.json, wrong=wrong, claim=claim)
