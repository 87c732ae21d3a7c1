"""Proves that damaged files are refused or repaired and never served wrongly: a table of damage.

One server learns and is killed, another is stopped in order. Each file that they leave is damaged
on a copy: cut to several lengths, one bit changed at several places, deleted. A server is started
on every copy. Either it refuses, in one line of its log; or it serves what the whole directory
would: the same scores if it has the same snapshot, else those that `bandexa verify --live`
computes from the snapshot it fell back to; repeated decisions get the same answers; no answer is a
5xx but the documented 503. A bandit that is left without a snapshot answers 503, and the others
are served. A cut write-ahead log is an earlier state, as a disk leaves it that did not sync: it
must be one whole state. Then rounds are trained, also from a damaged replay, and everything is
compared again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.proofs.damage_cases import Case, Origin, damage_cases
from benchmarks.report import arguments, report
from benchmarks.server import Server, ServerFailed
from service.settings import Settings
from service.store.errors import StoreError
from service.tools.verify import verify

_DIM, _NUM_ACTIONS = 4, 5
_LOCKSTEP = {"mode": "lockstep", "train_every": 100_000, "optimizer_steps": 20}
_SPECS: dict[str, dict[str, Any]] = {
    "linear": {"policy": "linear_ts", "training": {"mode": "lockstep"}},
    "neural": {
        "policy": "neural_linear_ts", "encoder": {"name": "mlp"}, "training": _LOCKSTEP,
        "replay": {"backend": "disk", "shard_size": 32, "flush_every": 8},
    },
    "sum": {"policy": "linear_ts", "training": _LOCKSTEP, "rewards": {"aggregate": "sum"}},
}  # fmt: skip
_UNAVAILABLE = "urn:bandexa:unavailable"
_PROBES, _ENDS_WITHIN_S = 5, 30.0
_COLUMNS = (
    "refused", "set_aside", "as_before", "fell_back", "earlier", "verify_finds", "wrong",
)  # fmt: skip


# -- answers of a server -----------------------------------------------------------------------


def _context(name: str, number: int) -> list[float]:
    rng = np.random.default_rng([number, *name.encode()])
    context: list[float] = rng.standard_normal(_DIM).round(3).tolist()
    return context


def _select(name: str, number: int) -> dict[str, Any]:
    return {
        "bandit": name, "context": _context(name, number), "decision_id": f"{name}.{number}",
    }  # fmt: skip


def _feed(http: httpx.Client, name: str, first: int, num: int) -> None:
    for number in range(first, first + num):
        body = _select(name, number)
        http.post("/select", json=body).raise_for_status()
        reward = {"decision_id": f"{name}.{number}", "reward": body["context"][0], "reward_id": "r"}
        http.post("/reward", json=reward).raise_for_status()


def _grow(folder: Path) -> dict[str, Origin]:
    """Run a server that learns; copy its directory after a kill and after an orderly stop."""
    server = Server(folder / "grown" / "data", "os")
    server.data_dir.parent.mkdir(parents=True)
    try:
        server.spawn()
        server.wait_ready()
        features = np.random.default_rng(0).standard_normal((_NUM_ACTIONS, _DIM)).round(3)
        with _client(server) as http:
            for name, spec in _SPECS.items():
                whole = {"context": {"shape": [_DIM]}, "action_dim": _DIM, "seed": 1} | spec
                http.put(f"/bandits/{name}", json=whole).raise_for_status()
                body = {"ids": [f"a{n}" for n in range(_NUM_ACTIONS)]}
                http.put(
                    f"/bandits/{name}/actions", json=body | {"features": features.tolist()}
                ).raise_for_status()
                for first, num in ((0, 50), (50, 40)):
                    _feed(http, name, first, num)
                    http.post(f"/bandits/{name}/train?wait=true").raise_for_status()
                _feed(http, name, 90, 20)
            said = _said(http)
        server.kill()
        shutil.copytree(server.data_dir, folder / "killed")
        server.spawn()
        server.wait_ready()
        server.stop()
        shutil.copytree(server.data_dir, folder / "stopped")
    finally:
        server.close()
    return {name: Origin(folder / name, said) for name in ("killed", "stopped")}


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.address, trust_env=False, timeout=60.0)


def _said(http: httpx.Client) -> dict[str, Any]:
    """Return a server's answers for each bandit: state, scores, and repeated decisions."""
    said = {}
    for bandit in http.get("/bandits").raise_for_status().json()["bandits"]:
        name = bandit["name"]
        scores = [
            http.post(f"/bandits/{name}/score", json={"context": _context("probe", n)})
            for n in range(_PROBES)
        ]
        repeats = [http.post("/select", json=_select(name, n)) for n in range(0, 110, 11)]
        said[name] = {
            "uid": bandit["uid"], "snapshot": bandit["snapshot"], "position": bandit["position"],
            "spec": bandit["spec"], "scores": scores, "repeats": repeats,
        }  # fmt: skip
    return said


# -- checking -------------------------------------------------------------------------------


@dataclass
class Verdict:
    """The result of one case; `seen` names columns of the table."""

    seen: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def check(case: Case, origin: Origin, folder: Path) -> Verdict:
    """Damage a copy, start a server on it, and compare."""
    data = folder / "case" / "data"
    shutil.copytree(origin.data, data)
    case.apply(data / case.path)
    server, verdict = Server(data, "os"), Verdict()
    try:
        server.spawn()
        try:
            server.wait_ready()
        except ServerFailed:
            _refused(server, verdict)
            return verdict
        try:
            with _client(server) as http:
                said = _said(http)
                _set_aside(http, origin, said, verdict)
                _compare(case, origin, said, verdict)
                _goes_on(http, verdict)
                _verified(server, data, case, verdict)
        except httpx.HTTPError as error:
            # It ends if it meets damage in the middle of a write: the disk cannot be trusted.
            if server.ended(_ENDS_WITHIN_S) != 4:
                verdict.wrong.append(f"{type(error).__name__}: {error}")
            verdict.seen.add("refused")
        if server.ended() is None and (status := server.stop()) not in (0, 4):
            verdict.wrong.append(f"the server ended with status {status}")
    finally:
        server.close()
        if "Traceback" in (log := server.log.read_text()) and "trainer" not in log:
            verdict.wrong.append("a traceback in the log")
        shutil.rmtree(folder / "case")
    return verdict


def _refused(server: Server, verdict: Verdict) -> None:
    verdict.seen.add("refused")
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    events = [line["event"] for line in lines if line["level"] == "critical"]
    if len(events) != 1 or "\n" in events[0] or "Traceback" in server.log.read_text():
        verdict.wrong.append(f"not refused in one line: {server.log.read_text()[-1500:]}")


def _set_aside(http: httpx.Client, origin: Origin, said: dict[str, Any], verdict: Verdict) -> None:
    """Find the bandits that are not served, and check that they answer 503."""
    for name in origin.said:
        if name not in said:
            answer = http.post("/select", json=_select(name, 0))
            if answer.status_code != 404:  # else its creation is lost
                verdict.seen.add("set_aside")
                if answer.status_code != 503 or answer.json()["type"] != _UNAVAILABLE:
                    verdict.wrong.append(f"{name}: not listed, but it answers {answer.text}")
                said[name] = None


def _compare(case: Case, origin: Origin, said: dict[str, Any], verdict: Verdict) -> None:
    for name, before in origin.said.items():
        if name not in said:
            verdict.seen.add("earlier")
            continue
        if (now := said[name]) is None:
            continue
        if now["position"] < before["position"]:
            verdict.seen.add("earlier")
        elif now["snapshot"] < before["snapshot"]:
            verdict.seen.add("fell_back")
        if (now["spec"], now["uid"]) != (before["spec"], before["uid"]):
            verdict.wrong.append(f"{name}: another configuration is served")
        same = now["position"] == before["position"] and now["snapshot"] == before["snapshot"]
        for answer, expected in zip(now["scores"], before["scores"], strict=True):
            _answer(verdict, answer, expected if same else None, f"{name}: score")
        for answer, expected in zip(now["repeats"], before["repeats"], strict=True):
            complete = "earlier" not in verdict.seen
            _answer(verdict, answer, expected if complete else None, f"{name}: repeated select")
    if "earlier" in verdict.seen and case.group != "write-ahead log":
        verdict.wrong.append("an earlier state is served")
    if not verdict.seen:
        verdict.seen.add("as_before")


def _answer(
    verdict: Verdict, answer: httpx.Response, expected: httpx.Response | None, what: str
) -> None:
    """Compare an answer; the documented 503 is not wrong."""
    if answer.status_code == 503:
        verdict.seen.add("refused")
        if answer.json()["type"] not in ("urn:bandexa:store-failed", _UNAVAILABLE):
            verdict.wrong.append(f"{what}: {answer.text}")
    elif answer.status_code >= 500 or "Traceback" in answer.text:
        verdict.wrong.append(f"{what}: {answer.status_code} {answer.text}")
    elif expected is not None and not _alike(answer.json(), expected.json()):
        verdict.wrong.append(f"{what}: {answer.text} instead of {expected.text}")


def _alike(one: Any, other: Any) -> bool:
    """Return whether two answers are equal; floats may differ in the last bits."""
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-9, atol=1e-12))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def _goes_on(http: httpx.Client, verdict: Verdict) -> None:
    """Decide, learn and train with every bandit."""
    for bandit in http.get("/bandits").json()["bandits"]:
        name = bandit["name"]
        answer = http.post("/select", json=_select(name, 1000))
        _answer(verdict, answer, None, f"{name}: select")
        reward = {"decision_id": f"{name}.1000", "reward": 0.5, "reward_id": "r"}
        _answer(verdict, http.post("/reward", json=reward), None, f"{name}: reward")
        trained = http.post(f"/bandits/{name}/train?wait=true")
        _answer(verdict, trained, None, f"{name}: train")


def _verified(server: Server, data: Path, case: Case, verdict: Verdict) -> None:
    """Compare the served model with snapshot and log, and record what `verify` reports."""
    try:
        found = verify(Settings(data_dir=data), live=server.url)
    except StoreError:
        verdict.seen.add("verify_finds")
        return
    for check in found.checks:
        if check.num_problems:
            verdict.seen.add("verify_finds")
        # A model that contradicts another part of the directory was built wrongly, for example
        # from a damaged replay.
        served_wrongly = check.name == "live" or (
            check.name == "model" and case.group.startswith("replay")
        )
        if served_wrongly and check.num_problems:
            verdict.wrong += check.problems


# -- the command ------------------------------------------------------------------------------


def _run(folder: Path, num_cases: int | None, seed: int) -> tuple[dict[str, float], list[str]]:
    origins = _grow(folder)
    cases = list(damage_cases(origins, np.random.default_rng(seed)))
    if num_cases is not None:
        places = np.linspace(0, len(cases) - 1, min(num_cases, len(cases))).round().astype(int)
        cases = [cases[place] for place in places]
    table: dict[tuple[str, str], Counter[str]] = {}
    wrong: list[str] = []
    for number, case in enumerate(cases, start=1):
        verdict = check(case, origins[case.origin], folder)
        row = table.setdefault((case.group, case.how), Counter())
        row["cases"] += 1
        row.update(verdict.seen)
        row["wrong"] += bool(verdict.wrong)
        wrong += [f"{case.path} ({case.how}, case {number}): {text}" for text in verdict.wrong]
        if sys.stdout.isatty():
            print(f"\r{number} of {len(cases)} cases", end="", flush=True)
    if sys.stdout.isatty():
        print()
    _show(table)
    results: dict[str, float] = {"cases": len(cases)}
    for column in _COLUMNS:
        results[column] = sum(row[column] for row in table.values())
    return results, wrong


def _show(table: dict[tuple[str, str], Counter[str]]) -> None:
    columns = ("cases", *_COLUMNS)
    print(f"{'file':<22}{'damage':<9}" + "".join(f"{name:>13}" for name in columns))
    for (group, how), row in table.items():
        print(f"{group:<22}{how:<9}" + "".join(f"{row[name]:>13}" for name in columns))


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("damage", __doc__)
    parser.add_argument("--cases", type=int, help="how many cases, evenly chosen; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the places of changed bits")
    given = parser.parse_args(argv)
    if given.cases is not None and given.cases < 1:
        parser.error("--cases must be at least 1")
    with tempfile.TemporaryDirectory(prefix="bandexa-damage-") as name:
        results, wrong = _run(Path(name), given.cases, given.seed)
    claim = "damaged files are refused or repaired, and nothing is served wrongly"
    return report("damage", results, given.json, wrong=wrong, claim=claim)
