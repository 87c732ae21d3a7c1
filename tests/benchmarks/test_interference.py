"""`bandexa bench interference`: a short run writes what it says, and its verdict sees faults."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.interference import CONDITIONS, Window, main, ratios, verdict

WINDOW = Window(
    condition="idle", selects=1000, failed=0, late=0, p50_ms=1.0, p99_ms=4.0, p999_ms=5.0,
    max_ms=6.0, wall_s=8.0, beside_s=0.0, trainer_s=0.0, rounds=0, asked=0, failures=[],
)  # fmt: skip
TRAIN = replace(WINDOW, condition="train", beside_s=7.0, trainer_s=7.0, rounds=3, p99_ms=5.0)
BURNER = replace(WINDOW, condition="burner", beside_s=7.5)
HOLDS = [TRAIN, BURNER, WINDOW, WINDOW, BURNER, TRAIN]


@pytest.mark.parametrize("trains", ["resnet", "mlp"])
def test_a_short_run_prints_and_writes_the_figures(trains, tmp_path, capsys):
    """Times of such windows are noise; what is done in them is not."""
    file = tmp_path / "out" / "interference.json"
    small = ["--pairs", "1", "--seconds", "0.6", "--warmup-s", "0.1", "--rate", "50"]
    small += ["--rows", "40", "--optimizer-steps", "2" if trains == "resnet" else "20"]
    assert main(["--trains", trains, *small, "--json", str(file)]) in (0, 1)
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["name"] == "interference"
    results = report["results"]
    train, burner, idle = (Window(**window) for window in results["windows"])
    assert (train.condition, burner.condition, idle.condition) == CONDITIONS
    for window in (train, burner, idle):
        assert (window.selects, window.failed, window.failures) == (30, 0, [])
        assert 0.0 < window.p50_ms <= window.p99_ms <= window.p999_ms <= window.max_ms
    assert results["p99_over_burner"] == round(train.p99_ms / burner.p99_ms, 3)
    assert results["p99_over_idle"] == round(train.p99_ms / idle.p99_ms, 3)
    assert train.beside_s == train.trainer_s > 0.0
    assert burner.beside_s > 0.0
    assert (burner.rounds, idle.rounds, idle.asked) == (0, 0, 0)
    assert results["rate_per_s"] == 50.0
    assert "p99_over_burner" in printed


def test_the_ratios_are_those_of_pairs_and_their_median_is_judged():
    assert verdict(HOLDS) == []
    assert ratios(HOLDS, "train", "burner") == [1.25, 1.25]
    slow = [replace(TRAIN, p99_ms=p99) for p99 in (5.0, 6.5, 60.0)]
    windows = [window for one in slow for window in (one, BURNER, WINDOW)]
    assert len(verdict(windows)) == 1
    assert "1.62 times" in verdict(windows)[0]


@pytest.mark.parametrize(
    ("place", "wrong", "finding"),
    [
        (0, {"failures": ["503 {}"]}, "train: 503"),
        (0, {"p99_ms": float("nan")}, "nan times"),
        (0, {"beside_s": 0.1}, "s of CPU"),
        (1, {"rounds": 1}, "not idle"),
        (2, {"trainer_s": 1.0}, "not idle"),
    ],
)
def test_what_makes_the_comparison_worthless_is_told(place, wrong, finding):
    windows = HOLDS[:3]
    windows[place] = replace(windows[place], **wrong)
    assert any(finding in text for text in verdict(windows))


@pytest.mark.parametrize(
    "wrong", [["--pairs", "0"], ["--seconds", "nan"], ["--rows", "-1"], ["--trains", "linear"]]
)
def test_arguments_that_make_no_sense_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
