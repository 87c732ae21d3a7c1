"""Random numbers keyed by what they are for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.ids import BanditUid
from bandexa_core.randomness import drawing_rng, keyed_rng, keyed_seed

PINNED = [8677600999906590088, 4115676907596712575, 6216795314058684355]
PINNED_SECOND = [778583164135945880, 1456609293281791965, 5521552901860918815]
PINNED_SEED = 3880857258236815566
KEYS = st.tuples(
    st.text("ab01", min_size=1, max_size=3).map(BanditUid),
    st.integers(0, 30),
    st.sampled_from(["decision", "train", "init"]),
    st.text("ab01", min_size=1, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(first=KEYS, second=KEYS)
def test_streams_are_equal_exactly_when_their_keys_are(first, second):
    """Also for parts that would read the same when written one after the other."""
    same = np.array_equal(keyed_rng(*first).random(4), keyed_rng(*second).random(4))
    assert same == (first == second)
    assert (keyed_seed(*first) == keyed_seed(*second)) == (first == second)


def test_a_stream_does_not_depend_on_others_drawn_before():
    expected = keyed_rng(BanditUid("b"), 1, "decision", "d").random(3)
    rng = keyed_rng(BanditUid("b"), 1, "decision", "d")
    keyed_rng(BanditUid("b"), 1, "decision", "e").random(100)
    np.random.default_rng().random(10)
    assert np.array_equal(rng.random(3), expected)


def test_decisions_draw_what_they_always_drew():
    """Pinned: a logged decision can be repeated by every later version."""
    second = drawing_rng(2, BanditUid("uid-1"), 3, "decision", "d-1")
    assert second.integers(0, 2**63 - 1, 3).tolist() == PINNED_SECOND
    first = drawing_rng(1, BanditUid("uid-1"), 3, "decision", "d-1")
    assert first.integers(0, 2**63 - 1, 3).tolist() == PINNED
    rng = keyed_rng(BanditUid("uid-1"), 3, "decision", "d-1")
    assert rng.integers(0, 2**63 - 1, 3).tolist() == PINNED
    assert keyed_seed(BanditUid("uid-1"), 3, "train", "100") == PINNED_SEED


@pytest.mark.parametrize("version", [1, 2])
def test_neighbouring_decisions_are_not_correlated(version):
    """1,000 streams of consecutive ids: means, spread and neighbours as independent ones have."""
    rngs = [drawing_rng(version, BanditUid("b"), 0, "decision", f"d-{n}") for n in range(1000)]
    draws = np.array([rng.standard_normal(8) for rng in rngs])
    assert abs(draws.mean()) < 4 / np.sqrt(draws.size)
    assert abs(draws.var() - 1) < 4 * np.sqrt(2 / draws.size)
    for column, other in [*combinations(range(3), 2), (0, 0), (5, 5)]:
        lagged = np.corrcoef(draws[:-1, column], draws[1:, other])[0, 1]
        assert abs(lagged) < 4 / np.sqrt(1000)


def test_a_seed_suits_torch():
    seeds = [keyed_seed(BanditUid("b"), 0, "train", str(n)) for n in range(50)]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))
