"""Check the CPU image without a container engine, as root on Debian: `make docker-check`.

The compose files must follow the compose specification. debootstrap makes a base image, and buildah
builds the image on it in chroot isolation. The image must run as a user of its own, refuse to
listen without keys, pass its health check, serve a simulated workload, be scraped by Prometheus,
end at SIGTERM, and change nothing outside its volume. All files are in one temporary folder; only
buildah and debootstrap remain installed.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[1]
BASE, IMAGE = "localhost/bandexa-base:check", "localhost/bandexa:check"
# Debian bookworm has Python 3.11.
DEBIAN, PACKAGES = "bookworm", "python3,python3-venv,ca-certificates"
UID, SCOPES, STEPS = 10001, ("select", "reward", "read", "admin"), 40
# Contains the schema of the compose specification; only this check needs it.
SCHEMAS = "check-jsonschema==0.39.0"
# The settings of pip that a build needs to reach the same package registries as this machine.
PIP_KEYS = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "proxy",
    "timeout", "default-timeout",
)  # fmt: skip
WITHIN_S = 300.0


class CheckFailed(Exception):
    """A requirement does not hold."""


def require(holds: object, what: str) -> None:
    """Print the requirement when it holds; raise CheckFailed otherwise."""
    if not holds:
        raise CheckFailed(what)
    print(f"ok: {what}", flush=True)


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command and return its output; raise CheckFailed when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise CheckFailed(f"{' '.join(command[:6])} ...: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout.strip()


def install_tools() -> None:
    """Install buildah and debootstrap unless they are installed."""
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if os.geteuid():
        raise CheckFailed("debootstrap and chroot need root")
    if missing:
        run("apt-get", "update")
        run("apt-get", "install", "--yes", "--no-install-recommends", *missing)


def check_compose(folder: Path) -> None:
    """Validate the compose files against the compose specification."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / "schemas"))
    run(*pip, SCHEMAS)
    names = ("compose.yaml", "compose.gpu.yaml", "compose.scale.yaml")
    files = [str(ROOT / "docker" / name) for name in names]
    run(
        "env", f"PYTHONPATH={folder}/schemas", sys.executable, "-m", "check_jsonschema",
        "--builtin-schema", "vendor.compose-spec", *files,
    )  # fmt: skip
    require(True, "the compose files follow the compose specification")


def pip_access(config: Path) -> dict[str, str]:
    """Write this machine's pip settings to a file; return the paths to mount and their targets."""
    listed = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    found: dict[str, list[str]] = {}
    for section in ("global", "install", ":env:"):  # later sections take precedence, as in pip
        for line in listed:
            key, _, value = line.partition("=")
            if key.startswith(f"{section}.") and key.removeprefix(f"{section}.") in PIP_KEYS:
                found[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value)).split()
    lines = [f"{name} = {' '.join(words)}" for name, words in found.items()]
    config.write_text("\n".join(["[global]", *lines, ""]))
    seen = {str(config): "/etc/pip.conf"}
    for word in (word for words in found.values() for word in words):
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # The pages of an index may link to files beside it.
            shared = str(path.parent if word.startswith("file://") else path)
            seen[shared] = shared
    return seen


class Buildah:
    """Runs buildah with a storage of its own, which has the images and one container."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = (
            "buildah", "--root", str(folder / "images"), "--runroot", str(folder / "containers"),
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        """Run a command of buildah and return its output."""
        return run(*self._command, *arguments)

    def build(self) -> None:
        """Build the target `cpu` on a small Debian."""
        tree = self._folder / "tree"
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, str(tree))
        made = self("from", "scratch")
        self("add", "--quiet", made, f"{tree}/", "/")
        self("commit", "--quiet", "--rm", made, BASE)
        shutil.rmtree(tree)
        arguments = [f"--build-arg=BASE_IMAGE={BASE}"]
        if metadata.version("torch").endswith("+cpu"):
            arguments.append("--build-arg=TORCH_CPU_INDEX=")  # pip finds the CPU build without it
        mounts = pip_access(self._folder / "pip.conf")
        volumes = [f"--volume={outside}:{inside}:ro" for outside, inside in mounts.items()]
        self(
            "bud", "--isolation", "chroot", "--format", "docker", "--file", "docker/Dockerfile",
            "--target", "cpu", "--tag", IMAGE, *arguments, *volumes, ".",
        )  # fmt: skip

    @contextlib.contextmanager
    def container(self) -> Iterator[Container]:
        """Create a container of the image, and remove it at the end."""
        name = self("from", IMAGE)
        try:
            inspected = json.loads(self("inspect", name))
            root = Path(self("mount", name))
            storage = f"images/*-containers/{inspected['ContainerID']}/userdata/buildah-volumes"
            config = inspected["Docker"]["config"]
            yield Container([*self._command, "run"], name, root, config, (self._folder, storage))
        finally:
            self("rm", name)


class Container:
    """A container of the image with a file of keys and a /tmp, as in the compose file.

    Its volume is the one of the image: when another volume is mounted in that place, buildah 1.28
    sometimes uses the wrong one of the two. The container shares the machine's network.
    """

    def __init__(
        self, command: list[str], name: str, root: Path, config: dict[str, Any],
        volumes: tuple[Path, str],
    ) -> None:  # fmt: skip
        self.root, self.config = root, config
        self.folder, self._volumes = volumes
        self._name = name
        temporary = self.folder / "tmp"
        temporary.mkdir()
        temporary.chmod(0o1777)
        self._command = [*command, "--isolation", "chroot", f"--volume={temporary}:/tmp"]
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {"BANDEXA_HOST": "127.0.0.1", "BANDEXA_PORT": str(self.port)}

    def command(self, *inside: str, **environment: str) -> list[str]:
        """Return the command line that runs a command in the container as the image's user."""
        given = [f"--env={name}={value}" for name, value in environment.items()]
        return [*self._command, *given, self._name, "--", *inside]

    def run(self, *inside: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return subprocess.run(
            self.command(*inside, **environment), capture_output=True, text=True, check=False,
            timeout=600, cwd=ROOT,
        )  # fmt: skip

    def make_keys(self) -> tuple[str, str]:
        """Write the file of keys; return a key with all scopes and one with the scope `read`."""
        keys, tables = [], ""
        for name, scopes in (("admin", SCOPES), ("prometheus", ("read",))):
            options = [option for scope in scopes for option in ("--scope", scope)]
            done = self.run("bandexa", "keygen", "--name", name, *options)
            tables += done.stdout
            keys.append(done.stderr.split()[-1] if done.stderr else "")
        file = self.folder / "keys.toml"
        file.write_text(tables)
        file.chmod(0o644)
        self._command.append(f"--volume={file}:/run/secrets/keys:ro")
        require(all(key.startswith("bx_") for key in keys), "keygen returns keys")
        return keys[0], keys[1]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run the command of the image; SIGTERM must end it with status 0."""
        environment = {**self.environment, "BANDEXA_KEYS_FILE": "/run/secrets/keys"}
        command = self.command(*self.config["Entrypoint"], *self.config["Cmd"], **environment)
        log_path = self.folder / "server.log"
        with log_path.open("w") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise CheckFailed(f"the server did not start: {log_path.read_text()[-2000:]}")
        pid = json.loads(line)["pid"]
        try:
            require(Path(f"/proc/{pid}").stat().st_uid == UID, f"the server runs as user {UID}")
            yield
            os.kill(pid, signal.SIGTERM)
            require(process.wait(WITHIN_S) == 0, "SIGTERM ends it with status 0")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.wait(WITHIN_S)
            process.stdout.close()

    def contents(self) -> dict[str, tuple[int, ...]]:
        """Return size, times, mode and owner of all files and folders outside the volume."""
        found: dict[str, tuple[int, ...]] = {}
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.root:
                folders[:] = set(folders) - {"data", "proc", "sys", "dev"}
            for path in (Path(folder, name) for name in (*folders, *files)):
                each = path.lstat()
                times = (
                    each.st_mtime_ns,
                    each.st_ctime_ns,
                )  # no program can set the second one back
                if path == self.root / "run":  # buildah creates and removes a file there
                    times = (0, 0)
                state = (each.st_size, *times, each.st_mode, each.st_uid, each.st_gid)
                found[str(path.relative_to(self.root))] = state
        return found

    def in_volume(self) -> list[str]:
        """Return the names of the files in the volume."""
        return sorted(path.name for path in self.folder.glob(f"{self._volumes}/*/*"))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def check_image(container: Container) -> None:
    """Check the image's configuration and its installed packages."""
    config = container.config
    require(config["User"] == f"{UID}:{UID}", "the image has a user of its own")
    require("/data" in config["Volumes"], "/data is a volume")
    built_for = container.run("python", "-c", "import torch; print(torch.version.cuda)")
    require(built_for.stdout.strip() == "None", "its torch is the CPU build")
    installed = container.run("python", "-c", "import bandexa_client, bandexa_core, simulators")
    require(installed.returncode == 0, "core, client and simulators are installed")
    absent = container.run("python", "-c", "import benchmarks")
    require(absent.returncode != 0, "benchmarks are not installed")
    check_bill_of_materials(container)
    done = container.run(*config["Entrypoint"], *config["Cmd"])
    refused = done.returncode and "keys" in done.stderr
    require(refused, "without keys it refuses to listen on all addresses")


def check_bill_of_materials(container: Container) -> None:
    """Compare the list that the image has (SBOM) with what is installed in it."""
    listed = json.loads((container.root / "opt/bandexa/sbom.cdx.json").read_text())
    found = {(one["name"], one["version"]) for one in listed["components"]}
    program = (
        "import json; from importlib.metadata import distributions as found;"
        " print(json.dumps([(one.name, one.version) for one in found()]))"
    )
    present = json.loads(container.run("python", "-c", program).stdout)
    installed = {(name, version) for name, version in present}
    require(listed["bomFormat"] == "CycloneDX", "the image has a bill of materials")
    differing = sorted(_normalized(installed) ^ _normalized(found))
    require(
        not differing, f"it lists the {len(found)} installed packages {differing or ''}".strip()
    )


def _normalized(packages: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return packages by their normalized names (PEP 503)."""
    return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in packages}


def check_served(container: Container, key: str) -> None:
    """Use the server like its health check, like a client, and like a simulation."""
    done = container.run(*container.config["Healthcheck"]["Test"][1:], **container.environment)
    require(done.returncode == 0, "the health check passes in the container")
    with httpx.Client(base_url=container.url, timeout=WITHIN_S, trust_env=False) as http:
        require(http.get("/bandits").status_code == 401, "a call without a key gets 401")
        headers = {"Authorization": f"Bearer {key}"}
        # The first network loads torch, which on a busy disk takes longer than a client waits.
        first = {"policy": "neural_linear_ts", "context": {"shape": [2]}}
        created = http.put("/bandits/first", json=first, headers=headers)
        require(created.status_code == 201, "a bandit with a network is created")
        http.delete("/bandits/first", headers=headers)
        compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
        words = compose["services"]["simulate-synthetic"]["command"]
        given = [word.replace("http://bandexa:8080", container.url) for word in words]
        done = container.run(
            "bandexa", *given, "--horizon", str(STEPS), "--quiet", BANDEXA_API_KEY=key,
            MPLCONFIGDIR="/tmp",
        )  # fmt: skip
        require(
            "neural_linear_ts" in done.stdout, f"a simulation runs {done.stderr[-500:]}".strip()
        )
        bandits = http.get("/bandits", headers=headers).json()["bandits"]
        learned = [bandit["num_learned"] for bandit in bandits]
        require(learned and min(learned) > 0, f"its bandits have learned: {learned}")


def check_monitoring(container: Container, key: str) -> None:
    """Let a Prometheus scrape the server as docker/monitor/ configures it."""
    folder = container.folder / "prometheus"
    folder.mkdir()
    (folder / "key").write_text(key)
    shutil.copy(ROOT / "docker/monitor/alerts.yml", folder)
    text = (ROOT / "docker/monitor/prometheus.yml").read_text()
    changes = {
        "bandexa:8080": f"127.0.0.1:{container.port}", "/run/secrets/metrics_key": f"{folder}/key",
        "scrape_interval: 15s": "scrape_interval: 1s",
    }  # fmt: skip
    for written, here in changes.items():
        require(text.count(written) == 1, f"prometheus.yml has {written}")
        text = text.replace(written, here)
    (folder / "prometheus.yml").write_text(text)
    url = f"127.0.0.1:{_free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [_prometheus(folder), f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={url}"],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        target = _scraped(f"http://{url}", process)
        wrong = target["lastError"] or target["health"] != "up"
        require(not wrong, f"Prometheus scrapes it with a key {target if wrong else ''}".strip())
    finally:
        process.terminate()
        process.wait(WITHIN_S)


def _prometheus(folder: Path) -> str:
    """Return the installed Prometheus, or Debian's package of it, unpacked in `folder`."""
    installed = shutil.which("prometheus")
    if installed:
        return installed
    run("apt-get", "update")
    run("apt-get", "download", "prometheus", cwd=folder)
    (package,) = folder.glob("*.deb")
    run("dpkg-deb", "--extract", str(package), str(folder))
    return str(folder / "usr/bin/prometheus")


def _scraped(url: str, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Wait until Prometheus has scraped its target; return the target's health and last error."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):  # Prometheus does not listen yet
            targets = httpx.get(f"{url}/api/v1/targets", trust_env=False).json()["data"]
            for target in targets["activeTargets"]:
                if target["health"] != "unknown":
                    return {"health": target["health"], "lastError": target["lastError"]}
        time.sleep(0.1)
    raise CheckFailed("Prometheus did not scrape")


def main() -> int:
    """Run every check and return the exit status."""
    try:
        install_tools()
        with tempfile.TemporaryDirectory(prefix="docker-check-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # the container's user reads the keys here
            check_compose(folder)
            buildah = Buildah(folder)
            buildah.build()
            with buildah.container() as container:
                check_image(container)
                key, metrics_key = container.make_keys()
                container.run("true")  # buildah creates the mount points
                before = container.contents()
                with container.serving():
                    check_served(container, key)
                    check_monitoring(container, metrics_key)
                after = container.contents()
                paths = before.keys() | after
                changed = sorted(path for path in paths if before.get(path) != after.get(path))
                require(not changed, f"nothing outside the volume changed {changed or ''}".strip())
                held = container.in_volume()
                require("bandexa.db" in held, f"the volume has the data: {', '.join(held)}")
    except CheckFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print("docker-check passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
