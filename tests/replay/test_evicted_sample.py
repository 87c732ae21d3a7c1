"""A sample of evicted rows and a replay are drawn, scanned and weighted together."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.ids import BanditUid
from bandexa_core.replay import (
    DiskReplay,
    Evicted,
    ExtendedReplay,
    MemoryReplay,
    RowLayout,
    training_batches,
)
from bandexa_core.replay.evicted import SAMPLE_BYTES, ranks, sample_size

UID = BanditUid("0123456789abcdef01234567")
LAYOUT = RowLayout((3,), "float32", 2)


@pytest.fixture(params=["memory", "disk"])
def replay(request, tmp_path, make_rows):
    """Return a replay of the positions 100 to 139; the rows before were evicted."""
    backend = MemoryReplay(LAYOUT) if request.param == "memory" else DiskReplay(tmp_path, LAYOUT)
    with backend as replay:
        replay.append(make_rows(LAYOUT, np.arange(60, 140)))
        replay.evict_through(99)
        yield replay


@pytest.fixture
def extended(replay, make_rows):
    return ExtendedReplay(replay, Evicted(make_rows(LAYOUT, [3, 8, 50, 77]), 90))


def test_ranks_are_uniform_and_differ_between_bandits():
    positions = np.arange(100_000)
    found = ranks(UID, positions)
    assert len(np.unique(found)) == len(found)
    assert found.min() >= 0
    shares = np.histogram(found / 2**63, bins=20, range=(0, 1))[0] / len(found)
    assert np.abs(shares - 0.05).max() < 0.004
    other = ranks(BanditUid("f" * 24), positions)
    assert abs(np.corrcoef(found.astype(float), other.astype(float))[0, 1]) < 0.02
    assert np.array_equal(ranks(UID, positions[500:600]), found[500:600])


def test_a_sample_of_large_contexts_is_smaller():
    assert sample_size(LAYOUT, 2000) == 2000
    images = RowLayout((3, 224, 224), "uint8", 0)
    assert sample_size(images, 2000) == SAMPLE_BYTES // images.row_bytes < 2000


def test_rows_come_in_the_order_of_positions(extended, make_rows):
    expected = [3, 8, 50, 77, *range(100, 140)]
    assert len(extended) == 44
    assert extended.positions().tolist() == expected
    seen = list(extended.scan(3))
    assert [int(p) for rows in seen for p in rows.positions] == expected
    whole = make_rows(LAYOUT, expected)
    assert np.array_equal(np.concatenate([rows.contexts for rows in seen]), whole.contexts)


def test_each_row_of_the_sample_has_the_weight_of_its_share_of_the_evicted_rows(extended):
    weights = extended.weights(None)(extended.positions())
    assert weights[:4].tolist() == [22.5] * 4
    assert weights[4:].tolist() == [1.0] * 40
    assert weights.sum() == 130.0
    halved = extended.weights(lambda positions: np.full(len(positions), 0.5))
    assert halved(extended.positions()).sum() == 65.0


def test_batches_are_drawn_by_weight_with_the_right_rows(extended, make_rows):
    sums = np.cumsum(extended.weights(None)(extended.positions()))
    rng = np.random.default_rng(0)
    counts: dict[int, int] = {}
    with training_batches(extended, rng, 64, 200, sums) as batches:
        for rows in batches:
            expected = make_rows(LAYOUT, np.unique(rows.positions))
            at = np.searchsorted(expected.positions, rows.positions)
            assert np.array_equal(rows.contexts, expected.contexts[at])
            assert np.array_equal(rows.actions, expected.actions[at])
            assert np.array_equal(rows.rewards, expected.rewards[at])
            for position in rows.positions.tolist():
                counts[position] = counts.get(position, 0) + 1
    old = sum(counts[position] for position in (3, 8, 50, 77)) / (64 * 200)
    assert abs(old - 90 / 130) < 0.02


def test_draws_of_a_replay_alone_are_uniform_row_numbers(replay):
    rows = replay.sample(np.random.default_rng(7), 32)
    numbers = np.sort(np.random.default_rng(7).integers(0, len(replay), 32))
    assert rows.positions.tolist() == (100 + numbers).tolist()


def test_rows_evicted_by_position_are_not_appended_again(replay, make_rows):
    replay.append(make_rows(LAYOUT, [97, 98, 140]))
    assert replay.positions().tolist() == list(range(100, 141))
    replay.evict_through(500)
    assert len(replay) == 0
    assert replay.evicted_through == 500
    replay.append(make_rows(LAYOUT, [499, 501]))
    assert replay.positions().tolist() == [501]


def test_a_disk_replay_remembers_what_was_evicted_by_position(tmp_path, make_rows):
    with DiskReplay(tmp_path, LAYOUT) as replay:
        replay.append(make_rows(LAYOUT, np.arange(10)))
        replay.evict_through(6)
    with DiskReplay(tmp_path, LAYOUT) as replay:
        assert replay.positions().tolist() == [7, 8, 9]
        assert replay.evicted_through == 6
