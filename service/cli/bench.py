"""`bandexa bench`: measurements."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import JsonFile

app = typer.Typer(help="Measure; prints a table.", no_args_is_help=True)


@app.command("core")
def bench_core(
    json_file: JsonFile = None,
) -> None:
    """Select and update, against the textbook posterior; one thread, side by side."""
    from benchmarks.core import main as measure

    measure([] if json_file is None else ["--json", str(json_file)])


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
