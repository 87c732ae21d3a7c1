"""Votes counted behind the answer and in chunks: the same propensity always."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow, row_by_row
from bandexa_core.model import ServingModel
from bandexa_core.policies import draws, panel
from bandexa_core.policies.panel import Exploration, folded_winners


def test_a_context_that_dwarfs_the_actions_does_not_hide_them(make, candidates_of):
    """Its share of the scores is common to all; added first, it would round theirs away."""
    policy, candidates = make("concat"), candidates_of(6)
    context = np.full(4, 1e19, np.float32)
    assert not policy.greedy
    choices = [
        policy.select(
            context, candidates, np.random.default_rng(seed), exploration=Exploration(64, 0.0)
        )
        for seed in range(200)
    ]
    assert len({int(choice.chosen[0]) for choice in choices}) == 6
    assert all(choice.propensity >= 1 / 64 for choice in choices)


# -- later ---------------------------------------------------------------------------------------


def _catalogue_row(position: int, first: int, num: int) -> CatalogueRow:
    features = np.random.default_rng(first).normal(size=(num, 4)).astype(np.float32)
    ids = tuple(ActionId(f"a{first + index}") for index in range(num))
    change = CatalogueChange(ids, features, np.ones(num, bool))
    return CatalogueRow(LogPosition(position), 0.0, change)


def _learn_row(position: int) -> LearnRow:
    rng = np.random.default_rng(position)
    return LearnRow(
        position=LogPosition(position),
        time=0.0,
        decision_id=DecisionId(f"l{position}"),
        origin=LogPosition(position),
        context=rng.normal(size=4).astype(np.float32),
        action=rng.normal(size=4).astype(np.float32),
        slot=ActionSlot(position % 40),
        before=None,
        after=float(rng.normal()),
    )


def _no_snapshot(version):
    raise AssertionError(f"no snapshot {version} was imported")


@pytest.mark.parametrize("retrieve", [None, 5])
@pytest.mark.parametrize("encoder", ["interactions", "two_tower"])
def test_a_late_propensity_is_that_of_the_moment_it_was_drawn(
    make_spec, monkeypatch, encoder, retrieve
):
    """Whatever was learned and added since: it is the one a direct computation gives."""
    spec = make_spec(encoder, selection={"epsilon": 0.2, "panel": 32})
    model = ServingModel(spec, BanditUid("b"), EncoderRegistry(), Catalogue.empty(spec.row_layout))
    model.apply(row_by_row(_catalogue_row(1, 0, 40)), _no_snapshot)
    for position in range(2, 12):
        model.apply(row_by_row(_learn_row(position)), _no_snapshot)

    def choices():
        context = np.linspace(-1, 1, 4).astype(np.float32)
        return [
            model.select(
                DecisionId(f"d{number}"), context, model.enabled_candidates(), retrieve=retrieve
            )
            for number in range(30)
        ]

    direct = choices()
    assert all(choice.late_propensity is None for choice in direct)
    parts = model.policy.action_parts(model.catalogue.features)
    assert parts is not None
    width = parts.shape[1]
    monkeypatch.setattr(draws, "LATER_PRODUCTS", 40 * width * 32)
    assert all(choice.propensity is not None for choice in choices())
    monkeypatch.setattr(draws, "LATER_PRODUCTS", 40 * width * 32 - 1)
    late = choices()
    assert all(choice.propensity is None for choice in late)
    model.apply(
        row_by_row(_catalogue_row(12, 20, 60)), _no_snapshot
    )  # overwrites 20 of the 40, adds 40
    for position in range(13, 33):
        model.apply(row_by_row(_learn_row(position)), _no_snapshot)
    model.refresh(31)
    for then, later in zip(direct, late, strict=True):
        assert np.array_equal(then.chosen, later.chosen)
        assert np.array_equal(then.scores, later.scores)
        assert later.late_propensity() == then.propensity
        assert later.late_propensity() == then.propensity  # asked again
    assert len({choice.propensity for choice in direct}) > 3
    assert [choice.late_propensity() for choice in choices()] != [c.propensity for c in direct]


@pytest.mark.parametrize("num", [1, 7, 8, 9, 16, 50])
def test_winners_found_in_chunks_are_those_of_the_whole(monkeypatch, num):
    """Small whole numbers tie often: the first of the best wins, in whatever chunk it lies."""
    monkeypatch.setattr(panel, "CHUNK", 8)
    rng = np.random.default_rng(num)
    for low, high in ((-2, 3), (-1000, 1000)):
        parts_KV = rng.integers(low, high, (num, 3)).astype(float)
        queries_MV = rng.integers(low, high, (40, 3)).astype(float)
        queries_MV[0] = 0.0
        found = folded_winners(parts_KV, queries_MV)
        assert found.tolist() == (parts_KV @ queries_MV.T).argmax(axis=0).tolist()
        assert found[0] == 0
