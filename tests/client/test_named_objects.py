"""Both clients send and read objects with named features, against a real server."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from bandexa_client import BanditClient, Invalid, Rejected, SelectRequest
from tests.client.scripted import Connect

SPEC = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
GIFT = {"kind": "gift", "price": 9.5, "min_basket": None}
VISIT = {"user": {"age": np.int64(31)}, "at": datetime(2026, 1, 2, tzinfo=UTC), "tags": ["a"]}
SENT = {"user": {"age": 31}, "at": "2026-01-02T00:00:00+00:00", "tags": ["a"]}
NUMBERS = itertools.count()


@pytest.fixture
def client(server: Any, connect: Connect) -> BanditClient:
    return connect(server.url, timeout_s=60.0)


@pytest.fixture
def shop(client: BanditClient) -> str:
    """A bandit with named features and two actions."""
    name = f"named-{next(NUMBERS)}"
    state = client.put_bandit(name, SPEC)
    assert state.features is not None
    client.put_actions(name, [{"id": "gift", "features": GIFT}])
    client.put_actions(name, ["tea"], [{"kind": "tea"}])
    return name


def test_actions_come_back_as_dicts(client: BanditClient, shop: str) -> None:
    assert [(one.id, one.features) for one in client.list_actions(shop)] == [
        ("gift", GIFT), ("tea", {"kind": "tea"}),
    ]  # fmt: skip
    listed = client.put_actions(shop, ["a", "b"], [{"x": 1}, {"x": 2}], enabled=[True, False])
    assert listed.num_actions == 3


def test_a_decision_and_its_explanation(client: BanditClient, shop: str) -> None:
    chosen = client.select(shop, VISIT, candidates=[{"id": "own", "features": GIFT}])
    assert client.reward(chosen.decision_id, 1.0).status == "applied"
    found = client.explain(shop, chosen.decision_id)
    assert found.context.object == SENT
    assert (found.context.dtype, found.context.values) == ("json", None)
    assert found.chosen[0].features == GIFT
    assert found.explained


def test_batches_and_scores(client: BanditClient, shop: str) -> None:
    good, bad = client.select_batch([SelectRequest(shop, VISIT), SelectRequest(shop, [1.0])])
    assert not isinstance(good, Rejected)
    assert isinstance(bad, Rejected)
    assert bad.status == 422
    assert [one.id for one in client.score(shop, {}).scores] == ["gift", "tea"]


def test_what_is_wrong_is_named(client: BanditClient, shop: str) -> None:
    with pytest.raises(Invalid, match=r"context\.a\.b\.c: objects nest deeper"):
        client.select(shop, {"a": {"b": {"c": {"d": 1}}}})
    with pytest.raises(Invalid, match="must be an object with named features"):
        client.select(shop, np.zeros(3))
