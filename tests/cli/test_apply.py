"""`bandexa apply`: bandits are as a file says, and applying it again changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app

FILE = """
[bandits.{one}]
policy = "linear_ts"
context = {{ shape = [2] }}
action_dim = 1
seed = 4
encoder = {{ name = "concat" }}
posterior = {{ prior_var = {var} }}
actions = [{{ id = "x", features = [0.1] }}, {{ id = "y", features = [{y}] }}]

[bandits.{two}]
context = {{ features = {{ country = "category" }} }}
actions = {{ features = {{ kind = "category" }}, offered = [
    {{ id = "gift", features = {{ kind = "gift" }} }},
] }}
"""


@pytest.fixture
def run(server):
    def command(*arguments: object, expect: int = 0) -> Result:
        environment = {"BANDEXA_URL": server.url}
        result = CliRunner().invoke(app, [str(each) for each in arguments], env=environment)
        assert result.exit_code == expect, result.output
        return result

    return command


def test_a_file_is_applied_once_and_its_changes_after_that(api, run, tmp_path: Path) -> None:
    one, two = api.fresh("applied"), api.fresh("applied")
    file = tmp_path / "bandits.toml"

    def write(var: float, y: float) -> None:
        file.write_text(FILE.format(one=one, two=two, var=var, y=y))

    write(1.0, 0.3)
    shown = run("apply", file, "--diff", expect=1).stdout
    assert f"{one}: is new" in shown
    assert [each["name"] for each in api.call("GET", "/bandits")["bandits"]].count(one) == 0
    assert "2 of 2 bandits were created or changed" in run("apply", file).stdout
    positions = [api.state(name)["position"] for name in (one, two)]
    assert "0 of 2" in run("apply", file, "--diff").stdout
    assert "0 of 2" in run("apply", file).stdout
    assert [api.state(name)["position"] for name in (one, two)] == positions

    write(9.0, 0.5)
    found = json.loads(run("apply", file, "--diff", "--json", expect=1).stdout)
    assert [each["status"] for each in found] == ["changed", "unchanged"]
    assert found[0]["changes"] == [{"key": "posterior.prior_var", "old": 1.0, "new": 9.0}]
    assert (found[0]["relearned"], found[0]["actions"]) == (["posterior.prior_var"], ["y"])
    assert api.state(one)["position"] == positions[0]
    run("apply", file, "--quiet")
    assert api.state(one)["spec"]["posterior"]["prior_var"] == 9.0
    assert api.call("GET", f"/bandits/{one}/actions")["actions"][1]["features"] == [0.5]
    assert "0 of 2" in run("apply", file, "--diff").stdout

    write(9.0, 0.7)  # an action alone
    found = json.loads(run("apply", file, "--diff", "--json", expect=1).stdout)
    assert [each["status"] for each in found] == ["changed", "unchanged"]
    assert (found[0]["changes"], found[0]["actions"]) == ([], ["y"])


def test_what_the_log_cannot_answer_is_refused_with_both_values(api, run, tmp_path) -> None:
    name, file = api.fresh("applied"), tmp_path / "bandits.json"
    file.write_text(json.dumps({"bandits": {name: {"context": {"shape": [2]}}}}))
    run("apply", file, "--quiet")
    file.write_text(json.dumps({"bandits": {name: {"context": {"shape": [3]}}}}))
    refused = run("apply", file, expect=1).stderr
    assert f"bandits.{name}: context.shape: is [2] and cannot become [3]" in refused
    assert run("apply", file, "--diff", expect=2).stderr == refused
    file.write_text("{}")
    assert "no table `bandits`" in run("apply", file, expect=2).stderr


def test_nothing_is_changed_where_one_bandit_cannot_be_as_the_file_says(
    api, run, tmp_path: Path
) -> None:
    good, wrong, file = api.fresh("applied"), api.fresh("applied"), tmp_path / "bandits.json"
    spec = {"policy": "linear_ts", "context": {"features": {"age": "number"}}}
    tables = {good: spec, wrong: {"context": {"features": {"age": "nmber"}}}}
    file.write_text(json.dumps({"bandits": tables}))
    refused = run("apply", file, expect=1)
    assert refused.stdout == ""
    assert f"bandits.{wrong}: context.features.age.type: must be one of" in refused.stderr
    assert "did you mean 'number'?" in refused.stderr
    names = {each["name"] for each in api.call("GET", "/bandits")["bandits"]}
    assert not names & {good, wrong}


def test_a_difference_is_shown_by_its_path_and_warned_of(api, run, tmp_path: Path) -> None:
    name, file = api.fresh("applied"), tmp_path / "bandits.json"

    def write(**params: str) -> None:
        fields = {"age": {"type": "number", "scale": params.pop("scale")}, "device": "category"}
        table = {
            "policy": "linear_ts",
            "context": {"features": fields},
            "actions": {"features": "auto"},
            "encoder": {"name": "crosses", "params": params},
        }
        file.write_text(json.dumps({"bandits": {name: table}}))

    write(scale="auto")
    run("apply", file, "--quiet")
    write(scale="log", crosses="none")
    lines = run("apply", file, "--diff", expect=1).stdout.splitlines()
    assert lines[:2] == [
        f'{name}: context.features.age.scale: "auto" -> "log"',
        f'{name}: encoder.params.crosses: (none) -> "none"',
    ]
    assert lines[2].startswith(f"{name}: warning: encoder.params.crosses: without crosses")
    [found] = json.loads(run("apply", file, "--diff", "--json", expect=1).stdout)
    assert found["relearned"] == ["context.features", "encoder.params"]
    assert found["warnings"] == [lines[2].removeprefix(f"{name}: warning: ")]
