"""`bandexa serve`, and the keys its callers need."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from service.http.keys import Keys, hash_of, keys_of, new_key
from service.observe import logs
from service.settings import KeySetting, Settings, load_settings

STORE_FAILED_STATUS = 4  # the disk failed to sync; start again to recover from what it holds


def register(app: typer.Typer) -> None:
    """Give the commands to `app`."""
    app.command()(serve)
    app.command()(keygen)


def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    replay_dir: Annotated[Path | None, typer.Option(help="Where disk replays lie.")] = None,
    durability: Annotated[str | None, typer.Option(help="commit or os.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Serve bandits over HTTP until SIGTERM.

    Prints one JSON line {"event": "listening", "url", "pid"} on standard output once it is ready.

    Exit status 4: the store failed for good (docs/operations.md); start again to recover.
    """
    try:
        settings = load_settings(
            config, host=host, port=port, data_dir=data_dir, replay_dir=replay_dir,
            durability=durability, device=device,
        )  # fmt: skip
        keys = keys_of(settings)
        logs.configure(settings.log_format, settings.log_level)
        _tell_access(settings, keys)
        listener = _listen(settings)
    except (ValueError, OSError) as error:
        typer.echo(f"bandexa serve: {error}", err=True)
        raise typer.Exit(2) from error
    from service.http.app import create_app  # torch: only a server pays for its import

    try:
        asgi = create_app(settings)
        server = _Server(
            uvicorn.Config(
                asgi,
                loop="uvloop",
                http="httptools",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=10,
            )
        )
    except ValueError as error:
        typer.echo(f"bandexa serve: {error}", err=True)
        raise typer.Exit(2) from error
    server.ends_when(lambda: asgi.failed_for_good)
    with contextlib.suppress(SystemExit):  # of a start that failed, with uvicorn's own status
        server.run(sockets=[listener])
    if asgi.failed_for_good:
        logging.shutdown()
        os._exit(STORE_FAILED_STATUS)  # at once: closing the database would write
    if not server.started:
        raise typer.Exit(2 if asgi.state.refused else 1)


def _tell_access(settings: Settings, keys: Keys) -> None:
    """Say in the log who may call this server."""
    log = logging.getLogger(__name__)
    if keys:
        log.info("callers need an API key")
    else:
        log.warning("no API keys: whoever reaches %s may do everything", settings.host)


def keygen(
    name: Annotated[str, typer.Option(help="Who holds the key: what audit lines tell.")],
    scope: Annotated[list[str], typer.Option(help="select, reward, read or admin; repeat it.")],
    as_json: Annotated[bool, typer.Option("--json", help="All on standard output.")] = False,
) -> None:
    """Make an API key: its table for the server's TOML, and on standard error the key itself."""
    key = new_key()
    try:
        made = KeySetting.model_validate({"name": name, "sha256": hash_of(key), "scopes": scope})
    except ValueError as error:
        typer.echo(f"bandexa keygen: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps({"key": key, **made.model_dump()}))
        return
    scopes = ", ".join(f'"{one}"' for one in made.scopes)
    typer.echo(f'[[keys]]\nname = "{made.name}"\nsha256 = "{made.sha256}"\nscopes = [{scopes}]')
    typer.echo(f"The key, shown only here: {key}", err=True)


class _Server(uvicorn.Server):
    """Announces itself, and lets a signal end it with status 0 once all is committed."""

    def ends_when(self, condition: Callable[[], bool]) -> None:
        """End in order once `condition` holds; it is looked at ten times a second."""
        self._has_to_end = condition

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._has_to_end()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            line = {"event": "listening", "url": f"http://{shown}:{port}", "pid": os.getpid()}
            print(json.dumps(line), flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal once more after shutdown, which would make the exit status
        # that of a killed process although everything was finished and committed.
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
    return listener
