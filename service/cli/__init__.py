"""The `bandexa` command: one module per job, and exit statuses that all commands share.

0: done. 1: refused by the server, or a check found something wrong. 2: wrong arguments, settings or
files. 3: the server cannot be reached or is not ready; trying again may help. `serve` alone ends
with 4 when the store failed for good.

The modules import typer alone. A command imports what it needs when it runs, so that every command
starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_command_name, get_group
from typer.models import CommandInfo

import bandexa_core
from service.cli import (
    admin,
    advice,
    applying,
    backups,
    challengers,
    clock,
    data,
    erasing,
    evidence,
    importing,
    keys,
    limits,
    rewards,
    serve,
    snapshots,
    trainer,
)

# Every module registers what it has here. `app` builds the command that is named and no other:
# reading the parameters of all of them takes longer than many a command.
registered = typer.Typer()
serve.register(registered)
trainer.register(registered)
registered.add_typer(keys.app, name="keys")
registered.add_typer(admin.bandits_app, name="bandits")
registered.add_typer(admin.actions_app, name="actions")
limits.register(admin.bandits_app, admin.actions_app)
admin.register(registered)
applying.register(registered)
registered.add_typer(snapshots.app, name="snapshots")
snapshots.register(registered)
erasing.register(registered)
registered.add_typer(rewards.app, name="rewards")
registered.add_typer(clock.app, name="clock")
registered.add_typer(challengers.app, name="challengers")
data.register(registered)
backups.register(registered)
evidence.register(registered)
advice.register(registered)
importing.register(registered)


class _Commands(Mapping[str, Any]):
    """The commands by name, each built when it is named; `simulate` is imported then, too."""

    def __init__(self) -> None:
        commands, groups = registered.registered_commands, registered.registered_groups
        self._commands = {_name_of(info): info for info in commands}
        self._groups = {str(info.name): info for info in groups}

    def __getitem__(self, name: str) -> Any:
        if name == "simulate":
            from simulators.cli import app as simulate

            return get_command(simulate)
        alone = typer.Typer(add_completion=False)
        if name in self._commands:
            alone.registered_commands.append(self._commands[name])
            return get_command(alone)
        alone.registered_groups.append(self._groups[name])
        return get_group(alone).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._commands, *self._groups, "simulate"))

    def __len__(self) -> int:
        return len(self._commands) + len(self._groups) + 1


def _name_of(info: CommandInfo) -> str:
    assert info.callback is not None
    return info.name or get_command_name(info.callback.__name__)


class _Root(TyperGroup):
    """The root command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"commands": _Commands()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    cls=_Root, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


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
