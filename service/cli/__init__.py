"""The `bandexa` command: its parts by job, and exit statuses that all of them share.

0: done. 1: refused by the server, or a check found something wrong. 2: wrong arguments, settings or
files. 3: the server cannot be reached, or is not ready: trying again may help. `serve` alone ends
with 4 when the store failed for good.
"""

from __future__ import annotations

import typer

from service.cli import admin, data, serve, snapshots
from simulators.cli import app as simulate_app

app = typer.Typer(
    help="Online contextual bandits with Neural-Linear Thompson sampling.",
    no_args_is_help=True,
    add_completion=False,
)
serve.register(app)
app.add_typer(admin.bandits_app, name="bandits")
app.add_typer(admin.actions_app, name="actions")
admin.register(app)
app.add_typer(snapshots.app, name="snapshots")
snapshots.register(app)
data.register(app)
app.add_typer(simulate_app, name="simulate")


def main() -> None:
    """Run the command line."""
    app()
