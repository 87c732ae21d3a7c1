"""`bandexa snapshots` and `rollback`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import (
    USAGE,
    BanditName,
    columns,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server, with_server_without_json

if TYPE_CHECKING:
    from bandexa_client import SnapshotState, SnapshotSummary

app = typer.Typer(help="Snapshots: list, export, import.", no_args_is_help=True)
HEAD = ("bandit", "snapshot", "position", "learned", "created", "state")


def register(parent: typer.Typer) -> None:
    """Add `rollback` to `parent`."""
    parent.command()(rollback)


@app.command("list")
@with_server
def list_snapshots(
    server: Server,
    bandit: Annotated[str | None, typer.Argument(help="A bandit of a running server.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="List those of all bandits in this directory, and check every file."),
    ] = None,
) -> None:
    """List the snapshots of a bandit, or those in a data directory."""
    if (bandit is None) == (data_dir is None):
        fail("give either a bandit or --data-dir", status=USAGE)
    if data_dir is not None:
        rows = _on_disk(data_dir)
    else:
        assert bandit is not None
        with server.connected() as client:
            answer = client.list_snapshots(bandit)
        rows = [_row(bandit, snapshot, answer.served) for snapshot in answer.snapshots]
    if server.as_json:
        echo_json([dict(zip(HEAD, row, strict=True)) for row in rows])
    elif server.quiet:
        typer.echo("".join(f"{row[1]}\n" for row in rows), nl=False)
    else:
        typer.echo(columns(HEAD, rows))


def _row(bandit: str, snapshot: SnapshotSummary, served: int) -> list[Any]:
    state = "served" if snapshot.version == served else ""
    created = _when(snapshot.created_at)
    return [bandit, snapshot.version, snapshot.position, snapshot.num_learned, created, state]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _on_disk(data_dir: Path) -> list[list[Any]]:
    from bandexa_core.errors import SnapshotError
    from service.settings import SettingsError, load_settings
    from service.store.errors import StoreError
    from service.store.opening import open_reader
    from service.store.placing import existing_store
    from service.store.snapshots import snapshots_of

    try:
        database = existing_store(data_dir, load_settings(None, data_dir=data_dir).store)
    except (SettingsError, StoreError) as error:
        fail(str(error), "name a server's data directory", USAGE)
    rows: list[list[Any]] = []
    with open_reader(database) as reader:
        for record in reader.bandits():
            store = snapshots_of(data_dir / "snapshots", database, record.uid)
            for version in store.versions():
                try:
                    found = store.load(version).manifest
                except SnapshotError as error:
                    rows.append([record.name, version, "", "", "", f"refused: {error}"])
                    continue
                created = _when(found.created_at)
                rows.append([record.name, version, found.position, found.num_rows, created, "good"])
    return rows


@app.command("export")
@with_server_without_json
def export_snapshot(
    server: Server,
    bandit: BanditName,
    file: Annotated[Path, typer.Argument(help="The file to create; it must not exist.")],
) -> None:
    """Save a bandit's served model in a file."""
    with server.connected() as client:
        data = client.export_snapshot(bandit)
    try:
        with file.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
    except FileExistsError:
        fail(f"{file} exists already", "name another file", USAGE)
    except OSError as error:
        fail(f"{file} cannot be written: {error}", status=USAGE)
    if not server.quiet:
        typer.echo(f"{bandit}: {len(data)} bytes in {file}")


@app.command("import")
@with_server
def import_snapshot(
    server: Server,
    bandit: BanditName,
    file: Annotated[Path, typer.Argument(help="A file written by `bandexa snapshots export`.")],
) -> None:
    """Replace a bandit's served model by a saved one."""
    try:
        data = file.read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error}", status=USAGE)
    with server.connected() as client:
        answer = client.import_snapshot(bandit, data)
    server.show(answer, _serves(bandit, answer))


@with_server
def rollback(
    server: Server,
    bandit: BanditName,
    version: Annotated[
        int, typer.Argument(min=0, help="A version listed by `bandexa snapshots list BANDIT`.")
    ],
) -> None:
    """Serve an older snapshot again; what was learned after it is removed from the model."""
    with server.connected() as client:
        answer = client.rollback(bandit, version)
    server.show(answer, _serves(bandit, answer))


def _serves(bandit: str, answer: SnapshotState) -> str:
    return f"{bandit}: serves snapshot {answer.snapshot}, at position {answer.position}"
