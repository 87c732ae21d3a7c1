"""The cache of activations computes each row once, stores what fits, and drops old weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.errors import ReplayError
from bandexa_core.replay.activations import ActivationCache


class Source:
    """Computes activations, which are the position of a row in every element, and records calls."""

    def __init__(self, positions, shape=(3, 2)) -> None:
        self.positions = np.array(positions)
        self.shape = shape
        self.computed: list[int] = []

    def __call__(self, indexes: NDArray[np.int64]) -> NDArray[np.float16]:
        rows = self.positions[indexes]
        self.computed += rows.tolist()
        out: NDArray[np.float16] = np.broadcast_to(
            rows.reshape(-1, 1, 1), (len(rows), *self.shape)
        ).astype(np.float16)
        return out


def get(cache: ActivationCache, key: str, positions) -> tuple[NDArray[np.float16], list[int]]:
    source = Source(positions)
    return cache.get(key, source.positions, source), source.computed


@pytest.fixture
def cache(tmp_path):
    cache = ActivationCache(tmp_path / "activations", max_bytes=12 * 5)
    yield cache
    cache.close()


def test_rows_come_back_in_order_and_are_computed_once(cache):
    first, computed = get(cache, "w", [7, 3, 7, 9])
    assert first[:, 0, 0].tolist() == [7, 3, 7, 9]
    assert first.shape == (4, 3, 2)
    assert sorted(computed) == [3, 7, 9]
    again, computed = get(cache, "w", [9, 4, 3])
    assert again[:, 2, 1].tolist() == [9, 4, 3]
    assert computed == [4]


def test_the_file_never_grows_beyond_its_limit(cache):
    get(cache, "w", range(20))
    assert len(cache) == 5
    assert cache.num_bytes == 60
    rows, computed = get(cache, "w", range(20))
    assert rows[:, 0, 0].tolist() == list(range(20))
    assert computed == list(range(5, 20))


def test_other_weights_empty_the_cache(cache):
    get(cache, "w", [1, 2])
    _, computed = get(cache, "v", [1, 2])
    assert computed == [1, 2]
    assert len(cache) == 2


def test_a_limit_of_no_bytes_stores_nothing(tmp_path):
    cache = ActivationCache(tmp_path / "activations", max_bytes=0)
    assert get(cache, "w", [1])[1] == get(cache, "w", [1])[1] == [1]
    assert cache.num_bytes == 0


def test_a_truncated_file_is_found(tmp_path):
    path = tmp_path / "activations"
    cache = ActivationCache(path, max_bytes=100)
    get(cache, "w", [1, 2])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReplayError, match="shorter"):
        get(cache, "w", [2])


def test_an_old_file_is_emptied_and_closing_removes_it(tmp_path):
    path = tmp_path / "deep" / "activations"
    path.parent.mkdir()
    path.write_bytes(b"old")
    cache = ActivationCache(path, max_bytes=100)
    assert path.stat().st_size == 0
    cache.close()
    cache.close()
    assert not path.exists()


def test_an_unwritable_path_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplayError, match="file/activations"):
        ActivationCache(tmp_path / "file" / "activations", max_bytes=1)
