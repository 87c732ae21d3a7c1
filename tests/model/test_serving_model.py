"""The serving model: what each kind of row does to it, and how it answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from bandexa_core.ids import ActionId, DecisionId
from bandexa_core.log.configurations import changed_spec
from bandexa_core.log.rows import row_by_row
from bandexa_core.model import Progress
from bandexa_core.policies import Candidates, Uniform
from bandexa_core.randomness import keyed_rng
from bandexa_core.spec.changes import relearned_part
from service.serving.select.commands import InlineCandidates

SPLIT = ["concat", "interactions", "bilinear", "mlp", "two_tower"]


@pytest.fixture
def grown(log_writer, new_model, apply_all):
    """Return a model with five actions and some learned rows, and the writer of its log."""

    def build(spec, num_rows: int = 12):
        log = log_writer(spec)
        log.actions(["a", "b", "c", "d", "e"])
        for _ in range(num_rows):
            log.learn()
        return apply_all(new_model(spec), log.rows), log

    return build


def _ids(model, choice) -> list[str]:
    slots = model.enabled_candidates().slots
    return [model.catalogue.ids[slots[index]] for index in choice.chosen]


def _assert_parts_are_current(model, x):
    """Cached parts score as those computed now do."""
    cached = model.enabled_candidates()
    bare = Candidates(cached.slots, cached.features)
    assert cached.parts is not None
    assert len(cached.parts) == len(cached)
    np.testing.assert_allclose(
        model.policy.score(x, cached), model.policy.score(x, bare), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        model.select(DecisionId("p"), x, cached, num=len(cached)).scores,
        model.select(DecisionId("p"), x, bare, num=len(cached)).scores,
        rtol=1e-9,
        atol=1e-12,
    )


def test_a_learn_row_teaches_the_policy_and_counts_a_decision_once(specs, grown):
    spec = specs["concat"]
    model, log = grown(spec, 5)
    by_hand = model.policy.posterior.copy()
    row, correction = log.learn(), log.correct()
    for each in (row, correction):
        model.apply(row_by_row(each), None)
        (z,) = model.policy.features(each.context[None], each.action[None])
        if each.before is None:
            by_hand.update(z, each.after)
        else:
            by_hand.correct(z, each.before, each.after)
    found, expected = model.policy.posterior.to_tensors(), by_hand.to_tensors()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert model.progress == Progress(num_learned=6)
    assert model.position == 8


def test_rows_are_applied_in_the_order_of_their_positions(specs, grown):
    model, log = grown(specs["concat"])
    first, second = log.learn(), log.learn()
    for wrong in (second, replace(first, position=model.position)):
        with pytest.raises(AssertionError, match="after 13"):
            model.apply(row_by_row(wrong), None)
    model.apply(row_by_row(first), None)
    model.apply(row_by_row(second), None)
    assert model.position == 15


def test_a_replaced_model_takes_no_row_and_still_answers(specs, grown):
    model, log = grown(specs["concat"])
    x = log.context()
    before = model.select(DecisionId("d"), x, model.enabled_candidates())
    model.frozen = True
    with pytest.raises(AssertionError, match="successor"):
        model.apply(row_by_row(log.learn()), None)
    after = model.select(DecisionId("d"), x, model.enabled_candidates())
    assert np.array_equal(after.scores, before.scores)


def test_a_select_in_flight_retains_its_candidates(specs, grown):
    """Encoding and scoring may run while rows are applied: what they work on never changes."""
    model, log = grown(specs["two_tower"])
    offered = model.enabled_candidates()
    kept = [array.copy() for array in (offered.slots, offered.features, offered.parts)]
    model.apply(row_by_row(log.actions(["b"])), None)
    model.apply(row_by_row(log.actions(["c", "f"])), None)
    model.apply(row_by_row(log.actions(["a"], enabled=False, features=False)), None)
    for array, copy in zip((offered.slots, offered.features, offered.parts), kept, strict=True):
        assert np.array_equal(array, copy)
    assert model.enabled_candidates().slots.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", SPLIT)
def test_cached_action_parts_follow_every_change_of_the_catalogue(
    specs, name, log_writer, new_model
):
    spec = specs[name]
    log, model = log_writer(spec), new_model(spec)
    steps = [
        lambda: log.actions(["a", "b", "c"]),
        log.learn,
        lambda: log.actions(["d", "b"]),
        lambda: log.actions(["c"], enabled=False, features=False),
        lambda: log.actions(["e", "c", "a", "f"]),
        log.learn,
        lambda: log.actions(["a"], enabled=False),
        lambda: log.actions(["a"], features=False),
    ]
    for step in steps:
        model.apply(row_by_row(step()), None)
        _assert_parts_are_current(model, log.context())
    assert [str(i) for i in model.catalogue.ids] == ["a", "b", "c", "d", "e", "f"]


def test_posteriors_per_action_cache_no_parts(specs, grown):
    for name in ("per_action", "mlp per action", "conv", "uniform"):
        model, _ = grown(specs[name])
        assert model.enabled_candidates().parts is None


@pytest.mark.parametrize("ids", [["b"], ["b", "d"], ["b", "new"]])
def test_a_change_leaves_candidates_and_models_alone_that_exist_already(specs, grown, ids):
    model, log = grown(specs["mlp"])
    model.apply(row_by_row(log.actions(["a"])), None)  # folded into parts that nobody else has
    x, group = log.context(), row_by_row(log.actions(ids))
    other = model.successor(group, None)
    seen = other.enabled_candidates()
    for changed in (other, model):
        served = model.enabled_candidates()
        before = [served.features.copy(), served.parts.copy(), *model.policy.score(x, served)]
        if changed is model:
            model.apply(group, None)
        _assert_parts_are_current(changed, x)
        after = [served.features, served.parts, *model.policy.score(x, served)]
        for one, same in zip(before, after, strict=True):
            assert np.array_equal(one, same)
    again = other.enabled_candidates()
    assert np.array_equal(seen.parts, again.parts)
    assert np.array_equal(seen.parts, model.enabled_candidates().parts)


def test_a_retired_action_is_not_offered_until_it_is_enabled_again(specs, grown):
    model, log = grown(specs["mlp"])
    x = log.context()
    model.apply(row_by_row(log.actions(["b", "d"], enabled=False, features=False)), None)
    assert model.enabled_candidates().slots.tolist() == [0, 2, 4]
    ranking = model.select(DecisionId("d"), x, model.enabled_candidates(), num=3)
    assert sorted(_ids(model, ranking)) == ["a", "c", "e"]
    model.apply(row_by_row(log.actions(["d"], features=False)), None)
    assert model.enabled_candidates().slots.tolist() == [0, 2, 3, 4]
    known = model.candidates([ActionId("d")]).features
    assert np.array_equal(known, log.catalogue.features[3:4])


def test_what_was_learned_of_a_retired_action_stays(specs, grown):
    model, log = grown(specs["per_action"], 40)
    x = log.context()
    before = model.policy.score(x, model.candidates([ActionId("b")]))
    model.apply(row_by_row(log.actions(["b"], enabled=False, features=False)), None)
    model.apply(row_by_row(log.actions(["b"])), None)
    assert np.array_equal(model.policy.score(x, model.candidates([ActionId("b")])), before)


def test_candidates_by_id_keep_the_order_they_were_asked_in(specs, grown):
    model, _ = grown(specs["two_tower"])
    found = model.candidates([ActionId("d"), ActionId("a")])
    assert found.slots.tolist() == [3, 0]
    assert np.array_equal(found.features, model.catalogue.features[[3, 0]])
    everything = model.enabled_candidates()
    assert everything.parts is not None
    assert found.parts is not None
    assert np.array_equal(found.parts, everything.parts[[3, 0]])
    backwards = model.candidates([ActionId(i) for i in "edcba"])
    assert backwards.slots.tolist() == [4, 3, 2, 1, 0]
    assert np.array_equal(backwards.features, model.catalogue.features[::-1])
    assert backwards.parts is not None
    assert np.array_equal(backwards.parts, everything.parts[::-1])
    with pytest.raises(KeyError, match="nobody"):
        model.candidates([ActionId("a"), ActionId("nobody")])


def test_inline_candidates_bring_features_and_keep_a_known_slot(specs, grown):
    model, log = grown(specs["concat"])
    features = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = model.inline_candidates([ActionId("new"), ActionId("c")], features)
    assert found.slots.tolist() == [-1, 2]
    assert np.array_equal(found.features, features)
    choice = model.select(DecisionId("d"), log.context(), found, num=2)
    assert sorted(choice.chosen.tolist()) == [0, 1]


@pytest.mark.parametrize("num", [4, 12])
def test_inline_candidates_that_were_looked_up_are_the_same(specs, grown, num):
    model, log = grown(specs["concat"])  # of five actions, "a" to "e"
    ids = tuple(map(ActionId, ["new", "c", "a", *(f"n{place}" for place in range(num - 3))]))
    features = np.arange(4.0 * num).reshape(num, 4)
    features[1::2] = features[:-1:2]  # pairs of equal ones
    sent = InlineCandidates(ids, features)
    found = sent.looked_up()

    def candidates(given: InlineCandidates):
        rows = features.astype(np.float32)
        return model.inline_candidates(given.ids, rows, given.groups, given.places)

    plain, prepared = candidates(sent), candidates(found)
    assert prepared.slots.tolist() == plain.slots.tolist() == [-1, 2, 0, *[-1] * (num - 3)]
    assert plain.groups is not None
    assert prepared.groups is not None
    for one, other in zip(plain.groups, prepared.groups, strict=True):
        assert np.array_equal(one, other)
    x = log.context()
    chosen, again = (model.select(DecisionId("d"), x, each, num=2) for each in (plain, prepared))
    assert chosen.chosen.tolist() == again.chosen.tolist()
    assert chosen.propensity == again.propensity


def test_a_decision_repeats_and_depends_on_nothing_but_its_key(specs, grown, new_model, apply_all):
    spec = specs["mlp"]
    model, log = grown(spec)
    x, offered = log.context(), model.enabled_candidates()

    def scores(served, decision: str) -> list[float]:
        choice = served.select(DecisionId(decision), x, offered, num=5)
        return [float(score) for score in choice.scores[np.argsort(choice.chosen)]]

    first = scores(model, "d-1")
    assert scores(model, "d-2") != first
    assert scores(model, "d-1") == first
    other_seed = dataclasses.replace(spec, seed=4)
    changed = apply_all(new_model(other_seed), log.rows)
    changed.policy.load_tensors(model.policy.tensors())
    assert scores(changed, "d-1") != first
    no_seed = apply_all(new_model(dataclasses.replace(spec, seed=None)), log.rows)
    zero = apply_all(new_model(dataclasses.replace(spec, seed=0)), log.rows)
    assert scores(no_seed, "d-1") == scores(zero, "d-1")


def test_the_first_decisions_are_uniform_until_the_warm_up_is_learned(specs, log_writer, new_model):
    spec = dataclasses.replace(
        specs["greedy"],
        selection=dataclasses.replace(specs["greedy"].selection, warmup_random=3),
    )
    log, model = log_writer(spec), new_model(spec)
    model.apply(row_by_row(log.actions(["a", "b", "c", "d", "e"])), None)
    x = log.context()
    for row in (log.learn(), log.learn(), log.correct()):
        decisions = [DecisionId(f"d-{number}") for number in range(400)]
        choices = [model.select(d, x, model.enabled_candidates()) for d in decisions]
        assert {choice.propensity for choice in choices} == {0.2}
        counts = np.bincount([choice.chosen[0] for choice in choices], minlength=5)
        assert stats.chisquare(counts).pvalue > 1e-3
        model.apply(row_by_row(row), None)
    assert model.progress.num_learned == 2
    model.apply(row_by_row(log.learn()), None)
    picks = {
        int(model.select(DecisionId(f"d-{n}"), x, model.enabled_candidates()).chosen[0])
        for n in range(50)
    }
    best = int(np.argmax(model.policy.score(x, model.enabled_candidates())[0]))
    assert picks == {best}


def test_a_configuration_row_changes_what_may_change(specs, grown):
    model, log = grown(specs["mlp"])
    before = model.spec
    row = log.configure(
        training={"train_every": 7, "lr": 0.5},
        replay={"capacity": 99},
        selection={"action_chunk": 2, "warmup_random": 4},
    )
    model.apply(row_by_row(row), None)
    assert (model.spec.training.train_every, model.spec.training.lr) == (7, 0.5)
    assert model.spec.replay.capacity == 99
    assert (model.spec.selection.action_chunk, model.spec.selection.warmup_random) == (2, 4)
    assert model.policy.action_chunk == 2
    assert relearned_part(model.spec) == relearned_part(before)
    assert changed_spec(before, row.spec) == model.spec


def test_a_changed_warm_up_and_schedule_take_effect_at_once(specs, grown):
    model, log = grown(specs["mlp"], 12)
    offered, x = model.enabled_candidates(), log.context()
    assert model.select(DecisionId("d"), x, offered).propensity != 0.2
    assert not model.round_due()
    model.apply(
        row_by_row(log.configure(selection={"warmup_random": 13}, training={"train_every": 12})),
        None,
    )
    assert model.select(DecisionId("d"), x, offered).propensity == 0.2
    expected = Uniform().select(x, offered, keyed_rng(model.uid, 3, "decision", "d"))
    assert model.select(DecisionId("d"), x, offered).chosen == expected.chosen
    assert model.round_due()


@pytest.mark.parametrize("encoder", ["concat", "per_action", "mlp"])
@pytest.mark.parametrize("method", ["squarecb", "greedy", "uniform"])
def test_a_changed_method_decides_from_its_row_on_and_draws_again_as_it_did(
    specs, grown, encoder, method
):
    """The floor of a third makes each method choose among all five."""
    model, log = grown(specs[encoder])
    offered, x = model.enabled_candidates(), log.context()
    ids = [DecisionId(f"d-{number}") for number in range(60)]
    by_draw = [model.select(d, x, offered).propensity for d in ids]
    model.apply(row_by_row(log.configure(selection={"method": method, "epsilon": 1 / 3})), None)
    choices = [model.select(d, x, offered) for d in ids]
    for d, choice in zip(ids, choices, strict=True):
        again, ballot = model.select(d, x, offered), model.ballot(d, x, offered)
        assert again.chosen.tolist() == choice.chosen.tolist()
        assert again.scores.tolist() == choice.scores.tolist()
        assert ballot.propensities == pytest.approx(choice.all_propensities(), abs=1e-15)
        assert ballot.propensities[choice.chosen[0]] == pytest.approx(choice.propensity, abs=1e-15)
        assert ballot.sampled[choice.chosen[0]] == choice.scores[0]
    together = model.select_many(ids, [x] * 60, offered)
    assert [c.chosen.tolist() for c in together] == [c.chosen.tolist() for c in choices]
    assert len({int(choice.chosen[0]) for choice in choices}) > 2
    assert len({tuple(choice.all_propensities()) for choice in choices}) == 1
    model.apply(row_by_row(log.configure(selection={})), None)
    assert [model.select(d, x, offered).propensity for d in ids] == by_draw


def test_gamma_is_in_the_unit_of_the_rewards(specs, grown):
    """Of a declared range that is its width: ten times the width, a tenth of the sharpness."""
    spec = specs["concat"]
    low, high = spec.reward_range
    wide = dataclasses.replace(
        spec,
        reward_range=(low, low + 10 * (high - low)),
        posterior=dataclasses.replace(spec.posterior, prior_var=1.0, noise_var=0.1),
    )
    narrow = dataclasses.replace(wide, reward_range=(low, high))
    means, found = [], []
    for each in (wide, narrow):
        model, log = grown(each)
        offered, x = model.enabled_candidates(), np.full_like(log.context(), 0.7)
        model.apply(row_by_row(log.configure(selection={"method": "squarecb"})), None)
        means.append(model.policy.score(x, offered)[0])
        found.append(model.select(DecisionId("d"), x, offered).all_propensities())
    assert means[0] == pytest.approx(means[1])
    gaps, epsilon = means[0].max() - means[0], spec.epsilon_at(0)
    for probabilities, width in zip(found, (10 * (high - low), high - low), strict=True):
        shares = 1.0 / (5 + 10.0 * np.sqrt(12) * gaps / width)
        shares[gaps == 0.0] = 1.0 - shares[gaps > 0.0].sum()
        assert probabilities == pytest.approx((1 - epsilon) * shares + epsilon / 5)


def test_without_a_range_gamma_is_in_the_unit_that_the_posterior_learned(specs, grown):
    spec = dataclasses.replace(specs["concat"], reward_range=None, edition=2)
    model, log = grown(spec)
    offered, x = model.enabled_candidates(), log.context()
    model.apply(row_by_row(log.configure(selection={"method": "squarecb"})), None)
    means, unit = model.policy.score(x, offered)[0], model.policy.posterior.frame.unit
    assert unit != 1.0
    shares = 1.0 / (5 + 10.0 * np.sqrt(12) * (means.max() - means) / unit)
    shares[means.argmax()] = 1.0 - np.delete(shares, means.argmax()).sum()
    found = model.ballot(DecisionId("d"), x, offered).shares
    assert found == pytest.approx(shares)


def test_bandits_of_edition_1_may_change_their_method(specs, grown):
    spec = dataclasses.replace(specs["concat"], edition=1)
    model, log = grown(spec)
    offered, x = model.enabled_candidates(), log.context()
    model.apply(row_by_row(log.configure(selection={"method": "squarecb"})), None)
    found = model.select(DecisionId("d"), x, offered).all_propensities()
    assert found.sum() == pytest.approx(1.0)
    assert len(set(found.tolist())) == 5
