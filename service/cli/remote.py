"""Calls of the administrative commands: one request each, and errors with their remedies."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from service.cli.options import REFUSED, UNREACHABLE, USAGE, fail

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 3600.0  # a training round, or a snapshot of a gigabyte
REMEDIES = {
    "unauthorized": "give --api-key, or set BANDEXA_API_KEY",
    "forbidden": "take a key with that scope (bandexa keygen makes one)",
    "unknown-bandit": "`bandexa bandits list` shows which there are",
    "unknown-action": "`bandexa actions list BANDIT` shows which there are",
    "unknown-snapshot": "`bandexa snapshots list BANDIT` shows which there are",
    "conflict": "what cannot change needs a bandit of another name",
    "too-large": "the server's max_body_bytes or max_snapshot_bytes allows no more",
    "store-failed": "look at the server's disk and log",
}


class Remote:
    """The server at `url`; a command that it refuses ends."""

    def __init__(self, url: str, api_key: str | None) -> None:
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)
            known = self._http.base_url.scheme in ("http", "https") and self._http.base_url.host
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            fail(f"{url!r} or the key cannot be used: {error}", status=USAGE)
        if not known:
            fail(f"{url!r} is no address", "it looks like http://127.0.0.1:8080", USAGE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def json(self, method: str, path: str, body: Any = None, *, long: bool = False) -> Any:
        """Send JSON and return the JSON answer, None where it is empty."""
        response = self.send(method, path, json=body, long=long)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            fail(f"{response.url} answers no JSON", "is this the server's address?", UNREACHABLE)

    def send(
        self, method: str, path: str, *, long: bool = False, accept: int = 0, **content: Any
    ) -> httpx.Response:
        """Send a request; returns an answer below 400, or of status `accept`."""
        if content.get("json", "") is None:
            content.pop("json")
        timeout = LONG_TIMEOUT_S if long else TIMEOUT_S
        try:
            response = self._http.request(method, path, timeout=timeout, **content)
        except httpx.TimeoutException:
            fail(f"{self._http.base_url} does not answer in {timeout:g} s", status=UNREACHABLE)
        except httpx.TransportError as error:
            fail(
                f"{self._http.base_url} cannot be reached: {error}",
                "start it with `bandexa serve`, or give --url (or BANDEXA_URL)",
                UNREACHABLE,
            )
        if response.status_code >= 400 and response.status_code != accept:
            _refuse(response)
        return response


def _refuse(response: httpx.Response) -> None:
    status = UNREACHABLE if response.status_code in (429, 503) else REFUSED
    try:
        problem = response.json()
        kind = str(problem["type"]).rpartition(":")[2]
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        fail(
            f"{response.url} answers {response.status_code}, not as this service does",
            "is this the server's address?", status,
        )  # fmt: skip
    wait = response.headers.get("retry-after")
    retry = f"try again in {wait} s" if wait else ""
    fail(f"{detail} ({kind})", REMEDIES.get(kind, retry), status)


def of(bandit: str, *parts: str) -> str:
    """Return the path of a bandit, or of something that belongs to it."""
    return "/".join(["/bandits", *(quote(part, safe="") for part in (bandit, *parts))])
