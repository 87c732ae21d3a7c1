"""`bandexa doctor`: it finds what is wrong, names each remedy, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bandexa_core.ids import SnapshotVersion
from bandexa_core.snapshots.store import SnapshotStore
from service.cli import app
from service.settings import BackupSetting, Settings
from service.store.opening import open_reader
from service.tools.doctor.backups import backups
from tests.fixtures.commands import bandexa


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.tools.doctor.disk.SYNCS", 5)
    for name in list(os.environ):  # what a server's owner has set is no part of a test
        if name.startswith("BANDEXA_"):
            monkeypatch.delenv(name)


def run(*arguments: str, expect: int = 0, **env: str) -> Result:
    result = CliRunner().invoke(app, ["doctor", *arguments], env=env)
    assert result.exit_code == expect, result.output
    return result


def checks(*arguments: str, expect: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    """Return the checks by name."""
    found = json.loads(run("--json", *arguments, expect=expect, **env).stdout)
    return {check["name"]: check for check in found}


def configured(tmp_path: Path, toml: str) -> tuple[str, ...]:
    config = tmp_path / "b.toml"
    config.write_text(toml)
    return "--config", str(config), "--data-dir", str(tmp_path / "data")


def test_on_a_new_machine_it_reports_what_exists(tmp_path: Path) -> None:
    found = checks(*configured(tmp_path, "port = 0\n"))
    names = ("versions", "processors", "device", "access", "port", "data", "room", "sync")
    assert set(names) <= set(found)
    assert "is new" in found["data"]["told"]
    assert "SQLite" in found["versions"]["told"]
    assert "ms (median)" in found["sync"]["told"]
    assert [path.name for path in tmp_path.iterdir()] == ["b.toml"]
    for check in found.values():
        assert check["state"] in ("ok", "note")
        assert (check["state"] == "ok") or check["remedy"]


def test_a_running_server_is_found_by_its_lock_its_port_and_its_findings(api, server) -> None:
    api.two_actions()
    port = server.url.rpartition(":")[2]
    arguments = ("--data-dir", str(server.data_dir), "--server", "--url", server.url)
    # Other tests damage snapshots of this server's bandits: those are found, too.
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments], env={"BANDEXA_PORT": port})
    found = {check["name"]: check for check in json.loads(result.stdout)}
    assert "is in use" in found["data"]["told"]
    assert str(server.pid) in found["data"]["told"]
    assert found["port"] == {
        "name": "port", "state": "ok", "remedy": "",
        "told": f"127.0.0.1:{port}: a bandexa server answers there",
    }  # fmt: skip
    assert found["database"]["state"] == "ok"
    assert found["server"]["state"] == "ok"


def test_what_prevents_a_server_from_starting_is_wrong(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        toml = f'port = {port}\ndevice = "cuda"\n[encoders]\nmine = "no_such_module:Encoder"\n'
        arguments = configured(tmp_path, toml)
        found = checks(*arguments, expect=1)
        text = run("--quiet", *arguments, expect=1).stdout
    assert {"port", "encoders"} <= {n for n, c in found.items() if c["state"] == "wrong"}
    assert "no_such_module" in found["encoders"]["told"]
    for name, check in found.items():
        assert (check["told"] in text) == (check["state"] != "ok") or name == "sync"
        assert check["state"] == "ok" or check["remedy"]


def test_a_server_open_to_all_without_keys_is_wrong(tmp_path: Path) -> None:
    arguments = configured(tmp_path, 'port = 0\nhost = "0.0.0.0"\n')
    assert checks(*arguments, expect=1)["access"]["state"] == "wrong"
    arguments = configured(tmp_path, 'port = 0\nhost = "0.0.0.0"\nallow_anonymous = true\n')
    assert checks(*arguments)["access"]["state"] == "note"


def test_a_data_directory_of_another_release_or_damaged_is_reported(tmp_path: Path) -> None:
    arguments = configured(tmp_path, "port = 0\n")
    database = tmp_path / "data" / "bandexa.db"
    database.parent.mkdir()
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE t (x)")
    db.close()
    found = checks(*arguments, expect=1)
    assert "newer release" in found["database"]["told"]
    assert "not in use" in found["data"]["told"]
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    found = checks(*arguments, expect=1)
    assert "older build" in found["database"]["told"]
    database.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    assert "cannot be read" in checks(*arguments, expect=1)["database"]["told"]


def test_a_lost_snapshot_is_reported(start_server, api_of, tmp_path: Path) -> None:
    server = start_server()
    with server.client() as client:
        uid = api_of(client).state(api_of(client).two_actions())["uid"]
    server.stop()
    arguments = ("--data-dir", str(server.data_dir))
    assert checks(*arguments, BANDEXA_PORT="0")["database"]["told"].startswith("1 bandits")
    shutil.rmtree(server.data_dir / "snapshots" / uid)
    assert "has none" in checks(*arguments, expect=1, BANDEXA_PORT="0")["snapshots"]["told"]


def test_a_bandit_that_cannot_be_served_is_reported_and_why(start_server, api_of) -> None:
    server = start_server()
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions(
            name="shop", forgetting={"half_life": 32}, encoder={"name": "concat"}
        )
        api.two_actions(name="healthy")
        for _ in range(3):
            api.teach(name, [1.0, 0.0], "x", 1.0)
    assert server.stop() == 0
    with open_reader(server.data_dir / "bandexa.db") as reader:
        uid = next(record.uid for record in reader.bandits() if record.name == name)
    store = SnapshotStore(server.data_dir / "snapshots" / uid)
    snapshot = store.load(SnapshotVersion(0))
    snapshot.tensors["model"]["posterior/zz"] = -1e6 * np.eye(5)
    shutil.rmtree(server.data_dir / "snapshots" / uid)
    store.publish(snapshot.manifest, snapshot.tensors)
    found = checks("--data-dir", str(server.data_dir), expect=1, BANDEXA_PORT="0")
    assert found["models"]["state"] == "wrong"
    assert "shop cannot be served at log row 2: NotPositiveDefiniteError" in found["models"]["told"]
    verified = bandexa("verify", server.data_dir)
    assert verified.returncode == 1
    assert "shop: snapshot 0 against its own sums" in verified.stdout
    server.start()
    with server.client() as client:
        api = api_of(client)
        assert client.post("/select", json={"bandit": name, "context": [1, 1]}).status_code == 503
        api.teach("healthy", [1.0, 0.0], "x", 1.0)


REFUSED_BANDITS = {
    "unknown key": ('policy = "linear_ts"\ncontext = { shape = [2] }\nplicy = 1\n', "plicy"),
    "no such encoder": (
        'policy = "linear_ts"\ncontext = { shape = [2] }\nencoder = { name = "mine" }\n',
        "encoder",
    ),
    "params": (
        'policy = "neural_linear_ts"\ncontext = { shape = [2] }\n'
        'encoder = { name = "mlp", params = { feature_dim = -1 } }\n',
        "feature_dim",
    ),
    "features": (
        'policy = "linear_ts"\ncontext = { shape = [2] }\naction_dim = 2\n'
        'actions = [{ id = "a", features = [1.0] }]\n',
        "actions",
    ),
    "no features": (
        'policy = "linear_ts"\ncontext = { shape = [2] }\naction_dim = 2\nactions = ["a"]\n',
        "features",
    ),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("case", REFUSED_BANDITS)
def test_bandits_that_a_start_refuses_are_wrong_with_the_same_words(
    tmp_path: Path, case: str
) -> None:
    table, field = REFUSED_BANDITS[case]
    arguments = configured(tmp_path, f"port = 0\n[bandits.shop]\n{table}")
    check = checks(*arguments, expect=1)["bandits"]
    assert check["state"] == "wrong"
    assert field in check["told"]
    assert not (tmp_path / "data").exists()
    started = bandexa("serve", *arguments)
    assert started.returncode == 2
    assert check["told"] in started.stderr


def test_bandits_are_compared_with_those_that_are_stored(start_server, api_of, tmp_path) -> None:
    server = start_server()
    with server.client() as client:
        api_of(client).two_actions(name="shop", posterior={"prior_mean": None})
    assert server.stop() == 0
    config = tmp_path / "b.toml"
    shop = (
        'port = 0\n[bandits.shop]\npolicy = "linear_ts"\naction_dim = 2\nactions = ["x", "y"]\n'
        "context = { shape = [%d] }\n"
    )
    arguments = ("--config", str(config), "--data-dir", str(server.data_dir))
    config.write_text(shop % 2)
    before = (server.data_dir / "bandexa.db").read_bytes()
    assert checks(*arguments)["bandits"]["told"] == "configured: shop"
    config.write_text(shop % 3)
    assert (
        "context.shape: is [2] and cannot become [3]"
        in (checks(*arguments, expect=1)["bandits"]["told"])
    )
    assert (server.data_dir / "bandexa.db").read_bytes() == before


def test_a_directory_of_an_older_release_is_examined_and_left_as_it_is(tmp_path: Path) -> None:
    saved = Path(__file__).parents[1] / "recovery" / "data" / "0.2.0-reports"
    shutil.copytree(saved, tmp_path / "data")
    before = (tmp_path / "data" / "bandexa.db").read_bytes()
    found = checks(*configured(tmp_path, "port = 0\n"))
    assert "an older release (format 4" in found["format"]["told"]
    assert "back it up" in found["format"]["remedy"]
    assert found["database"]["told"].startswith("7 bandits")
    assert (tmp_path / "data" / "bandexa.db").read_bytes() == before


def test_settings_that_cannot_be_read_end_it_with_status_2(tmp_path: Path) -> None:
    assert "prot" in run(*configured(tmp_path, "prot = 1"), expect=2).stderr
    run("--server", "--url", "http://127.0.0.1:1", *configured(tmp_path, "port = 0\n"), expect=3)


def test_scheduled_backups_are_reported_by_age_and_place(tmp_path: Path) -> None:
    """Of the data directory of this store alone; one of every 6 h is late after 9 h."""
    folder, data_dir = tmp_path / "backups", tmp_path / "data"
    settings = Settings(data_dir=data_dir, backup=BackupSetting(folder=folder, every_h=6))
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()

    def found(hours: float, store: str | None = "mine") -> dict[str, tuple[str, str]]:
        checks = backups(settings, store, noon + 3600 * hours)
        return {check.name: (check.state, check.told) for check in checks}

    def made(name: str, store: str) -> None:
        path = folder / name
        path.mkdir(parents=True)
        marker = {"source": str(data_dir), "store": store, "created_at": 1.0, "bandits": {}}
        (path / "backup.json").write_text(json.dumps(marker))

    assert list(backups(Settings(data_dir=data_dir), "mine", noon)) == []
    assert found(0, store=None)["backups"][0] == "ok"
    assert found(0)["place of backups"][0] == "note"
    assert found(0)["backups"][0] == "note"
    made("bandexa-20260501T115900Z", "another")
    assert "has none of this data directory" in found(0)["backups"][1]
    made("bandexa-20260501T090000Z", "mine")
    made("bandexa-20260501T030000Z", "mine")
    assert found(0)["backups"] == ("ok", f"2 in {folder}, the newest begun 3.0 h ago")
    assert found(6)["backups"][0] == "ok"
    assert found(6.1)["backups"][0] == "wrong"
    unread = found(6.1, store=None)["backups"]  # its store is gone, or cannot be read
    assert unread == (
        "note",
        f"3 in {folder}, the newest begun 6.1 h ago, of what was in {data_dir} then",
    )
    shutil.rmtree(folder)
    folder.write_text("a file, where a folder should be")
    assert found(0) == {"backups": ("wrong", f"{folder} is no folder: no backup can be made")}
