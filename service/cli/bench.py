"""`bandexa bench`: measurements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import JsonFile

app = typer.Typer(help="Measure; prints a table.", no_args_is_help=True)


def _measured(name: str, json_file: Path | None, *given: str) -> None:
    """Run a benchmark as a process of its own, which takes the threads it is told."""
    written = [] if json_file is None else ["--json", str(json_file.absolute())]
    command = [sys.executable, "-m", f"benchmarks.{name}", *given, *written]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command("core")
def bench_core(json_file: JsonFile = None) -> None:
    """Select and update, against the textbook posterior; one thread, side by side."""
    _measured("core", json_file)


@app.command("http")
def bench_http(
    repeats: Annotated[int, typer.Option(help="Turns through all figures.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of one turn at one figure.")] = 3.0,
    json_file: JsonFile = None,
) -> None:
    """Selects, rewards and batches per second, over an empty endpoint with the same models."""
    _measured("http", json_file, "--repeats", str(repeats), "--seconds", str(seconds))


@app.command("catalog")
def bench_catalog(json_file: JsonFile = None) -> None:
    """Large catalogues: a draw over all of one, candidates by id, 100,000 actions put."""
    _measured("catalog", json_file)


@app.command("rebuild")
def bench_rebuild(json_file: JsonFile = None) -> None:
    """A posterior over 100,000 rows, against one matrix product and one read of them."""
    _measured("rebuild", json_file)


@app.command("memory")
def bench_memory(json_file: JsonFile = None) -> None:
    """What an idle bandit holds."""
    _measured("memory", json_file)


@app.command("swap")
def bench_swap(json_file: JsonFile = None) -> None:
    """How long the event loop stands still while a model is swapped in."""
    _measured("swap", json_file)


@app.command("all")
def bench_all(
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("bench-out"),
) -> None:
    """Everything with a target, in one table; exits with 1 where a must is missed."""
    _measured("all", None, "--out", str(out))


@app.command("live")
def bench_live(
    clients: Annotated[int, typer.Option(help="Concurrent clients.")] = 16,
    swaps: Annotated[int, typer.Option(help="Swaps to see before it ends.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """Selects and rewards while models are trained and swapped; then every reward is counted."""
    from benchmarks.live import main as measure

    given = ["--clients", str(clients), "--swaps", str(swaps)]
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


@app.command("replay")
def bench_replay(
    rows: Annotated[int, typer.Option(help="Rows of each replay.")] = 20_000,
    quick: Annotated[bool, typer.Option("--quick", help="A third of the rounds.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Random batches from disk, hot and cold, against preadv, memmap and torch shards."""
    from benchmarks.replay import main as measure

    given = ["--rows", str(rows), *(["--quick"] if quick else [])]
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


@app.command("images")
def bench_images(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats.")] = False,
    json_file: JsonFile = None,
) -> None:
    """A ResNet: candidates against one backbone pass; training with kept activations."""
    from benchmarks.images import main as measure

    given = ["--quick"] if quick else []
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


@app.command("interference")
def bench_interference(
    trains: Annotated[
        str, typer.Option(help="What is trained meanwhile: resnet or mlp.")
    ] = "resnet",
    pairs: Annotated[int, typer.Option(help="Turns through all conditions.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a window.")] = 8.0,
    share: Annotated[float, typer.Option(help="Of the capacity that is asked for.")] = 0.5,
    json_file: JsonFile = None,
) -> None:
    """A small bandit's tail while another is trained, beside an equal CPU burner, and alone."""
    from benchmarks.interference import main as measure

    given = ["--trains", trains, "--pairs", str(pairs), "--seconds", str(seconds)]
    given += ["--share", str(share)]
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))
