"""API keys are given out and withdrawn while the server serves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from service.http.keys import hash_of, new_key
from tests.fixtures.servers import Server
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll

FIRST, SECOND = new_key(), new_key()


def write(path: Path, **keys: str) -> None:
    """Write a file of keys by name, as an editor does: a new file that replaces the old one."""
    tables = [
        f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(key)}"\nscopes = ["read"]\n'
        for name, key in keys.items()
    ]
    new = path.with_suffix(".new")
    new.write_text("\n".join(tables))
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "keys.toml"
    write(found, first=FIRST)
    return found


@pytest.fixture
def server(start_server, path: Path) -> Server:
    found: Server = start_server(env={"BANDEXA_KEYS_FILE": str(path)})
    return found


def status(server: Server, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    with open_client(server.url) as http:
        return http.get("/bandits", headers=headers).status_code


def test_a_key_is_added_and_another_withdrawn(server: Server, path: Path) -> None:
    assert (status(server, FIRST), status(server, SECOND)) == (200, 401)
    write(path, first=FIRST, second=SECOND)
    poll(lambda: status(server, SECOND) == 200, "the new key")
    assert status(server, FIRST) == 200
    write(path, second=SECOND)
    poll(lambda: status(server, FIRST) == 401, "the withdrawn key")
    assert status(server, SECOND) == 200
    assert server.stop() == 0
    assert "read anew; their holders: first, second" in server.log_text()
    assert not any(key in server.log_text() for key in (FIRST, SECOND))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "wrong", ["", "keys = []", "[[keys]]\nname = 'x'", "\x00", "a = " + "[" * 3000]
)
def test_a_file_that_is_wrong_changes_nothing_and_is_reported(
    server: Server, path: Path, wrong: str
) -> None:
    path.write_text(wrong)
    poll(lambda: "the API keys stay as they are: keys_file" in server.log_text(), "the report")
    assert (status(server, FIRST), status(server, SECOND)) == (200, 401)
    path.unlink()
    assert status(server, FIRST) == 200
    write(path, second=SECOND)
    poll(lambda: status(server, SECOND) == 200, "the new key")


def has_read(server: Server, times: int) -> None:
    """Wait until the keys of `first` were read so often since the start."""
    line = "read anew; their holders: first"
    poll(lambda: server.log_text().count(line) == times, f"reading the keys {times} times")


def test_a_file_that_others_may_read_now_is_read_anew(server: Server, path: Path) -> None:
    has_read(server, 1)  # after the start, which may have seen an older file
    path.chmod(0o640)
    has_read(server, 2)


def test_sighup_reads_the_keys_and_ends_nothing(server: Server) -> None:
    for times in (1, 2):
        has_read(server, times)
        server.signal(signal.SIGHUP)
        has_read(server, times + 1)
        assert status(server, FIRST) == 200


def test_a_pipe_in_its_place_does_not_end_the_reading(server: Server, path: Path) -> None:
    has_read(server, 1)
    path.unlink()
    os.mkfifo(path)
    poll(lambda: "is no file that can be read" in server.log_text(), "the report")
    write(path, second=SECOND)
    poll(lambda: status(server, SECOND) == 200, "the new key")
