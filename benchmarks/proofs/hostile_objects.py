"""Whatever stands where named features belong: answers are 2xx or 4xx, in bounded time and memory.

Objects in contexts, candidates, batches and the catalogue, as JSON and msgpack, and declarations of
fields: wrong types, depth, sizes, duplicate keys, numbers that are none, text that is none. Besides
them metrics of rewards, and limits of objects (`max_bytes`) that change meanwhile. Bandits have the
default encoder, crosses that are chosen or declared, personal fields, and metrics. What is accepted
is explained, rewarded and trained on. A refused request must change nothing in the database, and
what the last bandits have accepted must pass `verify` at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np

from benchmarks.proofs.hostile_frame import Attack, Proof
from benchmarks.proofs.hostile_values import HostileValues
from benchmarks.server import Server

JSON, MSGPACK = "application/json", "application/msgpack"
_FIELDS = {
    "age": "number", "device": "category", "at": "time", "tags": "categories", "x": "text",
    "v": {"type": "vector", "size": 2}, "on": "bool", "id": "hash",
}  # fmt: skip
_PERSONAL = {
    "age": {"type": "number", "log": "hash"}, "tags": {"type": "categories", "log": "hash"},
    "user": {"type": "ignore", "log": "hash"}, "x": {"type": "text", "log": "drop"},
    "a": {"type": "ignore", "log": "drop"}, "v": {"type": "vector", "size": 2, "log": "hash"},
    "at": {"type": "time", "log": "hash"}, "*": "auto",
}  # fmt: skip
_BOTH = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
_CROSSED = [["device", "device"], ["age", "on"], ["tags", "x"], ["v", "device"]]
_LIMITS = (
    "1024", "64", "2", "4096", "65536", "300", "1", "0", "-5", "65537", "1e9", "1.5", "true",
    '"400"', "null", "[]", "{}",
)  # fmt: skip
_KEPT: dict[str, dict[str, Any]] = {
    "auto": _BOTH,
    "crosses": _BOTH | {"policy": "linear_ts"},
    "declared-crosses": {
        "context": {"features": {"*": "auto"} | _FIELDS, "max_bytes": 2048},
        "actions": {"features": {"*": "auto"} | _FIELDS},
        "policy": "linear_ts",
        "encoder": {"name": "crosses", "params": {"crosses": _CROSSED}},
    },
    "metrics": _BOTH | {"rewards": {"learn": {"click": 1.0, "money": 0.1}}},
    "declared": {
        "context": {"features": _FIELDS, "unknown": "refuse", "max_bytes": 4096},
        "actions": {"features": {"*": "auto"} | _FIELDS, "strict": True},
    },
    "personal": {"context": {"features": _PERSONAL}, "actions": {"features": _PERSONAL}},
    "numbers": {"context": {"shape": [2]}, "action_dim": 1},
}
_TRAINING = {"mode": "lockstep", "optimizer_steps": 5}
SETTLED = 1000  # cases between two settlings
RSS_RISE = 0.1
LONG_S = 1800.0  # of a round: the trainer has a low priority, on a machine that others use as well


class ObjectAttack(Attack):
    """Sends the cases to bandits of several kinds.

    Args:
        server: A server without bandits.
        seed: Of all cases.
    """

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(server)
        self._rng = np.random.default_rng(seed)
        self._values = HostileValues(self._rng)
        self._made: list[tuple[str, str]] = []  # bandit and id of accepted decisions
        self._declared = 0
        self._prepare()

    def run(self, num: int) -> None:
        """Send `num` cases."""
        kinds: dict[str, Callable[[], None]] = {
            "context": self._context, "score": self._score, "candidates": self._candidates,
            "batch": self._batch, "catalogue": self._catalogue, "declaration": self._declaration,
            "limit": self._limit, "metrics": self._metrics,
        }  # fmt: skip
        names = list(kinds)
        for number in range(num):
            if number and number % SETTLED == 0:
                self._settle()
                self._replace()
                if sys.stdout.isatty():
                    print(f"\r{number} of {num} cases", end="", flush=True)
            kinds[names[number % len(names)]]()
        self._settle()

    # -- cases ------------------------------------------------------------------------------------

    def _name(self) -> str:
        return list(_KEPT)[int(self._rng.integers(len(_KEPT)))]

    def _object(self, packed: bool) -> bytes:
        return self._values.packed_object() if packed else self._values.json_object()

    def _context(self) -> None:
        name, packed = self._name(), self._rng.random() < 0.5
        answer = self._send(
            "context", "POST", "/select", packed, _select(packed, name, self._object(packed))
        )
        self._note(name, answer)

    def _score(self) -> None:
        packed = self._rng.random() < 0.5
        value = self._object(packed)
        body = b"\x81\xa7context" + value if packed else b'{"context":%s}' % value
        self._send("score", "POST", f"/bandits/{self._name()}/score", packed, body)

    def _candidates(self) -> None:
        name, packed = self._name(), self._rng.random() < 0.5
        value = self._object(packed)
        if packed:
            body = (
                b"\x83\xa6bandit" + _packed(name) + b"\xa7context\x80\xaacandidates\x92"
                b"\x82\xa2id\xa1x\xa8features" + value + b"\x81\xa2id\xa1y"
            )
        else:
            body = (
                b'{"bandit":"%s","context":{},"candidates":[{"id":"x","features":%s},{"id":"y"}]}'
                % (name.encode(), value)
            )
        self._note(name, self._send("candidates", "POST", "/select", packed, body))

    def _batch(self) -> None:
        name, packed = self._name(), self._rng.random() < 0.5
        items = [_select(packed, name, self._object(packed)) for _ in range(3)]
        if packed:
            body = b"\x81\xa5items\x93" + b"".join(items)
        else:
            body = b'{"items":[%s]}' % b",".join(items)
        answer = self._send("batch", "POST", "/select/batch", packed, body)
        for item in answer.json()["items"] if answer.status_code == 200 else ():
            if item["code"] >= 500:
                self.found.wrong.append(f"batch: {body[:300]!r}: {item}")
            elif item["code"] == 200:
                self._made.append((name, item["answer"]["decision_id"]))

    def _catalogue(self) -> None:
        packed = self._rng.random() < 0.5
        value = self._object(packed)
        if packed:
            body = b"\x81\xa7actions\x91\x82\xa2id\xa1b\xa8features" + value
        elif self._rng.random() < 0.5:
            body = b'{"ids":["c"],"features":[%s]}' % value
        else:
            body = b'{"actions":[{"id":"b","features":%s}]}' % value
        self._send("catalogue", "PUT", f"/bandits/{self._name()}/actions", packed, body)

    def _declaration(self) -> None:
        self._declared += 1
        name, declared = f"d{self._declared}", self._values.declaration()
        body = b'{"context":{"features":%s},"actions":{"features":"auto"}}' % declared
        if self._rng.random() < 0.3:
            body = b'{"context":{"features":"auto"},"actions":{"features":%s}}' % declared
        answer = self._send("declaration", "PUT", f"/bandits/{name}", False, body)
        if answer.status_code == 201:  # it takes objects, whatever they are, and goes again
            for _ in range(2):
                one, other = self._values.json_object(), self._values.json_object()
                content = b'{"context":%s,"candidates":[{"id":"x","features":%s}]}' % (one, other)
                self._send("declared", "POST", f"/bandits/{name}/score", False, content)
            self.http.delete(f"/bandits/{name}").raise_for_status()

    def _limit(self) -> None:
        """Change the most bytes of objects, to something or to nonsense."""
        name = self._name()
        one, other = (_LIMITS[int(n)] for n in self._rng.integers(len(_LIMITS), size=2))
        spec = _KEPT[name] | {"training": _TRAINING}
        marks = {"context": "@context", "actions": "@actions"}
        sides = {side: spec.get(side, {}) | {"max_bytes": mark} for side, mark in marks.items()}
        body = json.dumps(spec | sides).replace('"@context"', one).replace('"@actions"', other)
        self._send("limit", "PUT", f"/bandits/{name}", False, body.encode())

    def _metrics(self) -> None:
        """Report metrics of a decision, or an object in their place."""
        packed = self._rng.random() < 0.5
        chosen = self.http.post("/select", json={"bandit": "metrics", "context": {}})
        name = chosen.raise_for_status().json()["decision_id"]
        value = self._object(packed)
        if self._rng.random() < 0.5:
            value, packed = b'{"click":%s,"money":2.5}' % self._values.json_object(), False
        if packed:
            body = b"\x82\xabdecision_id\xd9" + bytes([len(name)]) + name.encode()
            body += b"\xa7metrics" + value
        else:
            body = b'{"decision_id":"%s","metrics":%s}' % (name.encode(), value)
        self._send("metrics", "POST", "/reward", packed, body)

    # -- checks -----------------------------------------------------------------------------------

    def _send(
        self, kind: str, method: str, path: str, packed: bool, content: bytes
    ) -> httpx.Response:
        headers = {"content-type": MSGPACK if packed else JSON}
        sent = f"{kind}, {'msgpack' if packed else 'JSON'}"
        answer, what = self.exchange(sent, method, path, content, headers)
        try:
            json.loads(answer.content)
        except ValueError as error:
            self.found.wrong.append(f"{what}: the answer is no JSON: {error}")
        return answer

    def _note(self, name: str, answer: httpx.Response) -> None:
        if answer.status_code == 200:
            self._made.append((name, answer.json()["decision_id"]))

    def _settle(self) -> None:
        """Learn from what was accepted, and explain some of it."""
        for number, (name, decision_id) in enumerate(self._made):
            body: dict[str, Any] = {"decision_id": decision_id, "reward": number % 2}
            if name == "metrics":
                body = {"decision_id": decision_id, "metrics": {"click": number % 2, "seen": 1}}
            self.http.post("/reward", json=body).raise_for_status()
            if number % 20 == 0:
                found = self.http.get(f"/bandits/{name}/decisions/{decision_id}")
                if found.status_code != 200 or not found.json()["reproduced"]["action"]:
                    self.found.wrong.append(
                        f"{decision_id}: {found.status_code} {found.text[:300]}"
                    )
        for name in _KEPT:
            trained = self.http.post(f"/bandits/{name}/train?wait=true", timeout=LONG_S)
            if trained.status_code != 200:
                self.found.wrong.append(f"a round of {name}: {trained.text[:500]}")
            if "features" in _KEPT[name]["context"]:
                for _ in range(20):
                    value = self._values.json_object()
                    content = b'{"context":%s}' % value
                    self._send("trained", "POST", f"/bandits/{name}/score", False, content)
        self._made.clear()
        self.measure_memory()

    def _replace(self) -> None:
        """Put new bandits in place of all; the last ones stay, to be verified."""
        for bandit in self.http.get("/bandits").json()["bandits"]:
            self.http.delete(f"/bandits/{bandit['name']}").raise_for_status()
        self._prepare()

    def _prepare(self) -> None:
        for name, spec in _KEPT.items():
            self.http.put(
                f"/bandits/{name}", json=spec | {"training": _TRAINING}
            ).raise_for_status()
            features: Any = [0.5] if "action_dim" in spec else {"device": "pc"}
            actions = {"actions": [{"id": "a", "features": features}]}
            self.http.put(f"/bandits/{name}/actions", json=actions).raise_for_status()


def _packed(text: str) -> bytes:
    return bytes([0xA0 + len(text)]) + text.encode()


def _select(packed: bool, name: str, value: bytes) -> bytes:
    if packed:
        return b"\x82\xa6bandit" + _packed(name) + b"\xa7context" + value
    return b'{"bandit":"%s","context":%s}' % (name.encode(), value)


PROOF = Proof(
    name="hostile_objects",
    about=__doc__,
    claim="no value in place of named features breaks the server or changes anything if refused",
    make=ObjectAttack,
    cases=20_000,
    rss_rise=RSS_RISE,
)


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    return PROOF.main(argv)
