"""The container files agree with the project: versions, users, keys, the build context."""

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


def test_the_images_have_the_tested_version_of_torch():
    (version,) = re.findall(r"^TORCH := torch==(\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert f"ARG TORCH_VERSION={version}\n" in DOCKERFILE
    (vision,) = re.findall(r"^ARG TORCHVISION_VERSION=(\S+)$", DOCKERFILE, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (line for line in project["dependencies"] if line.startswith("torchvision=="))
    assert vision.startswith(wanted.removeprefix("torchvision==").removesuffix("*"))


def test_every_step_that_installs_is_pinned():
    steps = re.findall(r"pip (?:install|wheel) .*?(?=\n[^ ]|\Z)", DOCKERFILE, re.S)
    assert steps
    for step in steps:
        assert "--constraint constraints.txt" in step or "--no-index" in step, step


def test_both_images_have_a_user_of_their_own():
    stages = dict(re.findall(r"FROM runtime AS (\w+)\n(.*?)(?=\nFROM|\Z)", DOCKERFILE, re.S))
    assert stages.keys() == {"cpu", "gpu"}
    for stage in stages.values():
        assert re.findall(r"^USER (\S+)$", stage, re.M) == ["10001:10001"]
        after = stage.partition("\nUSER ")[2]
        assert not re.search(r"^(RUN|COPY|ADD) ", after, re.M)


def test_an_image_without_a_target_is_for_the_cpu():
    assert re.findall(r"^FROM \S+ AS (\w[\w-]*)$", DOCKERFILE, re.M)[-1] == "cpu"


def test_the_service_needs_keys_and_is_confined():
    service = document("compose.yaml")["services"]["bandexa"]
    assert service["environment"]["BANDEXA_KEYS_FILE"] == "/run/secrets/keys"
    assert document("compose.yaml")["secrets"]["keys"]["file"].startswith("${BANDEXA_KEYS_FILE:?")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["ports"] == ["${BANDEXA_PUBLISH:-127.0.0.1:8080}:8080"]


def test_every_bandexa_image_can_be_built():
    """With the GPU file, the service has another image than the simulations."""
    services = document("compose.yaml")["services"].values()
    built = [each for each in services if each["image"].startswith("bandexa:")]
    assert len(built) == 4
    for service in built:
        assert service["image"] == f"bandexa:{service['build']['target']}"


@pytest.mark.few(1)
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


def test_prometheus_reads_its_key_from_its_secret():
    service = document("compose.yaml")["services"]["prometheus"]
    assert service["profiles"] == ["monitor"]
    (job,) = document("monitor/prometheus.yml")["scrape_configs"]
    (secret,) = service["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert job["static_configs"] == [{"targets": ["bandexa:8080"]}]


def test_the_gpu_is_reserved_for_the_service():
    service = document("compose.gpu.yaml")["services"]["bandexa"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["build"]["target"] == "gpu"


def test_the_build_context_has_the_packages_of_the_wheel_alone():
    lines = (ROOT / ".dockerignore").read_text().split()
    assert "*" in lines
    included = {line.removeprefix("!") for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    installed = {name.removesuffix("*") for name in packages}
    assert included == installed | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
