"""A spool: rewards that a process leaves are delivered by a later queue, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from bandexa_client import NO_RETRY, BanditClient, RewardQueue
from bandexa_client import spool as spools
from bandexa_client.requests import RewardReport
from bandexa_client.spool import Spool
from tests.client.test_reward_queue import items, sent

LEAVES = """
import os, signal, sys
from bandexa_client import NO_RETRY, BanditClient, RewardQueue
url, folder, prefix = sys.argv[1:]
queue = RewardQueue(BanditClient(url, retry=NO_RETRY, trust_env=False), spool=folder)
for decision_id in sys.stdin.read().split():
    queue.put(prefix + decision_id, 1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
FORKS = """
import os, sys
from bandexa_client import NO_RETRY, BanditClient, RewardQueue
url, folder = sys.argv[1:]
queue = RewardQueue(BanditClient(url, retry=NO_RETRY, trust_env=False), spool=folder)
queue.put("parent", -1.0)
if os.fork() == 0:
    assert queue.num_waiting == 0, "what waits is the parent's"
    queue.put("child", 1.0)
    os._exit(0)
assert os.wait()[1] == 0
with RewardQueue(queue._client, spool=folder) as heir:
    assert heir.num_waiting == 1, "the child's; the parent's file is in use"
    heir.put("heir", 2.0)
    heir.close(0.0)
queue.close(0.0)
"""


def leave(url, folder, decision_ids, prefix="") -> None:
    """Put rewards in a process that is killed while they wait."""
    ended = subprocess.run(
        [sys.executable, "-c", LEAVES, url, folder, prefix], input=" ".join(decision_ids),
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL


def report(number: int) -> RewardReport:
    return RewardReport(f"d{number}", float(number), f"r{number}", None)


@pytest.fixture
def client(script):
    with BanditClient(script.url, retry=NO_RETRY, trust_env=False) as client:
        yield client


def test_rewards_of_killed_processes_are_learned_once(start_server, nobody, tmp_path):
    """Some were delivered before, as after an answer that was lost: they do not count again."""
    server = start_server()
    with BanditClient(server.url, trust_env=False) as client:
        spec = {
            "policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"},
            "rewards": {"aggregate": "sum"},
        }  # fmt: skip
        client.put_bandit("offers", spec)
        client.put_actions("offers", ["red", "blue"])
        ids = [f"d{number}" for number in range(40)]
        for decision_id in ids:
            client.select("offers", [1.0], decision_id=decision_id)
        for number in range(2):
            leave(nobody, tmp_path, ids[20 * number : 20 * number + 20])
        (file,) = tmp_path.glob("*.rewards")  # the second process adopted those of the first
        before = Spool(tmp_path / "other")
        client.reward_batch(list(before._read(file))[:7])
        with RewardQueue(client, spool=tmp_path) as queue:
            assert queue.flush(30.0)
        assert queue.num_delivered == 40
        assert client.get_bandit("offers").num_learned == 40
    assert list(tmp_path.glob("*.rewards")) == []


def test_half_written_and_corrupt_lines_are_reported_and_block_none(
    script, client, tmp_path, caplog
):
    script.then(200, items(200))
    wrong = (
        b"\xff\x00", b'["d", NaN, "r", null]', b'["d", "1", "r", null]', b"7", b"[" * 200_000,
        b'["d", 1.0',
    )  # fmt: skip
    lines = [b'["a", 1.0, "ra", null]', *wrong[:5], b'["b", 2.0, "rb", "red"]', wrong[5]]
    (tmp_path / "left.rewards").write_bytes(b"\n".join(lines))
    with RewardQueue(client, spool=tmp_path, max_batch=1) as queue:
        assert queue.flush(20.0)
        assert queue.num_damaged == 6
    assert sent(script) == [[1.0], [2.0]]
    assert script.bodies()[1]["items"][0]["action"] == "red"
    assert (tmp_path / "damaged.txt").read_bytes().splitlines() == list(wrong)
    assert caplog.text.count("is no reward") == 6
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.txt"]


def test_a_close_leaves_the_rest_to_the_next_queue(script, nobody, tmp_path):
    with BanditClient(nobody, retry=NO_RETRY, trust_env=False) as client:
        queue = RewardQueue(client, spool=tmp_path)
        for number in range(3):
            queue.put("d", float(number))
        queue.close(0.0)
    script.then(200, items(200))
    with (
        BanditClient(script.url, trust_env=False) as client,
        RewardQueue(client, spool=tmp_path, max_batch=1) as queue,
    ):
        assert queue.flush(20.0)
    assert sent(script) == [[0.0], [1.0], [2.0]]
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_has_a_file_of_its_own(nobody, tmp_path):
    ended = subprocess.run([sys.executable, "-c", FORKS, nobody, tmp_path], check=False, timeout=60)
    assert ended.returncode == 0
    spool = Spool(tmp_path)
    assert sorted(left.decision_id for left in spool.adopt()) == ["child", "heir", "parent"]


def test_each_reward_is_adopted_by_one_of_many_queues(tmp_path):
    for number in range(20):
        spool = Spool(tmp_path)
        spool.add(report(number))
        spool.close()
    adopted: list[RewardReport] = []
    heirs = [Spool(tmp_path) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda heir=heir: adopted.extend(heir.adopt())) for heir in heirs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(left.reward or 0.0 for left in adopted) == [float(number) for number in range(20)]
    assert Spool(tmp_path).adopt() == [], "they lie in files that are in use"


def test_a_file_does_not_grow_with_what_was_delivered(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "_COMPACT_ABOVE", 100)
    spool, waiting = Spool(tmp_path), [report(-1)]
    spool.add(waiting[0])
    for number in range(1000):
        spool.add(report(number))
        spool.settled(waiting)
    (path,) = tmp_path.iterdir()
    assert len(path.read_bytes().splitlines()) <= 110
    assert next(iter(spool._read(path))) == report(-1)
    spool.settled([])
    assert path.stat().st_size == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_reward_after_one_that_was_written_in_part_is_whole(tmp_path, monkeypatch):
    spool, write = Spool(tmp_path), os.write
    spool.add(report(0))
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:9]))
    with pytest.raises(OSError, match="not written whole"):
        spool.add(report(1))
    monkeypatch.undo()
    spool.add(report(2))
    spool.close()
    heir = Spool(tmp_path)
    assert heir.adopt() == [report(0), report(2)]
    assert heir.num_damaged == 1


def test_a_folder_that_cannot_be_used_is_refused(client, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        RewardQueue(client, spool=tmp_path / "file")


BROKEN = """
import os, pathlib, sys
from bandexa_client import NO_RETRY, BanditClient, RewardQueue
url, folder = sys.argv[1:]
client = BanditClient(url, retry=NO_RETRY, trust_env=False)
queues = [RewardQueue(client, spool=folder), RewardQueue(client), RewardQueue(client, spool=folder)]
for number, queue in enumerate(queues):
    queue.put(f"parent{number}", -1.0)
os.rename(folder, folder + "-aside")
pathlib.Path(folder).touch()
if os.fork() == 0:
    assert [queue.num_waiting for queue in queues] == [0, 0, 0], "what waits is the parent's"
    for queue in (queues[0], queues[2]):
        try:
            queue.put("child", 1.0)
        except OSError:
            assert queue.num_waiting == 0
            continue
        os._exit(1)
    queues[1].put("child", 1.0)
    os.unlink(folder)
    queues[0].put("child0", 1.0)
    queues[0].put("child1", 1.0)
    os._exit(0 if len(os.listdir(folder)) == 1 else 2)
assert os.wait()[1] == 0
assert [queue.num_waiting for queue in queues] == [1, 1, 1]
os._exit(0)
"""


def test_a_forked_child_refuses_rewards_while_its_spool_cannot_be_made(nobody, tmp_path):
    folder = str(tmp_path / "spool")
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN, nobody, folder], check=False, timeout=60,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ignored" not in ended.stderr
