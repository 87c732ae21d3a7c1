"""Arms of a bandit: what they serve, how often, and how probable that was."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from bandexa_core.arms import Asked, shares
from bandexa_core.ids import BanditUid, DecisionId
from bandexa_core.randomness import keyed_number
from bandexa_core.spec import BanditSpec, ContextSpec, SelectionSpec
from bandexa_core.spec.arms import ArmSpec, GuardSpec

IDS = ["a", "b", "c", "d", "e"]
NUM = 2000


@pytest.fixture
def grown(specs, log_writer, new_model, apply_all):
    """Return a function that makes a model with five actions and some rows, and arms."""

    def build(kind: str = "concat", **changes):
        spec = dataclasses.replace(specs[kind], **changes)
        log = log_writer(spec)
        log.actions(IDS)
        for _ in range(12):
            log.learn()
        return apply_all(new_model(spec), log.rows)

    return build


def asked(served=None, unit=None, ids=IDS) -> Asked:
    return Asked(unit, served, lambda name: ids.index(name) if name in ids else None)


def arm(name: str, share: float, **what) -> ArmSpec:
    return ArmSpec(name=name, share=share, **what)


def decided(model, x, times, ask, **more):
    names = [DecisionId(f"d{number}") for number in range(times)]
    candidates = model.enabled_candidates()
    return [model.select(name, x, candidates, asked=ask, **more) for name in names]


RULES = (
    arm("control", 0.3, action="c"),
    arm("old", 0.2, policy="first"),
    arm("caller", 0.1, policy="request"),
)
METHODS = (arm("flat", 0.2, policy="uniform"), arm("best", 0.3, policy="greedy"))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("kind", "arms"), [("concat", RULES), ("per_action", METHODS), ("mlp", METHODS)]
)
def test_what_is_served_has_the_probability_of_the_mixture(grown, kind, arms):
    """By importance weights: the sum of 1/p over the decisions that served an action is their
    number, for every action, within four standard errors; and the shares are those of the arms."""
    selection = SelectionSpec(epsilon=0.2, posterior_scale=1.0)
    model = grown(kind, arms=arms, selection=selection)
    x = np.full(model.spec.context.shape, 0.5, np.float32)
    choices = decided(model, x, NUM, asked(served="b"))
    counts = Counter(choice.arm for choice in choices)
    for name, share in shares(model.spec).items():
        assert abs(counts[name] - NUM * share) <= 4 * np.sqrt(NUM * share * (1 - share))
    for place in range(len(IDS)):
        weights = np.array([1.0 / c.propensity if c.chosen[0] == place else 0.0 for c in choices])
        assert abs(weights.mean() - 1.0) <= 4 * weights.std() / np.sqrt(NUM)
    whole = choices[0].all_propensities()
    assert whole.sum() == pytest.approx(1.0)
    assert whole[choices[0].chosen[0]] == pytest.approx(choices[0].propensity)


def test_rules_serve_what_they_say(grown):
    model = grown(arms=RULES)
    x = np.zeros(model.spec.context.shape, np.float32)
    served = {"control": "c", "old": "a", "caller": "b"}
    for choice in decided(model, x, 200, asked(served="b")):
        if choice.arm != "bandit":
            assert IDS[choice.chosen[0]] == served[choice.arm]


def test_the_bandits_own_decisions_are_those_without_arms(grown):
    plain, divided = grown(), grown(arms=RULES)
    x = np.ones(plain.spec.context.shape, np.float32)
    without, with_arms = (decided(m, x, 200, asked(served="b")) for m in (plain, divided))
    compared = 0
    for one, two in zip(without, with_arms, strict=True):
        assert one.arm is None
        if two.arm == "bandit":
            compared += 1
            assert (one.chosen, one.scores) == (two.chosen, two.scores)
            rules = 0.3 * (two.chosen[0] == 2) + 0.2 * (two.chosen[0] == 0)
            rules += 0.1 * (two.chosen[0] == 1)
            assert two.propensity == pytest.approx(0.4 * one.propensity + rules)
    assert compared > 50


SHADOWS = (
    arm("dark", 0.0, policy="greedy", shadow=True),
    arm("random", 0.0, policy="uniform", shadow=True),
    arm("fixed", 0.0, action="d", shadow=True),
    arm("caller", 0.0, policy="request", shadow=True),
)


def test_a_shadow_decides_and_changes_nothing(grown):
    """Arms, actions and every probability are those without shadows; its own draws differ."""
    x = np.array([1.0, 0.4, -0.3, 0.2], np.float32)
    plain = decided(grown(arms=METHODS), x, 200, asked(served="b"))
    model = grown(arms=(*METHODS, *SHADOWS))
    shaded = decided(model, x, 200, asked(served="b"))
    for one, other in zip(plain, shaded, strict=True):
        assert other.arm == one.arm
        assert other.chosen.tolist() == one.chosen.tolist()
        assert other.propensity == one.propensity
        np.testing.assert_array_equal(other.all_propensities(), one.all_propensities())
        assert one.shadows == {}
        assert (other.shadows["fixed"], other.shadows["caller"]) == (3, 1)
    best = Counter(choice.shadows["dark"] for choice in shaded).most_common(1)
    assert best[0][1] > 190  # but for its floor
    assert {choice.shadows["random"] for choice in shaded} == set(range(5))
    assert shaded[0].shadows == decided(model, x, 1, asked(served="b"))[0].shadows, "it repeats"
    # Alone it makes nobody but the bandit decide; what it cannot serve it does not decide.
    (alone,) = decided(grown(arms=SHADOWS), x, 1, asked())
    (bare,) = decided(grown(), x, 1, None)
    assert (alone.arm, alone.chosen.tolist()) == ("bandit", bare.chosen.tolist())
    assert alone.propensity == bare.propensity
    assert set(alone.shadows) == {"dark", "random", "fixed"}


@pytest.mark.parametrize(
    "arms", [RULES, METHODS, (*METHODS, *SHADOWS)], ids=["rules", "methods", "shadows"]
)
def test_decisions_drawn_together_are_those_drawn_one_by_one(grown, arms):
    model = grown(arms=arms)
    rng = np.random.default_rng(0)
    contexts = rng.normal(size=(40, *model.spec.context.shape)).astype(np.float32)
    names = [DecisionId(f"d{number}") for number in range(40)]
    asks = [asked(served="b", unit=f"u{number % 7}") for number in range(40)]
    candidates = model.enabled_candidates()
    together = model.select_many(names, list(contexts), candidates, asks)
    for name, x, ask, found in zip(names, contexts, asks, together, strict=True):
        alone = model.select(name, x, candidates, asked=ask)
        assert (alone.arm, alone.chosen, alone.scores) == (found.arm, found.chosen, found.scores)
        assert alone.propensity == pytest.approx(found.propensity, rel=1e-12)
        assert alone.explored == found.explored
        assert alone.shadows == found.shadows


@pytest.mark.slow
def test_several_places_have_the_probability_of_the_mixture(grown):
    model = grown(arms=RULES, selection=SelectionSpec(epsilon=0.3))
    x = np.zeros(model.spec.context.shape, np.float32)
    choices = decided(model, x, NUM, asked(served="e"), num=3)
    for place in range(3):
        weights = np.array(
            [1.0 / c.propensities[place] if c.chosen[place] == 3 else 0.0 for c in choices]
        )
        assert abs(weights.mean() - 1.0) <= 4 * weights.std() / np.sqrt(NUM)
    of_rules = [c for c in choices if c.arm == "caller"]
    assert of_rules
    assert all(c.chosen.tolist() == [4, 0, 1] for c in of_rules)


def test_a_unit_stays_in_its_arm_and_its_propensity_is_given_that(grown):
    model = grown(arms=RULES, sticky="unit")
    x = np.zeros(model.spec.context.shape, np.float32)
    arms = set()
    for unit in range(60):
        choices = decided(model, x, 5, asked(served="b", unit=f"u{unit}"))
        (name,) = {choice.arm for choice in choices}
        arms.add(name)
        if name != "bandit":
            assert all(choice.propensity == 1.0 for choice in choices)
    assert arms == {"bandit", "control", "old", "caller"}
    without_unit = {choice.arm for choice in decided(model, x, 60, asked(served="b"))}
    assert without_unit == arms


def test_a_request_that_an_arm_cannot_serve_is_the_bandits_whichever_arm_was_drawn(grown):
    model, plain = grown(arms=RULES), grown()
    x = np.zeros(model.spec.context.shape, np.float32)
    for ask in (asked(), asked(served="nothing"), asked(served="b", ids=["a", "b"])):
        for one, two in zip(decided(model, x, 50, ask), decided(plain, x, 50, ask), strict=True):
            assert one.arm is None
            assert (one.chosen, one.propensity) == (two.chosen, two.propensity)


def test_one_arm_or_one_action_can_serve_everything(grown):
    for changes, name, action in (
        ({"arms": RULES, "mode": "control_only"}, "control", "c"),
        ({"arms": RULES, "mode": "control_only", "guard": GuardSpec(arm="old")}, "old", "a"),
        ({"serve": "d"}, "served", "d"),
    ):
        model = grown(**changes)
        for choice in decided(
            model, np.zeros(model.spec.context.shape, np.float32), 20, asked(served="b")
        ):
            assert (choice.arm, IDS[choice.chosen[0]], choice.propensity) == (name, action, 1.0)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("share", lambda: arm("control", 0.6, action="a")),
        ("share", lambda: arm("control", float("nan"), action="a")),
        ("name", lambda: arm("bandit", 0.1, action="a")),
        ("name", lambda: arm("two words", 0.1, action="a")),
        ("policy", lambda: arm("control", 0.1)),
        ("policy", lambda: arm("control", 0.1, action="a", policy="first")),
        ("policy", lambda: arm("control", 0.1, policy="worst")),
        ("arms", lambda: made(arms=(arm("x", 0.5, action="a"), arm("y", 0.5, action="b")))),
        ("arms", lambda: made(arms=(arm("x", 0.1, action="a"), arm("x", 0.1, action="b")))),
        (
            "arms.0.policy",
            lambda: made(
                policy="greedy", arms=(arm("x", 0.1, policy="squarecb"),)
            ).check_together(),
        ),
        ("share", lambda: arm("dark", 0.1, action="a", shadow=True)),
        ("guard", lambda: made(guard=GuardSpec(margin=0.1))),
        (
            "guard",
            lambda: made(
                arms=(arm("control", 0.0, action="a", shadow=True),), guard=GuardSpec(margin=0.1)
            ),
        ),
        ("mode", lambda: made(mode="control_only")),
        ("margin", lambda: GuardSpec(margin=-1.0)),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(field, make):
    with pytest.raises(ValueError, match=f"^{field}:"):
        make()


def test_a_policy_that_is_none_says_how_an_arm_serves_one_action():
    with pytest.raises(ValueError, match=r"^policy: .* leave it out .* one `action`$"):
        arm("control", 0.1, policy="action")


def made(**more) -> BanditSpec:
    return BanditSpec(context=ContextSpec(shape=(2,)), **more)


def test_the_number_that_draws_an_arm_is_uniform():
    found = np.array([keyed_number(BanditUid("uid"), 1, "arm", f"d{n}") for n in range(NUM)])
    counts, _ = np.histogram(found, 20, (0.0, 1.0))
    assert ((counts - NUM / 20) ** 2 / (NUM / 20)).sum() < 43.8  # chi-square of 19 at 0.001
