"""The shop over HTTP: a real server, offers that come and go, late clicks, silence at the close."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bandexa_client import Action, BanditError, Catalogue, RewardStatus, Selection, Training
from simulators.cli import app
from simulators.environments.shop import SHOP, ShopStream, shop_stream
from simulators.runner import Run
from simulators.shop_runner import play_shop

pytestmark = pytest.mark.usefixtures("forked_servers")
HORIZON = 120
TIMING = ("wall_s", "steps_per_s", "requests_per_s")


class Recorder:
    """Answers as a service that always takes the newest offer; notes what happens, in order."""

    def __init__(self, choose: int = -1) -> None:
        self.num_requests = 0
        self.offered: list[str] = []
        self.rewards: dict[str, float] = {}
        self.selected: list[tuple[str, tuple[str, ...]]] = []
        self.known_before: list[int] = []
        self._choose = choose

    def put_actions(self, bandit: str, actions: Any) -> Catalogue:
        self.offered += [one["id"] for one in actions]
        return Catalogue(len(self.offered), 0)

    def retire_action(self, bandit: str, action: str) -> Catalogue:
        self.offered.remove(action)
        return Catalogue(len(self.offered), 0)

    def select(self, bandit: str, context: Any, **more: Any) -> Selection:
        chosen = Action(self.offered[self._choose] if self.offered else "none", 0)
        self.selected.append((chosen.id, tuple(self.offered)))
        self.known_before.append(len(self.rewards))
        return Selection(more["decision_id"], chosen, (chosen,), 0.0, 1.0, 0, 0)

    def reward(self, decision_id: str, reward: float) -> RewardStatus:
        assert decision_id not in self.rewards, "each decision is reported once"
        self.rewards[decision_id] = reward
        return RewardStatus("applied", False)

    def reward_batch(self, reports: Any) -> list[RewardStatus]:
        return [self.reward(one.decision_id, one.reward) for one in reports]

    def train(self, bandit: str, *, wait: bool = True) -> Training | None:
        raise AssertionError("no round is due")


@pytest.fixture(scope="module")
def stream() -> ShopStream:
    return shop_stream(SHOP, seed=5, horizon=400)


def played(stream: ShopStream, recorder: Any) -> Run:
    run = Run("policy", 0, stream.horizon)
    play_shop(
        recorder, stream, run, bandit="b", live=True, delay=1, on_step=lambda: None
    )  # fmt: skip
    return run


def test_live_offers_are_what_is_offered(stream) -> None:
    recorder = Recorder()
    run = played(stream, recorder)
    for t, (_, offered) in enumerate(recorder.selected):
        assert sorted(offered) == sorted(offer.id for offer in stream.on_offer(t))
    assert run.complete
    assert run.regret == pytest.approx(sum(run.best) - sum(run.chosen))


def test_each_decision_is_reported_once_when_its_window_closes(stream) -> None:
    """With its click; silence, or a click that is too late, as 0."""
    recorder = Recorder()
    run = played(stream, recorder)
    last_s = float(stream.times_s[-1])
    for t in range(stream.horizon):
        clicked = run.rewards[t] > 0
        click_s = stream.reported_s(t) if clicked else None
        name = f"b.{t}"
        if stream.closes_s(t) <= last_s:
            assert recorder.rewards[name] == (run.rewards[t] if click_s is not None else 0.0)
        else:
            assert name not in recorder.rewards
    assert recorder.known_before[0] == 0
    assert sorted(recorder.known_before) == recorder.known_before


def test_an_offer_that_is_gone_is_refused(stream) -> None:
    class Stale(Recorder):
        def retire_action(self, bandit: str, action: str) -> Catalogue:
            return Catalogue(len(self.offered), 0)

    with pytest.raises(BanditError, match="is not on offer"):
        played(stream, Stale(choose=0))


def simulate(folder: Path, *more: str) -> dict[str, Any]:
    file = folder / "shop.json"
    arguments = ["shop", "--horizon", str(HORIZON), "--quiet", "--json", str(file)]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.slow
def test_a_run_repeats_exactly(server, tmp_path) -> None:
    """On a private server, and on one that runs."""
    first = simulate(tmp_path, "--check-save-load")
    plot = ("--plot", str(tmp_path / "a.svg"))
    again = simulate(tmp_path, "--check-save-load", "--url", server.url, "--replace", *plot)
    for found in (first, again):
        del found["config"]
        for key in TIMING:
            del found["runs"][0][key]
    assert first == again
    (run,) = first["runs"]
    assert (run["policy"], run["steps"], run["complete"]) == ("neural_linear_ts", HORIZON, True)
    assert first["checks"][0]["max_difference"] == 0
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_other_worlds_policies_and_settings(server, tmp_path) -> None:
    found = simulate(
        tmp_path, "--url", server.url, "--replace", "--world", "shop-2", "--money",
        "--policies", "uniform,greedy",
        "--set", "training.batch_size=32", "--delay", "5", "--horizon", "30",
    )  # fmt: skip
    assert found["workload"] == "shop-2"
    assert [run["steps"] for run in found["runs"]] == [30, 30]
    refused = CliRunner().invoke(app, ["shop", "--policies", "linear_ts"])
    assert refused.exit_code == 2
    assert "is none of" in refused.output
