"""Rows that are applied as a group: row by row, or as a block, by the rule that the log has.

As a block, features are computed for all rows at once and runs of first values are learned
together. Against row by row that differs by rounding: 1e-9 of the largest number, in each tensor.
Posteriors per action learn one row after the other in both cases, so that only features can differ.
Two replays of the same groups are equal to the bit, as all else here that is not said to be equal
to rounding.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import RowNotApplied
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log.rows import Group, ImportRow, LearnRow, LogRow, row_by_row
from bandexa_core.model import Progress, ServingModel, load_model
from bandexa_core.policies import LinearHead
from bandexa_core.policies.learned_head import BLOCK_ROWS
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, Statistics
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, ForgettingSpec
from tests.fixtures.matrices import spread

# Each has about 45 weights: shorter blocks are learned by `learn_block`, longer ones by a refresh.
JOINT = ["concat", "bilinear", "greedy", "mlp", "two_tower"]
DISJOINT = ["per_action", "mlp per action"]
SIZES = [3, BLOCK_ROWS - 1, BLOCK_ROWS, 29, 100]
NEVER = ForgettingSpec()
EVERY_10 = ForgettingSpec(by="count", half_life=320.0)
EVERY_10_S = ForgettingSpec(by="time", half_life=320.0)
_SHAPES = {"bilinear": 8}
_PARAMS: dict[str, dict[str, Any]] = {
    "mlp": {"feature_dim": 40, "hidden": [10]},
    "mlp per action": {"feature_dim": 20, "hidden": [10], "heads": "per_action"},
    "two_tower": {"tower_dim": 14, "hidden": [8]},
}


@pytest.fixture(scope="session")
def wide(specs) -> Callable[..., BanditSpec]:
    """Return a function that returns a spec of that name, with float64 contexts."""

    def spec(name: str, forgetting: ForgettingSpec = NEVER) -> BanditSpec:
        small: BanditSpec = specs[name]
        return dataclasses.replace(
            small,
            context=ContextSpec(shape=(_SHAPES.get(name, 40),), dtype="float64"),
            encoder=EncoderSpec(name=small.encoder.name, params=_PARAMS.get(name, {})),
            forgetting=forgetting,
        )

    return spec


def _write(log, num: int, corrections: bool = True) -> None:
    """Add actions and then learn rows, a few of which are corrections, 0 to 3 s apart."""
    log.actions(["a", "b", "c"])
    for number in range(num):
        log.correct() if corrections and number % 80 in (20, 21, 29) else log.learn()
    times = np.cumsum(np.random.default_rng(1).uniform(0, 3, len(log.rows)))
    log.rows[:] = [
        replace(row, time=float(time)) for row, time in zip(log.rows, times, strict=True)
    ]


def _correct(log, index: int) -> None:
    """Add a correction of the value that was learned as number `index`."""
    was = log.learned[index]
    row = replace(was, position=LogPosition(log.head + 1), before=was.after, after=was.after + 1.5)
    log.rows.append(row)
    log.learned[index] = row


def _learn_absurd(log, value: float) -> None:
    """Add a row that no encoder has features of a useful size for."""
    row = log.learn()
    log.rows[-1] = log.learned[-1] = replace(row, context=np.full_like(row.context, value))


def _groups(rows: Sequence[LogRow], sizes: Sequence[int], as_block: bool = True) -> list[Group]:
    """Return the rows in groups of these sizes, in turns; rows of other kinds are alone."""
    groups: list[Group] = []
    size = itertools.cycle(sizes)
    for learns, run in itertools.groupby(rows, lambda row: isinstance(row, LearnRow)):
        left = list(run)
        while left:
            num = next(size) if learns else 1
            groups.append(Group(tuple(left[:num]), as_block and learns))
            left = left[num:]
    return groups


def _apply(model: ServingModel, groups: Sequence[Group]) -> ServingModel:
    for group in groups:
        model.apply(group, _no_import)
    return model


def _no_import(version: SnapshotVersion):
    raise AssertionError(f"no row imports snapshot {version}")


def _bits(model: ServingModel) -> dict[str, NDArray[Any]]:
    """Return all that a row may change, as copies."""
    catalogue = model.catalogue.tensors() | {"slots": model.catalogue.enabled_slots}
    offered = model.enabled_candidates()
    parts = {} if offered.parts is None else {"parts": offered.parts}
    return {
        name: np.array(tensor)
        for name, tensor in (model.tensors() | catalogue | parts).items()
    } | {
        "numbers": np.array(
            [model.position, model.base_position, model.version, model.created_at,
             *model.progress]
        )
    }  # fmt: skip


def _assert_bits(model: ServingModel, expected: dict[str, NDArray[Any]]) -> None:
    found = _bits(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].tobytes() == tensor.tobytes(), name


def _posteriors(model: ServingModel) -> dict[int, GaussianPosterior]:
    assert isinstance(model.policy, LinearHead)
    posterior = model.policy.posterior
    if isinstance(posterior, GaussianPosterior):
        return {0: posterior}
    assert isinstance(posterior, DisjointPosterior)
    slots = {slot: posterior.slot(slot) for slot in posterior.slots}
    return {slot: one for slot, one in slots.items() if one is not None}


def _assert_close(found: Any, expected: Any) -> None:
    difference = np.abs(np.asarray(found) - np.asarray(expected)).max()
    assert difference <= 1e-9 * np.abs(expected).max()


def _assert_same_law(found: GaussianPosterior, expected: GaussianPosterior) -> None:
    """To rounding; S S^T is compared, because a refresh may turn S."""
    _assert_close(found.mean, expected.mean)
    _assert_close(found.root @ found.root.T, expected.root @ expected.root.T)
    _assert_close([found.num_rows], [expected.num_rows])
    _assert_close([found.a], [expected.a])
    _assert_close([found.b], [expected.b])
    _assert_close(found.statistics().zz, expected.statistics().zz)
    _assert_close(found.statistics().zr, expected.statistics().zr)


def _assert_same_to_rounding(found: ServingModel, expected: ServingModel) -> None:
    """What counts rows is equal, what is computed from features is so to rounding."""
    assert (found.position, found.progress) == (expected.position, expected.progress)
    steps, others = found.forgetting.tensors(), expected.forgetting.tensors()
    assert steps.keys() == others.keys()
    assert all(np.array_equal(steps[name], others[name]) for name in others)
    ours, theirs = _posteriors(found), _posteriors(expected)
    assert ours.keys() == theirs.keys()
    for slot, posterior in theirs.items():
        _assert_same_law(ours[slot], posterior)


# -- a block and its rows ---------------------------------------------------------------------


@pytest.mark.few(15)
@pytest.mark.parametrize(
    ("name", "size", "forgetting"), spread(JOINT, SIZES, [NEVER, EVERY_10, EVERY_10_S])
)
def test_a_block_equals_its_rows_one_by_one_to_rounding(
    name, size, forgetting, wide, log_writer, new_model, apply_all
):
    spec = wide(name, forgetting)
    log = log_writer(spec)
    _write(log, 130)
    one_by_one = apply_all(new_model(spec), log.rows)
    blocks = _apply(new_model(spec), _groups(log.rows, [size]))
    assert blocks.progress.num_learned == 124
    assert len(blocks.forgetting.positions) in ((0,) if forgetting == NEVER else range(10, 30))
    _assert_same_to_rounding(blocks, one_by_one)


@pytest.mark.parametrize("size", SIZES)
def test_posteriors_per_action_learn_a_block_in_order_to_the_bit(
    size, wide, log_writer, new_model, apply_all
):
    """Features that are no product are equal to the bit, too."""
    spec = wide("per_action", EVERY_10)
    log = log_writer(spec)
    _write(log, 130)
    one_by_one = apply_all(new_model(spec), log.rows)
    blocks = _apply(new_model(spec), _groups(log.rows, [size]))
    _assert_bits(blocks, _bits(one_by_one))


@pytest.mark.parametrize("name", DISJOINT)
def test_posteriors_per_action_learn_the_same_features_to_the_bit(
    name, wide, log_writer, new_model
):
    """By both rules, from the features that the first one computed."""
    spec = wide(name, EVERY_10)
    log = log_writer(spec)
    _write(log, 130)
    as_block, one_by_one = new_model(spec), new_model(spec)
    for group in _groups(log.rows, [29]):
        z_ND = as_block.features(group)
        as_block.apply(group, _no_import, z_ND)
        one_by_one.apply(group._replace(as_block=False), _no_import, z_ND)
    _assert_bits(as_block, _bits(one_by_one))


def test_posteriors_per_action_learn_a_block_of_a_network_to_rounding(
    wide, log_writer, new_model, apply_all
):
    spec = wide("mlp per action", EVERY_10)
    log = log_writer(spec)
    _write(log, 130)
    blocks = _apply(new_model(spec), _groups(log.rows, [29]))
    _assert_same_to_rounding(blocks, apply_all(new_model(spec), log.rows))


@pytest.mark.parametrize("name", [*JOINT, *DISJOINT, "uniform"])
def test_a_group_that_is_no_block_equals_its_rows_to_the_bit(
    name, wide, log_writer, new_model, apply_all
):
    spec = wide(name, EVERY_10)
    log = log_writer(spec)
    _write(log, 60)
    one_by_one = apply_all(new_model(spec), log.rows)
    grouped = _apply(new_model(spec), _groups(log.rows, [29], as_block=False))
    _assert_bits(grouped, _bits(one_by_one))
    alone = _apply(new_model(spec), _groups(log.rows, [1]))
    _assert_bits(alone, _bits(one_by_one))


def test_uniform_counts_the_rows_of_a_block(wide, log_writer, new_model, apply_all):
    spec = wide("uniform", EVERY_10)
    log = log_writer(spec)
    _write(log, 60)
    blocks = _apply(new_model(spec), _groups(log.rows, [29]))
    _assert_bits(blocks, _bits(apply_all(new_model(spec), log.rows)))
    assert blocks.progress.num_learned == 57


# -- corrections ------------------------------------------------------------------------------


@pytest.mark.few(10)
@pytest.mark.parametrize(("name", "before"), spread([*JOINT, *DISJOINT], [0, 2, BLOCK_ROWS, 20]))
def test_a_value_is_corrected_in_the_block_that_learned_it_first(
    name, before, wide, log_writer, new_model, apply_all
):
    """After other rows, at once, twice, and as the last row of the block."""
    spec = wide(name)
    log = log_writer(spec)
    log.actions(["a", "b", "c"])
    _apply(model := new_model(spec), [row_by_row(log.rows[0])])

    for _ in range(before + 1):
        log.learn()
    _correct(log, before)
    for _ in range(BLOCK_ROWS + 2):
        log.learn()
    for index in (before, 0, before + 3, before + 3):
        _correct(log, index)
    block = Group(tuple(log.rows[1:]), as_block=True)
    _apply(model, [block])
    one_by_one = apply_all(new_model(spec), log.rows)
    _assert_same_to_rounding(model, one_by_one)
    assert model.progress.num_learned == before + BLOCK_ROWS + 3
    assert len(block.rows) == model.progress.num_learned + 5
    assert isinstance(model.policy, LinearHead)
    for slot, posterior in _posteriors(model).items():
        final = [row for row in log.learned if name in JOINT or row.slot == slot]
        sums = Statistics(posterior.dim)
        x, a = (np.stack([getattr(row, part) for row in final]) for part in ("context", "action"))
        sums.add(model.policy.features(x, a), [row.after for row in final])
        exact = GaussianPosterior.from_statistics(sums, model.policy.config)
        _assert_same_law(posterior, exact)


# -- forgetting -------------------------------------------------------------------------------


def test_a_step_inside_a_block_is_taken_before_the_row_that_enters_a_cell(
    wide, log_writer, new_model
):
    """Of 10 rows each: rows up to position 9 have lost most when the block ends."""
    spec = wide("concat", EVERY_10)
    log = log_writer(spec)
    _write(log, 64, corrections=False)
    model = _apply(new_model(spec), [row_by_row(log.rows[0])])
    block = Group(tuple(log.rows[1:]), as_block=True)
    assert model.forgets_before(block)
    assert not model.forgets_before(Group(block.rows[:8], as_block=True))
    _apply(model, [block])
    assert model.forgetting.positions.tolist() == [10, 20, 30, 40, 50, 60]
    weights = 2.0 ** ((np.arange(2, 66) // 10 - 6) / 32)
    (posterior,) = _posteriors(model).values()
    assert posterior.num_rows == pytest.approx(weights.sum(), rel=1e-12)
    assert isinstance(model.policy, LinearHead)
    rows = [row for row in block.rows if isinstance(row, LearnRow)]
    z_ND = model.policy.features(
        np.stack([row.context for row in rows]), np.stack([row.action for row in rows])
    )
    sums = Statistics(posterior.dim)
    sums.add(z_ND, [row.after for row in rows], weights)
    _assert_same_law(posterior, GaussianPosterior.from_statistics(sums, model.policy.config))


@pytest.mark.parametrize("name", ["concat", "per_action", "uniform"])
@pytest.mark.parametrize("forgetting", [NEVER, EVERY_10, EVERY_10_S], ids=["never", "rows", "s"])
def test_a_model_knows_beforehand_which_groups_forget(
    name, forgetting, wide, log_writer, new_model
):
    """Also where the first rows ever are a group of learn rows, and where a clock was set back."""
    spec = wide(name, forgetting)
    log = log_writer(spec)
    _write(log, 90)
    rows = log.rows[1:]
    rows[40:] = [replace(row, time=row.time - 50.0) for row in rows[40:]]
    for sizes in ([1], [3, 1, 5], [29]):
        model = new_model(spec)
        model.position = LogPosition(1)
        found = []
        for group in _groups(rows, sizes):
            steps = len(model.forgetting.positions)
            found.append(model.forgets_before(group))
            model.apply(group, _no_import)
            assert found[-1] == (len(model.forgetting.positions) > steps)
        assert any(found) == (forgetting != NEVER)


# -- features that are not finite -------------------------------------------------------------


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("name", "size", "value"),
    spread(["concat", "bilinear", "mlp", "per_action"], [5, 29], [1e300, np.inf, np.nan]),
)
def test_rows_without_finite_features_are_passed_over_in_a_block_too(
    name, size, value, wide, log_writer, new_model, apply_all
):
    """First, last, beside each other, corrected: they count, and teach nothing."""
    spec = wide(name, EVERY_10)
    raw = dataclasses.replace(spec.encoder, standardize=False)
    spec = dataclasses.replace(spec, encoder=raw)
    log = log_writer(spec)
    log.actions(["a", "b", "c"])
    for number in range(60):
        if number in (0, 7, 8, 28, 40, 59):
            _learn_absurd(log, value)
        else:
            log.learn()
        if number in (11, 30):
            _correct(log, 8)
            _correct(log, 10)
    with np.errstate(over="ignore", invalid="ignore"):
        one_by_one = apply_all(new_model(spec), log.rows)
        blocks = _apply(new_model(spec), _groups(log.rows, [size]))
    assert blocks.progress.num_learned == 60
    has_features = name == "mlp" and value == 1e300  # those of a bounded network are finite
    taught = [has_features or abs(row.context[0]) < 1e299 for row in log.learned]
    weights = blocks.forgetting.weights(np.array([row.origin for row in log.learned]))
    learned = sum(posterior.num_rows for posterior in _posteriors(blocks).values())
    assert learned == pytest.approx(weights[taught].sum(), rel=1e-9)
    _assert_same_to_rounding(blocks, one_by_one)


@pytest.mark.parametrize("size", [BLOCK_ROWS - 1, BLOCK_ROWS, 64])
def test_a_block_of_nothing_else_changes_the_counts_alone(size, wide, log_writer, new_model):
    spec = wide("concat")
    log = log_writer(spec)
    _write(log, 30)
    model = _apply(new_model(spec), _groups(log.rows, [8]))
    before = _bits(model)
    start = log.head
    for _ in range(size):
        _learn_absurd(log, 1e300)
    with np.errstate(over="ignore", invalid="ignore"):
        _apply(model, _groups(log.rows[start:], [size]))
    after = _bits(model)
    assert after.pop("numbers")[0] == before.pop("numbers")[0] + size
    assert model.progress.num_learned == 27 + size
    assert all(np.array_equal(after[key], tensor) for key, tensor in before.items())


# -- replays ----------------------------------------------------------------------------------


@pytest.mark.few(4)
def test_two_replays_of_the_same_groups_are_equal_to_the_bit(
    spec, log_writer, new_model, publish, snapshots, assert_same_state
):
    """Features may be computed beforehand, and a snapshot be taken between any two groups."""
    log = log_writer(spec)
    log.add(150)
    groups = _groups(log.rows, [9, 1, 20, 2])
    first, second, ahead = (new_model(spec) for _ in range(3))
    for number, group in enumerate(groups):
        first.apply(group, _no_import)
        ahead.apply(group, _no_import, ahead.features(group))
        if number == len(groups) // 2:
            snapshot = publish(snapshots, first)
            loaded = load_model(first.spec, first.uid, EncoderRegistry(), snapshot, first.catalogue)
            rest = groups[number + 1 :]
    _apply(second, groups)
    _apply(loaded, rest)
    for model in (second, ahead, loaded):
        assert_same_state(model, first)
    _assert_bits(second, _bits(first))
    _assert_bits(ahead, _bits(first))


@pytest.mark.parametrize("name", JOINT)
def test_the_same_rows_grouped_otherwise_are_equal_to_rounding_alone(
    name, wide, log_writer, new_model
):
    """So the log has the groups, and the rule for each: the bits of a mean differ."""
    spec = wide(name)
    log = log_writer(spec)
    _write(log, 130, corrections=False)
    groupings = [
        _groups(log.rows, [1]), _groups(log.rows, [64]), _groups(log.rows, [30, 11]),
        _groups(log.rows, [30, 11], as_block=False),
    ]  # fmt: skip
    models = [_apply(new_model(spec), groups) for groups in groupings]
    for one, other in itertools.combinations(models, 2):
        _assert_same_to_rounding(one, other)
    means = [posterior.mean for each in models for posterior in _posteriors(each).values()]
    assert np.array_equal(means[0], means[3])
    for first, second in itertools.combinations(means[:3], 2):
        assert not np.array_equal(first, second)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["concat", "bilinear", "per_action", "mlp"]),
    parts=st.lists(st.integers(1, 60) | st.sampled_from("cax"), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    half_life=st.sampled_from([None, 32.0, 100.0, 1000.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_grouping_of_any_log_moves_the_model(
    wide, log_writer, new_model, apply_all, name, parts, cuts, half_life, seed
):
    """Runs of learn rows, and between them corrections, changed actions and absurd contexts."""
    spec = wide(name, ForgettingSpec(half_life=half_life))
    log = log_writer(spec, seed)
    log.actions(["a", "b", "c"])
    log.learn()
    for part in parts:
        if part == "a":
            log.actions(["b", f"new-{log.head}"])
        elif part == "x":
            _learn_absurd(log, 1e300)
        elif part == "c":
            log.correct()
        else:
            for _ in range(part):
                log.learn()
    groups = _groups(log.rows, cuts)
    with np.errstate(over="ignore", invalid="ignore"):
        one_by_one = apply_all(new_model(spec), log.rows)
        first, second = (_apply(new_model(spec), groups) for _ in range(2))
    _assert_same_to_rounding(first, one_by_one)
    _assert_bits(second, _bits(first))


# -- successors -------------------------------------------------------------------------------


@pytest.mark.few(5)
@pytest.mark.parametrize("forgetting", [NEVER, EVERY_10], ids=["never", "rows"])
@pytest.mark.parametrize("name", [*JOINT, *DISJOINT, "uniform"])
def test_a_successor_equals_apply_and_leaves_the_model_as_it_was(
    name, forgetting, wide, log_writer, new_model, publish, snapshots
):
    """Whatever the group holds, and with features computed beforehand."""
    spec = wide(name, forgetting)
    donor_log, donor = log_writer(spec, 5), new_model(spec, BanditUid("another"))
    _write(donor_log, 40)
    _apply(donor, _groups(donor_log.rows, [8]))
    log = log_writer(spec)
    _write(log, 40)
    log.actions(["new", "b"])
    for _ in range(24):
        log.learn()
    log.correct()
    log.configure(selection={"action_chunk": 2}).spec["forgetting"] = dataclasses.asdict(forgetting)
    log.actions(["b"], enabled=False, features=False)
    at = LogPosition(log.head + 1)
    log.rows.append(ImportRow(at, 0.0, SnapshotVersion(7)))
    for _ in range(12):
        log.learn()
    imported = publish(snapshots, donor, 7, position=at, progress=Progress(9, 9, 9))

    def load(version):
        assert version == 7
        return imported

    plain, served = new_model(spec), new_model(spec)
    forgot = []
    for group in _groups(log.rows, [9, 1, 20]):
        before, catalogue, spec_before = _bits(served), served.catalogue, served.spec
        if served.forgets_before(group):
            forgot.append(type(group.rows[0]))
        z_ND = served.features(group)
        successor = served.successor(group, load, z_ND)
        _assert_bits(served, before)
        assert served.catalogue is catalogue
        assert served.spec == spec_before
        plain.apply(group, load)
        _assert_bits(successor, _bits(plain))
        assert successor.spec == plain.spec
        assert successor.policy.tensors().keys() == plain.policy.tensors().keys()
        again = served.successor(group, load)
        served.apply(group, load)  # it could go on, too
        _assert_bits(served, _bits(plain))
        served = again
    assert served.position == log.head
    assert set(forgot) == (set() if forgetting == NEVER else {LearnRow, ImportRow})


def test_a_successor_and_its_model_learn_apart(wide, log_writer, new_model):
    spec = wide("mlp")
    log = log_writer(spec)
    _write(log, 60)
    groups = _groups(log.rows, [12])
    model = _apply(new_model(spec), groups[:3])
    before = _bits(model)
    successor = model.successor(groups[3], _no_import)
    _apply(successor, groups[4:])
    _assert_bits(model, before)
    _apply(model, groups[3:])
    _assert_bits(successor, _bits(model))


def test_a_successor_and_its_model_fold_their_changes_apart(wide, log_writer, new_model):
    """Changes of the catalogue wait until somebody selects."""
    spec = wide("two_tower")
    log = log_writer(spec)
    groups = [row_by_row(log.actions([name, "b"])) for name in "acde"]
    model = _apply(new_model(spec), groups[:2])
    successor = model.successor(groups[2], _no_import)
    _apply(successor, groups[3:])
    assert model.catalogue.ids == ("a", "b", "c")
    _assert_bits(model, _bits(_apply(new_model(spec), groups[:2])))
    assert successor.catalogue.ids == ("a", "b", "c", "d", "e")
    _assert_bits(successor, _bits(_apply(new_model(spec), groups)))


# -- failures ---------------------------------------------------------------------------------


class _Failing:
    """Wraps an encoder and fails at a context that begins with a number above 100."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.feature_dim = encoder.feature_dim
        self.uses_action = encoder.uses_action

    def encode(self, contexts: NDArray[Any], actions: NDArray[Any]) -> Any:
        if (contexts[:, 0] > 100).any():
            raise RuntimeError("out of memory")
        return self._encoder.encode(contexts, actions)

    def encode_batch(self, context: NDArray[Any], actions: NDArray[Any]) -> Any:
        return self._encoder.encode_batch(context, actions)


@pytest.mark.parametrize("cause", ["shape", "encoder"])
@pytest.mark.parametrize("as_block", [True, False])
@pytest.mark.parametrize("name", ["concat", "mlp", "per_action"])
def test_a_group_whose_features_fail_leaves_the_model_as_it_was(
    name, as_block, cause, wide, log_writer, new_model
):
    """Whichever row fails: also the rows and the forgetting before it are not applied."""
    spec = wide(name, EVERY_10)
    log = log_writer(spec)
    _write(log, 20)
    model = _apply(new_model(spec), _groups(log.rows, [8]))
    start = log.head
    for _ in range(20):
        log.learn()
    rows = log.rows[start:]
    assert isinstance(model.policy, LinearHead)
    before, encoder = _bits(model), model.policy.encoder
    wrong = np.ones(7)
    if cause == "encoder":
        wrong, model.policy.encoder = np.full(40, 101.0), _Failing(encoder)
    for at in (0, 11, 19):
        bad = [*rows]
        bad[at] = replace(rows[at], context=wrong)
        group = Group(tuple(bad), as_block)
        assert model.forgets_before(group)
        for apply in (model.apply, model.successor):
            with pytest.raises(RowNotApplied, match=f"^log row {start + 1} ") as raised:
                apply(group, _no_import)
            assert raised.value.position == start + 1
            expected = RuntimeError if cause == "encoder" else ValueError
            assert isinstance(raised.value.reason, expected)
            _assert_bits(model, before)
    model.policy.encoder = encoder
    _apply(model, [Group(tuple(rows), as_block)])
    good = _apply(new_model(spec), _groups(log.rows[:start], [8]))
    _assert_bits(model, _bits(_apply(good, [Group(tuple(rows), as_block)])))


@pytest.mark.parametrize("as_block", [True, False])
@pytest.mark.parametrize("name", ["concat", "per_action"])
def test_a_row_that_does_not_fit_stops_the_model_before_the_row_that_is_named(
    name, as_block, wide, log_writer, new_model
):
    spec = wide(name)
    log = log_writer(spec)
    _write(log, 20)
    model = _apply(new_model(spec), _groups(log.rows, [8]))
    start = log.head
    for _ in range(4):
        log.learn()
    log.correct()
    for _ in range(3):
        log.learn()
    rows = [*log.rows[start:]]
    rows[6] = replace(rows[6], after=float("nan"))
    learned = model.progress.num_learned
    with pytest.raises(RowNotApplied, match="value") as raised:
        model.apply(Group(tuple(rows), as_block), _no_import)
    assert model.position == raised.value.position - 1
    assert model.position == start + (5 if as_block else 6)
    assert model.progress.num_learned == learned + (4 if as_block else 5)


def test_groups_are_applied_in_the_order_of_their_positions(wide, log_writer, new_model):
    spec = wide("concat")
    log = log_writer(spec)
    _write(log, 30)
    groups = _groups(log.rows, [10])
    model = _apply(new_model(spec), groups[:2])
    for wrong in (groups[1], groups[3]):
        with pytest.raises(AssertionError, match="after 11"):
            model.apply(wrong, _no_import)
    model.frozen = True
    with pytest.raises(AssertionError, match="successor"):
        model.apply(groups[2], _no_import)
