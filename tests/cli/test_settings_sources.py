"""Settings: arguments over environment over TOML over defaults, and nothing unknown passes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings, SettingsError, load_settings
from tests.fixtures.commands import bandexa


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("BANDEXA_"):
            monkeypatch.delenv(name)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bandexa.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_safe() -> None:
    settings = load_settings(None)
    assert settings.host == "127.0.0.1"
    assert settings.durability == "commit"
    assert settings.encoders == {}


def test_each_source_wins_over_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml(tmp_path, 'port = 1001\nlog_level = "error"\nkeep_snapshots = 7\ndevice = "cpu"\n')
    monkeypatch.setenv("BANDEXA_PORT", "1002")
    monkeypatch.setenv("BANDEXA_LOG_LEVEL", "debug")
    settings = load_settings(path, port=1003, device=None)
    assert settings.port == 1003
    assert settings.log_level == "debug"
    assert settings.keep_snapshots == 7
    assert settings.device == "cpu"
    assert load_settings(path).port == 1002
    monkeypatch.delenv("BANDEXA_PORT")
    assert load_settings(path).port == 1001
    assert load_settings(None).port == 8080


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "host": "0.0.0.0", "port": 9, "data_dir": "/d", "replay_dir": "/r", "durability": "os",
        "device": "cuda", "service_threads": 2, "trainer_threads": 3, "trainer_niceness": 4,
        "max_body_bytes": 2048, "max_snapshot_bytes": 4096, "max_inline_bytes": 5,
        "keep_snapshots": 6, "log_level": "warning", "max_rewards_per_decision": 3,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"BANDEXA_{name.upper()}", str(value))
    monkeypatch.setenv("BANDEXA_ENCODERS__MINE", "package.module:Class")
    monkeypatch.setenv("BANDEXA_WEIGHTS__MINE", "/weights.pth")
    settings = load_settings(None)
    for name, value in values.items():
        assert getattr(settings, name) == (Path(value) if name.endswith("_dir") else value)
    assert settings.encoders == {"mine": "package.module:Class"}
    assert settings.weights == {"mine": Path("/weights.pth")}
    assert set(Settings.model_fields) >= {*values, "encoders", "weights"}


KUBERNETES = {
    "PORT": "tcp://10.0.0.1:8080", "SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "8080",
    "SERVICE_PORT_HTTP": "8080", "PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "PORT_8080_TCP_PROTO": "tcp", "PORT_8080_TCP_PORT": "8080", "PORT_8080_TCP_ADDR": "10.0.0.1",
    "PORT_53_UDP": "udp://10.0.0.1:53", "PORT_53_UDP_PROTO": "udp",
}  # fmt: skip


@pytest.mark.parametrize("service", ["BANDEXA", "BANDEXA_API"])
def test_what_kubernetes_sets_for_a_service_of_that_name_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(f"{service}_{name}", value)
    assert load_settings(None) == Settings()
    assert load_settings(None, port=9).port == 9
    monkeypatch.setenv("BANDEXA_KEEP_SNAPSHOTS", "9")
    assert load_settings(None).keep_snapshots == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BANDEXA_PORT", "8080:tcp"), ("BANDEXA_SERVICE_HOSTS", "a"), ("BANDEXA_PORT_TCP", "1"),
        ("BANDEXA_SERVICE_THREAD", "1"), ("BANDEXA_API_PORT", "8080"),
    ],
)  # fmt: skip
def test_what_looks_like_it_and_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError):
        load_settings(None)


def test_encoders_of_file_and_environment_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, '[encoders]\nfirst = "a:A"\n')
    monkeypatch.setenv("BANDEXA_ENCODERS__SECOND", "b:B")
    assert load_settings(path).encoders == {"first": "a:A", "second": "b:B"}


def test_tables_of_the_environment_are_json_or_one_variable_per_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, '[bandits.shop]\npolicy = "linear_ts"\nseed = 1\n')
    monkeypatch.setenv("BANDEXA_ENCODERS", '{"first": "a:A", "second": "a:B"}')
    monkeypatch.setenv("BANDEXA_ENCODERS__SECOND", "b:B")
    monkeypatch.setenv("BANDEXA_BANDITS__SHOP__SEED", "2")
    monkeypatch.setenv("BANDEXA_BANDITS__SHOP__CONTEXT__SHAPE", "[3]")
    monkeypatch.setenv("BANDEXA_BANDITS__NEWS", '{"policy": "uniform"}')
    holder = {"name": "me", "sha256": "0" * 64, "scopes": ["read"]}
    monkeypatch.setenv("BANDEXA_KEYS", json.dumps([holder]))
    settings = load_settings(path)
    assert settings.encoders == {"first": "a:A", "second": "b:B"}
    assert settings.bandits == {
        "shop": {"policy": "linear_ts", "seed": 2, "context": {"shape": [3]}},
        "news": {"policy": "uniform"},
    }
    assert settings.keys is not None
    assert [key.name for key in settings.keys] == ["me"]


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ("prot", "prot = 1"),
        ("training", "[training]\nlr = 1"),
        ("port", "port = 70000"),
        ("port", 'port = "http"'),
        ("durability", 'durability = "maybe"'),
        ("keep_snapshots", "keep_snapshots = 0"),
        ("encoders", "encoders = 3"),
        ("encoders", "[encoders]\nmine = 3"),
        ("bandexa.toml", "port = "),
        ("bandexa.toml", "port = 1\nport = 2"),
    ],
)
def test_a_wrong_file_is_refused_and_the_setting_named(
    tmp_path: Path, named: str, text: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(toml(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml"):
        load_settings(tmp_path / "nothing.toml")
    (tmp_path / "latin.toml").write_bytes(b'host = "\xff"')
    with pytest.raises(SettingsError, match=r"latin\.toml"):
        load_settings(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BANDEXA_PROT", "1"),
        ("BANDEXA_", "1"),
        ("bandexa_prot", "1"),
        ("BANDEXA_DATADIR", "/d"),
        ("BANDEXA_TRAINING__LR", "1"),
        ("BANDEXA_PORT", "http"),
        ("BANDEXA_DURABILITY", "maybe"),
        ("BANDEXA_ENCODERS", "{no json"),
    ],
)
def test_a_wrong_environment_is_refused_and_the_variable_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    shown = name.removeprefix("BANDEXA_").lower() if name in ("BANDEXA_PORT",) else name
    with pytest.raises(SettingsError, match=f"(?i){shown.removeprefix('BANDEXA_') or shown}"):
        load_settings(None)


def serve(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `bandexa serve` with settings that it refuses."""
    return bandexa("serve", "--port", 0, *arguments, cwd=cwd, env=environment)


def test_serve_ends_with_status_2_and_names_an_unknown_key(tmp_path: Path) -> None:
    ended = serve("--config", str(toml(tmp_path, "prot = 1")), cwd=tmp_path)
    assert ended.returncode == 2
    assert "prot" in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_serve_ends_with_status_2_and_names_an_unknown_variable(tmp_path: Path) -> None:
    ended = serve(cwd=tmp_path, BANDEXA_PROT="1")
    assert ended.returncode == 2
    assert "BANDEXA_PROT" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_serve_ends_with_status_2_on_an_unavailable_address(tmp_path: Path) -> None:
    ended = serve("--host", "192.0.2.1", cwd=tmp_path)
    assert ended.returncode == 2
    assert "192.0.2.1" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_serve_ends_with_status_2_on_an_encoder_it_cannot_load(tmp_path: Path) -> None:
    ended = serve(cwd=tmp_path, BANDEXA_ENCODERS__MINE="no_such_module:Encoder")
    assert ended.returncode == 2
    assert "encoders.mine" in ended.stderr
    assert "no_such_module" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
