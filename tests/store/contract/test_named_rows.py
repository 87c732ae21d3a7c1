"""Objects with named features: kept without their padding, and read as rows of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, LogPosition
from bandexa_core.inputs_spec import ActionsSpec
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow
from bandexa_core.policies.named_inputs import padded
from bandexa_core.spec import ContextSpec
from tests.store.conftest import make_features
from tests.store.contract.readable import FAR
from tests.store.logs import learn, trim

X_BYTES, A_BYTES = 300, 200


@pytest.fixture
def bandit(client, store, make):
    return make.bandit(
        client, store, policy="neural_linear_ts", action_dim=0,
        context=ContextSpec(features="auto", max_bytes=X_BYTES),
        actions=ActionsSpec(features="auto", max_bytes=A_BYTES), rewards=make.last_counts(),
    )  # fmt: skip


def features_of(bandit, num: int) -> NDArray[Any]:
    return make_features(bandit.spec, num, np.random.default_rng(0))


def change_of(bandit, num: int) -> CatalogueChange:
    features = features_of(bandit, num)
    ids = tuple(ActionId(f"a{number}") for number in range(num))
    return CatalogueChange(ids, features, np.ones(num, np.bool_))


def test_log_rows_have_the_layout_of_the_bandit(client, store, make, bandit):
    change = change_of(bandit, 3)
    client.call(store.append_change, bandit, change)
    learn(client, store, make, bandit, 0, 4)
    with store.reader() as reader:
        rows = [row for group in reader.follow(bandit, LogPosition(0), FAR) for row in group.rows]
        first, *learned = rows
        assert isinstance(first, CatalogueRow)
        assert first.change.features is not None
        assert first.change.features.tobytes() == features_of(bandit, 3).tobytes()
        for number, row in enumerate(learned):
            assert isinstance(row, LearnRow)
            decision = make.decision(bandit, f"d{number}")
            assert row.context.tobytes() == padded(decision.context.tobytes(), X_BYTES).tobytes()
            action = padded(decision.chosen[0].features.tobytes(), A_BYTES)
            assert row.action.tobytes() == action.tobytes()
        catalogue = reader.catalogue_at(bandit, LogPosition(1))
        assert catalogue.features.tobytes() == features_of(bandit, 3).tobytes()


def test_a_decision_comes_back_without_padding(client, store, make, bandit):
    record = make.decision(bandit, "own", actions=("a0", "a1"))
    features = features_of(bandit, 2)
    ids = (ActionId("a0"), ActionId("a1"))
    client.call(store.append_decision, record._replace(candidates=ids, features=features))
    with store.history() as history:
        found = history.decision(bandit, record.decision_id).record
    assert found.context.tobytes() == record.context.tobytes()
    for picked, expected in zip(found.chosen, record.chosen, strict=True):
        assert picked.features.dtype == np.uint8
        assert picked.features.tobytes() == expected.features.tobytes()
    assert found.features.tobytes() == features.tobytes()
    with store.reader() as reader:
        assert reader.answer(record.decision_id).chosen[1].id == "a1"


def test_the_sample_of_evicted_rows_has_the_layout(client, store, make, bandit):
    learn(client, store, make, bandit, 0, 12)
    with store.reader() as reader:
        before = reader.evicted(bandit, LogPosition(6), LogPosition(12), 100)
    trim(client, store, bandit, 6)
    with store.reader() as reader:
        after = reader.evicted(bandit, LogPosition(6), LogPosition(12), 100)
    assert (before.rows.contexts.shape, before.rows.actions.shape) == ((6, X_BYTES), (6, A_BYTES))
    for name in ("positions", "slots", "rewards", "actions", "contexts"):
        assert np.array_equal(getattr(before.rows, name), getattr(after.rows, name)), name
