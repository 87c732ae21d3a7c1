"""What is left of a row is a function of the log and the configuration alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.forgetting import MAX_HALF_LIVES, Forgetting
from bandexa_core.log.rows import ConfigRow, ImportRow, LearnRow, LogRow, row_by_row
from bandexa_core.model import ServingModel, load_model
from bandexa_core.policies import LinearHead
from bandexa_core.posterior import GaussianPosterior, Statistics
from bandexa_core.spec import FORGETTING_CELLS, BanditSpec, ForgettingSpec
from bandexa_core.spec.changes import CHANGEABLE

NEVER = ForgettingSpec()
BY_COUNT = ForgettingSpec(by="count", half_life=64.0)
BY_TIME = ForgettingSpec(by="time", half_life=320.0)  # a cell is 10 s


def _after(spec: ForgettingSpec, clocks, state: Forgetting | None = None) -> Forgetting:
    """Return the state after rows at positions 1, 2, ... and the given times."""
    state = Forgetting() if state is None else state
    for position, time in enumerate(clocks, start=1):
        state = state.after(spec, position, time)
    return state


def _same(found: Forgetting, expected: Forgetting) -> bool:
    return (
        found.cell == expected.cell
        and np.array_equal(found.positions, expected.positions)
        and np.array_equal(found.half_lives, expected.half_lives)
    )


# -- the state --------------------------------------------------------------------------------


def test_by_count_a_step_is_taken_wherever_the_position_enters_a_new_cell():
    """64 rows to a half-life and 32 cells: every second row, but not before the first one."""
    state = _after(BY_COUNT, [0.0] * 9)
    assert state.cell == 4
    assert state.positions.tolist() == [2, 4, 6, 8]
    assert state.half_lives.tolist() == [1 / 32] * 4
    assert state.due(BY_COUNT, 10, 0.0) == 1 / 32
    assert state.due(BY_COUNT, 9, 1e9) == 0.0, "by count, no clock is read"


def test_by_time_a_step_is_as_large_as_the_pause_was():
    state = _after(BY_TIME, [1005.0, 1009.9, 1010.0, 1045.0, 1046.0])
    assert state.positions.tolist() == [3, 4]
    assert state.half_lives.tolist() == [1 / 32, 3 / 32]
    assert state.due(BY_TIME, 10**9, 1049.9) == 0.0, "by time, no row is counted"


def test_a_clock_that_was_set_back_forgets_nothing_until_it_has_caught_up():
    state = _after(BY_TIME, [1000.0, 1010.0, 200.0, 0.0, 1005.0])
    assert state.positions.tolist() == [2]
    assert state.cell == 101
    assert state.due(BY_TIME, 6, 1019.9) == 0.0
    later = state.after(BY_TIME, 6, 1020.0)
    assert later.positions.tolist() == [2, 6]
    assert later.half_lives.tolist() == [1 / 32] * 2


def test_the_first_row_ever_forgets_nothing_whatever_the_clock_says():
    assert Forgetting().due(BY_TIME, 1, 1.8e9) == 0.0
    assert len(_after(BY_TIME, [1.8e9]).positions) == 0


def test_a_pause_forgets_at_most_forty_half_lives_so_that_weights_stay_above_zero():
    state = _after(BY_TIME, [0.0, 5.0, 3e9])
    assert state.half_lives.tolist() == [MAX_HALF_LIVES]
    weights = state.weights(np.array([1, 2, 3]))
    assert weights.tolist() == [2.0**-40, 2.0**-40, 1.0]


def test_nothing_is_forgotten_without_a_half_life():
    state = _after(NEVER, [0.0, 1e6, 2e6])
    assert state.cell is None
    assert not len(state.positions)
    assert state.weights(np.arange(1, 4)).tolist() == [1.0] * 3
    assert state.weight(LogPosition(1)) == 1.0


@pytest.mark.parametrize("half_life", [32.0, 33.7, 48.0, 64.0, 1000.0])
def test_weights_halve_over_a_half_life(half_life):
    spec = ForgettingSpec(half_life=half_life)
    state = _after(spec, [0.0] * 700)
    positions = np.arange(1, 701)
    cells = np.floor(positions * 32 / half_life)
    np.testing.assert_allclose(
        state.weights(positions), 2.0 ** ((cells - cells[-1]) / 32), rtol=1e-12
    )
    exact = 2.0 ** ((positions - 700) / half_life)
    np.testing.assert_allclose(state.weights(positions), exact, rtol=2 ** (1 / 32) - 1 + 1e-9)
    assert state.weight(LogPosition(700)) == 1.0
    assert state.weight(LogPosition(1)) == state.weights(np.array([1]))[0]


def test_the_row_that_a_step_precedes_has_its_whole_weight():
    state = _after(BY_COUNT, [0.0] * 4)
    assert state.weights(np.array([4, 3, 2, 1])).tolist() == [
        1.0, 2 ** (-1 / 32), 2 ** (-1 / 32), 2 ** (-2 / 32),
    ]  # fmt: skip


def test_steps_that_tell_nothing_apart_are_dropped():
    spec = ForgettingSpec(half_life=32.0)
    state = _after(spec, [0.0] * 5000)
    assert len(state.positions) == MAX_HALF_LIVES * FORGETTING_CELLS
    recent = np.arange(3800, 5001)
    np.testing.assert_allclose(state.weights(recent), 2.0 ** ((recent - 5000) / 32), rtol=1e-12)
    assert (state.weights(np.arange(1, 3700)) == 2.0**-40).all()


def test_a_state_is_never_changed_by_its_successors():
    state = _after(BY_COUNT, [0.0] * 5)
    before = _after(BY_COUNT, [0.0] * 5)
    for position in range(6, 60):
        state.after(BY_COUNT, position, 0.0)
    assert _same(state, before)


def test_a_changed_half_life_retains_the_steps_and_begins_a_new_grid():
    state = _after(BY_COUNT, [0.0] * 5).restarted()
    assert state.cell is None
    assert state.positions.tolist() == [2, 4]
    entered = state.after(BY_TIME, 6, 5e8)
    assert entered.cell == 5 * 10**7
    assert entered.positions.tolist() == [2, 4]
    assert entered.after(BY_TIME, 7, 5e8 + 10).positions.tolist() == [2, 4, 7]


@pytest.mark.parametrize("rows", [0, 1, 2, 50])
def test_the_state_goes_through_tensors_and_back(rows):
    state = _after(BY_COUNT, [0.0] * rows)
    for each in (state, state.restarted()):
        tensors = each.tensors()
        assert _same(Forgetting.from_tensors(tensors), each)
        assert all(tensor.dtype in (np.int64, np.float64) for tensor in tensors.values())
    assert Forgetting().tensors() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": None}, "'cell' is missing"),
        ({"positions": None}, "'positions' is missing"),
        ({"half_lives": None}, "'half_lives' is missing"),
        ({"cell": np.array([1, 2])}, "wrong dtype or shape"),
        ({"cell": np.array(1)}, "wrong dtype or shape"),
        ({"cell": np.array([1.0])}, "wrong dtype or shape"),
        ({"positions": np.array([2.0, 4.0])}, "wrong dtype or shape"),
        ({"positions": np.array([2])}, "wrong dtype or shape"),
        ({"positions": np.array([[2, 4]])}, "wrong dtype or shape"),
        ({"half_lives": np.array([1, 1])}, "wrong dtype or shape"),
        ({"half_lives": np.array([0.5, 0.5], np.float32)}, "wrong dtype or shape"),
        ({"positions": np.array([4, 2])}, "out of order"),
        ({"positions": np.array([4, 4])}, "out of order"),
        ({"half_lives": np.array([0.5, 0.0])}, "of no size"),
        ({"half_lives": np.array([0.5, -0.5])}, "of no size"),
        ({"half_lives": np.array([0.5, np.inf])}, "of no size"),
        ({"half_lives": np.array([0.5, np.nan])}, "of no size"),
    ],
)
def test_tensors_that_are_no_such_state_are_refused(changes, message):
    tensors = _after(BY_COUNT, [0.0] * 5).tensors() | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(ValueError, match=f"forgetting: .*{message}"):
        Forgetting.from_tensors(kept)


@pytest.mark.parametrize(
    ("by", "half_life", "valid"),
    [
        ("count", 32.0, True), ("count", 31.9, False), ("count", 1e12, True),
        ("count", 1.1e12, False), ("time", 60.0, True), ("time", 59.0, False),
        ("count", float("nan"), False), ("count", float("inf"), False), ("count", -64.0, False),
        ("rows", 64.0, False), ("time", None, True),
    ],
)  # fmt: skip
def test_half_lives_have_a_range(by, half_life, valid):
    if valid:
        assert ForgettingSpec(by=by, half_life=half_life).half_life == half_life
    else:
        with pytest.raises(ValueError, match=r"^(half_life|by): "):
            ForgettingSpec(by=by, half_life=half_life)


# -- the model --------------------------------------------------------------------------------


def _forgetful(spec: BanditSpec, forgetting: ForgettingSpec) -> BanditSpec:
    return dataclasses.replace(spec, forgetting=forgetting)


def _long_log(log_writer, spec: BanditSpec, num: int = 90):
    """Learn rows, corrections and changed actions, 0 to 20 s apart, the clock set back once."""
    log = log_writer(spec)
    log.actions(["a", "b", "c"])
    for number in range(num):
        if number % 11 == 10:
            log.actions([f"new-{number}"])
        elif number % 5 == 4:
            log.correct()
        else:
            log.learn()
    times = np.cumsum(np.random.default_rng(1).uniform(0, 20, num + 1))
    times[num // 2 :] -= 50.0
    log.rows[:] = [
        replace(row, time=float(time)) for row, time in zip(log.rows, times, strict=True)
    ]
    return log


def _config(position: int, forgetting: ForgettingSpec, spec: BanditSpec) -> ConfigRow:
    whole = dataclasses.asdict(dataclasses.replace(spec, forgetting=forgetting))
    changed = {name: whole[name] for name in (*CHANGEABLE, "forgetting")}
    return ConfigRow(LogPosition(position), 0.0, changed)


def _moved(rows: list[LogRow], by: int) -> list[LogRow]:
    """Return rows as they would be after `by` more rows in front of them."""
    out: list[LogRow] = []
    for row in rows:
        changes: dict[str, Any] = {"position": LogPosition(row.position + by)}
        if isinstance(row, LearnRow):
            changes["origin"] = LogPosition(row.origin + by)
        out.append(replace(row, **changes))
    return out


def _first(row: LogRow) -> bool:
    return isinstance(row, LearnRow) and row.before is None


def _posterior(model: ServingModel) -> GaussianPosterior:
    assert isinstance(model.policy, LinearHead)
    assert isinstance(model.policy.posterior, GaussianPosterior)
    return model.policy.posterior


def _weighted(model: ServingModel, log) -> GaussianPosterior:
    """Return the posterior of the log's final values, weighted by cells passed since."""
    assert isinstance(model.policy, LinearHead)
    encoder = model.policy.encoder
    cells = np.zeros(len(log.rows) + 1, np.int64)
    newest = None
    for row in log.rows:
        spec = model.spec.forgetting
        assert spec.half_life is not None
        clock = row.position if spec.by == "count" else row.time
        cell = int(clock * 32 // spec.half_life)
        newest = cell if newest is None else max(newest, cell)
        cells[row.position] = newest
    sums = Statistics(encoder.feature_dim)
    for row in log.learned:
        weight = 2.0 ** ((cells[row.origin] - cells[-1]) / 32)
        z = encoder.encode(row.context[None], row.action[None])
        sums.add(z, [row.after], np.array([weight]))
    return GaussianPosterior.from_statistics(sums, model.policy.config)


@pytest.mark.parametrize("kind", ["concat", "interactions", "greedy"])
@pytest.mark.parametrize("forgetting", [BY_COUNT, BY_TIME], ids=["count", "time"])
def test_the_model_is_that_of_final_values_weighted_by_their_age(
    kind, forgetting, specs, log_writer, new_model, apply_all
):
    spec = _forgetful(specs[kind], forgetting)
    raw = dataclasses.replace(spec.encoder, standardize=False)
    spec = dataclasses.replace(spec, encoder=raw)
    log = _long_log(log_writer, spec)
    model = apply_all(new_model(spec), log.rows)
    expected = _weighted(model, log)
    found = _posterior(model)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        found.root @ found.root.T, expected.root @ expected.root.T, rtol=1e-8, atol=1e-10
    )
    assert found.a == pytest.approx(expected.a, rel=1e-9)
    assert found.b == pytest.approx(expected.b, rel=1e-8)
    assert model.row_weights is not None
    assert found.num_rows < 0.9 * model.progress.num_learned


@pytest.mark.few(4)
@pytest.mark.parametrize("kind", ["concat", "per_action", "mlp", "mlp per action", "uniform"])
@pytest.mark.parametrize("forgetting", [BY_COUNT, BY_TIME], ids=["count", "time"])
def test_a_snapshot_and_the_tail_equal_never_stopping(
    kind, forgetting, specs, log_writer, new_model, apply_all, publish, snapshots, assert_same_state
):
    """The snapshot is taken before, at and after steps; bit for bit."""
    spec = _forgetful(specs[kind], forgetting)
    log = _long_log(log_writer, spec)
    model = new_model(spec)
    resumed = []
    for version, stop in enumerate((1, 30, 31, 70), start=1):
        apply_all(model, log.rows[model.position : stop])
        snapshot = publish(snapshots, model, version)
        loaded = load_model(spec, model.uid, EncoderRegistry(), snapshot, model.catalogue)
        assert _same(loaded.forgetting, model.forgetting)
        resumed.append(loaded)
    apply_all(model, log.rows[70:])
    for loaded in resumed:
        apply_all(loaded, log.rows[loaded.position :])
        assert _same(loaded.forgetting, model.forgetting)
        assert_same_state(loaded, model)


@pytest.mark.parametrize("kind", ["concat", "per_action", "uniform"])
def test_a_step_that_was_taken_elsewhere_equals_one_in_apply(
    kind, specs, log_writer, new_model, apply_all, assert_same_state
):
    """A successor takes it; the model itself stays as it was, to the bit."""
    spec = _forgetful(specs[kind], BY_COUNT)
    log = _long_log(log_writer, spec, 40)
    plain, served = apply_all(new_model(spec), log.rows), new_model(spec)
    steps = 0
    for row in log.rows:
        group = row_by_row(row)
        forgets = served.forgets_before(group)
        assert forgets == (served.share_before(row) < 1.0)
        if not forgets:
            apply_all(served, [row])
            continue
        steps += 1
        before = {name: tensor.copy() for name, tensor in served.tensors().items()}
        successor = served.successor(group, None)
        assert served.position == row.position - 1
        assert all(np.array_equal(t, before[name]) for name, t in served.tensors().items())
        served = successor
    assert steps == len(plain.forgetting.positions) == 20
    assert_same_state(served, plain)


def test_forgetting_is_switched_on_changed_and_off_in_the_log(
    specs, log_writer, new_model, apply_all, publish, snapshots, assert_same_state
):
    log = _long_log(log_writer, specs["concat"], 39)
    parts: list[LogRow] = []
    for forgetting in (NEVER, BY_COUNT, BY_COUNT, NEVER, BY_TIME):
        parts += _moved(log.rows, len(parts))
        parts.append(_config(len(parts) + 1, forgetting, specs["concat"]))
    model = new_model(specs["concat"])
    apply_all(model, parts[:41])
    assert model.forgetting.cell is None
    apply_all(model, parts[41:82])
    assert model.spec.forgetting == BY_COUNT
    assert not len(model.forgetting.positions), "it is switched on from the next row"
    apply_all(model, parts[82:123])
    on = model.forgetting
    assert on.positions[0] == 84
    assert len(on.positions) == 20
    assert on.cell is not None, "the same half-life again goes on in its grid"
    apply_all(model, parts[123:164])
    assert model.spec.forgetting == NEVER
    assert model.forgetting.cell is None
    steps = len(model.forgetting.positions)
    on_and_off = model.forgetting.positions.tolist()
    before = _posterior(model).num_rows
    snapshot = publish(snapshots, model)
    loaded = load_model(model.spec, model.uid, EncoderRegistry(), snapshot, model.catalogue)
    learned = model.progress.num_learned
    for each in (model, loaded):
        apply_all(each, parts[164:])
        assert len(each.forgetting.positions) == steps, "what was forgotten stays forgotten"
        gained = each.progress.num_learned - learned
        assert _posterior(each).num_rows == pytest.approx(before + gained, rel=1e-12)
        apply_all(each, _moved(log.rows, len(parts)))  # on again, by another clock
        assert each.forgetting.positions[:steps].tolist() == on_and_off
        assert len(each.forgetting.positions) > steps + 20
    assert_same_state(loaded, model)
    weights = model.forgetting.weights(np.array([row.position for row in parts]))
    assert (np.diff(weights) >= 0).all()
    assert weights[0] < 0.75 * weights[-1]
    learned_at = [r.position for r in [*parts, *_moved(log.rows, len(parts))] if _first(r)]
    assert _posterior(model).num_rows == pytest.approx(
        model.forgetting.weights(np.array(learned_at)).sum(), rel=1e-9
    )


def test_an_import_restarts_forgetting(specs, log_writer, new_model, apply_all, publish, snapshots):
    spec = _forgetful(specs["concat"], BY_COUNT)
    log = _long_log(log_writer, spec, 30)
    model = apply_all(new_model(spec), log.rows)
    assert len(model.forgetting.positions)
    source = apply_all(new_model(specs["concat"]), log.rows)
    position = LogPosition(len(log.rows) + 1)
    source.position = position
    snapshot = publish(snapshots, source, 5)
    assert model.share_before(ImportRow(position, 0.0, SnapshotVersion(5))) < 1.0
    model.apply(row_by_row(ImportRow(position, 0.0, SnapshotVersion(5))), lambda version: snapshot)
    assert _same(model.forgetting, Forgetting())
    assert model.row_weights is None
    assert np.array_equal(_posterior(model).mean, _posterior(source).mean)
    row = log.learn()
    row = replace(row, position=LogPosition(position + 1))
    model.apply(row_by_row(row), snapshots.load)
    assert model.forgetting.cell == (position + 1) // 2
