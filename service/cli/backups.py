"""`bandexa backups` and `bandexa restore`: what a folder of backups has, and one served again.

`bandexa backup` itself is in `data`.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import USAGE, AsJson, Quiet, columns, echo_json, fail

HEAD = ("BACKUP", "TIME", "AGE", "BANDITS", "ROWS")
ACCEPT_AFTER_S = 7 * 86400.0  # what service time follows by itself


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(backups)
    app.command()(restore)


def backups(
    folder: Annotated[Path, typer.Argument(help="The folder, as `backup.folder` names it.")],
    as_json: AsJson = False,
) -> None:
    """List the complete backups in a folder, oldest first.

    Exit status 1: there is none.
    """
    from service.tools.stored_backups import backups_in

    try:
        found = backups_in(folder)
    except OSError as error:
        fail(str(error), status=USAGE)
    now = time.time()
    if as_json:
        echo_json(
            {
                "backups": [
                    {
                        "path": str(each.path), "time": each.time, "source": each.source,
                        "bandits": each.bandits,
                    }
                    for each in found
                ]
            }
        )  # fmt: skip
    elif found:
        rows = [
            (
                each.path.name,
                datetime.fromtimestamp(each.time, UTC).isoformat(timespec="seconds"),
                f"{(now - each.time) / 3600:.1f} h", len(each.bandits), sum(each.bandits.values()),
            )
            for each in found
        ]  # fmt: skip
        typer.echo(columns(HEAD, rows))
    if not found:
        fail(f"{folder} has no complete backup")


def restore(
    backup: Annotated[Path, typer.Argument(help="A complete backup.")],
    data_dir: Annotated[Path, typer.Argument(help="The new data directory; empty, or missing.")],
    quiet: Quiet = False,
) -> None:
    """Copy a backup to a new data directory, which a server can be started on.

    The backup stays as it is. Exit status 2: it is not complete, or cannot be copied.
    """
    from service.tools.backup import MARKER, BackupError
    from service.tools.backup import backup as copy

    def say(text: str) -> None:
        if not quiet:
            typer.echo(f"bandexa restore: {text}", err=True)

    if not (backup / MARKER).is_file():
        fail(f"{backup} has no {MARKER}: it is no complete backup", status=USAGE)
    try:
        content = copy(backup, data_dir, say=say)
        (data_dir / MARKER).unlink()  # it is no backup, but a data directory
    except (BackupError, OSError) as error:
        fail(str(error), status=USAGE)
    for name, bandit in sorted(content["bandits"].items()):
        typer.echo(f"{name}: position {bandit['position']}")
    typer.echo(f"restored to {data_dir}; serve it: bandexa serve --data-dir {data_dir}")
    age_s = time.time() - (backup / MARKER).stat().st_mtime
    if age_s > ACCEPT_AFTER_S:
        typer.echo(
            f"The backup is {age_s / 86400:.0f} days old: run `bandexa clock accept --data-dir"
            f" {data_dir}` first.", file=sys.stderr,
        )  # fmt: skip
