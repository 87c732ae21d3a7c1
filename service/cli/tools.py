"""`bandexa doctor` and `bandexa schema`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import (
    DEFAULT_URL,
    REFUSED,
    USAGE,
    ApiKey,
    AsJson,
    Quiet,
    Url,
    fail,
)
from service.cli.remote import Remote
from service.settings import SettingsError, load_settings

if TYPE_CHECKING:
    from service.doctor import Check, State

NOT_WELL = 503  # of /readyz and /learnz: an answer like any other here
MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}


def register(app: typer.Typer) -> None:
    """Give the commands to `app`."""
    app.command()(doctor)
    app.command()(schema)


def doctor(
    config: Annotated[Path | None, typer.Option(help="TOML file of the server.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The server's data directory.")] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Ask a running server (--url), too.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at machine, settings and data directory: what is wrong, and what helps.

    Exit status 1 where something is wrong; notes do not count.
    """
    try:
        settings = load_settings(config, data_dir=data_dir)
    except SettingsError as error:
        fail(str(error), "docs/configuration.md lists the settings", USAGE)
    from service.doctor import examine

    found: list[Check] = []

    def tell(check: Check) -> None:
        found.append(check)
        if as_json or (quiet and check.state == "ok"):
            return
        typer.echo(f"{MARKS[check.state]}  {check.name}: {check.told}")
        if check.remedy:
            typer.echo(f"       {check.remedy}")

    for check in examine(settings):
        tell(check)
    if server:
        for check in _server(url, api_key):
            tell(check)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in found]))
    if any(check.state == "wrong" for check in found):
        raise typer.Exit(REFUSED)


def _server(url: str, api_key: str | None) -> list[Check]:
    from service.doctor import Check

    with Remote(url, api_key) as remote:
        ready = remote.send("GET", "/readyz", accept=NOT_WELL).json()
        learns = remote.send("GET", "/learnz", accept=NOT_WELL).json()
    state: State = "ok" if ready["status"] == "ready" else "wrong"
    checks = [Check("server", state, f"{url} is {ready['status']}", ready["detail"] or "")]
    findings = [("", finding) for finding in learns["findings"]]
    for name, learning in learns["bandits"].items():
        findings += [(f"{name}: ", finding) for finding in learning["findings"]]
    for name, finding in findings:
        worst: State = "wrong" if finding["severity"] == "alarm" else "note"
        checks.append(Check("learning", worst, name + finding["message"], finding["remedy"]))
    if not findings:
        checks.append(Check("learning", "ok", f"{len(learns['bandits'])} bandits, no findings"))
    return checks


def schema(
    file: Annotated[Path | None, typer.Option(help="Write it here instead.")] = None,
) -> None:
    """Print the JSON schema of a bandit: a table of the server's TOML, or a file of its own."""
    from service.configured import bandit_schema

    text = json.dumps(bandit_schema(), indent=2) + "\n"
    if file is None:
        typer.echo(text, nl=False)
    else:
        file.write_text(text)
