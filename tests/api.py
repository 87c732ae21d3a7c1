"""Short ways to call a server and to check its answers, for every folder of tests."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

PROBLEM_KEYS = {"type", "title", "status", "detail"}
JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"


class Api:
    """Calls a server and checks the status; makes names that no other test uses."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self._numbers = itertools.count()

    def fresh(self, prefix: str = "t") -> str:
        """Return a new name: of a bandit, or a decision's id."""
        return f"{prefix}-{next(self._numbers)}"

    def call(self, method: str, path: str, body: Any = None, expect: int = 200) -> dict[str, Any]:
        """Send JSON and return the JSON answer."""
        content = None if body is None else json.dumps(body).encode()
        response = self.http.request(
            method, path, content=content, headers={"content-type": JSON_TYPE} if content else {}
        )
        assert response.status_code == expect, response.text
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    def bandit(
        self,
        ids: Sequence[str] = (),
        features: Any = None,
        *,
        name: str | None = None,
        **spec: Any,
    ) -> str:
        """Create a bandit (linear on two context and two action features) with actions."""
        name = self.fresh("bandit") if name is None else name
        whole = {
            "policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1,
        } | spec  # fmt: skip
        self.call("PUT", f"/bandits/{name}", whole, 201)
        if ids:
            body: dict[str, Any] = {"ids": list(ids)}
            if whole["action_dim"]:
                body["features"] = features
            self.call("PUT", f"/bandits/{name}/actions", body)
        return name

    def two_actions(self, **spec: Any) -> str:
        """Create a bandit with the actions x (1, 0) and y (0, 1)."""
        return self.bandit(["x", "y"], [[1, 0], [0, 1]], **spec)

    def state(self, name: str) -> dict[str, Any]:
        """Return a bandit's state without the trainer, whose process all bandits share."""
        state = self.call("GET", f"/bandits/{name}")
        del state["trainer"]
        return state

    def select(self, name: str, context: Any, expect: int = 200, **more: Any) -> dict[str, Any]:
        """Select."""
        return self.call("POST", "/select", {"bandit": name, "context": context} | more, expect)

    def reward(
        self, decision_id: str, reward: Any, expect: int = 200, **more: Any
    ) -> dict[str, Any]:
        """Reward."""
        body = {"decision_id": decision_id, "reward": reward} | more
        return self.call("POST", "/reward", body, expect)

    def teach(self, name: str, context: Any, action: str, reward: float) -> None:
        """Have a bandit learn one row: an action of its catalogue, offered alone."""
        chosen = self.select(name, context, candidates=[action])
        assert self.reward(chosen["decision_id"], reward)["status"] == "applied"

    def scores(self, name: str, context: Any, candidates: Any = None) -> dict[str, Any]:
        """Return the answer of `score`."""
        body = {"context": context}
        if candidates is not None:
            body["candidates"] = candidates
        return self.call("POST", f"/bandits/{name}/score", body)

    def means(self, name: str, context: Any, candidates: Any = None) -> list[float]:
        """Return the posterior means of `score`."""
        return [row["mean"] for row in self.scores(name, context, candidates)["scores"]]

    def train(self, name: str) -> dict[str, Any]:
        """Train and wait."""
        return self.call("POST", f"/bandits/{name}/train?wait=true")


def _problem(
    response: httpx.Response, status: int, kind: str, field: str | None = None
) -> dict[str, Any]:
    """Check that a response is a problem document of the one shape; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) - {"errors"} == PROBLEM_KEYS
    assert problem["type"] == f"urn:bandexa:{kind}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    for item in problem.get("errors", []):
        assert set(item) == {"field", "message"}
        assert item["message"]
    if field is not None:
        assert field in [item["field"] for item in problem["errors"]], problem
    return problem


def _envelope(array: Any, dtype: str, *, binary: bool = False) -> dict[str, Any]:
    """Return an array as {dtype, shape, data}; `binary` for msgpack."""
    packed = np.asarray(array, np.dtype(dtype).newbyteorder("<"))
    data = packed.tobytes()
    return {
        "dtype": dtype,
        "shape": list(packed.shape),
        "data": data if binary else base64.b64encode(data).decode(),
    }


@pytest.fixture(scope="session")
def api(http: httpx.Client) -> Api:
    """Calls to the session's server."""
    return Api(http)


@pytest.fixture(scope="session")
def api_of() -> Callable[[httpx.Client], Api]:
    """Return the `Api` of another client."""
    return Api


@pytest.fixture(scope="session")
def problem() -> Callable[..., dict[str, Any]]:
    """Check a problem: `problem(response, status, kind, field=None)`; returns the document."""
    return _problem


@pytest.fixture(scope="session")
def envelope() -> Callable[..., dict[str, Any]]:
    """Encode an array: `envelope(array, dtype, binary=False)`."""
    return _envelope


@pytest.fixture(scope="session")
def packed(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Send msgpack: `packed(method, path, body, accept=JSON)`."""

    def send(method: str, path: str, body: Any, accept: str = JSON_TYPE) -> httpx.Response:
        headers = {"content-type": MSGPACK_TYPE, "accept": accept}
        return http.request(method, path, content=msgpack.packb(body), headers=headers)

    return send


ENCODER = '''
from bandexa_core.encoders import EncoderModule
from torch import nn
import torch


class Doubled(EncoderModule):
    """A user's own encoder."""

    def __init__(self, context_shape, action_dim, *, width=8):
        super().__init__()
        if width < 1:
            raise ValueError("encoder.params.width: must be at least 1")
        self.output_dim = width
        self.layer = nn.Linear(context_shape[0] + action_dim, width)

    def forward(self, contexts, actions):
        joined = torch.cat([contexts.to(self.layer.weight.dtype), actions], dim=1)
        return torch.tanh(2 * self.layer(joined))
'''
CONFIG = """
max_body_bytes = 4096
max_snapshot_bytes = 65536
max_inline_bytes = 16
log_level = "warning"

[encoders]
doubled = "own_encoder:Doubled"
"""


@pytest.fixture(scope="session")
def configured(
    tmp_path_factory: pytest.TempPathFactory, start_session_server: Callable[..., Any]
) -> Iterator[Api]:
    """A server with a TOML file: small limits and a user's own encoder."""
    root: Path = tmp_path_factory.mktemp("configured")
    (root / "own_encoder.py").write_text(ENCODER)
    config = root / "bandexa.toml"
    config.write_text(CONFIG)
    server = start_session_server(
        root / "data", "--config", str(config), env={"PYTHONPATH": str(root)}
    )
    with server.client() as client:
        yield Api(client)
