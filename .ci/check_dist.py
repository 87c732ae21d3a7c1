"""Checks the wheels and source archives of `make dist`, each wheel in a clean environment.

    python .ci/check_dist.py DIST_FOLDER TORCH_REQUIREMENT

The client's wheel must work with httpx and what that requires. The server's wheel must hold the
packages a server needs and nothing else, and its server must answer in a folder that has a
`service` package of its own. Stops at the first check that fails, with exit status 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import venv
import zipfile
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PACKAGES = {"bandexa_core", "service", "simulators", "bandexa_client"}
FILES = {
    "bandexa_client/py.typed",
    "bandexa_core/py.typed",
    "service/py.typed",
    "service/http/static/dashboard/index.html",
    "service/http/static/swagger-ui/swagger-ui-bundle.js",
    "simulators/py.typed",
    "simulators/data/mnist-10k.npz",
}
TOO_MUCH_FOR_A_CLIENT = {"numpy", "torch", "pydantic", "msgpack", "bandexa"}


def main() -> None:
    """Check all that lies in the folder of the first argument."""
    folder, torch = Path(sys.argv[1]), sys.argv[2]
    server, client = only(folder, "bandexa-*.whl"), only(folder, "bandexa_client-*.whl")
    for wheel in (server, client):
        only(folder, f"{wheel.name.removesuffix('-py3-none-any.whl')}.tar.gz")
    check_contents(server, PACKAGES, FILES)
    check_contents(client, {"bandexa_client"}, {"bandexa_client/py.typed"})
    with tempfile.TemporaryDirectory(prefix="bandexa-dist-") as scratch:
        check_client(client, Path(scratch))
        check_server(server, torch, Path(scratch))


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that matches a pattern."""
    found = list(folder.glob(pattern))
    require(len(found) == 1, f"{folder} holds one {pattern}, not {len(found)}")
    return found[0].resolve()


def check_contents(wheel: Path, packages: set[str], files: set[str]) -> None:
    """Check that a wheel holds these packages, its metadata and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    held = {top for top in tops if not top.endswith(".dist-info")}
    require(held == packages, f"{wheel.name} holds {sorted(packages)}, not {sorted(held)}")
    require(files <= names, f"{wheel.name} lacks {sorted(files - names)}")


def check_client(wheel: Path, scratch: Path) -> None:
    """Check that the client works in an environment that has nothing but its requirements."""
    python = environment(scratch / "client")
    install(python, str(wheel))
    listed = json.loads(output(python, "-m", "pip", "list", "--format", "json"))
    names = {package["name"].lower() for package in listed}
    require(not names & TOO_MUCH_FOR_A_CLIENT, f"the client requires {sorted(names)}")
    output(
        python, "-c", "from bandexa_client import BanditClient; BanditClient('http://h').close()"
    )
    print(f"{wheel.name}: installed with {', '.join(sorted(names))}; it imports")


def check_server(wheel: Path, torch: str, scratch: Path) -> None:
    """Check that the server installs, states its version and decides."""
    python = environment(scratch / "server")
    install(python, torch)
    install(python, str(wheel), "--constraint", str(CONSTRAINTS))
    bandexa = python.with_name("bandexa")
    version = wheel.name.split("-")[1]
    stated = output(bandexa, "--version").split()
    require(stated == ["bandexa", version], f"--version states {stated}, not {version}")
    folder = scratch / "elsewhere"
    (folder / "service").mkdir(parents=True)
    (folder / "service" / "__init__.py").write_text("raise ImportError('another package')\n")
    with subprocess.Popen(
        [bandexa, "serve", "--port", "0"], cwd=folder, env=CLEAN, stdout=subprocess.PIPE, text=True
    ) as serving:
        try:
            assert serving.stdout is not None
            url = json.loads(serving.stdout.readline())["url"]
            decide(url)
        finally:
            serving.terminate()
    require(serving.returncode == 0, f"the server ended with {serving.returncode}")
    print(f"{wheel.name}: installed; its server decides, learns and ends in order")


def decide(url: str) -> None:
    """Make a bandit, a decision, a reward and a training round."""
    require(call("GET", f"{url}/readyz")["status"] == "ready", "the server is ready")
    bandit = {"policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"}}
    call("PUT", f"{url}/bandits/shop", bandit)
    call("PUT", f"{url}/bandits/shop/actions", {"actions": [{"id": "a"}, {"id": "b"}]})
    chosen = call("POST", f"{url}/select", {"bandit": "shop", "context": [0.5, 1.0]})
    reward = {"decision_id": chosen["decision_id"], "reward": 1}
    answer = call("POST", f"{url}/reward", reward)
    require(answer["status"] == "applied", f"the reward is applied, not {answer['status']}")
    trained = call("POST", f"{url}/bandits/shop/train?wait=true")
    require(trained["trained"], "a training round publishes a snapshot")


def call(method: str, url: str, body: object = None) -> dict[str, object]:
    """Send a request and return the JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        answer: dict[str, object] = json.load(response)
    return answer


# What the checked environments inherit: no import path and no settings of the server.
CLEAN = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith(("BANDEXA_", "PYTHON")) and key != "VIRTUAL_ENV"
}


def environment(folder: Path) -> Path:
    """Make a virtual environment and return its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def install(python: Path, *arguments: str) -> None:
    """Install into an environment with pip."""
    output(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


def output(program: Path, *arguments: str) -> str:
    """Run a program of an environment in a folder of its own and return what it prints."""
    return subprocess.run(
        [program, *arguments], cwd=program.parents[1], env=CLEAN, check=True,
        stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


def require(condition: object, text: str) -> None:
    """End the check unless a condition holds."""
    if not condition:
        sys.exit(f"check_dist: expected: {text}")


if __name__ == "__main__":
    main()
