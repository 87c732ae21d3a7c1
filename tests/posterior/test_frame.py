"""Centre and unit of the values are learned from the rows, and the law follows them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, PosteriorConfig

LEARNED = PosteriorConfig(
    prior_var=0.5, noise_var=0.1, noise_shape=0.1, pooled=True, learns_center=True, learns_unit=True
)
D = 4


def rows(num: int, seed: int = 0):
    """Features with the constant 1 last, and values."""
    rng = np.random.default_rng(seed)
    z = np.concatenate([rng.normal(size=(num, D - 1)), np.ones((num, 1))], axis=1)
    return z, z @ rng.normal(size=D) + 0.3 * rng.normal(size=num)


def taught(z, r, config=LEARNED) -> GaussianPosterior:
    posterior = GaussianPosterior.prior(D, config)
    for row, value in zip(z, r, strict=True):
        posterior.update(row, value)
    return posterior


@pytest.mark.parametrize("num", [1, 2, 8, 64])
def test_when_their_number_has_doubled_the_frame_is_that_of_the_rows(num: int) -> None:
    z, r = rows(num)
    found = taught(z, r)
    assert found.frame.center == pytest.approx(r.mean(), rel=1e-12)
    unit = r.std() if num > 1 else 1.0
    assert found.frame.unit == pytest.approx(unit, rel=1e-9)
    plain = PosteriorConfig(prior_var=0.5 * unit**2, noise_var=0.1 * unit**2, noise_shape=0.1)
    expected = taught(z, r - r.mean(), plain)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-8, atol=1e-10)
    for ours, theirs in zip(found.mean_std(z), expected.mean_std(z), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_after_64_rows_the_centre_stays_and_the_unit_goes_on() -> None:
    z, r = rows(200)
    r[64:] += 100.0
    found = taught(z, r)
    found.refresh()
    assert found.frame.center == pytest.approx(r[:64].mean(), rel=1e-12)
    assert found.frame.unit == pytest.approx(r.std(), rel=1e-9)
    rebuilt = GaussianPosterior.from_statistics(found.statistics(), LEARNED, frame=found.frame)
    np.testing.assert_allclose(rebuilt.mean, found.mean, rtol=1e-8, atol=1e-9)
    assert tuple(rebuilt.frame) == pytest.approx(tuple(found.frame), rel=1e-9)


@pytest.mark.parametrize(("shift", "scale"), [(1000.0, 1.0), (0.0, 1e-3), (-50.0, 200.0)])
def test_the_law_is_that_of_the_values_in_any_unit(shift: float, scale: float) -> None:
    z, r = rows(100)
    found, plain = taught(z, shift + scale * r), taught(z, r)
    means, stds = found.mean_std(z)
    expected, spreads = plain.mean_std(z)
    center = shift + scale * plain.frame.center
    assert found.frame.center == pytest.approx(center, rel=1e-9)
    np.testing.assert_allclose(means, scale * expected, rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(stds, scale * spreads, rtol=1e-6)


@pytest.mark.parametrize("values", [[0.0, 1e-156] * 6, [1e20 / 3] * 40, [5e-324] * 9])
def test_what_is_written_can_be_read_whatever_the_values_are(values: list[float]) -> None:
    z, _ = rows(len(values))
    joint, slots = taught(z, values), DisjointPosterior.prior(D, LEARNED)
    for number, value in enumerate(values):
        slots.update(number % 2, z[number], value)
    assert GaussianPosterior.from_tensors(joint.to_tensors(), LEARNED).frame == joint.frame
    assert DisjointPosterior.from_tensors(slots.to_tensors(), LEARNED).frame == slots.frame


@pytest.mark.parametrize("steps", [60, 1018, 1040, 1070])
def test_zeros_behind_rows_that_are_nearly_forgotten_halve_the_unit_at_most(steps: int) -> None:
    z, r = rows(60)
    slots, joint = DisjointPosterior.prior(D, LEARNED), taught(z[:50], r[:50])
    for number in range(50):
        slots.update(number % 2, z[number], r[number])
    for posterior in (slots, joint):
        posterior.forget(2.0**-steps)
    before = slots.frame.unit, joint.frame.unit
    for number in range(50, 53):
        slots.update(0, z[number], 0.0)
        joint.update(z[number], 0.0)
    assert slots.frame.unit >= before[0] / 8
    assert joint.frame.unit >= before[1] / 8
    DisjointPosterior.from_tensors(slots.to_tensors(), LEARNED)
    GaussianPosterior.from_tensors(joint.to_tensors(), LEARNED)


@pytest.mark.parametrize("sizes", [(3, 3, 2), (10, 1, 80), (100,)])
def test_a_block_moves_the_frame_between_the_same_rows(sizes: tuple[int, ...]) -> None:
    z, r = rows(sum(sizes))
    one_by_one, blocks = taught(z, r), GaussianPosterior.prior(D, LEARNED)
    start = 0
    for size in sizes:
        blocks.update_batch(z[start : start + size], r[start : start + size])
        start += size
    assert tuple(blocks.frame) == pytest.approx(tuple(one_by_one.frame), rel=1e-9)
    np.testing.assert_allclose(blocks.mean, one_by_one.mean, rtol=1e-8, atol=1e-12)
    assert blocks.b == pytest.approx(one_by_one.b, rel=1e-8)


@pytest.mark.parametrize("stop", [0, 5, 40, 90])
def test_a_loaded_copy_goes_on_to_the_bit(stop: int) -> None:
    z, r = rows(100)
    joint, slots = taught(z[:stop], r[:stop]), DisjointPosterior.prior(D, LEARNED)
    for number in range(stop):
        slots.update(number % 3, z[number], r[number])
    loaded = GaussianPosterior.from_tensors(joint.to_tensors(), LEARNED)
    others = DisjointPosterior.from_tensors(slots.to_tensors(), LEARNED)
    for number in range(stop, 100):
        for posterior in (joint, loaded):
            posterior.update(z[number], r[number])
        for each in (slots, others):
            each.update(number % 3, z[number], r[number])
    for ours, theirs in ((joint, loaded), (slots, others)):
        assert ours.frame == theirs.frame
        tensors = theirs.to_tensors()
        for name, tensor in ours.to_tensors().items():
            assert np.array_equal(tensor, tensors[name]), name


def test_a_pool_that_is_not_that_of_its_slots_is_not_taken() -> None:
    z, r = rows(20)
    slots = DisjointPosterior.prior(D, LEARNED)
    for number in range(20):
        slots.update(number % 3, z[number], r[number])
    right = slots.mean_std(z[0], [0, 1, 2])
    for wrong in ([-9.0, 1.0, 20.0], [1e9, 1e9, 1e9], [0.0, -1.0, 0.0]):
        tensors = slots.to_tensors() | {"pool": np.array(wrong)}
        loaded = DisjointPosterior.from_tensors(tensors, LEARNED)
        for ours, theirs in zip(loaded.mean_std(z[0], [0, 1, 2]), right, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    for wrong in ([1e30, 1.0, 9.0, 1.0], [0.0, 0.0, 9.0, 1.0], [0.0, 1e-30, 9.0, 1.0]):
        with pytest.raises(ValueError, match="frame"):
            DisjointPosterior.from_tensors(slots.to_tensors() | {"frame": np.array(wrong)}, LEARNED)


@pytest.mark.parametrize("forgets", [False, True])
def test_pooled_slots_are_the_dense_posterior_over_blocks(forgets: bool) -> None:
    """One noise variance for all: exactly the law of [e_k (x) z] with one centre."""
    z, r = rows(90)
    slots = np.random.default_rng(1).integers(0, 3, 90)
    known = replace(LEARNED, learns_center=False, learns_unit=False, center=r.mean())
    disjoint = DisjointPosterior.prior(D, known)
    dense = GaussianPosterior.prior(3 * D, replace(known, center=0.0))
    blocks = np.stack([np.kron(np.eye(3)[slot], row) for slot, row in zip(slots, z, strict=True)])
    for row, block, slot, value in zip(z, blocks, slots, r, strict=True):
        disjoint.update(int(slot), row, value)
        dense.update(block, value - r.mean())
    disjoint.correct(int(slots[4]), z[4], r[4], r[4] + 2.0)
    dense.correct(blocks[4], r[4] - r.mean(), r[4] + 2.0 - r.mean())
    if forgets:
        disjoint.forget(0.7)
        dense.forget(0.7)
    probe = rows(1, seed=5)[0][0]
    means, stds = disjoint.mean_std(probe, [0, 1, 2])
    expected, spreads = dense.mean_std(np.kron(np.eye(3), probe))
    np.testing.assert_allclose(means, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(stds, spreads, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_draws_deviate_by_a_share_of_what_the_posterior_says(scale: float) -> None:
    z, r = rows(30)
    joint, slots = taught(z, r), DisjointPosterior.prior(D, LEARNED)
    for number in range(30):
        slots.update(number % 2, z[number], r[number])
    whole = joint.sample(np.random.default_rng(2), 8) - joint.mean
    drawn = joint.sample(np.random.default_rng(2), 8, scale) - joint.mean
    np.testing.assert_allclose(drawn, scale * whole, rtol=1e-9, atol=1e-12)
    means, _ = slots.mean_std(z[0], [0, 1])
    whole = slots.sample_scores(np.random.default_rng(2), z[0], [0, 1], 8) - means
    drawn = slots.sample_scores(np.random.default_rng(2), z[0], [0, 1], 8, scale) - means
    np.testing.assert_allclose(drawn, scale * whole, rtol=1e-9, atol=1e-12)
