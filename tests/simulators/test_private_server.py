"""Start, failure and end of a private server; a stand-in process plays the service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bandexa_client import BanditClient, ServiceUnavailable
from simulators.private_server import (
    Interrupted,
    PrivateServer,
    ServerFailedError,
    interruptible,
)

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_server.py")))


def answers(url: str) -> bool:
    with BanditClient(url, trust_env=False) as client:
        try:
            return bool(client.ready())
        except ServiceUnavailable:
            return False


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("bandexa-simulate-*"))


def test_the_server_answers_inside_the_context_and_is_gone_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with PrivateServer(command=STAND_IN) as server:
        assert answers(server.url)
        assert len(folders()) == 1
    assert not answers(server.url)
    assert folders() == set()
    server.close()


def test_options_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with PrivateServer(command=STAND_IN, device="cpu", replay_dir=Path("rows")):
        [folder] = folders()
        options = json.loads((folder / "server.log").read_text())
    assert options["device"] == "cpu"
    assert options["durability"] == "os"
    assert options["data_dir"] == str(folder / "data")
    assert options["replay_dir"] == str(Path("rows").absolute())
    # Ctrl-C in a terminal reaches the simulator alone, which then ends the server in order.
    assert options["session"] != os.getsid(0)


def test_the_server_starts_in_a_folder_with_another_service_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is the one installed beside the simulators, whatever the current folder holds."""
    package = tmp_path / "service"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not the service')\n")
    monkeypatch.chdir(tmp_path)
    with PrivateServer() as server, BanditClient(server.url, trust_env=False) as client:
        assert client.ready()


def test_a_server_that_ignores_sigterm_is_killed() -> None:
    with PrivateServer(command=[*STAND_IN, "--ignore-sigterm"], stop_timeout_s=0.2) as server:
        assert answers(server.url)
    assert not answers(server.url)


def test_a_server_that_ends_at_once_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = PrivateServer(command=[*STAND_IN, "--no-such-option"])
    with pytest.raises(ServerFailedError, match="exit status 2") as caught:
        server.start()
    assert "unrecognized arguments: --no-such-option" in str(caught.value)
    assert folders() == set()


def test_a_server_without_an_announcement_fails_after_the_time_limit() -> None:
    server = PrivateServer(command=[*STAND_IN, "--silent"], start_timeout_s=0.5)
    with pytest.raises(ServerFailedError, match=r"not ready after 0\.5 s"):
        server.start()


def test_a_server_with_another_announcement_fails() -> None:
    server = PrivateServer(command=[sys.executable, "-c", "print('hello'); input()"])
    with pytest.raises(ServerFailedError):
        server.start()


def test_only_an_ended_server_has_a_failure() -> None:
    with PrivateServer(command=[*STAND_IN, "--die-after", "1"]) as server:
        assert server.failure() is None
        with (
            BanditClient(server.url, trust_env=False) as client,
            pytest.raises(ServiceUnavailable),
        ):
            client.select("b", [0.0])
        failure = server.failure()
    assert failure is not None
    assert "exit status 9" in failure
    assert "the stand-in exits as requested" in failure


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_too(number: signal.Signals) -> None:
    with (
        pytest.raises(Interrupted, match=number.name),
        interruptible(),
        PrivateServer(command=STAND_IN) as server,
    ):
        signal.raise_signal(number)
    assert not answers(server.url)


def test_a_signal_before_the_process_is_known_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives while the child runs but its Popen object is not assigned yet."""
    spawned: list[subprocess.Popen[str]] = []
    spawn = subprocess.Popen

    def interrupted_spawn(*args: Any, **kwargs: Any) -> subprocess.Popen[str]:
        spawned.append(spawn(*args, **kwargs))
        signal.raise_signal(signal.SIGTERM)
        return spawned[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted_spawn)
    server = PrivateServer(command=[sys.executable, "-c", "import signal; signal.pause()"])
    with pytest.raises(Interrupted), interruptible():
        server.start()
    [process] = spawned
    ended = process.returncode is not None
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert ended


def test_a_signal_during_the_start_ends_the_server_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child itself sends the signal before it announces anything."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()"
    server = PrivateServer(command=[sys.executable, "-c", code], stop_timeout_s=5)
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        server.start()
    assert folders() == set()


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(), PrivateServer(command=STAND_IN):
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
