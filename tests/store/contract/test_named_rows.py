"""Objects with named features: kept without their padding, and read as rows of one size."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, LogPosition
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow
from bandexa_core.policies.named_inputs import object_of, padded
from bandexa_core.replay.protocol import laid_out
from bandexa_core.schema import to_bytes
from bandexa_core.spec import ContextSpec
from bandexa_core.spec.inputs import ActionsSpec
from service.store.logged_rows import learned_rows
from tests.store.conftest import make_features
from tests.store.contract.readable import FAR
from tests.store.logs import learn, trim
from tests.store.reporting import rewards

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
    client.call(store.append_decision, replace(record, candidates=ids, features=features))
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


def test_an_object_longer_than_those_of_the_creation_is_read_whole(client, store, make, bandit):
    """The limit is a part of the configuration that changes, and no part of what is stored."""
    longer = to_bytes({"kind": "k" * 400})
    context = np.frombuffer(longer, np.uint8)
    change = CatalogueChange(
        (ActionId("a0"),), np.stack([padded(longer, 500)]), np.ones(1, np.bool_)
    )
    client.call(store.append_change, bandit, change_of(bandit, 2))
    sides = {
        "context": dataclasses.replace(bandit.spec.context, max_bytes=450),
        "actions": dataclasses.replace(bandit.spec.actions, max_bytes=500),
    }
    client.call(store.append_config, bandit, dataclasses.replace(bandit.spec, **sides))
    client.call(store.append_change, bandit, change)
    learn(client, store, make, bandit, 0, 3)
    decision = make.decision(bandit, "long")
    chosen = (replace(decision.chosen[0], features=context), *decision.chosen[1:])
    inline = {"candidates": (ActionId("a0"),), "features": np.stack([padded(longer, 500)])}
    decision = replace(decision, context=context, chosen=chosen, **inline)
    client.call(store.append_decision, decision)
    client.call(rewards(store), make.report("long", 0.5))
    with store.reader() as reader:
        known = reader.configurations(bandit, FAR)
        rows = [row for group in reader.follow(bandit, LogPosition(0), FAR) for row in group.rows]
        assert (rows[-1].context.tobytes(), rows[-1].action.tobytes()) == (longer, longer)
        catalogue = reader.catalogue_at(bandit, FAR)
        before = reader.evicted(bandit, FAR, FAR, 100)
        logged = next(iter(learned_rows(reader, bandit, FAR, 4).scan(100)))
    assert known.spec(FAR).context.max_bytes == 450
    layout = known.row_layout(bandit.spec)
    assert (layout.context_shape, layout.action_dim) == ((450,), 500)
    assert object_of(catalogue.features[0]) == object_of(context)
    assert object_of(catalogue.features[1]) != object_of(context)
    for found in (before.rows, logged):
        whole = laid_out(found, layout)
        assert (whole.contexts.shape, whole.actions.shape) == ((4, 450), (4, 500))
        assert object_of(whole.contexts[3]) == object_of(whole.actions[3]) == object_of(context)
    with store.history() as history:
        again = history.decision(bandit, decision.decision_id).record
    assert again.context.tobytes() == longer
    assert object_of(again.features[0]) == object_of(context)
    trim(client, store, bandit, rows[-1].position)
    with store.reader() as reader:
        after = reader.evicted(bandit, FAR, FAR, 100)
    for name in ("positions", "slots", "rewards", "actions", "contexts"):
        assert np.array_equal(getattr(before.rows, name), getattr(after.rows, name)), name
