"""`bandexa rewards`: void wrong rewards, correct them, and import late ones from a file."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import (
    REFUSED,
    USAGE,
    BanditName,
    echo_json,
    fail,
)
from service.cli.remote import Server, with_server
from service.cli.reward_rows import ROWS, Row, Unreadable, read

if TYPE_CHECKING:
    from bandexa_client import BanditClient, Rejected, RewardStatus

app = typer.Typer(help="Rewards of a running server.", no_args_is_help=True)
BATCH = 1000  # ids in one call
MAX_LISTED = 1000  # lines that were not taken, in a report
TAKEN = ("applied", "aggregated", "pending", "stored")  # learned, now or later
PASSED = ("duplicate", "ignored", "late", "void")


@app.command()
@with_server
def void(
    server: Server,
    bandit: BanditName,
    decisions: Annotated[
        list[str] | None,
        typer.Option("--decision", help="The rewards of this decision; repeatable."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="File with an id of a decision on each line.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Those of decisions made at or after this time: ISO 8601 (without an offset: UTC),"
            " or seconds since the epoch."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Those of decisions made before this time.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only those for this chosen action.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: count what would be void.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until a model without them is served.")
    ] = False,
) -> None:
    """Void rewards: nothing is learned from them any more, and the model is rebuilt without them.

    Exit status 1: a listed decision is unknown; the others are void.
    """
    ids = [*(decisions or ()), *_listed(file)]
    after, before = _time(since, "--since"), _time(until, "--until")
    times = after is not None or before is not None
    listed = bool(ids) or file is not None
    if (listed and times) or not (listed or times or action):
        remedy = "bandexa rewards void --help"
        fail("give --decision or --from, or times or an action", remedy, USAGE)
    batches: list[list[str] | None] = [ids[n : n + BATCH] for n in range(0, len(ids), BATCH)]
    if not listed:
        batches = [None]
    total, unknown, unlearning = Counter[str](), list[str](), "none"
    with server.connected() as client:
        for number, batch in enumerate(batches, 1):
            done = client.void_rewards(
                bandit, decision_ids=batch, since=after, until=before, action=action,
                dry_run=dry_run, wait=wait and number == len(batches),
            )  # fmt: skip
            counts = ("decisions", "values", "rewards", "learned")
            total.update({name: getattr(done, name) for name in counts})
            unknown += done.unknown
            unlearning = done.unlearning
    if server.as_json:
        names = ("decisions", "values", "rewards", "learned")
        counted = {name: total[name] for name in names}
        echo_json({**counted, "unknown": unknown, "dry_run": dry_run, "unlearning": unlearning})
    elif not server.quiet:
        verb = "would become" if dry_run else "became"
        typer.echo(
            f"{total['values']} values of {total['decisions']} decisions, from {total['rewards']}"
            f" rewards, {verb} void"
        )
        if unlearning == "pending":
            typer.echo("the model contains void values until it is rebuilt: `bandexa bandits show`")
    for decision_id in unknown:
        typer.echo(f"{decision_id}: {bandit} has no such decision", err=True)
    if unknown:
        raise typer.Exit(REFUSED)


def _listed(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {error}", "", USAGE)
    return [line.strip() for line in lines if line.strip()]


def _time(text: str | None, option: str) -> float | None:
    """Return a time in seconds since the epoch."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{option}: {text!r} is no time", "2026-01-31T09:30:00+01:00 is one", USAGE)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@app.command()
@with_server
def correct(
    server: Server,
    bandit: BanditName,
    decision: Annotated[str, typer.Argument(help="The decision's id.")],
    reward: Annotated[
        float | None, typer.Argument(help="The right value; put -- before a negative one.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="In place of it: a metric, as money=9.5; repeatable. Others go."
        ),
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="The chosen action that it is for, where there are several.")
    ] = None,
) -> None:
    """Replace the value of a decision, whatever was reported; what was learned is corrected."""
    with server.connected() as client:
        done = client.correct_reward(
            bandit, decision, reward, metrics=_metrics(metrics), action=action
        )
    if server.as_json:
        echo_json(dataclasses.asdict(done))
    elif not server.quiet:
        was = "none" if done.before is None else f"{done.before:g}"
        typer.echo(f"{done.action}: {done.after:g}, before: {was} ({done.status})")


def _metrics(given: list[str] | None) -> dict[str, float] | None:
    """Return metrics by their names; None where there are none."""
    found: dict[str, float] = {}
    for text in given or ():
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            fail(f"--metric: {text!r} is no metric", "money=9.5 is one", USAGE)
    return found or None


# -- import -----------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of the rows of a file.

    Attributes:
        statuses: How many rows got each status; unknown and refused ones among them.
        rows: How many rows were read and answered.
        problems: The first rows that were unknown or refused.
        complete: Whether all rows were answered.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False

    def add(self, row: Row, status: str, reason: str = "") -> None:
        """Count a row."""
        self.rows += 1
        self.statuses[status] += 1
        if status in ("unknown", "refused") and len(self.problems) < MAX_LISTED:
            self.problems.append(
                {
                    "line": row.line, "decision_id": row.decision_id, "status": status,
                    "reason": reason,
                }
            )  # fmt: skip

    @property
    def num_problems(self) -> int:
        """How many rows were not taken."""
        return self.statuses["unknown"] + self.statuses["refused"]

    def to_json(self, *, dry_run: bool) -> dict[str, Any]:
        """Return the report as JSON values."""
        counts = {name: self.statuses[name] for name in (*PASSED, "unknown", "refused")}
        return {
            "rows": self.rows,
            "applied": sum(self.statuses[name] for name in TAKEN),
            **counts,
            "statuses": dict(sorted(self.statuses.items())),
            "problems": self.problems,
            "more_problems": self.num_problems - len(self.problems),
            "dry_run": dry_run,
            "complete": self.complete,
        }


@app.command("import")
@with_server
def import_rewards(
    server: Server,
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a head, or Parquet (.parquet): the columns decision_id and reward (or"
            " metrics.NAME of each metric), and as far as needed reward_id, action and bandit."
        ),
    ],
    bandit: Annotated[
        str | None, typer.Option(help="The bandit of rows that name none; checked.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Store nothing: ask what would become of each row, by itself."
        ),
    ] = False,
) -> None:
    """Report the rewards in a file, a thousand rows at once; running it again is safe.

    Exit status 1: rows were refused or unknown. 2: the file cannot be read. 3: no server is there.
    """
    report, ended = Report(), False
    try:
        with server.connected(retries=True) as client:
            for part in _parts(file, bandit):
                _send(client, part, report, dry_run=dry_run)
            report.complete = ended = True
    except Unreadable as error:
        ended = True
        if report.rows or server.as_json:
            _show(report, server, dry_run=dry_run, mend=True)
        fail(str(error), "", USAGE)
    finally:
        if not ended:  # a call failed: what was answered before is stored
            _show(report, server, dry_run=dry_run)
    _show(report, server, dry_run=dry_run)
    if report.num_problems:
        raise typer.Exit(REFUSED)


def _parts(file: Path, bandit: str | None) -> Iterator[Sequence[Row]]:
    rows = read(file, bandit)
    while part := list(itertools.islice(rows, ROWS)):
        yield part


def _send(client: BanditClient, rows: Sequence[Row], report: Report, *, dry_run: bool) -> None:
    reports = [row.report for row in rows if row.report is not None]
    answers: list[RewardStatus | Rejected] = []
    if reports:
        call = client.check_rewards if dry_run else client.reward_batch
        answers = call(reports)
    answered = iter(answers)
    for row in rows:
        if row.report is None:
            report.add(row, "refused", row.problem)
        else:
            report.add(row, *_outcome(next(answered)))


def _outcome(answer: RewardStatus | Rejected) -> tuple[str, str]:
    """Return the status of a row, and why it was not taken."""
    from bandexa_client import Gone, NotFound, Rejected

    if not isinstance(answer, Rejected):
        return answer.status, ""
    detail = str(answer.problem.get("detail", answer))
    return "unknown" if isinstance(answer, NotFound | Gone) else "refused", detail


def _show(report: Report, server: Server, *, dry_run: bool, mend: bool = False) -> None:
    if server.as_json:
        echo_json(report.to_json(dry_run=dry_run))
        return
    if not server.quiet:
        found = report.to_json(dry_run=dry_run)
        names = ("applied", *PASSED, "unknown", "refused")
        counts = ", ".join(f"{found[name]} {name}" for name in names)
        typer.echo(f"{report.rows} rows{' (dry run)' if dry_run else ''}: {counts}")
    for each in report.problems:
        typer.echo(f"line {each['line']}: {each['status']}: {each['reason']}", err=True)
    if more := report.num_problems - len(report.problems):
        typer.echo(f"and {more} more lines", err=True)
    if not report.complete:
        what = "mend the file, and run it again" if mend else "run it again"
        typer.echo(f"not all rows were sent: {what}; what was stored stays as it is", err=True)
