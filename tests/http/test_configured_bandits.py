"""Bandits in the server's TOML: the first start creates them; wrong ones prevent the start."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.http.configured import bandit_schema, parse
from service.settings import SettingsError, load_settings
from tests.fixtures.commands import bandexa

ROOT = Path(__file__).parents[2]
TOML = """
[bandits.shop]
policy = "linear_ts"
action_dim = 0
actions = ["ten-percent", { id = "nothing", enabled = false }]
context = { shape = [4] }
encoder = { name = "per_action" }
training = { train_every = 500 }

[bandits.gifts]
context.features = "auto"
actions.features = "auto"
actions.offered = [{ id = "a", features = { kind = "tea", price = 9.5 } }]

[bandits.news]
policy = "neural_linear_ts"
action_dim = 2
context.shape = [3]
encoder = { name = "mlp", params = { hidden = [8] } }
actions = [{ id = "a", features = [1, 0] }, { id = "b", features = [0, 1] }]
"""


def serve(tmp_path: Path, toml: str) -> subprocess.CompletedProcess[str]:
    """Run `bandexa serve` where it must refuse to start."""
    config = tmp_path / "refused.toml"
    config.write_text(toml)
    return bandexa("serve", "--port", 0, "--config", config, "--data-dir", tmp_path / "data0")


def test_they_are_made_once_and_changed_as_a_put_would(start_server, api_of, tmp_path) -> None:
    config = tmp_path / "b.toml"
    config.write_text(TOML)
    server = start_server(tmp_path / "data0", "--config", str(config))
    with server.client() as client:
        api = api_of(client)
        first = {name: api.state(name) for name in ("shop", "news", "gifts")}
        assert first["shop"]["num_actions"] == 1
        assert first["shop"]["spec"]["training"]["train_every"] == 500
        assert [first[name]["position"] for name in first] == [1, 1, 1]
        api.teach("news", [1, 2, 3], "b", 1.0)
        uid = first["news"]["uid"]
    assert server.stop() == 0

    config.write_text(TOML.replace("= 500", "= 600").replace("[0, 1]", "[0, 2]"))
    server = start_server(tmp_path / "data0", "--config", str(config))
    with server.client() as client:
        api = api_of(client)
        assert api.state("shop")["spec"]["training"]["train_every"] == 600
        assert api.state("shop")["position"] == 2  # the configuration alone: no action changed
        news = api.state("news")
        assert (news["uid"], news["position"], news["num_learned"]) == (uid, 3, 1)
        actions = api.call("GET", "/bandits/news/actions")["actions"]
        assert [action["features"] for action in actions] == [[1, 0], [0, 2]]
        assert api.state("gifts") == first["gifts"], "equal actions make no row"
    assert server.stop() == 0

    refused = serve(tmp_path, TOML.replace("shape = [4]", "shape = [5]"))
    assert refused.returncode == 2
    assert (
        "cannot start: bandits.shop: context.shape: is [4] and cannot become [5]" in refused.stderr
    )
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('policy = "linear_ts"', "context"),
        ('policy = "linear"\ncontext.shape = [2]', "policy"),
        ('policy = "linear_ts"\ncontext.shape = [2]\nprior = 1', "prior"),
        ('policy = "linear_ts"\ncontext.shape = [0]', "shape"),
        ('policy = "linear_ts"\ncontext.shape = [2]\nactions = ["a b"]', "actions"),
        ('policy = "linear_ts"\ncontext.shape = [2]\nactions = ["a", "a"]', "twice"),
        ('policy = "linear_ts"\ncontext.shape = [2]\nactions = [{ name = "a" }]', "actions"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_opened(tmp_path, toml: str, named: str) -> None:
    config = tmp_path / "b.toml"
    config.write_text(f"[bandits.shop]\n{toml}\n")
    settings = load_settings(config)
    with pytest.raises(SettingsError, match=rf"bandits\.shop.*{named}"):
        parse(settings.bandits)


def test_a_wrong_bandit_refuses_the_start_with_status_2(tmp_path) -> None:
    refused = serve(tmp_path, '[bandits."a b"]\npolicy = "linear_ts"\ncontext.shape = [2]\n')
    assert refused.returncode == 2
    assert "bandits.a b" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "data0").exists()


def test_the_published_schema_is_that_of_the_code() -> None:
    published = json.loads((ROOT / "docs" / "bandit.schema.json").read_text())
    assert published == json.loads(json.dumps(bandit_schema()))


def test_the_schema_takes_what_the_parser_takes() -> None:
    takes = jsonschema_rs.validator_for(bandit_schema()).is_valid
    good: dict[str, Any] = {"policy": "linear_ts", "context": {"shape": [2]}, "actions": ["a"]}
    changes: list[dict[str, Any]] = [
        {}, {"prior": 1}, {"policy": "x"}, {"actions": [1]}, {"context": {}},
        {"actions": [{"id": "a", "features": [1, 2]}]}, {"actions": [{"name": "a"}]},
        {"actions": {"features": "auto"}, "context": {"features": {"age": "number"}}},
        {"actions": {"features": "auto", "offered": ["a", {"id": "b", "features": {"x": 1}}]}},
        {"actions": {"offered": [1]}}, {"actions": {"feature": "auto"}},
    ]  # fmt: skip
    for change in changes:
        try:
            parse({"shop": good | change})
        except SettingsError:
            assert not takes(good | change), change
        else:
            assert takes(good | change), change
