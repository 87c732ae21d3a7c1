import math
from typing import Any

import pytest

from bandexa_core.posterior import PosteriorConfig


def test_defaults_are_a_learned_noise_variance_of_a_tenth():
    config = PosteriorConfig()
    assert config.noise == "nig"
    assert (config.prior_var, config.noise_var, config.noise_shape) == (1.0, 0.1, 1.0)


def test_ridge_and_prior_rate_follow_from_the_variances():
    """ridge = noise_var / prior_var = 0.5 / 2; b0 = a0 * noise_var = 3 * 0.5."""
    config = PosteriorConfig(prior_var=2.0, noise_var=0.5, noise_shape=3.0)
    assert config.ridge == 0.25
    assert config.prior_rate == 1.5


@pytest.mark.parametrize("name", ["prior_var", "noise_var", "noise_shape"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-30, 1e30, True])
def test_a_number_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        PosteriorConfig(**{name: value})


@pytest.mark.parametrize("name", ["prior_var", "noise_var", "noise_shape"])
def test_text_for_a_number_is_refused_by_name(name):
    arguments: dict[str, Any] = {name: "1.0"}
    with pytest.raises(ValueError, match=name):
        PosteriorConfig(**arguments)


def test_unknown_noise_model_is_refused_by_name():
    unknown: Any = "student"
    with pytest.raises(ValueError, match="noise"):
        PosteriorConfig(noise=unknown)
