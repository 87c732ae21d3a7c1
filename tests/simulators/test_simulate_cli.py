"""The simulate commands as a user calls them, against a stand-in service."""

from __future__ import annotations

import gzip
import inspect
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bandexa_client import BanditClient
from simulators.cli import app
from simulators.private_server import PrivateServer

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_server.py")))
TIMING = ("wall_s", "steps_per_s", "requests_per_s")

SHARED_FLAGS = [
    "--horizon",
    "--policies",
    "--seeds",
    "--first-seed",
    "--url",
    "--api-key",
    "--device",
    "--half-life",
    "--set",
    "--live",
    "--json",
    "--plot",
    "--check-save-load",
    "--save-path",
    "--replace",
    "--quiet",
    "--delay",
    "--buffer-dir",
]


@pytest.fixture(autouse=True)
def _loopback_without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def url() -> Iterator[str]:
    with PrivateServer(command=STAND_IN) as server:
        yield server.url


@pytest.fixture
def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def simulate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_declaration_of_the_commands_imports_nothing_heavy() -> None:
    """`bandexa` imports the declarations to list its commands."""
    code = "import sys, simulators.cli; print(*sys.modules)"
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "rich", "matplotlib", "httpx", "bandexa_core", "bandexa_client"}
    assert heavy & set(listed.stdout.split()) == set()


@pytest.mark.parametrize(
    ("command", "own"),
    [
        (
            "synthetic",
            ["--dim", "--actions", "--env-noise-std", "--interaction-scale", "--drift-at"],
        ),
        ("mnist", ["--dataset", "--data-dir", "--full", "--encoder", "--weights"]),
        ("two-tower", ["--n-actions", "--candidate-size", "--candidates"]),
        ("wheel", ["--delta", "--env-noise-std"]),
    ],
)
def test_help_explains_every_flag(command: str, own: list[str]) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    explained = dict(re.findall(r"(--[a-z-]+) +(?:<.*?>(?: \[.*?x.*?\])?)? +([A-Za-z].*)", text))
    assert sorted(explained) == sorted([*SHARED_FLAGS, *own, "--help"])


@pytest.mark.parametrize(
    ("command", "steps"),
    [(["synthetic"], 2000), (["mnist"], 5000), (["two-tower"], 3000), (["wheel"], 80_000)],
)
def test_horizons_are_those_of_the_workload(command: list[str], steps: int) -> None:
    [registered] = [c for c in app.registered_commands if _name(c.callback) == command[0]]
    assert registered.callback is not None
    assert inspect.signature(registered.callback).parameters["horizon"].default == steps


def _name(callback: object) -> str:
    return getattr(callback, "__name__", "").replace("_", "-")


@pytest.mark.parametrize(
    ("command", "steps"),
    [
        (["synthetic", "--dim", "3", "--actions", "5"], 60),  # with a round, at 50 rewards
        (["synthetic", "--drift-at", "8", "--delay", "7"], 16),
        (["wheel", "--delta", "0.9"], 16),
        (["mnist"], 16),
        (["two-tower", "--n-actions", "50", "--candidate-size", "8"], 16),
        (
            ["two-tower", "--n-actions", "50", "--candidate-size", "8", "--candidates", "retrieve"],
            16,
        ),
    ],
)
def test_a_simulation_prints_a_table_and_writes_its_files(
    command: list[str], steps: int, url: str, tmp_path: Path
) -> None:
    files: list[str | Path] = ["--json", tmp_path / "out.json"]
    if is_plotted := command[0] in ("synthetic", "mnist"):
        files += ["--plot", tmp_path / "out.png"]
    checks: list[str | Path] = ["--check-save-load", "--save-path", tmp_path / "model.bin"]
    horizon = ["--horizon", str(steps), "--seeds", "2"]
    result = simulate(*command, *horizon, "--url", url, *files, *checks)
    assert result.exit_code == 0, result.output
    assert "neural_linear_ts" in result.stdout
    assert "greatest difference of score means 0" in result.stdout
    assert f"the bandits of these runs stay on {url}" in result.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["complete"] is True
    assert document["workload"] == command[0]
    assert [(run["policy"], run["seed"]) for run in document["runs"]] == [
        ("linear_ts", 0),
        ("neural_linear_ts", 0),
        ("linear_ts", 1),
        ("neural_linear_ts", 1),
    ]
    assert all(run["regret_curve"][-1][0] == steps for run in document["runs"])
    names = ["model-linear_ts.bin", "model-neural_linear_ts.bin", "out.json"]
    names += ["out.png"] * is_plotted
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_settings_reach_the_bandits_and_the_json_file(url: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    settings = ["--set", "training.batch_size=16", "--set", "encoder.params.hidden=[8,8]"]
    run = ["synthetic", "--horizon", "3", "--half-life", "64", "--url", url, "--json", str(path)]
    result = simulate(*run, *settings)
    assert result.exit_code == 0, result.output
    config = json.loads(path.read_text())["config"]
    assert config["set"] == {"training.batch_size": 16, "encoder.params.hidden": [8, 8]}
    assert config["half_life"] == 64.0
    with BanditClient(url, trust_env=False) as client:
        spec = client.get_bandit("synthetic-neural_linear_ts-0").spec
    assert spec["training"] == {"mode": "lockstep", "batch_size": 16}
    assert spec["encoder"] == {"name": "mlp", "params": {"hidden": [8, 8]}}
    assert spec["forgetting"] == {"half_life": 64.0}


def test_weights_go_to_the_learned_encoder(url: str) -> None:
    images = ["--encoder", "resnet18", "--weights", "imagenet"]
    result = simulate("mnist", "--horizon", "3", "--url", url, *images)
    assert result.exit_code == 0, result.output
    with BanditClient(url, trust_env=False) as client:
        linear = client.get_bandit("mnist-linear_ts-0").spec
        neural = client.get_bandit("mnist-neural_linear_ts-0").spec
    assert linear["encoder"] == {"name": "per_action"}
    assert neural["encoder"] == {"name": "resnet18", "params": {"weights": "imagenet"}}


def test_a_repeated_simulation_differs_in_its_timing_alone(url: str, tmp_path: Path) -> None:
    documents = []
    for name in ("a.json", "b.json"):
        result = simulate(
            *["synthetic", "--horizon", "52", "--seeds", "1", "--first-seed", "5"],
            *["--drift-at", "30", "--delay", "7", "--policies", "all"],
            *["--url", url, "--replace", "--quiet", "--json", str(tmp_path / name)],
        )
        assert result.exit_code == 0, result.output
        document = json.loads((tmp_path / name).read_text())
        for run in document["runs"]:
            assert all(run.pop(key) > 0 for key in TIMING)
        documents.append(json.dumps(document))
    assert documents[0] == documents[1]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("command", "policies"),
    [
        ("synthetic", ["linear_ts", "linear_ts_strong", "neural_linear_ts", "greedy", "uniform"]),
        ("mnist", ["linear_ts", "neural_linear_ts", "greedy", "uniform"]),
        ("wheel", ["linear_ts", "neural_linear_ts", "greedy", "uniform"]),
        (
            "two-tower --n-actions 50 --candidate-size 8",
            [
                *["linear_ts", "linear_ts_strong", "linear_ts_bilinear"],
                *["neural_linear_ts", "greedy", "uniform"],
            ],
        ),
    ],
)
def test_all_policies_of_a_workload_can_be_requested(
    command: str, policies: list[str], url: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    arguments: list[str | Path] = ["--policies", "all", "--url", url, "--json", path]
    result = simulate(*command.split(), "--horizon", "3", *arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(path.read_text())["summary"]
    assert [row["policy"] for row in summary] == policies
    assert {row["against"] for row in summary[1:]} == {"linear_ts"}


def test_fashion_images_come_from_the_given_folder(
    url: str, tmp_path: Path, idx: Callable[[np.ndarray], bytes]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    labels = np.arange(4, dtype=np.uint8)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    path = tmp_path / "out.json"
    files: list[str | Path] = ["--data-dir", tmp_path, "--json", path]
    result = simulate("mnist", "--dataset", "fashion", "--horizon", "9", "--url", url, *files)
    assert result.exit_code == 0, result.output
    config = json.loads(path.read_text())["config"]
    assert (config["dataset"], config["data_dir"]) == ("fashion", str(tmp_path))


def test_missing_fashion_images_are_one_clear_line(tmp_path: Path) -> None:
    result = simulate("mnist", "--dataset", "fashion", "--data-dir", tmp_path)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("simulate: no train-images-idx3-ubyte and no train-labels-idx1-ubyte")
    assert "dataset-fashion-mnist" in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data-dir", "."], "needs --dataset fashion"),
        (["--dataset", "fashion", "--full"], "is for --dataset digits"),
        (["--dataset", "letters"], ""),
        (["--weights", "imagenet"], "needs --encoder resnet18"),
    ],
)
def test_contradictions_about_images_are_refused(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, ["mnist", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.mark.parametrize("delta", ["-0.1", "1.5", "nan"])
def test_a_radius_outside_the_wheel_is_refused(delta: str) -> None:
    assert simulate("wheel", "--delta", delta).exit_code == 2


def test_quiet_prints_the_table_alone(url: str) -> None:
    result = simulate("synthetic", "--horizon", "5", "--url", url, "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "linear_ts" in result.stdout


def test_a_service_that_is_down_is_one_clear_line(dead_url: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = simulate("synthetic", "--url", dead_url, "--json", path)
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"simulate: cannot reach the service at {dead_url}")
    assert second == f"partial results are in {path}"
    assert json.loads(path.read_text())["complete"] is False


def test_partial_results_remain_when_the_service_dies_midway(tmp_path: Path) -> None:
    files: list[str | Path] = ["--json", tmp_path / "out.json", "--plot", tmp_path / "out.png"]
    with PrivateServer(command=[*STAND_IN, "--die-after", "70"]) as server:
        result = simulate("synthetic", "--horizon", "50", "--url", server.url, *files)
    assert result.exit_code == 1
    assert "simulate: cannot reach the service" in result.stderr
    assert "linear_ts" in result.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["complete"] is False
    assert [(run["steps"], run["complete"]) for run in document["runs"]] == [
        (50, True),
        (19, False),
    ]
    assert (tmp_path / "out.png").exists()


def test_a_model_lost_between_save_and_load_fails_the_command() -> None:
    with PrivateServer(command=[*STAND_IN, "--lossy-import"]) as server:
        result = simulate("synthetic", "--horizon", "5", "--url", server.url, "--check-save-load")
    assert result.exit_code == 1
    assert "a model changed between export and import" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--url", "http://127.0.0.1:1", "--device", "cpu"], "private server"),
        (["--url", "http://127.0.0.1:1", "--buffer-dir", "rows"], "private server"),
        (["--url", "127.0.0.1:1"], "not an"),
        (["--replace"], "needs --url"),
        (["--policies", "linear_ts,best"], "'best' is none of linear_ts"),
        (["--policies", "uniform,uniform"], "twice"),
        (["--policies", "all,uniform"], "'all' is none of"),
        (["--delay", "0"], ""),
        (["--drift-at", "0"], ""),
        (["--drift-at", "50", "--horizon", "50"], "before the end of the run"),
        (["--save-path", "model.bin"], "needs --check-save-load"),
        (["--plot", "regret.txt"], ".png"),
        (["--json", "no/such/folder/out.json"], "does not exist"),
        (["--half-life", "inf"], "finite"),
        (["--set", "training.batch_sise=8"], "did you mean training.batch_size?"),
        (["--set", "training.batch_size=many"], "takes an integer, not 'many'"),
        (["--set", "posterior.prior_var=0"], "must be a finite number above 0"),
        (["--set", "seed=3"], "seed is set by --seeds and --first-seed"),
        (["--set", "training.lr=0.1", "--policies", "linear_ts"], "no effect on linear_ts"),
        (["--set", "forgetting.half_life=50", "--half-life", "50"], "set twice"),
        (["--env-noise-std", "inf"], "finite"),
        (["--seeds", "0"], ""),
        (["--horizon", "0"], ""),
        (["--device", "tpu"], ""),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, ["synthetic", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert reason in result.stderr


def test_mnist_has_no_stronger_fixed_features() -> None:
    """The command ends before a download begins."""
    assert simulate("mnist", "--full", "--policies", "linear_ts_strong").exit_code == 2


def test_two_tower_refuses_more_candidates_than_actions() -> None:
    assert simulate("two-tower", "--n-actions", "5").exit_code == 2
