"""Every command and code block of README and docs does what it says.

The blocks of a page are run in order, in a folder where a server stores its data as the pages say
(./bandexa-data; port 8080 becomes the server's own). `pages` says which blocks take minutes and are
left to `.ci/run`, and which lines no test runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.__main__ import PROOFS, TIMINGS
from service.cli import app
from service.http.configured import parse
from service.settings import load_settings
from tests.docs.pages import (
    ALL,
    CONTAINERS,
    FENCE,
    HOURS,
    INLINE,
    INSTALLS,
    LANGUAGES,
    PAGES,
    ROOT,
    SERVES,
    TIERS,
    Block,
    anchors,
)
from tests.fixtures.commands import forked_bandexa

ADDRESS = re.compile(r"(localhost|127\.0\.0\.1):8080")
LONG = ("docs/tutorial.md", "docs/evaluation.md")  # they take most of a minute
USES_CURLED = ("docs/security.md",)  # its commands need a bandit that another page makes by curl
QUICK = [b for b in ALL if not (b.slow or b.serves or b.in_container)]


def run_pages() -> list[Any]:
    """Return the pages with blocks to run, as parameters that name the programs they need."""
    found = []
    for page in sorted({b.page for b in QUICK if b.language in ("bash", "python")}):
        curls = any(re.search(r"\bcurl\b", b.text) for b in QUICK if b.page == page)
        marks = [pytest.mark.needs("curl")] if curls or page in USES_CURLED else []
        if page in LONG:
            marks.append(pytest.mark.slow)
        found.append(pytest.param(page, marks=marks))
    return found


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `bandexa` that is this checkout's."""
    folder = tmp_path_factory.mktemp("bin")
    for name, command in (("bandexa", "-m service.cli"), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        program.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def forked_tools(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder with programs that are forked with their imports done."""
    folder: Path = shutil.copytree(tools, tmp_path_factory.mktemp("forked") / "bin")
    forked_bandexa(folder)
    return folder


def environment(tools: Path, url: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("BANDEXA_")}
    paths = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    settings = {"BANDEXA_URL": url, "BANDEXA_PORT": url.rpartition(":")[2]}
    return inherited | paths | settings | {"no_proxy": "127.0.0.1,localhost"}


def shell(text: str, folder: Path, tools: Path, url: str, timeout: float = 120) -> str:
    """Run commands as a reader would, in bash; returns what they print."""
    text = ADDRESS.sub(url.removeprefix("http://"), text).replace(".venv/bin/", "")
    text = re.sub(r"^curl ", "curl -sS --fail-with-body ", text, flags=re.MULTILINE)
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment(tools, url),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def test_every_block_says_its_language() -> None:
    for block in ALL:
        assert block.language in LANGUAGES, block.name
        assert block.text.strip(), block.name


@pytest.fixture(scope="module")
def stage(start_module_server: Callable[..., Any], tmp_path_factory: Any) -> Any:
    """The server that the pages talk of; its folder is where their commands run."""
    doorway = {"ENABLED": "true", "CREATE": "true", "BANDIT": "kitchen"}
    doorway = {f"BANDEXA_PERSONALIZER__{name}": value for name, value in doorway.items()}
    return start_module_server(tmp_path_factory.mktemp("pages") / "bandexa-data", env=doorway)


@pytest.mark.parametrize("page", run_pages())
def test_the_blocks_of_a_page_run_in_order(page: str, stage: Any, forked_tools: Path) -> None:
    folder = stage.data_dir.parent
    for block in QUICK:
        if block.page != page:
            continue
        if block.language == "bash":
            shell(block.text, folder, forked_tools, stage.url)
        elif block.language == "python":
            program = folder / "block.py"
            program.write_text(ADDRESS.sub(stage.url.removeprefix("http://"), block.text))
            shell(f"python {program}", folder, forked_tools, stage.url)
    assert stage.process.poll() is None


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language in ("toml", "json")], ids=lambda block: block.name
)
def test_settings_are_settings_and_json_is_json(block: Block, tmp_path: Path) -> None:
    if block.language == "json":
        json.loads(block.text)
        return
    tables = tomllib.loads(block.text)
    if set(tables) & {"policy", "actions", "context"}:  # a bandit's file
        assert parse({"shown": tables})
        return
    config = tmp_path / "b.toml"
    config.write_text(block.text)
    parse(load_settings(config).bandits)


def inline_commands() -> list[str]:
    """Return the commands of README and docs that are in the middle of a sentence."""
    texts = [FENCE.sub("", page.read_text()) for page in PAGES if "decisions" not in page.parts]
    return sorted({" ".join(found.split()) for text in texts for found in INLINE.findall(text)})


def test_a_command_in_a_sentence_names_what_exists() -> None:
    bandexa = typer.main.get_command(app)
    for text in inline_commands():
        names_what_exists(text, bandexa)


def names_what_exists(text: str, command: Any) -> None:
    """Check that a command line names a target, a benchmark, or a command with its options."""
    words = [word for word in text.split() if "=" not in word or word.startswith("-")]
    if words[0] == "make":
        assert recipe(words[1])
        return
    if words[0] == "python":
        assert words[3] in ("NAME", *TIMINGS, *PROOFS), text
        return
    words = words[1:]
    while words and hasattr(command, "get_command"):
        found = command.get_command(None, words[0])
        if found is None:
            break
        command, words = found, words[1:]
    whole = [command, *getattr(command, "commands", {}).values()]  # or an option of all its parts
    options = {name for each in whole for parameter in each.params for name in parameter.opts}
    options |= {"--help", "--version"}
    assert {word for word in words if word.startswith("-")} <= options, text
    if hasattr(command, "get_command") and words:
        assert words[0].startswith("-") or words[0].isupper(), f"no such command: {words[0]}"


def recipe(target: str) -> str:
    """Return what a target of the Makefile runs, without its virtual environment."""
    text = (ROOT / "Makefile").read_text()
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return found.group(1).replace("\t", "").replace("$(BIN)/", "")


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Callable[[subprocess.Popen[str]], None]]:
    running: list[subprocess.Popen[str]] = []
    yield running.append
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("block", [b for b in ALL if b.serves], ids=lambda block: block.name)
def test_what_serves_listens_and_ends_when_told(
    block: Block,
    forked_tools: Path,
    tmp_path: Path,
    ended: Callable[[subprocess.Popen[str]], None],
) -> None:
    lines = [line for line in block.text.splitlines() if line.strip()]
    for line in (line for line in lines if not INSTALLS.match(line)):
        target = re.match(r"make (\w+)", line)
        command = recipe(target.group(1)) if target else line
        command = command.replace(".venv/bin/", "").partition("#")[0].strip()
        if not SERVES.match(command):
            shell(line, tmp_path, forked_tools, "http://127.0.0.1:1")
            continue
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"], text=True, stdout=subprocess.PIPE,
            cwd=ROOT if "examples/" in command else tmp_path,  # the root of a checkout
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment(forked_tools, "")
            | {"BANDEXA_PORT": "0", "BANDEXA_DATA_DIR": str(tmp_path / "bandexa-data")},
        )  # fmt: skip
        ended(process)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "listening"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_what_needs_a_container_engine_names_files_that_are_there(
    tools: Path, tmp_path: Path
) -> None:
    for block in (b for b in ALL if b.in_container):
        for line in block.text.splitlines():
            if not CONTAINERS.search(line):
                shell(line, tmp_path, tools, "http://127.0.0.1:1")
            for name in re.findall(r"--file (\S+)", line):
                assert (ROOT / name).exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", [b for b in ALL if b.slow], ids=lambda block: block.name)
def test_what_takes_long_works_too(
    block: Block, start_server: Callable[..., Any], tools: Path, tmp_path: Path
) -> None:
    server = start_server()
    for line in block.text.splitlines():
        if TIERS.match(line) or HOURS.match(line):
            continue
        line = re.sub(r"--seeds \d+", "--seeds 1", line)
        target = re.match(r"make ([\w-]+)", line)
        for command in recipe(target.group(1)).splitlines() if target else [line]:
            if command.strip():
                shell(command.lstrip("@"), tmp_path, tools, server.url, timeout=1800)


def test_links_lead_to_files_and_headings() -> None:
    for page in PAGES:
        for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
            if "://" in link:
                continue
            target = page.parent / link if link else page
            assert target.exists(), f"{page} links to {link}"
            if anchor:
                assert anchor in anchors(target), f"{page} links to {link}#{anchor}"


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_metrics(http: Any) -> None:
    """tests/observe/test_metrics.py checks the same rules without promtool."""
    text = http.get("/metrics").content
    ended = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stderr == b""
