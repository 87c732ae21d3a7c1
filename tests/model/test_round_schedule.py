"""When a round is due and how much it trains: at which numbers of learned values, exactly."""

from __future__ import annotations

import dataclasses

import pytest

from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.rows import row_by_row
from bandexa_core.model import Progress, plan_round
from bandexa_core.policies.schedule import (
    FIRST_ROUND,
    MAX_STEPS,
    ROWS_PER_STEP,
    SNAPSHOT_EVERY,
    next_round,
    optimizer_steps,
    weight_decay,
)
from bandexa_core.spec import BanditSpec, ContextSpec, ForgettingSpec, ReplaySpec, TrainingSpec


@pytest.mark.parametrize(
    ("trained", "due"),
    [
        (0, 32),
        (10, 42),
        (32, 64),
        (100, 132),
        (320, 352),
        (330, 363),
        (1000, 1100),
        (10**6, 11 * 10**5),
    ],
)
def test_rounds_come_early_then_geometrically(trained, due):
    assert next_round(trained, TrainingSpec(), ForgettingSpec()) == due


@pytest.mark.parametrize(("trained", "every", "due"), [(0, 1, 1), (0, 500, 500), (700, 50, 750)])
def test_train_every_is_a_fixed_step(trained, every, due):
    spec = TrainingSpec(train_every=every)
    for half_life in (None, 32.0):
        assert next_round(trained, spec, ForgettingSpec(half_life=half_life)) == due


@pytest.mark.parametrize(
    ("half_life", "trained", "due"),
    [(1000.0, 1000, 1100), (1000.0, 1442, 1586), (1000.0, 2000, 2144), (1000.0, 10**6, 10**6 + 144),
     (32.0, 0, 32), (32.0, 10**6, 10**6 + 32)],
)  # fmt: skip
def test_what_is_forgotten_does_not_put_off_the_next_round(half_life, trained, due):
    """1000 / ln 2 is 1442.7 rows that are remembered; a tenth of them is 144."""
    forgetting = ForgettingSpec(half_life=half_life)
    assert next_round(trained, TrainingSpec(), forgetting) == due


def test_a_half_life_in_seconds_does_not_limit_the_gap_in_rows():
    forgetting = ForgettingSpec(by="time", half_life=60.0)
    assert next_round(10_000, TrainingSpec(), forgetting) == 11_000


def _spec(edition: int = 2, **training) -> BanditSpec:
    return BanditSpec(
        context=ContextSpec(shape=(4,)), reward_range=(0.0, 1.0), edition=edition,
        training=TrainingSpec(**training),
    )  # fmt: skip


def test_a_round_takes_the_configured_steps_and_decay():
    spec = _spec(optimizer_steps=7, weight_decay=0.5)
    assert optimizer_steps(spec, 100, 10**6) == 7
    assert weight_decay(spec, 10**6) == 0.5


@pytest.mark.parametrize("num_rows", [0, FIRST_ROUND, 24 * ROWS_PER_STEP])
def test_a_round_on_little_data_takes_the_least_steps_of_its_encoder(num_rows):
    assert optimizer_steps(_spec(), 24, num_rows) == 24


def test_else_a_round_sees_each_row_twice_up_to_a_bound():
    spec = _spec()
    assert spec.training.batch_size == 2 * ROWS_PER_STEP
    assert optimizer_steps(spec, 20, 301 * ROWS_PER_STEP - 1) == 300
    for factor in (1, 2, 1000):
        assert optimizer_steps(spec, 20, factor * MAX_STEPS * ROWS_PER_STEP) == MAX_STEPS


def test_weights_decay_less_the_more_rows_there_are():
    decays = [weight_decay(_spec(), num_rows) for num_rows in (0, 32, 300, 3000, 30_000, 10**6)]
    assert decays == [1.0, 1.0, 1.0, 0.1, 0.01, 0.01]


def test_rows_that_are_forgotten_or_evicted_do_not_count():
    """1000 / ln 2 is 1442.7 rows that are remembered."""
    forgetful = dataclasses.replace(_spec(), forgetting=ForgettingSpec(half_life=1000.0))
    small = dataclasses.replace(_spec(), replay=ReplaySpec(capacity=1500))
    for spec, rows in ((forgetful, 1442), (small, 1500)):
        assert optimizer_steps(spec, 20, 10**6) == rows // ROWS_PER_STEP
        assert weight_decay(spec, 10**6) == 300.0 / rows
        assert optimizer_steps(spec, 20, 1000) == 1000 // ROWS_PER_STEP


@pytest.mark.parametrize(("num_rows", "steps"), [(32, 100), (5000, 100), (15_000, 300)])
def test_a_bandit_of_an_older_release_trains_as_before(num_rows, steps):
    spec = _spec(edition=1)
    assert optimizer_steps(spec, 20, num_rows) == steps
    assert weight_decay(spec, num_rows) == 0.01


def test_a_round_is_due_with_the_row_that_completes_it(specs, log_writer, new_model):
    log, model = log_writer(specs["mlp"]), new_model(specs["mlp"])
    model.apply(row_by_row(log.actions(["a", "b"])), None)
    for _ in range(31):
        model.apply(row_by_row(log.learn()), None)
        assert not model.round_due()
    for _ in range(5):
        model.apply(row_by_row(log.correct()), None)
    assert not model.round_due()
    model.apply(row_by_row(log.learn()), None)
    assert model.round_due()
    model.progress = Progress(num_learned=32, trained_rows=32)
    assert not model.round_due()


@pytest.mark.parametrize(
    ("progress", "due"),
    [
        (Progress(300, 300, 300), False),
        (Progress(599, 300, 300), False),
        (Progress(600, 300, 300), True),
        (Progress(600, 590, 300), False),
        (Progress(31, 0, 0), False),
        (Progress(32, 0, 0), True),
        (Progress(33, 10, 10), False),
        (Progress(42, 10, 10), True),
    ],
)
def test_an_imported_encoder_trains_on_once_the_bandit_has_as_many_rows_of_its_own(
    specs, new_model, progress, due
):
    model = new_model(specs["mlp"])
    model.progress = progress
    assert model.round_due() == due


@pytest.mark.parametrize("name", ["concat", "per_action", "greedy", "uniform"])
def test_without_an_encoder_to_train_a_snapshot_is_due_when_the_tail_is_long(
    specs, name, new_model
):
    spec = specs[name]
    spec = dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, standardize=False))
    model = new_model(spec)
    assert not model.learns_features
    model.progress = Progress(num_learned=SNAPSHOT_EVERY - 1)
    model.base_position = LogPosition(50)
    model.position = LogPosition(50 + SNAPSHOT_EVERY - 1)
    assert not model.round_due()
    model.position = LogPosition(50 + SNAPSHOT_EVERY)
    assert model.round_due()


@pytest.mark.parametrize("name", ["concat", "interactions", "bilinear", "greedy"])
def test_on_a_fixed_map_a_round_is_due_whenever_the_data_has_doubled(
    specs, name, log_writer, new_model
):
    """For the inputs' new scaling; rewards that correct others do not count."""
    log, model = log_writer(specs[name]), new_model(specs[name])
    model.apply(row_by_row(log.actions(["a", "b"])), None)
    due = []
    while (learned := model.progress.num_learned) < 140:
        if model.round_due():
            due.append(learned)
            model.refresh(learned)
            model.rebased(SnapshotVersion(len(due)))
            assert not model.round_due()
        model.apply(row_by_row(log.learn()), None)
        model.apply(row_by_row(log.correct()), None)
    assert due == [8, 16, 32, 64, 128]


def test_a_late_round_counts_from_the_rows_it_saw(specs, new_model):
    model = new_model(specs["concat"])
    model.progress = Progress(num_learned=50)
    assert model.round_due()
    model.refresh(50)
    assert not model.round_due()
    for learned, due in ((99, False), (100, True)):
        model.progress = Progress(num_learned=learned)
        assert model.round_due() == due


@pytest.mark.parametrize("name", ["per_action", "uniform"])
def test_where_there_is_nothing_to_standardize_no_early_round_is_due(specs, name, new_model):
    """The contexts of this `per_action` are bytes."""
    model = new_model(specs[name])
    model.progress = Progress(num_learned=SNAPSHOT_EVERY)
    assert not model.round_due()


def test_a_greedy_policy_on_a_learned_encoder_trains_too(specs, new_model):
    spec = dataclasses.replace(specs["mlp"], policy="greedy")
    model = new_model(spec)
    assert model.learns_features
    assert model.policy.greedy
    model.progress = Progress(num_learned=32)
    assert model.round_due()


def test_a_round_scales_rewards_by_the_declared_range(specs, new_model):
    spec = dataclasses.replace(specs["mlp"], reward_range=(-1.0, 3.0))
    assert plan_round(new_model(spec), 64, "cpu").reward_scale == 4.0
