"""compose.scale.yaml and its balancer: their settings exist, and HAProxy finds the ready server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.settings import Settings
from tests.fixtures.servers import Server
from tests.fixtures.system_packages import find
from tests.fixtures.waiting import poll

DOCKER = Path(__file__).parents[2] / "docker"
SERVICES: dict[str, Any] = yaml.safe_load((DOCKER / "compose.scale.yaml").read_text())["services"]
OURS = ("server-1", "server-2", "trainer")


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_sets_is_a_setting(name):
    chosen = SERVICES[name]["environment"]
    known = {f"BANDEXA_{field.upper()}" for field in Settings.model_fields}
    assert set(chosen) <= known
    assert chosen["BANDEXA_STORE"].startswith("postgresql://bandexa:${BANDEXA_DB_PASSWORD:?")
    assert chosen["BANDEXA_SNAPSHOT_STORE"] == "postgresql"


def test_servers_stand_by_for_each_other_and_leave_training_to_the_trainer():
    for name in OURS[:2]:
        chosen = SERVICES[name]["environment"]
        assert (chosen["BANDEXA_STANDBY"], chosen["BANDEXA_TRAINER"]) == ("true", "elsewhere")
    assert SERVICES["trainer"]["command"] == ["trainer"]
    volumes = [SERVICES[name]["volumes"] for name in OURS]
    assert len({str(each) for each in volumes}) == 3, "each has a data directory of its own"


def test_commits_wait_for_the_standby_by_its_name():
    primary = (DOCKER / "postgres" / "replication.sh").read_text()
    (wanted,) = re.findall(r"synchronous_standby_names = '(\w+)'", primary)
    assert f"application_name={wanted}" in (DOCKER / "postgres" / "standby.sh").read_text()
    # Commits of the entrypoint, which makes the database with these arguments, would wait for ever.
    assert not any("synchronous" in word for word in SERVICES["postgres"]["command"])


def test_every_file_that_is_mounted_is_there():
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert len(mounted) == 3
    assert all((DOCKER / name).is_file() for name in mounted)


@pytest.mark.parametrize("script", ["replication.sh", "standby.sh"])
def test_scripts_can_be_read_by_a_shell(script):
    done = subprocess.run(["bash", "-n", DOCKER / "postgres" / script], check=False)
    assert done.returncode == 0


@pytest.fixture
def balanced(server: Server, tmp_path) -> Iterator[str]:
    """HAProxy as configured, on another port, before a server and a port where nobody listens."""
    port = free_port()
    text = (DOCKER / "haproxy.cfg").read_text()
    text, count = re.subn(r"bind :8080", f"bind 127.0.0.1:{port}", text)
    assert count == 1
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(text)
    url = httpx.URL(server.url)
    environment = os.environ | {
        "SERVER_1": f"127.0.0.1:{free_port()}", "SERVER_2": f"{url.host}:{url.port}",
    }  # fmt: skip
    program = find("haproxy")
    assert program is not None
    checked = subprocess.run(
        [program, "-c", "-f", configuration], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
    with (tmp_path / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-db", "-f", configuration], env=environment, stdout=log, stderr=log
        )
    try:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        poll(listens, "HAProxy listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.needs("haproxy")
def test_the_balancer_sends_every_request_to_the_server_that_is_ready(balanced):
    """From its first request on, before any check has found out that the other is away."""
    with httpx.Client(base_url=balanced, trust_env=False, timeout=30) as client:
        for _ in range(20):
            assert client.get("/healthz").status_code == 200
        spec = {"policy": "linear_ts", "context": {"shape": [2]}}
        answers = [client.put("/bandits/balanced", json=spec) for _ in range(4)]
        assert {answer.status_code for answer in answers} <= {200, 201}, answers[0].text
