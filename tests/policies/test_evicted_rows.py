"""Evicted rows remain learned: uncertainty does not jump, and no knowledge is lost."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.ids import BanditUid
from bandexa_core.replay import Evicted, ExtendedReplay, Rows
from bandexa_core.replay.evicted import ranks

NUM, RETAINED, SAMPLE = 6000, 600, 400
NAMES = ("positions", "slots", "rewards", "actions", "contexts")


def part(rows: Rows, numbers) -> Rows:
    return Rows(*(getattr(rows, name)[numbers] for name in NAMES))


def evicted_from(rows: Rows) -> tuple[Rows, Evicted]:
    """Return the newest rows, and a sample of those before."""
    old = np.arange(NUM - RETAINED)
    lowest = np.argsort(ranks(BanditUid("b"), rows.positions[old]))[:SAMPLE]
    return part(rows, np.arange(NUM - RETAINED, NUM)), Evicted(
        part(rows, np.sort(lowest)), len(old)
    )


@pytest.mark.parametrize("encoder", ["mlp", "two_tower", "conv"])
def test_uncertainty_does_not_jump_when_rows_are_evicted(
    make_neural, make_rows, fill_replay, candidates_of, encoder
):
    shape, dtype = ((8, 8), "uint8") if encoder == "conv" else ((4,), "float32")
    action_dim = 0 if encoder == "conv" else 4
    rows = make_rows(NUM, shape=shape, dtype=dtype, action_dim=action_dim)
    policy = make_neural(encoder, shape=shape, dtype=dtype, action_dim=action_dim)
    probes = make_rows(20, seed=1, shape=shape, dtype=dtype, action_dim=action_dim).contexts
    offer = candidates_of(4, action_dim)
    retained, evicted = evicted_from(rows)
    only, both = fill_replay(retained), ExtendedReplay(fill_replay(retained), evicted)

    def spread(replay, weights) -> np.ndarray:
        policy.rebuild(replay, 512, weights)
        return np.array([policy.score(probe, offer)[1] for probe in probes])

    before = spread(fill_replay(rows), None)
    sampled = spread(both, both.weights(None)) / before
    dropped = spread(only, None) / before
    assert 0.7 < np.median(sampled) < 1.4
    assert sampled.max() < 2.0
    assert np.median(dropped) > 2.0, "without the sample it does jump"


def test_a_round_learns_from_what_was_evicted(make_neural, make_rows, fill_replay, plan):
    """Half of the world is seen in evicted rows alone; a round must not forget it."""
    rows = make_rows(NUM, seed=3)
    first_half = rows.positions <= NUM - RETAINED
    seen = first_half | (rows.contexts[:, 0] < 0)
    rows = part(rows, seen)
    old, new = (
        part(rows, rows.positions <= NUM - RETAINED),
        part(rows, rows.positions > NUM - RETAINED),
    )
    lowest = np.sort(np.argsort(ranks(BanditUid("b"), old.positions))[:SAMPLE])
    only = fill_replay(new)
    both = ExtendedReplay(only, Evicted(part(old, lowest), len(old)))
    probes = make_rows(400, seed=8)
    probes = part(probes, probes.contexts[:, 0] > 0.5)

    def error(replay, weights) -> float:
        policy = make_neural("mlp")
        policy.train(replay, {}, plan(num_rows=len(rows), steps=300), weights)
        z_ND = policy.features(probes.contexts, probes.actions)
        return float(np.mean((z_ND @ policy.posterior.mean - probes.rewards) ** 2))

    assert error(both, both.weights(None)) < 0.7 * error(only, None)
