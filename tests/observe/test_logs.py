"""Logs as JSON or text, of both processes, with the ids of decisions and without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from bandexa_core.ids import ActionId
from service.observe import log_output
from service.observe.logs import LogFormat, configure
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def play(start_server, api_of, tmp_path, toml: str) -> tuple[str, str]:
    """Decide, reward, be refused, train; returns the decision's id and the log."""
    config = tmp_path / "b.toml"
    config.write_text(toml)
    server = start_server(None, "--config", str(config))
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions()
        decision = api.select(name, [0.123456, 2], decision_id="visit-1")
        api.reward("visit-1", 0.5)
        api.reward("lost", 1.0, expect=404)
        api.select(name, [1, 2], decision_id="visit-1", expect=409)
        api.train(name)
        named = api.fresh()
        api.call("PUT", f"/bandits/{named}", {"context": {"features": {"age": "number"}}}, 201)
        api.call("PUT", f"/bandits/{named}/actions", {"actions": [{"id": "x"}]})
        refusal = api.select(named, {"age": "seventy-seven"}, 422)
        assert "seventy-seven" in refusal["detail"]
        api.select(named, {"age": 654321})
    assert server.stop() == 0
    return decision["action"]["id"], server.log_text()


def test_json_lines_name_the_decision_of_their_request(start_server, api_of, tmp_path) -> None:
    action, text = play(start_server, api_of, tmp_path, 'log_level = "debug"\n')
    found = lines(text)
    for line in found:
        assert {"event", "level", "logger", "timestamp"} <= set(line)
    decision, _ = [line for line in found if line["event"] == "decision"]
    assert decision["logger"] == "bandexa.decisions"
    assert decision["decision_id"] == "visit-1"
    assert decision["action"] == [action]
    assert {"bandit", "propensity", "snapshot", "position"} <= set(decision)
    [reward] = [line for line in found if line["event"] == "reward"]
    assert (reward["decision_id"], reward["reward"], reward["status"]) == (
        "visit-1", 0.5, "applied",
    )  # fmt: skip
    refused = [line for line in found if "is refused" in line["event"]]
    assert [line.get("decision_id") for line in refused] == ["lost", "visit-1", None]
    for secret in ("0.123456", "seventy-seven", "654321"):
        assert secret not in text


def test_decisions_are_not_logged_by_default(api, server) -> None:
    own_id = api.fresh("quiet")
    api.select(api.two_actions(), [1, 2], decision_id=own_id)
    api.reward(own_id, 1.0)
    assert own_id not in server.log_text()
    assert lines(server.log_text())


def test_text_is_for_people(start_server, api_of, tmp_path) -> None:
    _, text = play(start_server, api_of, tmp_path, 'log_format = "text"\nlog_level = "debug"\n')
    assert "visit-1" in text
    for line in text.splitlines():
        with pytest.raises(json.JSONDecodeError):
            json.loads(line)


@pytest.fixture
def logged(capsys) -> Iterator[Callable[..., str]]:
    """Configure the logs of this process and return what one call of a logger writes."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    for handler in root.handlers[:]:
        root.removeHandler(handler)  # `configure` would close those of the test runner

    def write(log_format: LogFormat, message: str, *values: object, **options: Any) -> str:
        configure(log_format, "info", "trainer")
        logging.getLogger("some.place").error(message, *values, **options)
        return str(capsys.readouterr().err)

    yield write
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in before[0]:
        root.addHandler(handler)
    root.setLevel(before[1])


def test_a_json_line_has_the_fields_of_the_record_in_one_line(logged) -> None:
    extra = {"bandit": "shop", "action": [ActionId("red")], "secret": "not a field"}
    line = logged("json", "%d rows\nwait", 3, extra=extra)
    assert line.count("\n") == 1
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", found.pop("timestamp"))
    assert found == {
        "event": "3 rows\nwait", "level": "error", "logger": "some.place", "bandit": "shop",
        "action": ["red"], "process": "trainer",
    }  # fmt: skip


def test_a_traceback_is_part_of_the_line(logged) -> None:
    try:
        raise ValueError("what happened")
    except ValueError:
        as_json = logged("json", "failed", exc_info=True)
        as_text = logged("text", "failed", exc_info=True, extra={"bandit": "shop"})
    assert json.loads(as_json)["exception"].endswith("ValueError: what happened")
    first, *_, last = as_text.splitlines()
    assert first.endswith("[error   ] failed [some.place] bandit=shop process=trainer")
    assert last == "ValueError: what happened"


def test_a_server_whose_log_nobody_reads_answers_and_ends(tmp_path) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data-dir", tmp_path / "data"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            url = json.loads(server.stdout.readline())["url"]
            with open_client(url) as http:
                for _ in range(600):  # an audit line each; a pipe has room for fewer
                    assert http.delete("/bandits/none").status_code == 404
                assert http.get("/readyz").json()["status"] == "ready"
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
            found = lines(server.stderr.read().rpartition("\n")[0])
            audits = [line for line in found if line["logger"] == "bandexa.audit"]
            assert 100 < len(audits) < 600, "what nobody read before the end is lost"
        finally:
            server.kill()


def test_lines_that_find_no_room_are_dropped_counted_and_reported(monkeypatch) -> None:
    monkeypatch.setattr(log_output, "dropped", 0)
    reader, writer = os.pipe()
    handler = log_output.UnreadHandler(writer, max_lines=5)
    wide = "x" * 70_000  # more than a pipe has room for
    with closing(os.fdopen(reader, encoding="utf-8")) as read:
        handler.emit(record(wide))
        poll(lambda: handler._lines.empty(), "the thread to begin with the line")
        for number in range(9):
            handler.emit(record(f"line {number}"))
        assert log_output.dropped == 4
        found = [read.readline() for _ in range(7)]
        assert found[0] == f"{wide}\n"
        assert found[1] == "4 log lines were dropped: nobody read standard error\n"
        assert found[2:] == [f"line {number}\n" for number in range(5)]
        handler.emit(record("later"))
        handler.flush()
        assert read.readline() == "later\n"
    os.close(writer)


@pytest.mark.parametrize("blocks", [True, False])
def test_every_line_arrives_whole_once_somebody_reads(monkeypatch, blocks: bool) -> None:
    monkeypatch.setattr(log_output, "dropped", 0)
    reader, writer = os.pipe()
    os.set_blocking(writer, blocks)
    handler = log_output.UnreadHandler(writer)
    for number in range(2000):  # more than the pipe has room for
        handler.emit(record(f"{number:0100}"))
    with closing(os.fdopen(reader, encoding="utf-8")) as read:
        assert [int(read.readline()) for _ in range(2000)] == list(range(2000))
    handler.emit(record("nobody reads any more"))
    handler.flush()
    assert log_output.dropped == 1
    os.close(writer)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, text, (), None)
