"""`bandexa clock`: service time, of a running server or of a stopped data directory."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import (
    REFUSED,
    USAGE,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server
from simulators.shared_options import with_options

if TYPE_CHECKING:
    from bandexa_client import ClockState
    from service.store.address import StoreAddress

app = typer.Typer(
    help="Service time: the wall clock without its jumps. Windows, forgetting and retention run in"
    " it.",
    no_args_is_help=True,
)
DataDir = Annotated[
    Path | None, typer.Option(help="A data directory, in place of a running server.")
]


@app.command()
@with_options(Server, without=("quiet",))
def show(
    server: Server,
    data_dir: DataDir = None,
) -> None:
    """Show service time, and how much the wall clock is ahead of it.

    With --data-dir: as a server noted it last.
    """
    if data_dir is None:
        with server.connected() as client:
            state = client.clock()
    else:
        state = _noted(data_dir)
    _print(state, server)


@app.command()
@with_server
def accept(
    server: Server,
    data_dir: DataDir = None,
) -> None:
    """Say that the wall clock is right: the time that it is ahead has really passed.

    Service time moves up to it, and retention removes what is too old by then.

    With --data-dir: while no server uses the directory.
    """
    if data_dir is None:
        with server.connected() as client:
            state = client.accept_clock()
    else:
        state = _accepted(data_dir)
    if not server.quiet or server.as_json:
        _print(state, server)


def _noted(data_dir: Path) -> ClockState:
    from bandexa_client import ClockState
    from service.store.errors import StoreUnreadable
    from service.store.opening import noted_clock

    try:
        found = noted_clock(_store(data_dir))
    except StoreUnreadable as error:
        fail(f"{data_dir}: {error}", status=USAGE)
    if found is None:
        fail(f"{data_dir} has no clock yet: it is noted once a server has run", status=USAGE)
    return ClockState(found.wall, found.service, found.offset)


def _accepted(data_dir: Path) -> ClockState:
    from bandexa_client import ClockState
    from service.store.errors import StoreError
    from service.store.opening import accept_clock

    try:
        found = accept_clock(_store(data_dir))
    except StoreError as error:
        fail(str(error), "of a running server: without --data-dir", REFUSED)
    return ClockState(found.wall, found.service, found.offset)


def _store(data_dir: Path) -> StoreAddress:
    """Return the store of a data directory; without one the command ends."""
    from service.settings import SettingsError, load_settings
    from service.store.errors import StoreError
    from service.store.placing import existing_store

    try:
        return existing_store(data_dir, load_settings(None, data_dir=data_dir).store)
    except (SettingsError, StoreError) as error:
        fail(str(error), "name the data directory of a server", USAGE)


def _print(state: ClockState, server: Server) -> None:
    if server.as_json:
        echo_json(dataclasses.asdict(state))
        return
    for name, value in (("wall time", state.wall), ("service time", state.service)):
        shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
        typer.echo(f"{name:<13} {shown}")
    typer.echo(f"{'offset':<13} {state.offset_s:+.0f} s")
