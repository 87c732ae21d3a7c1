"""Backups that a server makes by itself, and the drill: what is restored decides as before."""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.observe.backups import BackupStanding
from service.observe.health import ServerState, check_server
from service.settings import BackupSetting, SettingsError, load_settings
from service.tools.scheduled import due_at, give_name
from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import poll

OFTEN_H = "0.0003"  # about every second


def scheduled(folder: Path, **more: str) -> dict[str, str]:
    return {
        "BANDEXA_BACKUP__FOLDER": str(folder), "BANDEXA_BACKUP__EVERY_H": OFTEN_H,
        "BANDEXA_BACKUP__KEEP": "1", "BANDEXA_TRAINER_NICENESS": "0", **more,
    }  # fmt: skip


def complete(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("bandexa-*/backup.json"))


def position_in(backup: Path, name: str) -> int:
    bandits = json.loads((backup / "backup.json").read_text())["bandits"]
    return int(bandits[name]["position"]) if name in bandits else -1


def decide(node: Any, name: str, rig: Any) -> list[dict[str, Any]]:
    """Decide with given ids: what a draw is follows from them, the snapshot and the position."""
    return [
        node.call("POST", "/select", {
            "bandit": name, "context": rig.context_of(name, number),
            "decision_id": f"drill-{name}-{number}",
        })
        for number in range(20)
    ]  # fmt: skip


def test_the_drill_restores_verifies_and_decides_as_before(launch, rig, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    by_hand = folder / "before-the-move"
    node = launch("drilled", environment=scheduled(folder))
    for name, spec in {"linear": rig.linear(), "neural": rig.neural()}.items():
        node.create(name, spec)
        rig.feed(node, name, 0, 30)
        node.train(name)
        rig.feed(node, name, 30, 10)
    poll(lambda: complete(folder), "a first backup")
    assert bandexa("backup", node.data_dir, by_hand).returncode == 0
    reached = {name: node.state(name)["position"] for name in ("linear", "neural")}

    def has_all(backup: Path) -> bool:
        return all(position_in(backup, name) == at for name, at in reached.items())

    poll(lambda: any(map(has_all, complete(folder))), "a backup of everything")
    before = [path.name for path in complete(folder)]
    poll(lambda: complete(folder)[0].name > before[-1], "old ones make room")
    metrics = node.http.get("/metrics").text
    age = re.search(r"^bandexa_backup_age_seconds (\S+)", metrics, re.M)
    assert age is not None
    assert 0 <= float(age[1]) < 120
    assert re.search(r"^bandexa_backups_total [1-9]", metrics, re.M)
    node.kill()

    assert (by_hand / "backup.json").exists()  # what the server did not make stays
    made = complete(folder)
    assert 1 <= len(made) <= 2  # a killed server may have left one more
    newest = made[-1]
    assert bandexa("verify", newest, "--quiet").returncode == 0
    listed = json.loads(bandexa("backups", folder, "--json").stdout)["backups"]
    found = {Path(each["path"]) for each in listed}
    # One that was under way at the kill may end after it, and then has no name of its own yet.
    assert {path for path in found if not path.name.startswith(".")} == {*made, by_hand}
    drilled = tmp_path / "restored"
    done = bandexa("restore", newest, drilled)
    assert done.returncode == 0, done.stderr
    assert f"neural: position {reached['neural']}" in done.stdout
    assert not (drilled / "backup.json").exists()
    node.env = {key: value for key, value in node.env.items() if "BACKUP" not in key}
    node.start()  # on its own data directory, without new decisions since
    restored = launch("restored", drilled)
    for name in reached:
        assert restored.state(name) == node.state(name)
        assert decide(restored, name, rig) == decide(node, name, rig)


def test_a_backup_that_fails_is_an_alarm_until_one_succeeds(start_server, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    place.write_text("a file, where a folder should be")
    server = start_server(env=scheduled(place))
    with server.client() as http:

        def findings() -> dict[str, str]:
            found = http.get("/learnz").json()["findings"]
            return {each["name"]: each["message"] for each in found}

        poll(lambda: "backup-failing" in findings(), "the alarm")
        assert "there is none" in findings()["backup-failing"]
        assert str(place) in findings()["backup-failing"]
        assert http.get("/learnz").status_code == 503
        assert http.get("/readyz").status_code == 200
        assert "bandexa_backup_age_seconds +Inf" in http.get("/metrics").text
        assert re.search(
            r'bandexa_finding\{.*finding="backup-failing".*\} 1', http.get("/metrics").text
        )
        place.unlink()
        poll(lambda: "backup-failing" not in findings(), "a backup was made")
        assert complete(place)
    assert server.stop() == 0


def test_what_a_killed_server_left_unfinished_makes_room_and_backups_are_verified(
    start_server, tmp_path: Path
) -> None:
    folder, data_dir = tmp_path / "backups", tmp_path / "data"
    server = start_server(data_dir, env=scheduled(folder, BANDEXA_BACKUP__VERIFY="true"))
    first = poll(lambda: complete(folder), "a backup")[0]
    assert server.stop() == 0
    marker = json.loads((first / "backup.json").read_text())
    mine, other = (
        folder / f".bandexa-{hashlib.sha256(f'{data_dir} {store}'.encode()).hexdigest()[:16]}-left"
        for store in (marker["store"], "another")
    )
    for path in (mine, other):
        path.mkdir()
        (path / "bandexa.db.partial").write_text("half")
    server.start()
    poll(lambda: complete(folder)[-1] != first, "another backup")
    assert server.stop() == 0
    assert all(not (path / "bandexa.db.partial").exists() for path in complete(folder))
    assert not mine.exists()
    assert (other / "bandexa.db.partial").exists()  # another server's
    assert bandexa("verify", complete(folder)[-1], "--quiet").returncode == 0


def test_backups_of_other_stores_stay_and_a_wrong_clock_stops_none(
    start_server, tmp_path: Path
) -> None:
    """Containers share a folder, and all have /data; one of them had the year 2999 for a while."""
    folder, data_dir = tmp_path / "backups", tmp_path / "data"

    def made(name: str, **more: object) -> Path:
        path = folder / name
        path.mkdir(parents=True)
        marker = {"source": str(data_dir), "created_at": 1.0, "bandits": {}, **more}
        (path / "backup.json").write_text(json.dumps(marker))
        return path

    other = made("bandexa-20260101T000000Z", store="another")
    earlier = made("bandexa-20260102T000000Z")  # of a release that noted no store
    ahead = made("bandexa-29990101T000000Z")
    server = start_server(data_dir, env=scheduled(folder))
    left = {other, earlier, ahead}
    first = poll(lambda: set(complete(folder)) - left, "a backup").pop()
    poll(lambda: set(complete(folder)) - left - {first}, "another one")
    poll(lambda: not earlier.exists() and not ahead.exists(), "the oldest make room")
    assert server.stop() == 0
    assert other.exists()
    assert len(set(complete(folder)) - left) >= 1, "the newest stays"


def test_two_servers_that_begin_in_one_second_have_a_backup_each(tmp_path: Path) -> None:
    names = []
    for server in ("one", "two"):
        unfinished = tmp_path / f".{server}"
        unfinished.mkdir()
        (unfinished / "backup.json").write_text(server)
        names.append(give_name(unfinished, tmp_path, MORNING))
    assert [path.name for path in names] == ["bandexa-20260501T080000Z", "bandexa-20260501T080001Z"]
    assert [(path / "backup.json").read_text() for path in names] == ["one", "two"]


MORNING = datetime(2026, 5, 1, 8, 0, tzinfo=UTC).timestamp()
HOUR = 3600.0


@pytest.mark.parametrize(
    ("schedule", "last_h", "due_h"),  # hours before and after 8 in the morning
    [
        ({"every_h": 6}, None, 0.0),
        ({"every_h": 6}, -2.0, 4.0),
        ({"every_h": 6}, -9.0, -3.0),  # it was missed: at once
        ({"at": "03:30"}, None, -4.5),
        ({"at": "03:30"}, -4.4, 19.5),
        ({"at": "03:30"}, -5.0, -4.5),
        ({"at": "08:00"}, -24.0, 0.0),
        ({"at": "08:01"}, -23.9, 1 / 60),
    ],
)
def test_when_a_backup_is_due(schedule: dict[str, Any], last_h: float | None, due_h: float) -> None:
    setting = BackupSetting(folder=Path("/backups"), **schedule)
    last = None if last_h is None else MORNING + last_h * HOUR
    assert due_at(setting, last, MORNING) == pytest.approx(MORNING + due_h * HOUR)


def test_a_backup_that_does_not_come_is_an_alarm() -> None:
    """A daily one is late after 1.5 days; one of every minute after an hour more than that."""

    def found(standing: BackupStanding, now: float) -> list[str]:
        state = ServerState(
            store_failure=None, trainer_down_s=0, trainer_silent_s=0, stale_s=900,
            backups=(standing, now),
        )  # fmt: skip
        return [finding.name for finding in check_server(state)]

    daily = BackupStanding("/backups", 24 * HOUR, begun=0.0, last_good=HOUR)
    assert found(daily, 37 * HOUR) == []
    assert found(daily, 37 * HOUR + 1) == ["backup-late"]
    never = BackupStanding("/backups", 60.0, begun=0.0)
    assert found(never, HOUR + 60) == []
    assert found(never, HOUR + 61) == ["backup-late"]
    assert never.age_s(5.0) == math.inf


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("every_h = 1", "folder: needed"),
        ('folder = "/backups"', "every_h"),
        ('folder = "/backups"\nevery_h = 1\nat = "03:30"', "every_h"),
        ('folder = "/backups"\nat = "24:00"', "backup.at"),
        ('folder = "/backups"\nevery_h = 0', "backup.every_h"),
        ('folder = "/backups"\nevery_h = 1\nkeep = 0', "backup.keep"),
        ('folder = "bandexa-data/backups"\nevery_h = 1', "must not be inside of data_dir"),
    ],
)
def test_a_wrong_schedule_is_refused_by_name(tmp_path: Path, toml: str, named: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text(f"[backup]\n{toml}\n")
    with pytest.raises(SettingsError, match=re.escape(named)):
        load_settings(config)


def test_what_is_no_complete_backup_is_not_restored(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    refused = bandexa("restore", tmp_path / "half", tmp_path / "new")
    assert (refused.returncode, "no complete backup" in refused.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
    empty = bandexa("backups", tmp_path)
    assert (empty.returncode, "has no complete backup" in empty.stderr) == (1, True)
