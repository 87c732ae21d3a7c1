import numpy as np
import pytest

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics


def _rows(num: int, dim: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, dim)), rng.normal(size=num)


def test_sums_of_two_rows():
    """Rows ((1, 2), 3) and ((0, 1), -1).

    zz = [[1, 2], [2, 4]] + [[0, 0], [0, 1]], zr = 3 (1, 2) - (0, 1), rr = 9 + 1.
    """
    sums = Statistics(2)
    sums.add([[1, 2], [0, 1]], [3, -1])
    assert sums.zz.tolist() == [[1, 2], [2, 5]]
    assert sums.zr.tolist() == [3, 5]
    assert (sums.rr, sums.n, sums.dim) == (10, 2, 2)


def test_chunks_and_merges_sum_to_the_same():
    z, r = _rows(1000, 5)
    whole, chunked, other = Statistics(5), Statistics(5), Statistics(5)
    whole.add(z, r)
    for start in range(0, 600, 70):
        end = min(start + 70, 600)
        chunked.add(z[start:end], r[start:end])
    other.add(z[600:], r[600:])
    chunked.merge(other)
    np.testing.assert_allclose(chunked.zz, whole.zz, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(chunked.zr, whole.zr, rtol=1e-12, atol=1e-10)
    assert chunked.rr == pytest.approx(whole.rr, rel=1e-13)
    assert chunked.n == 1000


def test_an_empty_chunk_adds_nothing():
    sums = Statistics(3)
    sums.add(np.zeros((0, 3)), np.zeros(0))
    assert sums.n == 0
    assert not sums.zz.any()


def test_float32_and_uint8_rows_are_summed_in_float64():
    """16777216 + 1 is not a float32."""
    sums = Statistics(1)
    sums.add(np.array([[4096.0]], dtype=np.float32), np.array([1], dtype=np.uint8))
    sums.add(np.array([[1]], dtype=np.uint8), np.array([True]))
    assert sums.zz[0, 0] == 16777217.0


def test_correcting_a_value_equals_summing_the_corrected_rows():
    z, r = _rows(20, 4)
    corrected, fresh = Statistics(4), Statistics(4)
    corrected.add(z, r)
    corrected.correct(z[7], r[7], 5.5)
    r[7] = 5.5
    fresh.add(z, r)
    np.testing.assert_allclose(corrected.zr, fresh.zr, rtol=1e-12)
    assert corrected.rr == pytest.approx(fresh.rr, rel=1e-12)
    assert corrected.n == fresh.n


def test_correcting_a_value_away_never_leaves_a_negative_square():
    """0.1^2 + (0 - 0.1)(0 + 0.1) need not be 0 in float64."""
    for value in np.random.default_rng(0).normal(size=200):
        sums = Statistics(1)
        sums.add([[1.0], [1.0]], [value, value / 3])
        sums.correct([1.0], value, 0.0)
        sums.correct([1.0], value / 3, 0.0)
        assert sums.rr >= 0.0


def test_a_copy_is_independent():
    z, r = _rows(5, 2)
    sums = Statistics(2)
    sums.add(z, r)
    before = sums.zz.copy()
    copy = sums.copy()
    copy.add(z, r)
    assert np.array_equal(sums.zz, before)
    assert (sums.n, copy.n) == (5, 10)


def test_statistics_of_a_posterior_include_rows_that_wait():
    z, r = _rows(70, 3)
    posterior, sums = GaussianPosterior.prior(3, PosteriorConfig()), Statistics(3)
    for row, value in zip(z, r, strict=True):
        posterior.update(row, value)
    sums.add(z, r)
    np.testing.assert_allclose(posterior.statistics().zz, sums.zz, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(posterior.statistics().zr, sums.zr, rtol=1e-12, atol=1e-12)
    assert posterior.statistics().n == 70


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e60, 1e200])
def test_numbers_that_are_not_finite_add_nothing(bad):
    sums = Statistics(2)
    sums.add([[1.0, 2.0]], [3.0])
    with pytest.raises(ValueError, match="z must be finite"):
        sums.add([[1.0, 1.0], [bad, 1.0]], [1.0, 1.0])
    with pytest.raises(ValueError, match="finite"):
        sums.add([[1.0, 1.0]], [bad])
    with pytest.raises(ValueError, match="finite"):
        sums.correct([1.0, 2.0], 3.0, bad)
    assert sums.zz.tolist() == [[1, 2], [2, 4]]
    assert sums.zr.tolist() == [3, 6]
    assert (sums.rr, sums.n) == (9, 1)


def test_wrong_shapes_are_refused():
    sums = Statistics(2)
    with pytest.raises(ValueError, match="shape"):
        sums.add([[1.0, 2.0, 3.0]], [1.0])
    with pytest.raises(ValueError, match="shape"):
        sums.add([[1.0, 2.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="dimension"):
        sums.merge(Statistics(3))
    with pytest.raises(ValueError, match="dim"):
        Statistics(0)


def test_products_of_rows_are_semidefinite_and_others_are_not():
    rng = np.random.default_rng(7)
    z = rng.normal(size=(5, 4)) * [1e-3, 1.0, 1e6, 0.0]
    sums = Statistics(6)
    sums.add(np.column_stack([z, z[:, 1], z[:, 2]]), np.zeros(5))  # 3 of 6 features are free
    assert sums.is_semidefinite()
    values, vectors = np.linalg.eigh(np.cov(rng.normal(size=(4, 50))))
    for least, within, expected in ((-1e-4, 1e-6, False), (-1e-4, 1e-3, True), (-1.0, 1e-3, False)):
        other = Statistics(4)
        other.zz = (vectors * [least, *values[1:]]) @ vectors.T
        assert not other.is_semidefinite()
        assert other.is_semidefinite(within) is expected
        assert np.linalg.eigvalsh(other.mended().zz)[0] > -1e-12
    other.zz = np.eye(4)
    other.zz[3] = other.zz[:, 3] = [1.0, 0.0, 0.0, 0.0]  # of a feature that was always 0
    assert not other.is_semidefinite(1e-3)


def test_a_constant_that_was_standardised_away_leaves_sums_of_rows():
    """Its square is 0 or slightly negative, its products are rounding errors."""
    rng = np.random.default_rng(3)
    for square in (0.0, -1e-12, 1e-20):
        sums = Statistics(3)
        sums.add(np.column_stack([np.zeros(50), rng.normal(size=50), np.ones(50)]), np.ones(50))
        sums.zz[0] = sums.zz[:, 0] = [square, 1e-13, -2e-13]
        assert sums.is_semidefinite(1e-3)
        assert np.allclose(sums.mended().zz, sums.zz, rtol=0.0, atol=1e-11)
