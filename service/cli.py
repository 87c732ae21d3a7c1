"""The `bandexa` command."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvicorn

from service.keys import Keys, KeySetting, hash_of, load_keys, new_key, refuse_exposure
from service.settings import CLIENT_KEY, Settings, SettingsError, load_settings
from simulators.cli import app as simulate_app

app = typer.Typer(
    help="Online contextual bandits with Neural-Linear Thompson sampling.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(simulate_app, name="simulate")
STORE_FAILED_STATUS = 4  # the disk failed to sync; start again to recover from what it holds
bench_app = typer.Typer(help="Measure; prints a table.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


@app.command()
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
        keys = load_keys(settings.keys, settings.keys_file)
        refuse_exposure(settings.host, keys, settings.allow_anonymous)
        _configure_logging(settings)
        _tell_access(settings, keys)
        listener = _listen(settings)
    except (ValueError, OSError) as error:
        typer.echo(f"bandexa serve: {error}", err=True)
        raise typer.Exit(2) from error
    from service.app import create_app  # torch: only a server pays for its import

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
    engine = asgi.state.engine
    server.ends_when(lambda: engine.failed_for_good)
    with contextlib.suppress(SystemExit):  # of a start that failed, with uvicorn's own status
        server.run(sockets=[listener])
    if engine.failed_for_good:
        logging.shutdown()
        os._exit(STORE_FAILED_STATUS)  # at once: closing the database would write
    if not server.started:
        raise typer.Exit(1)


def _tell_access(settings: Settings, keys: Keys) -> None:
    """Say in the log who may call this server."""
    log = logging.getLogger(__name__)
    if keys:
        log.info("callers need an API key")
    else:
        log.warning("no API keys: whoever reaches %s may do everything", settings.host)


@app.command()
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


def _configure_logging(settings: Settings) -> None:
    """JSON lines on standard error, for our loggers and uvicorn's alike."""
    from service.auth import AUDIT, AUDIT_FIELDS

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=AUDIT_FIELDS),
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger(AUDIT).setLevel(logging.INFO)  # whatever the level of the rest


@app.command()
def snapshots(
    data_dir: Annotated[Path, typer.Argument(help="The server's data directory.")],
) -> None:
    """List the snapshots of every bandit in a data directory."""
    from rich.console import Console
    from rich.table import Table

    from bandexa_core.errors import SnapshotError
    from bandexa_core.snapshot import SnapshotStore
    from service.store import StoreReader

    database = data_dir / "bandexa.db"
    if not database.exists():
        typer.echo(f"bandexa snapshots: {data_dir} holds no bandexa.db", err=True)
        raise typer.Exit(2)
    table = Table("bandit", "snapshot", "position", "rows", "created", "state")
    with StoreReader(database) as reader:
        for record in reader.bandits():
            store = SnapshotStore(data_dir / "snapshots" / record.uid)
            for version in store.versions():
                try:
                    manifest = store.load(version).manifest
                except SnapshotError as error:
                    table.add_row(record.name, str(version), "", "", "", f"refused: {error}")
                    continue
                table.add_row(
                    record.name, str(version), str(manifest.position), str(manifest.num_rows),
                    f"{manifest.created_at:.0f}", "good",
                )  # fmt: skip
    Console().print(table)


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


def _measured(name: str, json_file: Path | None, *given: str) -> None:
    """Run a benchmark as a process of its own, which takes the threads it is told."""
    written = [] if json_file is None else ["--json", str(json_file.absolute())]
    command = [sys.executable, "-m", f"benchmarks.{name}", *given, *written]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@bench_app.command("core")
def bench_core(json_file: JsonFile = None) -> None:
    """Select and update, against the textbook posterior; one thread, side by side."""
    _measured("core", json_file)


@bench_app.command("http")
def bench_http(
    repeats: Annotated[int, typer.Option(help="Turns through all figures.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of one turn at one figure.")] = 3.0,
    json_file: JsonFile = None,
) -> None:
    """Selects, rewards and batches per second, over an empty endpoint with the same models."""
    _measured("http", json_file, "--repeats", str(repeats), "--seconds", str(seconds))


@bench_app.command("catalog")
def bench_catalog(json_file: JsonFile = None) -> None:
    """Large catalogues: a draw over all of one, candidates by id, 100,000 actions put."""
    _measured("catalog", json_file)


@bench_app.command("rebuild")
def bench_rebuild(json_file: JsonFile = None) -> None:
    """A posterior over 100,000 rows, against one matrix product and one read of them."""
    _measured("rebuild", json_file)


@bench_app.command("memory")
def bench_memory(json_file: JsonFile = None) -> None:
    """What an idle bandit holds."""
    _measured("memory", json_file)


@bench_app.command("swap")
def bench_swap(json_file: JsonFile = None) -> None:
    """How long the event loop stands still while a model is swapped in."""
    _measured("swap", json_file)


@bench_app.command("all")
def bench_all(
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("bench-out"),
) -> None:
    """Everything with a target, in one table; exits with 1 where a must is missed."""
    _measured("all", None, "--out", str(out))


@bench_app.command("live")
def bench_live(
    clients: Annotated[int, typer.Option(help="Concurrent clients.")] = 16,
    swaps: Annotated[int, typer.Option(help="Swaps to see before it ends.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """Selects and rewards while models are trained and swapped; then every reward is counted."""
    from benchmarks.live import main as measure

    given = ["--clients", str(clients), "--swaps", str(swaps)]
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


@bench_app.command("replay")
def bench_replay(
    rows: Annotated[int, typer.Option(help="Rows of each replay.")] = 20_000,
    quick: Annotated[bool, typer.Option("--quick", help="A third of the rounds.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Random batches from disk, hot and cold, against preadv, memmap and torch shards."""
    from benchmarks.replay import main as measure

    given = ["--rows", str(rows), *(["--quick"] if quick else [])]
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


@bench_app.command("images")
def bench_images(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats.")] = False,
    json_file: JsonFile = None,
) -> None:
    """A ResNet: candidates against one backbone pass; training with kept activations."""
    from benchmarks.images import main as measure

    given = ["--quick"] if quick else []
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


@app.command()
def verify(
    data_dir: Annotated[Path, typer.Argument(help="A server's data directory, or a backup.")],
    live: Annotated[str | None, typer.Option(help="URL of the server to compare with.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=CLIENT_KEY, help="Sent to that server.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with own encoders.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
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


@app.command()
def backup(
    data_dir: Annotated[Path, typer.Argument(help="The data directory, of a server that may run.")],
    dest: Annotated[Path, typer.Argument(help="Where the copy goes: new, or empty.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
) -> None:
    """Copy a data directory into one that can be served; exits with 2 where that failed."""
    from service.backup import main as copy

    raise typer.Exit(copy(data_dir, dest, quiet=quiet))


@bench_app.command("interference")
def bench_interference(
    trains: Annotated[
        str, typer.Option(help="What is trained meanwhile: resnet or mlp.")
    ] = "resnet",
    pairs: Annotated[int, typer.Option(help="Turns through all conditions.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a window.")] = 8.0,
    share: Annotated[float, typer.Option(help="Of the capacity that is asked for.")] = 0.5,
    json_file: JsonFile = None,
) -> None:
    """A small bandit's tail while another is trained, beside an equal CPU burner, and alone."""
    from benchmarks.interference import main as measure

    given = ["--trains", trains, "--pairs", str(pairs), "--seconds", str(seconds)]
    given += ["--share", str(share)]
    raise typer.Exit(measure(given if json_file is None else [*given, "--json", str(json_file)]))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
