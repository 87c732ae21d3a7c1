"""Clusters of PostgreSQL on loopback, for proofs and tests that kill them.

A cluster runs as an ordinary user, because PostgreSQL refuses to run as root. It ends with the
process that made it, by the id of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 60.0
_USER = "bandexa"  # of the database
_SCHEMAS = 50


def programs() -> Path:
    """Return the folder of PostgreSQL's programs; Debian has one for each release.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    path = str(found[-1]) if found else shutil.which("postgres")
    if path is None:
        raise FileNotFoundError("PostgreSQL is not installed")
    return Path(path).parent


class Cluster:
    """A running cluster.

    Args:
        folder: Where it lies; its owner is the user who runs it.
        options: Settings of postgresql.conf.
        port: Where it listens; None: a free one.
    """

    def __init__(self, folder: Path, options: dict[str, str], port: int | None = None) -> None:
        self.folder = folder
        self.port = port or _free_port()
        self._asked = options
        self._options = options | {
            "listen_addresses": "127.0.0.1", "port": str(self.port),
            "unix_socket_directories": "", "max_connections": "100",
            "shared_buffers": "32MB", "logging_collector": "off",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._count = itertools.count(1)
        self._schemas: list[str] = []  # that are empty

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / "data"

    def create(self) -> None:
        """Create the files."""
        self.run("initdb", "-D", str(self.data), "-U", _USER, "-A", "trust", "-N", "-E", "UTF8",
                 "--locale=C")  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [word for item in self._options.items() for word in ("-c", "=".join(item))]
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [programs() / "postgres", "-D", str(self.data), *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
            **_as_owner(),
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)

    @contextlib.contextmanager
    def standby(self, port: int | None = None, *, waits: bool = True) -> Iterator[Cluster]:
        """Yield a standby of this cluster.

        `waits`: a synchronous one, which has what is acknowledged from here on.
        """
        with _folder() as folder:
            other = Cluster(folder, self._asked, port)
            self.run("pg_basebackup", "-D", str(other.data), "-R", "-c", "fast", "-d", self.url())
            other.start()
            if waits:
                self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
                self.sql("SELECT pg_reload_conf()")
            state = "sync" if waits else "async"
            follow = f"SELECT count(*) FROM pg_stat_replication WHERE sync_state = '{state}'"
            deadline = time.monotonic() + START_S
            while self.sql(follow) != "1":
                assert time.monotonic() < deadline, "the standby does not follow"
                time.sleep(0.05)
            try:
                yield other
            finally:
                other.stop()

    def promote(self) -> None:
        """Make a standby a primary."""
        assert self.sql("SELECT pg_promote()") == "t"

    def answers(self) -> bool:
        """Whether it takes connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            done = subprocess.run(
                [programs() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                check=False,
            )
            return done.returncode == 0
        return False

    def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """End it: at once, but properly; or by another signal."""
        if self._process is None:
            return
        if sign == signal.SIGKILL:  # its children end when they see that
            os.killpg(self._process.pid, sign)
        else:
            self._process.send_signal(sign)
        self._process.wait(30)
        self._process = None

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """Yield the URL of an empty schema; it stays in the cluster, which ends with the tests.

        A call of psql takes 30 ms of CPU, so that one makes many schemas.
        """
        if not self._schemas:
            self._schemas = [f"test{next(self._count)}" for _ in range(_SCHEMAS)]
            self.sql("; ".join(f"CREATE SCHEMA {name}" for name in self._schemas))
        yield f"{self.url()}?search_path={self._schemas.pop()}"

    def url(self, name: str = "postgres", user: str = _USER) -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}"

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run statements, and return what they print."""
        done = subprocess.run(
            [programs() / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c",
             text, self.url(database)],
            capture_output=True, text=True, check=False, timeout=60,
            env=os.environ | {"PGOPTIONS": "-c client_min_messages=warning"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs as its owner."""
        done = subprocess.run(
            [programs() / program, *arguments], capture_output=True, text=True, check=False,
            cwd="/", **_as_owner(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _as_owner() -> dict[str, Any]:
    """Return the arguments with which a program runs as the owner of clusters."""
    if os.getuid() != 0:
        return {}
    return {"user": owner(), "group": owner(), "extra_groups": []}


def owner() -> int:
    """Return the id of the user who runs clusters, where the tests run as root."""
    return pwd.getpwnam("nobody").pw_uid


@contextlib.contextmanager
def cluster(**options: str) -> Iterator[Cluster]:
    """Yield a running cluster; it is removed at the exit."""
    with _folder() as folder:
        made = Cluster(folder, options)
        try:
            made.create()
            made.start()
            yield made
        finally:
            made.stop()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Yield a new folder of the owner of clusters; it is removed at the exit."""
    folder = Path(tempfile.mkdtemp(prefix="bandexa-postgres-"))
    if os.getuid() == 0:
        os.chown(folder, owner(), owner())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
