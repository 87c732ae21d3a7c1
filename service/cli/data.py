"""`bandexa verify` and `bandexa backup`: what is done to a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import JsonFile, Quiet
from service.settings import CLIENT_KEY, SettingsError, load_settings


def register(app: typer.Typer) -> None:
    """Give the commands to `app`."""
    app.command()(verify)
    app.command()(backup)


def verify(
    data_dir: Annotated[Path, typer.Argument(help="A server's data directory, or a backup.")],
    live: Annotated[str | None, typer.Option(help="URL of the server to compare with.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=CLIENT_KEY, help="Sent to that server.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with own encoders.")] = None,
    quiet: Quiet = False,
    json_file: JsonFile = None,
) -> None:
    """Recompute and compare what is stored; exits with 0: ok, 1: a difference, 2: unreadable."""
    try:
        settings = load_settings(config, data_dir=data_dir)
    except SettingsError as error:
        typer.echo(f"bandexa verify: {error}", err=True)
        raise typer.Exit(2) from error
    from service.verify import main as check

    raise typer.Exit(check(settings, live=live, api_key=api_key, json_file=json_file, quiet=quiet))


def backup(
    data_dir: Annotated[Path, typer.Argument(help="The data directory, of a server that may run.")],
    dest: Annotated[Path, typer.Argument(help="Where the copy goes: new, or empty.")],
    quiet: Quiet = False,
) -> None:
    """Copy a data directory into one that can be served; exits with 2 where that failed."""
    from service.backup import main as copy

    raise typer.Exit(copy(data_dir, dest, quiet=quiet))
