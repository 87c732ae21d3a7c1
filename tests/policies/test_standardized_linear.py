"""Linear policies on standardised inputs: a refresh moves the sums exactly, without the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.features.robust import scale_of
from bandexa_core.ids import ActionSlot, BanditUid
from bandexa_core.policies import Candidates, LinearTS, make_policy
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, Statistics
from bandexa_core.replay import Rows

NUM = 40
NOTHING = np.zeros((0, 4), np.float32)
WAYS: dict[str, dict[str, Any]] = {
    "concat": {"encoder": "concat"},
    "concat of arrays": {"encoder": "concat", "shape": (2, 3)},
    "concat without features": {"encoder": "concat", "action_dim": 0},
    "interactions": {"encoder": "interactions"},
    "bilinear": {"encoder": "bilinear", "shape": (2,), "action_dim": 3},
    "greedy": {"encoder": "interactions", "policy": "greedy"},
    "per_action": {"encoder": "per_action", "shape": (5,)},
    "per_action without features": {"encoder": "per_action", "action_dim": 0},
    "bytes": {"encoder": "concat", "dtype": "uint8"},
    "interactions of bytes": {"encoder": "interactions", "dtype": "uint8"},
}


def _rescaled(rows: Rows, factor: Any, offset: Any) -> Rows:
    """Return rows in other units; contexts of float64, bytes as they are."""
    x = rows.contexts
    if x.dtype != np.uint8:
        x = x.astype(np.float64) * factor + offset
    actions = (rows.actions * factor + offset).astype(np.float32)
    return dataclasses.replace(rows, contexts=x, actions=actions)


def _textbook(policy: LinearTS, rows: Rows) -> GaussianPosterior | DisjointPosterior:
    """Return the posterior of the raw rows under the policy's scaling of now."""
    x: NDArray[Any] = rows.contexts
    a: NDArray[Any] = rows.actions
    if policy.scaling is not None:
        scaling = policy.scaling
        if x.dtype != np.uint8:
            flat = x.astype(np.float64).reshape(len(x), -1)
            x = ((flat - scaling.x.mean) / scaling.x.std).reshape(x.shape)
        a = (a.astype(np.float64) - scaling.a.mean) / scaling.a.std
    z_ND = policy.encoder.encode(x, a)
    by_slot: dict[int, Statistics] = {}
    for z, slot, reward in zip(z_ND, rows.slots, rows.rewards, strict=True):
        own = 0 if policy.encoder.uses_action else int(slot)
        by_slot.setdefault(own, Statistics(z_ND.shape[1])).add(z[None], [reward])
    if policy.encoder.uses_action:
        return GaussianPosterior.from_statistics(by_slot[0], policy.config)
    return DisjointPosterior.from_statistics(by_slot, policy.config)


def _assert_same_law(found: Any, expected: Any, precision: float = 1e-8) -> None:
    if isinstance(expected, DisjointPosterior):
        assert found.slots == expected.slots
        for slot in expected.slots:
            _assert_same_law(found.slot(slot), expected.slot(slot), precision)
        return
    scale = np.abs(expected.mean).max()
    np.testing.assert_allclose(found.mean, expected.mean, rtol=precision, atol=precision * scale)
    covariance = expected.root @ expected.root.T
    size = np.sqrt(np.diagonal(covariance))
    difference = (found.root @ found.root.T - covariance) / size / size[:, None]
    assert np.abs(difference).max() < precision
    assert (found.num_rows, found.a) == (expected.num_rows, expected.a)
    assert found.b == pytest.approx(expected.b, rel=precision)


def _joined(first: Rows, second: Rows) -> Rows:
    fields = [field.name for field in dataclasses.fields(Rows)]
    both = (np.concatenate([getattr(first, name), getattr(second, name)]) for name in fields)
    return Rows(*both)


class _OwnRows:
    """Rows that a bandit has learned itself, after others that an import brought."""

    are_all = False

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def scan(self, chunk: int) -> Iterator[Rows]:
        yield self._rows

    def __len__(self) -> int:
        return len(self._rows)


@pytest.fixture(params=WAYS)
def way(request) -> dict[str, Any]:
    return WAYS[request.param]


@pytest.fixture
def rows_for(make_rows):
    """Return rows of the kind a way learns."""

    def rows(way: dict[str, Any], num: int = NUM, seed: int = 0) -> Rows:
        kind = {key: way[key] for key in ("shape", "action_dim", "dtype") if key in way}
        made: Rows = make_rows(num, seed=seed, **kind)
        return made

    return rows


@pytest.fixture
def refreshed(make, learn_all):
    """Return a policy that has learned rows and taken its scaling from them."""

    def build(way: dict[str, Any], rows: Rows, actions: NDArray[Any] = NOTHING) -> LinearTS:
        policy = make(**way)
        learn_all(policy, rows)
        policy.refresh(len(rows), actions)
        assert isinstance(policy, LinearTS)
        return policy

    return build


@pytest.fixture
def wide(way: dict[str, Any]) -> dict[str, Any]:
    """A sequence whose contexts retain all the digits of float64."""
    return {"dtype": "float64"} | way


# -- the posterior after a refresh ----------------------------------------------------------------


def test_it_is_that_of_the_raw_rows_under_the_new_scaling(way, rows_for, refreshed):
    rows = rows_for(way)
    policy = refreshed(way, rows)
    assert policy.scaling.num_rows == NUM
    _assert_same_law(policy.posterior, _textbook(policy, rows))
    if rows.contexts.dtype != np.uint8:
        flat = rows.contexts.reshape(NUM, -1).astype(np.float64)
        np.testing.assert_allclose(policy.scaling.x.mean, flat.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(policy.scaling.x.std, flat.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize(("offset", "precision"), [(100.0, 1e-9), (1e4, 1e-5), (3e5, 5e-3)])
def test_it_is_so_for_inputs_far_from_zero(wide, rows_for, refreshed, offset, precision):
    """Digits go with the square of the offset in deviations: 1e-16 of it is what remains."""
    if wide["encoder"] in ("interactions", "bilinear"):
        offset = offset**0.5  # of a product: with the square of both offsets
    rows = rows_for(wide, 200)
    rows.actions[:] = np.random.default_rng(2).normal(size=rows.actions.shape)
    rows = _rescaled(rows, 1.0, offset)
    policy = refreshed(wide, rows)
    _assert_same_law(policy.posterior, _textbook(policy, rows), precision)


@pytest.mark.parametrize("encoder", ["interactions", "bilinear"])
def test_of_a_product_that_lost_all_its_digits_the_rows_say_nothing(make_rows, refreshed, encoder):
    """Offsets of 1e4 deviations on both sides: the sums of the rest are right, and go on so.

    Right to the digits that such offsets leave of x and a themselves, whatever the products are.
    """
    rows = _rescaled(make_rows(200), 1.0, 1e4)
    same = {"dtype": "float64", "posterior": {"prior_var": 1.0}}
    policy = refreshed({"encoder": encoder} | same, rows)
    assert (policy.scaling.x.std > 0.5).all()
    sums = policy.posterior.statistics()
    assert (np.diagonal(sums.zz)[:8] > 199.0).all()
    assert np.array_equal(np.diagonal(sums.zz)[8:-1], np.zeros(policy.encoder.feature_dim - 9))
    assert policy.posterior.b < 0.51 * (sums.rr + 1.0)
    plain = refreshed({"encoder": "concat"} | same, rows)
    kept = np.r_[:8, policy.encoder.feature_dim - 1]
    textbook = _textbook(plain, rows)
    assert isinstance(textbook, GaussianPosterior)
    exact = textbook.mean
    left = np.abs(plain.posterior.mean - exact).max()
    assert left < 1e-4 * np.abs(exact).max()
    assert np.abs(policy.posterior.mean[kept] - exact).max() < 2.0 * left


@pytest.mark.parametrize("constant", [1.0, -1e6, 1e9, 1e20])
@pytest.mark.parametrize("encoder", ["concat", "interactions", "per_action"])
def test_a_constant_feature_however_large_leaves_the_others_alone(
    make_rows, refreshed, encoder, constant
):
    rows = make_rows(NUM, dtype="float64")
    rows.contexts[:, 1] = constant
    policy = refreshed({"encoder": encoder, "dtype": "float64"}, rows)
    rows.contexts[:, 1] = 0.0
    expected = refreshed({"encoder": encoder, "dtype": "float64"}, rows)
    x = np.array([0.3, 0.0, -0.7, 1.0])
    offered = Candidates(rows.slots[:4], rows.actions[:4])
    if encoder == "per_action":
        offered = Candidates(np.arange(4), rows.actions[:4])
    found = policy.score(np.where(np.arange(4) == 1, constant, x), offered)
    np.testing.assert_allclose(found, expected.score(x, offered), rtol=1e-3)


@pytest.mark.parametrize("side", ["x", "a"])
@pytest.mark.parametrize(
    ("part", "number"),
    [("std", 1e300), ("std", 1e-300), ("std", 1e60), ("mean", 1e300), ("mean", -1e60)],
)
@pytest.mark.parametrize("encoder", ["concat", "interactions", "bilinear"])
def test_from_the_scale_of_another_world_it_moves_to_that_of_its_rows(
    make, make_rows, learn_all, encoder, part, number, side
):
    """An import may bring such a scale; what its sums say of these features is unknown then."""
    policy, rows = make(encoder), make_rows(NUM)
    learn_all(policy, rows)
    tensors = policy.tensors()
    name = f"scaling/{side}_{part}"
    policy.load_tensors(tensors | {name: np.full_like(tensors[name], number)})
    policy.scaling = dataclasses.replace(policy.scaling, num_rows=NUM)
    catalogue = rows.actions[:4]
    policy.refresh(2 * NUM, catalogue, _OwnRows(rows), changed=True)
    assert np.isfinite(policy.posterior.mean).all()
    expected = scale_of(rows.contexts if side == "x" else catalogue)
    assert expected is not None
    found = getattr(policy.scaling, side)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-6)
    for _ in range(5):
        learn_all(policy, rows)
    learned = policy.score(rows.contexts[0], Candidates(rows.slots[:4], rows.actions[:4]))
    assert np.isfinite(learned).all()
    assert np.abs(learned).max() < 3.0


def test_collinear_features_far_from_zero_still_give_a_posterior(make, learn_all):
    """Rounding makes the moved sums indefinite here; they are mended."""
    rng = np.random.default_rng(0)
    num = 5000
    which = np.eye(3)[rng.integers(0, 3, num)]  # adds up to the constant 1
    rows = Rows(
        np.arange(1, num + 1), np.zeros(num, np.int64), which @ [0.0, 0.5, 1.0],
        np.zeros((num, 0), np.float32), which * 1e4 + 1e9,
    )  # fmt: skip
    policy = make("concat", shape=(3,), dtype="float64", action_dim=0, posterior={"prior_var": 1e4})
    learn_all(policy, rows)
    policy.refresh(num, NOTHING[:, :0])
    assert policy.scaling.num_rows == num
    for index, expected in enumerate([0.0, 0.5, 1.0]):
        x = np.eye(3)[index] * 1e4 + 1e9
        means, _ = policy.score(x, Candidates(np.zeros(1, np.int64), np.zeros((1, 0), np.float32)))
        assert means[0] == pytest.approx(expected, abs=0.05)
    policy.posterior.refresh()  # the stored sums are again those of rows


def test_it_is_so_again_at_the_next_doubling(wide, rows_for, refreshed, learn_all):
    """Rows learned under the first scaling and under the second count alike."""
    first, second = rows_for(wide), _rescaled(rows_for(wide, 60, seed=1), 2.0, -1.0)
    policy = refreshed(wide, first)
    before = policy.scaling
    learn_all(policy, second)
    policy.refresh(79, NOTHING)
    assert policy.scaling is before
    policy.refresh(100, NOTHING)
    assert policy.scaling.num_rows == 100
    both = _joined(first, second)
    _assert_same_law(policy.posterior, _textbook(policy, both))
    if both.contexts.dtype != np.uint8:
        flat = both.contexts.reshape(100, -1).astype(np.float64)
        np.testing.assert_allclose(policy.scaling.x.std, flat.std(axis=0), rtol=1e-9)


def test_it_learns_and_corrects_earlier_rows_as_if_the_scaling_had_never_changed(
    wide, rows_for, refreshed, learn_all
):
    rows = _rescaled(rows_for(wide), 5.0, 40.0)
    policy = refreshed(wide, rows)
    more = _rescaled(rows_for(wide, 20, seed=1), 5.0, 40.0)
    learn_all(policy, more)
    for i in (0, 3, 17):
        slot, after = ActionSlot(int(rows.slots[i])), 2.5 - i
        policy.learn(rows.contexts[i], rows.actions[i], slot, float(rows.rewards[i]), after)
        rows.rewards[i] = after
    _assert_same_law(policy.posterior, _textbook(policy, _joined(rows, more)), 1e-6)


def test_rows_that_were_forgotten_in_part_weigh_that_much_in_the_scaling(
    make, make_rows, learn_all
):
    policy, rows = make("concat", dtype="float64"), make_rows(NUM, dtype="float64")
    learn_all(policy, rows)
    policy.adopt(policy.forgotten(0.25))
    later = make_rows(20, seed=1, dtype="float64")
    learn_all(policy, later)
    policy.refresh(60, NOTHING)
    x = np.concatenate([rows.contexts, later.contexts])
    weights = np.repeat([0.25, 1.0], [NUM, 20])
    mean = np.average(x, axis=0, weights=weights)
    np.testing.assert_allclose(policy.scaling.x.mean, mean, rtol=1e-10)
    variance = np.average((x - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(policy.scaling.x.std, np.sqrt(variance), rtol=1e-10)
    assert policy.posterior.num_rows == pytest.approx(30.0)


def test_where_all_was_forgotten_the_scaling_stays_and_is_not_due_at_once(
    make, make_rows, learn_all
):
    policy = make("concat")
    learn_all(policy, make_rows(NUM))
    policy.adopt(policy.forgotten(0.0))
    policy.refresh(NUM, NOTHING)
    assert not policy.scaling_due(NUM)
    assert np.array_equal(policy.scaling.x.std, np.ones(4))
    _assert_same_law(policy.posterior, GaussianPosterior.prior(9, policy.config))


# -- whose moments --------------------------------------------------------------------------------


def test_actions_are_standardised_by_the_catalogue_where_it_has_several(
    make_rows, refreshed, candidates_of
):
    rows, catalogue = make_rows(NUM), candidates_of(9).features * 3 + 1
    policy = refreshed(WAYS["concat"], rows, catalogue)
    np.testing.assert_allclose(policy.scaling.a.mean, catalogue.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(policy.scaling.a.std, catalogue.std(axis=0), rtol=1e-6)
    _assert_same_law(policy.posterior, _textbook(policy, rows))


@pytest.mark.parametrize("num", [0, 1])
def test_else_by_those_that_were_chosen(make_rows, refreshed, candidates_of, num):
    rows = make_rows(NUM)
    policy = refreshed(WAYS["concat"], rows, candidates_of(num).features)
    chosen = rows.actions.astype(np.float64)
    np.testing.assert_allclose(policy.scaling.a.mean, chosen.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(policy.scaling.a.std, chosen.std(axis=0), rtol=1e-12)


def test_a_scaling_is_due_at_doublings_and_only_then_changes(make, make_rows, learn_all):
    policy = make("concat")
    learn_all(policy, make_rows(NUM))
    for num, due in ((7, False), (8, True)):
        assert policy.scaling_due(num) == due
    policy.refresh(7, NOTHING)
    assert policy.scaling.num_rows == 0
    policy.refresh(50, NOTHING)
    for num, due in ((50, False), (99, False), (100, True)):
        assert policy.scaling_due(num) == due


# -- what a user sees -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["concat", "interactions", "bilinear", "per_action"])
def test_the_units_of_the_inputs_no_longer_matter(make_rows, refreshed, candidates_of, encoder):
    """The same rows in cents and in dollars, a temperature in Fahrenheit and in Celsius."""
    way = {"encoder": encoder, "dtype": "float64"}
    dollars, offered = make_rows(NUM, dtype="float64"), candidates_of(5)
    factor, offset = np.array([100.0, 1.8, 1e-4, 1.0]), np.array([0.0, 32.0, 0.0, -7.0])
    cents = _rescaled(dollars, factor, offset)
    in_cents = Candidates(offered.slots, (offered.features * factor + offset).astype(np.float32))
    first = refreshed(way, dollars, offered.features)
    second = refreshed(way, cents, in_cents.features)
    for i in range(10):
        found = second.score(cents.contexts[i], in_cents)
        expected = first.score(dollars.contexts[i], offered)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
        chosen = [
            policy.select(x, candidates, np.random.default_rng(i)).chosen[0]
            for policy, x, candidates in (
                (first, dollars.contexts[i], offered),
                (second, cents.contexts[i], in_cents),
            )
        ]
        assert chosen[0] == chosen[1]


@pytest.mark.parametrize("encoder", ["concat", "per_action"])
def test_where_it_is_switched_off_inputs_stay_raw(make_spec, make_rows, learn_all, encoder):
    spec, rows = make_spec(encoder), make_rows(NUM)
    raw = dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, standardize=False))
    policy = make_policy(raw, BanditUid("b"), EncoderRegistry())
    assert isinstance(policy, LinearTS)
    learn_all(policy, rows)
    policy.refresh(NUM, rows.actions)
    assert policy.scaling is None
    assert not policy.scaling_due(10**6)
    assert not any(name.startswith("scaling/") for name in policy.tensors())
    _assert_same_law(policy.posterior, _textbook(policy, rows))


@pytest.mark.parametrize(
    "way",
    [{"encoder": "per_action", "dtype": "uint8"},
     {"encoder": "concat", "dtype": "uint8", "action_dim": 0}],
)  # fmt: skip
def test_bytes_alone_are_nothing_to_standardize(make, way):
    assert make(**way).scaling is None


def test_cached_parts_and_inline_candidates_are_scaled_alike(way, rows_for, refreshed):
    rows = rows_for(way)
    policy = refreshed(way, rows)
    features = rows.actions[:5]
    plain = Candidates(np.arange(5), features)
    cached = Candidates(np.arange(5), features, policy.action_parts(features))
    for i in range(5):
        x = rows.contexts[i]
        np.testing.assert_allclose(policy.score(x, plain), policy.score(x, cached), rtol=1e-12)
        first, second = (
            policy.select(x, candidates, np.random.default_rng(i)) for candidates in (plain, cached)
        )
        assert first.chosen[0] == second.chosen[0]
        assert first.scores[0] == pytest.approx(second.scores[0], rel=1e-12)


def test_a_snapshot_carries_the_scaling(way, rows_for, refreshed, make, learn_all, assert_same):
    rows, later = rows_for(way), rows_for(way, 10, seed=1)
    policy, loaded = refreshed(way, rows), make(**way)
    loaded.load_tensors(policy.tensors())
    assert loaded.scaling.num_rows == NUM
    for each in (policy, loaded):
        learn_all(each, later)
    assert_same(loaded.tensors(), policy.tensors())
    incomplete = {name: t for name, t in policy.tensors().items() if name != "scaling/x_std"}
    with pytest.raises(ValueError, match="scaling: "):
        make(**way).load_tensors(incomplete)
