"""Selecting: greedy, several picks, retrieval, chunks, repeatability and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.ids import ActionSlot
from bandexa_core.policies import Candidates, Uniform

# Encoder, its parameters, context shape: every way in which scores come about.
WAYS = {
    "concat": ("concat", {}, (4,)),
    "interactions": ("interactions", {}, (4,)),
    "bilinear": ("bilinear", {}, (4,)),
    "per_action": ("per_action", {}, (4,)),
    "mlp": ("mlp", {}, (4,)),
    "mlp per action": ("mlp", {"heads": "per_action"}, (4,)),
    "two_tower": ("two_tower", {}, (4,)),
    "conv fused": ("conv", {"heads": "fused"}, (4, 4)),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture
def learned(make, make_rows, learn_all):
    """Return a policy that has learned a few rows, and a context."""

    def build(way, **options):
        encoder, params, shape = way
        policy = make(encoder, params=params, shape=shape, **options)
        rows = make_rows(20, num_slots=6, shape=shape)
        learn_all(policy, rows)
        return policy, rows.contexts[3]

    return build


def test_the_same_decision_repeats_bit_for_bit(way, learned, candidates_of, decision_rng):
    (policy, context), candidates = learned(way), candidates_of(7)
    for number in range(5):
        first, again = (
            policy.select(context, candidates, decision_rng(number), num=7) for _ in range(2)
        )
        assert np.array_equal(first.chosen, again.chosen)
        assert np.array_equal(first.scores, again.scores)


def test_selecting_and_scoring_change_nothing(
    way, learned, candidates_of, decision_rng, assert_same
):
    (policy, context), candidates = learned(way), candidates_of(7)
    before = {name: tensor.copy() for name, tensor in policy.tensors().items()}
    policy.select(context, candidates, decision_rng(0), num=3, retrieve=4)
    policy.score(context, candidates)
    assert_same(policy.tensors(), before)


def test_greedy_takes_the_largest_mean_whatever_the_decision(
    way, learned, candidates_of, decision_rng
):
    policy, context = learned(way, policy="greedy")
    candidates = candidates_of(7)
    mean, _ = policy.score(context, candidates)
    assert len(np.unique(mean)) == 7 or not policy.encoder.uses_action
    for number in range(5):
        choice = policy.select(context, candidates, decision_rng(number), num=3)
        assert choice.chosen.tolist() == np.argsort(-mean, kind="stable")[:3].tolist()
        np.testing.assert_allclose(choice.scores, mean[choice.chosen], rtol=1e-10, atol=1e-13)


def test_the_mean_of_a_shared_posterior_is_features_times_weights(learned, candidates_of):
    policy, context = learned(WAYS["mlp"])
    candidates = candidates_of(7)
    z_KD = policy.encoder.encode_batch(context, candidates.features)
    mean, std = policy.score(context, candidates)
    np.testing.assert_allclose(mean, z_KD @ policy.posterior.mean, rtol=1e-12)
    cov = policy.posterior.root @ policy.posterior.root.T
    s2 = policy.posterior.noise_mean
    np.testing.assert_allclose(std**2, s2 * np.diag(z_KD @ cov @ z_KD.T), rtol=1e-10)


def test_several_picks_are_the_first_of_the_whole_ranking(
    way, learned, candidates_of, decision_rng
):
    (policy, context), candidates = learned(way), candidates_of(7)
    for number in range(5):
        ranking = policy.select(context, candidates, decision_rng(number), num=7)
        assert sorted(ranking.chosen.tolist()) == list(range(7))
        assert (np.diff(ranking.scores) <= 0).all()
        for num in (1, 2, 6):
            choice = policy.select(context, candidates, decision_rng(number), num=num)
            assert choice.chosen.dtype == np.int64
            assert np.array_equal(choice.chosen, ranking.chosen[:num])
            assert np.array_equal(choice.scores, ranking.scores[:num])
            assert choice.retrieved is None


def test_retrieval_returns_the_best_by_the_sampled_weights_and_changes_no_choice(
    way, learned, candidates_of, decision_rng
):
    (policy, context), candidates = learned(way), candidates_of(7)
    for number in range(5):
        ranking = policy.select(context, candidates, decision_rng(number), num=7).chosen
        for retrieve in (1, 3, 6):
            choice = policy.select(context, candidates, decision_rng(number), retrieve=retrieve)
            assert choice.retrieved is not None
            assert choice.retrieved.tolist() == sorted(ranking[:retrieve].tolist())
            assert choice.chosen[0] == ranking[0]


@pytest.mark.parametrize("retrieve", [7, 8])
def test_retrieving_all_candidates_is_no_retrieval(learned, candidates_of, decision_rng, retrieve):
    policy, context = learned(WAYS["two_tower"])
    choice = policy.select(context, candidates_of(7), decision_rng(0), retrieve=retrieve)
    assert choice.retrieved is None
    uniform = Uniform().select(context, candidates_of(7), decision_rng(0), retrieve=retrieve)
    assert uniform.retrieved is None


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=2, max_size=40),
    retrieve=st.integers(1, 39),
)
def test_what_is_chosen_is_among_the_retrieved_ties_too(make, scores, retrieve):
    """Greedy on equal candidates: all scores tie, as they do for duplicates in a catalogue."""
    policy = make("concat", policy="greedy", shape=(1,), action_dim=1)
    features = np.array(scores, np.float32)[:, None]
    for value in (0.0, 1.0, 2.0) * 4:
        policy.learn(np.zeros(1, np.float32), np.array([value], np.float32), 0, None, value)
    candidates = Candidates(np.arange(len(scores)), features)
    num = min(retrieve, 3, len(scores))
    choice = policy.select(
        np.zeros(1, np.float32), candidates, np.random.default_rng(0), num=num, retrieve=retrieve
    )
    assert choice.scores[0] == policy.score(np.zeros(1, np.float32), candidates)[0].max()
    if choice.retrieved is not None:
        assert len(choice.retrieved) == retrieve
        assert set(choice.chosen.tolist()) <= set(choice.retrieved.tolist())


@pytest.mark.parametrize("chunk", [1, 2, 3, 6, 7, 100])
def test_a_chunk_size_never_changes_the_choice(way, learned, candidates_of, decision_rng, chunk):
    policy, context = learned(way)
    chunked, _ = learned(way, selection={"action_chunk": chunk})
    candidates = candidates_of(7)
    parts = policy.action_parts(candidates.features)
    rtol, atol = (1e-5, 1e-6) if way[0] == "conv" else (1e-9, 1e-12)
    if way[0] == "mlp":  # drawn on float32 features where it is encoded whole
        rtol, atol = 1e-6, 1e-6
    for offered in (candidates, Candidates(candidates.slots, candidates.features, parts)):
        for number in range(3):
            whole = policy.select(context, offered, decision_rng(number), num=7, retrieve=3)
            found = chunked.select(context, offered, decision_rng(number), num=7, retrieve=3)
            assert np.array_equal(found.chosen, whole.chosen)
            assert np.array_equal(found.retrieved, whole.retrieved)
            np.testing.assert_allclose(found.scores, whole.scores, rtol=rtol, atol=atol)
        for ours, theirs in zip(
            chunked.score(context, offered), policy.score(context, offered), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def test_no_more_candidates_than_a_chunk_are_encoded_at_once(learned, candidates_of):
    policy, context = learned(WAYS["conv fused"], selection={"action_chunk": 3})
    sizes = [len(z_CD) for z_CD in policy.encoded(context, candidates_of(7))]
    assert sizes == [3, 3, 1]


def test_cached_action_parts_change_no_choice(way, learned, candidates_of, decision_rng):
    policy, context = learned(way)
    bare = candidates_of(7)
    parts = policy.action_parts(bare.features)
    if way[0] in ("per_action", "conv") or way[1].get("heads") == "per_action":
        assert parts is None
        return
    assert parts is not None
    cached = Candidates(bare.slots, bare.features, parts)
    for number in range(5):
        first = policy.select(context, bare, decision_rng(number), num=7)
        second = policy.select(context, cached, decision_rng(number), num=7)
        assert np.array_equal(first.chosen, second.chosen)
        np.testing.assert_allclose(first.scores, second.scores, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        policy.score(context, bare), policy.score(context, cached), rtol=1e-9, atol=1e-12
    )


def test_a_subset_of_candidates_retains_all_their_parts():
    candidates = Candidates(
        np.array([4, 7, 9]), np.eye(3, dtype=np.float32), np.arange(6.0).reshape(3, 2)
    )
    taken = candidates.take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.slots.tolist() == [9, 4]
    assert taken.features.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert taken.parts is not None
    assert taken.parts.tolist() == [[4, 5], [0, 1]]
    assert Candidates(candidates.slots, candidates.features).take(np.array([1])).parts is None


@pytest.mark.parametrize("name", ["per_action", "mlp per action"])
def test_posteriors_per_action_do_not_know_inline_candidates(
    learned, candidates_of, decision_rng, name
):
    policy, context = learned(WAYS[name])
    known = candidates_of(3)
    candidates = Candidates(np.array([0, -1, 2]), known.features)
    for call in (
        lambda: policy.select(context, candidates, decision_rng(0)),
        lambda: policy.score(context, candidates),
    ):
        with pytest.raises(ValueError, match=r"^candidates: .*catalogue"):
            call()


def test_inline_candidates_are_scored_by_their_features(learned, candidates_of, decision_rng):
    policy, context = learned(WAYS["interactions"])
    known = candidates_of(3)
    inline = Candidates(np.array([-1, -1, -1]), known.features)
    first, second = (policy.select(context, c, decision_rng(0), num=3) for c in (known, inline))
    assert np.array_equal(first.chosen, second.chosen)


@pytest.mark.parametrize("retrieve", [None, 2])
def test_features_that_overflow_are_refused_not_chosen(make, candidates_of, decision_rng, retrieve):
    policy = make("interactions", posterior={"prior_var": 1e10})
    context = np.full(4, 1e308)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ValueError, match="finite"):
        policy.select(context, candidates_of(3), decision_rng(0), retrieve=retrieve)


def test_uniform_knows_its_propensity_and_learns_nothing(candidates_of, decision_rng):
    policy, context, candidates = Uniform(), np.zeros(4, np.float32), candidates_of(8)
    before = policy.select(context, candidates, decision_rng(0), num=8, retrieve=3)
    assert before.propensity == 1 / 8
    assert (np.diff(before.scores) <= 0).all()
    assert before.retrieved is not None
    assert before.retrieved.tolist() == sorted(before.chosen[:3].tolist())
    policy.learn(context, candidates.features[0], ActionSlot(0), None, 100.0)
    after = policy.select(context, candidates, decision_rng(0), num=8, retrieve=3)
    assert np.array_equal(before.chosen, after.chosen)
    assert policy.tensors() == {}
    mean, std = policy.score(context, candidates)
    assert not mean.any()
    assert not std.any()
    policy.load_tensors({})
    with pytest.raises(ValueError, match="posterior/mean"):
        policy.load_tensors({"posterior/mean": np.zeros(3)})


def test_features_of_a_catalogue_are_those_at_the_slots():
    catalogue = np.arange(12, dtype=np.float32).reshape(6, 2)
    slots = np.array([4, 0, 5])
    lazy = Candidates(slots, catalogue, by_slot=True)
    assert np.array_equal(lazy.action(2), catalogue[5])
    taken = lazy.take(np.array([2, 0]))
    assert np.array_equal(taken.slots, [5, 4])
    assert np.array_equal(taken.action(1), catalogue[4])
    assert lazy._taken is None, "features are gathered at their first use"
    assert np.array_equal(taken.features, catalogue[[5, 4]])
    assert np.array_equal(lazy.features, catalogue[slots])
    assert np.array_equal(lazy.action(0), catalogue[4])
    assert np.array_equal(lazy.take(np.array([1])).features, catalogue[:1])
    assert len(lazy) == 3
