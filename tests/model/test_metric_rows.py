"""A model weighs the metrics of the rows it applies, by its own weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.log.metrics import weighted
from bandexa_core.log.rows import Group, row_by_row
from bandexa_core.spec import RewardSpec

WRITTEN, OTHER = {"money": 1.0, "click": 0.25}, {"click": -2.0, "seconds": 0.5}


@pytest.mark.parametrize("as_block", [False, True])
@pytest.mark.parametrize("learn", [OTHER, WRITTEN, None], ids=["other", "the same", "none"])
def test_a_model_learns_what_its_own_weights_make_of_a_row(
    specs, log_writer, new_model, apply_all, learn, as_block
):
    """Without weights it learns the values that were written."""
    spec = specs["concat"]
    log = log_writer(spec)
    log.actions(["a", "b", "c"])
    rng = np.random.default_rng(1)
    rows = []
    for number in range(12):
        metrics = (("click", float(rng.integers(2))), ("money", float(rng.normal())))
        row = replace(log.learn(weighted(metrics, WRITTEN)), metrics=metrics)
        rows.append(log.learn() if number % 4 == 3 else row)
        rows[-1] = replace(rows[-1], position=number + 2, origin=number + 2)
    first = rows[0]
    more = (*first.metrics, ("seconds", 3.0))
    rows.append(
        replace(
            first,
            position=14, before=first.after, metrics_before=first.metrics,
            after=weighted(more, WRITTEN), metrics=more,
        )
    )  # fmt: skip
    expected = [replace(row, metrics=None, metrics_before=None) for row in rows]
    if learn is not None:
        expected = [
            replace(
                plain,
                after=plain.after if row.metrics is None else weighted(row.metrics, learn),
                before=None if row.before is None else weighted(row.metrics_before, learn),
            )
            for plain, row in zip(expected, rows, strict=True)
        ]
    weighing = dataclasses.replace(spec, rewards=RewardSpec(learn=learn))
    models = [apply_all(new_model(each), log.rows[:1]) for each in (weighing, spec)]
    for model, taught in zip(models, (rows, expected), strict=True):
        groups = [Group(tuple(taught), as_block=True)] if as_block else map(row_by_row, taught)
        for group in groups:
            model.apply(group, lambda version: pytest.fail(f"snapshot {version}"))
    x, offered = log.context(), models[0].enabled_candidates()
    for one, two in zip(*(each.policy.score(x, offered) for each in models), strict=True):
        np.testing.assert_array_equal(one, two)
