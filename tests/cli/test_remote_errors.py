"""How a command ends whose call fails: one line with a remedy, and an exit status."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from service.cli import app, remote
from tests.client.scripted import Script, scripted


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted() as script:
        yield script


def problem(kind: str, detail: str = "it is so") -> dict[str, object]:
    return {"type": f"urn:bandexa:{kind}", "title": "t", "detail": detail}


@pytest.mark.parametrize(
    ("status", "body", "expected", "line"),
    [
        (401, problem("unauthorized"), 1, "it is so (unauthorized); give --api-key"),
        (403, problem("forbidden"), 1, "it is so (forbidden); use a key that may"),
        (409, problem("conflict"), 1, "it is so (conflict)\n"),
        (422, problem("invalid-request", "k: is\n wrong"), 1, "k: is wrong (invalid-request)\n"),
        (500, problem("internal"), 1, "it is so (internal)\n"),
        (429, problem("overloaded"), 3, "it is so (overloaded); try again in 7 s"),
        (503, problem("unavailable"), 3, "it is so (unavailable); try again in 7 s"),
        (503, problem("store-failed"), 3, "it is so (store-failed); check the server's disk"),
        (404, b"<html>no such page", 1, "404 without a reason: this is not an answer of Bandexa"),
        (502, b"<html>bad gateway", 1, "502 without a reason: this is not an answer of Bandexa"),
        (200, b"<html>welcome", 3, "does not follow the contract"),
        (200, {"bandits": 3}, 3, "bandits: expected a list, found 3"),
    ],
)
def test_a_failed_call_ends_the_command(
    script: Script, status: int, body: object, expected: int, line: str
) -> None:
    script.then(status, body, Retry_After="7")
    result = CliRunner().invoke(app, ["bandits", "list", "--url", script.url])
    assert result.exit_code == expected, result.output
    assert line in result.stderr
    assert result.stderr.startswith("bandexa: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    if expected != 1 and status < 400:
        assert "is this the server's address?" in result.stderr
    assert len(script.requests) == 1, "a command sends each call once"


def test_a_server_that_does_not_answer(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.05)
    script.then(200, {})
    script.go_on.clear()
    result = CliRunner().invoke(app, ["bandits", "list", "--url", script.url])
    assert result.exit_code == 3
    assert "no answer within 0.05 s" in result.stderr
    assert "bandexa serve" not in result.stderr


def test_a_key_that_no_header_can_hold(script: Script) -> None:
    arguments = ["bandits", "list", "--url", script.url, "--api-key", "\N{SNOWMAN}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "the API key cannot be used" in result.stderr
    assert script.requests == []


def test_a_key_and_the_addresses_path_are_sent(script: Script) -> None:
    script.then(200, {"bandits": []})
    arguments = ["bandits", "list", "--url", f"{script.url}/behind/", "--api-key", "bx_key"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert script.asked() == ("GET", "/behind/bandits?limit=1000")
    assert script.requests[0].headers["Authorization"] == "Bearer bx_key"
