"""Verifying beside a server: after kill -9 and a restart, under load, and what it answers."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from hashlib import sha256

import httpx
import pytest

from service.settings import Settings
from service.store.errors import StoreError
from service.tools.verify import verify
from tests.fixtures.commands import bandexa

LOADED = ("linear", "neural", "closing")
NAMES = (*LOADED, "disjoint")
ALL = (*NAMES, "forgetting", "drifting", "summing", "images", "photos")
BANDITS = ("linear",)  # of the directory that is copied


def wrong(report):
    return [f"{check.bandit}: {text}" for check in report.checks for text in check.problems]


def contents(root):
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {
        path: sha256(path.read_bytes()).hexdigest() for path in files if "-shm" not in path.name
    }


@pytest.fixture(scope="module")
def served(start_module_server, feeder):
    """A server with bandits that have learned."""
    server = start_module_server()
    with server.client() as client:
        for name in NAMES:
            feeder(client).grow(name)
    return server


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["constant", "times", "nearly equal", "tiny"])
def test_rewards_that_are_nearly_equal_for_their_size_verify(start_server, api_of, name):
    rewards = {
        "constant": [1e20 / 3] * 40,
        "times": [1.7e9 + number * 7 % 10 for number in range(40)],
        "nearly equal": [1e20 * (1.0 - number % 3 * 1e-12) for number in range(20)],
        "tiny": [1e-156 * (number % 2) for number in range(12)],
    }[name]
    server = start_server()
    with server.client() as client:
        api = api_of(client)
        shop = api.bandit(
            ["a", "b"], [[1.0], [2.0]], action_dim=1, posterior={"prior_mean": None},
            reward_range=None, training={"mode": "lockstep"},
        )  # fmt: skip
        for number, reward in enumerate(rewards):
            api.teach(shop, [number % 7 / 7, number % 5 / 5], "ab"[number % 2], reward)
            if number in (7, 15):
                api.train(shop)
        api.train(shop)
        before = api.scores(shop, [0.5, 0.5])["scores"]
    server.kill()
    assert wrong(verify(Settings(data_dir=server.data_dir))) == []
    again = start_server(server.data_dir)
    with again.client() as client:
        assert api_of(client).scores(shop, [0.5, 0.5])["scores"] == before


@pytest.mark.parametrize(
    "names",
    [LOADED, pytest.param(ALL, marks=pytest.mark.slow)],
    ids=["three kinds", "all kinds"],
)
def test_a_killed_server_leaves_what_verifies_and_so_does_the_next(start_server, feeder, names):
    server = start_server()
    with server.client() as client:
        for name in names:
            feeder(client).grow(name)
    server.kill()
    before = contents(server.data_dir)
    assert any(path.name.endswith("-wal") for path in before)
    assert wrong(verify(Settings(data_dir=server.data_dir))) == []
    assert contents(server.data_dir) == before, "nothing is written"
    again = start_server(server.data_dir)
    with again.client() as client:
        for name in names:
            feeder(client).feed(name, 500, 20)
            if name != "photos":  # a round of a ResNet takes seconds
                client.post(f"/bandits/{name}/train?wait=true")
            feeder(client).feed(name, 520, 5)
    report = verify(Settings(data_dir=again.data_dir), live=again.url)
    assert wrong(report) == []
    live = [check for check in report.checks if check.name == "live"]
    assert len(live) == len(names)
    assert all(check.difference is not None for check in live)


def test_a_server_that_learns_on_meanwhile_verifies(served, feeder):
    enough, failures = threading.Event(), []

    def load(name: str) -> None:
        number = 1000
        try:
            with served.client() as client:
                while not enough.wait(0.02):  # a load that leaves verify most of the time
                    feeder(client).feed(name, number, 5)
                    number += 5
                    if number % 100 == 0:
                        client.post(f"/bandits/{name}/train?wait=true")
        except BaseException as error:  # the test checks it
            failures.append(error)
            raise

    threads = [threading.Thread(target=load, args=(name,)) for name in LOADED]
    for thread in threads:
        thread.start()
    try:
        report = verify(Settings(data_dir=served.data_dir), live=served.url)
    finally:
        enough.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert wrong(report) == []


def test_a_server_that_answers_from_another_model_is_found(served, copy):
    """The server has another disk than the directory: it learned one more reward."""
    root = copy.root.with_name("older")
    shutil.copytree(served.data_dir, root)
    with served.client() as client:
        body = {"bandit": "disjoint", "context": [1, 2, 3, 4, 5], "decision_id": "unseen"}
        assert client.post("/select", json=body).is_success
        reward = {"decision_id": "unseen", "reward": 0.5}
        assert client.post("/reward", json=reward).is_success
    problems = wrong(verify(Settings(data_dir=root), live=served.url))
    assert [text for text in problems if text.startswith("disjoint: live")], problems


def test_a_server_with_other_bandits_is_found(served, copy):
    copy.execute("UPDATE bandits SET uid = 'someone-else' WHERE name = 'linear'")
    problems = wrong(verify(Settings(data_dir=copy.root), live=served.url))
    assert any(text.startswith("linear: live: the server serves another") for text in problems)


class Guarded:
    """A proxy before a server that forwards requests with the key."""

    def __init__(self, url: str, key: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                content, status = b"{}", 401
                if self.headers.get("Authorization") == f"Bearer {key}":
                    response = httpx.request(
                        self.command, url + self.path, content=body, trust_env=False, verify=False,
                        headers={"content-type": "application/json"},
                    )  # fmt: skip
                    content, status = response.content, response.status_code
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Guarded:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def small(start_module_server, feeder):
    """A server with one bandit."""
    server = start_module_server()
    with server.client() as client:
        feeder(client).grow("linear", rounds=1)
    return server


@pytest.mark.parametrize("how", ["option", "environment", "none"])
def test_a_key_is_sent_to_the_server(small, how):
    with Guarded(small.url, "k-1") as guarded:
        arguments = ["verify", str(small.data_dir), "--live", guarded.url, "--quiet"]
        if how == "option":
            arguments += ["--api-key", "k-1"]
        env = {"BANDEXA_API_KEY": "k-1"} if how == "environment" else {}
        done = bandexa(*arguments, env=env)
    assert done.returncode == (2 if how == "none" else 0), done.stdout + done.stderr
    assert ("401" in done.stderr) == (how == "none")


def test_an_absent_server_cannot_be_compared_with(copy):
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        verify(Settings(data_dir=copy.root), live="http://127.0.0.1:9")


def test_what_had_nothing_to_compare_with_is_not_called_ok(launch, rig):
    """Retention may leave one snapshot alone, as here the loss of the first does."""
    node = launch("alone")
    node.create("linear", rig.linear())
    rig.feed(node, "linear", 0, 10)
    node.train("linear")
    node.stop()
    uid = rig.query(node, "SELECT uid FROM bandits")[0][0]
    shutil.rmtree(node.data_dir / "snapshots" / uid / "v00000000")
    file = node.data_dir.parent / "report.json"
    done = bandexa("verify", node.data_dir, "--quiet", "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok, 1 not checked" in done.stdout
    report = json.loads(file.read_text())
    assert report["num_unchecked"] == 1
    (check,) = (c for c in report["checks"] if not c["checked"])
    assert (check["check"], check["compared"]) == ("model", "nothing to compare with")
