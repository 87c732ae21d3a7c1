"""The image in use: its server runs in a container, is called, simulated against, watched, stopped.

What a compose file gives a container is given here: a file of keys, a /tmp. The volume at /data is
the image's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from docker.buildah import ROOT, CheckFailed, Container, run

UID = 10001
SCOPES = ("select", "reward", "read", "admin")
READY_WITHIN_S, STOP_WITHIN_S, SCRAPED_WITHIN_S = 120.0, 60.0, 60.0
SIMULATED_STEPS = 40
_SERVICE = "http://bandexa:8080"  # where compose.yaml has it


def require(holds: object, what: str) -> None:
    """Print that something holds, or fail."""
    if not holds:
        raise CheckFailed(what)
    print(f"ok: {what}", flush=True)


class Server:
    """The image's own command in a container, on a free port of loopback."""

    def __init__(self, container: Container, scratch: Path) -> None:
        temporary = scratch / "tmp"
        temporary.mkdir()
        temporary.chmod(0o1777)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = self.metrics_key = ""
        self._container = container
        self._keys = scratch / "keys.toml"
        self._mounts = [f"{temporary}:/tmp"]
        self._log = scratch / "server.log"
        # Containers of this check share the machine's network.
        self._environment = {"BANDEXA_HOST": "127.0.0.1", "BANDEXA_PORT": str(self.port)}

    def run(self, *inside: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container and return what came of it."""
        command = self._container.command(*inside, mounts=self._mounts, environment=environment)
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT
        )

    def make_keys(self) -> None:
        """Make the file of keys as the documentation says, with the image's own command."""
        made = {"admin": SCOPES, "prometheus": ("read",)}
        tables, shown = "", {}
        for name, scopes in made.items():
            options = [option for scope in scopes for option in ("--scope", scope)]
            done = self.run("bandexa", "keygen", "--name", name, *options)
            tables += done.stdout
            shown[name] = done.stderr.split()[-1] if done.stderr else ""
        self._keys.write_text(tables)
        self._keys.chmod(0o644)
        self._mounts.append(f"{self._keys}:/run/secrets/keys:ro")
        self.key, self.metrics_key = shown["admin"], shown["prometheus"]
        require(self.key.startswith("bx_"), "keygen makes keys")

    def refuses_without_keys(self) -> None:
        """Check that the image's defaults do not open it to everyone."""
        done = self.run(*self._container.config["Entrypoint"], *self._container.config["Cmd"])
        refused = done.returncode and "keys" in done.stderr
        require(refused, "without keys it refuses to listen on all addresses")

    @contextlib.contextmanager
    def running(self) -> Iterator[httpx.Client]:
        """Run it; it must end by itself, with status 0, when it is asked to."""
        config = self._container.config
        command = self._container.command(
            *config["Entrypoint"], *config["Cmd"], mounts=self._mounts,
            environment={**self._environment, "BANDEXA_KEYS_FILE": "/run/secrets/keys"},
        )  # fmt: skip
        with self._log.open("w") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise CheckFailed(f"the server did not start: {self._log.read_text()[-2000:]}")
        pid = json.loads(line)["pid"]
        try:
            headers = {"Authorization": f"Bearer {self.key}"}
            with httpx.Client(
                base_url=self.url, headers=headers, timeout=120.0, trust_env=False
            ) as http:
                yield http
            require(Path(f"/proc/{pid}").stat().st_uid == UID, f"the server runs as user {UID}")
            os.kill(pid, signal.SIGTERM)
            require(process.wait(STOP_WITHIN_S) == 0, "SIGTERM ends it with status 0")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.wait(STOP_WITHIN_S)
            process.stdout.close()

    def is_healthy(self) -> None:
        """Run the image's own health check, in the container."""
        done = self.run(*self._container.config["Healthcheck"]["Test"][1:], **self._environment)
        require(done.returncode == 0, "the health check passes inside")

    def is_simulated_against(self) -> None:
        """Run what the profile `simulate` runs, for fewer steps."""
        services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
        simulations = [s for s in services.values() if s.get("profiles") == ["simulate"]]
        require(len(simulations) == 3, "the profile `simulate` has three workloads")
        for simulation in simulations:
            given = [word.replace(_SERVICE, self.url) for word in simulation["command"]]
            done = self.run(
                "bandexa", *given, "--horizon", str(SIMULATED_STEPS), "--quiet",
                BANDEXA_API_KEY=self.key, MPLCONFIGDIR=simulation["environment"]["MPLCONFIGDIR"],
            )  # fmt: skip
            if done.returncode:
                raise CheckFailed(f"{' '.join(given)}: {done.stderr[-2000:] or done.stdout}")
            require("neural_linear_ts" in done.stdout, f"{' '.join(given[:2])} plays against it")


def wait_until_ready(http: httpx.Client) -> None:
    """Wait for the server's word that it is ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    while http.get("/readyz").status_code != 200:
        if time.monotonic() > deadline:
            raise CheckFailed("the server is not ready")
        time.sleep(0.1)


def use(http: httpx.Client) -> None:
    """Select, reward and train, as a user would."""

    def call(method: str, path: str, body: Any = None) -> Any:
        response = http.request(method, path, json=body)
        if not response.is_success:
            raise CheckFailed(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    anonymous = httpx.get(f"{http.base_url}/bandits", trust_env=False)
    require(anonymous.status_code == 401, "a call without a key gets 401")
    encoder = {"name": "mlp", "params": {"feature_dim": 8, "heads": "per_action"}}
    call("PUT", "/bandits/offers", {
        "policy": "neural_linear_ts", "context": {"shape": [4]}, "encoder": encoder,
        "training": {"optimizer_steps": 20},
    })  # fmt: skip
    call("PUT", "/bandits/offers/actions", {"actions": [{"id": a} for a in ("a", "b", "c")]})
    for number in range(60):
        context = [number % 2, number % 3, number % 5, 1.0]
        chosen = call("POST", "/select", {"bandit": "offers", "context": context})
        reward = float(chosen["action"]["id"] == "b")
        call("POST", "/reward", {"decision_id": chosen["decision_id"], "reward": reward})
    trained = call("POST", "/bandits/offers/train?wait=true")
    state = call("GET", "/bandits/offers")
    require(state["num_learned"] == 60, "60 selects and rewards are learned")
    require(state["snapshot"] >= trained["snapshot"] >= 1, "a round is trained and served")


def check_monitoring(server: Server, scratch: Path) -> None:
    """Let Prometheus itself scrape the server as docker/prometheus.yml says."""
    prometheus = _prometheus(scratch)
    key = scratch / "metrics.key"
    key.write_text(server.metrics_key)
    text = (ROOT / "docker/prometheus.yml").read_text()
    changes = {
        "bandexa:8080": f"127.0.0.1:{server.port}", "/run/secrets/metrics_key": str(key),
        "scrape_interval: 15s": "scrape_interval: 1s",
    }  # fmt: skip
    for written, here in changes.items():
        if text.count(written) != 1:
            raise CheckFailed(f"prometheus.yml has no {written}")
        text = text.replace(written, here)
    config = scratch / "prometheus.yml"
    config.write_text(text)
    port = _free_port()
    with (scratch / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [prometheus, f"--config.file={config}", f"--storage.tsdb.path={scratch / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, cwd=scratch,
        )  # fmt: skip
    try:
        target = _scraped(f"http://127.0.0.1:{port}", process)
        wrong = target["lastError"] or target["health"] != "up"
        require(not wrong, f"Prometheus scrapes it with a key {target if wrong else ''}".strip())
    finally:
        process.terminate()
        process.wait(STOP_WITHIN_S)


def _scraped(url: str, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Return the one target of a Prometheus once it was scraped: its health and last error."""
    deadline = time.monotonic() + SCRAPED_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):  # it does not listen yet
            targets = httpx.get(f"{url}/api/v1/targets", trust_env=False).json()["data"]
            for target in targets["activeTargets"]:
                if target["health"] != "unknown":
                    return {"health": target["health"], "lastError": target["lastError"]}
        time.sleep(0.1)
    raise CheckFailed("Prometheus did not scrape")


def _prometheus(scratch: Path) -> str:
    """Return a Prometheus to run: the machine's, else Debian's, unpacked and not installed."""
    installed = shutil.which("prometheus")
    if installed:
        return installed
    folder = scratch / "prometheus"
    folder.mkdir()
    run("apt-get", "update")
    run("apt-get", "download", "prometheus", cwd=folder)
    (package,) = folder.glob("*.deb")
    run("dpkg-deb", "--extract", str(package), str(folder))
    return str(folder / "usr/bin/prometheus")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
