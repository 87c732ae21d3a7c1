"""The command: checks every bandit of a data directory, prints the report, returns a status.

Runs on read-only connections, beside a running server or without one. It changes nothing; where no
server has the database open, SQLite leaves an empty `-wal` and a `-shm` behind.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.ids import UNPLACED, LogPosition
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.store import SnapshotStore
from service.serving.files import snapshots_at
from service.settings import Settings
from service.store.errors import Erased, LogTrimmed, StoreDamaged, StoreError, StoreUnreadable
from service.store.findings import Check, Report, Say
from service.store.loading import generation_of, model_hash, placed
from service.store.opening import as_current, open_audit, open_history, open_reader
from service.store.placing import existing_store
from service.store.reading import DecisionHistory, LogReader
from service.store.records import BanditRecord
from service.tools.verify.live import NUM_CONTEXTS, LiveAudit, Unreachable, require_answers
from service.tools.verify.models import ModelAudit
from service.tools.verify.progress import Progress

log = logging.getLogger(__name__)
LIVE_TIMEOUT_S = 60.0
MODELS = 10  # snapshots of a bandit; decisions of a day may refer to hundreds


def verify(
    settings: Settings, *, live: str | None = None, api_key: str | None = None,
    most: int = MODELS, say: Say = lambda text: None,
) -> Report:  # fmt: skip
    """Check a data directory and, with `live`, the server that serves it.

    Args:
        settings: The data directory, own encoders and weights.
        live: Base URL of the server.
        api_key: Sent to it as bearer token.
        most: How many snapshots of a bandit are compared, the newest: each may take a rebuild.
        say: Receives progress reports.

    Raises:
        StoreError: There is no readable database, or the server does not answer.
        ValueError: An encoder or a weight file of the settings cannot be used.
    """
    registry = EncoderRegistry(settings.encoders, settings.weights)
    database = existing_store(settings.data_dir, settings.store)
    if live is not None:  # what follows may take long
        with _server(live, api_key) as client:
            require_answers(client)
    with (
        as_current(database) as current,
        open_audit(current) as audit, open_reader(current) as reader,
        open_history(current) as history,
    ):  # fmt: skip
        report = Report()
        if current != database:
            note = "it is of an older release: a migrated copy was verified"
            report.check(None, "format").notes.append(note)
        if audit.check_file(report, say):
            records: list[BanditRecord] = []
            try:
                records = reader.bandits()
                audit.check_rows(records, report, say)
                for record in records:
                    _models(settings, reader, record, registry, report, most, say)
                if live is not None:
                    _live(live, api_key, settings, history, reader, registry, report, say)
            except StoreUnreadable as error:
                report.check(None, "database").problem(f"reading it failed: {error}")
            _drop_deleted(reader, records, report)
    report.checks.sort(key=lambda check: check.bandit or "")
    return report


def _models(
    settings: Settings, reader: LogReader, record: BanditRecord, registry: EncoderRegistry,
    report: Report, most: int, say: Say,
) -> None:  # fmt: skip
    snapshots = snapshots_at(settings, record.uid)
    good = check_snapshots(reader, record, snapshots, report.check(record.name, "snapshots"))
    check = report.check(record.name, "model")
    if not good:
        check.problem("model: no snapshot is left that could be served")
        return
    if older := len(good[:-most]):
        check.notes.append(f"{older} older snapshots were not compared, see --snapshots")
    try:
        ModelAudit(reader, record, registry, snapshots, check, say).audit(good[-most:])
    except StoreUnreadable:
        raise
    except LogTrimmed as error:
        check.notes.append(f"the model was not compared to the end of the log: {error}; try again")
        check.checked = False
    except Exception as error:  # the top of the loop over bandits: the others are still checked
        log.debug("bandit %s", record.name, exc_info=True)
        check.problem(f"model: it cannot be rebuilt: {type(error).__name__}: {error}")


def check_snapshots(
    reader: LogReader, record: BanditRecord, snapshots: SnapshotStore, check: Check
) -> list[Manifest]:
    """Check the files and the log hash of every snapshot; return those after the last import."""
    good = []
    imports = reader.imports(record.key)
    versions = snapshots.versions()
    for version in versions:
        try:
            manifest = snapshots.load(version).manifest
        except SnapshotCorrupt as error:
            if version in snapshots.versions():  # otherwise it was pruned meanwhile
                check.problem(f"snapshot {version}: {error}")
            continue
        if manifest.position == UNPLACED:
            imports = reader.imports(record.key)  # an import may have been logged meanwhile
            if version in imports:
                manifest = placed(reader, record, manifest, imports)
                check.notes.append(f"snapshot {version}: the next start completes its import")
        found = reader.hash_at(record.key, LogPosition(manifest.position))
        expected = model_hash(reader, record, generation_of(manifest))
        if manifest.bandit_uid != record.uid or manifest.spec_hash != expected:
            check.problem(f"snapshot {version}: it belongs to another bandit or configuration")
        elif found is not None and found.hex() == manifest.log_hash:
            good.append(manifest)
        elif manifest.parent is None and version > 0 and version not in reader.imports(record.key):
            check.notes.append(f"snapshot {version} is of an import that was never committed")
        elif found is None:
            beyond = manifest.position > reader.head(record.key)
            where = "beyond the log" if beyond else "where no group of rows ends"
            check.problem(f"snapshot {version}: built at {manifest.position}, {where}")
        else:
            check.problem(f"snapshot {version}: its hash of the log at {manifest.position} differs")
    for missing in sorted(set(imports) - set(versions)):
        check.problem(f"snapshot {missing}: an import row names it, and it is missing")
    check.compared = f"{len(versions)} snapshots: files, log hashes"
    imported = reader.last_import(record.key, reader.head(record.key))
    return [
        manifest
        for manifest in good
        if manifest.position >= imported or generation_of(manifest) > imported
    ]


def _server(url: str, api_key: str | None) -> httpx.Client:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        address = httpx.URL(url)
        return httpx.Client(
            base_url=address, headers=headers, timeout=LIVE_TIMEOUT_S, trust_env=False,
            # With the authorities of SSL_CERT_FILE; reading them takes 30 ms of CPU.
            verify=httpx.create_ssl_context() if address.scheme == "https" else False,
        )  # fmt: skip
    except (httpx.InvalidURL, ValueError) as error:
        raise Unreachable(f"{url}: {error}") from error


def _live(
    url: str, api_key: str | None, settings: Settings, history: DecisionHistory,
    reader: LogReader, registry: EncoderRegistry, report: Report, say: Say,
) -> None:  # fmt: skip
    with _server(url, api_key) as client:
        audit = LiveAudit(client, reader, registry)
        for record in reader.bandits():
            say(f"{record.name}: the served model")
            check = report.check(record.name, "live")
            contexts = _newest_contexts(history, record, check)
            snapshots = snapshots_at(settings, record.uid)
            audit.audit(record, snapshots, contexts, check)


def _newest_contexts(
    history: DecisionHistory, record: BanditRecord, check: Check
) -> list[NDArray[Any]]:
    found = []
    try:
        for summary in history.newest(record, None, NUM_CONTEXTS):
            with suppress(Erased):  # it has no context any more
                stored = history.decision(record, summary.decision_id)
                if stored is not None:  # otherwise retention removed it meanwhile
                    found.append(stored.record.context)
    except StoreDamaged as error:
        check.problem(f"live: a decision to compare on: {error}")
    return found


def _drop_deleted(reader: LogReader, records: list[BanditRecord], report: Report) -> None:
    """Drop the checks of bandits that were deleted during the verification."""
    try:
        uids = {record.uid for record in reader.bandits()}
    except StoreUnreadable:
        return  # it is reported already
    gone = {record.name for record in records if record.uid not in uids}
    report.checks = [check for check in report.checks if check.bandit not in gone]


def show(report: Report, console: Console) -> None:
    """Print a table of the checks, the problems and the verdict."""
    table = Table("bandit", "check", "compared", "largest difference", "result")
    for check in report.checks:
        difference = "" if check.difference is None else f"{check.difference:.1e}"
        table.add_row(check.bandit or "", check.name, check.compared, difference, check.result)
    console.print(table)
    for check in report.checks:
        prefix = "" if check.bandit is None else f"{check.bandit}: "
        for note in check.notes:
            console.print(f"note: {prefix}{note}", soft_wrap=True, highlight=False, markup=False)
        for problem in check.problems:
            console.print(
                f"WRONG: {prefix}{problem}", soft_wrap=True, highlight=False, markup=False
            )
        more = check.num_problems - len(check.problems)
        if more:
            console.print(f"WRONG: {prefix}{check.name}: and {more} more", soft_wrap=True)
    found = report.num_problems
    verdict = f"{found} differences were found" if found else "ok"
    if report.num_unchecked:
        verdict += f", {report.num_unchecked} not checked"
    console.print(f"verdict: {verdict}")


def main(
    settings: Settings, *, live: str | None, api_key: str | None, json_file: Path | None,
    quiet: bool, most: int = MODELS,
) -> int:  # fmt: skip
    """Run the command; returns its exit status: 0 ok, 1 a difference, 2 it cannot be read."""
    try:
        say = Progress(quiet=quiet)
        report = verify(settings, live=live, api_key=api_key, most=most, say=say)
        if json_file is not None:
            json_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    except (StoreError, OSError, ValueError) as error:
        print(f"bandexa verify: {error}", file=sys.stderr)
        return 2
    show(report, Console())
    return 1 if report.num_problems else 0
