"""Options that commands share, and how they print results and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

REFUSED, USAGE, UNREACHABLE = 1, 2, 3
DEFAULT_URL = "http://127.0.0.1:8080"
# The names of `service.settings`, whose import costs more than most commands.
CLIENT_URL, CLIENT_KEY = "BANDEXA_URL", "BANDEXA_API_KEY"

Url = Annotated[str, typer.Option("--url", envvar=CLIENT_URL, help="Address of the server.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar=CLIENT_KEY, help="API key sent to the server.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and the requested data.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the results to this JSON file.")
]
BanditName = Annotated[str, typer.Argument(help="The bandit's name.")]


def fail(message: str, remedy: str = "", status: int = REFUSED) -> NoReturn:
    """End the command with one line on standard error: what is wrong, and what helps."""
    line = " ".join(message.split())
    typer.echo(f"bandexa: {line}{f'; {remedy}' if remedy else ''}", err=True)
    raise typer.Exit(status)


def echo_json(value: object) -> None:
    """Print a value as JSON on standard output."""
    typer.echo(json.dumps(value))


def columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as text. Its columns are as wide as their cells, whatever the terminal."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
