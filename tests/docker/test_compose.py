"""The container files agree with the project: versions, users, ports, what is sent to a build."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker" / name).read_text())
    return found


def test_torch_is_of_the_version_that_is_tested():
    (version,) = re.findall(r"^TORCH := torch==(\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert f"ARG TORCH_VERSION={version}\n" in DOCKERFILE
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (vision,) = re.findall(r"^ARG TORCHVISION_VERSION=(\S+)$", DOCKERFILE, re.M)
    wanted = next(line for line in required if line.startswith("torchvision=="))
    assert vision.startswith(wanted.removeprefix("torchvision==").removesuffix("*"))


def test_the_image_installs_all_requirements_but_torch():
    done = subprocess.run(
        [sys.executable, "docker/requirements.py"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [line for line in required if not line.startswith("torch")] == done.stdout.splitlines()


def test_both_images_run_as_their_own_user():
    stages = dict(re.findall(r"FROM runtime AS (\w+)\n(.*?)(?=\nFROM|\Z)", DOCKERFILE, re.S))
    assert stages.keys() == {"cpu", "gpu"}
    for stage in stages.values():
        assert stage.rstrip().splitlines()[-1].startswith("USER 10001:10001") or (
            "USER 10001:10001\n" in stage
        )


def test_the_service_needs_keys_and_is_confined():
    service = document("compose.yaml")["services"]["bandexa"]
    assert service["environment"]["BANDEXA_KEYS_FILE"] == "/run/secrets/keys"
    assert document("compose.yaml")["secrets"]["keys"]["file"].startswith("${BANDEXA_KEYS_FILE:?")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["ports"] == ["${BANDEXA_PUBLISH:-127.0.0.1:8080}:8080"]


@pytest.mark.parametrize("workload", ["synthetic", "mnist", "two-tower"])
def test_every_workload_is_simulated_with_the_key(workload):
    service = document("compose.yaml")["services"][f"simulate-{workload}"]
    assert service["profiles"] == ["simulate"]
    assert "BANDEXA_API_KEY" in service["environment"]
    assert service["command"][:2] == ["simulate", workload]
    help_of = subprocess.run(
        [sys.executable, "-m", "service.cli", "simulate", workload, "--help"], cwd=ROOT,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    options = [word for word in service["command"] if word.startswith("--")]
    assert all(option in help_of for option in options)


def test_the_gpu_is_reserved_for_the_service():
    service = document("compose.gpu.yaml")["services"]["bandexa"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["build"]["target"] == "gpu"


def test_a_build_is_sent_no_more_than_it_copies():
    lines = (ROOT / ".dockerignore").read_text().split()
    assert "*" in lines
    copied = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert {"bandexa_core", "service", "simulators", "benchmarks", "pyproject.toml"} <= copied
    assert not any(path.startswith((".git", "tests", ".venv")) for path in copied)
