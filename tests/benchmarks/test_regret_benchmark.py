"""The regret benchmark: repeats exactly, decides as a real server does, counts what it says."""

from __future__ import annotations

import json

import pytest

from benchmarks.regret import main, markdown, over_http, run_one, summarise
from benchmarks.regret_problems import PROBLEMS

DEVELOPMENT_SEED = 3


@pytest.mark.parametrize(
    ("problem", "policy", "steps"),
    [
        ("synthetic", "neural_linear_ts", 120),
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


def test_a_run_repeats_exactly_and_another_seed_does_not():
    first, again, other = (
        run_one(PROBLEMS["synthetic"], "neural_linear_ts", seed, 100) for seed in (3, 3, 4)
    )
    assert first.chosen == again.chosen
    assert first.chosen != other.chosen


def test_neural_beats_linear_and_both_beat_uniform_on_a_small_synthetic_problem():
    regret = {
        policy: sum(run_one(PROBLEMS["synthetic"], policy, seed, 500).regret for seed in (1, 2, 3))
        for policy in ("uniform", "linear_ts", "neural_linear_ts")
    }
    assert regret["neural_linear_ts"] < 0.8 * regret["linear_ts"]
    assert regret["linear_ts"] < 0.5 * regret["uniform"]


def test_a_wrong_noise_prior_reaches_the_bandit():
    right = run_one(PROBLEMS["delay-1"], "linear_ts_strong", 3, 60)
    wrong = run_one(PROBLEMS["noise-x100"], "linear_ts_strong", 3, 60)
    assert right.chosen != wrong.chosen


def _runs(problem: str, **regrets: tuple[float, ...]) -> list[dict[str, object]]:
    """Return what `summarise` reads of the runs of policies on seeds 0, 1, ..."""
    return [
        {"problem": problem, "policy": policy, "seed": seed, "cumulative_regret": regret,
         "percent_of_uniform": 10.0 * regret}
        for policy, values in regrets.items()
        for seed, regret in enumerate(values)
    ]  # fmt: skip


def test_the_summary_is_mean_standard_error_and_wins_by_hand():
    """Regrets 4 and 8 against 6 and 6: means 6 and 6; standard error 2 (of 4, 8) and 0."""
    runs = _runs("delay-1", a=(6.0, 6.0), b=(4.0, 8.0))
    first, second = summarise(runs)
    assert (first["mean"], first["standard_error"], first["wins"]) == (6.0, 0.0, None)
    assert (second["mean"], second["wins"], second["percent_of_uniform"]) == (6.0, 1, 60.0)
    assert second["standard_error"] == pytest.approx(2.0)
    assert (first["ratio"], second["ratio"]) == (None, None)
    assert "| delay-1 | b | 2 | 6.0 +- 2.0 | 60.00 | 1 |  |" in markdown(summarise(runs))


def test_a_disturbed_problem_is_compared_with_the_undisturbed_one_on_its_seeds():
    assert PROBLEMS["delay-10"].against == "delay-1"
    plain, late = _runs("delay-1", a=(6.0, 6.0)), _runs("delay-10", a=(7.0, 8.0))
    assert summarise([*plain, *late])[1]["ratio"] == pytest.approx(15.0 / 12.0)
    assert summarise([*plain[:1], *late])[1]["ratio"] is None
    assert summarise(late)[0]["ratio"] is None


def test_problems_are_compared_with_problems_there_are():
    named = {problem.against for problem in PROBLEMS.values()}
    assert named - {None} <= PROBLEMS.keys()


def test_the_command_plays_a_disturbed_problem_and_writes_what_it_used(tmp_path, capsys):
    file = tmp_path / "regret.json"
    problems = ["--problems", "drift", "drift-forgetting", "noise-x100"]
    arguments = ["--quick", "--workers", "1", "--seeds", "1", "--first-seed", "5"]
    assert main([*problems, *arguments, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert {run["problem"]: run["steps"] for run in report["runs"]} == {
        "drift": 400, "drift-forgetting": 400, "noise-x100": 200
    }  # fmt: skip
    bodies = report["configurations"]
    assert bodies["drift-forgetting"]["linear_ts_strong"]["forgetting"] == {"half_life": 250.0}
    assert bodies["noise-x100"]["linear_ts_strong"]["posterior"]["noise_var"] == 40.0
    regret = {row["problem"]: row["mean"] for row in report["summary"]}
    ratio = {row["problem"]: row["ratio"] for row in report["summary"]}
    assert ratio["drift-forgetting"] == regret["drift-forgetting"] / regret["drift"]
    printed = capsys.readouterr().out
    assert "| drift-forgetting | linear_ts_strong | 1 |" in printed
    assert "noise-x100 linear_ts_strong: {" in printed
