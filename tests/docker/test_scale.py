"""compose.scale.yaml and its balancer: their settings exist, and HAProxy finds ready servers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.settings import Settings
from tests.fixtures.api import Api
from tests.fixtures.commands import Process, start
from tests.fixtures.servers import Server, servers
from tests.fixtures.system_packages import find
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll

DOCKER = Path(__file__).parents[2] / "docker"
SERVICES: dict[str, Any] = yaml.safe_load((DOCKER / "compose.scale.yaml").read_text())["services"]
OURS = ("server-1", "server-2", "server-3", "trainer")
ADDRESSES = ("SERVER_1", "SERVER_2", "SERVER_3")


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


def test_servers_share_the_database_and_leave_training_to_the_trainer():
    for name in OURS[:3]:
        chosen = SERVICES[name]["environment"]
        assert int(chosen["BANDEXA_SERVERS"]) > 3, "a killed one's number is free after its lease"
        assert chosen["BANDEXA_TRAINER"] == "elsewhere"
        assert chosen["BANDEXA_SERVER_URL"] == f"http://{name}:8080"
    assert SERVICES["trainer"]["command"] == ["trainer"]
    volumes = [SERVICES[name]["volumes"] for name in OURS]
    assert len({str(each) for each in volumes}) == 4, "each has a data directory of its own"
    balanced = [SERVICES["balancer"]["environment"][name] for name in ADDRESSES]
    assert balanced == [f"{name}:8080" for name in OURS[:3]]


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


@contextmanager
def balancing(folder: Path, *servers: str) -> Iterator[str]:
    """HAProxy as configured, on another port, before the addresses of three servers."""
    port = free_port()
    text = (DOCKER / "haproxy.cfg").read_text()
    text, count = re.subn(r"bind :8080", f"bind 127.0.0.1:{port}", text)
    assert count == 1
    configuration = folder / "haproxy.cfg"
    configuration.write_text(text)
    environment = os.environ | dict(zip(ADDRESSES, servers, strict=True))
    program = find("haproxy")
    assert program is not None
    checked = subprocess.run(
        [program, "-c", "-f", configuration], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
    with (folder / "haproxy.log").open("wb") as log:
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


@dataclass
class Site:
    """Servers that share a database, a trainer beside them, and the balancer's address."""

    servers: list[Server]
    trainer: Process
    url: str

    def client(self) -> httpx.Client:
        return open_client(self.url)

    def bandit(self, name: str, **spec: Any) -> str:
        """Create a bandit at the balancer, and wait until all servers know its actions."""
        with self.client() as client:
            Api(client).two_actions(name=name, **spec)
        for server in self.servers:
            body = {"bandit": name, "context": [1.0, 0.0], "candidates": ["x", "y"]}

            def knows_it(server: Server = server, body: dict[str, Any] = body) -> bool:
                return server.http.post("/select", json=body).is_success

            poll(knows_it, "it knows the actions")
        return name


@contextmanager
def trainer_of(folder: Path, environment: dict[str, str]) -> Iterator[Process]:
    log = folder / "trainer.log"
    with log.open("wb") as out:
        process = start(
            "trainer", "--data-dir", folder / "trainer", stdout=out.fileno(), stderr=out.fileno(),
            env=environment,
        )  # fmt: skip
    try:
        poll(lambda: b"takes orders" in log.read_bytes(), "the trainer starts")
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def site(postgres, tmp_path_factory) -> Iterator[Site]:
    """What compose.scale.yaml starts, with a standby less; the keeper is the first server."""
    folder = tmp_path_factory.mktemp("scale")
    chosen: dict[str, str] = SERVICES["server-1"]["environment"]
    left_out = ("BANDEXA_KEYS_FILE", "BANDEXA_SERVER_URL")
    environment = {key: value for key, value in chosen.items() if key not in left_out}
    with postgres.empty() as url, ExitStack() as stack:
        environment |= {"BANDEXA_STORE": url, "BANDEXA_LEASE_S": "2"}
        begin = stack.enter_context(servers(folder))
        ports = [free_port() for _ in range(3)]
        started = [begin(folder / f"{port}", "--port", port, env=environment) for port in ports]
        shared = {key: environment[key] for key in SERVICES["trainer"]["environment"]}
        trainer = stack.enter_context(trainer_of(folder, shared))
        balancer = stack.enter_context(balancing(folder, *(f"127.0.0.1:{port}" for port in ports)))
        yield Site(started, trainer, balancer)


@pytest.mark.needs("haproxy")
def test_every_request_is_answered_from_the_first_one_on(server, tmp_path) -> None:
    """Before any check has found out that nobody listens at two of three addresses."""
    away = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    url = httpx.URL(server.url)
    with (
        balancing(tmp_path, *away, f"{url.host}:{url.port}") as balanced,
        open_client(balanced, 30) as client,
    ):
        for _ in range(20):
            assert client.get("/healthz").status_code == 200
        spec = {"policy": "linear_ts", "context": {"shape": [2]}}
        answers = [client.put("/bandits/balanced", json=spec) for _ in range(4)]
    assert {answer.status_code for answer in answers} <= {200, 201}, answers[0].text


@pytest.mark.needs("haproxy", "postgres")
def test_all_servers_get_requests(site) -> None:
    with site.client() as client:
        found = {client.get("/readyz").json()["server"] for _ in range(12)}
    assert len(found) == 3


@pytest.mark.needs("haproxy", "postgres")
def test_a_round_that_is_ordered_at_the_balancer_is_trained_elsewhere_and_served_by_all(
    site,
) -> None:
    with site.client() as client:
        api = Api(client)
        name = site.bandit(
            "rounds", policy="neural_linear_ts", encoder={"name": "mlp"},
            training={"train_every": 100_000, "optimizer_steps": 20},
        )  # fmt: skip
        for number in range(40):
            api.teach(name, [number / 40, 1.0], "xy"[number % 2], number % 2)
        orders = [api.train(name)["snapshot"] for _ in range(2)]  # at two of them
    assert orders == [1, 2]
    for server in site.servers:
        child = server.http.get("/readyz").json()["trainer"]  # which the keeper alone may have
        assert child is None or child["pid"] is None

        def serves_it(server: Server = server) -> bool:
            answer = Api(server.http).select(name, [0.5, 1.0])
            return bool(answer["snapshot"] == orders[-1])

        poll(serves_it, "it serves the newest model")


class Caller:
    """Selects and rewards at the balancer, twenty times a second at most.

    What fails is repeated once, a second later.
    """

    def __init__(self, site: Site, name: str) -> None:
        self._site, self._name = site, name
        self._ends = threading.Event()
        self.repeated = 0
        self.rewarded: list[str] = []
        self.failed: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Wait until it has had some answers."""
        before = len(self.rewarded)
        poll(lambda: self.failed or len(self.rewarded) > before + 10, "rewards go on")

    def _run(self) -> None:
        with self._site.client() as client:
            while not self._ends.wait(0.05) and not self.failed:
                chosen = f"called-{len(self.rewarded)}"
                select = {"bandit": self._name, "context": [1.0, 0.5], "decision_id": chosen}
                self._call(client, "/select", select)
                self._call(client, "/reward", {"decision_id": chosen, "reward": 1.0})
                self.rewarded.append(chosen)

    def _call(self, client: httpx.Client, path: str, body: dict[str, Any]) -> None:
        said = []
        for _ in range(2):
            try:
                answer = client.post(path, json=body)
            except httpx.TransportError as error:
                said.append(repr(error))
            else:
                if answer.status_code == 200:
                    self.repeated += bool(said)
                    return
                said.append(f"{answer.status_code} {answer.text}")
            if len(said) == 1:
                self._ends.wait(1)  # what `Retry-After` says
        self.failed.append(f"{path}: {said}")


@pytest.mark.slow
@pytest.mark.needs("haproxy", "postgres")
def test_one_repetition_mends_what_fails_while_each_server_is_started_anew(site) -> None:
    """The keeper is one of them: it hands its part on as it ends."""
    name = site.bandit("restarted")
    with Caller(site, name) as caller:
        for server in site.servers:
            caller.goes_on()
            assert server.stop() == 0
            caller.goes_on()  # with the others alone
            server.start()
            ready = lambda server=server: server.http.get("/readyz").is_success  # noqa: E731
            poll(ready, "it serves again")
            caller.goes_on()
    assert not caller.failed, caller.failed
    with site.client() as client:
        ignored = [Api(client).reward(each, 0.0)["status"] for each in caller.rewarded]
    assert set(ignored) == {"ignored"}, "each answered reward is stored"
