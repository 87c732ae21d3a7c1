"""`bandexa export` and `evaluate`: the log of a bandit as evidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import (
    DEFAULT_URL,
    REFUSED,
    USAGE,
    ApiKey,
    BanditName,
    Quiet,
    Url,
    fail,
)
from service.cli.remote import connected

if TYPE_CHECKING:
    from bandexa_client import BanditClient

_PAGE = 1000
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="A server's data directory, or a backup, in place of --url; its server may be running."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(export)


def export(
    bandit: BanditName,
    file: Annotated[Path, typer.Argument(help="The file to create; it must not exist.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format", help="jsonl, parquet or dsjson; by default what the file's name ends in."
        ),
    ] = None,
    data_dir: DataDir = None,
    after: Annotated[
        int, typer.Option(min=0, help="Only decisions after this `row` of an earlier export.")
    ] = 0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    quiet: Quiet = False,
) -> None:
    """Save the log of a bandit: every decision, what was sent, and what came of it.

    `bandexa snapshots export` saves the model.
    """
    from service.tools.export.files import FORMATS, Unwritable, write

    kind = file.suffix.removeprefix(".") if kind is None else kind
    found = next((each for each in FORMATS if each == kind), None)
    if found is None:
        fail(f"{kind or file} is no format", f"--format is one of {', '.join(FORMATS)}", USAGE)
    with opened(bandit, data_dir, url, api_key, after) as rows:
        try:
            num = write(rows, file, found)
        except Unwritable as error:
            fail(str(error), status=USAGE)
        except OSError as error:
            fail(f"{file} cannot be written: {error}", status=USAGE)
    if not quiet:
        typer.echo(f"{bandit}: {num} decisions in {file}")


@contextmanager
def opened(
    bandit: str, data_dir: Path | None, url: str, api_key: str | None, after: int = 0
) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the rows of a bandit's log, of a data directory or of a server."""
    if data_dir is None:
        with connected(url, api_key) as client:
            yield _remote(client, bandit, after)
        return
    from service.store.errors import StoreError
    from service.tools.export.command import NoSuchBandit, log_of

    try:
        with log_of(data_dir, bandit, after) as rows:
            yield iter(rows)
    except NoSuchBandit as error:
        fail(str(error), status=REFUSED)
    except StoreError as error:
        fail(str(error), status=USAGE)


def _remote(client: BanditClient, bandit: str, after: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a server's log, page by page, all of one moment."""
    page = client.export_log(bandit, after=after, limit=_PAGE)
    num, erased = 0, 0
    yield dict(page.rows[0])
    while True:
        for row in page.rows[1:-1]:
            yield dict(row)
        end = dict(page.rows[-1])
        num, erased = num + end["num_decisions"], erased + end["num_erased"]  # type: ignore[operator]
        if not page.more:
            yield end | {"num_decisions": num, "num_erased": erased}
            return
        page = client.export_log(bandit, after=page.row, moment=page.moment, limit=_PAGE)
