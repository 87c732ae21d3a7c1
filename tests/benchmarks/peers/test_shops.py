"""A shop is played in its own time: what players see, when they receive clicks, who they are."""

from __future__ import annotations

import math
import sys
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.peers import command, shop
from benchmarks.peers.play import figures
from benchmarks.peers.player import Choice
from benchmarks.peers.results import Key
from benchmarks.peers.shop.encoding import HandEncoding
from benchmarks.peers.shop.ours import NamedShopPlayer
from benchmarks.peers.shop.player import Action, Report
from benchmarks.peers.shop.policies import POLICIES
from benchmarks.peers.shop.vw import ShopVwPlayer, features
from simulators.environments.shop import SHOP, OfferFeatures, ShopStream, Visit, shop_stream

VISIT = Visit(
    user={"id": "u00001", "age": None, "member": True}, country="DE", device="tablet",
    source="sport-07", basket=12.5, interests=["audio", "plants"], query="cheap running",
    visited_at="2026-03-03T17:30:00Z",
)  # fmt: skip
OFFER = OfferFeatures(
    kind="sport", price=59.9, min_basket=None, tags=["cycling"], launched="2026-03-02T05:30:00Z"
)


def stream(horizon: int = 300, *, money: bool = False) -> ShopStream:
    return shop_stream(SHOP, seed=3, horizon=horizon, money=money)


class Scripted:
    """Chooses by a rule, and writes down what it was shown, and the reports."""

    def __init__(self, rule):
        self.rule = rule
        self.step = -1
        self.shown: list[tuple[Visit, tuple[Action, ...]]] = []
        self.chosen: list[str] = []
        self.reported: list[tuple[int, Report]] = []
        self.catalogue: set[str] = set()

    def arrive(self, actions):
        self.catalogue |= {action.id for action in actions}

    def retire(self, action_id):
        self.catalogue.remove(action_id)

    def select(self, step, context, actions):
        assert {action.id for action in actions} == self.catalogue
        self.step = step
        self.shown.append((context, tuple(actions)))
        self.chosen.append(self.rule(step, [action.id for action in actions]))
        return Choice(self.chosen[-1], None)

    def learn(self, reports):
        # What is reported before a step is decided belongs to that step.
        self.reported += [(self.step + 1, report) for report in reports]


def in_turns(step, ids):
    return ids[step % len(ids)]


def test_every_policy_is_shown_the_same() -> None:
    one, two = Scripted(in_turns), Scripted(lambda step, ids: ids[0])
    shop.play(one, stream())
    shop.play(two, stream())
    assert one.shown == two.shown
    assert one.chosen != two.chosen


def test_a_player_does_not_see_the_appeal_of_an_offer() -> None:
    assert Action._fields == ("id", "features")
    player = Scripted(in_turns)
    shop.play(player, stream(3))
    assert player.shown[0][1][0].features == stream(3).offers[0].features


def test_a_click_is_reported_at_the_first_visit_after_it_unless_its_window_is_over() -> None:
    found, player = stream(), Scripted(in_turns)
    chosen = shop.play(player, found)
    expected = {}
    for t, offer in enumerate(chosen):
        paid = found.rewards[t, list(found.live[t]).index(offer)]
        reported = found.reported_s(t)
        if paid and reported is not None and found.known_at(reported) < found.horizon:
            expected[t] = found.known_at(reported)
    steps = {report.step: at for at, report in player.reported if not report.closed}
    assert steps == expected
    assert len(steps) > 10


def test_every_window_is_closed_once_with_what_was_reported_in_it() -> None:
    found, player = stream(money=True), Scripted(in_turns)
    shop.play(player, found)
    closed = [(at, report) for at, report in player.reported if report.closed]
    ends = {t: found.known_at(found.closes_s(t)) for t in range(found.horizon)}
    assert {report.step: at for at, report in closed} == {
        t: at for t, at in ends.items() if at < found.horizon
    }
    assert len(closed) == len({report.step for _, report in closed})
    clicks = {report.step: report.reward for _, report in player.reported if not report.closed}
    assert all(report.reward == clicks.get(report.step, 0.0) for _, report in closed)
    assert all(report.action_id == player.chosen[report.step] for _, report in player.reported)
    assert max(clicks.values()) > 1.0


def test_what_becomes_known_is_told_in_the_order_of_its_moments() -> None:
    found, player = stream(), Scripted(in_turns)
    shop.play(player, found)
    moments = [
        found.closes_s(report.step) if report.closed else found.reported_s(report.step)
        for _, report in player.reported
    ]
    assert moments == sorted(moments, key=lambda moment: moment or 0.0)


def test_an_offer_that_is_not_live_is_refused() -> None:
    found = stream()
    last = found.offers[-1]
    assert last.arrives > 0
    with pytest.raises(ValueError, match=f"step 0: '{last.id}' is not offered"):
        shop.play(Scripted(lambda step, ids: last.id), found)


def test_the_best_choice_has_no_regret() -> None:
    found = stream()
    best = found.live[np.arange(found.horizon), found.means.argmax(axis=1)]
    shown = figures(shop.scored(found), best)
    assert shown["regret"] == 0.0
    assert shown["uniform_regret"] > 0.0
    assert shown["best_share"] == 1.0


def test_vw_gets_the_json_as_its_text_format_suggests() -> None:
    now = datetime.fromisoformat(VISIT["visited_at"])
    assert list(features(VISIT, now)) == [
        "user.id=u00001", "user.member=True", "country=DE", "device=tablet", "source=sport-07",
        "basket:12.5", "interests=audio", "interests=plants", "query=cheap", "query=running",
        "hour=17", "weekday=1",
    ]  # fmt: skip
    assert list(features(OFFER, now)) == [
        "kind=sport",
        "price:59.9",
        "tags=cycling",
        "age_days:1.5",
    ]


class Workspace:
    """Takes the place of the library's, and prefers the first action."""

    def __init__(self, options):
        self.options = options
        self.learned: list[str] = []

    def predict(self, lines):
        others = len(lines) - 2
        return [1.0 - 0.01 * others] + [0.01] * others

    def learn(self, lines):
        self.learned.append(next(line for line in lines if line.startswith("0:")))


def test_vw_learns_a_decision_once_when_its_window_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(Workspace=Workspace)
    monkeypatch.setitem(sys.modules, "vowpalwabbit", fake)
    player = ShopVwPlayer(stream(money=True), 3, "--squarecb")
    workspace = player._workspace
    assert "--squarecb --cb_min_cost -3.5 --cb_max_cost 0 -q ca" in workspace.options
    choice = player.select(0, VISIT, [Action(f"offer-{n}", OFFER) for n in range(3)])
    player.learn([Report(0, choice.action_id, 50.0, closed=False)])
    assert workspace.learned == []
    player.learn([Report(0, choice.action_id, 50.0, closed=True)])
    (line,) = workspace.learned
    assert line.startswith(f"0:-0.5:{choice.propensity:g} |a id={choice.action_id} kind=sport")


def test_the_encoding_has_columns_for_what_it_has_seen_and_no_others() -> None:
    other = Visit(**{**VISIT, "country": "FR", "query": "novel", "interests": []})
    other["user"] = {"id": "u00002", "age": 30, "member": False}
    encoding = HandEncoding([VISIT, other], [OFFER])
    known = encoding.context(other)
    assert known.shape == (encoding.num_context,)
    assert known[:5].tolist() == pytest.approx([0.0, 3.0, 0.0, math.log(13.5), 0.0])
    strange = Visit(**{**other, "country": "JP", "query": "other words"})
    del strange["basket"]
    found = encoding.context(strange)
    assert found[3:5].tolist() == [0.0, 1.0]
    # Beside the two numbers of the basket: FR became "other", and a word of the query is gone.
    assert np.count_nonzero(found != known) == 2 + 2 + 1
    assert encoding.action(OFFER).tolist() == pytest.approx(
        [math.log(59.9), 0.0, 1.0, 5.5 / 24.0, 1.0, 1.0]
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("policy", ["default", "squarecb", "encoded_by_hand"])
def test_ours_repeats_and_learns_each_decision_once(policy) -> None:
    def run():
        player = POLICIES[policy].player(stream(), "x", 3)
        assert isinstance(player, NamedShopPlayer)
        chosen = shop.play(player, stream())
        return chosen.tolist(), player._client.model.progress.num_learned

    chosen, learned = run()
    assert run() == (chosen, learned)
    ids = [offer.id for offer in stream().offers]
    scripted = Scripted(lambda step, _: ids[chosen[step]])
    shop.play(scripted, stream())
    closed = [report.step for _, report in scripted.reported if report.closed]
    assert learned == len(closed) == len(set(closed))


def test_report_seeds_are_played_by_default_and_picks_are_made_on_others() -> None:
    given, problems = command._parse(["--problems", "shop-2", "calm"])
    keys = command.jobs(problems, ["default", "vw_bag"], given)
    seeds = {name: {key.seed for key in keys if key.problem == name} for name in problems}
    assert seeds["shop-2"] == {50, 51, 52, *range(700, 705)}
    assert seeds["calm"] == {600, 601, 602}
    assert {key.steps for key in keys if key.problem == "shop-2"} == {4000}
    given, problems = command._parse(["--problems", "shop", "--first-seed", "50", "--seeds", "1"])
    assert {key.seed for key in command.jobs(problems, ["vw"], given)} == {50, 51, 52}


@pytest.mark.parametrize("policy", ["river_linucb", "linear_ts"])
def test_a_policy_that_plays_vectors_alone_says_so(policy, tmp_path) -> None:
    found = command.run_one(Key("shop", policy, 3, 20, ""), tmp_path)
    assert found["unavailable"] == "it plays vectors alone"


def test_a_policy_that_plays_shops_alone_says_so(tmp_path) -> None:
    found = command.run_one(Key("calm", "vw_cover", 3, 20, ""), tmp_path)
    assert found["unavailable"] == "it plays shops alone"


@pytest.mark.slow
def test_the_command_plays_a_shop_and_names_a_missing_library(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vowpalwabbit", None)
    argv = [
        "--problems", "shop", "shop-money", "--policies", "default", "uniform", "vw", "vw_bag",
        "--first-seed", "3", "--seeds", "2", "--picks", "1", "--steps", "60", "--workers", "1",
        "--results", str(tmp_path / "runs.jsonl"), "--markdown", str(tmp_path / "out.md"),
    ]  # fmt: skip
    assert command.main(argv) == 0
    shown = capsys.readouterr().out
    assert "| policy | shop | shop-money |" in shown
    assert "vw_bag: the package vowpalwabbit is not installed" in shown
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2 * 2 * 3
    assert "| shop-money | uniform | 2 |" in (tmp_path / "out.md").read_text()
