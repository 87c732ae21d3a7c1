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
from playwright.sync_api import sync_playwright

from docs.openapi import document
from tests.conformance.scenes import SCENES, Stage, check, nobody
from tests.docs.pages import ROOT, blocks
from tests.fixtures.servers import Server
from tests.fixtures.system_packages import find

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


SPOOLER = """
import { BanditClient, RewardQueue } from "bandexa-client";
import { FileSpool } from "bandexa-client/spool";
const [url, folder, ids, ending] = process.argv.slice(2);
const spool = new FileSpool(folder, { log: () => {} });
const queue = new RewardQueue(new BanditClient(url), { spool, log: () => {} });
const adopted = queue.numWaiting;
for (const id of ids === "" ? [] : ids.split(",")) queue.put({ decision_id: id, reward: 1 });
if (ending === "wait") {
  console.log("accepted");
  setInterval(() => {}, 1000);
} else {
  await queue.close(Number(ending));
  const { numDelivered, numRejected, numWaiting } = queue;
  const { numDamaged } = spool;
  console.log(JSON.stringify({ adopted, numDelivered, numRejected, numWaiting, numDamaged }));
}
"""


@pytest.fixture
def installed(built: Path, tmp_path: Path) -> Path:
    """A folder in which programs find the client, as one in which it was installed."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "bandexa-client").symlink_to(TYPESCRIPT)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


def test_what_a_killed_process_left_is_delivered_by_the_next_one_and_counts_once(
    installed: Path, api: Any
) -> None:
    program, folder = installed / "spooler.js", installed / "spool"
    program.write_text(SPOOLER)
    name = api.bandit(
        ["x", "y"], action_dim=0, encoder={"name": "per_action"}, rewards={"aggregate": "sum"}
    )
    ids = [api.select(name, [1, 1])["decision_id"] for _ in range(5)]
    away, there = nobody(), str(api.http.base_url)

    def spooled(url: str, ids: list[str], within_ms: int) -> dict[str, int]:
        printed = node(program, url, folder, ",".join(ids), within_ms, cwd=installed)
        found: dict[str, int] = json.loads(printed)
        return found

    with subprocess.Popen(
        ["node", program, away, folder, ",".join(ids[:3]), "wait"], cwd=installed,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "accepted\n"
            assert spooled(there, [], 20_000)["adopted"] == 0, "the process lives"
        finally:
            process.kill()
    assert spooled(away, ids[3:], 100) == {
        "adopted": 3, "numDelivered": 0, "numRejected": 0, "numWaiting": 5, "numDamaged": 0,
    }  # fmt: skip
    (left,) = folder.glob("*.waiting")
    lines = left.read_text()
    left.write_text(lines + '{"decision_id": "half')
    assert spooled(there, [], 20_000) == {
        "adopted": 5, "numDelivered": 5, "numRejected": 0, "numWaiting": 0, "numDamaged": 1,
    }  # fmt: skip
    assert [path.name for path in folder.iterdir()] == ["damaged.txt"]
    (folder / "again.waiting").write_text(lines)  # as if it was killed before it deleted them
    assert spooled(there, [], 20_000)["numDelivered"] == 5
    rows = [json.loads(line) for line in api.http.get(f"/bandits/{name}/log").text.splitlines()]
    made = [row for row in rows if row["kind"] == "decision"]
    assert [(row["value"], len(row["rewards"])) for row in made] == [(1.0, 1)] * 5


ENDLESS = """
import { BanditClient, RewardQueue } from "bandexa-client";
const warnings = [];
process.on("warning", (warning) => warnings.push(warning.name));
const client = new BanditClient(process.argv[2], { retry: { attempts: 1 } });
const queue = new RewardQueue(client, { log: () => {} });
queue.put({ decision_id: "d", reward: 1 });
const waited = await Promise.race([
  queue.flush(Infinity),
  new Promise((resolve) => setTimeout(resolve, 500, "still")),
]);
console.log(JSON.stringify({ waited, warnings }));
process.exit();
"""


def test_a_wait_without_an_end_waits(installed: Path) -> None:
    """A timer that is longer than Node's longest is over at once: such a wait would spin."""
    (installed / "endless.js").write_text(ENDLESS)
    found = json.loads(node("endless.js", nobody(), cwd=installed))
    assert found == {"waited": "still", "warnings": []}


REFUSED = """
import { BanditClient } from "bandexa-client";
const client = new BanditClient(process.argv[2], { retry: { attempts: 1 } });
const refused = [
  client.putBandit("b", {}, { etag: "" }),
  client.planBandit("b", {}, { etag: '"1"', onlyNew: true }),
  client.getBandit(".."),
];
const found = await Promise.all(refused.map((call) => call.catch((error) => error.name)));
console.log(JSON.stringify(found));
"""


def test_arguments_that_cannot_be_sent_reject_the_promise(installed: Path) -> None:
    """`client.putBandit(...).catch(...)` sees them, as it sees every other failure."""
    (installed / "refused.js").write_text(REFUSED)
    assert json.loads(node("refused.js", nobody(), cwd=installed)) == ["TypeError"] * 3


IN_A_PAGE = """async ([bandit]) => {
  const { BanditClient, RewardQueue } = await import("/client/index.js");
  const client = new BanditClient(location.origin);
  const queue = new RewardQueue(client);
  const chosen = await client.select({ bandit, context: new Float32Array([0.5, 1]) });
  queue.put({ decision_id: chosen.decision_id, reward: 1 });
  await queue.close();
  const state = await client.getBandit(bandit);
  return [chosen.action.id, queue.numDelivered, state.num_learned];
}"""


@pytest.mark.needs("chromium")
def test_the_client_works_in_a_browser(built: Path, stage: Stage) -> None:
    def module(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        route.fulfill(body=(built / name).read_text(), content_type="text/javascript")

    with (
        stage.set({"name": "browser", "steps": []}, "page") as (scene, _, _),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=find("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.route("**/client/*", module)
        page.goto(f"{scene['url']}/healthz")
        action, delivered, learned = page.evaluate(IN_A_PAGE, [scene["bandit"]])
        browser.close()
    assert action in ("red", "blue")
    assert (delivered, learned) == (1, 1)


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


def test_the_programs_of_the_documentation_compile_and_run(installed: Path, server: Server) -> None:
    (installed / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    assert len(WRITTEN) > 5
    for number, block in enumerate(WRITTEN):
        text = block.text.replace("http://127.0.0.1:8080", server.url)
        (installed / f"block{number}.ts").write_text(text)
    node(TYPESCRIPT / "node_modules" / "typescript" / "bin" / "tsc", "-p", installed)
    for number, block in enumerate(WRITTEN):
        printed = node(f"out/block{number}.js", cwd=installed)
        for shown in re.findall(r"^ *console.log.*; // (\w+(?: \w+)*)", block.text, re.MULTILINE):
            assert shown in printed, block.name
