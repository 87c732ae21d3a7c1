"""Moves a store from the file of a data directory into a database, and back: `bandexa migrate`.

Every row is copied with its position and hash, so that the models in the data directory stay valid:
they stay where they are. No server may have the store open. The heads of all logs are compared
before anything is renamed; a copy that was interrupted is begun again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bandexa_core.errors import SnapshotError
from bandexa_core.filesystem import LocalFileSystem
from bandexa_core.ids import BanditUid
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.opening import copy_into, copy_store, heads, held, log_uid, open_reader
from service.store.placing import FILE, NOTE, note_store, store_of
from service.store.snapshots import are_shared, snapshots_of

KEPT = "bandexa.db.migrated"  # the file of before
_REPORT_EVERY_S = 2.0
Say = Callable[[str], None]
Heads = Mapping[BanditUid, object]


def to_database(data_dir: Path, url: PostgresUrl, say: Say) -> int:
    """Move the store of a data directory into an empty database; returns the number of bandits.

    Raises:
        StoreError: A server has it open, it has none, or the database is not empty or not writable.
    """
    file = data_dir / FILE
    if not file.is_file():
        raise StoreError(f"{data_dir} holds no {FILE}")
    copy_into(file, url, _reporting(say))
    num = _compare(heads(file), heads(url))
    fs = LocalFileSystem()
    fs.rename(file, data_dir / KEPT)
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
    fs.sync_dir(data_dir)
    note_store(data_dir, url, log_uid(url))
    return num


def to_file(url: PostgresUrl, data_dir: Path, say: Say) -> int:
    """Move the store of a database into the data directory that has its models.

    Raises:
        StoreError: A server has it open, the directory is not that of this log, or has a file.
    """
    file = data_dir / FILE
    if file.exists():
        raise StoreError(f"{data_dir} has a log of its own ({FILE})")
    noted = store_of(data_dir)
    if not isinstance(noted, PostgresUrl):
        raise StoreError(f"{data_dir} has no {NOTE}: name the data directory of this log's server")
    note_store(data_dir, url, log_uid(url))  # it refuses the models of another log
    partial = data_dir / f"{FILE}.partial"
    with held(url):
        _fetch_snapshots(url, data_dir, say)
        copy_store(url, partial, _reporting(say))
        num = _compare(heads(url), heads(partial))
        fs = LocalFileSystem()
        fs.remove_file(data_dir / NOTE)
        fs.rename(partial, file)
        fs.sync_dir(data_dir)
    return num


def _fetch_snapshots(url: PostgresUrl, data_dir: Path, say: Say) -> None:
    """Copy the snapshots into the directory, where it does not have them: it serves alone then."""
    if not are_shared(url):
        return
    with open_reader(url) as reader:
        for record in reader.bandits():
            snapshots = snapshots_of(data_dir / "snapshots", url, record.uid)
            for version in snapshots.versions():
                snapshots.fetch(version)
            say(f"the snapshots of {record.name} are in {data_dir}")


def _compare(before: Heads, after: Heads) -> int:
    if before != after:
        raise StoreError("the heads of the logs differ in the copy: it is not used")
    return len(before)


def _reporting(say: Say) -> Callable[[int, int], None]:
    reported_at = time.monotonic()

    def report(copied: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= _REPORT_EVERY_S:
            reported_at = time.monotonic()
            say(f"{copied} of {total} rows")

    return report


def main(source: str, dest: str, *, quiet: bool) -> int:
    """Run the command; returns its exit status: 0 moved, 2 not."""

    def say(text: str) -> None:
        if not quiet:
            print(f"bandexa migrate: {text}", file=sys.stderr, flush=True)

    is_url = [text.startswith(("postgresql://", "postgres://")) for text in (source, dest)]
    try:
        if is_url == [False, True]:
            num = to_database(Path(source), PostgresUrl.of(dest), say)
        elif is_url == [True, False]:
            num = to_file(PostgresUrl.of(source), Path(dest), say)
        else:
            raise StoreError("name a data directory and a postgresql:// URL, in the order of the"
                             " move")  # fmt: skip
    except (SnapshotError, StoreError, OSError, ValueError) as error:
        print(f"bandexa migrate: {error}", file=sys.stderr)
        return 2
    where = "set store to that URL" if is_url[1] else "set no store"
    print(f"moved {num} bandits; {where} before you start the server")
    return 0
