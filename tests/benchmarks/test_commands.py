"""`python -m benchmarks`: the list, and that every command of it can be started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.__main__ import PROOFS, TIMINGS, main
from benchmarks.server import ROOT


def test_without_a_name_the_list_is_printed() -> None:
    command = [sys.executable, "-m", "benchmarks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name, text in (TIMINGS | PROOFS).items():
        assert f"  {name:<22}{text}\n" in done.stdout


def test_an_unknown_name_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed"]) == 2
    assert "no benchmark 'speed'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*TIMINGS, *PROOFS])
def test_every_command_explains_its_options(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert "--json" in capsys.readouterr().out


def test_every_file_with_a_command_is_in_the_list_under_a_name_of_its_own() -> None:
    files = [
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "benchmarks/proofs").glob("*.py"),
        *(ROOT / "benchmarks").glob("*/__init__.py"),  # a command that is a folder of files
    ]
    found = [
        path.parent.name if path.stem == "__init__" else path.stem
        for path in files
        if "\ndef main(argv: Sequence[str]) -> int:" in path.read_text()
    ]
    found.remove("__main__")
    assert sorted(found) == sorted([*TIMINGS, *PROOFS])
