"""`bandexa export` and `evaluate`: the log of a bandit as evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from service.cli.options import (
    REFUSED,
    USAGE,
    BanditName,
    columns,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server, with_server_without_json

if TYPE_CHECKING:
    from bandexa_client import BanditClient
    from service.tools.evaluate.report import Evaluation
    from service.tools.evaluate.request import Method

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
    app.command()(evaluate)


@with_server_without_json
def export(
    server: Server,
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
) -> None:
    """Save the log of a bandit: every decision, what was sent, and what came of it.

    `bandexa snapshots export` saves the model.
    """
    from service.tools.export.files import FORMATS, Unwritable, write

    kind = file.suffix.removeprefix(".") if kind is None else kind
    found = next((each for each in FORMATS if each == kind), None)
    if found is None:
        fail(f"{kind or file} is no format", f"--format is one of {', '.join(FORMATS)}", USAGE)
    with opened(bandit, data_dir, server, after) as rows:
        try:
            num = write(rows, file, found)
        except Unwritable as error:
            fail(str(error), status=USAGE)
        except OSError as error:
            fail(f"{file} cannot be written: {error}", status=USAGE)
    if not server.quiet:
        typer.echo(f"{bandit}: {num} decisions in {file}")


@with_server
def evaluate(
    server: Server,
    bandit: Annotated[
        str, typer.Argument(help="The bandit's name; or a file that `bandexa export` wrote.")
    ],
    action: Annotated[
        list[str] | None, typer.Option(help="Evaluate serving this action always; repeatable.")
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluate another configuration: JSON or TOML (.toml); repeatable."),
    ] = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            help="Evaluate a Python file's policy(context, candidates); repeatable. It is run."
        ),
    ] = None,
    data_dir: DataDir = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", help="Lowest and highest value; by default its reward_range."),
    ] = None,
    missing: Annotated[
        float | None,
        typer.Option(help="The value of decisions without one; by default they are left out."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="How often an interval may ever be wrong.")
    ] = 0.05,
    precision: Annotated[
        float,
        typer.Option(
            min=1e-4,
            max=1.0,
            help="The difference to be seen, as a share of the range; for advice.",
        ),
    ] = 0.05,
    method: Annotated[
        str | None,
        typer.Option(
            help="Of intervals: mixture, betting or plug_in; by default mixture for what learns,"
            " betting for what does not."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it in this file: .png, .svg or .pdf.")
    ] = None,
    server_config: Annotated[
        Path | None, typer.Option(help="TOML file of the server, when --config names own encoders.")
    ] = None,
) -> None:
    """Estimate by a log what policies would have earned: the logged one, uniform, and others.

    Exit status 1: of a policy that was asked for nothing can be concluded.
    """
    from bandexa_core.encoders import EncoderRegistry
    from service.settings import SettingsError, load_settings
    from service.tools.evaluate.asked import evaluated
    from service.tools.evaluate.policies import FilePolicy, PolicyError
    from service.tools.evaluate.report import remarks, table
    from service.tools.evaluate.request import Request

    low, high = value_range or (None, None)
    try:
        asked = Request(
            actions=tuple(action or ()), configs=_configured(config or []), low=low, high=high,
            missing=missing, alpha=alpha, precision=precision, method=_method(method),
        )  # fmt: skip
        settings = load_settings(server_config)
        registry = EncoderRegistry(settings.encoders, settings.weights, torch_threads=1)
        others = [FilePolicy(file) for file in policy or []]
        with _rows_of(bandit, data_dir, server) as rows:
            found = evaluated(rows, asked, registry, others)
    except SettingsError as error:
        fail(str(error), status=USAGE)
    except PolicyError as error:
        fail(str(error), status=USAGE)
    except (ValueError, OSError) as error:
        fail(str(error), status=USAGE)
    if plot is not None:
        _draw(found, plot)
    if server.as_json:
        echo_json(found.to_json())
    elif not server.quiet:
        typer.echo(columns(*table(found)))
        for line in remarks(found):
            typer.echo(line)
    if any(not each.concludes for each in found.policies[2:]):
        raise typer.Exit(REFUSED)


def _draw(found: Evaluation, file: Path) -> None:
    from service.tools.evaluate.plot import plot as draw

    try:
        draw(found, file)
    except (OSError, ValueError) as error:
        fail(f"{file} cannot be written: {error}", status=USAGE)


def _method(given: str | None) -> Method | None:
    from service.tools.evaluate.request import Method

    known = next((each for each in get_args(Method) if each == given), None)
    if given is not None and known is None:
        fail(f"{given} is no method", f"--method is one of {', '.join(get_args(Method))}", USAGE)
    return known


def _configured(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Return other configurations to be evaluated, by the names of their files."""
    from service.cli.admin import read_spec
    from service.http.configured import parse
    from service.settings import SettingsError

    found = {}
    for file in files:
        if file.name in found:
            raise ValueError(f"{file}: another --config has this name")
        try:
            (bandit,) = parse({"evaluated": read_spec(file)})
        except SettingsError as error:
            raise ValueError(f"{file}: {error}") from error
        found[file.name] = dataclasses.asdict(bandit.spec)
    return found


@contextmanager
def _rows_of(
    bandit: str, data_dir: Path | None, server: Server
) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the rows of a file that was exported, of a data directory or of a server."""
    file = Path(bandit)
    if data_dir is None and file.suffix in (".jsonl", ".parquet"):
        from service.tools.export.files import lines

        yield lines(file)
        return
    with opened(bandit, data_dir, server) as rows:
        yield rows


@contextmanager
def opened(
    bandit: str, data_dir: Path | None, server: Server, after: int = 0
) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the rows of a bandit's log, of a data directory or of a server."""
    if data_dir is None:
        with server.connected() as client:
            yield _remote(client, bandit, after)
        return
    from service.settings import SettingsError, load_settings
    from service.store.errors import StoreError
    from service.tools.export.command import NoSuchBandit, log_of

    try:
        store = load_settings(None, data_dir=data_dir).store
        with log_of(data_dir, bandit, after, store) as rows:
            yield iter(rows)
    except SettingsError as error:
        fail(str(error), status=USAGE)
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
