"""`bandexa serve`, and `bandexa keygen` for the keys of its callers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.cli.options import USAGE

if TYPE_CHECKING:
    from service.http.keys import Keys
    from service.settings import Settings

STORE_FAILED_STATUS = 4  # the disk failed to sync; a new start recovers from what it holds


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(serve)
    app.command()(keygen)


def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of all stored data.")] = None,
    replay_dir: Annotated[Path | None, typer.Option(help="Directory of the disk replays.")] = None,
    durability: Annotated[str | None, typer.Option(help="commit or os.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Serve bandits over HTTP until SIGTERM.

    Prints one JSON line {"event": "listening", "url", "pid"} on standard output once it is ready.

    Exit status 4: the store failed for good (docs/operations.md); start again to recover.
    """
    # Imported here: other commands need none of it, and a server starts in less than a second.
    from service.cli.listening import Server, listen
    from service.http.keys import keys_of
    from service.observe import logs
    from service.settings import load_settings

    try:
        settings = load_settings(
            config, host=host, port=port, data_dir=data_dir, replay_dir=replay_dir,
            durability=durability, device=device,
        )  # fmt: skip
        keys = keys_of(settings)
        logs.configure(settings.log_format, settings.log_level)
        _log_access(settings, keys)
        listener = listen(settings.host, settings.port)
    except (ValueError, OSError) as error:
        _refuse("serve", error)
    from service.http.app import create_app  # after what refuses a start in a moment
    from service.http.crowded import Crowded

    try:
        asgi = create_app(settings)
    except ValueError as error:
        _refuse("serve", error)
    server = Server(asgi, settings, Crowded(asgi, asgi.metrics))
    with contextlib.suppress(SystemExit):  # of a start that failed, with uvicorn's own status
        server.run(sockets=[listener])
    if asgi.failed_for_good:
        logging.shutdown()
        os._exit(STORE_FAILED_STATUS)  # at once: closing the database would write
    if not server.started:
        raise typer.Exit(USAGE if asgi.state.refused else 1)


def _log_access(settings: Settings, keys: Keys) -> None:
    """Log who may call this server."""
    log = logging.getLogger(__name__)
    if keys:
        log.info("callers need an API key")
    else:
        log.warning("no API keys: every caller that reaches %s may do everything", settings.host)


def keygen(
    name: Annotated[str, typer.Option(help="The holder of the key, as audit lines name it.")],
    scope: Annotated[list[str], typer.Option(help="select, reward, read or admin; repeat it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all on standard output.")] = False,
) -> None:
    """Make an API key: its table for the server's TOML, and on standard error the key itself."""
    from service.http.keys import hash_of, new_key
    from service.settings import KeySetting

    key = new_key()
    try:
        made = KeySetting.model_validate({"name": name, "sha256": hash_of(key), "scopes": scope})
    except ValueError as error:
        _refuse("keygen", error)
    if as_json:
        typer.echo(json.dumps({"key": key, **made.model_dump()}))
        return
    scopes = ", ".join(f'"{one}"' for one in made.scopes)
    typer.echo(f'[[keys]]\nname = "{made.name}"\nsha256 = "{made.sha256}"\nscopes = [{scopes}]')
    typer.echo(f"The key, shown only here: {key}", err=True)


def _refuse(command: str, error: Exception) -> NoReturn:
    typer.echo(f"bandexa {command}: {error}", err=True)
    raise typer.Exit(USAGE) from error
