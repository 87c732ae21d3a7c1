"""The TypeScript client: what it is made of, and that it plays every scene against a real server.

All scenes are played by one process of Node; each then has a test of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.openapi import document
from tests.conformance.scenes import SCENES, Stage, check
from tests.docs.pages import ROOT, blocks
from tests.fixtures.servers import Server

TYPESCRIPT = ROOT / "clients" / "typescript"
MANIFEST = json.loads((TYPESCRIPT / "package.json").read_text())
pytestmark = [pytest.mark.slow, pytest.mark.needs("node", "npm", "tsc")]


def node(*arguments: object, stdin: str = "", cwd: Path = TYPESCRIPT) -> str:
    """Run Node and return what it prints."""
    ended = subprocess.run(
        ["node", *map(str, arguments)], input=stdin, cwd=cwd, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def openapi() -> str:
    return json.dumps(document())


@pytest.fixture(scope="module")
def built() -> Path:
    """The compiled client; compiling checks its types."""
    node("tools/build.mjs")
    return TYPESCRIPT / "dist"


def test_the_openapi_document_passes_the_linter(openapi: str) -> None:
    node("tools/lint.mjs", stdin=openapi)


def test_the_linter_finds_a_name_that_is_there_twice(openapi: str) -> None:
    with pytest.raises(AssertionError, match="operationId"):
        node(
            "tools/lint.mjs",
            stdin=openapi.replace('"operationId": "select"', '"operationId": "reward"'),
        )


def test_the_types_are_what_the_service_says(openapi: str) -> None:
    """If this fails, run `make clients` and read the difference."""
    node("tools/types.mjs", "--check", stdin=openapi)


def test_the_version_is_that_of_the_changelog() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert MANIFEST["version"] == newest[1]


def test_the_package_needs_nothing_and_holds_what_is_used(built: Path) -> None:
    assert "dependencies" not in MANIFEST
    packed = json.loads(
        subprocess.run(
            ["npm", "pack", "--dry-run", "--json"], cwd=TYPESCRIPT, capture_output=True, text=True,
            timeout=120, check=True,
        ).stdout
    )  # fmt: skip
    names = {file["path"] for file in packed[0]["files"]}
    modules = {f"dist/{source.stem}" for source in (TYPESCRIPT / "src").glob("*.ts")}
    compiled = {f"{name}{suffix}" for name in modules for suffix in (".js", ".d.ts")}
    assert names == compiled | {"LICENSE", "README.md", "package.json"}


@pytest.fixture(scope="module")
def played(
    built: Path, stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Every scene as it was set, its proxy and server, and what the client reports."""
    file = tmp_path_factory.mktemp("scenes") / "scenes.json"
    with stage.set_all(SCENES, "node") as settings:
        file.write_text(json.dumps([scene for scene, _, _ in settings]))
        outcomes = json.loads(node("conformance/play.mjs", file))
        yield {scene["name"]: (scene, outcomes[scene["name"]], *rest) for scene, *rest in settings}


@pytest.mark.parametrize("name", [scene["name"] for scene in SCENES])
def test_the_client_plays_the_scene(name: str, played: dict[str, Any]) -> None:
    check(*played[name])


TSCONFIG = {
    "compilerOptions": {
        "target": "ES2022", "module": "NodeNext", "lib": ["ES2022", "DOM"], "strict": True,
        "exactOptionalPropertyTypes": True, "types": [], "outDir": "out",
    },
}  # fmt: skip
WRITTEN = [
    block
    for page in (ROOT / "docs" / "client-typescript.md", TYPESCRIPT / "README.md")
    for block in blocks(page)
    if block.language == "ts"
]


def test_the_programs_of_the_documentation_compile_and_run(
    built: Path, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "bandexa-client").symlink_to(TYPESCRIPT)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    assert len(WRITTEN) > 5
    for number, block in enumerate(WRITTEN):
        text = block.text.replace("http://127.0.0.1:8080", server.url)
        (tmp_path / f"block{number}.ts").write_text(text)
    node(TYPESCRIPT / "node_modules" / "typescript" / "bin" / "tsc", "-p", tmp_path)
    for number, block in enumerate(WRITTEN):
        printed = node(f"out/block{number}.js", cwd=tmp_path)
        for shown in re.findall(r"^ *console.log.*; // (\w+(?: \w+)*)", block.text, re.MULTILINE):
            assert shown in printed, block.name
