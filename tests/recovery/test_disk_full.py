"""A real server on a disk that fills up, cuts writes short, or fails to sync (shim/failing_disk.c).

The faults are switched on and off while it runs. What was acknowledged is stored exactly
once afterwards; what was refused is not, except after a failed sync, which leaves that unknown.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.nodes import Node

pytestmark = pytest.mark.needs("gcc")
SHIM = Path(__file__).with_name("shim") / "failing_disk.c"
FAILED_FOR_GOOD = 4


@dataclass
class Disk:
    """The disk beneath a server; `fail` and `heal` take effect at once."""

    library: Path
    control: Path

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "FAILING_DISK_CONTROL": str(self.control),
            "FAILING_DISK_NAME": "bandexa.db",
        }

    def fail(self, how: str) -> None:
        self.control.write_text(how)

    def heal(self) -> None:
        self.control.unlink()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "failing_disk.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SHIM, "-ldl"],
        check=True,
    )
    return library


@pytest.fixture
def disk(shim: Path, tmp_path: Path) -> Disk:
    return Disk(shim, tmp_path / "control")


@dataclass
class Sent:
    """What was sent, by what became of it."""

    acknowledged: set[str] = field(default_factory=set)
    refused: list[httpx.Response] = field(default_factory=list)
    refused_ids: set[str] = field(default_factory=set)


def reward(node: Any, sent: Sent, name: str, first: int, num: int) -> None:
    """Send rewards of existing decisions, each once."""
    for number in range(first, first + num):
        decision_id = f"{name}.{number}"
        answer = node.http.post("/reward", json={"decision_id": decision_id, "reward": number / 8})
        if answer.is_success:
            assert answer.json()["status"] == "applied"
            sent.acknowledged.add(decision_id)
        else:
            sent.refused.append(answer)
            sent.refused_ids.add(decision_id)


def decide(node: Any, rig: Any, name: str, first: int, num: int) -> None:
    items = [
        {"bandit": name, "context": rig.context_of(name, n), "decision_id": f"{name}.{n}"}
        for n in range(first, first + num)
    ]
    answers = node.call("POST", "/select/batch", {"items": items})["items"]
    assert {item["code"] for item in answers} == {200}


def log_lines(node: Any) -> list[dict[str, str]]:
    return [json.loads(line) for line in node.log.read_text().splitlines() if line[:1] == "{"]


def healed(node: Any, durability: str) -> Node:
    """Start a server on the directory of one that has ended, on a disk that never fails."""
    return Node(node.data_dir, durability=durability).start()


def is_ready(node: Any) -> bool:
    return bool(node.http.get("/readyz").is_success)


def rewarded(node: Any, rig: Any) -> list[str]:
    """Return the decisions rewarded according to the database of a server that is down."""
    named = "SELECT d.own_id FROM {} AS t LEFT JOIN decisions AS d ON d.key = t.key"
    rewards, ledger, learned = (
        [row[0] for row in rig.query(node, named.format(table))]
        for table in ("rewards", "ledger", "(SELECT key FROM log WHERE kind = 1)")
    )
    assert sorted(rewards) == sorted(ledger) == sorted(learned)
    assert rig.query(node, "PRAGMA integrity_check") == [("ok",)]
    return rewards


@pytest.mark.few(1)
@pytest.mark.parametrize(("how", "durability"), [("full", "commit"), ("short", "os")])
def test_a_full_disk_refuses_and_recovers_by_itself(
    launch: Callable[..., Any], rig: Any, disk: Disk, how: str, durability: str
) -> None:
    node = launch("full", durability=durability, environment=disk.environment(), forked=False)
    node.create("b", rig.linear())
    decide(node, rig, "b", 0, 60)
    sent = Sent()
    reward(node, sent, "b", 0, 10)
    assert not sent.refused
    for first in (10, 30):  # more than once
        disk.fail(how)
        reward(node, sent, "b", first, 10)
        ready = node.http.get("/readyz")
        assert ready.status_code == 503
        assert "the disk is full" in ready.json()["detail"]
        assert node.http.get("/healthz").is_success
        node.score("b")  # what needs no write is served
        disk.heal()
        rig.poll(lambda: is_ready(node), "ready again")
        reward(node, sent, "b", first + 10, 10)
    disk.fail(how)  # once more, so that the kill happens on a failing disk
    reward(node, sent, "b", 50, 3)
    assert len(sent.refused_ids) == 23
    for answer in sent.refused:
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:bandexa:unavailable")
        assert "the disk is full" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) >= 1
    position = node.state("b")["position"]
    assert node.kill() == -9
    disk.heal()
    found = rewarded(node, rig)
    assert sorted(found) == sorted(sent.acknowledged)
    node = healed(node, durability)
    assert node.state("b")["position"] == position
    again = Sent()
    for first in (10, 30):  # what was refused may be sent again
        reward(node, again, "b", first, 10)
    reward(node, again, "b", 50, 3)
    assert again.acknowledged == sent.refused_ids
    assert node.stop() == 0


def test_a_disk_that_fills_beneath_concurrent_writers_stores_exactly_what_was_acknowledged(
    launch: Callable[..., Any], rig: Any, disk: Disk
) -> None:
    node = launch("busy", durability="commit", environment=disk.environment(), forked=False)
    node.create("b", rig.linear())
    num, writers = 100, 4
    decide(node, rig, "b", 0, num * writers)
    sent = [Sent() for _ in range(writers)]
    threads = [
        threading.Thread(target=reward, args=(node, sent[n], "b", n * num, num))
        for n in range(writers)
    ]
    for thread in threads:
        thread.start()
    rig.poll(lambda: sum(len(s.acknowledged) for s in sent) > 40, "some rewards")
    disk.fail("full")
    rig.poll(lambda: any(s.refused for s in sent), "a refusal")
    disk.heal()
    for thread in threads:
        thread.join()
    assert {answer.status_code for s in sent for answer in s.refused} == {503}
    assert node.stop() == 0
    assert sorted(rewarded(node, rig)) == sorted(set().union(*(s.acknowledged for s in sent)))


def test_a_failed_sync_ends_the_server_and_the_next_one_serves_what_was_acknowledged(
    launch: Callable[..., Any], rig: Any, disk: Disk
) -> None:
    node = launch("sync", durability="commit", environment=disk.environment(), forked=False)
    node.create("b", rig.linear())
    decide(node, rig, "b", 0, 30)
    sent = Sent()
    reward(node, sent, "b", 0, 10)
    disk.fail("sync")
    reward(node, sent, "b", 10, 1)
    (answer,) = sent.refused
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:bandexa:store-failed")
    assert int(answer.headers["retry-after"]) >= 1
    assert node.wait() == FAILED_FOR_GOOD
    (why,) = [line for line in log_lines(node) if line["level"] == "critical"]
    assert "SQLITE_IOERR_FSYNC" in why["event"]
    disk.heal()
    node = healed(node, "commit")
    assert is_ready(node)
    again = Sent()
    reward(node, again, "b", 11, 10)
    assert len(again.acknowledged) == 10
    assert node.stop() == 0
    found = rewarded(node, rig)
    assert len(found) == len(set(found))
    assert sent.acknowledged | again.acknowledged <= set(found)
    assert set(found) <= sent.acknowledged | again.acknowledged | sent.refused_ids


def test_a_failed_sync_of_a_checkpoint_ends_the_server_too(
    launch: Callable[..., Any], rig: Any, disk: Disk
) -> None:
    node = launch("checkpoint", durability="os", environment=disk.environment(), forked=False)
    node.create("b", rig.linear(policy="uniform", context={"shape": [20_000]}))
    disk.fail("sync")  # with durability os, nothing but a checkpoint syncs
    acknowledged = set()
    for number in range(200):
        body = {"bandit": "b", "context": [0.5] * 20_000, "decision_id": f"b.{number}"}
        try:
            answer = node.http.post("/select", json=body)
        except httpx.HTTPError:  # it has ended between two requests
            break
        if not answer.is_success:
            break
        acknowledged.add(f"b.{number}")
    assert 10 < len(acknowledged) < 200
    assert node.wait() == FAILED_FOR_GOOD
    disk.heal()
    node = healed(node, "os")
    assert node.stop() == 0
    found = {row[0] for row in rig.query(node, "SELECT own_id FROM decisions")}
    assert acknowledged <= found
