"""/metrics serves what docs/metrics.md lists, in the right form and with the right values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from service.observe.counters import Tally
from service.training.messages import Heartbeat, event_in, line_of
from service.training.worker.heartbeat import Heartbeats

DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"
# Served once the server has run for ten minutes, which a server of many test files may have.
LATER = {"bandexa_store_growth_bytes_per_second", "bandexa_disk_full_in_seconds"}
STAGES = {"decode", "encode", "draw", "commit"}
# Base units and endings as Prometheus' guide to naming and `promtool check metrics` have them.
ENDINGS = re.compile(r"_(count|sum|bucket|created)$")
ABBREVIATED = re.compile(r"_(s|ms|us|milliseconds|minutes|hours|kb|mb|percent)(_|$)")


def samples(api) -> list[Sample]:
    text = api.http.get("/metrics").text
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def values(api, name: str, **labels: str) -> list[float]:
    return [s.value for s in samples(api) if s.name == name and labels.items() <= s.labels.items()]


def value(api, name: str, **labels: str) -> float:
    [found] = values(api, name, **labels)
    return found


@pytest.fixture(scope="module")
def busy(api) -> str:
    """A bandit with selects, rewards of every status, and a training round."""
    name: str = api.two_actions(
        policy="neural_linear_ts",
        encoder={"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}},
        training={"mode": "lockstep", "optimizer_steps": 4},
    )
    for number in range(4):
        decision = api.select(name, [number, 1])["decision_id"]
        if number < 3:
            api.reward(decision, number / 2)
    api.reward(decision, 0.0)
    api.reward(decision, 0.0)
    api.reward(decision, 1.0)
    api.call("POST", "/reward", {"decision_id": api.fresh(), "reward": 1}, 404)
    api.train(name)
    return name


def documented() -> dict[str, set[str]]:
    """Return the metrics of the table with their labels."""
    text = DOCUMENTED.read_text()
    table = re.findall(
        r"^\| ((?:`(?:bandexa|process)_[a-z_]+`(?:, )?)+) \|([a-z, ]*)\|", text, re.MULTILINE
    )
    found: dict[str, set[str]] = {}
    for names, labels in table:
        for name in re.findall(r"`([a-z_]+)`", names):
            assert name not in found, f"{name} is listed twice"
            found[name] = set(re.findall(r"[a-z]+", labels))
    return found


def test_the_table_lists_exactly_what_is_served(api, busy: str) -> None:
    served: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(api.http.get("/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for s in family.samples for label in s.labels} - {"le"}
        served[name] = labels
    listed = documented()
    assert set(served) - LATER == set(listed)
    for name, labels in served.items():
        # A metric without samples (no bandit has a finding) shows no labels.
        assert labels in (listed.get(name, set()), set()), name


def test_names_help_and_types_follow_prometheus_conventions(api, busy: str) -> None:
    """The rules of `promtool check metrics`; `make docs-check` runs promtool itself."""
    text = api.http.get("/metrics").text
    names = set()
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"(bandexa|process)_[a-z0-9_]+", family.name)
        assert family.name not in names
        names.add(family.name)
        assert family.documentation.strip()
        assert not ENDINGS.search(family.name)
        assert not ABBREVIATED.search(family.name)
        assert "total" not in family.name
        assert family.type in ("counter", "gauge", "histogram")
        if family.type == "gauge" and "info" in family.name:
            assert [s.value for s in family.samples] == [1.0]
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
            if family.type != "gauge":
                assert sample.value >= 0 or sample.name.endswith("_sum")
    assert text.endswith("\n")


def test_histograms_are_cumulative_and_add_up(api, busy: str) -> None:
    text = api.http.get("/metrics").text
    histograms = [f for f in text_string_to_metric_families(text) if f.type == "histogram"]
    assert len(histograms) >= 10
    for family in histograms:
        rows: dict[Any, dict[str, list[float]]] = {}
        for sample in family.samples:
            labels = dict(sample.labels)
            labels.pop("le", None)
            part = sample.name.removeprefix(family.name)
            row = rows.setdefault(tuple(sorted(labels.items())), {})
            row.setdefault(part, []).append(sample.value)
        for row in rows.values():
            assert row["_bucket"] == sorted(row["_bucket"])
            assert row["_bucket"][-1:] == row["_count"]


def test_a_tally_counts_like_a_histogram() -> None:
    tally = Tally([1.0, 2.0])
    for observed in (0.5, 1.0, 1.5, 2.0, 7.0):
        tally.observe(observed)
    assert tally.cumulative() == [(1.0, 2), (2.0, 4), (float("inf"), 5)]
    assert tally.total == 12.0


def test_each_request_is_counted_once(api, busy: str) -> None:
    assert value(api, "bandexa_selects_total", bandit=busy) == 4
    for status in ("applied", "duplicate", "ignored"):
        expected = 4 if status == "applied" else 1
        assert value(api, "bandexa_rewards_total", bandit=busy, status=status) == expected
    assert value(api, "bandexa_problems_total", type="unknown-decision") >= 1
    assert value(api, "bandexa_propensity_count", bandit=busy) == 4
    assert value(api, "bandexa_join_rate", bandit=busy) == 1.0
    mean = value(api, "bandexa_reward_mean", bandit=busy, policy="neural_linear_ts")
    assert mean == pytest.approx((0.0 + 0.5 + 1.0 + 0.0) / 4)


def test_every_stage_of_every_select_is_timed(api, busy: str) -> None:
    def counts() -> dict[str, float]:
        found = {
            s.labels["stage"]: s.value
            for s in samples(api)
            if s.name == "bandexa_select_stage_seconds_count"
        }
        return found | {"total": value(api, "bandexa_select_seconds_count")}

    def seconds() -> tuple[float, float]:
        whole = value(api, "bandexa_select_seconds_sum")
        return whole, sum(values(api, "bandexa_select_stage_seconds_sum"))

    before = counts()
    api.select(busy, [1, 2])
    items = [{"bandit": busy, "context": [n, 1]} for n in range(3)]
    api.call("POST", "/select/batch", {"items": items})
    assert counts() == {name: count + 4 for name, count in before.items()}
    assert set(before) == STAGES | {"total"}
    whole, parts = seconds()
    assert whole == pytest.approx(parts)


def test_commits_are_counted_with_their_writes(api, busy: str) -> None:
    before = value(api, "bandexa_commit_operations_sum")
    groups = value(api, "bandexa_commit_operations_count")
    items = [{"bandit": busy, "context": [n, 2]} for n in range(20)]
    api.call("POST", "/select/batch", {"items": items})
    assert value(api, "bandexa_commit_operations_sum") >= before + 20
    assert value(api, "bandexa_commit_operations_count") < groups + 20
    names = [f"bandexa_commit_{what}_count" for what in ("operations", "seconds", "sync_seconds")]
    assert len({s.value for s in samples(api) if s.name in names}) == 1


def test_the_served_model_and_its_training_are_reported(api, busy: str) -> None:
    state = api.state(busy)
    assert value(api, "bandexa_snapshot", bandit=busy) == state["snapshot"] == 1
    assert value(api, "bandexa_position", bandit=busy) == state["position"]
    assert value(api, "bandexa_position_lag", bandit=busy) == 0
    assert value(api, "bandexa_learned_values", bandit=busy) == 4
    assert value(api, "bandexa_untrained_values", bandit=busy) == 0
    assert value(api, "bandexa_actions", bandit=busy) == 2
    assert value(api, "bandexa_rows_waiting", bandit=busy) == 0
    assert 0 <= value(api, "bandexa_snapshot_age_seconds", bandit=busy) < 3600
    assert value(api, "bandexa_replay_rows", bandit=busy) == 4
    assert value(api, "bandexa_replay_bytes", bandit=busy) > 4 * 2 * 4
    api.teach(busy, [1, 1], "x", 1.0)
    assert value(api, "bandexa_position_lag", bandit=busy) == 1
    assert value(api, "bandexa_untrained_values", bandit=busy) == 1


def test_the_trainer_is_in_one_phase_and_rounds_are_timed(api, busy: str) -> None:
    names = [
        f"bandexa_{name}"
        for name in (
            "rounds_total",
            "round_seconds_count",
            "swaps_total",
            "swap_seconds_count",
            "swap_stall_seconds_count",
        )
    ]
    before = [value(api, name) for name in names]
    api.train(busy)
    assert all(value(api, name) > old for name, old in zip(names, before, strict=True))
    assert value(api, "bandexa_trainer_resident_bytes") > 1 << 20
    assert sum(values(api, "bandexa_trainer_phase")) == 1
    assert api.call("GET", "/readyz")["trainer"]["phase"] == "idle"


def test_a_deleted_bandit_leaves_no_metrics(api) -> None:
    name = api.two_actions()
    api.teach(name, [1, 1], "x", 1.0)
    assert value(api, "bandexa_selects_total", bandit=name) == 1
    api.call("DELETE", f"/bandits/{name}", expect=204)
    assert [s for s in samples(api) if s.labels.get("bandit") == name] == []


def test_heartbeats_come_from_the_work_itself() -> None:
    """Each phase is reported as it begins, and within a phase at most once a second."""
    reported: list[Heartbeat] = []
    beat = Heartbeats(reported.append)
    beat.begin()
    beat("replay")
    beat.set_replay(7, 700)
    for step in range(1000):
        beat("optimizer", step / 1000)
    beat("rebuild", 1.0)
    phases = [event.phase for event in reported]
    assert list(dict.fromkeys(phases)) == ["replay", "optimizer", "rebuild"]
    assert len(phases) < 10
    assert b"replay_rows" not in line_of(reported[0])
    assert (reported[1].replay_rows, reported[1].replay_bytes) == (7, 700)
    assert all(event_in(line_of(event)) == event for event in reported)


def test_requests_are_counted_by_method_route_and_status(api, busy: str) -> None:
    """A path of its own for each bandit, or for each guess, would make a label of its own."""

    def counted(method: str, route: str, status: int) -> float:
        labels = {"method": method, "route": route, "status": str(status)}
        return sum(values(api, "bandexa_http_requests_total", **labels))

    def timed(route: str) -> float:
        return sum(values(api, "bandexa_http_request_seconds_count", route=route))

    watched = [
        ("POST", "/select", 200), ("POST", "/select", 422), ("GET", "/bandits/{name}", 200),
        ("GET", "/bandits/{name}", 404), ("GET", "other", 404), ("other", "other", 404),
        ("POST", "/bandits/{name}", 405),
    ]  # fmt: skip
    before = [counted(*each) for each in watched]
    times = timed("/bandits/{name}")
    api.select(busy, [1, 1])
    api.call("POST", "/select", {"bandit": busy, "context": "no"}, 422)
    api.http.get(f"/bandits/{busy}")
    api.http.get(f"/bandits/{busy}s")
    api.http.get("/no/such/path")
    api.http.request("TRACE", "/no/such/path")
    api.http.post(f"/bandits/{busy}")
    after = [counted(*each) for each in watched]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1.0] * len(watched)
    assert timed("/bandits/{name}") >= times + 2
