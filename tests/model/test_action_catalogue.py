"""The catalogue: the fold of its changes, against plain dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.ids import ActionId
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.replay import RowLayout

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True)
CHANGES = st.lists(st.tuples(NAMES, st.booleans(), st.booleans()), max_size=12)


def _layout(action_dim: int) -> RowLayout:
    return RowLayout((1,), "float32", action_dim)


def _empty(action_dim: int) -> Catalogue:
    return Catalogue.empty(_layout(action_dim))


def _change(ids, features=None, enabled=True) -> CatalogueChange:
    flags = np.broadcast_to(np.asarray(enabled), len(ids)).copy()
    return CatalogueChange(tuple(ActionId(i) for i in ids), features, flags)


@settings(max_examples=50, deadline=None)
@given(changes=CHANGES, action_dim=st.integers(0, 3))
def test_the_fold_of_its_changes_is_what_plain_dictionaries_say(changes, action_dim):
    catalogue, number = _empty(action_dim), 0.0
    features: dict[str, list[float]] = {}
    enabled: dict[str, bool] = {}
    for ids, with_features, enable in changes:
        if not with_features:
            ids = [name for name in ids if name in features]
        values = None
        if with_features:
            values = number + np.arange(len(ids) * action_dim, dtype=np.float32)
            values = values.reshape(len(ids), action_dim)
            number += 100
        known = list(features)
        before = catalogue
        frozen = (before.ids, before.features.copy(), before.enabled.copy(), dict(before.slots))
        catalogue, touched = before.changed(_change(ids, values, enable))
        for index, name in enumerate(ids):
            if values is not None:
                features[name] = values[index].tolist()
            enabled[name] = enable
        assert list(catalogue.ids) == list(features)
        assert list(catalogue.ids)[: len(known)] == known
        assert catalogue.slots == {name: slot for slot, name in enumerate(features)}
        assert catalogue.features.tolist() == list(features.values())
        assert catalogue.enabled.tolist() == list(enabled.values())
        assert [catalogue.ids[slot] for slot in touched] == ids
        slots = [slot for slot, name in enumerate(features) if enabled[name]]
        assert catalogue.enabled_slots.tolist() == slots
        assert len(catalogue) == len(features)
        assert catalogue.action_dim == action_dim
        assert before.ids == frozen[0]
        assert np.array_equal(before.features, frozen[1])
        assert np.array_equal(before.enabled, frozen[2])
        assert before.slots == frozen[3]


def test_slots_are_given_in_order_of_the_first_upsert_and_never_again():
    catalogue, _ = _empty(1).changed(_change("ba", np.array([[1], [2]], np.float32)))
    catalogue, touched = catalogue.changed(
        _change("acb", np.array([[3], [4], [5]], np.float32), [True, True, False])
    )
    assert catalogue.ids == ("b", "a", "c")
    assert touched.tolist() == [1, 2, 0]
    assert catalogue.features.tolist() == [[5], [3], [4]]
    assert catalogue.enabled_slots.tolist() == [1, 2]
    assert catalogue.find([ActionId("c"), ActionId("b")]).tolist() == [2, 0]


def test_no_array_of_a_catalogue_can_be_written():
    catalogue, _ = _empty(1).changed(_change("a", np.ones((1, 1), np.float32)))
    for array in (catalogue.features, catalogue.enabled, catalogue.enabled_slots):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_catalogue_shares_nothing_with_the_change_it_came_from():
    change = _change("a", np.ones((1, 1), np.float32))
    catalogue, _ = _empty(1).changed(change)
    assert change.features is not None
    change.features[...] = 9
    change.enabled[...] = False
    assert catalogue.features.tolist() == [[1]]
    assert catalogue.enabled.tolist() == [True]


def test_a_new_action_needs_features_where_actions_have_some():
    catalogue, _ = _empty(2).changed(_change("a", np.ones((1, 2), np.float32)))
    with pytest.raises(ValueError, match="actions: 'b' is new and needs 2 features"):
        catalogue.changed(_change("ab"))
    assert catalogue.ids == ("a",)
    without, _ = _empty(0).changed(_change("ab"))
    assert without.ids == ("a", "b")
    assert without.features.shape == (2, 0)


def test_an_unknown_action_is_named():
    catalogue, _ = _empty(0).changed(_change("a"))
    with pytest.raises(KeyError, match="nobody"):
        catalogue.find([ActionId("a"), ActionId("nobody")])
    assert catalogue.find([]).tolist() == []


@pytest.mark.parametrize("action_dim", [0, 2])
@pytest.mark.parametrize("num", [0, 1, 5])
def test_a_snapshot_holds_a_catalogue_as_it_is(num: int, action_dim: int) -> None:
    ids = tuple(ActionId(f"a{n}") for n in range(num))
    features = np.random.default_rng(0).random((num, action_dim)).astype(np.float32)
    enabled = np.arange(num) % 2 == 0
    catalogue, _ = _empty(action_dim).changed(CatalogueChange(ids, features, enabled))
    found = Catalogue.from_tensors(catalogue.tensors(), _layout(action_dim))
    assert (found.ids, found.slots) == (ids, catalogue.slots)
    assert found.features.tobytes() == features.tobytes()
    assert found.enabled.tolist() == enabled.tolist()
    assert found.enabled_slots.tolist() == catalogue.enabled_slots.tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", np.frombuffer(b"a\na", np.uint8)),
        ("ids", np.frombuffer(b"a", np.uint8)),
        ("features", np.zeros((2, 3), np.float32)),
        ("features", np.zeros((2, 2))),
        ("enabled", np.zeros(2)),
    ],
)
def test_tensors_that_are_no_catalogue_are_refused(name: str, value: Any) -> None:
    change = CatalogueChange(
        (ActionId("a"), ActionId("b")), np.zeros((2, 2), np.float32), np.ones(2, np.bool_)
    )
    tensors = _empty(2).changed(change)[0].tensors() | {name: value}
    with pytest.raises(ValueError, match="catalogue"):
        Catalogue.from_tensors(tensors, _layout(2))
