"""`bandexa advise`: how much exploration, or control, a bandit needs to see a difference."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from service.cli.options import BanditName, columns, echo_json
from service.cli.remote import Server, with_server


def register(app: typer.Typer) -> None:
    """Add `advise` to `app`."""
    app.command()(advise)


@with_server
def advise(
    server: Server,
    bandit: BanditName,
    precision: Annotated[
        float,
        typer.Option(min=1e-4, max=1.0, help="The difference to be seen, as a share of the range."),
    ] = 0.05,
    difference: Annotated[
        float | None,
        typer.Option(help="The same in the unit of rewards, in its place."),
    ] = None,
    decisions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Within how many decisions; by default those of 28 days, by the last week's"
            " traffic.",
        ),
    ] = None,
    variance: Annotated[
        float | None,
        typer.Option(help="Of rewards; by default that of the values of the last week."),
    ] = None,
    actions: Annotated[
        int | None, typer.Option(min=1, help="How many; by default the enabled ones.")
    ] = None,
) -> None:
    """Say which control or floor shows a difference within a number of decisions.

    It is the rule of `bandexa evaluate`, with the bandit's own figures; nothing is changed.
    """
    with server.connected() as client:
        found = client.advice(
            bandit, precision=precision, difference=difference, decisions=decisions,
            variance=variance, actions=actions,
        )  # fmt: skip
    if server.as_json:
        echo_json(dataclasses.asdict(found))
    elif not server.quiet:
        inputs = dataclasses.asdict(found.inputs).items()
        shown = [(key, "" if value is None else _short(value)) for key, value in inputs]
        typer.echo(columns(("input", "value"), shown) + "\n")
        for sentence in found.text:
            typer.echo(sentence)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
