"""A start that cannot succeed reports why in one line, without a traceback, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bandexa_core.encoders import EncoderRegistry
from service.observe.counters import Metrics
from service.serving.lifecycle import running
from service.settings import Settings
from service.store.errors import StoreError
from service.tools.verify import main as verify
from tests.fixtures.commands import bandexa

SAVED = Path(__file__).parent / "data" / "0.1.0"


def refusal(data_dir: Path) -> str:
    """Start a server that refuses; returns its only line of level critical."""
    ended = bandexa("serve", "--port", 0, "--data-dir", data_dir)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    (critical,) = [line["event"] for line in lines if line["level"] == "critical"]
    assert "\n" not in critical
    return str(critical)


def test_a_database_that_is_none_is_refused_in_one_line(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "bandexa.db").write_bytes(b"this is no database" * 500)
    assert "file is not a database" in refusal(data)


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_database_lost_beneath_its_snapshots_is_refused_and_nothing_is_touched(tmp_path, how):
    data = tmp_path / "data"
    shutil.copytree(SAVED, data)
    if how == "deleted":
        (data / "bandexa.db").unlink()
    else:
        (data / "bandexa.db").write_bytes(b"")
    before = sorted((path, path.is_file() and path.read_bytes()) for path in data.rglob("*"))
    with pytest.raises(StoreError, match="holds models of 2 bandits"):
        asyncio.run(started(data))
    expected = [pair for pair in before if pair[0].name != "replay"]
    found = sorted((path, path.is_file() and path.read_bytes()) for path in data.rglob("*"))
    assert [pair for pair in found if pair[0].name != "replay"] == expected


async def started(data_dir: Path) -> None:
    async with running(Settings(data_dir=data_dir), Metrics(), EncoderRegistry()):
        pass


def test_a_store_of_a_newer_release_is_refused_in_one_line(tmp_path):
    shutil.copytree(SAVED, tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "bandexa.db")) as database:
        database.execute("PRAGMA user_version = 99")
    assert "written by a newer release" in refusal(tmp_path / "data")


def test_a_store_of_a_build_before_the_first_release_is_refused_in_one_line(tmp_path, capsys):
    shutil.copytree(SAVED, tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "bandexa.db")) as database:
        database.execute("PRAGMA user_version = 3")
    assert "version 3, written by an older build" in refusal(tmp_path / "data")
    settings = Settings(data_dir=tmp_path / "data")
    assert verify(settings, live=None, api_key=None, json_file=None, quiet=True) == 2
    assert "has schema 3, this release reads 5" in capsys.readouterr().err
