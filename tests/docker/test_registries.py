"""What a build is given to reach package registries is what pip has here, and can be looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docker import registries


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registries.Settings:
    """A mirror in pip's file; an index and a folder of wheels on this machine; one variable."""
    for name in ("index/simple", "wheels"):
        (tmp_path / name).mkdir(parents=True)
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://user:word@mirror.example/simple\n"
        f"extra-index-url = file://{tmp_path}/index/simple\n    https://pypi.org/simple\n"
        "timeout = 10\n[install]\ntimeout = 20\n[download]\nquiet = 1\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CERT", str(certificates))
    return registries.pip_settings()


def test_files_and_variables_are_merged_as_pip_does(configured, tmp_path):
    assert configured["index-url"] == ("https://user:word@mirror.example/simple",)
    assert configured["extra-index-url"] == (
        f"file://{tmp_path}/index/simple", "https://pypi.org/simple",
    )  # fmt: skip
    assert configured["find-links"] == (str(tmp_path / "wheels"),)
    assert configured["timeout"] == ("20",)
    assert "quiet" not in configured


def test_pip_reads_back_what_is_written(configured, tmp_path, monkeypatch):
    written = tmp_path / "written.conf"
    registries.write(configured, written)
    for name in ("PIP_FIND_LINKS", "PIP_CERT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(written))
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name, words in configured.items():
        assert f"global.{name}={' '.join(words)!r}" in listed


def test_a_build_is_given_the_folders_and_certificates(configured, tmp_path):
    mounts = registries.local_paths(configured)
    assert sorted(mounts) == sorted(str(tmp_path / name) for name in ("index", "wheels", "ca.pem"))


def test_without_folders_only_registries_are_asked(configured):
    left = registries.without_folders(configured)
    assert "find-links" not in left
    assert left["extra-index-url"] == ("https://pypi.org/simple",)
    assert left["index-url"] == configured["index-url"]
    assert left["cert"] == configured["cert"]


def test_an_image_must_not_name_the_mirror_or_the_folders(configured, tmp_path):
    expected = {"mirror.example", str(tmp_path / "wheels"), str(tmp_path / "index/simple")}
    assert set(registries.traces(configured)) == expected
