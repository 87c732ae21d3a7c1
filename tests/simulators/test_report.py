"""Table, JSON file and plot of invented runs whose figures can be checked by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from simulators.report import (
    Outcome,
    SnapshotCheck,
    plot_regret,
    print_table,
    summaries,
    write_json,
)
from simulators.runner import Run


def invented(policy: str, seed: int, regret_per_step: float, *, steps: int = 400) -> Run:
    """A run of 400 steps whose last 200 rewards are 1.0 and the others 0.0; uniform loses 200."""
    run = Run(policy, seed, 400)
    for t in range(steps):
        chosen = 0.9 - regret_per_step
        run.record(best=0.9, chosen=chosen, uniform=0.4, reward=float(t >= 200))
    run.complete = steps == 400
    run.wall_s, run.num_requests, run.num_train_rounds = 2.0, 2 * steps, 3
    return run


@pytest.fixture
def outcome() -> Outcome:
    """Linear: regret 40 and 80, mean 60 +- 20. Neural: 20 and 100; it wins on one seed of two."""
    runs = [
        invented("linear_ts", 0, 0.1),
        invented("neural_linear_ts", 0, 0.05),
        invented("linear_ts", 1, 0.2),
        invented("neural_linear_ts", 1, 0.25),
    ]
    return Outcome("two-tower", {"horizon": 400}, runs)


def table(outcome: Outcome, width: int = 80) -> str:
    text = io.StringIO()
    print_table(outcome, Console(file=text, width=width))
    return text.getvalue()


def row(text: str, policy: str) -> str:
    [line] = [line for line in text.splitlines() if line.split()[:1] == [policy]]
    return " ".join(line.split())


def test_the_table_shows_means_standard_errors_wins_and_rates(outcome: Outcome) -> None:
    text = table(outcome)
    assert row(text, "linear_ts") == "linear_ts 60.0 +- 20.0 30.00 1.000 +- 0.000 - 200"
    neural = "neural_linear_ts 60.0 +- 40.0 30.00 1.000 +- 0.000 1/2 200"
    assert row(text, "neural_linear_ts") == neural


def test_one_seed_has_no_standard_error(outcome: Outcome) -> None:
    outcome.runs = outcome.runs[:2]
    assert row(table(outcome), "linear_ts") == "linear_ts 40.0 20.00 1.000 - 200"


def test_the_widest_row_fits_into_80_columns(outcome: Outcome) -> None:
    policy = "linear_ts_bilinear"
    outcome.runs += [invented(policy, seed, regret) for seed, regret in [(0, 2.5), (1, 3.0)]]
    cells = ["1100.0 +- 100.0", "550.00", "1.000 +- 0.000", "0/2", "200"]
    assert row(table(outcome), policy) == " ".join([policy, *cells])


def test_two_tower_prints_expected_rewards_of_best_and_chosen(outcome: Outcome) -> None:
    """Chosen: 0.9 - (0.1 + 0.2) / 2 and 0.9 - (0.05 + 0.25) / 2."""
    assert "ma_best_p 0.9000  ma_p_linear 0.7500  ma_p_neural 0.7500" in table(outcome)
    outcome.workload = "synthetic"
    assert "ma_best_p" not in table(outcome)


def test_the_table_omits_partial_runs(outcome: Outcome) -> None:
    outcome.runs[3] = invented("neural_linear_ts", 1, 0.25, steps=10)
    text = table(outcome)
    assert row(text, "neural_linear_ts") == "neural_linear_ts 20.0 10.00 1.000 1/1 200"


def test_without_a_complete_run_there_is_no_table(outcome: Outcome) -> None:
    outcome.runs = [invented("linear_ts", 0, 0.1, steps=3)]
    assert table(outcome) == ""


def test_checks_are_listed_below_the_table(outcome: Outcome) -> None:
    outcome.checks = [SnapshotCheck("linear_ts", 0, 0.0)]
    assert "linear_ts seed 0: greatest difference of score means 0" in table(outcome)


def test_json_holds_the_figures_of_every_run(outcome: Outcome, tmp_path: Path) -> None:
    write_json(outcome, tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["workload"] == "two-tower"
    assert document["complete"] is True
    assert document["config"] == {"horizon": 400}
    assert "error" not in document
    first = document["runs"][0]
    curve = first.pop("regret_curve")
    assert first == {
        "policy": "linear_ts",
        "seed": 0,
        "steps": 400,
        "complete": True,
        "cumulative_regret": pytest.approx(40.0),
        "percent_of_uniform": pytest.approx(20.0),
        "ma_reward": 1.0,
        "ma_best_p": pytest.approx(0.9),
        "ma_p": pytest.approx(0.8),
        "num_requests": 800,
        "num_train_rounds": 3,
        "wall_s": 2.0,
        "steps_per_s": 200.0,
        "requests_per_s": 400.0,
    }
    assert 100 <= len(curve) <= 200
    assert curve[-1] == [400, first["cumulative_regret"]]
    assert all(value == pytest.approx(0.1 * step) for step, value in curve)


def test_json_summarises_every_policy_against_the_first(outcome: Outcome, tmp_path: Path) -> None:
    write_json(outcome, tmp_path / "out.json")
    linear, neural = json.loads((tmp_path / "out.json").read_text())["summary"]
    shared = {
        "seeds": 2,
        "mean_regret": pytest.approx(60.0),
        "mean_ma_reward": 1.0,
        "ma_reward_standard_error": 0.0,
        "percent_of_uniform": pytest.approx(30.0),
    }
    assert linear == {
        **shared,
        "policy": "linear_ts",
        "standard_error": pytest.approx(20.0),
        "against": None,
        "wins": None,
        "compared": None,
    }
    assert neural == {
        **shared,
        "policy": "neural_linear_ts",
        "standard_error": pytest.approx(40.0),
        "against": "linear_ts",
        "wins": 1,
        "compared": 2,
    }


def test_wins_count_only_seeds_that_both_completed(outcome: Outcome) -> None:
    outcome.runs[2] = invented("linear_ts", 1, 0.2, steps=10)
    linear, neural = summaries(outcome)
    assert (linear.seeds, linear.standard_error) == (1, None)
    assert (neural.seeds, neural.wins, neural.compared) == (2, 1, 1)


def test_where_uniform_loses_nothing_there_is_no_percentage(outcome: Outcome) -> None:
    run = Run("uniform", 0, 1)
    run.record(best=1.0, chosen=1.0, uniform=1.0, reward=1.0)
    run.complete, run.wall_s, run.num_requests = True, 1.0, 2
    outcome.workload, outcome.runs = "synthetic", [run]
    assert run.percent_of_uniform is None
    assert row(table(outcome), "uniform") == "uniform 0.0 - 1.000 - 1"


def test_json_of_a_broken_simulation_says_so(outcome: Outcome, tmp_path: Path) -> None:
    outcome.runs = [outcome.runs[0], invented("neural_linear_ts", 0, 0.05, steps=7)]
    outcome.error = "the server is gone"
    write_json(outcome, tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["complete"] is False
    assert document["error"] == "the server is gone"
    assert [run["complete"] for run in document["runs"]] == [True, False]
    assert [summary["policy"] for summary in document["summary"]] == ["linear_ts"]
    assert document["runs"][1]["steps"] == 7
    assert document["runs"][1]["regret_curve"][-1] == [7, pytest.approx(0.35)]


def test_a_run_cut_off_before_its_first_step_has_figures_too(tmp_path: Path) -> None:
    outcome = Outcome("synthetic", {}, [Run("linear_ts", 0, 10)], error="gone")
    write_json(outcome, tmp_path / "out.json")
    [run] = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert (run["steps"], run["cumulative_regret"], run["regret_curve"]) == (0, 0.0, [])


def test_json_is_stable_text_and_the_only_file(outcome: Outcome, tmp_path: Path) -> None:
    write_json(outcome, tmp_path / "a.json")
    write_json(outcome, tmp_path / "a.json")
    write_json(outcome, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize(("horizon", "points"), [(1, 1), (7, 7), (150, 150), (5000, 152)])
def test_a_curve_has_every_step_or_some_hundred_and_always_the_last(
    horizon: int, points: int
) -> None:
    run = Run("uniform", 0, horizon)
    for _ in range(horizon):
        run.record(best=1.0, chosen=0.0, uniform=0.5, reward=0.0)
    curve = run.regret_curve()
    assert len(curve) == points
    assert curve[-1] == (horizon, float(horizon))
    assert [step for step, _ in curve] == sorted({step for step, _ in curve})


@pytest.mark.few(2)
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
@pytest.mark.parametrize("num_runs", [1, 4])
def test_the_plot_is_an_image_of_the_requested_type(
    outcome: Outcome, tmp_path: Path, suffix: str, magic: bytes, num_runs: int
) -> None:
    outcome.runs = outcome.runs[:num_runs]
    path = tmp_path / f"regret{suffix}"
    plot_regret(outcome, path)
    assert path.read_bytes().startswith(magic)


def test_the_plot_names_policies_and_axes(outcome: Outcome, tmp_path: Path) -> None:
    """An svg contains each text as a comment beside its outlines."""
    path = tmp_path / "regret.svg"
    plot_regret(outcome, path)
    drawn = path.read_text()
    texts = ["neural_linear_ts (60.0 +- 40.0)", "step", "cumulative regret", "2 seeds"]
    assert [text for text in texts if text not in drawn] == []
