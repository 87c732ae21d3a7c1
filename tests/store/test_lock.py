"""A data directory belongs to one process, which is named to others that open it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bandexa_core.filesystem import lock_file
from service.store.errors import StoreError

ROOT = Path(__file__).parents[2]
OPEN = """
import sys
from pathlib import Path
from service.store.sqlite.store import SqliteStore
store = SqliteStore(Path(sys.argv[1]), "os", lambda answer: answer())
print("open", flush=True)
sys.stdin.read()
"""


def holder_of(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.with_name(path.name + ".lock").read_text())
    return found


def test_the_lock_file_names_its_holder_and_the_epoch(client, store):
    holder = holder_of(client.path)
    assert holder["pid"] == os.getpid()
    assert holder["host"] == socket.gethostname()
    assert holder["epoch"] == store.epoch
    since = datetime.fromisoformat(str(holder["since"]))
    assert timedelta(seconds=-1) <= datetime.now(UTC) - since < timedelta(seconds=60)


def test_a_second_process_is_refused_with_the_owners_name_until_that_is_killed(client):
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, str(client.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        since = holder_of(client.path)["since"]
        with pytest.raises(StoreError) as refused:
            client.open()
        assert f"held by pid {process.pid} on {socket.gethostname()} since {since}" in str(
            refused.value
        )
        process.kill()
    assert client.open().epoch == 2  # although the file still names the killed process
    assert holder_of(client.path)["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": 1}'])
def test_a_lock_file_with_other_content_locks_as_well(tmp_path, content):
    path = tmp_path / "x.lock"
    fd = lock_file(path)
    path.write_bytes(content)
    with pytest.raises(BlockingIOError, match="holder is unknown"):
        lock_file(path)
    os.close(fd)
    os.close(lock_file(path))


def test_a_shorter_entry_overwrites_all_of_a_longer_one(tmp_path):
    path = tmp_path / "x.lock"
    path.write_bytes(b"x" * 10_000)
    fd = lock_file(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    os.close(fd)
