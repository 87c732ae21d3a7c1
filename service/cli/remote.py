"""The server that a command calls, and how the command prints.

A failed call ends the command with one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import typer

from service.cli.options import (
    DEFAULT_URL,
    REFUSED,
    UNREACHABLE,
    USAGE,
    ApiKey,
    AsJson,
    Quiet,
    Url,
    echo_json,
    fail,
)
from simulators.shared_options import with_options

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from bandexa_client import BanditClient, BanditError

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 3600.0  # a training round, or a snapshot of a gigabyte
ADDRESS = "an address has the form http://127.0.0.1:8080"
START = "start it with `bandexa serve`, or give --url (or BANDEXA_URL)"
TRUST = "name the file of the authority that issued its certificate in SSL_CERT_FILE"
OTHER_SERVER = "is this the server's address?"
REMEDIES = {
    "unauthorized": "give --api-key, or set BANDEXA_API_KEY",
    "forbidden": "use a key that may (`bandexa keygen` makes one)",
    "quota-exceeded": "`bandexa keys check FILE` lists the quotas of keys",
    "erased": "nothing of it is left",
    "unknown-bandit": "`bandexa bandits list` shows the existing ones",
    "unknown-action": "`bandexa actions list BANDIT` shows the existing ones",
    "unknown-snapshot": "`bandexa snapshots list BANDIT` shows the existing ones",
    "too-large": "the server's max_body_bytes or max_snapshot_bytes allows no more",
    "store-failed": "check the server's disk and log",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The options of every command that calls a running server."""

    url: Url = DEFAULT_URL
    api_key: ApiKey = None
    as_json: AsJson = False
    quiet: Quiet = False

    def connected(self, *, retries: bool = False) -> AbstractContextManager[BanditClient]:
        """Return a client of it, to be entered; see `connected`."""
        return connected(self.url, self.api_key, retries=retries)

    def show(self, answer: DataclassInstance, line: str) -> None:
        """Print an answer as JSON where that was asked for, else one line, or with --quiet none."""
        if self.as_json:
            echo_json(dataclasses.asdict(answer))
        elif not self.quiet:
            typer.echo(line)


with_server = with_options(Server)
with_server_without_json = with_options(Server, without=("as_json",))


@contextmanager
def connected(url: str, api_key: str | None, *, retries: bool = False) -> Iterator[BanditClient]:
    """Yield a client of the server at `url`; a call that fails ends the command.

    With `retries`, calls that may be repeated are, before that.
    """
    from bandexa_client import NO_RETRY, BanditClient, BanditError, Retry

    try:
        client = BanditClient(
            url, api_key=api_key, timeout_s=TIMEOUT_S, train_timeout_s=LONG_TIMEOUT_S,
            retry=Retry() if retries else NO_RETRY,
        )  # fmt: skip
    except ValueError as error:
        fail(f"the address or the API key cannot be used: {error}", ADDRESS, USAGE)
    with client:
        try:
            yield client
        except BanditError as error:
            _end(error)
        except ValueError as error:  # the client refuses an argument
            fail(str(error), "", USAGE)


@contextmanager
def named(subject: str, refused: int = REFUSED) -> Iterator[None]:
    """End the command where a call in the context fails, with a line about `subject`.

    Args:
        subject: What the call was about, where the command makes several.
        refused: The exit status where the server refuses it.
    """
    from bandexa_client import BanditError

    try:
        yield
    except BanditError as error:
        _end(error, f"{subject}: ", refused)


def _end(error: BanditError, about: str = "", refused: int = REFUSED) -> NoReturn:
    from bandexa_client import ServiceUnavailable

    if error.status is None:
        is_away = isinstance(error, ServiceUnavailable) and not error.timed_out
        remedy = START if is_away else ""
        if _is_distrusted(error):
            remedy = TRUST
        if not isinstance(error, ServiceUnavailable):
            remedy = OTHER_SERVER
        fail(str(error), remedy, UNREACHABLE)
    status = UNREACHABLE if error.status in (429, 503) else refused
    kind, detail = error.problem.get("type"), error.problem.get("detail")
    if not isinstance(kind, str) or not isinstance(detail, str):
        fail(f"{error}: this is not an answer of Bandexa", OTHER_SERVER, status)
    kind = kind.rpartition(":")[2]
    wait_s = error.retry_after_s if isinstance(error, ServiceUnavailable) else None
    retry = "" if wait_s is None else f"try again in {wait_s:g} s"
    fail(f"{about}{detail} ({kind})", REMEDIES.get(kind, retry), status)


def _is_distrusted(error: BaseException | None) -> bool:
    """Whether a call failed because nobody trusted vouches for the server's certificate."""
    from ssl import SSLCertVerificationError

    while error is not None and not isinstance(error, SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None
