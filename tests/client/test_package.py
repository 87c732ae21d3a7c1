"""The client as a distribution of its own: what it needs, and what its page shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "bandexa_client"


def test_it_depends_on_httpx_alone() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["httpx>=0.28"]
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"][0] in whole["dependencies"]
    assert project["requires-python"] == whole["requires-python"]
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (FOLDER / "py.typed").exists()


def test_its_wheel_contains_every_folder_of_it() -> None:
    declared = tomllib.loads((FOLDER / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(f.parent.relative_to(ROOT).parts) for f in FOLDER.rglob("__init__.py")}
    assert set(declared["packages"]) == found


def test_importing_it_brings_in_nothing_of_the_service() -> None:
    code = "import json, sys, bandexa_client; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-P", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    packages = {name.partition(".")[0] for name in json.loads(found)}
    assert "httpx" in packages
    assert not packages & {"service", "bandexa_core", "simulators", "benchmarks"}
    assert not packages & {"numpy", "torch", "pydantic", "fastapi", "msgpack"}


def test_its_page_works(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    exec(block.replace("http://127.0.0.1:8080", server.url), {})
    assert capsys.readouterr().out in ("red\n", "blue\n")
