"""How long a change takes is estimated by rounds of its own encoder, and by their rows."""

from __future__ import annotations

import pytest

from service.serving.pace import LEAST_ROWS, Paces


def test_a_round_of_another_encoder_says_nothing() -> None:
    paces = Paces()
    paces.add("per_action", 0.01, 10_000)
    assert paces.seconds("mlp", 10_000) is None
    paces.add("mlp", 20.0, 10_000)
    assert paces.seconds("mlp", 10_000) == 20.0
    assert paces.seconds("per_action", 10_000) == 0.01


def test_time_grows_with_rows_but_for_the_few_first_ones() -> None:
    paces = Paces()
    paces.add("mlp", 2.0, 1_000)
    assert paces.seconds("mlp", 8_000) == pytest.approx(16.0)
    assert paces.seconds("mlp", 500) == pytest.approx(1.0)
    assert paces.seconds("mlp", 5) == paces.seconds("mlp", LEAST_ROWS)
    paces.add("mlp", 0.3, 40)
    assert paces.seconds("mlp", 1_000) == 2.0, "a round of few rows is no measure of one of many"
    paces.add("mlp", 3.0, 900)
    assert paces.seconds("mlp", 900) == pytest.approx(3.0)
