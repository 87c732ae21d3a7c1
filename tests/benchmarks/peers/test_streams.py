"""Every policy meets the same stream, and regret is what the means and the choices say."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.peers import scenes
from benchmarks.peers.ours import OurPlayer
from benchmarks.peers.play import figures, play
from benchmarks.peers.player import Choice, Outcome, UnavailableError
from benchmarks.peers.policies import NAMED, POLICIES
from benchmarks.peers.problems import PROBLEMS
from benchmarks.peers.stream import Stream
from benchmarks.peers.tables import classification_stream, movielens_stream
from benchmarks.regret import run_one
from benchmarks.regret_problems import PROBLEMS as OF_REGRET
from simulators.environments import SyntheticEnvironment
from simulators.policies import PLANS, bandit_spec


class Scripted:
    """Chooses by a rule, and writes down what it was shown and paid."""

    def __init__(self, rule):
        self.rule = rule
        self.shown: list[tuple[bytes, tuple[str, ...]]] = []
        self.batches: list[list[Outcome]] = []
        self.retired: list[str] = []

    def select(self, step, context, ids, features):
        self.shown.append((context.tobytes(), tuple(ids)))
        return Choice(self.rule(step, ids), None)

    def learn(self, outcomes: Sequence[Outcome]):
        self.batches.append(list(outcomes))

    def retire(self, action_id):
        self.retired.append(action_id)


def first(step, ids):
    return ids[0]


def in_turns(step, ids):
    return ids[step % len(ids)]


def small_table():
    return {
        "x": np.arange(12, dtype=np.float32).reshape(6, 2),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "labels": np.array(["red", "green", "blue"]),
    }


def small_films():
    rng = np.random.default_rng(1)
    return {
        "users": np.eye(3, dtype=np.float32),
        "items": rng.random((120, 2)).astype(np.float32),
        "item_ids": np.array([f"film{number}" for number in range(120)]),
        # Users 0 and 1 have 120 and 50 ratings, two visits and one; user 2 has none.
        "ratings": np.array(
            [
                *((0, film, 1 + film % 5) for film in range(120)),
                *((1, film, 4) for film in range(50)),
                *((2, film, 5) for film in range(49)),
            ]
        ),
    }


@pytest.mark.parametrize("name", [name for name, row in PROBLEMS.items() if row.table is None])
def test_a_scene_is_the_same_for_every_policy_and_another_with_another_seed(name):
    problem = PROBLEMS[name]
    first_one, again, other = (problem.make(seed=seed, horizon=60) for seed in (3, 3, 4))
    assert first_one.digest() == again.digest() != other.digest()
    one, two = Scripted(first), Scripted(in_turns)
    play(one, first_one)
    play(two, again)
    assert one.shown == two.shown
    assert one.retired == two.retired


def test_a_rewards_batch_arrives_whole_and_in_the_order_of_its_steps():
    player = Scripted(in_turns)
    play(player, scenes.delayed(seed=3, horizon=25, delay=10))
    steps = [[outcome.step for outcome in batch] for batch in player.batches]
    assert steps == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


def test_a_row_of_a_table_comes_once_and_its_label_alone_pays():
    stream = classification_stream(small_table(), seed=5, horizon=10)
    assert stream.horizon == 6
    assert {tuple(x) for x in stream.contexts} == {tuple(x) for x in small_table()["x"]}
    for x, row in zip(stream.contexts, stream.rewards, strict=True):
        label = int(x[0]) // 2 % 3
        assert row.tolist() == [float(action == label) for action in range(3)]


def test_a_table_is_played_as_objects_on_the_same_stream():
    """Our policy gets a row as an object, and the labels as actions; it learns which is right."""
    rows = [{"color": name, "n": n} for n in range(40) for name in ("red", "green", "blue")]
    table = small_table() | {
        "x": np.arange(240, dtype=np.float32).reshape(120, 2),
        "y": np.array([("red", "green", "blue").index(row["color"]) for row in rows]),
        "objects": np.array([json.dumps(row).encode() for row in rows]),
    }
    stream = classification_stream(table, seed=5, horizon=120)
    assert stream.objects is not None
    plain = classification_stream(
        {name: part for name, part in table.items() if name != "objects"}, seed=5, horizon=120
    )
    assert stream.digest() == plain.digest()
    for value, reward in zip(stream.objects, stream.rewards, strict=True):
        assert stream.action_ids[int(reward.argmax())] == value["color"]
    for name in NAMED:
        chosen = play(POLICIES[name].player(stream, name, 5), stream)
        assert stream.rewards[np.arange(60, 120), chosen[60:]].mean() > 0.5
        with pytest.raises(UnavailableError, match="no objects"):
            POLICIES[name].player(plain, name, 5)


def test_a_visit_offers_fifty_films_that_its_user_rated_and_no_film_twice():
    table = small_films()
    stream = movielens_stream(table, seed=5, horizon=100)
    assert stream.horizon == 3
    stars = {(user, film): rating for user, film, rating in table["ratings"].tolist()}
    offered: dict[int, list[int]] = {}
    for t in range(3):
        user = int(np.argmax(stream.contexts[t]))
        films = stream.on_offer(t).tolist()
        assert films == sorted(films)
        assert stream.rewards[t].tolist() == [float(stars[user, film] >= 4) for film in films]
        offered.setdefault(user, []).extend(films)
    assert {user: len(films) for user, films in offered.items()} == {0: 100, 1: 50}
    assert all(len(set(films)) == len(films) for films in offered.values())


def test_a_disturbance_leaves_everything_else_of_the_scene_alone():
    plain = scenes.calm(seed=3, horizon=90)
    x = scenes.outlier_context(seed=3, horizon=90)
    assert (x.contexts != plain.contexts).sum() == 1
    assert x.contexts[30, 0] == np.float32(1e6)
    assert np.array_equal(x.rewards, plain.rewards)
    r = scenes.outlier_reward(seed=3, horizon=90, value=100.0)
    assert np.array_equal(r.contexts, plain.contexts)
    assert np.flatnonzero((r.rewards != plain.rewards).any(axis=1)).tolist() == [30]
    assert np.array_equal(r.means, plain.means)
    zero, gone = (
        scenes.missing(seed=3, horizon=2000, column=0, shown=shown) for shown in (0.0, -999.0)
    )
    assert 0.03 < (gone.contexts[:, 0] == -999.0).mean() < 0.07
    assert np.array_equal(gone.contexts == -999.0, zero.contexts == 0.0)
    assert np.array_equal(gone.rewards, zero.rewards)
    dead, live = (scenes.spare_column(seed=3, horizon=90, live=live) for live in (False, True))
    assert np.array_equal(dead.contexts[:45], live.contexts[:45])
    assert not dead.contexts[:, 6].any()
    assert live.contexts[45:, 6].all()


@pytest.mark.parametrize(("low", "high"), [(1000.0, 1001.0), (0.95, 0.99), (0.0, 0.001)])
def test_all_rewards_of_a_range_are_in_it(low, high):
    stream = scenes.in_range(seed=3, horizon=200, low=low, high=high)
    assert stream.rewards.min() >= low
    assert stream.rewards.max() <= high
    assert np.ptp(stream.rewards) > 0.5 * (high - low)


def test_the_means_of_money_are_those_of_its_rewards():
    """The mean of 100,000 rewards less their means is 0 within four standard errors."""
    stream = scenes.money(seed=3, horizon=100_000)
    gap = stream.rewards - stream.means
    error = gap.std(axis=0) / len(gap) ** 0.5
    assert (np.abs(gap.mean(axis=0)) < 4.0 * error).all()


def test_click_rates_are_from_four_thousandths_to_five_hundredths():
    stream = scenes.sparse_clicks(seed=3, horizon=4000)
    assert stream.means.min() >= 0.004
    assert stream.means.max() <= 0.05
    assert stream.rewards_are_binary


def test_regret_is_the_sum_of_what_was_missed():
    """Three actions with means 1, .5, 0: the second one costs .5, uniform choices .5 a step.

    The first four of eight steps choose the second action and the last four the best: the regret
    is 2 of 4, and the last quarter has all of the possible gain.
    """
    means = np.tile([1.0, 0.5, 0.0], (8, 1))
    stream = Stream(
        contexts=np.zeros((8, 1), np.float32), action_ids=("a", "b", "c"), means=means,
        rewards=means,
    )  # fmt: skip
    found = figures(stream, np.array([1, 1, 1, 1, 0, 0, 0, 0]))
    assert found["regret"] == 2.0
    assert found["uniform_regret"] == 4.0
    assert found["percent"] == 50.0
    assert found["best_share"] == 0.5
    assert found["gain_share"] == 1.0
    assert found["earned_share"] == 1.0
    assert found["mean_reward"] == 0.75


def test_a_retired_action_counts_neither_as_best_nor_in_the_uniform_choice():
    """Means 1, .5, 0; the first is retired after two steps, so .5 is best of .5 and 0."""
    means = np.tile([1.0, 0.5, 0.0], (4, 1))
    stream = Stream(
        contexts=np.zeros((4, 1), np.float32), action_ids=("a", "b", "c"), means=means,
        rewards=means, retired={0: 2},
    )  # fmt: skip
    player = Scripted(first)
    chosen = play(player, stream)
    assert chosen.tolist() == [0, 0, 1, 1]
    assert player.retired == ["a"]
    found = figures(stream, chosen)
    assert found["regret"] == 0.0
    assert found["uniform_regret"] == 2 * 0.5 + 2 * 0.25


def test_an_action_that_is_not_offered_is_refused():
    stream = scenes.featured(seed=3, horizon=60, typo=False)
    with pytest.raises(ValueError, match="step 40: 'a8' is not offered"):
        play(Scripted(lambda step, ids: "a8"), stream)


@pytest.mark.parametrize(
    ("policy", "problem", "steps"),
    [
        ("linear_ts_strong", "delay-10", 55),
        pytest.param("neural_linear_ts", "synthetic", 40, marks=pytest.mark.slow),
    ],
)
def test_our_decisions_are_those_of_the_regret_benchmark(policy, problem, steps):
    of_regret = OF_REGRET[problem]
    environment = SyntheticEnvironment(seed=3, horizon=steps)
    everything = np.arange(len(environment.action_ids))
    means = np.stack([environment.expected(t, everything) for t in range(steps)])
    rewards = [[environment.reward(t, int(a)) for a in everything] for t in range(steps)]
    stream = Stream(
        contexts=np.stack([environment.context(t) for t in range(steps)]).astype(np.float32),
        action_ids=environment.action_ids, action_features=environment.action_features,
        means=means, rewards=np.array(rewards), delay=of_regret.delay,
    )  # fmt: skip
    body = bandit_spec(PLANS["synthetic"][policy], environment, seed=3)
    chosen = play(OurPlayer(f"{problem}-{policy}-3", body, stream), stream)
    there = run_one(of_regret, policy, 3, steps)
    assert means[np.arange(steps), chosen].tolist() == there.chosen
