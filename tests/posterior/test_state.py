"""State that is written and read back continues bit for bit."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics
from bandexa_core.posterior.state import LARGE_DIM

DIM = 24
REFRESH = 150


def _learn(posterior: GaussianPosterior, start: int, end: int) -> None:
    """Rows `start` to `end` of one fixed stream; every 27th is corrected at once."""
    rng = np.random.default_rng(7)
    z, r = rng.normal(size=(end, posterior.dim)), rng.normal(size=end)
    for index in range(start, end):
        posterior.update(z[index], r[index])
        if index % 27 == 0:
            posterior.correct(z[index], r[index], r[index] + 0.5)


def _assert_identical(one: GaussianPosterior, other: GaussianPosterior) -> None:
    first, second = one.to_tensors(), other.to_tensors()
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name


# Rows wait in 64s, moves of very many weights in 16s (counted from each correction on), and a
# refresh comes after 150: stops before, at and after each of them. A large one continues past the
# next of each.
@pytest.mark.few(16)
@pytest.mark.parametrize("stop", [0, 1, 15, 16, 17, 40, 43, 44, 45, 63, 64, 65, 143, 144, 145, 200])
@pytest.mark.parametrize(
    ("noise", "dim", "more"),
    [("nig", DIM, 200), ("fixed", DIM, 200), ("nig", LARGE_DIM + 1, 70)],
)
def test_a_loaded_posterior_continues_bit_for_bit(stop, noise, dim, more):
    config = PosteriorConfig(noise=noise)
    through = GaussianPosterior.prior(dim, config, refresh_every=REFRESH)
    _learn(through, 0, stop)
    loaded = GaussianPosterior.from_tensors(load(save(through.to_tensors())), config)
    _assert_identical(through, loaded)
    _learn(through, stop, stop + more)
    _learn(loaded, stop, stop + more)
    _assert_identical(through, loaded)
    for num in (1, 64):
        draws = [p.sample(np.random.default_rng(3), num) for p in (through, loaded)]
        assert np.array_equal(draws[0], draws[1])


@pytest.mark.parametrize("dim", [64, 65, 257, LARGE_DIM + 1])
def test_what_is_learned_does_not_depend_on_where_arrays_lie(dim):
    rng = np.random.default_rng(0)
    z, r = rng.normal(size=(30, dim)), rng.normal(size=30)
    kept, found = [], []
    for _ in range(6):
        kept.append(np.empty(rng.integers(1, 999), np.uint8))  # moves what is made next
        posterior = GaussianPosterior.prior(dim, PosteriorConfig(), refresh_every=25)
        for row, value in zip(z, r, strict=True):
            posterior.update(row, value)
        found.append(posterior)
    for posterior in found[1:]:
        _assert_identical(found[0], posterior)


def test_a_rebuilt_posterior_loads_and_continues_bit_for_bit():
    sums = Statistics(DIM)
    rng = np.random.default_rng(0)
    sums.add(rng.normal(size=(500, DIM)), rng.normal(size=500))
    config = PosteriorConfig()
    through = GaussianPosterior.from_statistics(
        sums, config, rng.normal(size=DIM), refresh_every=REFRESH
    )
    loaded = GaussianPosterior.from_tensors(through.to_tensors(), config)
    _learn(through, 0, 200)
    _learn(loaded, 0, 200)
    _assert_identical(through, loaded)


def test_the_layout_of_loaded_arrays_does_not_matter():
    config = PosteriorConfig()
    through = GaussianPosterior.prior(DIM, config)
    _learn(through, 0, 50)
    tensors = {name: np.asfortranarray(tensor) for name, tensor in through.to_tensors().items()}
    loaded = GaussianPosterior.from_tensors(tensors, config)
    _learn(through, 50, 100)
    _learn(loaded, 50, 100)
    _assert_identical(through, loaded)


@pytest.mark.parametrize("dim", [DIM, LARGE_DIM + 1])
def test_a_copy_continues_bit_for_bit_and_alone(dim):
    config = PosteriorConfig()
    through = GaussianPosterior.prior(dim, config, refresh_every=REFRESH)
    _learn(through, 0, 70)
    copy, frozen = through.copy(), through.to_tensors()
    _learn(copy, 70, 270)
    assert all(np.array_equal(frozen[name], now) for name, now in through.to_tensors().items())
    _learn(through, 70, 270)
    _assert_identical(through, copy)


def test_written_tensors_are_float64_and_share_no_memory():
    posterior = GaussianPosterior.prior(DIM, PosteriorConfig())
    _learn(posterior, 0, 10)
    tensors = posterior.to_tensors()
    assert all(tensor.dtype == np.float64 for tensor in tensors.values())
    loaded = GaussianPosterior.from_tensors(tensors, PosteriorConfig())
    for tensor in tensors.values():
        tensor[...] = 0.0
    _assert_identical(posterior, loaded)


@pytest.mark.parametrize(
    "name",
    ["mean", "root", "zz", "zr", "rr", "n", "a", "b", "waiting", "prior_mean", "refresh_every"],
)
def test_a_missing_or_damaged_tensor_is_named(name):
    posterior = GaussianPosterior.prior(DIM, PosteriorConfig())
    _learn(posterior, 0, 10)
    tensors = posterior.to_tensors()
    damaged = {**tensors, name: np.full_like(tensors[name], np.nan)}
    reshaped = {**tensors, name: np.ones((2, 3, 4))}
    missing = {key: tensor for key, tensor in tensors.items() if key != name}
    for broken in (damaged, reshaped, missing):
        with pytest.raises(ValueError, match=name):
            GaussianPosterior.from_tensors(broken, PosteriorConfig())


def test_a_noise_state_that_is_not_positive_is_named():
    tensors = GaussianPosterior.prior(2, PosteriorConfig()).to_tensors()
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=name):
            GaussianPosterior.from_tensors({**tensors, name: np.array(0.0)}, PosteriorConfig())


@pytest.mark.parametrize("dim", [3, 64, 65])
def test_state_from_before_rows_waited_with_their_values_is_taken_over(dim):
    """It had (W, D) rows waiting for zz alone, and their share of zr in zr already."""
    rng = np.random.default_rng(1)
    rows, values = rng.normal(size=(100, dim)), rng.normal(size=100)
    posterior = GaussianPosterior.prior(dim, PosteriorConfig())
    for z, r in zip(rows[:90], values[:90], strict=True):
        posterior.update(z, r)
    old = posterior.to_tensors()
    waiting = old["waiting"]
    assert waiting.shape == (90 - 64, dim + 1)
    old["zr"] = old["zr"] + waiting[:, -1] @ waiting[:, :-1]
    old["waiting"] = waiting[:, :-1]
    taken = GaussianPosterior.from_tensors(old, PosteriorConfig())
    for each in (taken, posterior):
        for z, r in zip(rows[90:], values[90:], strict=True):
            each.update(z, r)
    found, expected = taken.statistics(), posterior.statistics()
    np.testing.assert_allclose(found.zr, expected.zr, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.zz, expected.zz)
    np.testing.assert_array_equal(taken.mean, posterior.mean)
    taken.refresh()
    np.testing.assert_allclose(taken.mean, posterior.mean, rtol=1e-9, atol=1e-12)
