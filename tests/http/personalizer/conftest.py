"""A server with the doorway for clients of Personalizer, shared by the tests of this folder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ACTIONS: list[dict[str, Any]] = [
    {"id": "soup", "features": [{"dish": {"hot": True, "price": 6.5}}, {"tags": {"vegan": 1}}]},
    {"id": "toast", "features": [{"dish": {"hot": True, "price": 4}}]},
    {"id": "salad", "features": [{"dish": {"hot": False, "price": 7}}]},
]
CONTEXT: list[dict[str, Any]] = [
    {"visit": {"daypart": "evening", "weekday": 5}},
    {"device": {"kind": "phone", "width": 390}},
]
CONTENT = {"content-type": "application/json"}


class Personalizer:
    """Calls the doorway of a server as plain HTTP clients do; its bandit is `default`."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self._numbers = itertools.count()

    def fresh(self) -> str:
        """Return the id of an event that no other test uses."""
        return f"event-{next(self._numbers)}"

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send a body as JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = (CONTENT if content is not None else {}) | (headers or {})
        return self.http.request(method, path, content=content, headers=sent)

    def call(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """Send JSON under /personalizer and return the JSON answer."""
        response = self.send(method, f"/personalizer{path}", body)
        assert response.status_code == expect, response.text
        if expect == 204:
            assert not response.content
        if expect >= 400:
            return error_of(response)
        return response.json() if response.content else None

    def rank(self, expect: int = 201, **more: Any) -> Any:
        """Rank three dishes."""
        body = {"contextFeatures": CONTEXT, "actions": ACTIONS} | more
        return self.call("POST", "/v1.0/rank", body, expect)

    def reward(self, event: str, value: Any, expect: int = 204) -> Any:
        """Reward an event."""
        return self.call("POST", f"/v1.0/events/{event}/reward", {"value": value}, expect)

    def activate(self, event: str) -> None:
        """Activate an event."""
        self.call("POST", f"/v1.0/events/{event}/activate", None, 204)

    def decision(self, event: str) -> dict[str, Any]:
        """Return the explanation of an event's decision."""
        answer = self.http.get(f"/bandits/default/decisions/pz:default:{event}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Check that an answer has Personalizer's error shape; returns what is in it."""
    assert response.headers["content-type"].startswith("application/json"), response.text
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert {"code", "message"} <= set(error) <= {"code", "message", "target", "details"}
    assert error["code"] == response.headers["x-ms-error-code"]
    assert error["message"]
    return error


@pytest.fixture(scope="session")
def doorway(
    start_session_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A server whose first Rank creates the bandit."""
    config = tmp_path_factory.mktemp("doorway") / "bandexa.toml"
    config.write_text("[personalizer]\nenabled = true\ncreate = true\n")
    data: Path = config.parent / "data"
    return start_session_server(data, "--config", config)


@pytest.fixture(scope="session")
def personalizer(doorway: Any) -> Iterator[Personalizer]:
    """Calls to that server."""
    with doorway.client() as http:
        calls = Personalizer(http)
        calls.rank()  # which creates the bandit
        yield calls
