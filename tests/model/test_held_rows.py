"""A frozen model passes over values; one that is built from the same rows learns them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.log.rows import ConfigRow
from bandexa_core.spec import ForgettingSpec
from bandexa_core.spec.changes import changeable_part

IDS = ["a", "b", "c"]


def put_mode(log, mode: str) -> None:
    spec = dataclasses.replace(log.spec, mode=mode)
    payload = json.loads(json.dumps(changeable_part(spec)))
    log.rows.append(ConfigRow(log._next(), float(len(log.rows)), payload))


@pytest.fixture
def frozen_log(specs, log_writer):
    def build(kind: str, **changes):
        spec = dataclasses.replace(specs[kind], **changes)
        log = log_writer(spec)
        log.actions(IDS)
        for _ in range(20):
            log.learn()
        put_mode(log, "frozen")
        log.add(30)
        log.actions(["late"])
        put_mode(log, "learn")
        return log

    return build


def frozen_part(log) -> tuple[int, int]:
    first, last = (n for n, row in enumerate(log.rows) if "arms" in getattr(row, "spec", {}))
    return first, last


@pytest.mark.parametrize("forgetting", [ForgettingSpec(), ForgettingSpec(half_life=40.0)])
@pytest.mark.parametrize("kind", ["concat", "per_action", "mlp", "uniform"])
def test_a_frozen_model_stays_as_it_is_and_counts_what_it_holds(
    frozen_log, new_model, apply_all, kind, forgetting
):
    """It forgets nothing either."""
    log = frozen_log(kind, forgetting=forgetting)
    first, last = frozen_part(log)
    model = apply_all(new_model(log.spec), log.rows[: first + 1])
    before = {name: tensor.copy() for name, tensor in model.policy.tensors().items()}
    learned = model.progress
    apply_all(model, log.rows[first + 1 : last])
    assert model.holds
    assert model.held.num > 10
    assert not model.lacks_held
    assert not model.round_due()
    assert model.progress == learned
    for name, tensor in model.policy.tensors().items():
        assert np.array_equal(tensor, before[name]), name
    assert "late" in model.catalogue.slots
    apply_all(model, log.rows[last:])
    assert model.lacks_held
    assert model.round_due()


@pytest.mark.parametrize("forgetting", [ForgettingSpec(), ForgettingSpec(half_life=40.0)])
def test_what_is_built_from_the_log_is_as_if_it_had_never_been_frozen(
    frozen_log, new_model, apply_all, forgetting
):
    log = frozen_log("concat", forgetting=forgetting)
    first, last = frozen_part(log)
    never = [
        replace(row, spec=json.loads(json.dumps(changeable_part(log.spec))))
        if number in (first, last) else row for number, row in enumerate(log.rows)
    ]  # fmt: skip
    built = new_model(log.spec)
    built.learns_held = True
    apply_all(built, log.rows)
    plain = apply_all(new_model(log.spec), never)
    assert built.progress == plain.progress
    assert not built.lacks_held
    ours, theirs = built.policy.tensors(), plain.policy.tensors()
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor), name


def test_corrections_of_held_values_are_held(frozen_log, new_model, apply_all):
    log = frozen_log("concat")
    first, _ = frozen_part(log)
    held = [row for row in log.learned if row.origin > first + 1]
    model = apply_all(new_model(log.spec), log.rows)
    before = model.policy.tensors()["mu"].copy() if "mu" in model.policy.tensors() else None
    was = held[0]
    log.rows.append(replace(was, position=log._next(), before=was.after, after=was.after + 1.0))
    held_before = model.held
    apply_all(model, log.rows[-1:])
    assert model.held.last == log.head
    assert model.held.num == held_before.num
    if before is not None:
        assert np.array_equal(model.policy.tensors()["mu"], before)
