"""`bandexa import`: exports and logs of Vowpal Wabbit become evidence of a bandit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.cli import app

Run = Callable[..., Result]
NUM = 60
CONTEXT = [0.3, 0.9]
PLAIN = {"name": "concat", "standardize": False}
WAITING = {"aggregate": "sum", "default_reward": 0.0, "reward_window_s": 60}
DISHES = ["soup", "salad", "cake"]


@pytest.fixture(scope="module")
def run(server) -> Run:
    """Run a command against the session's server."""

    def command(*arguments: str | Path, expect: int = 0) -> Result:
        texts = list(map(str, arguments))
        result = CliRunner().invoke(app, texts, env={"BANDEXA_URL": server.url})
        assert result.exit_code == expect, result.output
        return result

    return command


@pytest.fixture(scope="module")
def shop(api) -> str:
    """A bandit with decisions of several kinds, most of them rewarded."""
    name: str = api.two_actions(rewards={"aggregate": "last"}, encoder=PLAIN)
    rng = np.random.default_rng(0)
    for number in range(NUM):
        more: dict[str, Any] = {"all_propensities": True} if number % 3 else {}
        if number % 5 == 1:
            more["candidates"] = ["y", "x"]
        if number % 5 == 2:
            more["candidates"] = [
                {"id": "z", "features": [0.5, 0.5]},
                {"id": "x", "features": [1, 1]},
            ]
        if number % 7 == 3:
            more["k"] = 2
        made = api.select(name, [number / NUM, 1.0], **more)
        for each in (made["actions"] or [made["action"]])[: number % 8]:
            api.reward(made["decision_id"], float(rng.random()), action=each["id"])
    return name


@pytest.fixture(scope="module")
def log(run: Run, shop: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    file: Path = tmp_path_factory.mktemp("logs") / "shop.jsonl"
    run("export", shop, file)
    return file


def decisions(file: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, file.read_text().splitlines())
    return [row for row in rows if row["kind"] == "decision"]


def report(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def std_and_mean(api, name: str) -> list[tuple[str, float, float]]:
    return [(row["id"], row["mean"], row["std"]) for row in api.scores(name, CONTEXT)["scores"]]


def test_an_imported_export_gives_the_same_posterior(
    run: Run, api, shop: str, log: Path, tmp_path: Path
) -> None:
    copy = api.bandit(encoder=PLAIN, rewards=WAITING)
    first = report(run("import", copy, log, "--add-actions", "--json"))
    assert (first["rows"], first["imported"], first["complete"]) == (NUM, NUM, True)
    assert first["added_actions"] == ["x", "y"]
    for name in (shop, copy):  # the scale of inputs is that of the rows behind the newest round
        api.train(name)
    wanted, found = std_and_mean(api, shop), std_and_mean(api, copy)
    assert [row[0] for row in found] == [row[0] for row in wanted]
    np.testing.assert_allclose(
        [row[1:] for row in found], [row[1:] for row in wanted], rtol=0, atol=1e-9
    )
    state = api.state(copy)
    assert (state["imported"], state["learning"]["join_rate"]) == (NUM, None)
    again = report(run("import", copy, log, "--add-actions", "--json"))
    assert (again["imported"], again["duplicate"], again["added_actions"]) == (0, NUM, [])
    unchanged = api.state(copy)
    # A finding says since when it is there a few seconds after it was seen first.
    assert {**unchanged, "learning": None} == {**state, "learning": None}
    assert unchanged["learning"]["join_rate"] is None
    # Its own export says what was imported, and is the evidence that the first one is.
    back = tmp_path / "copy.jsonl"
    run("export", copy, back)
    kept = (
        "time", "context", "candidates", "features", "action", "index", "action_features",
        "propensity", "value",
    )  # fmt: skip
    for one, other in zip(decisions(log), decisions(back), strict=True):
        assert other["imported"] == one["decision_id"]
        assert {key: one.get(key) for key in kept} == {key: other.get(key) for key in kept}
        assert one.get("propensities") == other.get("propensities")
        assert [a["value"] for a in one.get("actions", ())] == [
            a["value"] for a in other.get("actions", ())
        ]
    explained = api.call("GET", f"/bandits/{copy}/decisions/{decisions(back)[0]['decision_id']}")
    assert explained["imported"] == decisions(log)[0]["decision_id"]
    assert "imported" in explained["reason"]
    ours, theirs = (
        report(run("evaluate", file, "--json", "--range", "0", "1"))["policies"]
        for file in (back, log)
    )
    assert ours == theirs
    # Of what is served here, nothing was rewarded so far.
    api.select(copy, CONTEXT)
    assert api.state(copy)["learning"]["join_rate"] == 0.0


def test_an_import_that_was_cut_off_goes_on(run: Run, api, log: Path, tmp_path: Path) -> None:
    whole, resumed = api.two_actions(encoder=PLAIN), api.two_actions(encoder=PLAIN)
    run("import", whole, log)
    lines = log.read_text().splitlines(keepends=True)
    half = tmp_path / "half.jsonl"
    half.write_text("".join(lines[: NUM // 2]))
    assert "not complete" in run("import", resumed, half, expect=2).stderr
    assert 0 < api.state(resumed)["imported"] < NUM
    run("import", resumed, log)
    files = []
    for name in (whole, resumed):
        files.append(tmp_path / f"{name}.jsonl")
        run("export", name, files[-1])
    ids = ("decision_id", "row", "position", "snapshot")  # a round may come in between
    one, other = (
        [{key: row[key] for key in row if key not in ids} for row in decisions(file)]
        for file in files
    )
    assert one == other
    wanted, found = std_and_mean(api, whole), std_and_mean(api, resumed)
    np.testing.assert_allclose(
        [row[1:] for row in found], [row[1:] for row in wanted], rtol=0, atol=1e-9
    )


def test_what_does_not_fit_is_named_by_its_line(run: Run, api, shop: str, log: Path) -> None:
    empty = api.bandit()
    refused = run("import", empty, log, "--json", expect=1)
    found = report(refused)
    num_listed = sum(row.get("features") is None for row in decisions(log))
    assert (found["refused"], found["imported"]) == (num_listed, NUM - num_listed)
    assert found["problems"][0] == {
        "line": 3, "reason": "the bandit has no action 'x': --add-actions adds it",
    }  # fmt: skip
    assert "of this bandit itself" in run("import", shop, log, expect=2).stderr
    assert "is no format" in run("import", empty, "log.xml", expect=2).stderr


def test_a_dry_run_changes_nothing(run: Run, api, shop: str, tmp_path: Path) -> None:
    name, log = api.bandit(), tmp_path / "shop.parquet"
    run("export", shop, log)
    found = report(run("import", name, log, "--add-actions", "--dry-run", "--json"))
    assert (found["imported"], found["added_actions"], found["dry_run"]) == (NUM, ["x", "y"], True)
    assert api.state(name)["position"] == 0
    found = report(run("import", name, log, "--add-actions", "--json"))
    assert (found["imported"], found["added_actions"]) == (NUM, ["x", "y"])


@pytest.mark.few(1)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_metrics_go_from_log_to_log(api, run: Run, tmp_path: Path, suffix: str) -> None:
    """A bandit that learns of metrics gets them, and any other one the values that they made."""
    rules = {"learn": {"money": 1.0, "click": 0.5}, "aggregate": "sum"}
    spec: dict[str, Any] = {"encoder": PLAIN, "reward_range": [0, 9]}
    name, same, single = (
        api.two_actions(rewards=each, **spec) for each in (rules, rules, {"aggregate": "sum"})
    )
    for number in range(8):
        made = api.select(name, [number / 8, 1.0], k=1 + number % 2)
        for each in made["actions"] or [made["action"]]:
            body = {"decision_id": made["decision_id"], "action": each["id"], "reward_id": "r"}
            metrics = {"click": number % 2, "money": number} if number % 3 else {"click": 1}
            api.call("POST", "/reward", body | {"metrics": metrics})
    file = tmp_path / f"log.{suffix}"
    run("export", name, file)
    for target in (same, single):
        run("import", target, file)
        for expected, found in zip(std_and_mean(api, name), std_and_mean(api, target), strict=True):
            assert found[1:] == pytest.approx(expected[1:], rel=1e-9)
    assert api.state(same)["metrics"] == api.state(name)["metrics"]
    assert api.state(single)["metrics"] is None
    item = {"id": "x", "context": [0, 1], "action": "x", "value": 1, "metrics": {"click": 1}}
    answer = api.call("POST", f"/bandits/{same}/log", {"items": [item]})["items"][0]
    assert answer["error"]["errors"][0]["field"] == "metrics"
