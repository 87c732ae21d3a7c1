"""`bandexa backup`: copies a data directory while its server runs; the copy can be served.

Runs in the process of the command, on read-only connections. Snapshots are copied first, then the
database, so that no snapshot is ahead of the copied log. The database gets its name when everything
else is written and synced, and `backup.json` is written last: a copy without it is incomplete and
has to be deleted. Replays are derived and left out. A database of an older release keeps its
format; what is checked is a migrated copy of it, which is deleted again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bandexa_core.errors import SnapshotCorrupt, SnapshotError
from bandexa_core.filesystem import FileSystem, LocalFileSystem, make_dirs, write_synced
from bandexa_core.ids import BanditUid, SnapshotVersion
from bandexa_core.snapshots.store import SnapshotStore
from service.store.address import StoreAddress
from service.store.errors import StoreError
from service.store.loading import belonging, newest_snapshot, place_imports
from service.store.opening import as_current, copy_store, open_reader, require_openable
from service.store.placing import existing_store
from service.store.reading import LogReader
from service.store.records import BanditRecord
from service.store.snapshots import are_shared, snapshots_of

DATABASE, SNAPSHOTS, MARKER = "bandexa.db", "snapshots", "backup.json"
ATTEMPTS = 5
_REPORT_EVERY_S = 2.0


class BackupError(StoreError):
    """The data directory could not be copied; the destination is no backup."""


def backup(
    source: Path, dest: Path, *, say: Callable[[str], None], store: str | None = None
) -> dict[str, Any]:
    """Copy a data directory and return the content of the copy's marker.

    The copy has every reward that was acknowledged before the call.

    Args:
        source: The data directory; a server may have it open.
        dest: The directory of the copy; it does not exist, or is empty.
        say: Receives progress reports.
        store: The setting of that name, if it is given.

    Raises:
        BackupError: The source cannot be read, or the destination not written.
    """
    fs = LocalFileSystem()
    try:
        database = existing_store(source, store)
    except StoreError as error:
        raise BackupError(str(error)) from error
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise BackupError(f"{dest} is not empty")
    try:
        require_openable(database)
    except StoreError as error:
        raise BackupError(str(error)) from error
    try:
        make_dirs(fs, dest.resolve())
        for attempt in range(1, ATTEMPTS + 1):
            for uid in _uids(source, database):
                origin = snapshots_of(source / SNAPSHOTS, database, uid)
                _copy_snapshots(fs, origin, dest / SNAPSHOTS / uid, say)
            partial = dest / f"{DATABASE}.partial"
            _copy_store(database, partial, say)
            with as_current(partial, dest) as checked, open_reader(checked) as reader:
                missing = _clear(fs, dest, reader)
                content = _content(source, dest, reader)
            if not missing:
                return _finish(fs, dest, partial, content)
            # They were created, or imported, after their snapshots were copied.
            say(f"attempt {attempt}: again, for {', '.join(missing)}")
            partial.unlink()
    except (OSError, StoreError, SnapshotError) as error:
        raise BackupError(f"{source}: {error}") from error
    raise BackupError(f"{source}: {', '.join(missing)} have no snapshot that can be served")


# -- snapshots --------------------------------------------------------------------------------


def _uids(source: Path, database: StoreAddress) -> list[BanditUid]:
    """Return the bandits that have snapshots."""
    if are_shared(database):
        with open_reader(database) as reader:
            return [record.uid for record in reader.bandits()]
    return [BanditUid(root.name) for root in sorted((source / SNAPSHOTS).glob("*"))]


def _copy_snapshots(
    fs: FileSystem, origin: SnapshotStore, root: Path, say: Callable[[str], None]
) -> None:
    """Copy a bandit's undamaged snapshots that are not copied yet.

    One that is deleted meanwhile is skipped.
    """
    make_dirs(fs, root.resolve())
    copied = set(SnapshotStore(root).versions())
    for version in origin.versions():
        if version not in copied:
            try:
                _copy_snapshot(fs, origin, root, version)
            except (SnapshotCorrupt, FileNotFoundError) as error:
                if version in origin.versions():
                    say(f"snapshot {version} of {root.name} is left out: {error}")
    fs.sync_dir(root)


def _copy_snapshot(
    fs: FileSystem, origin: SnapshotStore, root: Path, version: SnapshotVersion
) -> None:
    name = f"v{version:08d}"
    manifest, files = origin.manifest(version), origin.fetch(version)
    temporary = root / f"{name}.tmp-0"
    shutil.rmtree(temporary, ignore_errors=True)
    fs.make_dir(temporary)
    try:
        for file in ("manifest.json", *(f"{entry}.safetensors" for entry in manifest.files)):
            write_synced(fs, temporary / file, (files / file).read_bytes())
        fs.sync_dir(temporary)
        fs.rename(temporary, root / name)
        try:
            SnapshotStore(root).load(version)  # against the hashes of its manifest
        except SnapshotCorrupt:
            shutil.rmtree(root / name)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# -- the database -----------------------------------------------------------------------------


def _copy_store(database: StoreAddress, partial: Path, say: Callable[[str], None]) -> None:
    reported_at = time.monotonic()
    parts = "pages" if isinstance(database, Path) else "rows"

    def report(copied: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= _REPORT_EVERY_S:
            reported_at = time.monotonic()
            say(f"database: {copied} of {total} {parts}")

    copy_store(database, partial, report)


def _clear(fs: FileSystem, dest: Path, reader: LogReader) -> list[str]:
    """Remove snapshots of other bandits or logs; return the bandits without a usable snapshot."""
    missing = []
    records = reader.bandits()
    for record in records:
        # An import may have been logged between its snapshot's copy and the database's.
        place_imports(reader, record, SnapshotStore(dest / SNAPSHOTS / record.uid))
        if not _can_be_served(reader, record, dest):
            missing.append(record.name)
    if missing:
        return missing
    known = {record.uid for record in records}
    for root in sorted((dest / SNAPSHOTS).glob("*")):
        if root.name not in known:
            shutil.rmtree(root)
    for record in records:
        _drop_unknown(reader, record, dest / SNAPSHOTS / record.uid)
        fs.sync_dir(dest / SNAPSHOTS / record.uid)
    return []


def _can_be_served(reader: LogReader, record: BanditRecord, dest: Path) -> bool:
    snapshots = SnapshotStore(dest / SNAPSHOTS / record.uid)
    if not set(reader.imports(record.key)) <= set(snapshots.versions()):
        return False
    try:
        newest_snapshot(reader, record, snapshots, reader.head(record.key))
    except SnapshotError:
        return False
    return True


def _drop_unknown(reader: LogReader, record: BanditRecord, root: Path) -> None:
    """Remove snapshots that the copied log does not know.

    Those of before a rollback or an import stay: decisions refer to them, and the bandit can go
    back to them, as at the server that was copied.
    """
    snapshots = SnapshotStore(root)
    belongs = belonging(reader, record, reader.head(record.key))
    for version in snapshots.versions():
        if not belongs(snapshots.manifest(version)):
            shutil.rmtree(root / f"v{version:08d}")


def _content(source: Path, dest: Path, reader: LogReader) -> dict[str, Any]:
    """Return the content of the marker."""
    return {
        "format": 1,
        "source": str(source.resolve()),
        "store": reader.ids.store,
        "created_at": time.time(),
        "epoch": reader.epoch(),
        "bandits": {
            record.name: {
                "uid": record.uid,
                "position": reader.head(record.key),
                "snapshots": SnapshotStore(dest / SNAPSHOTS / record.uid).versions(),
            }
            for record in reader.bandits()
        },
    }


def _finish(
    fs: LocalFileSystem, dest: Path, partial: Path, content: dict[str, Any]
) -> dict[str, Any]:
    """Give the database its name, and write the marker of a complete copy."""
    descriptor = fs.open_file(partial, create=False)
    try:
        fs.sync_file(descriptor)
    finally:
        os.close(descriptor)
    make_dirs(fs, (dest / SNAPSHOTS).resolve())
    fs.sync_dir(dest / SNAPSHOTS)
    fs.rename(partial, dest / DATABASE)
    fs.sync_dir(dest)
    write_synced(fs, dest / MARKER, (json.dumps(content, indent=2) + "\n").encode())
    fs.sync_dir(dest)
    return content


def main(source: Path, dest: Path, *, quiet: bool, store: str | None = None) -> int:
    """Run the command; returns its exit status: 0 copied, 2 not."""

    def say(text: str) -> None:
        if not quiet:
            print(f"bandexa backup: {text}", file=sys.stderr, flush=True)

    try:
        content = backup(source, dest, say=say, store=store)
    except BackupError as error:
        print(f"bandexa backup: {error}", file=sys.stderr)
        return 2
    for name, bandit in sorted(content["bandits"].items()):
        versions = ", ".join(str(version) for version in bandit["snapshots"])
        print(f"{name}: position {bandit['position']}, snapshots {versions}")
    print(f"copied to {dest}")
    return 0
