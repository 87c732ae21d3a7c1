"""`bandexa verify`, `backup`, `migrate`, `doctor`, `schema`: commands without a server."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import (
    CLIENT_KEY,
    DEFAULT_URL,
    REFUSED,
    USAGE,
    ApiKey,
    AsJson,
    JsonFile,
    Quiet,
    Url,
    fail,
)
from service.cli.remote import connected

if TYPE_CHECKING:
    from service.tools.doctor import Check, State

MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(verify)
    app.command()(backup)
    app.command()(migrate)
    app.command()(doctor)
    app.command()(schema)


def verify(
    data_dir: Annotated[Path, typer.Argument(help="A server's data directory, or a backup.")],
    live: Annotated[str | None, typer.Option(help="URL of the server to compare with.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=CLIENT_KEY, help="API key sent to that server.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the server, when it names own encoders.")
    ] = None,
    snapshots: Annotated[
        int, typer.Option(min=1, help="How many of a bandit's snapshots are compared, the newest.")
    ] = 10,
    quiet: Quiet = False,
    json_file: JsonFile = None,
) -> None:
    """Recompute what a data directory holds, and compare.

    Exit status 0: no difference, or "not checked". 1: there is a difference. 2: it cannot be read.
    """
    from service.settings import SettingsError, load_settings
    from service.tools.verify import main as check

    try:
        settings = load_settings(config, data_dir=data_dir)
    except SettingsError as error:
        typer.echo(f"bandexa verify: {error}", err=True)
        raise typer.Exit(USAGE) from error

    raise typer.Exit(
        check(
            settings, live=live, api_key=api_key, most=snapshots, json_file=json_file, quiet=quiet
        )
    )  # fmt: skip


def backup(
    data_dir: Annotated[
        Path, typer.Argument(help="The data directory; its server may be running.")
    ],
    dest: Annotated[Path, typer.Argument(help="Directory of the copy; new or empty.")],
    quiet: Quiet = False,
) -> None:
    """Copy a data directory, of a running server too; the copy can be served.

    Exit status 2: the copy failed.
    """
    from service.settings import SettingsError, load_settings
    from service.tools.backup import main as copy

    try:
        store = load_settings(None, data_dir=data_dir).store
    except SettingsError as error:
        fail(str(error), status=USAGE)
    raise typer.Exit(copy(data_dir, dest, quiet=quiet, store=store))


def migrate(
    source: Annotated[
        str, typer.Argument(help="A data directory, or the URL of a PostgreSQL database.")
    ],
    dest: Annotated[str, typer.Argument(help="The other one: where the store moves.")],
    quiet: Quiet = False,
) -> None:
    """Move a store from a data directory's file into a database, or back; its server is stopped.

    The models stay in the data directory. Exit status 2: nothing was moved.
    """
    from service.tools.migrate import main as move

    raise typer.Exit(move(source, dest, quiet=quiet))


def doctor(
    config: Annotated[Path | None, typer.Option(help="TOML file of the server.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The server's data directory.")] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Check a running server (--url), too.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check machine, settings and data directory: what is wrong, and what helps.

    Exit status 1: something is wrong; notes do not count.
    """
    from service.settings import SettingsError, load_settings
    from service.tools.doctor import examine

    try:
        settings = load_settings(config, data_dir=data_dir)
    except SettingsError as error:
        fail(str(error), "docs/configuration.md lists the settings", USAGE)
    from service.http.keys import keys_of
    from service.http.trial import try_bandits

    found: list[Check] = []

    def report(check: Check) -> None:
        found.append(check)
        if as_json or (quiet and check.state == "ok"):
            return
        typer.echo(f"{MARKS[check.state]}  {check.name}: {check.told}")
        if check.remedy:
            typer.echo(f"       {check.remedy}")

    for check in examine(settings, lambda settings: bool(keys_of(settings)), try_bandits):
        report(check)
    if server:
        for check in _server(url, api_key):
            report(check)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in found]))
    if any(check.state == "wrong" for check in found):
        raise typer.Exit(REFUSED)


def _server(url: str, api_key: str | None) -> list[Check]:
    from service.tools.doctor import Check

    with connected(url, api_key) as client:
        ready, learns = client.ready(), client.learnz()
    state: State = "ok" if ready else "wrong"
    checks = [Check("server", state, f"{url} is {ready.status}", ready.detail or "")]
    findings = [("", finding) for finding in learns.findings]
    for name, learning in learns.bandits.items():
        findings += [(f"{name}: ", finding) for finding in learning.findings]
    for name, finding in findings:
        worst: State = "wrong" if finding.severity == "alarm" else "note"
        checks.append(Check("learning", worst, name + finding.message, finding.remedy))
    if not findings:
        checks.append(Check("learning", "ok", f"{len(learns.bandits)} bandits, no findings"))
    return checks


def schema(
    file: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
) -> None:
    """Print the JSON schema of a bandit's configuration, in a file or in the server's TOML."""
    from service.http.configured import bandit_schema

    text = json.dumps(bandit_schema(), indent=2) + "\n"
    if file is None:
        typer.echo(text, nl=False)
    else:
        file.write_text(text)
