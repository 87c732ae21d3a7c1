"""Administration of a running server from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app

SPEC = {"policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1}
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run(server) -> Run:
    """Run a command against the session's server: `run(*arguments, expect=0, stdin=None)`."""

    def command(*arguments: str, expect: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(
            app, list(arguments), input=stdin, env={"BANDEXA_URL": server.url}
        )
        assert result.exit_code == expect, result.output
        return result

    return command


def of_json(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_bandit_from_a_file_to_its_deletion(api, run: Run, tmp_path: Path) -> None:
    name = api.fresh("cli")
    file = tmp_path / "bandit.json"
    file.write_text(json.dumps(SPEC | {"actions": [{"id": "x", "features": [1, 0]}]}))
    created = run("bandits", "create", name, "--file", str(file))
    assert created.stdout == f"{name}: created, 1 actions\n"
    again = run("bandits", "create", name, "--file", str(file), "--json")
    assert of_json(again)["num_actions"] == 1

    assert name in run("bandits", "list", "--quiet").stdout.splitlines()
    row = next(b for b in of_json(run("bandits", "list", "--json")) if b["name"] == name)
    assert row["spec"]["seed"] == 1
    table = run("bandits", "list").stdout.splitlines()
    assert table[0].split()[:3] == ["bandit", "policy", "actions"]
    assert [name, "linear_ts", "1"] in [line.split()[:3] for line in table]
    assert of_json(run("bandits", "show", name, "--json"))["name"] == name
    shown = run("bandits", "show", name).stdout
    assert ["spec.seed", "1"] in [line.split() for line in shown.splitlines()]

    refused = run("bandits", "delete", name, expect=2)
    assert "--yes" in refused.stderr
    assert run("bandits", "delete", name, "--yes").stdout == f"{name}: deleted\n"
    assert "unknown-bandit" in run("bandits", "show", name, expect=1).stderr


def test_a_bandit_is_read_from_toml_or_standard_input(api, run: Run, tmp_path: Path) -> None:
    name, second = api.fresh("cli"), api.fresh("cli")
    file = tmp_path / "bandit.toml"
    file.write_text('policy = "uniform"\nactions = ["a", "b"]\n[context]\nshape = [3]\n')
    run("bandits", "create", name, "--file", str(file), "--quiet")
    run("bandits", "create", second, "--file", "-", "--quiet", stdin=json.dumps(SPEC))
    assert api.state(name)["num_actions"] == 2
    assert api.state(second)["spec"]["seed"] == 1


def test_actions_are_put_listed_and_retired(api, run: Run, tmp_path: Path) -> None:
    name = api.bandit(action_dim=0)
    answer = run("actions", "put", name, "a", "b", "c")
    assert answer.stdout == f"{name}: 3 actions are offered\n"
    run("actions", "retire", name, "a", "b", "--quiet")
    assert run("actions", "list", name, "--quiet").stdout == "c\n"
    table = [line.split() for line in run("actions", "list", name).stdout.splitlines()]
    assert table[1:] == [["0", "a", "retired"], ["1", "b", "retired"], ["2", "c", "offered"]]
    listed = of_json(run("actions", "list", name, "--json"))
    assert [action["id"] for action in listed] == ["a", "b", "c"]

    featured = api.bandit()
    file = tmp_path / "actions.json"
    file.write_text(json.dumps([{"id": "x", "features": [1, 2]}, {"id": "y", "features": [3, 4]}]))
    assert of_json(run("actions", "put", featured, "--file", str(file), "--json")) == {
        "num_actions": 2, "position": 1,
    }  # fmt: skip
    assert "unknown-action" in run("actions", "retire", featured, "z", expect=1).stderr
    assert "features" in run("actions", "put", featured, "new", expect=1).stderr
    for wrong in ([], ["a", "--file", "f"]):
        run("actions", "put", featured, *wrong, expect=2)


def test_limits_of_actions_and_findings(api, run: Run) -> None:
    name = api.two_actions(reward_range=[0, 1])
    a, b = run("actions", "list", name, "--quiet").stdout.split()
    run("actions", "limit", name, a, "--floor", "0.1", "--max-share", "0.5")
    run("actions", "limit", name, b, "--until", "2999-01-01T00:00:00+01:00")
    changed = of_json(run("actions", "limit", name, a, "--floor", "0.2", "--json"))
    assert changed == {
        a: {"floor": 0.2, "max_share": 0.5, "starts_at": None, "ends_at": None},
        b: {"floor": 0.0, "max_share": 1.0, "starts_at": None,
            "ends_at": "2998-12-31T23:00:00Z"},
    }  # fmt: skip
    listed = [line.split() for line in run("actions", "limits", name).stdout.splitlines()]
    assert listed[1] == [a, "0.2", "0.5", "-", "-"]
    run("actions", "limit", name, a, "--remove")
    assert list(of_json(run("actions", "limits", name, "--json"))) == [b]
    assert "either limits or --remove" in run("actions", "limit", name, a, expect=2).stderr
    refused = run("actions", "limit", name, a, "--floor", "1.5", expect=1)
    assert "floor" in refused.stderr
    assert list(of_json(run("actions", "limits", name, "--json"))) == [b]
    assert of_json(run("bandits", "findings", name, "--json")) == []


def test_challengers_are_declared_promoted_demoted_and_deleted(
    api, run: Run, tmp_path: Path
) -> None:
    name = api.two_actions(encoder={"name": "concat"})
    for _ in range(3):
        api.teach(name, [1, 2], "x", 1.0)
    file = tmp_path / "products.json"
    file.write_text(json.dumps({"encoder": {"name": "bilinear"}, "promotion": {"margin": 0.5}}))
    put = run("challengers", "put", name, "products", "--file", str(file))
    assert put.stdout == "products: learning\n"
    assert run("challengers", "put", name, "greedy", "--quiet").stdout == ""
    assert run("challengers", "list", name, "--quiet").stdout == "greedy\nproducts\n"
    table = run("challengers", "list", name).stdout.splitlines()
    assert table[0].split()[:4] == ["challenger", "state", "share", "decisions"]
    assert table[2].split() == ["products", "learning", "0", "0", "not", "compared", "yet"]
    listed = of_json(run("challengers", "list", name, "--json"))
    assert [each["name"] for each in listed] == ["greedy", "products"]
    assert listed[1]["promotion"]["margin"] == 0.5

    tried = run("challengers", "promote", name, "products", "--share", "0.25")
    assert tried.stdout == "products: trial, share 0.25\n"
    assert api.state(name)["arms"][0]["share"] == 0.25
    assert run("challengers", "demote", name, "products").stdout == "products: learning, share 0\n"
    assert api.state(name)["arms"] == []
    served = run("challengers", "promote", name, "products")
    assert served.stdout == "products: served, share 1\n"
    assert api.state(name)["spec"]["encoder"]["name"] == "bilinear"
    run("challengers", "demote", name, "products", "--quiet")
    assert api.state(name)["spec"]["encoder"]["name"] == "concat"
    again = run("challengers", "demote", name, "products", expect=1)
    assert "neither tried out nor served" in again.stderr
    assert run("challengers", "delete", name, "greedy").stdout == "greedy: deleted\n"
    assert [each["name"] for each in api.state(name)["challengers"]] == ["products"]


def test_train_export_import_and_roll_back(api, run: Run, tmp_path: Path) -> None:
    name, copy = api.two_actions(), api.two_actions()
    api.teach(name, [1, 2], "x", 1.0)
    trained = of_json(run("train", name, "--json"))
    assert (trained["trained"], trained["snapshot"]) == (True, 1)
    assert "queued" in run("train", name, "--no-wait").stdout
    file = tmp_path / "model.snapshot"
    run("snapshots", "export", name, str(file))
    assert "exists already" in run("snapshots", "export", name, str(file), expect=2).stderr
    run("snapshots", "import", copy, str(file))
    assert api.means(copy, [1, 1]) == api.means(name, [1, 1])

    rows = of_json(run("snapshots", "list", copy, "--json"))
    assert [row["snapshot"] for row in rows] == [0, 1]
    assert [row["state"] for row in rows] == ["", "served"]
    assert run("snapshots", "list", copy, "--quiet").stdout == "0\n1\n"
    back = of_json(run("rollback", copy, "0", "--json"))
    assert back["snapshot"] == 2
    assert api.means(copy, [1, 1]) == [0.0, 0.0]
    assert "unknown-snapshot" in run("rollback", copy, "9", expect=1).stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["bandits", "show", "nobody"], 1, "bandits list"),
        (["bandits", "list", "--url", "http://127.0.0.1:1"], 3, "bandexa serve"),
        (["bandits", "list", "--url", "nowhere"], 2, "http://"),
        (["bandits", "list", "--url", "http://[::"], 2, "cannot be used"),
        (["bandits", "create", "b", "--file", "/no/such.json"], 2, "/no/such.json"),
        (["snapshots", "import", "b", "/no/such"], 2, "/no/such"),
        (["snapshots", "list"], 2, "--data-dir"),
        (["rollback", "b", "-1"], 2, "-1"),
        (["train", "nobody", "--quiet"], 1, "unknown-bandit"),
    ],
)
def test_an_error_is_one_line_with_its_remedy_and_a_status(
    run: Run, arguments: list[str], status: int, said: str
) -> None:
    result = run(*arguments, expect=status)
    assert said in result.stderr
    assert "Traceback" not in result.output
    if not result.stderr.startswith("Usage"):
        assert result.stderr.startswith("bandexa: ")
        assert result.stderr.count("\n") == 1


def test_a_refusal_of_the_server_is_printed(api, run: Run, tmp_path: Path) -> None:
    name = api.two_actions()
    file = tmp_path / "other.json"
    file.write_text(json.dumps(SPEC | {"action_dim": 5}))
    refused = run("bandits", "create", name, "--file", str(file), expect=1)
    assert "action_dim" in refused.stderr
    assert "conflict" in refused.stderr
    file.write_text("{")
    assert "TOML" in run("bandits", "create", name, "--file", str(file), expect=2).stderr
    file.write_text("[]")
    assert "schema" in run("bandits", "create", name, "--file", str(file), expect=2).stderr


def test_named_features_from_a_file(api, run: Run, tmp_path: Path) -> None:
    """The table of actions has what describes them, and those to offer."""
    name = api.fresh("cli")
    file = tmp_path / "shop.toml"
    file.write_text(
        'context.features = "auto"\n'
        '[actions]\nfeatures = "auto"\n'
        'offered = [{id = "gift", features = {kind = "gift", price = 9.5}}, {id = "tea"}]\n'
    )
    refused = run("bandits", "create", name, "--file", str(file), expect=1)
    assert "give features for every action listed" in refused.stderr
    file.write_text(file.read_text().replace('{id = "tea"}', '{id = "tea", features = {}}'))
    created = run("bandits", "create", name, "--file", str(file))
    assert created.stdout.endswith(" 2 actions\n")
    more = json.dumps([{"id": "book", "features": {"kind": "book", "title": "y" * 80}}])
    run("actions", "put", name, "--file", "-", stdin=more)
    listed = run("actions", "list", name).stdout
    assert '{"kind": "gift", "price": 9.5}' in listed
    assert "yyy ..." in listed
    assert of_json(run("actions", "list", name, "--json"))[1]["features"] == {}
    api.select(name, {"user": {"age": 3}})
    shown = run("bandits", "show", name).stdout
    assert "context: 64 inputs, before the first round; 1 objects counted since" in shown
    assert re.search(r"^user\.age +not typed yet .* keep$", shown, re.M)
    assert "features.context" not in shown
    assert of_json(run("bandits", "show", name, "--json"))["features"]["context"]["num_columns"]


def test_fields_and_crosses_are_shown_as_tables(api, run: Run) -> None:
    name = api.fresh("cli")
    spec = {"policy": "linear_ts", "context": {"features": {"age": "number", "device": "category"}}}
    spec |= {"actions": {"features": "auto"}, "training": {"mode": "lockstep"}}
    api.call("PUT", f"/bandits/{name}", spec, 201)
    actions = [{"id": one, "features": {"kind": one}} for one in "xy"]
    api.call("PUT", f"/bandits/{name}/actions", {"actions": actions})
    for number in range(40):
        device = ("phone", "pc")[number % 2]
        made = api.select(name, {"age": 30 + number % 7, "device": device})
        api.reward(made["decision_id"], float((made["action"]["id"] == "x") == (device == "pc")))
    api.train(name)
    for number in range(4):
        api.select(
            name, {"age": ["x12", None, "31", 32][number], "device": "tv"}, [422, 200][number > 0]
        )
    shown = run("bandits", "show", name).stdout
    assert re.search(r"^context: \d+ inputs, from 40 values; 3 objects counted since$", shown, re.M)
    assert re.search(r"^age +number +\d+ +33% +33% .*keep$", shown, re.M), "missing, converted"
    assert re.search(r"^device +category +\d+ +100% .*keep$", shown, re.M), "unseen"
    assert re.search(r"^device +kind +\d+ +[\d.]+$", shown, re.M), "the cross that was chosen"


def test_what_cannot_be_learned_is_warned_of_where_it_is_created(
    api, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "blind.toml"
    file.write_text('policy = "linear_ts"\ncontext.shape = [2]\nencoder.name = "bilinear"\n')
    made = run("bandits", "create", api.fresh("cli"), "--file", str(file))
    assert made.stderr.startswith("warning: encoder.name: bilinear knows actions by their features")
