"""The cache of frozen activations: computes each row once, keeps what fits, forgets old weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.errors import ReplayError
from bandexa_core.replay.activations import ActivationCache


class Source:
    """Activations of a row are its position in every element; counts what it is asked for."""

    def __init__(self, positions, shape=(3, 2)) -> None:
        self.positions = np.array(positions)
        self.shape = shape
        self.asked: list[int] = []

    def __call__(self, indexes: NDArray[np.int64]) -> NDArray[np.float16]:
        rows = self.positions[indexes]
        self.asked += rows.tolist()
        out: NDArray[np.float16] = np.broadcast_to(
            rows.reshape(-1, 1, 1), (len(rows), *self.shape)
        ).astype(np.float16)
        return out


def ask(cache: ActivationCache, key: str, positions) -> tuple[NDArray[np.float16], list[int]]:
    source = Source(positions)
    return cache.get(key, source.positions, source), source.asked


@pytest.fixture
def cache(tmp_path):
    cache = ActivationCache(tmp_path / "activations", max_bytes=12 * 5)
    yield cache
    cache.close()


def test_rows_come_back_in_the_order_asked_for_and_are_computed_once(cache):
    first, asked = ask(cache, "w", [7, 3, 7, 9])
    assert first[:, 0, 0].tolist() == [7, 3, 7, 9]
    assert first.shape == (4, 3, 2)
    assert sorted(asked) == [3, 7, 9]
    again, asked = ask(cache, "w", [9, 4, 3])
    assert again[:, 2, 1].tolist() == [9, 4, 3]
    assert asked == [4]


def test_the_file_never_grows_beyond_its_limit(cache):
    ask(cache, "w", range(20))
    assert len(cache) == 5
    assert cache.num_bytes == 60
    rows, asked = ask(cache, "w", range(20))
    assert rows[:, 0, 0].tolist() == list(range(20))
    assert asked == list(range(5, 20))


def test_other_weights_start_over(cache):
    ask(cache, "w", [1, 2])
    _, asked = ask(cache, "v", [1, 2])
    assert asked == [1, 2]
    assert len(cache) == 2


def test_nothing_fits_into_no_bytes(tmp_path):
    cache = ActivationCache(tmp_path / "activations", max_bytes=0)
    assert ask(cache, "w", [1])[1] == ask(cache, "w", [1])[1] == [1]
    assert cache.num_bytes == 0


def test_a_file_cut_short_is_noticed(tmp_path):
    path = tmp_path / "activations"
    cache = ActivationCache(path, max_bytes=100)
    ask(cache, "w", [1, 2])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReplayError, match="shorter"):
        ask(cache, "w", [2])


def test_closing_removes_the_file_and_an_old_one_is_emptied(tmp_path):
    path = tmp_path / "deep" / "activations"
    path.parent.mkdir()
    path.write_bytes(b"old")
    cache = ActivationCache(path, max_bytes=100)
    assert path.stat().st_size == 0
    cache.close()
    cache.close()
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplayError, match="file/activations"):
        ActivationCache(tmp_path / "file" / "activations", max_bytes=1)
