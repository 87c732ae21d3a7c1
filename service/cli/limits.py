"""`bandexa bandits findings`, `bandexa actions limits` and `limit`: what is wrong, what may be."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import (
    USAGE,
    BanditName,
    columns,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server

if TYPE_CHECKING:
    from bandexa_client import BanditState

HEAD = ("action", "floor", "max_share", "starts_at", "ends_at")
DEFAULTS = {"floor": 0.0, "max_share": 1.0, "starts_at": None, "ends_at": None}


def register(bandits: typer.Typer, actions: typer.Typer) -> None:
    """Add the commands to the groups of bandits and of actions."""
    bandits.command("findings")(findings)
    actions.command("limits")(list_limits)
    actions.command("limit")(limit)


@with_server
def findings(
    server: Server,
    bandit: BanditName,
) -> None:
    """Show what was wrong with a bandit, and when; the newest first."""
    with server.connected() as client:
        found = client.findings(bandit).findings
    if server.as_json:
        echo_json([dataclasses.asdict(each) for each in found])
    elif not server.quiet:
        if not found:
            typer.echo("nothing was wrong so far")
        for each in found:
            until = "now" if each.until is None else _moment(each.until)
            typer.echo(f"{_moment(each.since)} to {until}  {each.severity}  {each.name}")
            typer.echo(f"    {each.message}")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


@with_server
def list_limits(
    server: Server,
    bandit: BanditName,
) -> None:
    """List the limits of a bandit's actions: dates, floors and caps."""
    with server.connected() as client:
        found = _limits(client.get_bandit(bandit).spec)
    if server.as_json:
        echo_json(found)
    elif not server.quiet:
        rows = [
            (name, *("-" if one[key] is None else one[key] for key in HEAD[1:]))
            for name, one in sorted(found.items())
        ]
        typer.echo(columns(HEAD, rows) if rows else "no action has limits")


@with_server
def limit(
    server: Server,
    bandit: BanditName,
    action: Annotated[str, typer.Argument(help="The action's id.")],
    floor: Annotated[float | None, typer.Option(help="Its least probability.")] = None,
    max_share: Annotated[float | None, typer.Option(help="Its largest probability.")] = None,
    starts_at: Annotated[
        str | None, typer.Option("--from", help="When it begins to be offered, with an offset.")
    ] = None,
    ends_at: Annotated[
        str | None, typer.Option("--until", help="When it ends to be offered, with an offset.")
    ] = None,
    remove: Annotated[bool, typer.Option(help="Remove the limits of the action.")] = False,
) -> None:
    """Limit an action: when it is offered, and how often it is chosen. Others stay as they are."""
    asked = {"floor": floor, "max_share": max_share, "starts_at": starts_at, "ends_at": ends_at}
    given = {key: value for key, value in asked.items() if value is not None}
    if remove == bool(given):
        fail("give either limits or --remove", status=USAGE)
    with server.connected() as client:
        spec = _edited(client.get_bandit(bandit))
        limits = _limits(spec)
        known = limits.pop(action, DEFAULTS)
        if not remove:
            limits[action] = known | given
        state = client.put_bandit(bandit, {**spec, "limits": limits})
    found = _limits(state.spec)
    if server.as_json:
        echo_json(found)
    elif not server.quiet:
        typer.echo(f"{bandit}: {len(found)} actions have limits")


def _edited(state: BanditState) -> dict[str, Any]:
    """Return the configuration that a PUT of other limits sends.

    A PUT of the served one would take back a change that is being learned, and one that names the
    mode would undo what a guard does meanwhile.
    """
    change = state.rebuild
    spec = state.spec if change is None or change.state == "done" else change.spec
    return {key: value for key, value in spec.items() if key not in ("mode", "serve")}


def _limits(spec: Any) -> dict[str, dict[str, Any]]:
    return {name: DEFAULTS | dict(one) for name, one in (spec.get("limits") or {}).items()}
