"""`bandexa clock`, on a running server and on its directory: a gap that nobody vouches for."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from service.cli import app
from service.store.clock import ClockState
from tests.fixtures.servers import Server

DAY_S = 86_400.0


def clock(*arguments: object, expect: int = 0) -> Any:
    result = CliRunner().invoke(app, ["clock", *map(str, arguments), "--json"])
    assert result.exit_code == expect, result.output
    return json.loads(result.stdout) if expect == 0 else result.stderr


def end_earlier(data_dir: Path, seconds: float) -> None:
    """Make a directory look as if its server had ended earlier, before the machine booted."""
    with closing(sqlite3.connect(data_dir / "bandexa.db")) as db, db:
        (text,) = db.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
        state = ClockState.unpacked(text)
        state = state._replace(
            wall=state.wall - seconds, service=state.service - seconds, boot="before"
        )
        db.execute("UPDATE meta SET value = ? WHERE key = 'clock'", (state.packed(),))


def reported(server: Server) -> tuple[int, list[str], float]:
    """Return the status of /learnz, its findings, and the metric of the offset."""
    answer = server.http.get("/learnz")
    metrics = server.http.get("/metrics").text.splitlines()
    (line,) = [m for m in metrics if m.startswith("bandexa_clock_offset_seconds ")]
    return (
        answer.status_code, [found["name"] for found in answer.json()["findings"]],
        float(line.split()[1]),
    )  # fmt: skip


def test_a_long_time_off_is_reported_until_an_operator_accepts_it(start_server) -> None:
    server = start_server()
    url = ("--url", server.url)
    assert abs(clock("show", *url)["offset_s"]) < 1.0
    refused = clock("accept", "--data-dir", server.data_dir, expect=1)
    assert "without --data-dir" in refused
    assert server.stop() == 0

    end_earlier(server.data_dir, 60 * DAY_S)
    server.start()
    status, findings, offset = reported(server)
    assert (status, findings) == (503, ["clock-ahead"])
    assert abs(offset - 60 * DAY_S) < 60.0
    assert "clock accept" in server.log_text()
    assert server.stop() == 0
    assert abs(clock("show", "--data-dir", server.data_dir)["offset_s"] - offset) < 60.0

    accepted = clock("accept", "--data-dir", server.data_dir)
    assert (accepted["offset_s"], round(accepted["wall"] - accepted["service"])) == (0.0, 0)
    server.start()
    assert reported(server)[:2] == (200, [])
    assert server.stop() == 0

    end_earlier(server.data_dir, 3 * DAY_S)  # a weekend
    server.start()
    assert reported(server) == (200, [], 0.0)
    assert server.stop() == 0

    end_earlier(server.data_dir, 60 * DAY_S)
    server.start()
    url = ("--url", server.url)
    assert clock("accept", *url)["offset_s"] == 0.0
    assert reported(server) == (200, [], 0.0)


def test_a_directory_without_a_store_is_refused(tmp_path: Path) -> None:
    for command in ("show", "accept"):
        assert str(tmp_path) in clock(command, "--data-dir", tmp_path, expect=2)
    assert list(tmp_path.iterdir()) == []
