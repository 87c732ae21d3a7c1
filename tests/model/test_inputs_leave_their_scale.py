"""A round is due when inputs leave their scale: by the snapshot and the rows after it alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import SnapshotVersion
from bandexa_core.log.rows import LearnRow, LogRow, row_by_row
from bandexa_core.model import ServingModel, load_model
from bandexa_core.snapshots.store import Snapshot

START = 200


def _with_column(row: LearnRow, value: float) -> LearnRow:
    context = row.context.copy()
    context[1] = value
    return replace(row, context=context)


@pytest.fixture
def scaled(specs, log_writer, new_model):
    """Return a log and a model whose inputs were standardised; column 1 has been constant."""
    log, model = log_writer(specs["concat"]), new_model(specs["concat"])
    model.apply(row_by_row(log.actions(["a", "b", "c"])), None)
    for _ in range(START):
        model.apply(row_by_row(_with_column(log.learn(), 0.0)), None)
    model.refresh(START)
    model.rebased(SnapshotVersion(1))
    assert not model.round_due()
    return log, model


def _no_import(version: SnapshotVersion) -> Snapshot:
    raise AssertionError(f"no row imports snapshot {version}")


def _loaded(model: ServingModel, snapshot: Snapshot) -> ServingModel:
    return load_model(model.spec, model.uid, EncoderRegistry(), snapshot, model.catalogue)


def _go_on(model: ServingModel, rows: Sequence[LogRow]) -> list[bool]:
    due = []
    for row in rows:
        model.apply(row_by_row(row), _no_import)
        due.append(model.round_due())
    return due


def test_a_column_that_goes_live_has_a_round_made_and_the_watch_starts_anew(scaled):
    log, model = scaled
    rows = [_with_column(log.learn(), 0.0) for _ in range(80)]
    rows += [_with_column(log.learn(), 50.0 + n) for n in range(8)]
    due = _go_on(model, rows)
    assert due.index(True) == 80 + 3
    assert all(due[83:])
    model.refresh(START + 88)
    model.rebased(SnapshotVersion(2))
    assert not model.round_due()
    assert model.policy.scaling.num_rows == START + 88


def test_rounds_are_at_least_64_rows_apart(scaled):
    log, model = scaled
    due = _go_on(model, [_with_column(log.learn(), 50.0) for n in range(70)])
    assert due.index(True) == 63


def test_whether_a_round_is_due_follows_from_snapshot_and_rows(scaled, publish, snapshots):
    log, model = scaled
    other = _loaded(model, publish(snapshots, model))
    rows = [_with_column(log.learn(), 0.0) for _ in range(62)]
    rows += [_with_column(log.learn(), 50.0 + n) for n in range(8)]
    assert _go_on(other, rows) == _go_on(model, rows)


def test_retiring_the_action_that_owned_a_scale_has_a_round_made(specs, log_writer, new_model):
    log, model = log_writer(specs["concat"]), new_model(specs["concat"])
    wrong = log.actions(["a", "b"])
    features = wrong.change.features.copy()
    features[0, 2] = 1e6  # of two actions, nobody knows which one is wrong
    change = wrong.change._replace(features=features)
    model.apply(row_by_row(replace(wrong, change=change)), None)
    for _ in range(START):
        model.apply(row_by_row(log.learn()), None)
    model.refresh(START)
    model.rebased(SnapshotVersion(1))
    assert model.policy.scaling.a.std[2] > 1e5
    model.apply(row_by_row(log.actions(["c", "d"])), None)
    model.apply(row_by_row(log.actions(["a"], enabled=False, features=False)), None)
    due = _go_on(model, [log.learn() for _ in range(64)])
    assert due == [False] * 63 + [True]
    model.refresh(START + 64)
    enabled = model.enabled_features.astype(np.float64)
    np.testing.assert_allclose(model.policy.scaling.a.mean, enabled.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.policy.scaling.a.std, enabled.std(axis=0), rtol=1e-6)


def test_an_action_with_an_extreme_feature_is_named(scaled):
    log, model = scaled
    assert model.extreme_action() is None
    change = log.actions(["e"]).change
    features = change.features.copy()
    features[0, 3] = 1e6
    row = replace(log.rows[-1], change=change._replace(features=features))
    model.apply(row_by_row(row), None)
    assert model.extreme_action() == ("e", 3, 1e6)


def test_extreme_values_of_contexts_are_counted_across_rounds(scaled, publish, snapshots):
    log, model = scaled
    rows = [log.learn() for _ in range(20)]
    context = rows[7].context.copy()
    context[0] = -999.0
    rows[7] = replace(rows[7], context=context)
    _go_on(model, [_with_column(row, 0.0) for row in rows])
    assert model.extremes.columns == {0: (1, -999.0)}
    newer = _loaded(model, publish(snapshots, model))
    assert newer.extremes.columns == {}
    newer.follow_on(model)
    assert newer.extremes.columns == {0: (1, -999.0)}
