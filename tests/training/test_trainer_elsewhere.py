"""Trainers of a database: a server orders rounds, any trainer carries them out, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.snapshots.publishing import WORLD_SIZE
from service.store.address import PostgresUrl
from service.store.postgres.connection import Session
from tests.fixtures.buckets import NAME, s3
from tests.fixtures.commands import bandexa as run
from tests.fixtures.nodes import Node, Refused, Rig, context_of, feed, reward_of
from tests.fixtures.postgres import Cluster
from tests.fixtures.waiting import poll

__all__ = ["s3"]
pytestmark = pytest.mark.needs("postgres")
LEASE_S = 1.0
LINEAR = {
    "policy": "linear_ts",
    "context": {"shape": [6]},
    "action_dim": 4,
    "seed": 3,
    "training": {"mode": "lockstep"},
}
NEURAL = LINEAR | {
    "policy": "neural_linear_ts",
    "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [6]}},
    "training": {"mode": "lockstep", "optimizer_steps": 20},
}
PUBLISHES = """
SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INTO snapshots%'
"""
HOLDER = "SELECT holder FROM leases WHERE until > clock_timestamp() AND holder <> ''"


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.empty() as url:
        yield url


@contextmanager
def serving(
    folder: Path, url: str, trainer: str = "elsewhere", place: str = "postgresql"
) -> Iterator[Node]:
    node = Node(
        folder,
        environment={
            "BANDEXA_STORE": url,
            **({"BANDEXA_SNAPSHOT_STORE": place} if place else {}),
            "BANDEXA_TRAINER": trainer,
        },
        durability="os",
    )  # fmt: skip
    node.start()
    try:
        yield node
    finally:
        if node.is_running:
            node.stop()


@contextmanager
def training(
    folder: Path, url: str, launcher: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a trainer, perhaps by a launcher; it is killed at the exit if it still runs."""
    environment = os.environ | {"BANDEXA_STORE": url, "BANDEXA_TRAINER_LEASE_S": str(LEASE_S)}
    log = folder.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "service.cli", "trainer", "--data-dir", str(folder)],
            env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        poll(lambda: b"takes orders" in log.read_bytes() or process.poll() is not None, "a start")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def play(node: Node, first: int, last: int) -> list[Any]:
    found = []
    for number in range(first, last):
        context = context_of("b", number)
        body = {"bandit": "b", "context": context, "decision_id": f"d{number}"}
        found.append(node.call("POST", "/select", body))
        reward = reward_of(context, found[-1]["action"]["index"])
        node.call("POST", "/reward", {"decision_id": f"d{number}", "reward": reward})
    return found


def test_decisions_are_those_of_a_server_with_its_own_trainer(
    tmp_path, postgres: Cluster, url
) -> None:
    found = []
    with postgres.empty() as other, ExitStack() as stack:
        for name, place, trainer in (("a", url, "elsewhere"), ("b", other, "child")):
            node = stack.enter_context(serving(tmp_path / name, place, trainer))
            node.create("b", LINEAR)
            if trainer == "elsewhere":
                process = stack.enter_context(training(tmp_path / "trainer", place))
            answers = play(node, 0, 8)
            answers.append(node.train("b")["position"])
            answers += play(node, 8, 12)
            assert node.state("b")["snapshot"] == 1
            found.append(answers)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert found[0] == found[1]


def test_a_round_of_a_killed_or_paused_trainer_is_anothers(tmp_path, url) -> None:
    """A lock stops whoever publishes: then one trainer is paused there, and later one killed."""
    with ExitStack() as stack:
        node = stack.enter_context(serving(tmp_path / "server", url))
        node.create("b", LINEAR)
        trainers = [
            stack.enter_context(training(tmp_path / f"trainer{number}", url)) for number in (0, 1)
        ]
        db = stack.enter_context(closing(Session(PostgresUrl(url), own_loop=True)))
        look = stack.enter_context(closing(Session(PostgresUrl(url), own_loop=True)))
        thread = stack.enter_context(ThreadPoolExecutor(1))

        def holder(but: int = 0) -> int | None:
            """Return the process that has the lease, unless it is `but`."""
            pids = [int(row[0].split(":")[1]) for row in look.fetch(HOLDER)]
            return next((pid for pid in pids if pid != but), None)

        def interrupted(version: int, sign: signal.Signals) -> int:
            """Have a round done whose trainer gets a signal as it publishes; returns its pid."""
            play(node, 8 * version, 8 * version + 8)
            db.script("BEGIN")
            db.script("LOCK TABLE snapshots IN SHARE MODE")  # nothing can be published
            answer = thread.submit(node.train, "b")
            pid = poll(holder, "a trainer takes the order")
            poll(lambda: look.fetch(PUBLISHES), "it publishes")
            os.kill(pid, sign)
            poll(lambda: holder(but=pid), "another trainer takes over")
            db.script("COMMIT")
            assert answer.result()["snapshot"] == version
            rows = look.fetch("SELECT version FROM snapshots ORDER BY version")
            assert [row[0] for row in rows] == [*range(version + 1)]
            return pid

        paused = interrupted(1, signal.SIGSTOP)
        os.kill(paused, signal.SIGCONT)
        number = next(n for n, each in enumerate(trainers) if each.pid == paused)
        log = tmp_path / f"trainer{number}.log"
        poll(lambda: "another process trains" in log.read_text(), "it is refused")
        interrupted(2, signal.SIGKILL)
        assert len(play(node, 30, 33)) == 3
    done = run("verify", node.data_dir, env={"BANDEXA_STORE": url})
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_order_waits_for_a_trainer_and_its_network_lies_in_a_bucket(s3, tmp_path, url) -> None:
    place = f"s3://{NAME}/{tmp_path.name}"
    with serving(tmp_path / "server", url, place=place) as node, ThreadPoolExecutor(1) as thread:
        node.create("b", NEURAL)
        play(node, 0, 110)
        answer = thread.submit(node.train, "b")
        with closing(Session(PostgresUrl(url), own_loop=True)) as look:
            poll(lambda: look.fetch("SELECT 1 FROM orders"), "an order")
            assert look.fetch("SELECT 1 FROM blobs") == []
        assert not answer.done()
        with training(tmp_path / "trainer", url):
            trained = answer.result()
            assert trained["snapshot"] == 1
            assert trained["metrics"]["rows"] == 110
            assert "loss_after" in trained["metrics"]
        before = play(node, 110, 114)
    with serving(tmp_path / "other", url, place="") as other:  # it finds the bucket by the database
        assert play(other, 110, 114) == before
        assert other.state("b")["snapshot"] == 1
    done = run("verify", other.data_dir, env={"BANDEXA_STORE": url})
    assert done.returncode == 0, done.stdout + done.stderr


def test_deleting_a_bandit_ends_its_round_and_its_order(tmp_path, url) -> None:
    """The round would take far longer than anything here waits."""
    encoder = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [1024, 1024]}}
    schedule = {"mode": "lockstep", "optimizer_steps": 100_000}
    with ExitStack() as stack:
        node = stack.enter_context(serving(tmp_path / "server", url))
        node.create("long", NEURAL | {"encoder": encoder, "training": schedule})
        node.create("b", LINEAR)
        feed(node, "long", 0, 40)
        play(node, 0, 8)
        process = stack.enter_context(training(tmp_path / "trainer", url))
        look = stack.enter_context(closing(Session(PostgresUrl(url), own_loop=True)))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        answer = thread.submit(node.train, "long")
        poll(lambda: node.trainer()["phase"] == "optimizer", "the round")
        node.call("DELETE", "/bandits/long")
        with pytest.raises(Refused, match="404"):
            answer.result(60)
        assert node.train("b")["snapshot"] == 1, "the trainer is free"
        assert process.poll() is None
        orders = look.fetch("SELECT uid FROM orders")
    assert len(orders) == 1


@pytest.mark.parametrize(
    ("command", "given", "says"),
    [
        ("serve", {"BANDEXA_TRAINER": "elsewhere"}, "elsewhere needs `store`"),
        ("serve", {"BANDEXA_SNAPSHOT_STORE": "postgresql"}, "snapshot_store: needs `store`"),
        ("serve", {"BANDEXA_TRAINER": "elsewhere", "BANDEXA_STORE": "URL"}, "snapshots that are"),
        ("trainer", {}, "store: give the postgresql:// URL"),
        ("trainer", {"BANDEXA_STORE": "postgresql://nobody@127.0.0.1:1/none"}, "PostgreSQL"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tmp_path, url, command, given, says) -> None:
    environment = {name: url if text == "URL" else text for name, text in given.items()}
    more = ("--port", 0) if command == "serve" else ()
    done = run(command, *more, "--data-dir", tmp_path / "data", env=environment)
    assert done.returncode != 0
    assert says in done.stderr


def test_torchrun_makes_ranks_of_one_trainer(tmp_path, url) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with ExitStack() as stack:
        node = stack.enter_context(serving(tmp_path / "server", url))
        node.create("b", Rig.neural(training=Rig.training()))
        feed(node, "b", 0, 40)
        process = stack.enter_context(training(tmp_path / "trainer", url, launcher))
        assert node.train("b")["snapshot"] == 1
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        db = stack.enter_context(closing(Session(PostgresUrl(url), own_loop=True)))
        (found,) = db.fetch("SELECT manifest FROM snapshots WHERE version = 1")
    assert json.loads(found[0])["manifest"]["meta"][WORLD_SIZE] == 2
