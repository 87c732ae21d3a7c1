"""The `bandexa` command: its start, the help of every command, and the list of snapshots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bandexa_core import __version__
from service import settings
from service.cli import app, options

ROOT = Path(__file__).parents[2]
TYPER = {"typer", "annotated_doc", "shellingham", "typing_extensions"}
COMMANDS: list[list[str]] = [
    [],
    ["serve"],
    ["keygen"],
    ["snapshots"],
    ["snapshots", "list"],
    ["snapshots", "export"],
    ["snapshots", "import"],
    ["rollback"],
    ["bandits"],
    ["bandits", "list"],
    ["bandits", "show"],
    ["bandits", "create"],
    ["bandits", "delete"],
    ["actions"],
    ["actions", "list"],
    ["actions", "put"],
    ["actions", "retire"],
    ["train"],
    ["verify"],
    ["backup"],
    ["doctor"],
    ["schema"],
    ["simulate"],
    ["simulate", "synthetic"],
    ["simulate", "mnist"],
    ["simulate", "two-tower"],
    ["simulate", "wheel"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "bandexa")
def test_every_command_explains_itself(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output
    assert len(result.output) > 200


def test_the_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for command in ("serve", "simulate", "snapshots", "doctor"):
        assert command in text


def test_the_command_line_imports_typer_alone() -> None:
    """Every command starts quickly, and a server in less than a second."""
    code = (
        "import json, sys; before = set(sys.modules); import service.cli;"
        "print(json.dumps([name.partition('.')[0] for name in set(sys.modules) - before]))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    packages = set(json.loads(found)) - sys.stdlib_module_names
    assert packages <= {"service", "bandexa_core", "simulators", *TYPER}


def test_the_variables_of_commands_are_those_that_settings_leave_alone() -> None:
    assert (options.CLIENT_URL, options.CLIENT_KEY) == (settings.CLIENT_URL, settings.CLIENT_KEY)


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"bandexa {__version__}\n")


def test_an_unknown_command_or_flag_is_refused() -> None:
    for arguments in (["sing"], ["serve", "--prot", "1"], ["serve", "--port", "http"]):
        assert CliRunner().invoke(app, arguments).exit_code == 2


def test_snapshots_lists_those_of_every_bandit(api, server) -> None:
    first, second = api.two_actions(), api.two_actions()
    for _ in range(2):
        api.train(first)
    arguments = ["snapshots", "list", "--data-dir", str(server.data_dir)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    listed = {name: [row[1] for row in rows if row[0] == name] for name in (first, second)}
    assert listed == {first: ["0", "1", "2"], second: ["0"]}
    assert {row[-1] for row in rows if row[0] in listed} == {"good"}


def test_a_damaged_snapshot_is_listed_as_refused(api, server) -> None:
    name = api.two_actions()
    folder: Path = server.data_dir / "snapshots" / api.state(name)["uid"]
    [tensors] = folder.rglob("model*.safetensors")
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 0xFF
    tensors.write_bytes(data)
    arguments = ["snapshots", "list", "--data-dir", str(server.data_dir)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.output.splitlines() if line.startswith(f"{name} ")]
    assert "refused" in line


def test_a_folder_without_a_database_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["snapshots", "list", "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "bandexa.db" in result.output
    assert list(tmp_path.iterdir()) == []
