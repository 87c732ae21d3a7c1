"""The configuration: refusals that name the field, its JSON form, and the model's hash."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.spec import (
    TRAINING_LIMITS,
    BanditSpec,
    ContextSpec,
    EncoderSpec,
    PosteriorSpec,
    ReplaySpec,
    SelectionMethod,
    SelectionSpec,
    TrainingSpec,
)
from bandexa_core.spec.changes import relearned_part

BASE = BanditSpec(
    policy="neural_linear_ts",
    context=ContextSpec(shape=(4,)),
    action_dim=3,
    encoder=EncoderSpec(name="mlp", params={"hidden": [8]}),
    reward_range=(0.0, 1.0),
)
BAD_NUMBERS = [math.nan, math.inf, -math.inf]


def _counts(*names: str) -> list[tuple[str, int]]:
    return [(name, value) for name in names for value in (0, -1)]


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        *((ContextSpec, "shape", shape) for shape in [(), (0,), (3, -1), (1, 1, 1, 1, 1)]),
        (ContextSpec, "shape", (1 << 13, 1 << 12)),
        *((PosteriorSpec, name, value)
          for name in ("prior_var", "noise_var", "noise_shape")
          for value in [0.0, -1.0, *BAD_NUMBERS]),
        *((TrainingSpec, *pair) for pair in _counts(
            "train_every", "optimizer_steps", "batch_size", "rebuild_chunk")),
        *((TrainingSpec, "lr", value) for value in [0.0, -1e-3, *BAD_NUMBERS]),
        *((TrainingSpec, "weight_decay", value) for value in [-1e-9, *BAD_NUMBERS]),
        *((ReplaySpec, *pair) for pair in _counts(
            "shard_size", "cache_shards", "flush_every", "capacity", "capacity_bytes")),
        *((SelectionSpec, *pair) for pair in _counts("action_chunk")),
        (SelectionSpec, "warmup_random", -1),
        (SelectionSpec, "method", "ucb"),
        *((SelectionSpec, "gamma", value) for value in [0.0, -1.0, 1.1e9, *BAD_NUMBERS]),
        *((EncoderSpec, "params", {"a": value}) for value in [*BAD_NUMBERS, {1, 2}, b"", "\ud800"]),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_refused_by_name(section, field, value):
    values: dict[str, Any] = {"shape": (4,)} if section is ContextSpec else {}
    with pytest.raises(ValueError, match=rf"^{field}: "):
        section(**values | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action_dim", -1),
        ("action_dim", (1 << 24) + 1),
        ("seed", -1),
        ("seed", 2**63),
        *(("reward_range", (low, high)) for low, high in [(1, 1), (2, 1), (0, math.inf)]),
        ("reward_range", (math.nan, 1)),
    ],
)
def test_a_value_of_the_whole_out_of_its_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: "):
        dataclasses.replace(BASE, **{field: value})


@pytest.mark.parametrize("reward_range", [(0.0, 1e-30), (-1e200, 1e200)])
def test_a_reward_range_no_posterior_can_follow_is_refused_when_the_spec_is_made(reward_range):
    with pytest.raises(ValueError, match=r"^posterior: .*reward_range"):
        dataclasses.replace(BASE, reward_range=reward_range)


@pytest.mark.parametrize("field", TRAINING_LIMITS)
def test_a_round_cannot_be_made_to_take_for_ever(field):
    most = TRAINING_LIMITS[field]
    allowed: dict[str, Any] = {field: most}
    beyond: dict[str, Any] = {field: most + 1}
    assert getattr(TrainingSpec(**allowed), field) == most
    with pytest.raises(ValueError, match=rf"^{field}: must be 1 to {most}"):
        TrainingSpec(**beyond)


def test_the_extremes_of_each_range_are_allowed():
    dataclasses.replace(BASE, seed=2**63 - 1, action_dim=1 << 24, reward_range=(-1.0, 0.0))
    ContextSpec(shape=(1 << 24,))
    TrainingSpec(train_every=1, optimizer_steps=1, batch_size=1, rebuild_chunk=1, weight_decay=0)
    ReplaySpec(shard_size=1, cache_shards=1, flush_every=1, capacity=1)
    SelectionSpec(action_chunk=1, warmup_random=0)


def test_a_capacity_in_bytes_must_hold_a_row():
    """Of a context of 4 float32 and 3 action features: 32 + 12 + 16 bytes."""
    roomy = dataclasses.replace(
        BASE, context=ContextSpec(shape=(4,)), action_dim=3, replay=ReplaySpec(capacity_bytes=60)
    )
    with pytest.raises(ValueError, match=r"^replay: capacity_bytes must hold a row, 60 bytes"):
        dataclasses.replace(roomy, replay=ReplaySpec(capacity_bytes=59))


COUNTS = st.integers(1, 1000)
POSITIVE = st.floats(1e-6, 1e6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
SPECS = st.builds(
    BanditSpec,
    policy=st.sampled_from(["linear_ts", "neural_linear_ts", "greedy", "uniform"]),
    context=st.builds(
        ContextSpec,
        shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
        dtype=st.sampled_from(["uint8", "float32", "float64"]),
    ),
    action_dim=st.integers(0, 100),
    encoder=st.builds(
        EncoderSpec, name=st.text(max_size=9), params=st.dictionaries(st.text("ab_"), JSON)
    ),
    posterior=st.builds(
        PosteriorSpec,
        prior_var=st.none() | POSITIVE,
        noise=st.sampled_from(["nig", "fixed"]),
        noise_var=st.none() | POSITIVE,
        noise_shape=POSITIVE,
    ),
    training=st.builds(
        TrainingSpec,
        mode=st.sampled_from(["background", "lockstep"]),
        train_every=st.none() | COUNTS,
        optimizer_steps=st.none() | st.integers(1, 100_000),
        batch_size=st.integers(1, 1 << 16),
        lr=POSITIVE,
        weight_decay=st.floats(0, 1),
        rebuild_chunk=COUNTS,
    ),
    replay=st.builds(
        ReplaySpec,
        backend=st.sampled_from(["auto", "memory", "disk"]),
        shard_size=COUNTS,
        cache_shards=COUNTS,
        flush_every=COUNTS,
        capacity=st.none() | COUNTS,
        capacity_bytes=st.none() | st.integers(1 << 40, 1 << 50),
    ),
    selection=st.builds(
        SelectionSpec,
        action_chunk=st.none() | COUNTS,
        warmup_random=st.integers(0, 10**6),
        method=st.sampled_from(get_args(SelectionMethod)),
        gamma=st.floats(1e-9, 1e9),
    ),
    reward_range=st.tuples(st.floats(-1e3, 0), st.floats(1e-3, 1e3)),
    seed=st.none() | st.integers(0, 2**63 - 1),
)


@settings(max_examples=30, deadline=None)
@given(spec=SPECS)
def test_a_spec_comes_back_from_json_as_it_was(spec):
    text = json.dumps(dataclasses.asdict(spec), allow_nan=False)
    found = BanditSpec.from_json(json.loads(text))
    assert found == spec
    assert isinstance(found.context.shape, tuple)
    assert isinstance(found.reward_range, tuple)
    assert found.model_hash() == spec.model_hash()
    assert found.posterior_config() == spec.posterior_config()


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "greedy"},
        {"context": ContextSpec(shape=(5,))},
        {"context": ContextSpec(shape=(2, 2))},
        {"context": ContextSpec(shape=(4,), dtype="float64")},
        {"action_dim": 4},
        {"encoder": EncoderSpec(name="two_tower", params={"hidden": [8]})},
        {"encoder": EncoderSpec(name="mlp", params={"hidden": [9]})},
        {"encoder": EncoderSpec(name="mlp")},
        {"posterior": PosteriorSpec(prior_var=2.0)},
        {"posterior": PosteriorSpec(noise="fixed")},
        {"posterior": PosteriorSpec(noise_var=0.2)},
        {"posterior": PosteriorSpec(noise_shape=2.0)},
        {"reward_range": (0.0, 2.0)},
        {"reward_range": None},
        {"posterior": PosteriorSpec(prior_mean=0.0)},
        {"edition": 1},
    ],
)
def test_the_hash_changes_with_what_shapes_the_model(changes):
    assert dataclasses.replace(BASE, **changes).model_hash() != BASE.model_hash()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 5},
        {"training": TrainingSpec(lr=0.5, train_every=3)},
        {"replay": ReplaySpec(capacity=5, capacity_bytes=10**6)},
        {"selection": SelectionSpec(action_chunk=5, warmup_random=9, method="squarecb")},
        {"edition": 2},
        {"reward_range": (-1.0, 0.0)},
        {"posterior": PosteriorSpec(prior_var=1.0, noise_var=0.1)},
    ],
)
def test_the_hash_is_equal_for_models_of_the_same_shape(changes):
    """The last three say in other words what the model already was."""
    assert dataclasses.replace(BASE, **changes).model_hash() == BASE.model_hash()


def test_the_order_of_encoder_parameters_is_no_change():
    first, second = (
        dataclasses.replace(BASE, encoder=EncoderSpec(name="mlp", params=params))
        for params in ({"hidden": [8], "feature_dim": 4}, {"feature_dim": 4, "hidden": [8]})
    )
    assert first.model_hash() == second.model_hash()


def test_prior_and_noise_follow_the_reward_range_unless_they_are_given():
    config = dataclasses.replace(BASE, reward_range=(-1.0, 3.0)).posterior_config()
    assert config.prior_var == 16.0
    assert config.noise_var == pytest.approx(1.6)
    assert (config.noise, config.noise_shape) == ("nig", 0.1)
    given = PosteriorSpec(prior_var=5.0, noise="fixed", noise_var=0.25, noise_shape=3.0)
    config = dataclasses.replace(BASE, posterior=given, reward_range=(0, 9)).posterior_config()
    assert (config.prior_var, config.noise_var) == (5.0, 0.25)
    assert (config.noise, config.noise_shape) == ("fixed", 3.0)


def test_the_relearned_part_is_all_but_what_may_change():
    frozen = relearned_part(BASE)
    sections = {field.name for field in dataclasses.fields(BanditSpec)}
    at_once = {"training", "replay", "selection", "arms", "sticky", "guard", "mode", "serve"}
    assert frozen.keys() == sections - at_once - {"limits", "segment"}
    assert frozen["rewards"] == {"learn": None, "outside": None}
    changed = dataclasses.replace(BASE, training=TrainingSpec(lr=0.5))
    assert relearned_part(changed) == frozen
    assert relearned_part(dataclasses.replace(BASE, seed=1)) != frozen


def test_a_stored_spec_of_before_the_methods_draws_from_the_posterior():
    stored = json.loads(json.dumps(dataclasses.asdict(BASE)))
    for name in ("method", "gamma"):
        del stored["selection"][name]
    assert BanditSpec.from_json(stored) == BASE
    assert BASE.selection.method == "thompson"


def test_gamma_grows_with_the_root_of_the_learned_values():
    assert SelectionSpec().gamma_at(0) == 0.0
    assert SelectionSpec().gamma_at(100) == pytest.approx(100.0)
    assert SelectionSpec(gamma=3.0).gamma_at(10_000) == pytest.approx(300.0)
