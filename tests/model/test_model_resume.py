"""A served model is a pure function of (snapshot, log position).

`load_model(snapshot)` and the tail, against the model that never stopped: bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotRefused
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.rows import ImportRow, row_by_row
from bandexa_core.model import (
    CATALOGUE,
    MODEL_FILE,
    TRAINING_FILE,
    Progress,
    ServingModel,
    load_model,
)
from bandexa_core.policies import Candidates, LinearHead, NeuralLinearTS
from bandexa_core.posterior import GaussianPosterior
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.training.plan import TrainingRound


def _load(model: ServingModel, snapshot) -> ServingModel:
    """Load beside `model`, with the configuration and actions it has at that position."""
    return load_model(model.spec, model.uid, EncoderRegistry(), snapshot, model.catalogue)


def _publish_next(snapshots, model: ServingModel, **options: Any):
    return publish_model(
        snapshots, model, position=model.position, log_hash=b"", epoch=1, parent=None,
        progress=model.progress, training={}, metrics={}, **options,
    )  # fmt: skip


def _shared_posterior(model: ServingModel) -> GaussianPosterior:
    assert isinstance(model.policy, LinearHead)
    assert isinstance(model.policy.posterior, GaussianPosterior)
    return model.policy.posterior


def _train(policy, rows, actions, seed: int = 1):
    """One round over learn rows, as the trainer makes it, for a catalogue's actions (K, A)."""
    assert isinstance(policy, NeuralLinearTS)
    last = {row.origin: row for row in rows}
    learned = [last[origin] for origin in sorted(last)]
    contexts = np.stack([row.context for row in learned])
    dtype: Any = contexts.dtype.name
    replay = MemoryReplay(RowLayout(contexts.shape[1:], dtype, 4))
    replay.append(
        Rows(
            np.array(sorted(last)),
            np.array([row.slot for row in learned]),
            np.array([row.after for row in learned]),
            np.stack([row.action for row in learned]),
            contexts,
        )
    )
    plan = TrainingRound(
        num_rows=len(learned), actions=actions, steps=8, batch_size=16, lr=1e-2,
        weight_decay=1e-2, rebuild_chunk=32, reward_scale=2.0, seed=seed,
        num_heads=1 if policy.encoder.uses_action else len(actions),
    )  # fmt: skip
    state, _ = policy.train(replay, {}, plan)
    return state


@pytest.mark.few(5)
def test_the_same_log_gives_the_same_model(
    spec, log_writer, new_model, apply_all, assert_same_state
):
    log = log_writer(spec)
    log.add(90)
    first, second = (apply_all(new_model(spec), log.rows) for _ in range(2))
    assert first.position == len(log.rows)
    assert_same_state(second, first)


@pytest.mark.few(4)
def test_a_snapshot_and_the_tail_equal_never_stopping(
    spec, log_writer, new_model, apply_all, publish, snapshots, assert_same_state
):
    log, model = log_writer(spec), new_model(spec)
    apply_all(model, log.add(70))
    loaded = _load(model, publish(snapshots, model))
    assert (loaded.version, loaded.base_position, loaded.position) == (1, log.head, log.head)
    assert_same_state(loaded, model)
    tail = log.add(60)
    apply_all(model, tail)
    apply_all(loaded, tail)
    assert_same_state(loaded, model)
    again = _load(model, publish(snapshots, loaded, 2))
    assert_same_state(again, model)


def test_a_refresh_of_the_posterior_falls_on_the_same_row_after_a_restart(
    specs, log_writer, new_model, apply_all, publish, snapshots, assert_same_state
):
    """It is counted from the row the posterior was built at, not from the load."""
    spec = specs["interactions"]
    log, model = log_writer(spec), new_model(spec)
    posterior = _shared_posterior(model)
    posterior.refresh_every = 40
    apply_all(model, log.add(50))
    assert 0 < posterior.updates_since_refresh < 40
    loaded = _load(model, publish(snapshots, model))
    for _ in range(3):
        tail = log.add(25)
        apply_all(model, tail)
        apply_all(loaded, tail)
        since = _shared_posterior(loaded).updates_since_refresh
        assert since == posterior.updates_since_refresh < 40
        assert_same_state(loaded, model)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["mlp", "mlp per action", "two_tower", "conv", "conv fused"])
def test_a_swap_after_training_repeats_bit_for_bit(
    specs, name, log_writer, new_model, apply_all, publish, snapshots, assert_same_state
):
    """Train at P, load beside the old model, apply what came meanwhile: twice, the same."""
    spec = specs[name]
    log, served = log_writer(spec), new_model(spec)
    apply_all(served, log.add(60))
    at_p = served.catalogue
    start = publish(snapshots, new_model(spec), 0)
    trained = load_model(spec, served.uid, EncoderRegistry(), start, at_p)
    state = _train(trained.policy, log.learned, at_p.features)
    progress = Progress(num_learned=served.progress.num_learned, trained_rows=60)
    snapshot = publish(
        snapshots, trained, 1, position=served.position, progress=progress, training=state
    )
    assert snapshot.tensors[TRAINING_FILE].keys() == state.keys()
    spec_at_p = served.spec
    tail = log.add(40)
    before = {key: tensor.copy() for key, tensor in served.policy.tensors().items()}
    swaps = [
        apply_all(load_model(spec_at_p, served.uid, EncoderRegistry(), snapshot, at_p), tail)
        for _ in range(2)
    ]
    assert_same_state(swaps[1], swaps[0])
    assert swaps[0].version == 1
    assert swaps[0].progress.trained_rows == 60
    assert all(np.array_equal(served.policy.tensors()[key], before[key]) for key in before)
    restarted = _load(swaps[0], publish(snapshots, swaps[0], 2))
    assert_same_state(restarted, swaps[0])


@pytest.mark.parametrize("name", ["concat", "per_action", "mlp", "two_tower", "uniform"])
def test_an_import_replaces_the_model_and_retains_the_actions(
    specs, name, log_writer, new_model, apply_all, publish, snapshots, assert_same_state
):
    spec = specs[name]
    donor_log, donor = log_writer(spec, seed=5), new_model(spec, BanditUid("another"))
    apply_all(donor, donor_log.add(50))
    learned = donor.progress.num_learned
    log, model = log_writer(spec), new_model(spec)
    log.actions(["a", "b", "c", "d", "e"])
    for _ in range(10):
        log.learn()
    apply_all(model, log.rows)
    row = ImportRow(LogPosition(log.head + 1), 0.0, SnapshotVersion(7))
    log.rows.append(row)
    imported = publish(
        snapshots, donor, 7, position=row.position, progress=Progress(learned, learned, learned)
    )

    asked: list[int] = []

    def load(version):
        asked.append(version)
        return imported

    model.apply(row_by_row(row), load)
    assert asked == [7]
    assert (model.version, model.base_position, model.position) == (7, 12, 12)
    assert model.progress == Progress(learned, learned, learned)
    assert model.catalogue.ids == ("a", "b", "c", "d", "e")
    donated = donor.policy.tensors()
    assert all(np.array_equal(t, donated[key]) for key, t in model.policy.tensors().items())
    x = log.context()
    offered = model.enabled_candidates()
    expected = model.policy.score(x, Candidates(offered.slots, offered.features))
    np.testing.assert_allclose(
        model.policy.score(x, model.enabled_candidates()), expected, rtol=1e-9, atol=1e-12
    )
    apply_all(model, log.add(15))
    replayed = apply_all(new_model(spec), log.rows[: row.position - 1])
    replayed.apply(row_by_row(row), load)
    apply_all(replayed, log.rows[row.position :])
    assert_same_state(replayed, model)


def test_a_snapshot_that_does_not_fit_the_configuration_is_refused(
    specs, new_model, publish, snapshots
):
    snapshot = publish(snapshots, new_model(specs["concat"]))
    model = new_model(specs["mlp"])
    with pytest.raises(ValueError, match="encoder: "):
        _load(model, snapshot)


def test_publishing_says_what_the_snapshot_is(
    specs, log_writer, new_model, apply_all, publish, snapshots
):
    spec = specs["mlp"]
    model = apply_all(new_model(spec), log_writer(spec).add(20))
    progress = Progress(num_learned=9, trained_rows=8, inherited_rows=2)
    training = {"head/weight": np.ones((1, 6), np.float32)}
    snapshot = publish(
        snapshots, model, 4, parent=SnapshotVersion(3), progress=progress, epoch=11,
        training=training, metrics={"loss_after": 0.25},
    )  # fmt: skip
    manifest = snapshot.manifest
    assert (manifest.version, manifest.parent, manifest.epoch) == (4, 3, 11)
    assert (manifest.bandit_uid, manifest.encoder) == ("uid-1", "mlp")
    assert (manifest.position, manifest.log_hash) == (20, "07" * 16)
    assert manifest.spec_hash == spec.model_hash()
    assert manifest.num_rows == 9
    assert Progress(**manifest.meta["progress"]) == progress
    assert manifest.metrics == {"loss_after": 0.25}
    assert np.array_equal(snapshot.tensors[TRAINING_FILE]["head/weight"], training["head/weight"])
    tensors = model.policy.tensors()
    stored = take_prefix(snapshot.tensors[MODEL_FILE], CATALOGUE)
    found = Catalogue.from_tensors(stored, spec.row_layout)
    assert (found.ids, manifest.meta["catalogue_position"]) == (model.catalogue.ids, 20)
    assert found.features.tobytes() == model.catalogue.features.tobytes()
    own = {name for name in snapshot.tensors[MODEL_FILE] if not name.startswith(CATALOGUE)}
    assert own == tensors.keys()
    assert all(np.array_equal(snapshot.tensors[MODEL_FILE][key], tensors[key]) for key in tensors)


def test_a_refused_publish_leaves_no_snapshot(specs, new_model, publish, snapshots):
    def refuse() -> None:
        assert snapshots.versions() == []
        raise InterruptedError("another server has opened the store")

    with pytest.raises(InterruptedError):
        publish(snapshots, new_model(specs["concat"]), before_rename=refuse)
    assert snapshots.versions() == []


def test_without_a_version_the_next_free_one_is_taken(specs, new_model, publish, snapshots):
    """Also when somebody else publishes it first, between the writing and the renaming."""
    model = new_model(specs["concat"])
    publish(snapshots, model, 4)
    rivals = [5]

    def overtake() -> None:
        if rivals:
            publish(snapshots, model, rivals.pop(), epoch=2)

    found = _publish_next(snapshots, model, before_rename=overtake)
    assert found.version == 6
    assert snapshots.versions() == [4, 5, 6]
    assert snapshots.load(5).manifest.epoch == 2
    assert _publish_next(snapshots, model).version == 7


def test_a_publisher_that_is_refused_does_not_try_the_next_version(specs, new_model, snapshots):
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise SnapshotRefused("another server has opened the store")

    with pytest.raises(SnapshotRefused, match="another server"):
        _publish_next(snapshots, new_model(specs["concat"]), before_rename=refuse)
    assert len(calls) == 1
    assert snapshots.versions() == []
