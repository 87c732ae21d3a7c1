"""Forgetting in a server under load: rewards, restarts, rounds and changes of the configuration.

One scenario is played for the module on one server, which is killed, started again and ended; its
tests check its answers and the store that remains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import LogPosition
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.rows import LearnRow
from bandexa_core.model import ServingModel, load_model
from bandexa_core.policies import LinearHead
from bandexa_core.posterior import GaussianPosterior
from bandexa_core.snapshots.store import SnapshotStore
from service.store.loading import load_at, newest_snapshot
from service.store.sqlite.reader import StoreReader
from tests.fixtures.transport import open_client

PRIOR: dict[str, Any] = {
    "posterior": {"prior_mean": 0.0, "prior_var": 1.0},
    "reward_range": [0, 1],
    "rewards": {"outside": "keep"},
}
KNOWN = PRIOR | {"encoder": {"name": "concat", "standardize": False}}
KNOWN_BY_ID = PRIOR | {"encoder": {"name": "per_action", "standardize": False}}
BY_COUNT = {"by": "count", "half_life": 64}
BY_TIME = {"by": "time", "half_life": 60}
CELL_S = 60 / 32
NUM_CLIENTS, NUM_ROWS = 6, 300
NAMES = ("count", "disjoint", "time", "neural", "switched")
ROUNDS = {"mode": "background", "train_every": 32, "optimizer_steps": 5}


@dataclass
class Story:
    """What the server answered."""

    node: Any
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    killed: dict[str, Any] = field(default_factory=dict)
    restarted: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, Any] = field(default_factory=dict)
    switches: list[int] = field(default_factory=list)
    specs: list[Any] = field(default_factory=list)
    metrics: str = ""


def load(story: Story, rig, name: str, first: int, num: int) -> None:
    """Select and reward from several clients at once, each on its own connection."""

    def client(number: int) -> None:
        with open_client(story.node.url, 30) as http:
            for count in range(first + number, first + num, NUM_CLIENTS):
                context = rig.context_of(name, count)
                decision_id = f"{name}.{count}"
                body = {"bandit": name, "context": context, "decision_id": decision_id}
                started = time.monotonic()
                chosen = http.post("/select", json=body).json()
                reward = rig.reward_of(context, chosen["action"]["index"])
                body = {"decision_id": decision_id, "reward": reward}
                answer = http.post("/reward", json=body)
                story.slowest_s = max(story.slowest_s, time.monotonic() - started)
                if answer.status_code != 200 or answer.json()["status"] != "applied":
                    story.failures.append(answer.text)

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        for future in [pool.submit(client, number) for number in range(NUM_CLIENTS)]:
            future.result(60)


def observed(node) -> dict[str, Any]:
    return {name: (node.state(name), *node.score(name)) for name in NAMES}


def settled(node) -> bool:
    bandit = node.call("GET", "/bandits/neural")
    return bandit["trainer"]["state"] == "idle" and not bandit["train_due"]


@pytest.fixture(scope="module")
def story(launch, rig) -> Story:
    node = launch("forgetful", keep_snapshots=3)
    story = Story(node)
    node.create("count", rig.linear(forgetting=BY_COUNT, **KNOWN))
    node.create("disjoint", rig.disjoint(forgetting=BY_COUNT, **KNOWN_BY_ID))
    node.create("time", rig.linear(forgetting=BY_TIME, **KNOWN))
    node.create("neural", rig.neural(forgetting=BY_COUNT, training=ROUNDS, **PRIOR))
    node.create("switched", rig.linear(**KNOWN))
    rig.feed(node, "time", 0, 40)
    fed_at = time.monotonic()
    load(story, rig, "count", 0, NUM_ROWS)
    load(story, rig, "disjoint", 0, 90)
    for first in (0, NUM_ROWS // 2):
        load(story, rig, "neural", first, NUM_ROWS // 2)
        rig.poll(lambda: settled(node), "a round behind each half of the rows")
    for forgetting in ({}, {"forgetting": BY_COUNT}, {}):
        body = rig.linear(**forgetting, **KNOWN)
        node.call("PUT", "/bandits/switched", body, wait="true")
        state = node.call("GET", "/bandits/switched")
        story.switches.append(state["position"])
        story.specs.append(state["spec"]["forgetting"])
        rig.feed(node, "switched", len(story.switches) * 100, 60)
    rig.poll(lambda: settled(node), "the last round's end")
    story.killed = observed(node)
    story.metrics = node.http.get("/metrics").text
    node.kill()
    node.start()
    story.restarted = observed(node)
    load(story, rig, "count", NUM_ROWS, 40)
    load(story, rig, "neural", NUM_ROWS, 60)
    node.train("disjoint")
    rig.feed(node, "disjoint", 100, 30)
    rig.poll(lambda: settled(node), "the last round's end")
    rig.poll(lambda: time.monotonic() - fed_at > 2.0 * CELL_S, "the end of two cells")
    rig.feed(node, "time", 100, 40)
    story.ended = observed(node)
    assert node.stop() == 0
    return story


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread, as the server does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def offline(story: Story, name: str, use: Callable[..., Any]) -> Any:
    with StoreReader(story.node.data_dir / "bandexa.db") as reader:
        (record,) = (found for found in reader.bandits() if found.name == name)
        return use(reader, record, SnapshotStore(story.node.data_dir / "snapshots" / record.uid))


def assert_scores(model: ServingModel, seen: Any, rig, rtol: float = 1e-8) -> None:
    _, means, stds = seen
    for number in range(len(means)):
        context = np.array(rig.context_of("probe", number), np.float32)
        found = model.policy.score(context, model.enabled_candidates())
        np.testing.assert_allclose(found[0], means[number], rtol=rtol, atol=1e-10)
        np.testing.assert_allclose(found[1], stds[number], rtol=rtol)


def learn_rows(reader, record, up_to: int) -> list[LearnRow]:
    groups = reader.follow(record, LogPosition(0), LogPosition(up_to))
    return [row for group in groups for row in group.rows if isinstance(row, LearnRow)]


def cells(positions: Any) -> Any:
    """Return the cells that positions are in: 64 rows to a half-life of 32 cells."""
    return np.asarray(positions) // 2


def closed_form(rows: list[LearnRow], weights: Any, seen: Any, rig) -> None:
    """Check the scores against the weighted normal equations of z = [x; a; 1]."""
    z = np.array([[*row.context, *row.action, 1.0] for row in rows], np.float64)
    precision = 0.1 * np.eye(z.shape[1]) + (z * weights[:, None]).T @ z
    mean = np.linalg.solve(precision, (z * weights[:, None]).T @ [row.after for row in rows])
    actions = np.random.default_rng(5).standard_normal((5, 4)).round(3).astype(np.float32)
    for number, means in enumerate(seen[1]):
        x = np.array(rig.context_of("probe", number), np.float32)
        expected = [np.array([*x, *a, 1.0], np.float64) @ mean for a in actions]
        np.testing.assert_allclose(means, expected, rtol=1e-8, atol=1e-10)


def test_every_reward_is_answered_as_applied_and_soon(story):
    assert story.failures == []
    assert story.slowest_s < 10.0
    assert story.ended["count"][0]["num_learned"] == NUM_ROWS + 40
    assert story.ended["neural"][0]["num_learned"] == NUM_ROWS + 60


def test_scores_after_hundreds_of_rewards_are_those_of_rows_weighted_by_age(story, rig):
    def check(reader, record, snapshots):
        position = story.killed["count"][0]["position"]
        assert position == NUM_ROWS + 1, "one row of actions, and one for each reward"
        rows = learn_rows(reader, record, position)
        weights = 2.0 ** ((cells([row.position for row in rows]) - cells(position)) / 32)
        assert weights[0] < 0.05 < 1.0 == weights[-1]
        closed_form(rows, weights, story.killed["count"], rig)

    offline(story, "count", check)


@pytest.mark.parametrize("name", ["count", "disjoint", "time"])
def test_a_model_that_is_fed_the_log_from_its_beginning_scores_alike(story, rig, name):
    def check(reader, record, snapshots):
        start, head = snapshots.load(0), LogPosition(story.killed[name][0]["position"])
        model = load_at(reader, record, EncoderRegistry(), snapshots, start, head)
        assert_scores(model, story.killed[name], rig)

    offline(story, name, check)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_serves_the_same_scores_when_it_is_started_again(story, name):
    before, after = story.killed[name], story.restarted[name]
    assert after[0] == before[0]
    np.testing.assert_allclose(after[1], before[1], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(after[2], before[2], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_newest_snapshot_and_its_tail_are_what_is_served(story, rig, name):
    def check(reader, record, snapshots):
        head = reader.head(record.key)
        snapshot = newest_snapshot(reader, record, snapshots, head)
        model = load_at(reader, record, EncoderRegistry(), snapshots, snapshot, head)
        assert (model.version, head) == (
            story.ended[name][0]["snapshot"],
            story.ended[name][0]["position"],
        )
        assert_scores(model, story.ended[name], rig)
        whole = reader.forgetting_at(record, Forgetting(), LogPosition(0), head)
        assert whole.cell == model.forgetting.cell
        assert np.array_equal(whole.positions, model.forgetting.positions)
        assert np.array_equal(whole.half_lives, model.forgetting.half_lives)

    offline(story, name, check)


def test_by_time_the_seconds_that_pass_with_a_restart_are_forgotten(story):
    """A cell is 1.9 s; between the first and the last reward there were two, and a restart."""

    def check(reader, record, snapshots):
        head = reader.head(record.key)
        state = reader.forgetting_at(record, Forgetting(), LogPosition(0), head)
        rows = learn_rows(reader, record, head)
        passed = rows[-1].time - rows[0].time
        weights = state.weights(np.array([row.position for row in rows]))
        between = state.positions > rows[0].position  # a cell may have ended before the first one
        assert 0 < between.sum() <= passed / CELL_S + 1
        np.testing.assert_allclose(-np.log2(weights[0]), passed / 60, atol=1.01 / 32)

    offline(story, "time", check)


def test_rounds_were_trained_and_swapped_in_while_rewards_came(story):
    (swaps,) = [
        line for line in story.metrics.splitlines() if line.startswith("bandexa_swaps_total")
    ]
    assert float(swaps.split()[-1]) >= 2
    assert 2 <= story.killed["neural"][0]["snapshot"] < story.ended["neural"][0]["snapshot"]
    assert "round of" not in story.node.log.read_text(encoding="utf-8"), "no round failed"
    assert "rows wait" not in story.node.log.read_text(encoding="utf-8")


def test_a_rounds_posterior_weighs_its_rows_by_their_age(story):
    """Check each snapshot by the weighted normal equations of its own features."""

    def check(reader, record, snapshots):
        for version in snapshots.versions():
            snapshot = snapshots.load(version)
            position = snapshot.manifest.position
            if position == 0:
                continue
            at = LogPosition(position)
            spec, catalogue = reader.spec_at(record, at), reader.catalogue_at(record, at)
            model = load_model(spec, record.uid, EncoderRegistry(), snapshot, catalogue)
            policy = model.policy
            assert isinstance(policy, LinearHead)
            assert isinstance(policy.posterior, GaussianPosterior)
            rows = learn_rows(reader, record, position)
            x, a = np.stack([r.context for r in rows]), np.stack([r.action for r in rows])
            z = policy.encoder.encode(policy.scaled(x), policy._actions(a))
            weights = 2.0 ** ((cells([row.position for row in rows]) - cells(position)) / 32)
            weighted = (z * weights[:, None]).T
            precision = policy.config.ridge * np.eye(z.shape[1]) + weighted @ z
            mean = np.linalg.solve(precision, weighted @ [row.after for row in rows])
            np.testing.assert_allclose(policy.posterior.mean, mean, rtol=1e-7, atol=1e-9)
            assert policy.posterior.num_rows == pytest.approx(weights.sum(), rel=1e-9)

    offline(story, "neural", check)


def test_forgetting_is_switched_on_and_off_by_put(story, rig):
    """60 rows each: never forgotten; on; off again, where all that was forgotten comes back."""
    off = {"by": "count", "half_life": None}
    assert story.specs == [off, {"by": "count", "half_life": 64.0}, off]
    # Each change is two rows, and to put the same spec again is none.
    assert story.switches == [1, 63, 125]

    def check(reader, record, snapshots):
        rows = learn_rows(reader, record, story.killed["switched"][0]["position"])
        assert len(rows) == 180
        closed_form(rows, np.ones(180), story.killed["switched"], rig)

    offline(story, "switched", check)
