"""The problems of the regret table: in process and over HTTP every decision is the same."""

from __future__ import annotations

import pytest

from benchmarks import regret
from benchmarks.regret import over_http, run_one
from benchmarks.regret_problems import PROBLEMS

pytestmark = pytest.mark.usefixtures("forked_servers")
DEVELOPMENT_SEED = 3


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("problem", "policy", "steps"),
    [
        pytest.param("synthetic", "neural_linear_ts", 40, marks=pytest.mark.slow),
        ("delay-10", "linear_ts_strong", 55),
        ("wheel-0.5", "linear_ts", 80),
    ],
)
def test_in_process_and_over_http_every_decision_is_the_same(problem, policy, steps):
    here = run_one(PROBLEMS[problem], policy, DEVELOPMENT_SEED, steps)
    there = over_http(PROBLEMS[problem], policy, DEVELOPMENT_SEED, steps)
    assert here.chosen == there.chosen
    assert here.rewards == there.rewards
    assert here.num_train_rounds == there.num_train_rounds
    assert here.steps == steps


def test_without_the_images_of_fashion_all_other_problems_are_played(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(regret, "FASHION_FOLDER", tmp_path)
    _, problems = regret._parse(["--quick"])
    assert list(problems) == [name for name in PROBLEMS if name != "fashion"]
    assert "fashion is left out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        regret._parse(["--problems", "fashion"])


def test_a_run_repeats_exactly_and_another_seed_does_not():
    first, again, other = (
        run_one(PROBLEMS["synthetic"], "neural_linear_ts", seed, 100) for seed in (3, 3, 4)
    )
    assert first.chosen == again.chosen
    assert first.chosen != other.chosen


@pytest.mark.slow
def test_neural_beats_linear_and_both_beat_uniform_on_a_small_synthetic_problem():
    regret = {
        policy: sum(run_one(PROBLEMS["synthetic"], policy, seed, 400).regret for seed in (1, 2))
        for policy in ("uniform", "linear_ts", "neural_linear_ts")
    }
    assert regret["neural_linear_ts"] < 0.8 * regret["linear_ts"]
    assert regret["linear_ts"] < 0.5 * regret["uniform"]


def test_a_wrong_noise_prior_reaches_the_bandit():
    right = run_one(PROBLEMS["delay-1"], "linear_ts_strong", 3, 60)
    wrong = run_one(PROBLEMS["noise-x100"], "linear_ts_strong", 3, 60)
    assert right.chosen != wrong.chosen
