"""`bandexa challengers`: other configurations that learn a bandit's log beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.admin import read_file
from service.cli.options import (
    BanditName,
    columns,
    echo_json,
)
from service.cli.remote import Server, with_server, with_server_without_json

if TYPE_CHECKING:
    from bandexa_client import BanditState, ChallengerState

app = typer.Typer(help="Other configurations that learn a bandit's log beside it.")
ChallengerName = Annotated[str, typer.Argument(help="The challenger's name.")]


@app.command("list")
@with_server
def list_challengers(
    server: Server,
    bandit: BanditName,
) -> None:
    """Show the challengers of a bandit side by side: what each would have earned more."""
    with server.connected() as client:
        found = client.list_challengers(bandit)
    if server.as_json:
        echo_json([dataclasses.asdict(each) for each in found])
    elif server.quiet:
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
    if score.left_out:
        later = f"{score.left_out} not the first of their units"
        remark = f"{remark}; {later}" if remark else later
    return [*line, str(score.num), lift, ends, remark]


@app.command("put")
@with_server_without_json
def put_challenger(
    server: Server,
    bandit: BanditName,
    challenger: ChallengerName,
    file: Annotated[
        Path | None,
        typer.Option(
            help="JSON or TOML (.toml) of what differs, and of its promotion; - is standard input."
            " `linear` and `greedy` need none."
        ),
    ] = None,
) -> None:
    """Declare a challenger, or change it."""
    differs = {} if file is None else read_file(file)
    with server.connected() as client:
        found = client.put_challenger(bandit, challenger, differs)
    if not server.quiet:
        typer.echo(f"{found.name}: {found.state}")


@app.command("delete")
@with_server_without_json
def delete_challenger(
    server: Server,
    bandit: BanditName,
    challenger: ChallengerName,
) -> None:
    """Remove a challenger; a trial of it ends, and what is served stays."""
    with server.connected() as client:
        client.delete_challenger(bandit, challenger)
    if not server.quiet:
        typer.echo(f"{challenger}: deleted")


@app.command("promote")
@with_server_without_json
def promote(
    server: Server,
    bandit: BanditName,
    challenger: ChallengerName,
    share: Annotated[
        float,
        typer.Option(help="Up to 0.5: a trial; 1: its configuration becomes the bandit's."),
    ] = 1.0,
) -> None:
    """Give a challenger a share of the decisions, or make its configuration the bandit's."""
    with server.connected() as client:
        _say(client.promote(bandit, challenger, share=share, wait=True), challenger, server)


@app.command("demote")
@with_server_without_json
def demote(
    server: Server,
    bandit: BanditName,
    challenger: ChallengerName,
) -> None:
    """End the trial of a challenger, or serve again what it replaced, with all rows since."""
    with server.connected() as client:
        _say(client.demote(bandit, challenger), challenger, server)


def _say(found: BanditState, challenger: str, server: Server) -> None:
    if not server.quiet:
        state = next(each for each in found.challengers or () if each.name == challenger)
        typer.echo(f"{challenger}: {state.state}, share {state.share:.3g}")
