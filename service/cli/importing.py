"""`bandexa import`: decisions that were made elsewhere become evidence of a bandit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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

if TYPE_CHECKING:
    from bandexa_client import BanditClient, Imported, Rejected
    from service.tools.importing.found import Action, Found
    from service.tools.importing.rows import Source

ROWS, ROW_BYTES = 250, 1 << 20  # of one call
MAX_LISTED = 1000  # lines that were not taken, in a report
STATUSES = ("imported", "updated", "duplicate")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("import")(import_log)


@dataclass
class Report:
    """What became of the lines of a file.

    Attributes:
        statuses: How many rows got each status; refused ones among them.
        skipped: How many lines are no decisions to be imported, by why.
        notes: What is lost of rows that were imported.
        problems: The first rows that were refused.
        added: Actions that were added; in a dry run, that would be.
        complete: Whether all rows were answered.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    complete: bool = False

    def refuse(self, line: int, reason: str) -> None:
        """Count a row that was not taken."""
        self.statuses["refused"] += 1
        if len(self.problems) < MAX_LISTED:
            self.problems.append({"line": line, "reason": reason})

    @property
    def num_refused(self) -> int:
        """How many rows were not taken."""
        return self.statuses["refused"]

    def to_json(self, *, dry_run: bool) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "rows": self.statuses.total(),
            **{name: self.statuses[name] for name in (*STATUSES, "refused")},
            "skipped": dict(self.skipped),
            "notes": dict(self.notes),
            "added_actions": self.added,
            "problems": self.problems,
            "more_problems": self.num_refused - len(self.problems),
            "dry_run": dry_run,
            "complete": self.complete,
        }


@with_server
def import_log(
    server: Server,
    bandit: BanditName,
    file: Annotated[Path, typer.Argument(help="The file; .gz is unpacked.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="jsonl or parquet, as `bandexa export` writes them; dsjson or cb of Vowpal Wabbit;"
            " csv. By default what the file's name ends in.",
        ),
    ] = None,
    add_actions: Annotated[
        bool,
        typer.Option("--add-actions", help="Add actions of the file that the bandit lacks."),
    ] = False,
    action_names: Annotated[
        str | None,
        typer.Option(
            help="Names of the actions that cb and dsjson only number, from 1, with commas between."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="The name of the log that the file is of: the same row of it counts once. By"
            " default, rows without an id are of a log of the file's name."
        ),
    ] = None,
    apprentice: Annotated[
        bool,
        typer.Option(
            "--apprentice",
            help="All lines of a dsjson file are of Personalizer's learning mode Apprentice: the"
            " first action was shown. By default, lines whose label is no reward.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store nothing: check each row, by itself.")
    ] = False,
) -> None:
    """Import decisions that were made elsewhere: the bandit learns them, as a warm start.

    Running it again is safe: a row that is there counts once. Exit status 1: rows were refused.
    """
    from service.tools.importing.rows import FORMATS, Unreadable, format_of

    found = next((each for each in FORMATS if each == kind), format_of(file) if not kind else None)
    if found is None:
        fail(f"{kind or file} is no format", f"--format is one of {', '.join(FORMATS)}", USAGE)
    names = [name.strip() for name in action_names.split(",")] if action_names else []
    report, ended = Report(), False
    try:
        with server.connected(retries=True) as client:
            from service.tools.importing.rows import Source

            state = client.get_bandit(bandit)
            log = Source.of(
                file, found, state.spec, names, source or file.name, apprentice=apprentice
            )
            where = _source_of(log, state.uid, source)
            sender = _Sender(client, bandit, log, where, report, add=add_actions, dry_run=dry_run)
            sender.send()
            report.complete = ended = True
    except Unreadable as error:
        ended = True
        _show(report, bandit, server, dry_run=dry_run)
        fail(str(error), "", USAGE)
    finally:
        if not ended:  # a call failed: what was answered before is stored
            _show(report, bandit, server, dry_run=dry_run)
    _show(report, bandit, server, dry_run=dry_run)
    if report.num_refused:
        raise typer.Exit(REFUSED)


def _source_of(log: Source, uid: str, given: str | None) -> str:
    """Return the name of the log that ids are of: of an export, its bandit's."""
    if not log.is_own:
        return given or ""
    header = log.header()
    if header["uid"] == uid:
        fail(f"{log.file} is the log of this bandit itself", "import it into another one", USAGE)
    return given or str(header["uid"])


class _Sender:
    """Sends a file, some rows at once."""

    def __init__(
        self,
        client: BanditClient,
        bandit: str,
        log: Source,
        source: str,
        report: Report,
        *,
        add: bool,
        dry_run: bool,
    ) -> None:
        self._client = client
        self._bandit = bandit
        self._log = log
        self._source = source
        self._report = report
        self._add = add
        self._dry_run = dry_run
        self._known = {action.id for action in client.list_actions(bandit)}
        self._expected: set[str] = set()  # actions that a dry run would have added

    def send(self) -> None:
        """Send all of it."""
        if self._add:
            self._put(self._log.known_actions())
        for part in self._parts(self._log.rows()):
            answers = self._client.import_log(
                self._bandit, [found.item or {} for found in part], source=self._source,
                logged=self._log.is_own, dry_run=self._dry_run,
            )  # fmt: skip
            for found, answer in zip(part, answers, strict=True):
                self._count(found, answer)

    def _parts(self, rows: Iterable[Found]) -> Iterator[list[Found]]:
        """Yield rows that can be sent, with few enough bytes for one call.

        Raises:
            Unreadable: The file ends too early; what was read before was yielded.
        """
        import msgspec

        from service.tools.importing.rows import Unreadable

        part: list[Found] = []
        size, ended = 0, None
        try:
            for found in rows:
                if not self._is_sendable(found):
                    continue
                part.append(found)
                size += len(msgspec.json.encode(found.item))
                if len(part) == ROWS or size > ROW_BYTES:
                    yield part
                    part, size = [], 0
        except Unreadable as error:
            ended = error
        if part:
            yield part
        if ended is not None:
            raise ended

    def _is_sendable(self, found: Found) -> bool:
        """Whether a row can be sent; another one is counted."""
        report = self._report
        if found.item is None:
            if found.passed:
                report.skipped[found.reason] += 1
            else:
                report.refuse(found.line, found.reason)
            return False
        missing = [action for action in found.actions if action.id not in self._known]
        if not missing:
            return True
        if not self._add:
            name = missing[0].id
            report.refuse(found.line, f"the bandit has no action {name!r}: --add-actions adds it")
            return False
        new = [action for action in missing if action.id not in self._expected]
        without = next((each for each in new if each.features is None), None)
        if without is not None and self._log.shape.has_action_features:
            report.refuse(found.line, f"action {without.id!r} is new, and has no features")
            return False
        self._put(new)
        if self._dry_run:
            report.statuses["imported"] += 1
        return not self._dry_run

    def _put(self, actions: Sequence[Action]) -> None:
        """Add those of some actions that the bandit lacks."""
        missing = [action for action in actions if action.id not in self._known]
        self._report.added += [action.id for action in missing]
        if self._dry_run:
            self._expected |= {action.id for action in missing}
            return
        for first in range(0, len(missing), ROWS):
            part = missing[first : first + ROWS]
            bodies: list[dict[str, Any]] = [
                {"id": each.id, "enabled": each.enabled}
                | ({} if each.features is None else {"features": each.features})
                for each in part
            ]
            self._client.put_actions(self._bandit, bodies)
            self._known |= {each.id for each in part}

    def _count(self, found: Found, answer: Imported | Rejected) -> None:
        from bandexa_client import Rejected

        if isinstance(answer, Rejected):
            self._report.refuse(found.line, str(answer.problem.get("detail", answer)))
            return
        self._report.statuses[answer.status] += 1
        if found.note:
            self._report.notes[found.note] += 1


def _show(report: Report, bandit: str, server: Server, *, dry_run: bool) -> None:
    if server.as_json:
        echo_json(report.to_json(dry_run=dry_run))
        return
    if not server.quiet:
        statuses = report.statuses
        counts = ", ".join(f"{statuses[name]} {name}" for name in (*STATUSES, "refused"))
        kind = " (dry run)" if dry_run else ""
        typer.echo(f"{bandit}: {statuses.total()} rows{kind}: {counts}")
        if report.added:
            verb = "would be added" if dry_run else "were added"
            typer.echo(f"{len(report.added)} actions {verb}: {', '.join(report.added[:10])}")
        for reason, num in report.skipped.items():
            typer.echo(f"{num} lines skipped: {reason}")
        for note, num in report.notes.items():
            typer.echo(f"{num} rows: {note}")
    for each in report.problems:
        typer.echo(f"line {each['line']}: {each['reason']}", err=True)
    if more := report.num_refused - len(report.problems):
        typer.echo(f"and {more} more lines", err=True)
    if not report.complete:
        typer.echo("not all rows were sent: run it again", err=True)
