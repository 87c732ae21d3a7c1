"""Candidates with equal values: each is served as often as the others, at the propensity logged."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandexa_core.features.equal_rows import Groups, equal_rows
from bandexa_core.ids import ActionId
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.policies import Candidates, LinearHead, draws
from bandexa_core.policies.panel import Exploration, folded_winners
from bandexa_core.posterior import PosteriorConfig
from bandexa_core.replay import RowLayout
from tests.fixtures.matrices import examples

ENCODERS = ("concat", "interactions", "bilinear", "mlp", "two_tower", "conv")
NUM = examples(500, 1200)  # decisions of a statistical test
MEMBERS = 16


class Scene(NamedTuple):
    """A policy that has learned, a context, and nine candidates of three kinds.

    Attributes:
        kinds: The kind of each candidate.
    """

    policy: LinearHead
    context: NDArray[Any]
    candidates: Candidates
    kinds: NDArray[np.int64]

    def select(self, rng: np.random.Generator, epsilon: float = 0.1, **options: Any) -> Any:
        exploration = Exploration(MEMBERS, epsilon)
        return self.policy.select(
            self.context, self.candidates, rng, exploration=exploration, **options
        )

    def ballot(self, rng: np.random.Generator, epsilon: float = 0.1) -> Any:
        return self.policy.ballot(self.context, self.candidates, rng, Exploration(MEMBERS, epsilon))


@pytest.fixture
def scene(make, make_rows, learn_all, candidates_of):
    """Build a scene; with `cached` the candidates bring their parts, as those of a catalogue do."""

    def build(encoder: str, *, cached: bool = False, sizes=(1, 3, 5)) -> Scene:
        more: dict[str, Any] = {"shape": (4, 4)} if encoder == "conv" else {}
        params = {"heads": "fused"} if encoder == "conv" else {}
        policy, rows = make(encoder, params=params, **more), make_rows(12, **more)
        learn_all(policy, rows)
        kinds = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
        features = candidates_of(len(sizes)).features[kinds]
        parts = policy.action_parts(features) if cached else None
        return Scene(
            policy, rows.contexts[3], Candidates(np.arange(len(kinds)), features, parts), kinds
        )

    return build


@pytest.mark.few(4)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_by_propensity_are_right_for_every_variant(scene, encoder, cached):
    """A candidate's inverse-propensity weights have the mean 1; variants are served alike."""
    found = scene(encoder, cached=cached)
    num = len(found.candidates)
    weights, served = np.zeros((NUM, num)), np.zeros(num)
    for row in range(NUM):
        rng = np.random.default_rng(row)
        choice = found.select(rng)
        weights[row, choice.chosen[0]] = 1.0 / choice.propensity
        served[choice.chosen[0]] += 1
    errors = np.abs(weights.mean(axis=0) - 1.0) / (weights.std(axis=0) / np.sqrt(NUM))
    assert errors.max() < 3.5
    for kind in range(3):
        counts = served[found.kinds == kind]
        mean = counts.mean()
        assert ((counts - mean) ** 2 / mean).sum() < 4 * len(counts), "chi-square"


@pytest.mark.few(20)
@pytest.mark.parametrize("num", [1, 4])
@pytest.mark.parametrize("retrieve", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_ballot_has_the_propensity_of_what_is_served(scene, encoder, retrieve, num):
    found = scene(encoder, cached=True)
    num = num if retrieve is None else min(num, retrieve)
    for seed in range(40):
        choice = found.select(np.random.default_rng(seed), num=num, retrieve=retrieve)
        ballot = found.ballot(np.random.default_rng(seed))
        served = int(choice.chosen[0])
        assert choice.propensity == pytest.approx(ballot.propensities[served], rel=1e-12)
        assert ballot.propensities.sum() == pytest.approx(1.0, rel=1e-12)
        assert choice.scores[0] == ballot.sampled[served]
        for kind in range(3):
            assert len(set(ballot.sampled[found.kinds == kind])) == 1
        assert len(set(choice.chosen.tolist())) == num
        if retrieve is not None:
            assert len(set(choice.retrieved.tolist())) >= retrieve
            assert set(choice.chosen.tolist()) <= set(choice.retrieved.tolist())


@pytest.mark.few(3)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_is_served_without_exploring_has_a_vote(scene, encoder, caplog):
    """Votes counted behind the answer as well; the log would say that the two disagree."""
    found = scene(encoder, cached=True, sizes=(20, 20, 20))
    for seed in range(100):
        choice = found.select(np.random.default_rng(seed), epsilon=0.0)
        assert choice.propensity >= 1 / MEMBERS / 20
        choice = found.select(np.random.default_rng(seed), epsilon=0.0, num=60)
        scores = choice.scores.tolist()
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 3
    assert caplog.records == []


def test_a_vote_that_disagrees_with_what_is_served_is_reported(scene, caplog, monkeypatch):
    found = scene("bilinear", cached=True, sizes=(1, 1, 1))
    wrong = lambda *both: (folded_winners(*both) + 1) % 3  # noqa: E731
    monkeypatch.setattr(draws, "folded_winners", wrong)
    choice = found.select(np.random.default_rng(0), epsilon=0.0)
    assert choice.propensity >= 1 / MEMBERS
    assert "but the panel voted for" in caplog.text


@pytest.mark.parametrize("encoder", ["concat", "mlp", "two_tower"])
def test_several_decisions_together_break_ties_as_each_alone(scene, encoder):
    found = scene(encoder, cached=True)
    contexts = [found.context + np.float32(0.1 * number) for number in range(9)]
    exploration = Exploration(MEMBERS, 0.5)
    together = found.policy.select_many(
        contexts, found.candidates, [np.random.default_rng(n) for n in range(9)], exploration
    )
    for number, (context, choice) in enumerate(zip(contexts, together, strict=True)):
        alone = found.policy.select(
            context, found.candidates, np.random.default_rng(number), exploration=exploration
        )
        assert choice.chosen.tolist() == alone.chosen.tolist()
        assert choice.scores.tolist() == alone.scores.tolist()
        assert choice.propensity == alone.propensity
        assert (choice.explored, choice.std) == (alone.explored, alone.std)


class FirstFeature:
    """An encoder that sees the first feature of an action alone."""

    feature_dim, uses_action = 2, True

    def encode(self, contexts: Any, actions: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.stack([np.ones(len(actions)), actions[:, 0].astype(np.float64)], axis=1)

    def encode_batch(self, context: Any, actions: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.encode(None, actions)


@pytest.mark.parametrize("num", [1, 2])
def test_an_encoder_that_sees_no_difference_leaves_the_choice_to_chance(num):
    policy = LinearHead(FirstFeature(), PosteriorConfig())
    features = np.stack([[1, 1, 1, 0, 0], np.arange(5)], axis=1).astype(np.float32)
    candidates = Candidates(np.arange(5), features)
    weights, first = np.zeros((NUM, 5)), np.zeros(5)
    for seed in range(NUM):
        rng = np.random.default_rng(seed)
        choice = policy.select(
            np.zeros(1), candidates, rng, num=num, exploration=Exploration(8, 0.0)
        )
        ballot = policy.ballot(
            np.zeros(1), candidates, np.random.default_rng(seed), Exploration(8, 0.0)
        )
        served = int(choice.chosen[0])
        assert choice.propensity == ballot.propensities[served]
        assert ballot.propensities.sum() == pytest.approx(1.0)
        assert choice.propensity is not None
        weights[seed, served] = 1 / choice.propensity
        first[served] += 1
    errors = np.abs(weights.mean(axis=0) - 1.0) / (weights.std(axis=0) / np.sqrt(NUM))
    assert errors.max() < 3.5
    assert first[:3].min() > 0.7 * first[:3].max()


@pytest.mark.parametrize("encoder", ["concat", "bilinear", "per_action"])
def test_a_greedy_policy_that_knows_nothing_takes_any_action(make, candidates_of, encoder):
    policy, candidates = make(encoder, policy="greedy"), candidates_of(4)
    choices = [
        policy.select(np.ones(4, np.float32), candidates, np.random.default_rng(seed))
        for seed in range(200)
    ]
    counts = np.bincount([choice.chosen[0] for choice in choices], minlength=4)
    assert counts.min() > 25
    assert {choice.propensity for choice in choices} == {0.25}
    ballot = policy.ballot(
        np.ones(4, np.float32), candidates, np.random.default_rng(0), Exploration(1, 0.0)
    )
    assert ballot.propensities.tolist() == [0.25] * 4


def test_a_catalogue_compares_its_actions_once():
    features = np.array([[1, 2], [0, 1], [1, 2], [-0.0, 1], [3, 3]], np.float32)
    change = CatalogueChange(tuple(map(ActionId, "abcde")), features, np.ones(5, np.bool_))
    catalogue = Catalogue.empty(RowLayout((1,), "float32", 2)).changed(change)[0]
    found = catalogue.equal_actions()
    assert found is not None
    assert found.tolist() == [0, 1, 0, 1, 4]
    assert catalogue.equal_actions() is found
    apart, _ = catalogue.changed(
        CatalogueChange((ActionId("c"), ActionId("d")), features[3:] + 7, np.ones(2, np.bool_))
    )
    assert apart.equal_actions() is None


# -- groups --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_equal_rows_are_those_that_compare_equal(data):
    num = data.draw(st.integers(0, 40))
    size = data.draw(st.integers(0, 3))
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3e38])
    rows = np.array(
        data.draw(
            st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=num, max_size=num)
        ),
        np.float32,
    ).reshape(num, size)
    firsts = [next(j for j in range(i + 1) if np.array_equal(rows[j], rows[i])) for i in range(num)]
    found = equal_rows(rows)
    assert (list(range(num)) if found is None else found.tolist()) == firsts
    groups = None if found is None else Groups.by(found)
    if found is not None:
        assert groups is not None
        assert np.array_equal(rows[groups.first][groups.of], rows)
        assert groups.sizes.sum() == num


@pytest.mark.parametrize("size", [1, 16, 300])
def test_equal_rows_of_many_are_found_by_numbers(size):
    rng = np.random.default_rng(size)
    rows = rng.permutation(5000 * size).reshape(5000, size).astype(np.float32)
    assert equal_rows(rows) is None
    rows[4321] = rows[17]
    rows[4999] = rows[17]
    rows[600] = rows[599]
    expected = np.arange(5000)
    expected[[4321, 4999, 600]] = 17, 17, 599
    found = equal_rows(rows)
    assert found is not None
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("num", [6, 1200])
def test_objects_are_equal_where_their_bytes_are(num):
    """Rows of bytes with zeros behind them, among few and among many."""
    texts = [b'{"k":%d}' % (number % (num // 2)) for number in range(num)]
    rows = np.zeros((num, 64), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    found = equal_rows(rows)
    assert found is not None
    assert found.tolist() == [number % (num // 2) for number in range(num)]
    assert equal_rows(rows[: num // 2]) is None
    assert equal_rows(np.zeros((3, 8), np.uint8)) is not None
