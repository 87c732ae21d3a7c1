"""`bandexa keys`: what a file of API keys says, before a server reads it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import REFUSED, USAGE, AsJson, columns, fail

if TYPE_CHECKING:
    from service.settings import KeySetting

app = typer.Typer(no_args_is_help=True, help="Check a file of API keys.")
HEAD = ("KEY", "SCOPES", "BANDITS", "EXPIRES", "RATE", "MAX_BANDITS", "MAX_ACTIONS")


@app.callback()
def keys() -> None:
    """Check a file of API keys."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The file, as the setting `keys_file` names it.")],
    bandit: Annotated[
        str | None, typer.Option(help="List the keys that reach this bandit alone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the keys of a file, as a server would read it.

    Exit status 1: a key has ended. 2: a server would refuse the file.
    """
    from service.http.keys import load_keys

    now = datetime.now(UTC)
    try:
        found = load_keys(None, file)
    except ValueError as error:
        fail(str(error), status=USAGE)
    shown = [key for key in found if bandit is None or key.reaches(bandit)]
    if as_json:
        made = [key.model_dump(mode="json", exclude={"sha256"}, exclude_none=True) for key in shown]
        typer.echo(json.dumps({"keys": made}))
    else:
        typer.echo(columns(HEAD, [_row(key) for key in shown]))
    for line in found.ending(now):
        typer.echo(f"bandexa: {line}", err=True)
    if any(key.expires is not None and key.expires <= now for key in found):
        raise typer.Exit(REFUSED)


def _row(key: KeySetting) -> tuple[object, ...]:
    def shown(value: object) -> object:
        return "-" if value is None else value

    rate = None if key.rate is None else f"{key.rate:g}/s, {key.at_once:g} at once"
    return (
        key.name, ",".join(key.scopes), "all" if key.bandits is None else ",".join(key.bandits),
        shown(key.expires and key.expires.isoformat()), shown(rate), shown(key.max_bandits),
        shown(key.max_actions),
    )  # fmt: skip
