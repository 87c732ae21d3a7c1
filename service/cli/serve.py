"""`bandexa serve`, and `bandexa keygen` for the keys of its callers."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.cli.options import USAGE

if TYPE_CHECKING:
    from service.http.keys import Keys
    from service.settings import Settings


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
    durability: Annotated[str | None, typer.Option(help="commit, barrier or os.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer selects and rewards.")
    ] = None,
    standby: Annotated[
        bool | None,
        typer.Option("--standby", help="Wait while another server has the database of `store`."),
    ] = None,
) -> None:
    """Serve bandits over HTTP until SIGTERM.

    Prints one JSON line {"event": "listening", "url", "pid"} on standard output once it serves.

    Exit status 4: the store failed for good (docs/operations.md); start again to recover.
    """
    # Imported here: other commands need none of it, and a server starts in less than a second.
    from service.cli.certificate import certificate_of
    from service.cli.listening import listen
    from service.http.keys import keys_of
    from service.observe import logs
    from service.settings import load_settings

    try:
        settings = load_settings(
            config, host=host, port=port, data_dir=data_dir, replay_dir=replay_dir,
            durability=durability, device=device, workers=workers, standby=standby,
        )  # fmt: skip
        keys = keys_of(settings)
        logs.configure(settings.log_format, settings.log_level)
        _log_access(settings, keys)
        certificate = certificate_of(settings)
        listener = listen(settings.host, settings.port)
    except (ValueError, OSError) as error:
        _refuse("serve", error)
    try:
        if settings.servers > 1:
            from service.cli.servers import SharingServer

            status = SharingServer(settings, listener, certificate).run()
        elif settings.workers > 1:
            from service.cli.workers import Workers

            status = Workers(settings, listener, certificate).run()
        else:
            from service.cli.process import serve_process

            status = serve_process(settings, listener, certificate)
    except ValueError as error:
        _refuse("serve", error)
    raise typer.Exit(status)


def _log_access(settings: Settings, keys: Keys) -> None:
    """Log who may call this server."""
    log = logging.getLogger(__name__)
    if keys:
        log.info("callers need an API key")
        for line in keys.ending(datetime.now(UTC)):
            log.warning(line)
    else:
        log.warning("no API keys: every caller that reaches %s may do everything", settings.host)


def keygen(
    name: Annotated[str, typer.Option(help="The holder of the key, as audit lines name it.")],
    scope: Annotated[list[str], typer.Option(help="select, reward, read or admin; repeat it.")],
    expires: Annotated[
        str | None, typer.Option(help="When it ends: days from now (90d), or a date (2027-06-30).")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="The most calls a second, over time.")] = None,
    burst: Annotated[int | None, typer.Option(help="The most calls at once.")] = None,
    bandit: Annotated[
        list[str] | None,
        typer.Option(help="A bandit that it is limited to, or a pattern (shop-*); repeat it."),
    ] = None,
    max_bandits: Annotated[
        int | None, typer.Option(help="The most bandits among those it reaches.")
    ] = None,
    max_actions: Annotated[
        int | None, typer.Option(help="The most actions of all of them together.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="New file for the key itself, which its owner alone can read."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all on standard output.")] = False,
) -> None:
    """Make an API key: its table for the server's TOML, and on standard error the key itself."""
    from service.http.keys import hash_of, new_key
    from service.settings import KeySetting

    key = new_key()
    try:
        given = {
            "name": name, "sha256": hash_of(key), "scopes": scope, "rate": rate, "burst": burst,
            "bandits": bandit or None, "max_bandits": max_bandits, "max_actions": max_actions,
            "expires": None if expires is None else _moment(expires),
        }  # fmt: skip
        made = KeySetting.model_validate(given)
    except ValueError as error:
        _refuse("keygen", error)
    if key_file is not None:
        try:
            descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            _refuse("keygen", error)
        with os.fdopen(descriptor, "w") as file:
            file.write(key)
    if as_json:
        typer.echo(json.dumps({"key": key, **made.model_dump(mode="json", exclude_none=True)}))
        return
    scopes = ", ".join(f'"{one}"' for one in made.scopes)
    typer.echo(f'[[keys]]\nname = "{made.name}"\nsha256 = "{made.sha256}"\nscopes = [{scopes}]')
    if made.bandits is not None:
        patterns = ", ".join(f'"{one}"' for one in made.bandits)
        typer.echo(f"bandits = [{patterns}]")
    if made.expires is not None:
        typer.echo(f"expires = {made.expires.isoformat()}")
    for field in ("rate", "burst", "max_bandits", "max_actions"):
        if getattr(made, field) is not None:
            typer.echo(f"{field} = {getattr(made, field)!r}")
    if key_file is None:
        typer.echo(f"The key, shown only here: {key}", err=True)
    else:
        typer.echo(f"The key is in {key_file}", err=True)


def _moment(text: str) -> datetime:
    """Return the moment of `90d` from now, or of a date or time in ISO 8601; UTC if it says none.

    Raises:
        ValueError: It is neither, or not in the future.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        if text.endswith("d") and text[:-1].isdigit():
            return now + timedelta(days=int(text[:-1]))
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"expires: {text!r} is neither days (90d) nor a date") from None
    moment = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    if moment <= now:
        raise ValueError(f"expires: {text} has passed")
    return moment


def _refuse(command: str, error: Exception) -> NoReturn:
    typer.echo(f"bandexa {command}: {error}", err=True)
    raise typer.Exit(USAGE) from error
