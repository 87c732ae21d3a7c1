"""Pairs and picks, stored runs, what is missing, and the command on a small scale."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks.peers import command, data, main
from benchmarks.peers.convert import Arrays
from benchmarks.peers.ours import OurPlayer
from benchmarks.peers.player import UnavailableError
from benchmarks.peers.policies import POLICIES
from benchmarks.peers.problems import PROBLEMS
from benchmarks.peers.results import Key, Results
from benchmarks.peers.summary import check_streams, compare, paired, strongest, summarise
from benchmarks.peers.text import comparisons

PEER_MODULES = (
    "vowpalwabbit", "mabwiser", "mabwiser.mab", "bayesianbandits", "contextualbandits",
    "contextualbandits.online", "river", "river.bandit",
)  # fmt: skip


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of a peer can be imported, whether it is installed or not."""
    for name in PEER_MODULES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def tables(tmp_path):
    """A folder with a small stand-in for one table: the label is the sign of the first number."""
    x = np.random.default_rng(1).standard_normal((400, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    arrays: Arrays = {
        "x": x,
        "y": y,
        "columns": np.array(["a", "b", "c"]),
        "labels": np.array(["n", "y"]),
    }
    data.save("phishing", arrays, tmp_path)
    return tmp_path


def row(problem, policy, seed, percent, *, regret=1.0, stream="s"):
    return {
        "problem": problem, "policy": policy, "seed": seed, "steps": 10, "version": "1",
        "stream": stream, "percent": percent, "regret": regret, "best_share": 0.5,
        "gain_share": 0.5, "earned_share": 0.5, "cpu_s": 1.0,
    }  # fmt: skip


def test_a_paired_difference_and_its_interval():
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(2) at .975 is 4.3027."""
    found = paired({1: 11.0, 2: 22.0, 3: 33.0, 9: 0.0}, {1: 10.0, 2: 20.0, 3: 30.0, 8: 0.0})
    assert found.mean == pytest.approx(2.0)
    assert found.pairs == 3
    assert found.high == pytest.approx(2.0 + 4.302653 / 3**0.5, rel=1e-5)
    assert found.low == pytest.approx(2.0 - 4.302653 / 3**0.5, rel=1e-5)


def test_what_two_policies_share_cancels_in_the_pairs():
    hard = {seed: 50.0 + 10.0 * seed for seed in range(5)}
    found = paired({seed: value - 1.0 for seed, value in hard.items()}, hard)
    assert (found.mean, found.low, found.high) == pytest.approx((-1.0, -1.0, -1.0))


def test_one_pair_has_no_interval_and_none_is_refused():
    assert paired({1: 2.0}, {1: 1.0}) == (1.0, None, None, 1)
    with pytest.raises(ValueError, match="no seed"):
        paired({1: 2.0}, {2: 1.0})


def test_the_strongest_is_picked_on_other_seeds_than_those_reported():
    rows = [row("p", "a", 50, 10.0), row("p", "b", 50, 20.0), row("p", "mine", 50, 99.0)]
    rows += [row("p", name, 600, value) for name, value in (("a", 30.0), ("b", 5.0), ("mine", 8.0))]
    assert strongest(rows, "p", ("a", "b"), {50}) == "a"
    (found,) = compare(rows, ["p"], "mine", {"peers": ("a", "b")}, {50}, {600})
    assert (found["rival"], found["mean"], found["pairs"]) == ("a", -22.0, 1)


def test_a_rival_that_missed_a_seed_of_the_pick_is_not_picked():
    rows = [row("p", "a", 50, 1.0), row("p", "b", 50, 20.0), row("p", "b", 51, 20.0)]
    assert strongest(rows, "p", ("a", "b"), {50, 51}) == "b"


def test_a_problem_without_a_comparison_is_named():
    rows = [row("p", "a", seed, 10.0) for seed in (50, 600)] + [row("p", "mine", 600, 9.0)]
    found = compare(rows, ["p", "q"], "mine", {"peers": ("a",)}, {50}, {600})
    shown = comparisons(found, ["p", "q"], "mine")
    assert "| p | peers | a | 1 | -1.0 |" in shown
    assert "`mine` is compared with nothing on: q" in shown


def test_the_ratio_is_to_the_undisturbed_problem_on_the_same_seeds():
    rows = [row("d", "a", seed, 1.0, regret=6.0) for seed in (1, 2)]
    rows += [row("u", "a", seed, 1.0, regret=4.0) for seed in (1, 2, 3)]
    lines = summarise(rows, {1, 2, 3}, {"d": "u", "u": None})
    assert {line["problem"]: line["ratio"] for line in lines} == {"d": 1.5, "u": None}


def test_policies_that_met_different_streams_are_found():
    check_streams([row("p", "a", 1, 1.0), row("p", "b", 1, 1.0), row("p", "b", 2, 1.0, stream="t")])
    with pytest.raises(ValueError, match="p, seed 1"):
        check_streams([row("p", "a", 1, 1.0), row("p", "b", 1, 1.0, stream="t")])


def test_stored_runs_are_found_again_and_a_torn_line_is_not(tmp_path):
    path = tmp_path / "runs.jsonl"
    Results(path).add(row("p", "a", 1, 7.0))
    with path.open("a") as file:
        file.write('{"problem": "p", "pol')
    found = Results(path)
    assert found.find(Key("p", "a", 1, 10, "1")) == row("p", "a", 1, 7.0)
    assert found.find(Key("p", "a", 1, 10, "2")) is None
    assert found.find(Key("p", "a", 1, 20, "1")) is None


@pytest.mark.usefixtures("no_peers")
@pytest.mark.parametrize("name", [name for name, row in POLICIES.items() if row.package])
def test_a_missing_package_is_named_in_the_row(name, tmp_path):
    found = command.run_one(Key("calm", name, 3, 20, "missing"), tmp_path)
    assert found["unavailable"].startswith(f"the package {POLICIES[name].package} is not installed")


@pytest.mark.usefixtures("no_peers")
def test_the_run_goes_on_without_the_peers_and_repeats_nothing_that_is_stored(
    tables, capsys, monkeypatch
):
    argv = [
        "--problems", "phishing", "outlier-x", "--policies", "linear_ts", "uniform", "vw",
        "--of", "linear_ts", "--seeds", "2", "--first-seed", "3", "--picks", "1", "--steps", "90",
        "--workers", "1", "--data-dir", str(tables), "--results", str(tables / "runs.jsonl"),
        "--json", str(tables / "out.json"), "--markdown", str(tables / "out.md"),
    ]  # fmt: skip
    assert command.main(argv) == 0
    shown = capsys.readouterr()
    assert "vw: the package vowpalwabbit is not installed" in shown.out
    assert "| linear_ts |" in shown.out
    found = json.loads((tables / "out.json").read_text())
    figures = found["results"]
    assert figures["phishing linear_ts"] < 50.0 < figures["phishing uniform"]
    # The twin of a disturbed scene is played, too.
    ratios = {line["problem"]: line["ratio"] for line in found["summary"] if line["ratio"]}
    assert ratios.keys() == {"outlier-x"}
    assert shown.out.strip() in (tables / "out.md").read_text()
    # Three problems, two policies: two reported seeds and on the table one more for the pick.
    assert len((tables / "runs.jsonl").read_text().splitlines()) == 2 * (3 * 2 + 1)
    monkeypatch.setattr(command, "play", lambda *_: pytest.fail("a stored run was repeated"))
    assert command.main(argv) == 0
    assert capsys.readouterr().out == shown.out


def test_a_missing_table_is_left_out_and_named_unless_it_was_asked_for(tables, capsys):
    _, problems = command._parse(["--data-dir", str(tables)])
    assert [name for name in PROBLEMS if name not in problems] == [
        name for name, row in PROBLEMS.items() if row.table not in (None, "phishing")
    ]
    assert "left out: adult: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command._parse(["--data-dir", str(tables), "--problems", "adult"])
    assert "python -m benchmarks peers fetch" in capsys.readouterr().err


def test_a_policy_that_needs_features_of_actions_says_so(tmp_path):
    found = command.run_one(Key("calm", "bilinear_ts", 3, 20, "0"), tmp_path)
    assert found["unavailable"] == "its actions have no features"


def test_a_body_that_the_service_refuses_is_reported_with_its_field():
    stream = PROBLEMS["calm"].make(seed=3, horizon=20)
    with pytest.raises(UnavailableError, match=r"the service refuses it: .*encoder"):
        OurPlayer("x", {"policy": "linear_ts", "context": {"shape": [6]}, "encoder": 7}, stream)


def test_fetching_an_unknown_table_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fetch", "iris", "--data-dir", str(tmp_path)])
    assert "there is no table 'iris'" in capsys.readouterr().err
