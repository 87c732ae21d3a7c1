"""The process of a `bandexa` command: what it announces, its signals, exit statuses and imports.

Each case runs in a process that is forked as other tests' servers are; as a slow test also in a new
interpreter, so that the forked ones are known to behave as the real ones do. Trainers are started
as in production.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.servers import Server
from tests.fixtures.waiting import is_running, poll

LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"},
}  # fmt: skip


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["forked", "new"])
def forked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_ends_a_server_and_all_its_processes(
    start_server, forked: bool, number: signal.Signals, status: int
) -> None:
    server: Server = start_server(forked=forked, forks_trainers=False)
    assert server.http.get("/readyz").json()["status"] == "ready"
    assert os.getsid(server.pid) == server.pid
    assert server.http.put("/bandits/b", json=LINEAR).status_code == 201
    assert server.http.post("/bandits/b/train?wait=true").status_code == 200
    trainer = server.http.get("/readyz").json()["trainer"]["pid"]
    assert is_running(trainer)
    server.signal(number)
    assert server.wait() == status
    poll(lambda: not is_running(trainer), "the trainer's end")
    server.start()
    assert server.http.get("/bandits/b").json()["snapshot"] == 1
    assert server.stop() == 0


def test_a_second_server_on_a_directory_is_refused(start_server, forked: bool) -> None:
    server: Server = start_server(forked=forked)
    second = bandexa("serve", "--port", 0, "--data-dir", server.data_dir, forked=forked)
    assert second.returncode == 1
    assert f"{server.pid}" in second.stderr
    assert second.stdout == ""
    assert server.http.get("/readyz").is_success


def test_a_wrong_setting_ends_it_with_status_2(tmp_path: Path, forked: bool) -> None:
    ended = bandexa("serve", cwd=tmp_path, env={"BANDEXA_PROT": "1"}, forked=forked)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "BANDEXA_PROT" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_argument_ends_it_with_status_2(forked: bool) -> None:
    ended = bandexa("serve", "--prot", 1, forked=forked)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--prot" in ended.stderr


def test_a_folder_with_a_package_of_the_same_name_changes_nothing(
    start_server, tmp_path: Path, forked: bool
) -> None:
    """Neither the server nor its trainer imports from the folder in which it was started."""
    for name in ("service", "bandexa_core", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of the folder')")
    server: Server = start_server(cwd=tmp_path, forked=forked, forks_trainers=False)
    assert server.http.put("/bandits/b", json=LINEAR).status_code == 201
    assert server.http.post("/bandits/b/train?wait=true").json()["snapshot"] == 1


def test_the_installed_command_is_this_one() -> None:
    """`bandexa` lies beside the interpreter of the environment that has it installed."""
    command = Path(sys.executable).with_name("bandexa")
    environment = os.environ | {"BANDEXA_PROT": "1"}
    ended = subprocess.run(
        [command, "serve"], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "BANDEXA_PROT" in ended.stderr
    shown = subprocess.run([command, "bandits", "list", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "Usage: bandexa bandits list" in " ".join(shown.stdout.split())


def test_a_request_that_waits_for_a_round_is_answered_when_the_server_ends(
    start_server, api_of
) -> None:
    server: Server = start_server()
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        api = api_of(client)
        name = api.two_actions(
            policy="neural_linear_ts", encoder={"name": "mlp"},
            training={"mode": "lockstep", "optimizer_steps": 100_000},
        )  # fmt: skip
        for number in range(8):
            api.teach(name, [number, 1.0], "x", number / 8)
        waiting = pool.submit(client.post, f"/bandits/{name}/train?wait=true")
        poll(
            lambda: client.get(f"/bandits/{name}").json()["trainer"]["phase"] == "optimizer",
            "the round",
        )
        assert server.stop() == 0
        answer = waiting.result(60)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:bandexa:unavailable")
    assert "shutting down" in answer.json()["detail"]
    assert '"level":"error"' not in server.log_text()


def test_a_server_without_memory_exits_once_it_has_ended(start_server, forked: bool) -> None:
    """Its last steps need no thread: where memory is short, one that starts may never run."""
    server: Server = start_server(forked=forked)
    assert server.http.put("/bandits/b", json=LINEAR).status_code == 201
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[0])
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_AS)
    resource.prlimit(server.pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert server.wait() == 0
    assert "Finished server process" in server.log_text()
