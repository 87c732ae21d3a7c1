"""The contract of every replay, for the memory and the disk backend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bandexa_core.errors import ClosedError
from bandexa_core.replay import DiskReplay, MemoryReplay, Replay, RowLayout, Rows

LAYOUTS = [
    RowLayout((3,), "uint8", 0),
    RowLayout((), "float64", 1),
    RowLayout((4,), "float32", 3),
    RowLayout((2, 3, 4), "uint8", 2),
    RowLayout((5,), "float64", 0),
]


@pytest.fixture(params=["memory", "disk"])
def open_new(request, tmp_path: Path, layout, no_sync):
    """Return a function that opens empty replays; on disk they have shards of 4 rows."""
    opened: list[Replay] = []

    def _open(layout=layout, capacity=None):
        replay: Replay
        if request.param == "memory":
            replay = MemoryReplay(layout, capacity)
        else:
            root = tmp_path / f"replay-{len(opened)}"
            replay = DiskReplay(
                root, layout, shard_size=4, flush_every=3, capacity=capacity, fs=no_sync
            )
        opened.append(replay)
        return replay

    yield _open
    for replay in opened:
        replay.close()


@pytest.fixture
def content(join):
    return lambda replay: join(list(replay.scan(4)), replay.layout)


def test_a_new_replay_is_empty(open_new, layout):
    replay = open_new()
    assert (len(replay), replay.followed, list(replay.scan(5))) == (0, 0, [])
    assert replay.layout == layout
    with pytest.raises(ValueError, match="empty"):
        replay.sample(np.random.default_rng(0), 4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rows_come_back_bit_for_bit_in_order(open_new, layout, make_rows, content, assert_same):
    replay = open_new()
    rows = make_rows(layout, np.arange(1, 24) ** 2)
    for start in range(0, 23, 5):
        replay.append(Rows(*(getattr(rows, n)[start : start + 5] for n in rows.__slots__)))
    assert len(replay) == 23
    assert_same(content(replay), rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_floats_come_back_bit_for_bit(open_new, make_rows, content, assert_same, dtype):
    layout = RowLayout((4,), dtype, 1)
    odd = np.array([[np.nan, -np.inf, -0.0, np.finfo(dtype).smallest_subnormal]], dtype)
    rows = dataclasses.replace(make_rows(layout, [1]), contexts=odd)
    replay = open_new(layout)
    replay.append(rows)
    assert_same(content(replay), rows)


def test_a_strided_batch_is_stored_by_value(open_new, layout, make_rows, content, assert_same):
    rows = make_rows(layout, range(1, 7))
    wide = np.repeat(rows.contexts, 2, axis=1)
    replay = open_new()
    replay.append(dataclasses.replace(rows, contexts=wide[:, ::2]))
    assert_same(content(replay), rows)


def test_appending_again_changes_nothing(open_new, layout, make_rows, content, assert_same):
    replay = open_new()
    rows = make_rows(layout, [1, 4, 6, 9, 12, 15])
    replay.append(rows)
    replay.append(make_rows(layout, [4, 9]))
    replay.append(rows)
    assert_same(content(replay), rows)


def test_a_stored_position_is_overwritten_in_place(open_new, layout, make_rows, content):
    replay = open_new()
    replay.append(make_rows(layout, [1, 4, 6, 9, 12]))
    replay.append(make_rows(layout, [4, 9, 12, 20], salt=100))
    found = content(replay)
    salts = np.array([0, 100, 0, 100, 100, 100])
    for number, salt in enumerate(salts):
        expected = make_rows(layout, found.positions[number : number + 1], salt=int(salt))
        assert found.rewards[number] == expected.rewards[0]
        assert found.contexts[number].tobytes() == expected.contexts[0].tobytes()
        assert found.actions[number].tobytes() == expected.actions[0].tobytes()


def test_appending_no_rows_is_allowed(open_new, layout, make_rows):
    replay = open_new()
    replay.append(make_rows(layout, []))
    replay.append(make_rows(layout, [3]))
    replay.append(make_rows(layout, []))
    assert len(replay) == 1


def _with(name, array):
    return lambda rows: dataclasses.replace(rows, **{name: array(getattr(rows, name))})


INVALID_ROWS = {
    "positions not increasing": _with("positions", lambda a: a[::-1].copy()),
    "positions repeated": _with("positions", lambda a: np.full_like(a, 50)),
    "position negative": _with("positions", lambda a: np.arange(-1, 3)),
    "position before the last row": _with("positions", lambda a: np.array([2, 50, 51, 52])),
    "positions as int32": _with("positions", lambda a: a.astype(np.int32)),
    "positions as a matrix": _with("positions", lambda a: a.reshape(2, 2)),
    "positions too few": _with("positions", lambda a: a[:3]),
    "slots as float": _with("slots", lambda a: a.astype(float)),
    "slots too few": _with("slots", lambda a: a[:3]),
    "rewards as float32": _with("rewards", lambda a: a.astype(np.float32)),
    "reward nan": _with("rewards", lambda a: np.where(a == a[2], np.nan, a)),
    "reward infinite": _with("rewards", lambda a: np.where(a == a[2], -np.inf, a)),
    "rewards as a column": _with("rewards", lambda a: a[:, None]),
    "actions as float64": _with("actions", lambda a: a.astype(np.float64)),
    "actions too wide": _with("actions", lambda a: np.repeat(a, 2, axis=1)),
    "contexts of another dtype": _with("contexts", lambda a: a.astype(np.float32)),
    "contexts as int8": _with("contexts", lambda a: a.astype(np.int8)),
    "contexts of another shape": _with("contexts", lambda a: a[:, :2]),
    "contexts flat": _with("contexts", lambda a: a.reshape(-1)),
}


@pytest.mark.parametrize("reason", INVALID_ROWS)
def test_invalid_rows_are_refused_and_change_nothing(
    open_new, layout, make_rows, content, assert_same, reason
):
    replay = open_new()
    rows = make_rows(layout, [1, 4, 6, 9, 12])
    replay.append(rows)
    with pytest.raises(ValueError, match=r"position|slots|reward|actions|contexts"):
        replay.append(INVALID_ROWS[reason](make_rows(layout, [50, 51, 52, 53])))
    assert_same(content(replay), rows)
    replay.append(make_rows(layout, [50, 51]))
    assert len(replay) == 7


def test_a_correction_rewrites_the_rewards_of_existing_rows_only(
    open_new, layout, make_rows, content
):
    replay = open_new(capacity=6)
    replay.append(make_rows(layout, range(10, 90, 10)))  # 30 ... 80 remain
    positions = np.array([80, 20, 35, 30, 99, 50])
    assert replay.correct(positions, np.array([0.5, 1.5, 2.5, 3.5, 4.5, 5.5])) == 3
    expected = make_rows(layout, range(30, 90, 10)).rewards
    expected[[5, 0, 2]] = 0.5, 3.5, 5.5
    np.testing.assert_array_equal(content(replay).rewards, expected)


def test_the_last_of_two_corrections_in_one_call_holds(open_new, layout, make_rows, content):
    replay = open_new()
    replay.append(make_rows(layout, [1, 2]))
    found = replay.correct(np.array([2, 1, 2]), np.array([7.0, 8.0, 9.0]))
    assert (found, content(replay).rewards.tolist()) == (2, [8.0, 9.0])


def test_a_correction_without_existing_rows_is_allowed(open_new, layout, make_rows):
    replay = open_new()
    nothing = np.empty(0, np.int64), np.empty(0, np.float64)
    assert replay.correct(*nothing) == 0
    assert replay.correct(np.array([4]), np.array([1.0])) == 0
    replay.append(make_rows(layout, [1]))
    assert replay.correct(*nothing) == 0


@pytest.mark.parametrize(
    ("positions", "rewards"),
    [
        (np.array([1, 2]), np.array([1.0])),
        (np.array([1, 2]), np.array([1.0, np.nan])),
        (np.array([1, 2]), np.array([1, 2])),
        (np.array([1.0, 2.0]), np.array([1.0, 2.0])),
        (np.array([[1, 2]]), np.array([[1.0, 2.0]])),
    ],
)
def test_invalid_corrections_are_refused_and_change_nothing(
    open_new, layout, make_rows, content, assert_same, positions, rewards
):
    replay = open_new()
    replay.append(make_rows(layout, [1, 2]))
    with pytest.raises(ValueError, match=r"positions|rewards"):
        replay.correct(positions, rewards)
    assert_same(content(replay), make_rows(layout, [1, 2]))


@pytest.mark.few(8)
@pytest.mark.parametrize("capacity", [1, 4, 6, 100])
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_the_newest_rows_remain_within_the_capacity(
    open_new, layout, make_rows, content, assert_same, capacity, batch
):
    replay = open_new(capacity=capacity)
    for start in range(1, 121, batch):
        positions = np.arange(start, start + batch)
        replay.append(make_rows(layout, positions))
        assert len(replay) == min(capacity, positions[-1])
        remaining = np.arange(max(1, positions[-1] - capacity + 1), positions[-1] + 1)
        assert_same(content(replay), make_rows(layout, remaining))


def test_the_capacity_bounds_the_bytes_of_many_rows(open_new, make_rows, content, assert_same):
    layout = RowLayout((1000,), "uint8", 0)
    replay = open_new(layout, capacity=65)
    for start in range(1, 6001, 60):
        replay.append(make_rows(layout, range(start, start + 60)))
    assert_same(content(replay), make_rows(layout, range(5936, 6001)))
    # Shard files end at multiples of 4 rows; the row table in memory has some room to grow.
    assert 65 * layout.row_bytes <= replay.num_bytes <= 69 * layout.row_bytes + 24 * 1100


def test_evicted_rows_are_not_appended_again(open_new, layout, make_rows, content, assert_same):
    """After a crash the log is followed again and has old rows, too. Rows 4 ... 9 remain."""
    replay = open_new(capacity=6)
    replay.append(make_rows(layout, range(1, 10)))
    replay.append(make_rows(layout, range(1, 3)))
    replay.append(make_rows(layout, range(1, 10)))
    assert_same(content(replay), make_rows(layout, range(4, 10)))
    replay.append(make_rows(layout, range(2, 12)))
    assert_same(content(replay), make_rows(layout, range(6, 12)))


def test_a_sample_is_sorted_and_its_rows_are_stored_ones(open_new, layout, make_rows, assert_same):
    replay = open_new(capacity=30)
    replay.append(make_rows(layout, range(1, 42)))
    for batch_size in (1, 7, 200):
        rows = replay.sample(np.random.default_rng(batch_size), batch_size)
        assert len(rows) == batch_size
        assert (np.diff(rows.positions) >= 0).all()
        assert set(rows.positions.tolist()) <= set(range(12, 42))
        assert_same(rows, make_rows(layout, rows.positions))


def test_samples_are_uniform_over_the_existing_rows(open_new, layout, make_rows):
    """A chi-square test over 40 rows and 20,000 draws; p < 1e-3 would show a biased sampler."""
    replay = open_new(capacity=40)
    replay.append(make_rows(layout, range(55)))
    rng = np.random.default_rng(7)
    draws = np.concatenate([replay.sample(rng, 500).positions for _ in range(40)])
    assert stats.chisquare(np.bincount(draws, minlength=55)[15:]).pvalue > 1e-3


def test_a_sample_depends_on_the_generator_alone(open_new, layout, make_rows):
    first, second = open_new(), open_new()
    for replay in (first, second):
        replay.append(make_rows(layout, range(1, 30)))
    one = first.sample(np.random.default_rng(3), 50).positions
    two = second.sample(np.random.default_rng(3), 50).positions
    np.testing.assert_array_equal(one, two)
    assert len(set(one)) > 10


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_sample_of_no_rows_is_refused(open_new, layout, make_rows, batch_size):
    replay = open_new()
    replay.append(make_rows(layout, [1]))
    with pytest.raises(ValueError, match="batch_size"):
        replay.sample(np.random.default_rng(0), batch_size)


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 11, 1000])
def test_a_scan_comes_in_chunks(open_new, layout, make_rows, join, assert_same, chunk):
    replay = open_new()
    replay.append(make_rows(layout, range(1, 11)))
    batches = list(replay.scan(chunk))
    assert all(len(rows) == chunk for rows in batches[:-1])
    assert_same(join(batches, layout), make_rows(layout, range(1, 11)))


def test_a_scan_yields_the_rows_at_the_time_of_the_call(open_new, layout, make_rows):
    replay = open_new()
    replay.append(make_rows(layout, range(1, 8)))
    scan = replay.scan(3)
    replay.append(make_rows(layout, range(8, 20)))
    assert [rows.positions.tolist() for rows in scan] == [[1, 2, 3], [4, 5, 6], [7]]


def test_a_scan_omits_rows_that_are_evicted_during_it(open_new, layout, make_rows, assert_same):
    replay = open_new(capacity=8)
    replay.append(make_rows(layout, range(1, 9)))
    scan = replay.scan(2)
    assert next(scan).positions.tolist() == [1, 2]
    replay.append(make_rows(layout, range(9, 13)))  # 5 ... 12 remain
    assert_same(next(scan), make_rows(layout, [5, 6]))
    replay.append(make_rows(layout, range(13, 30)))
    assert list(scan) == []


def test_a_scan_needs_a_positive_chunk(open_new):
    with pytest.raises(ValueError, match="chunk"):
        open_new().scan(0)


def test_results_share_no_memory_with_the_replay(open_new, layout, make_rows, content, assert_same):
    replay = open_new()
    rows = make_rows(layout, range(1, 9))
    replay.append(rows)
    for batch in (rows, next(replay.scan(8)), replay.sample(np.random.default_rng(0), 8)):
        for name in Rows.__slots__:
            getattr(batch, name)[...] = 3
    assert_same(content(replay), make_rows(layout, range(1, 9)))


def test_followed_never_decreases(open_new):
    replay = open_new()
    seen = []
    for position in (5, 3, 9, 0):
        replay.mark_followed(position)
        seen.append(replay.followed)
    assert seen == [5, 5, 9, 9]


def test_num_bytes_covers_the_rows(open_new, layout, make_rows):
    replay = open_new()
    assert replay.num_bytes == 0
    replay.append(make_rows(layout, range(1, 101)))
    assert replay.num_bytes >= 100 * layout.row_bytes


USES = {
    "append": lambda replay, rows: replay.append(rows),
    "correct": lambda replay, rows: replay.correct(rows.positions, rows.rewards),
    "sample": lambda replay, rows: replay.sample(np.random.default_rng(0), 1),
    "scan": lambda replay, rows: replay.scan(1),
    "followed": lambda replay, rows: replay.followed,
    "mark_followed": lambda replay, rows: replay.mark_followed(1),
    "len": lambda replay, rows: len(replay),
    "num_bytes": lambda replay, rows: replay.num_bytes,
    "flush": lambda replay, rows: replay.flush(),
    "with": lambda replay, rows: replay.__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_use_after_close_is_a_named_error(open_new, layout, make_rows, use):
    replay = open_new()
    rows = make_rows(layout, [1, 2])
    replay.append(rows)
    scan = replay.scan(1)
    replay.close()
    replay.close()
    with pytest.raises(ClosedError, match="closed"):
        USES[use](replay, rows)
    with pytest.raises(ClosedError, match="closed"):
        next(scan)


def test_a_with_block_closes(open_new, layout, make_rows):
    with open_new() as replay:
        replay.append(make_rows(layout, [1]))
    with pytest.raises(ClosedError):
        len(replay)


def test_both_backends_draw_the_same_samples(tmp_path, layout, make_rows, assert_same, no_sync):
    memory = MemoryReplay(layout, 20)
    with DiskReplay(tmp_path / "r", layout, shard_size=3, capacity=20, fs=no_sync) as disk:
        for replay in (memory, disk):
            replay.append(make_rows(layout, range(1, 30)))
            replay.correct(np.array([15, 17]), np.array([1.0, 2.0]))
        one, two = (r.sample(np.random.default_rng(5), 64) for r in (memory, disk))
        assert_same(one, two)


def test_a_capacity_below_one_is_refused(open_new):
    with pytest.raises(ValueError, match="capacity"):
        open_new(capacity=0)
