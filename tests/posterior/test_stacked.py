"""A disjoint posterior answers for all slots at once what each slot answers, to the bit."""

import numpy as np
import pytest

from bandexa_core.posterior import DisjointPosterior, PosteriorConfig
from bandexa_core.posterior.stacked import STACKED_DIM

CONFIGS = {
    "pooled": PosteriorConfig(pooled=True),
    "own noise": PosteriorConfig(),
    "known noise": PosteriorConfig(noise="fixed", noise_var=0.3),
}


def _learned(dim: int, config: PosteriorConfig, num_rows: int = 300) -> DisjointPosterior:
    """Slots 0 to 69 but for multiples of 5, in a random order; corrected and refreshed as well."""
    rng = np.random.default_rng(dim)
    posterior = DisjointPosterior.prior(dim, config, refresh_every=7)
    for _ in range(num_rows):
        slot = int(rng.integers(70))
        if slot % 5:
            z, r = rng.normal(size=dim), float(rng.normal())
            posterior.update(slot, z, r)
            if rng.random() < 0.2:
                posterior.correct(slot, z, r, 0.0)
    return posterior


def _agrees_with_its_slots(posterior: DisjointPosterior, slots: list[int]) -> None:
    z_BD = np.random.default_rng(1).normal(size=(3, posterior.dim))
    for z in z_BD:
        means, stds = posterior.mean_std(z, slots)
        for slot, mean, std in zip(slots, means, stds, strict=True):
            own = posterior.slot(slot)
            value, square = (0.0, z @ z / posterior.config.ridge) if own is None else own.project(z)
            assert mean == value
            if posterior.config.noise == "fixed" or posterior.config.pooled:
                noise = posterior.noise_mean
            elif own is None:
                noise = posterior.config.noise_var
            else:
                noise = own.noise_mean
            assert std == pytest.approx(np.sqrt(noise * square), rel=1e-14)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dim", [1, 17, 65, STACKED_DIM, STACKED_DIM + 1])
def test_all_slots_at_once_are_each_slot_alone(dim, config):
    posterior = _learned(dim, CONFIGS[config])
    learned = list(posterior.slots)
    for slots in (learned, learned[::-1], list(range(70)), [3, 500, 1], [5, 10], []):
        _agrees_with_its_slots(posterior, slots)


@pytest.mark.parametrize("change", ["forget", "remove", "reframe", "copied", "reloaded", "rebuilt"])
def test_changes_of_slots_are_in_the_next_answer(change):
    posterior = _learned(4, PosteriorConfig(pooled=True, learns_center=True, learns_unit=True))
    if change == "forget":
        posterior.forget(0.5)
    elif change == "remove":
        posterior.remove(posterior.slots[0], np.ones((1, 4)), [1.0], np.ones(1))
    elif change == "reframe":
        posterior.reframe(posterior.frame._replace(center=3.0))
    elif change == "copied":
        other = posterior.copy()
        posterior.update(posterior.slots[1], np.ones(4), 2.0)
        posterior.update(1000, np.ones(4), 2.0)
        _agrees_with_its_slots(other, list(range(70)))
    elif change == "reloaded":
        posterior = DisjointPosterior.from_tensors(posterior.to_tensors(), posterior.config)
    else:
        posterior = DisjointPosterior.from_statistics(posterior.statistics(), posterior.config)
    _agrees_with_its_slots(posterior, [*range(70), 1000])


def test_scores_of_several_vectors_are_those_of_each_alone():
    for config in CONFIGS.values():
        posterior = _learned(17, config)
        z_BD = np.random.default_rng(2).normal(size=(5, 17))
        slots = list(range(50))
        rngs = [np.random.default_rng(n) for n in range(5)]
        together = posterior.sample_many(rngs, z_BD, slots, 64, 0.5).scores
        for n, z in enumerate(z_BD):
            alone = posterior.sample_scores(np.random.default_rng(n), z, slots, 64, 0.5)
            assert np.array_equal(alone, together[n])
