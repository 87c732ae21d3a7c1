"""`bandexa export` and `evaluate`: of a running server, of its data directory, and of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from tests.fixtures.waiting import poll

Run = Callable[..., Result]
NUM = 240


@pytest.fixture(scope="module")
def run(server) -> Run:
    """Run a command against the session's server."""

    def command(*arguments: str, expect: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env={"BANDEXA_URL": server.url})
        assert result.exit_code == expect, result.output
        return result

    return command


@pytest.fixture(scope="module")
def shop(api) -> str:
    """A bandit that chose uniformly: action y earns .8, x .2; some rewards never came."""
    name: str = api.two_actions(policy="uniform")
    rng = np.random.default_rng(0)
    contexts = [{"bandit": name, "context": [number / NUM, 1.0]} for number in range(NUM)]
    answers = api.call("POST", "/select/batch", {"items": contexts})["items"]
    rewards = []
    for number, item in enumerate(answers):
        answer = item["answer"]
        chance = 0.8 if answer["action"]["id"] == "y" else 0.2
        if number % 12:
            reward = {"decision_id": answer["decision_id"], "reward": float(rng.random() < chance)}
            rewards.append(reward)
    api.call("POST", "/reward/batch", {"items": rewards})
    return name


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def decisions(file: Path) -> list[dict[str, Any]]:
    return [row for row in rows_of(file) if row["kind"] == "decision"]


def test_server_and_data_directory_export_the_same(
    run: Run, server, shop: str, tmp_path: Path
) -> None:
    remote, local = tmp_path / "remote.jsonl", tmp_path / "local.jsonl"
    assert f"{NUM} decisions" in run("export", shop, str(remote)).stdout
    run("export", shop, str(local), "--data-dir", str(server.data_dir))
    assert decisions(remote) == decisions(local)
    assert rows_of(remote)[0]["spec"] == rows_of(local)[0]["spec"]
    half = tmp_path / "half.jsonl"
    after = decisions(local)[99]["row"]
    run("export", shop, str(half), "--after", str(after), "--data-dir", str(server.data_dir))
    assert decisions(half) == decisions(local)[100:]


def test_parquet_has_the_rows_of_the_lines(run: Run, shop: str, tmp_path: Path) -> None:
    from service.tools.export.files import lines

    text, table = tmp_path / "log.jsonl", tmp_path / "log.parquet"
    run("export", shop, str(text))
    run("export", shop, str(table))
    wanted, found = list(lines(text)), list(lines(table))
    assert [row["kind"] for row in found] == [row["kind"] for row in wanted]
    for one, other in zip(wanted, found, strict=True):
        if one["kind"] != "decision":
            continue
        for key, value in one.items():
            if key == "rewards":
                kept = [{k: v for k, v in each.items() if k != "action"} for each in other[key]]
                assert kept == value
            else:
                assert other[key] == value, key
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(table, columns=["propensity", "value"])
    assert columns.num_rows == NUM


def test_dsjson_has_costs_and_probabilities(run: Run, shop: str, tmp_path: Path) -> None:
    file = tmp_path / "log.dsjson"
    run("export", shop, str(file))
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(found) == NUM - NUM // 12
    for line in found:
        assert line["_label_cost"] in (0.0, -1.0)
        assert line["_label_probability"] == 0.5
        assert line["a"][0] == line["_labelIndex"] + 1
        assert sum(line["p"]) == pytest.approx(1.0)
        assert [each["_tag"] for each in line["c"]["_multi"]] == ["x", "y"]
        assert line["c"]["_multi"][1]["f"] == [0, 1]


def test_a_file_is_never_overwritten_and_never_half_written(
    run: Run, server, shop: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("mine")
    assert "exists already" in run("export", shop, str(file), expect=2).stderr
    assert file.read_text() == "mine"
    other = tmp_path / "no.jsonl"
    data = ["--data-dir", str(server.data_dir)]
    assert "has no bandit" in run("export", "nobody", str(other), *data, expect=1).stderr
    assert "unknown-bandit" in run("export", "nobody", str(other), expect=1).stderr
    assert "is no format" in run("export", shop, str(tmp_path / "log.txt"), expect=2).stderr
    assert [each.name for each in tmp_path.iterdir()] == ["log.jsonl"]


def test_policies_are_evaluated_wherever_the_log_lies(
    run: Run, server, shop: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.parquet"
    run("export", shop, str(file))
    rule = tmp_path / "rule.py"
    rule.write_text("def policy(context, candidates):\n    return candidates[-1]['id']\n")
    # Which actions are drawn differs from run to run, so the interval is one that seldom errs.
    asked = ["--action", "y", "--policy", str(rule), "--json", "--alpha", "0.0001"]
    found = [
        json.loads(run("evaluate", *where, *asked, expect=1).stdout)
        for where in ([shop], [shop, "--data-dir", str(server.data_dir)], [str(file)])
    ]
    assert found[0]["policies"] == found[1]["policies"] == found[2]["policies"]
    assert found[0]["skipped"] == {"no value": NUM // 12}
    logged, _, action, own = found[0]["policies"]
    assert logged["policy"] == "logged"
    assert logged["concludes"]
    assert action["estimates"] == own["estimates"]
    assert action["interval"]["low"] <= 0.8 <= action["interval"]["high"]
    assert "fewer than 200" in action["reasons"][0]
    assert action["needed"]["rows"] > 0


def test_a_table_says_what_cannot_be_concluded(run: Run, shop: str) -> None:
    shown = run("evaluate", shop, "--action", "y", expect=1).stdout
    assert shown.splitlines()[0].split()[:3] == ["policy", "rows", "ips"]
    assert "action:y: nothing can be concluded: the weights amount to" in shown
    assert "20 of 240 decisions were left out: no value" in shown
    assert "--missing 0" in shown
    run("evaluate", shop)
    assert "range needs" in run("evaluate", shop, "--range", "2", "1", expect=2).stderr


def test_an_evaluation_is_drawn(run: Run, shop: str, tmp_path: Path) -> None:
    picture = tmp_path / "values.png"
    run("evaluate", shop, "--plot", str(picture), "--quiet")
    assert picture.read_bytes().startswith(b"\x89PNG")
    wrong = str(tmp_path / "values.none")
    assert "cannot be written" in run("evaluate", shop, "--plot", wrong, expect=2).stderr


def test_another_configuration_is_evaluated(run: Run, shop: str, tmp_path: Path) -> None:
    file = tmp_path / "linear.json"
    spec = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2}
    file.write_text(json.dumps(spec | {"encoder": {"name": "per_action"}}))
    answer = run("evaluate", shop, "--config", str(file), "--missing", "0", "--json", expect=1)
    scored = json.loads(answer.stdout)["policies"][2]
    assert scored["policy"] == "config:linear.json"
    assert scored["num"] == NUM
    assert scored["estimates"]["ips"]["value"] > 0.5
    file.write_text(json.dumps(spec | {"policy": "none"}))
    assert "policy" in run("evaluate", shop, "--config", str(file), expect=2).stderr
    file.write_text(json.dumps(spec | {"context": {"shape": [3]}}))
    assert "does not fit" in run("evaluate", shop, "--config", str(file), expect=2).stderr


def test_a_broken_file_is_no_evidence(run: Run, shop: str, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    run("export", shop, str(file))
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:-1]))
    assert "not complete" in run("evaluate", str(file), expect=2).stderr
    file.write_text("".join(text[1:]))
    assert "names no bandit" in run("evaluate", str(file), expect=2).stderr
    file.write_text("x")
    assert "line 1 is not of an export" in run("evaluate", str(file), expect=2).stderr


def test_advice_says_what_a_difference_needs_and_from_what_that_follows(
    run: Run, shop: str
) -> None:
    asked = ("--precision", ".1", "--decisions", "9000", "--variance", ".2")

    def counted() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(run("advise", shop, *asked, "--json").stdout)
        return found if found["inputs"]["num_values"] == NUM - NUM // 12 else None

    found = poll(counted, "all values are counted")
    assert (found["inputs"]["decisions"], found["inputs"]["values"]) == (9000, 8250)
    assert found["needed"]["control"] == pytest.approx(10 * 0.2 / (8250 * 0.1**2))
    shown = run("advise", shop, *asked).stdout
    assert "difference           0.1\n" in shown
    assert "A control of 2.42 % (share of an arm) shows" in shown
    assert "has 50 % of the decisions: that takes" in shown
    assert "precision" in run("advise", shop, "--precision", "7", expect=2).stderr
