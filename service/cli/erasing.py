"""`bandexa erase` and `compact`: what is stored of somebody, and the space that it took."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import (
    USAGE,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(erase)
    app.command()(compact)


@with_server
def erase(
    server: Server,
    unit: Annotated[
        str | None, typer.Option(help="Erase all decisions of this user or session.")
    ] = None,
    decisions: Annotated[
        list[str] | None, typer.Option("--decision", help="Erase this decision; repeatable.")
    ] = None,
    bandit: Annotated[
        str | None, typer.Option(help="Only this bandit's decisions; none: all bandits'.")
    ] = None,
) -> None:
    """Erase decisions and what was learned from them; models are rebuilt without them."""
    if (unit is None) == (not decisions):
        fail("give either --unit or --decision", "bandexa erase --help", USAGE)
    with server.connected() as client:
        done = client.erase(unit=unit, decision_ids=decisions or None, bandit=bandit)
    if server.as_json:
        echo_json(dataclasses.asdict(done))
        return
    if not server.quiet:
        rebuilt = ", ".join(done.rebuilt) or "no model"
        typer.echo(f"{done.decisions} decisions erased; rebuilt: {rebuilt}")
    for name in done.waiting:
        typer.echo(f"{name}: its model is not rebuilt yet; the server tries again", err=True)
    for name in done.remaining:
        typer.echo(f"{name}: its model still contains them, see docs/erasing.md", err=True)
    if not done.wal_emptied:
        typer.echo("a reader holds the write-ahead log: erase again later", err=True)


@with_server
def compact(
    server: Server,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Rebuild the database of this stopped server's data directory."),
    ] = None,
) -> None:
    """Return free space of the database to the disk: of a running server, or of a stopped one.

    The database of a release up to 0.3 needs `--data-dir` once, while its server is stopped.
    """
    if data_dir is not None:
        before, after, is_done = *_offline(data_dir), True
    else:
        with server.connected() as client:
            done = client.compact()
        before, after, is_done = done.bytes_before, done.bytes_after, done.is_done
    if server.as_json:
        echo_json({"bytes_before": before, "bytes_after": after, "is_done": is_done})
    elif not server.quiet:
        typer.echo(f"the database took {before} bytes, and takes {after}")
        if not is_done:
            typer.echo("a reader holds an older state: compact again later", err=True)


def _offline(data_dir: Path) -> tuple[int, int]:
    from service.settings import SettingsError, load_settings
    from service.store.errors import StoreError
    from service.store.opening import rebuild_store

    try:
        database = load_settings(None, data_dir=data_dir).database
        before = database.stat().st_size
        rebuild_store(database)
    except (SettingsError, StoreError, OSError) as error:
        fail(str(error), "stop its server; `bandexa doctor --data-dir DIR` checks it", USAGE)
    return before, database.stat().st_size
