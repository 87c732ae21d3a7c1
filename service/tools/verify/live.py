"""Compares a server's scores with those of the model that follows from snapshot and log.

Each answer states its position, so that a server can be compared while it learns.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotError
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.model import MODEL_FILE, ServingModel
from bandexa_core.schema import Features, from_bytes
from bandexa_core.schema.objects import dumps, flatten
from bandexa_core.schema.personal import personal_around
from bandexa_core.snapshots.store import SnapshotStore
from service.store.errors import StoreDamaged, StoreError
from service.store.findings import Check
from service.store.loading import load_at
from service.store.objects import context_row
from service.store.reading import LogReader
from service.store.records import BanditRecord
from service.tools.verify.comparison import tolerance_of

NUM_CONTEXTS = 5
ATTEMPTS = 5


class Unreachable(StoreError):
    """The server does not answer, or not like a server of this data directory."""


def require_answers(client: httpx.Client) -> None:
    """Ask a server for something small, before what it serves is compared.

    Raises:
        Unreachable: It does not answer, or not with this API key, or is something else.
    """
    if answered(client, "GET", "/bandits?limit=1") is None:
        raise Unreachable(f"{client.base_url}: this is no Bandexa")


def answered(
    client: httpx.Client, method: str, path: str, body: Any = None
) -> dict[str, Any] | None:
    """Return the decoded answer; None where the server cannot answer (404, 422).

    Raises:
        Unreachable: The server does not answer.
    """
    try:
        response = client.request(method, path, json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"{client.base_url}: {error}") from error
    if response.status_code in (404, 422):
        return None
    try:
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPStatusError, ValueError) as error:
        raise Unreachable(f"{method} {path}: {error}") from error
    return answer


class LiveAudit:
    """Compares the scores of one server.

    Args:
        client: Has the server's address and API key.
        reader: Reads the data directory.
        registry: Encoders by name.
    """

    def __init__(self, client: httpx.Client, reader: LogReader, registry: EncoderRegistry) -> None:
        self._client = client
        self._reader = reader
        self._registry = registry

    def audit(
        self, record: BanditRecord, snapshots: SnapshotStore, contexts: list[NDArray[Any]],
        check: Check,
    ) -> None:  # fmt: skip
        """Compare one bandit on some contexts.

        Raises:
            Unreachable: The server does not answer.
        """
        state = answered(self._client, "GET", f"/bandits/{record.name}")
        if state is None or state.get("uid") != record.uid:
            check.problem("live: the server serves another bandit of this name, or none")
            return
        spec = record.spec.context
        nothing = np.zeros(spec.stored_shape if spec.shape is not None else 0, spec.stored_dtype)
        for context in contexts or [nothing]:
            if not self._context(record, snapshots, context, check):
                return

    def _context(
        self, record: BanditRecord, snapshots: SnapshotStore, context: NDArray[Any], check: Check
    ) -> bool:
        declared = record.spec.context.declared
        if declared is None:
            body = {"context": _envelope(context)}
        else:
            value = _sendable(declared, context)
            context = np.frombuffer(dumps(value), np.uint8)
            body = {"context": value}
        for _ in range(ATTEMPTS):
            answer = answered(self._client, "POST", f"/bandits/{record.name}/score", body)
            if answer is None:
                check.notes.append("the server has no actions to score")
                check.checked = False
                return False
            try:
                model = self._model(record, snapshots, answer)
            except SnapshotError as error:  # a newer one replaced it, and it was pruned
                pruned = str(error)
                continue
            except StoreDamaged as error:
                check.problem(f"live: {error}")
                return False
            check.compared = (
                f"scores of snapshot {answer['snapshot']} at position {answer['position']}"
            )
            if model.position != answer["position"]:
                check.problem(f"live: the server is ahead of the log, at {answer['position']}")
                return False
            self._compare(model, context, answer, check)
            return True
        check.problem(f"the served snapshot cannot be read: {pruned}")
        return False

    def _model(
        self, record: BanditRecord, snapshots: SnapshotStore, answer: dict[str, Any]
    ) -> ServingModel:
        snapshot = snapshots.load(SnapshotVersion(answer["snapshot"]), (MODEL_FILE,))
        position = LogPosition(answer["position"])
        return load_at(self._reader, record, self._registry, snapshots, snapshot, position)

    def _compare(
        self, model: ServingModel, context: NDArray[Any], answer: dict[str, Any], check: Check
    ) -> None:
        candidates = model.enabled_candidates()
        ids = [model.catalogue.ids[slot] for slot in candidates.slots]
        served = answer["scores"]
        if [score["id"] for score in served] != ids:
            check.problem(f"live: other actions are enabled at position {answer['position']}")
            return
        row = context_row(model.spec.context, context)
        means, stds = model.policy.score(row, candidates)
        scale = max(float(np.abs(means).max()), float(stds.max()))
        for name, expected in (("mean", means), ("std", stds)):
            found = np.array([math.nan if s[name] is None else s[name] for s in served])
            difference = float(np.abs(found - expected).max())
            if scale > 0.0:
                difference /= scale
            what = f"live: {name} of scores at position {answer['position']}"
            check.differs(difference, tolerance_of(model), what)


def _sendable(declared: Features, context: NDArray[Any]) -> dict[str, Any]:
    """Return a stored object without the fields that are digests: the server would hash them."""
    found = flatten(from_bytes(context.tobytes() or b"{}"))
    return {path: item for path, item in found.items() if personal_around(path, declared) is None}


def _envelope(context: NDArray[Any]) -> dict[str, Any]:
    return {
        "dtype": context.dtype.name,
        "shape": list(context.shape),
        "data": base64.b64encode(context.tobytes()).decode(),
    }
