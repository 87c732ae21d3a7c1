"""The interval of a ratio that was measured in pairs, by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.intervals import ratio_of_pairs


def test_the_interval_is_that_of_the_mean_logarithm_by_hand() -> None:
    """Ratios e, e^2, e^3: mean of the logs 2, standard deviation 1, t(2 degrees) = 4.3027."""
    found = ratio_of_pairs([math.e, math.e**2, 2 * math.e**3], [1.0, 1.0, 2.0])
    reach = 4.3027 / math.sqrt(3.0)
    assert found.mean == pytest.approx(math.e**2)
    assert math.log(found.low) == pytest.approx(2.0 - reach, abs=1e-4)
    assert math.log(found.high) == pytest.approx(2.0 + reach, abs=1e-4)


@pytest.mark.parametrize(("above", "below"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_one_pair_has_no_interval(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match="two pairs"):
        ratio_of_pairs(above, below)
