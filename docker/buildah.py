"""Images without a container engine: buildah with chroot isolation, in a storage of its own.

Everything lies in one folder that the caller removes; images of the machine's own storage are
neither used nor changed. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOLS = ("buildah", "debootstrap")


class CheckFailed(Exception):
    """Something is not as it must be."""


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command and return what it prints.

    Raises:
        CheckFailed: It ended with another status than 0.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        shown = " ".join(command[:4])
        raise CheckFailed(f"{shown} ...: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout.strip()


def install_tools() -> None:
    """Install what is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid():
        raise CheckFailed("run it as root: debootstrap and chroot need that")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CheckFailed(f"{', '.join(missing)} missing: install them, on Debian it is done here")
    run("apt-get", "update")
    run("apt-get", "install", "--yes", "--no-install-recommends", *missing)


class Buildah:
    """Images and containers in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = (
            "buildah", "--root", str(folder / "images"), "--runroot", str(folder / "containers"),
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        """Run a command of buildah and return what it prints."""
        return run(*self._command, *arguments)

    def make_base(self, tag: str, packages: Sequence[str]) -> None:
        """Make a small Debian image of the release that has Python 3.11."""
        tree = self._folder / "tree"
        included = f"--include={','.join(packages)}"
        run("debootstrap", "--variant=minbase", included, "bookworm", str(tree))
        shutil.rmtree(tree / "var/cache/apt")
        made = self("from", "scratch")
        self("add", "--quiet", made, f"{tree}/", "/")
        self("commit", "--quiet", "--rm", made, tag)
        shutil.rmtree(tree)

    def build(
        self, target: str, tag: str, arguments: dict[str, str], mounts: dict[str, str]
    ) -> None:
        """Build a target of the Dockerfile; `mounts` (outside: inside) end with the build."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        volumes = [f"--volume={outside}:{inside}:ro" for outside, inside in mounts.items()]
        self(
            "bud", "--isolation", "chroot", "--format", "docker", "--file", "docker/Dockerfile",
            "--target", target, "--tag", tag, *given, *volumes, ".",
        )  # fmt: skip

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator[Container]:
        """Make a container of an image, for as long as it is used."""
        name = self("from", image)
        try:
            told = json.loads(self("inspect", name))
            kept = f"images/*-containers/{told['ContainerID']}/userdata/buildah-volumes"
            yield Container(
                self._command, name, Path(self("mount", name)), told["Docker"]["config"],
                self._folder, kept,
            )  # fmt: skip
        finally:
            self("rm", name)


class Container:
    """A container: where its files lie, what its image says, how to run commands in it.

    Its image's volumes are its own: of one mounted in their place, buildah 1.28 now and then takes
    the other.
    """

    def __init__(
        self, command: Sequence[str], name: str, root: Path, config: dict[str, Any],
        folder: Path, volumes: str,
    ) -> None:  # fmt: skip
        self.root = root
        self.config = config
        self._folder = folder
        self._volumes = volumes
        self._command = command
        self._name = name

    def in_volumes(self) -> list[str]:
        """Return the names of what lies in its volumes."""
        found = self._folder.glob(f"{self._volumes}/*/*")
        return sorted(path.name for path in found)

    def command(
        self, *inside: str, mounts: Sequence[str] = (), environment: dict[str, str] | None = None
    ) -> list[str]:
        """Return the command line that runs a command inside, as the image's user."""
        given = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        volumes = [f"--volume={mount}" for mount in mounts]
        options = ["run", "--isolation", "chroot", *volumes, *given]
        return [*self._command, *options, self._name, "--", *inside]
