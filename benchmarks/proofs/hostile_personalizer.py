"""Whatever is sent to Personalizer's paths: no 5xx, every refusal in its error shape.

Bodies of Rank, Reward, multi-slot and configuration with wrong types, depth, sizes, text and
numbers that are none, cut and changed bytes; ids with any bytes in paths; methods, versions and
media types that do not belong there. A refused request must change nothing in the database, and the
server's data must pass `verify` at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import numpy as np

from benchmarks.proofs.hostile_frame import Attack, Proof
from benchmarks.proofs.hostile_values import HostileValues
from benchmarks.server import Server

MEASURED = 1000  # cases between two measurements of the memory
RSS_RISE = 0.1
ROOTS = (
    "/personalizer/v1.0", "/personalizer/v1.1-preview.3", "//personalizer/v1.1-preview.1",
    "/personalizer/v9", "/personalizer",
)  # fmt: skip
CALLS: tuple[tuple[str, str], ...] = (
    ("POST", "rank"), ("POST", "events/{}/reward"), ("POST", "events/{}/activate"),
    ("POST", "multislot/rank"), ("POST", "multislot/events/{}/reward"),
    ("POST", "multislot/events/{}/activate"), ("PUT", "configurations/service"),
)  # fmt: skip
OTHERS: tuple[tuple[str, str], ...] = (
    ("GET", "configurations/service"), ("GET", "model/properties"), ("GET", "model"),
    ("PUT", "model"), ("POST", "evaluations"), ("PATCH", "rank"), ("GET", "events/{}/reward"),
    ("POST", "logs/interactions"), ("DELETE", "featureImportances/{}"), ("POST", "{}"),
)  # fmt: skip
_ACTIONS = [{"id": each, "features": [{"dish": {"price": n}}]} for n, each in enumerate("abc")]
_CONTEXT = [{"visit": {"daypart": "noon"}}]
_SLOTS = [{"id": "s", "features": [{"size": 1}], "baselineAction": "a", "excludedActions": ["b"]}]
GOOD: dict[str, Any] = {
    "rank": {"contextFeatures": _CONTEXT, "actions": _ACTIONS, "excludedActions": ["b"]},
    "reward": {"value": 1},
    "multislot/rank": {"contextFeatures": _CONTEXT, "actions": _ACTIONS, "slots": _SLOTS},
    "multislot/reward": {"reward": [{"slotId": "s", "value": 1}]},
    "service": {
        "rewardWaitTime": "PT10M", "defaultReward": 0, "rewardAggregation": "earliest",
        "explorationPercentage": 0.1, "modelExportFrequency": "PT1M", "logRetentionDays": -1,
        "learningMode": "Online", "modelRetrainDays": 0,
    },
}  # fmt: skip


class DoorwayAttack(Attack):
    """Sends the cases, and checks that refusals have Personalizer's shape.

    Args:
        server: A server with the doorway.
        seed: Of all cases.
    """

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(server)
        self._rng = np.random.default_rng(seed)
        self._values = HostileValues(self._rng)
        self._kinds: tuple[tuple[str, Callable[[], bytes]], ...] = (
            ("a value", self._with_value), ("no body", lambda: b""),
            ("any JSON", self._any_json), ("bytes", self._bytes), ("cut", self._cut),
            ("changed", self._changed), ("a good one", self._good),
        )  # fmt: skip
        self._call = CALLS[0]

    def run(self, num: int) -> None:
        """Send `num` cases."""
        first = self.http.post("/personalizer/v1.0/rank", json=GOOD["rank"])
        first.raise_for_status()  # which creates the bandit
        for number in range(num):
            kind, make = self._kinds[number % len(self._kinds)]
            self._call = self._one_of(OTHERS if number % 5 == 0 else CALLS)
            self._send(kind, make())
            if number % MEASURED == MEASURED - 1:
                self.measure_memory()

    # -- cases ------------------------------------------------------------------------------------

    def _one_of(self, values: Sequence[Any]) -> Any:
        return values[int(self._rng.integers(len(values)))]

    def _template(self) -> Any:
        path = self._call[1]
        last = path.rpartition("/")[2]
        key = f"multislot/{last}" if path.startswith("multislot") else last
        return GOOD.get(key, GOOD["rank"])

    def _good(self) -> bytes:
        return json.dumps(self._template()).encode()

    def _with_value(self) -> bytes:
        """Return a good body with a hostile value in the place of one of its parts."""
        whole = json.loads(self._good())
        mark = "@hostile@"
        parent, key = self._place(whole)
        parent[key] = mark
        return json.dumps(whole).encode().replace(b'"%s"' % mark.encode(), self._hostile())

    def _place(self, whole: Any) -> tuple[Any, Any]:
        found: list[tuple[Any, Any]] = []
        waiting = [whole]
        while waiting:
            part = waiting.pop()
            keys = list(part) if isinstance(part, dict) else range(len(part))
            for key in keys:
                found.append((part, key))
                if isinstance(part[key], dict | list):
                    waiting.append(part[key])
        place: tuple[Any, Any] = self._one_of(found)
        return place

    def _hostile(self) -> bytes:
        if self._rng.random() < 0.5:
            return self._values.json_object()
        return bytes(self._one_of(_ODD))

    def _any_json(self) -> bytes:
        return self._hostile()

    def _bytes(self) -> bytes:
        return self._rng.integers(0, 256, int(self._rng.integers(1, 200)), np.uint8).tobytes()

    def _cut(self) -> bytes:
        good = self._good()
        return good[: int(self._rng.integers(len(good)))]

    def _changed(self) -> bytes:
        good = bytearray(self._good())
        for _ in range(int(self._rng.integers(1, 4))):
            good[int(self._rng.integers(len(good)))] = int(self._rng.integers(256))
        return bytes(good)

    def _path(self) -> str:
        root = self._one_of(ROOTS) if self._rng.random() < 0.3 else ROOTS[1]
        event = self._rng.integers(0, 256, int(self._rng.integers(1, 30)), np.uint8).tobytes()
        shown = quote_from_bytes(event, safe="") if self._rng.random() < 0.7 else "e-1"
        query = "?api-version=2022-09-01-preview" if root.endswith("personalizer") else ""
        return f"{root}/{self._call[1].format(shown)}{query}"

    # -- checks -----------------------------------------------------------------------------------

    def _send(self, kind: str, content: bytes) -> None:
        kinds = ("application/json",) * 8 + ("text/plain", "application/msgpack")
        headers = {"content-type": self._one_of(kinds)}
        if self._rng.random() < 0.3:
            headers["x-ms-client-request-id"] = str(self._rng.integers(50))
        answer, what = self.exchange(kind, self._call[0], self._path(), content, headers)
        if 400 <= answer.status_code < 500 and not _is_error(answer):
            self.found.wrong.append(f"{what}: not in the error shape: {answer.text[:300]}")


_ODD = (
    b"null", b"true", b'""', b"0", b"-0.0", b"1e400", b"1e-400", b"NaN", b"[]", b"{}", b"[[]]",
    b'"\\ud800"', b"1" * 400, b'"' + b"x" * 5000 + b'"', b"[" * 40 + b"]" * 40, b'"PT-1S"',
    b'{"_multi":[{}],"_text":"a b","_label":1}', b'{"":1}', b'{"a\\u0000":"\\u0000"}',
    b'["a"]', b"[1,[2]]", b"[1,null]", b"9" * 30, b'"\xff"', b"[" + b"1," * 12000 + b"1]",
    b'[{"id":"a","features":[{}]}]', b'["soup",["soup"]]',
)  # fmt: skip


def _is_error(answer: httpx.Response) -> bool:
    try:
        error = answer.json()["error"]
        named = isinstance(error["code"], str) and isinstance(error["message"], str)
        return named and bool(error["code"]) and answer.headers["x-ms-error-code"] == error["code"]
    except (ValueError, KeyError, TypeError):
        return False


PROOF = Proof(
    name="hostile_personalizer",
    about=__doc__,
    claim="nothing sent to Personalizer's paths breaks the server, or is refused in another shape",
    make=DoorwayAttack,
    cases=10_000,
    rss_rise=RSS_RISE,
    environment={f"BANDEXA_PERSONALIZER__{name}": "true" for name in ("ENABLED", "CREATE")},
)


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    return PROOF.main(argv)
