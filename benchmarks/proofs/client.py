"""Proves that a reward which `RewardQueue.put` accepted counts once, however its process ends.

Processes with a queue and a spool fork children; parents and children put rewards and then end in
an order, without clean-up or by SIGKILL, while the server is killed and started again. Each writes
down what `put` accepted. A last queue on the same folder delivers the rest. Then each decision must
have exactly the rewards that were accepted, with one more at most where a process was killed
between `put` and its note.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bandexa_client import BanditClient, RewardQueue
from benchmarks.report import arguments, report
from benchmarks.server import Server

DECISIONS = 40  # per process
BANDIT = {
    "policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"},
    "rewards": {"aggregate": "sum"},
}  # fmt: skip
WORKER = """
import os, random, signal, sys, time
from bandexa_client import NO_RETRY, BanditClient, RewardQueue

url, folder, notes, ids = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4].split(",")
rng = random.Random(ids[0])
client = BanditClient(url, retry=NO_RETRY, timeout_s=5.0, trust_env=False)
queue = RewardQueue(client, spool=folder, max_batch=5)
note = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
end = rng.choice(["return", "exit", "kill"])
for number, decision_id in enumerate(ids):
    if number == len(ids) // 2 and os.fork() == 0:
        ids, end = ids[:number], rng.choice(["exit", "kill"])  # each puts to its own half again
        break
    queue.put(decision_id, 1.0)
    os.write(note, f"{decision_id}\\n".encode())
    time.sleep(rng.random() * 0.01)
else:
    ids = []
for decision_id in ids:
    queue.put(decision_id, 2.0)
    os.write(note, f"{decision_id} again\\n".encode())
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "exit":
    os._exit(0)
"""


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("client", __doc__)
    parser.add_argument("--processes", type=int, default=60, help="how many, each with a child")
    given = parser.parse_args(argv)
    if given.processes < 1:
        parser.error("--processes must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bandexa-client-") as name:
        results, wrong = _run(Path(name), given.processes)
    claim = "every accepted reward counts once, however its process ended"
    return report("client", results, given.json, wrong=wrong, claim=claim)


def _run(folder: Path, processes: int) -> tuple[dict[str, float], list[str]]:
    spool, notes, counts = folder / "spool", folder / "notes", Counter[str]()
    with Server(folder / "data") as server:
        ids = [[f"p{p}.{n}" for n in range(DECISIONS)] for p in range(processes)]
        with BanditClient(server.address, trust_env=False) as client:
            client.put_bandit("offers", BANDIT)
            client.put_actions("offers", ["red", "blue"])
            for decision_id in (one for mine in ids for one in mine):
                client.select("offers", [1.0], decision_id=decision_id)
        for first in range(0, processes, 4):
            workers = [
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, server.address, spool, notes, ",".join(mine)],
                    stderr=subprocess.DEVNULL,
                )
                for mine in ids[first : first + 4]
            ]
            if first % 8 == 4:  # so that some end while nobody answers
                server.kill()
                counts["kills of the server"] += 1
            for worker in workers:
                counts["killed" if worker.wait(60) else "ended"] += 1
            if server.url is None:
                server.spawn()
                server.wait_ready()
        with BanditClient(server.address, trust_env=False) as client:
            return _audit(client, spool, notes, ids, counts)


def _audit(
    client: BanditClient, spool: Path, notes: Path, ids: list[list[str]], counts: Counter[str]
) -> tuple[dict[str, float], list[str]]:
    """Deliver what is left, and compare each decision's rewards with what was accepted."""
    deadline, wrong = time.monotonic() + 60.0, []
    with RewardQueue(client, spool=spool) as queue:
        while time.monotonic() < deadline and not queue.flush(1.0):
            pass
        counts["delivered by the last queue"] = queue.num_delivered
    accepted = Counter(notes.read_text().splitlines())
    unnoted = 0
    for decision_id in (one for mine in ids for one in mine):
        (action,) = client.explain("offers", decision_id).chosen
        found = Counter(each.reward for each in action.rewards)
        for value, name in ((1.0, decision_id), (2.0, f"{decision_id} again")):
            more = found[value] - accepted[name]
            unnoted += more
            if more < 0 or found[value] > 1:
                wrong.append(f"{name}: accepted {accepted[name]} times, stored {found[value]}")
    if unnoted > counts["killed"] * 2:
        wrong.append(f"{unnoted} rewards more than were accepted")
    if left := list(spool.glob("*.rewards")):
        wrong.append(f"{len(left)} files are left in the spool")
    counts["accepted"] = sum(accepted.values())
    return {name: float(count) for name, count in sorted(counts.items())}, wrong
