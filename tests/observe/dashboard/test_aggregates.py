"""The dashboard counts what is in the log, whatever happens to the server meanwhile."""

from __future__ import annotations

import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.ids import ActionId
from service.observe.counters import SECONDS, Tally
from service.observe.dashboard.aggregates import DELAYS_S, Counts
from service.observe.dashboard.follower import Follower
from service.observe.dashboard.views import series
from service.store.opening import open_counting, open_reader
from service.store.records import CountedRow
from service.store.sqlite.aggregates import AggregateReader, AggregateWriter

TABLES = ("buckets", "shares", "delays")


def rows(path: Path, live: set[str]) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        return {
            table: sorted(row for row in db.execute(f"SELECT * FROM {table}") if row[0] in live)
            for table in TABLES
        }


def rebuilt(database: Path, path: Path) -> Path:
    follower = Follower(open_counting(database), path, Tally())
    try:
        while follower.step():
            pass
    finally:
        follower.close()
    return path


def same(one: dict[str, list[tuple[Any, ...]]], other: dict[str, list[tuple[Any, ...]]]) -> None:
    for table in TABLES:
        assert len(one[table]) == len(other[table]), table
        for a, b in zip(one[table], other[table], strict=True):
            for left, right in zip(a, b, strict=True):
                if isinstance(left, float):
                    assert math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
                else:
                    assert left == right


def test_aggregates_rebuilt_from_the_log_equal_the_live_ones(
    start_server: Any, tmp_path: Path, feed: Any
) -> None:
    server = start_server()
    fed = feed(server.url)
    fed.shop("shop", rewards={"aggregate": "sum"})
    fed.shop("gone")
    for number in range(60):
        made = fed.call("POST", "/select", {"bandit": "shop", "context": [number / 60, 0.5, 1.0]})
        for part in range(number % 4):  # the later ones are corrections
            report = {"decision_id": made["decision_id"], "reward": 0.3 * part + 0.1}
            fed.call("POST", "/reward", report | {"reward_id": str(part)})
    fed.visit("gone", 0, 20)
    fed.counted("gone", 20)
    fed.counted("shop", 60)
    fed.call("DELETE", "/bandits/gone")
    fed.shop("gone")  # another bandit of that name
    fed.visit("gone", 100, 15)
    server.kill()
    again = start_server(server.data_dir)
    fed = feed(again.url)
    fed.visit("gone", 200, 25, k=2)
    fed.counted("gone", 40)
    fed.counted("shop", 60)
    lines = {one["name"]: one for one in fed.call("GET", "/dashboard/overview")["bandits"]}
    assert (lines["shop"]["decisions"], lines["gone"]["decisions"]) == (60, 40)
    assert lines["shop"]["rewards"] == 45
    assert again.stop() == 0
    database = again.data_dir / "bandexa.db"
    with open_reader(database) as reader:
        live = {str(record.uid) for record in reader.bandits()}
    rebuild = rebuilt(database, tmp_path / "again.db")
    same(rows(again.data_dir / "dashboard.db", live), rows(rebuild, live))


def test_a_damaged_or_missing_file_is_rebuilt(start_server: Any, feed: Any) -> None:
    server = start_server()
    fed = feed(server.url)
    fed.shop()
    fed.visit("shop", 0, 30)
    fed.counted("shop", 30)
    assert server.stop() == 0
    path = server.data_dir / "dashboard.db"
    for damage in ("torn", "none", "gone"):
        if damage == "torn":
            path.write_bytes(path.read_bytes()[:5000] + bytes(3000))
        elif damage == "none":
            path.write_bytes(b"no database" * 1000)
        else:
            path.unlink()
        again = start_server(server.data_dir)
        feed(again.url).counted("shop", 30)
        assert again.stop() == 0


def _decided(
    time: float,
    action: str,
    propensity: float | None = None,
    *,
    explored: bool | None = None,
    std: float | None = None,
) -> CountedRow:
    return CountedRow(0, time, (ActionId(action),), 0, propensity, explored, std)


def test_series_equal_closed_forms_of_the_counts(tmp_path: Path) -> None:
    now = time.time() // 3600 * 3600 + 1800.0
    counts = Counts()
    for number in range(8):
        action = "red" if number < 6 else "green"
        counts.add_decision("uid", _decided(now - 5, action, 0.5, explored=number < 2, std=0.25))
    for value in (1.0, 2.0, 3.0, 6.0):
        counts.add_value("uid", now - 5, value, 0.5)
    counts.correct_value("uid", now - 5, 6.0, 4.0)
    with AggregateWriter(tmp_path / "aggregates.db") as writer:
        writer.add(counts, {})
        times = [0] * (len(SECONDS) + 1)
        times[4] = 100
        writer.timed(now - 5, times)
    with AggregateReader(tmp_path / "aggregates.db") as reader:
        found = series(reader, "uid", "15m", now)
    at = found["time"].index((now - 5) // 10 * 10)
    assert found["selects"][at] == 8
    assert found["rewards"][at] == 4
    assert found["joined"][at] == 0.5
    assert found["reward"]["mean"][at] == 2.5
    half = 1.959964 * math.sqrt(5.0 / 3.0 / 4.0)
    assert found["reward"]["low"][at] == pytest.approx(2.5 - half)
    assert found["reward"]["high"][at] == pytest.approx(2.5 + half)
    assert found["exploration"]["explored"][at] == 0.25
    assert found["exploration"]["entropy"][at] == pytest.approx(math.log(2.0))
    assert found["spread"][at] == 0.25
    assert found["actions"]["ids"] == ["red", "green"]
    assert [column[at] for column in found["actions"]["share"]] == [0.75, 0.25]
    assert found["delay"]["counts"][DELAYS_S.index(1.0)] == 4
    assert SECONDS[3] <= found["latency"]["p50_ms"][at] / 1000 <= SECONDS[4]
    other = (at + 1) % len(found["time"])
    assert found["reward"]["mean"][other] is None


def test_actions_beyond_the_first_64_are_counted_together(tmp_path: Path) -> None:
    now = time.time()
    with AggregateWriter(tmp_path / "aggregates.db") as writer:
        for number in range(200):
            counts = Counts()
            counts.add_decision("uid", _decided(now, f"a{number}"))
            counts.add_decision("uid", _decided(now, "a0"))
            writer.add(counts, {})
    with AggregateReader(tmp_path / "aggregates.db") as reader:
        found = series(reader, "uid", "1h", now)["actions"]
    assert found["ids"][0] == "a0"
    shares = [value for column in found["share"] for value in column if value is not None]
    rest = [value for value in found["rest"] if value is not None]
    assert sum(shares) + sum(rest) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["15m", "1h", "6h", "1d", "7d", "30d", "all"])
def test_every_range_has_few_points_and_counts_everything(tmp_path: Path, name: str) -> None:
    now = time.time()
    counts = Counts()
    for ago in (1.0, 400.0, 86400.0 * 300):
        counts.add_decision("uid", _decided(now - ago, "a", 0.5, explored=False, std=0.1))
    with AggregateWriter(tmp_path / "aggregates.db") as writer:
        writer.add(counts, {})
    with AggregateReader(tmp_path / "aggregates.db") as reader:
        found = series(reader, "uid", name, now)
    assert len(found["time"]) <= 730
    assert sum(found["selects"]) == (3 if name == "all" else 2)
