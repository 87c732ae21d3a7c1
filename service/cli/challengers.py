"""`bandexa challengers`: other configurations that learn a bandit's log beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.admin import read_file
from service.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    BanditName,
    Quiet,
    Url,
    columns,
    echo_json,
)
from service.cli.remote import connected

if TYPE_CHECKING:
    from bandexa_client import BanditState, ChallengerState

app = typer.Typer(help="Other configurations that learn a bandit's log beside it.")
ChallengerName = Annotated[str, typer.Argument(help="The challenger's name.")]


@app.command("list")
def list_challengers(
    bandit: BanditName,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show the challengers of a bandit side by side: what each would have earned more."""
    with connected(url, api_key) as client:
        found = client.list_challengers(bandit)
    if as_json:
        echo_json([dataclasses.asdict(each) for each in found])
    elif quiet:
        for each in found:
            typer.echo(each.name)
    else:
        head = ("challenger", "state", "share", "decisions", "lift", "interval", "remark")
        typer.echo(columns(head, [_line(each) for each in found]))


def _line(challenger: ChallengerState) -> list[str]:
    score = challenger.score
    line = [challenger.name, challenger.state, f"{challenger.share:.3g}"]
    if score is None:
        return [*line, "0", "", "", "not compared yet"]
    lift = "" if score.lift is None else f"{score.lift:.4g}"
    known = score.low is not None and score.high is not None
    ends = f"{score.low:.4g} to {score.high:.4g}" if known else ""
    remark = score.error or "; ".join(score.reasons) or ("better" if score.is_better else "")
    return [*line, str(score.num), lift, ends, remark]


@app.command("put")
def put_challenger(
    bandit: BanditName,
    challenger: ChallengerName,
    file: Annotated[
        Path | None,
        typer.Option(
            help="JSON or TOML (.toml) of what differs, and of its promotion; - is standard input."
            " `linear` and `greedy` need none."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    quiet: Quiet = False,
) -> None:
    """Declare a challenger, or change it."""
    differs = {} if file is None else read_file(file)
    with connected(url, api_key) as client:
        found = client.put_challenger(bandit, challenger, differs)
    if not quiet:
        typer.echo(f"{found.name}: {found.state}")


@app.command("delete")
def delete_challenger(
    bandit: BanditName,
    challenger: ChallengerName,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    quiet: Quiet = False,
) -> None:
    """Remove a challenger; a trial of it ends, and what is served stays."""
    with connected(url, api_key) as client:
        client.delete_challenger(bandit, challenger)
    if not quiet:
        typer.echo(f"{challenger}: deleted")


@app.command("promote")
def promote(
    bandit: BanditName,
    challenger: ChallengerName,
    share: Annotated[
        float,
        typer.Option(help="Up to 0.5: a trial; 1: its configuration becomes the bandit's."),
    ] = 1.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    quiet: Quiet = False,
) -> None:
    """Give a challenger a share of the decisions, or make its configuration the bandit's."""
    with connected(url, api_key) as client:
        _say(client.promote(bandit, challenger, share=share, wait=True), challenger, quiet=quiet)


@app.command("demote")
def demote(
    bandit: BanditName,
    challenger: ChallengerName,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    quiet: Quiet = False,
) -> None:
    """End the trial of a challenger, or serve again what it replaced, with all rows since."""
    with connected(url, api_key) as client:
        _say(client.demote(bandit, challenger), challenger, quiet=quiet)


def _say(found: BanditState, challenger: str, *, quiet: bool) -> None:
    if not quiet:
        state = next(each for each in found.challengers or () if each.name == challenger)
        typer.echo(f"{challenger}: {state.state}, share {state.share:.3g}")
