"""Whole simulations over HTTP against a stand-in service with a uniform policy."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bandexa_client import BanditClient, Conflict, NotFound, ServiceUnavailable
from simulators.campaign import Campaign, bandit_name, run_campaign
from simulators.environments import Environment, SyntheticEnvironment, TwoTowerEnvironment
from simulators.overrides import NO_OVERRIDES, Overrides
from simulators.private_server import PrivateServer
from simulators.progress import RunProgress
from simulators.report import Outcome
from tests.fixtures.waiting import poll

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_server.py")))


def environment(seed: int, steps: int) -> Environment:
    return SyntheticEnvironment(horizon=steps, num_actions=9, dim=4, seed=seed)


def stand_in(*options: str) -> PrivateServer:
    return PrivateServer(command=[*STAND_IN, *options])


def campaign(
    *options: str,
    policies: Sequence[str] = ("linear_ts", "uniform"),
    seeds: int = 2,
    steps: int = 20,
    live: bool = False,
    overrides: Overrides = NO_OVERRIDES,
    delay: int = 1,
    url: str | None = None,
    replace: bool = False,
    check_save_load: bool = False,
    save_path: Path | None = None,
) -> Campaign:
    return Campaign(
        workload="synthetic",
        make_environment=lambda seed: environment(seed, steps),
        policies=policies,
        seeds=range(seeds),
        live=live,
        overrides=overrides,
        delay=delay,
        url=url,
        server=lambda: stand_in(*options),
        replace=replace,
        check_save_load=check_save_load,
        save_path=save_path,
    )


def run(plan: Campaign) -> Outcome:
    outcome = Outcome(plan.workload, {})
    run_campaign(plan, outcome, RunProgress(Console(file=io.StringIO()), quiet=True))
    return outcome


@pytest.fixture
def server() -> Iterator[PrivateServer]:
    with stand_in() as started:
        yield started


def choice(decision_id: str, num: int) -> int:
    """Return the choice of the stand-in server: a hash of the decision id."""
    digest = hashlib.blake2b(decision_id.encode(), digest_size=6).digest()
    return int(int.from_bytes(digest, "big") / 2**48 * num)


def test_every_policy_runs_with_every_seed() -> None:
    outcome = run(campaign())
    assert outcome.error is None
    assert [(r.policy, r.seed, r.steps, r.complete) for r in outcome.runs] == [
        ("linear_ts", 0, 20, True),
        ("uniform", 0, 20, True),
        ("linear_ts", 1, 20, True),
        ("uniform", 1, 20, True),
    ]


def test_regret_and_rewards_are_those_of_the_chosen_actions() -> None:
    outcome = run(campaign(seeds=1, policies=["linear_ts"], steps=120))
    problem = environment(0, 120)
    everything = np.arange(9)
    regret = uniform_regret = 0.0
    rewards = []
    for t in range(120):
        action = choice(f"synthetic-linear_ts-0.{t}", 9)
        expected = problem.expected(t, everything)
        regret += float(expected.max() - expected[action])
        uniform_regret += float(expected.max() - expected.mean())
        rewards.append(problem.reward(t, action))
    [only] = outcome.runs
    assert only.regret == pytest.approx(regret, rel=1e-12)
    assert only.uniform_regret == pytest.approx(uniform_regret, rel=1e-12)
    assert only.percent_of_uniform == pytest.approx(100 * regret / uniform_regret)
    assert only.rewards == rewards
    assert only.ma_reward == pytest.approx(np.mean(rewards))


def test_lockstep_trains_when_due_and_counts_requests() -> None:
    """120 steps with training due at 50 and 100: two requests a step and two rounds."""
    [only] = run(campaign(seeds=1, policies=["linear_ts"], steps=120)).runs
    assert only.num_train_rounds == 2
    assert only.num_requests == 2 * 120 + 2
    assert only.requests_per_s == pytest.approx(242 / only.wall_s)


def test_live_leaves_training_to_the_service() -> None:
    [only] = run(campaign(seeds=1, policies=["linear_ts"], live=True, steps=60)).runs
    assert only.num_train_rounds == 0
    assert only.num_requests == 2 * 60


@pytest.mark.few(2)
@pytest.mark.parametrize(("delay", "num_batches"), [(50, 3), (40, 3), (120, 1), (500, 1)])
def test_delayed_rewards_travel_together_and_training_follows(delay: int, num_batches: int) -> None:
    """Rounds are due at 50 and 100 rewards: one each, or one for both inside a single batch."""
    [only] = run(campaign(seeds=1, policies=["linear_ts"], delay=delay, steps=120)).runs
    assert only.complete
    assert only.num_train_rounds == (2 if num_batches > 1 else 1)
    assert only.num_requests == 120 + num_batches + only.num_train_rounds


def test_delay_changes_no_choice_of_a_service_that_does_not_learn() -> None:
    plain, delayed = run(campaign(seeds=1)), run(campaign(seeds=1, delay=7))
    for one, other in zip(plain.runs, delayed.runs, strict=True):
        assert (one.rewards, one.chosen, one.best) == (other.rewards, other.chosen, other.best)


def test_a_live_run_sends_late_rewards_too(server: PrivateServer) -> None:
    plan = campaign(seeds=1, policies=["linear_ts"], live=True, delay=5, url=server.url)
    [only] = run(plan).runs
    assert only.num_requests == 20 + 4
    with BanditClient(server.url, trust_env=False) as client:
        assert client.get_bandit("synthetic-linear_ts-0").num_learned == 20


def test_candidates_travel_by_id_and_the_index_is_read_among_them() -> None:
    def make(seed: int) -> Environment:
        return TwoTowerEnvironment(horizon=30, num_actions=40, candidate_size=6, seed=seed)

    plan = Campaign(
        workload="two-tower",
        make_environment=make,
        policies=["uniform"],
        seeds=[3],
        server=stand_in,
    )
    [only] = run(plan).runs
    problem = make(3)
    for t in range(30):
        candidates = problem.candidates(t)
        assert candidates is not None
        action = candidates[[choice(f"two-tower-uniform-3.{t}", 6)]]
        assert only.chosen[t] == problem.expected(t, action)[0]
        assert only.best[t] == problem.expected(t, candidates).max()


def test_results_before_the_death_of_a_private_server_remain() -> None:
    """The first run makes 20 selects; the 30th ends the server, in step 10 of the second run."""
    outcome = run(campaign("--die-after", "30"))
    assert outcome.error is not None
    assert "ended by itself (exit status 9)" in outcome.error
    assert "the stand-in exits as requested" in outcome.error
    assert [(r.policy, r.steps, r.complete) for r in outcome.runs] == [
        ("linear_ts", 20, True),
        ("uniform", 9, False),
    ]


def test_a_rejected_bandit_stops_the_campaign() -> None:
    outcome = run(campaign(overrides={"posterior.prior_var": 1e9}))
    assert outcome.error is not None
    assert "422 the spec is invalid" in outcome.error
    assert [run.steps for run in outcome.runs] == [0]


def test_an_unreachable_service_is_reported(server: PrivateServer) -> None:
    url = server.url
    server.close()
    outcome = run(campaign(url=url))
    assert outcome.error is not None
    assert f"cannot reach the service at {url}" in outcome.error
    assert outcome.runs == []


def test_bandits_stay_on_a_foreign_service_and_are_not_overwritten(server: PrivateServer) -> None:
    assert run(campaign(url=server.url, seeds=1)).error is None
    again = run(campaign(url=server.url))
    assert again.error is not None
    assert "already has synthetic-linear_ts-0, synthetic-uniform-0: --replace" in again.error
    assert again.runs == []
    with BanditClient(server.url, trust_env=False) as client:
        assert client.get_bandit("synthetic-linear_ts-0").num_learned == 20
        with pytest.raises(NotFound):
            client.get_bandit("synthetic-linear_ts-1")


def test_replace_deletes_the_bandits_of_the_same_names_first(server: PrivateServer) -> None:
    first = run(campaign(url=server.url, seeds=1))
    second = run(campaign(url=server.url, seeds=1, replace=True))
    assert second.error is None
    assert [r.rewards for r in second.runs] == [r.rewards for r in first.runs]


def test_the_stand_in_itself_refuses_a_decision_id_twice(server: PrivateServer) -> None:
    """The replacement test relies on this: without a delete the ids would collide."""
    assert run(campaign(url=server.url, seeds=1)).error is None
    name = bandit_name("synthetic", "linear_ts", 0)
    context = {"dtype": "float32", "shape": [1], "data": ""}
    with BanditClient(server.url, trust_env=False) as client, pytest.raises(Conflict):
        client.select(name, context, decision_id=f"{name}.0")


def test_a_model_that_survives_export_and_import_does_not_differ(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    outcome = run(campaign(check_save_load=True, save_path=path))
    assert outcome.error is None
    [check] = outcome.checks
    assert (check.policy, check.seed, check.max_difference) == ("linear_ts", 0, 0.0)
    assert (tmp_path / "model-linear_ts.bin").read_bytes() == b"synthetic-linear_ts-0"


def test_a_single_policy_saves_under_the_path_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    run(campaign(check_save_load=True, save_path=path, policies=["greedy"]))
    assert path.read_bytes() == b"synthetic-greedy-0"


def test_a_model_that_changes_in_an_import_is_detected() -> None:
    [check] = run(campaign("--lossy-import", seeds=1, check_save_load=True)).checks
    assert check.max_difference > 0.0


def test_the_check_leaves_no_bandit_behind(server: PrivateServer) -> None:
    assert run(campaign(url=server.url, seeds=1, check_save_load=True)).error is None
    with BanditClient(server.url, trust_env=False) as client, pytest.raises(NotFound):
        client.get_bandit("synthetic-linear_ts-0-check")


def test_progress_prints_a_line_per_finished_run_off_a_terminal() -> None:
    text = io.StringIO()
    plan = campaign(seeds=1)
    progress = RunProgress(Console(file=text, width=200), quiet=False)
    run_campaign(plan, Outcome(plan.workload, {}), progress)
    lines = text.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["linear_ts seed 0", "uniform seed 0"]
    assert all("20 steps" in line and "regret" in line for line in lines)


def test_progress_shows_bars_on_a_terminal() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    plan = campaign(seeds=1)
    run_campaign(plan, Outcome(plan.workload, {}), RunProgress(console, quiet=False))
    assert "20/20" in text.getvalue()


# Runs a campaign that is too long to end by itself, and prints the address of its server.
ENDLESS = """
import sys
from pathlib import Path
from rich.console import Console
from simulators.campaign import Campaign, run_campaign
from simulators.environments import SyntheticEnvironment
from simulators.private_server import PrivateServer
from simulators.progress import RunProgress
from simulators.report import Outcome, write_json

class AnnouncingServer(PrivateServer):
    def start(self):
        super().start()
        print(self.url, flush=True)

outcome = Outcome("synthetic", {})
campaign = Campaign(
    workload="synthetic",
    make_environment=lambda seed: SyntheticEnvironment(horizon=10**6, seed=seed),
    policies=["uniform"],
    seeds=[0],
    server=lambda: AnnouncingServer(command=[sys.executable, sys.argv[1]]),
)
run_campaign(campaign, outcome, RunProgress(Console(stderr=True), quiet=True))
write_json(outcome, Path(sys.argv[2]))
"""


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_simulation_leaves_results_and_no_server(
    number: signal.Signals, tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    arguments = [sys.executable, "-c", ENDLESS, STAND_IN[1], str(path)]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as simulator:
        assert simulator.stdout is not None
        url = simulator.stdout.readline().strip()
        with BanditClient(url, trust_env=False) as client:
            _until_learned(client, "synthetic-uniform-0")
            simulator.send_signal(number)
            assert simulator.wait(30) == 0
            with pytest.raises(ServiceUnavailable):
                client.ready()
    document = json.loads(path.read_text())
    assert document["complete"] is False
    assert document["error"] == f"interrupted by {number.name}"
    assert document["runs"][0]["steps"] > 0


def _until_learned(client: BanditClient, bandit: str) -> None:
    def has_learned() -> bool:
        try:
            return client.get_bandit(bandit).num_learned > 5
        except NotFound:
            return False

    poll(has_learned, "some rewards are learned")
