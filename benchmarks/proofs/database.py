"""Proves that servers which share a database lose nothing, whatever is killed, paused or replaced.

Clients select, reward, repeat, correct and report late at servers that share a PostgreSQL, while

- replicas, keepers, trainers and the database are killed with SIGKILL (`--kills`, `--keepers`),
- a server is stopped for a while, and the others are timed (`--pauses`),
- the database is killed and its synchronous standby takes over (`--failovers`),
- it is replaced by a standby that has not got the newest rows (`--lagging`, without clients).

Then every acknowledged event must be in the store exactly once, with the value of the reward
contract, no window may have closed early, `bandexa verify` must pass, and all servers must be at
one position with equal scores to the last bit. After a lagging standby every server must have built
its models anew. With `--url` only processes of servers are killed and paused.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from benchmarks.postgres import Cluster, cluster
from benchmarks.processes import children
from benchmarks.proofs.audit import audit, verify
from benchmarks.proofs.fault_clients import BANDITS, DIM, WINDOW_S, FaultClient, create_bandits
from benchmarks.proofs.workers import within
from benchmarks.report import Target, arguments, report
from benchmarks.scale_stores import schema
from benchmarks.server import ROOT, Server, code_of

SERVERS = 3
PAUSE_S = 1.0
LEASE_S = 5.0
_KINDS = ("replica", "database", "keeper", "trainer", "replica")
_BACKUP = (sys.executable, "-m", "service.cli", "backup", "--quiet")
_BODY = {"bandit": "first", "context": [0.5] * DIM}
TARGETS = {
    "pause_p99_ratio": Target(3.0, unit="p99 of the other servers, one paused over none"),
    "failover_worst_s": Target(5.0, unit="s from a kill to the first answer"),
}


def _get(server: Server, path: str) -> httpx.Response:
    return httpx.get(f"{server.address}{path}", trust_env=False, timeout=20.0)


def _is_ready(server: Server) -> bool:
    answer = httpx.post(f"{server.address}/select", json=_BODY, trust_env=False, timeout=20.0)
    return answer.is_success and _get(server, "/readyz").is_success


def _scores(server: Server, bandit: str) -> str:
    answer = httpx.post(
        f"{server.address}/bandits/{bandit}/score", json={"context": [0.5] * DIM},
        trust_env=False, timeout=20.0,
    )  # fmt: skip
    return answer.raise_for_status().text


def _diverged(server: Server) -> float:
    lines = _get(server, "/metrics").raise_for_status().text.splitlines()
    found = [line for line in lines if line.startswith("bandexa_diverged_total")]
    return float(found[0].split()[-1])


def _serving(server: Server) -> int:
    """Return the process that serves for a server."""
    return children(server.pid)[0]


class Crowd:
    """Servers that share a database, and the clients at all of them.

    Args:
        folder: Where data directories are made.
        url: Of an empty schema.
        clients: How many threads call.
        durability: `commit` or `barrier`.

    Attributes:
        servers: The servers.
        counts: What was done to them.
        wrong: What does not hold, in words.
        differences: What an audit found.
    """

    def __init__(self, folder: Path, url: str, clients: int, durability: str) -> None:
        environment = {
            "BANDEXA_STORE": url, "BANDEXA_SERVERS": str(SERVERS + 1),
            "BANDEXA_LEASE_S": str(LEASE_S), "BANDEXA_SNAPSHOT_STORE": "postgresql",
        }  # fmt: skip
        folder.mkdir()
        self.servers = [
            Server(folder / f"server-{number}", durability, environment=environment)
            for number in range(SERVERS)
        ]
        self.counts, self.wrong = Counter[str](), list[str]()
        self.differences = Counter[str]()
        self._folder = folder
        self._stop = threading.Event()
        turns = [np.random.default_rng([3, number]) for number in range(clients)]

        def address(number: int) -> str | None:
            """Return any server's: what one has stored, another one is asked for."""
            return self.servers[int(turns[number].integers(SERVERS))].url

        self._crew = [FaultClient(n, partial(address, n), self._stop) for n in range(clients)]

    def play(self, during: Callable[[Crowd], None]) -> None:
        """Start everything, have `during` run under load, end everything, and check."""
        threads = [threading.Thread(target=one.run) for one in self._crew]
        try:
            for server in self.servers:
                server.spawn()
                server.wait_ready()
            within(self._create, "the bandits are created")
            self.settle()
            for thread in threads:
                thread.start()
            try:
                during(self)
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join()
            self.settle()
            self._check_at_rest()
        finally:
            for server in self.servers:
                server.close()

    def _create(self) -> bool:
        create_bandits(self.roles()["keeper"][0].address)
        return True

    def settle(self) -> None:
        """Wait until every server serves."""
        for server in self.servers:
            within(partial(_is_ready, server), "every server serves")

    def roles(self) -> dict[str, list[Server]]:
        """Return the servers by what they say they are, once there is a keeper."""

        def found() -> dict[str, list[Server]] | None:
            by_role: dict[str, list[Server]] = {"keeper": [], "replica": []}
            for server in self.servers:
                by_role[_get(server, "/readyz").json()["role"]].append(server)
            return by_role if by_role["keeper"] else None

        roles: dict[str, list[Server]] = within(found, "a keeper")
        return roles

    def equal_everywhere(self, bandit: str) -> bool:
        """Whether all servers have equal scores to the last bit, at one position."""
        return len({_scores(server, bandit) for server in self.servers}) == 1

    def _check_at_rest(self) -> None:
        for bandit in BANDITS:
            try:
                within(partial(self.equal_everywhere, bandit), "equal scores")
            except TimeoutError:
                self.wrong.append(f"the servers have other scores of {bandit!r}")
        for server in self.servers:
            if (status := server.stop()) != 0:
                self.wrong.append(f"a server ended with status {status}")
        data_dir = self.servers[0].data_dir
        if (found := verify(data_dir)) is not None:
            self.wrong.append(f"verify: {found}")
        copy = self._folder / "copy"
        done = subprocess.run(
            [*_BACKUP, str(data_dir), str(copy)], capture_output=True, text=True, check=False,
            cwd=ROOT, env=code_of(ROOT),
        )  # fmt: skip
        if done.returncode != 0:
            self.wrong.append(f"backup: {(done.stdout + done.stderr)[-1000:]}")
            return
        ledgers = [one.ledger for one in self._crew]
        self.differences = audit(copy / "bandexa.db", ledgers)
        self.differences["closed_early"] = _closed_early(copy / "bandexa.db")
        self.wrong += [f"{name}: {count}" for name, count in self.differences.items() if count]
        self.wrong += [violation for ledger in ledgers for violation in ledger.violations]
        self.counts["selects"] = sum(len(ledger.selects) for ledger in ledgers)
        self.counts["rewards"] = sum(len(ledger.rewards) for ledger in ledgers)


def _closed_early(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as store:
        (count,) = store.execute(
            "SELECT count(*) FROM ledger JOIN decisions USING (key)"
            " WHERE closed IS NOT NULL AND closed < time + ?",
            (WINDOW_S - 0.001,),
        ).fetchone()
    return int(count)


# -- what is done to them -------------------------------------------------------------------------


def kill(crowd: Crowd, kinds: Sequence[str], database: Cluster | None, seed: int = 5) -> None:
    """Kill one thing after the other, and wait each time until every server serves."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        time.sleep(float(rng.uniform(0.2, 2.0)))
        roles = crowd.roles()
        keeper = roles["keeper"][0]
        if kind == "database" and database is not None:
            database.stop(signal.SIGKILL)
            database.start()
        elif kind == "trainer":
            pid = _get(keeper, "/bandits/last").json()["trainer"]["pid"]
            if pid is None:
                kind = "no_trainer"
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            others = roles["replica"] or roles["keeper"]
            one = keeper if kind == "keeper" else others[int(rng.integers(len(others)))]
            kind = "keeper" if kind == "keeper" else "replica"
            os.kill(_serving(one), signal.SIGKILL)
        crowd.counts[f"kills_of_{kind}"] += 1
        crowd.settle()


def pause(crowd: Crowd, times: int, seed: int = 6) -> dict[str, float]:
    """Stop a server again and again; return what selects take at the others, and at rest."""
    rng = np.random.default_rng(seed)
    took: dict[str, list[float]] = {"rest": [], "paused": []}
    for _ in range(times):
        paused = crowd.servers[int(rng.integers(SERVERS))]
        others = [server for server in crowd.servers if server is not paused]
        _time_selects(others, took["rest"])
        processes = [paused.pid, _serving(paused)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            _time_selects(others, took["paused"])
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        crowd.counts["pauses"] += 1
        crowd.settle()
    p99 = {name: float(np.quantile(each, 0.99)) for name, each in took.items()}
    return {
        "pause_p99_ratio": p99["paused"] / p99["rest"],
        "rest_p50_ms": 1000 * statistics.median(took["rest"]),
        "paused_p50_ms": 1000 * statistics.median(took["paused"]),
        "rest_p99_ms": 1000 * p99["rest"], "paused_p99_ms": 1000 * p99["paused"],
    }  # fmt: skip


def _time_selects(servers: Sequence[Server], took: list[float]) -> None:
    until = time.monotonic() + PAUSE_S
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                httpx.Client(base_url=server.address, trust_env=False, timeout=20.0)
            )
            for server in servers
        ]
        while time.monotonic() < until:
            for client in clients:
                began = time.perf_counter()
                within(partial(_answers, client), "a select is answered")
                took.append(time.perf_counter() - began)


def _answers(client: httpx.Client) -> bool:
    return client.post("/select", json=_BODY).status_code == 200


class Pair:
    """A primary and its standby on two ports that stay; either may be the primary.

    Args:
        waits: Whether the standby is synchronous.
    """

    def __init__(self, stack: ExitStack, *, waits: bool) -> None:
        self._stack = stack
        self._waits = waits
        self._port = 0  # of the primary that was killed last
        self.primary = stack.enter_context(cluster(wal_writer_delay="10s"))
        self.standby = stack.enter_context(self.primary.standby(waits=waits))

    def url(self) -> str:
        """Return the URL of whichever of them takes writes."""
        ports = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        url = self.primary.url().replace(f"127.0.0.1:{self.primary.port}", ports)
        return f"{url}?target_session_attrs=read-write"

    def fail_over(self) -> None:
        """Kill the primary, and make the standby one."""
        old, self.primary = self.primary, self.standby
        self._port = old.port
        old.stop(signal.SIGKILL)
        self.primary.promote()

    def follow_again(self) -> None:
        """Begin a new standby where the one before the last was."""
        self.standby = self._stack.enter_context(
            self.primary.standby(self._port, waits=self._waits)
        )

    def hold_back(self) -> None:
        """Let the standby get no more rows."""
        self.standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.sql("SELECT pg_reload_conf()")
        within(
            lambda: self.primary.sql("SELECT count(*) FROM pg_stat_replication") == "0",
            "the standby follows no more",
        )


def fail_over(crowd: Crowd, pair: Pair, times: int, back_s: list[float]) -> None:
    """Replace the database by its standby again and again."""
    rng = np.random.default_rng(7)
    for _ in range(times):
        time.sleep(float(rng.uniform(0.5, 2.0)))
        before = time.perf_counter()
        pair.fail_over()
        within(partial(_is_ready, crowd.servers[0]), "a server takes writes again")
        back_s.append(time.perf_counter() - before)
        crowd.counts["failovers"] += 1
        crowd.settle()
        pair.follow_again()


def lose_rows(crowd: Crowd, pair: Pair) -> None:
    """Replace the database by a standby that lacks rows which every server has learned."""
    _teach(crowd, 10)
    within(partial(crowd.equal_everywhere, "first"), "equal scores")
    pair.hold_back()
    _teach(crowd, 20)
    within(partial(crowd.equal_everywhere, "first"), "equal scores")
    pair.fail_over()
    for server in crowd.servers:
        within(partial(_diverged, server), "it builds its models anew")
    crowd.counts["lagging_failovers"] += 1
    crowd.settle()
    _teach(crowd, 10)


def _teach(crowd: Crowd, times: int) -> None:
    for number in range(times):
        within(partial(_learn, crowd.servers[number % SERVERS], number), "a reward is learned")


def _learn(server: Server, number: int) -> bool:
    body = _BODY | {"context": [number / 10, 0.5, 0.0, 1.0]}
    with httpx.Client(base_url=server.address, trust_env=False, timeout=20.0) as client:
        made = client.post("/select", json=body).raise_for_status().json()
        report = {"decision_id": made["decision_id"], "reward": number % 2}
        return client.post("/reward", json=report).raise_for_status().is_success


# -- the parts ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _database(url: str | None) -> Iterator[tuple[str, Cluster | None]]:
    """Yield the URL of an empty schema, and the cluster where it is one of this proof."""
    if url is not None:
        with schema(url, "proof_database") as place:
            yield place, None
        return
    with cluster(wal_writer_delay="10s") as made, made.empty() as place:
        yield place, made


def _parts(given: argparse.Namespace) -> Iterator[tuple[Crowd, dict[str, float]]]:
    """Yield each part that was played, and its figures."""
    with tempfile.TemporaryDirectory(prefix="bandexa-database-") as name:
        folder = Path(name)
        kinds = [_KINDS[number % len(_KINDS)] for number in range(given.kills)]
        if given.url is not None:
            kinds = [kind for kind in kinds if kind != "database"]
        kinds += ["keeper"] * given.keepers
        figures: dict[str, float] = {}
        if kinds or given.pauses:
            with _database(given.url) as (url, database):
                crowd = Crowd(folder / "killed", url, given.clients, "commit")

                def disturb(crowd: Crowd) -> None:
                    kill(crowd, kinds, database)
                    if given.pauses:
                        figures.update(pause(crowd, given.pauses))

                crowd.play(disturb)
            yield crowd, figures
        if given.url is not None:
            return
        if given.failovers:
            back_s: list[float] = []
            with ExitStack() as stack:
                pair = Pair(stack, waits=True)
                crowd = Crowd(folder / "synchronous", pair.url(), given.clients, "barrier")
                crowd.play(lambda crowd: fail_over(crowd, pair, given.failovers, back_s))
            yield crowd, {"failover_worst_s": max(back_s)}
        for number in range(given.lagging):
            with ExitStack() as stack:
                pair = Pair(stack, waits=False)
                crowd = Crowd(folder / f"lagging-{number}", pair.url(), 0, "commit")
                crowd.play(lambda crowd, pair=pair: lose_rows(crowd, pair))  # type: ignore[misc]
            yield crowd, {}


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("database", __doc__)
    parser.add_argument("--url", help="a database; default: clusters of this proof's own")
    parser.add_argument("--clients", type=int, default=16, help="concurrent client threads")
    for what, default, words in (
        ("kills", 100, "of replicas, keepers, trainers and the database"),
        ("keepers", 20, "more kills, of keepers alone"),
        ("pauses", 50, "of a server"),
        ("failovers", 10, "to a synchronous standby"),
        ("lagging", 1, "failovers to a standby that is behind"),
    ):
        parser.add_argument(f"--{what}", type=int, default=default, help=words)
    given = parser.parse_args(argv)
    counts, wrong = Counter[str](), list[str]()
    results: dict[str, float] = {"servers": SERVERS, "clients": given.clients}
    for crowd, figures in _parts(given):
        counts += crowd.counts
        counts.update(crowd.differences)
        wrong += crowd.wrong
        results |= figures
    results |= dict(sorted(counts.items()))
    targets = {name: target for name, target in TARGETS.items() if name in results}
    claim = "everything acknowledged is in the database once, and all servers have equal models"
    return report("database", results, given.json, targets=targets, wrong=wrong, claim=claim)
