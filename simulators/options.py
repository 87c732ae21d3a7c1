"""The options that all `simulate` commands share, declared once.

Declarations alone; `with_run_options` adds them to a command, which receives them as one value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from simulators.shared_options import with_options

_RUNS = "Runs"
_WHERE = "Where"
_TUNING = "Tuning (left out: the service's own values)"
_RESULTS = "Results"


def refuse(flag: str, reason: str) -> NoReturn:
    """End a command with status 2 and name the option that is wrong."""
    raise typer.BadParameter(reason, param_hint=flag)


def finite(value: float | None) -> float | None:
    """Refuse infinity and NaN, which a range check accepts."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not finite")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of every simulation; None leaves the choice to the service."""

    policies: Annotated[
        str,
        typer.Option(
            help="Comma list of policies to compare on the same contexts, or all: linear_ts (fixed "
            "features), linear_ts_strong (fixed features with interactions; synthetic and "
            "two-tower), linear_ts_bilinear (all products of context and action features; "
            "two-tower), neural_linear_ts (learned features), greedy (learned features, no "
            "exploration), uniform; a shop has the last three. Wins are counted against the first.",
            rich_help_panel=_RUNS,
        ),
    ] = "linear_ts,neural_linear_ts"
    seeds: Annotated[
        int,
        typer.Option(
            min=1, help="Number of seeds; every policy runs with each.", rich_help_panel=_RUNS
        ),
    ] = 1
    first_seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="The first seed; the others follow it. A seed determines environment and bandit.",
            rich_help_panel=_RUNS,
        ),
    ] = 0
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Let the service train in the background, as in production. Otherwise the "
            "simulator requests each round and waits for it, so that a run repeats exactly.",
            rich_help_panel=_RUNS,
        ),
    ] = False
    delay: Annotated[
        int,
        typer.Option(
            min=1,
            help="Collect this many rewards, then send them together in their order; the rest is "
            "sent at the end. 1 sends each reward at once.",
            rich_help_panel=_RUNS,
        ),
    ] = 1

    url: Annotated[
        str | None,
        typer.Option(
            help="Use the service at this address and leave the bandits there. Left out: a private "
            "server on a free port, stopped at the end.",
            rich_help_panel=_WHERE,
        ),
    ] = None
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="BANDEXA_API_KEY",
            help="With --url: the API key to send; it needs all scopes.",
            rich_help_panel=_WHERE,
        ),
    ] = None
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="With --url: first delete bandits with the names of this simulation.",
            rich_help_panel=_WHERE,
        ),
    ] = False
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(
            help="Device on which the private server trains; auto takes a GPU if there is one.",
            rich_help_panel=_WHERE,
        ),
    ] = None
    buffer_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for the replay files of the private server. Left out: a temporary one.",
            rich_help_panel=_WHERE,
        ),
    ] = None

    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any key of the bandits' configuration (docs/configuration.md), such as "
            "training.batch_size=64 or encoder.params.hidden=[64,64]; repeat it. Keys of training, "
            "replay and encoder go to policies with a learned encoder, others to all but uniform.",
            rich_help_panel=_TUNING,
        ),
    ] = None
    half_life: Annotated[
        float | None,
        typer.Option(
            min=32.0,
            callback=finite,
            help="Number of learned values after which a reward weighs half, for rewards that "
            "drift.",
            rich_help_panel=_TUNING,
        ),
    ] = None

    json: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write all results to this file, partial ones too when a run fails.",
            rich_help_panel=_RESULTS,
        ),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Draw cumulative regret over steps into this file (.png, .pdf or .svg).",
            rich_help_panel=_RESULTS,
        ),
    ] = None
    check_save_load: Annotated[
        bool,
        typer.Option(
            "--check-save-load",
            help="After the first seed of each policy: export its model, import it as a new "
            "bandit, print the greatest difference of their scores and fail unless it is 0.",
            rich_help_panel=_RESULTS,
        ),
    ] = False
    save_path: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="With --check-save-load: write the exported snapshot to this file; the policy "
            "becomes part of the name when there are several.",
            rich_help_panel=_RESULTS,
        ),
    ] = None
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Show no progress, only the table.", rich_help_panel=_RESULTS),
    ] = False


with_run_options = with_options(RunOptions)
