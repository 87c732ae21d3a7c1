"""The `bandexa` command: one module per job, and exit statuses that all commands share.

0: done. 1: refused by the server, or a check found something wrong. 2: wrong arguments, settings or
files. 3: the server cannot be reached or is not ready; trying again may help. `serve` alone ends
with 4 when the store failed for good.

The modules import typer alone. A command imports what it needs when it runs, so that every command
starts quickly.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

import bandexa_core
from service.cli import (
    admin,
    applying,
    clock,
    data,
    erasing,
    evidence,
    rewards,
    serve,
    snapshots,
)


class _Root(TyperGroup):
    """The root command; `simulate` and its environments are imported when they are named."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), "simulate"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != "simulate":
            return super().get_command(ctx, cmd_name)
        from simulators.cli import app as simulate

        return get_command(simulate)


app = typer.Typer(
    cls=_Root, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
serve.register(app)
app.add_typer(admin.bandits_app, name="bandits")
app.add_typer(admin.actions_app, name="actions")
admin.register(app)
applying.register(app)
app.add_typer(snapshots.app, name="snapshots")
snapshots.register(app)
erasing.register(app)
app.add_typer(rewards.app, name="rewards")
app.add_typer(clock.app, name="clock")
data.register(app)
evidence.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bandexa {bandexa_core.__version__}")
        raise typer.Exit


@app.callback()
def bandexa(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Online contextual bandits with Neural-Linear Thompson sampling."""


def main() -> None:
    """Run the command line."""
    app()
