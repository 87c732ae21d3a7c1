"""Prove the images and the compose files where there is no container engine: `make docker-check`.

Builds the cpu target with buildah, in chroot isolation, on a Debian base image that debootstrap
makes; runs it as its own user, talks to it, stops it, and compares its files with those it had.
Needs root on Debian; buildah and debootstrap are installed where they are missing. What it makes
lies in one temporary folder, which goes in the end.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jsonschema_rs
import yaml

from docker import registries, trial
from docker.buildah import ROOT, Buildah, CheckFailed, Container, install_tools, run
from docker.trial import UID, require

BASE, IMAGE = "localhost/bandexa-base:check", "localhost/bandexa:check"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
# Reads a wheel's requirements in a few ranges of it, where older ones fetch gigabytes of CUDA.
PIP = "pip==26.0"
PIP_CONF = "/etc/pip.conf"
# Of the base image (pip), or of the versions the Dockerfile itself names.
PINNED_ELSEWHERE = {"pip", "torch", "torchvision", "bandexa"}
MIB = 1 << 20


def check_compose() -> None:
    """Validate the compose files against the schema of the compose specification."""
    schema = json.loads((ROOT / "docker/compose-spec/compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    for name in ("compose.yaml", "compose.gpu.yaml"):
        document = yaml.safe_load((ROOT / "docker" / name).read_text())
        problems = [error.message for error in validator.iter_errors(document)]
        require(not problems, f"{name} is a valid compose file {problems or ''}".strip())


def check_gpu_requirements(scratch: Path) -> None:
    """Resolve what the gpu target installs, from the registries alone, without downloading it."""
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "download", "--quiet", "--no-deps", "--dest", str(scratch / "pip"), PIP)
    (resolver,) = (scratch / "pip").glob("*.whl")
    config = scratch / "gpu-pip.conf"
    registries.write(registries.without_folders(registries.pip_settings()), config)
    requirements = scratch / "requirements.txt"
    requirements.write_text(run(sys.executable, "docker/requirements.py"))
    versions = dict(re.findall(r"^ARG (TORCH\w*)_VERSION=(\S+)$", _dockerfile(), re.M))
    report = scratch / "gpu.json"
    cleared = [name for name in os.environ if name.startswith("PIP_")]
    run(
        "env", *(f"--unset={name}" for name in cleared), f"PIP_CONFIG_FILE={config}",
        sys.executable, f"{resolver}/pip", "install", "--dry-run", "--ignore-installed", "--quiet",
        "--use-feature", "fast-deps", "--only-binary", ":all:", "--report", str(report),
        "--constraint", "constraints.txt", "--requirement", str(requirements),
        *(f"{name.lower()}=={version}" for name, version in versions.items()),
    )  # fmt: skip
    found = {
        item["metadata"]["name"]: item["metadata"]["version"]
        for item in json.loads(report.read_text())["install"]
    }
    cuda = [name for name in found if name.lower().startswith("nvidia-")]
    require(cuda, f"the gpu target resolves: {len(found)} packages, {len(cuda)} of them NVIDIA's")
    require_pinned("the gpu target", found)


def require_pinned(whose: str, installed: dict[str, str]) -> None:
    """Check versions against those of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {_normal(name): version for name, _, version in (line.partition("==") for line in lines)}
    others = {
        name: version
        for name, version in installed.items()
        if _normal(name) not in PINNED_ELSEWHERE and pins.get(_normal(name)) != version
    }
    require(not others, f"{whose} has the versions of constraints.txt {others or ''}".strip())


def build(buildah: Buildah, scratch: Path) -> None:
    """Build the cpu target on a base image made for it."""
    started = time.monotonic()
    buildah.make_base(BASE, BASE_PACKAGES)
    made = time.monotonic()
    settings = registries.pip_settings()
    config = scratch / "pip.conf"
    registries.write(settings, config)
    mounts = {str(config): PIP_CONF, **{path: path for path in registries.local_paths(settings)}}
    arguments = {"BASE_IMAGE": BASE}
    if metadata.version("torch").endswith("+cpu"):
        arguments["TORCH_CPU_INDEX"] = ""  # this machine's pip finds the CPU build by itself
    buildah.build("cpu", IMAGE, arguments, mounts)
    print(f"base image in {made - started:.0f} s, built in {time.monotonic() - made:.0f} s")


def check_image(container: Container) -> None:
    """Check what the image says of itself, who owns its files and which packages it has."""
    config, root = container.config, container.root
    require(config["User"] == f"{UID}:{UID}", "the image runs as its own user")
    require("/data" in config["Volumes"], "/data is a volume")
    require("healthz" in " ".join(config["Healthcheck"]["Test"]), "the health check asks /healthz")
    (packages,) = (root / "opt/bandexa/lib").glob("python3*/site-packages")
    installed = {each.name: each.version for each in metadata.distributions(path=[str(packages)])}
    built_for = installed["torch"].partition("+")[2]
    require(built_for == "cpu", f"torch {installed['torch']} is built for CPUs alone")
    require_pinned("the image", installed)
    files = {path: path.lstat() for path in (root / "opt/bandexa").rglob("*")}
    others = [
        path.relative_to(root)
        for path, each in files.items()
        if each.st_uid or (each.st_mode & 0o022 and not stat.S_ISLNK(each.st_mode))
    ]
    size = sum(each.st_size for each in files.values()) / MIB
    require(not others, f"{len(files)} files, {size:.0f} MiB, belong to root and only it writes")
    _require_no_traces(container)


def _require_no_traces(container: Container) -> None:
    """Look through the image for what the build was given to reach package registries."""
    settings = registries.pip_settings()
    given = [PIP_CONF, *(path for path in registries.local_paths(settings) if Path(path).is_dir())]
    left = [path for path in given if _holds_something(container.root / path.lstrip("/"))]
    words = [word.encode() for word in registries.traces(settings)]
    described = json.dumps(container.config).encode()
    found = [word for word in words if word in described]
    for path in _files(container.root):
        each = path.lstat()
        if stat.S_ISREG(each.st_mode) and each.st_size < MIB:
            text = path.read_bytes()
            found += [word + b" in " + str(path).encode() for word in words if word in text]
    require(not left + found, f"no registry settings are in the image {left + found or ''}".strip())


def _holds_something(path: Path) -> bool:
    """Tell whether a mount point, as the build leaves one, is more than that."""
    if path.is_dir():
        return any(each.is_file() for each in path.rglob("*"))
    return path.exists() and path.stat().st_size > 0


def _files(root: Path) -> Iterator[Path]:
    """Yield every file and folder outside the volume and what the kernel shows."""
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = set(folders) - {"data", "proc", "sys", "dev"}
        yield from (Path(folder, name) for name in (*folders, *files))


def contents(root: Path) -> dict[str, tuple[int, ...]]:
    """Return every file and folder outside the volume: size, times, mode and owner."""
    found: dict[str, tuple[int, ...]] = {}
    for path in _files(root):
        each = path.lstat()
        owner = (each.st_uid, each.st_gid)
        times = (each.st_mtime_ns, each.st_ctime_ns)  # nobody can set the second one back
        if path == root / "run":  # buildah makes and removes a file of its own there
            times = (0, 0)
        found[str(path.relative_to(root))] = (each.st_size, *times, each.st_mode, *owner)
    return found


def check_container(buildah: Buildah, scratch: Path) -> None:
    """Run the image, use it, stop it; then look what has changed."""
    with buildah.container(IMAGE) as container:
        check_image(container)
        server = trial.Server(container, scratch)
        server.refuses_without_keys()
        server.make_keys()
        server.run("true")  # makes the mount points
        before = contents(container.root)
        with server.running() as http:
            trial.wait_until_ready(http)
            trial.use(http)
            server.is_healthy()
            server.is_simulated_against()
            trial.check_monitoring(server, scratch)
        after = contents(container.root)
        changed = sorted(
            path for path in before.keys() | after if before.get(path) != after.get(path)
        )
        require(not changed, f"none of {len(after)} files outside the volume changed {changed}")
        held = container.in_volumes()
        require("bandexa.db" in held, f"the volume holds the data: {', '.join(held)}")


def _dockerfile() -> str:
    return (ROOT / "docker/Dockerfile").read_text()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Run every check; returns the exit status."""
    try:
        install_tools()
        with tempfile.TemporaryDirectory(prefix="docker-check-") as folder:
            scratch = Path(folder)
            scratch.chmod(0o755)  # the container's user reads its keys there
            check_compose()
            check_gpu_requirements(scratch)
            buildah = Buildah(scratch)
            build(buildah, scratch)
            check_container(buildah, scratch)
    except CheckFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print("docker-check passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
