"""Checks of the data directory: whether a server could open it, and what its store has.

Each model is built as a start builds it, for the checks of configured bandits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import Settings
from service.store.address import PostgresUrl, StoreAddress
from service.store.errors import StoreError
from service.store.placing import require_unmixed, store_of
from service.store.records import BanditRecord
from service.tools.doctor.check import Check, existing, in_bytes

if TYPE_CHECKING:
    from bandexa_core.model import ServingModel

LONG_TRANSACTION_S = 300.0
SPARE_CONNECTIONS = 20
LARGE_WAL_BYTES = 256 << 20


@dataclass(slots=True)
class Stored:
    """What was read of a data directory, for further checks.

    Attributes:
        name: The name of its store; None: there is none, or it cannot be read.
        models: The models by the bandit's name.
    """

    name: str | None = None
    models: dict[str, ServingModel] = field(default_factory=dict)


def data_directory(settings: Settings, stored: Stored) -> Iterator[Check]:
    """Check the data directory, and read what is in it."""
    root, database = settings.data_dir, settings.database
    try:
        address = store_of(root, settings.store)
        require_unmixed(root, settings.store)
    except StoreError as error:
        yield Check("data", "wrong", str(error))
        return
    if isinstance(address, PostgresUrl):
        yield from _postgres(settings, address, stored)
        return
    if not database.exists():
        parent = existing(root)
        if os.access(parent, os.W_OK | os.X_OK):
            yield Check("data", "ok", f"{root} is new: the first start creates it")
        else:
            remedy = f"chown it to uid {os.getuid()}, or use another data_dir"
            yield Check("data", "wrong", f"{parent} cannot be written", remedy)
        return
    if not os.access(database, os.W_OK):
        remedy = f"chown {root} to uid {os.getuid()}, or run as its owner"
        yield Check("data", "wrong", f"{database} cannot be written", remedy)
    for folder in (settings.snapshots, settings.replays):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            remedy = f"chown it to uid {os.getuid()}, or mount it writable"
            yield Check("folders", "wrong", f"{folder} cannot be written: no training", remedy)
    lock = database.with_name(f"{database.name}.lock")
    if _is_locked(lock):
        yield Check("data", "ok", f"{root} is in use: {lock.read_text().strip() or 'starting'}")
    else:
        yield Check("data", "ok", f"{root} is not in use")
    yield from _database(settings, stored)
    wal = database.with_name(f"{database.name}-wal")
    if wal.exists() and wal.stat().st_size > LARGE_WAL_BYTES:
        found = f"{wal} has {in_bytes(wal.stat().st_size)}"
        remedy = "a reader (a backup, a shell) blocks checkpoints; it shrinks once that ends"
        yield Check("write-ahead log", "note", found, remedy)


def _postgres(settings: Settings, url: PostgresUrl, stored: Stored) -> Iterator[Check]:
    """Check a store on PostgreSQL."""
    from service.store.opening import as_current, inspected

    try:
        found = inspected(url)
    except StoreError as error:
        remedy = "start it, or mend `store` and the role's password and rights"
        yield Check("database", "wrong", f"{url}: {error}", remedy)
        return
    where = f"{url}: {found.engine}"
    if not found.is_supported:
        yield Check("database", "wrong", f"{where} is too old", "upgrade PostgreSQL")
        return
    if found.is_standby:
        remedy = "name the primary, or all hosts with ?target_session_attrs=read-write"
        yield Check("database", "wrong", f"{where} is a standby and takes no writes", remedy)
    if found.lacking is not None:
        remedy = f"GRANT ALL ON {found.lacking} to the role, or let it own the tables"
        yield Check("database", "wrong", f"{where}: the role may not write {found.lacking}", remedy)
    elif not found.schema and not found.may_create:
        remedy = "GRANT CREATE ON its SCHEMA to the role, for the first start"
        yield Check("database", "wrong", f"{where}: the role may not create the tables", remedy)
    if settings.durability != "os" and not found.syncs:
        remedy = "set fsync and synchronous_commit to on, or durability to os"
        yield Check("durability", "wrong", f"{where} acknowledges before its disk has it", remedy)
    elif settings.durability != "os" and not found.num_synchronous:
        remedy = "name a standby in synchronous_standby_names; without it a lost disk loses all"
        yield Check("durability", "note", "no standby has what is acknowledged", remedy)
    if found.longest_s > LONG_TRANSACTION_S:
        text = f"a transaction has been open for {found.longest_s:.0f} s: dead rows stay meanwhile"
        yield Check("transactions", "note", text, "end it, or set a timeout for its role")
    used, most = found.connections
    if most - used < SPARE_CONNECTIONS:
        text = f"{used} of {most} connections are in use"
        yield Check("connections", "note", text, "raise max_connections, or pool sessions")
    if not found.schema:
        yield Check("data", "ok", f"{where} is new: the first start creates the tables")
        return
    state = "in use" if found.in_use else "not in use"
    yield Check("data", "ok", f"{where} is {state}, {in_bytes(found.num_bytes)}")
    yield from _servers(found.servers)
    try:
        with as_current(url) as database:
            yield from _content(settings, database, stored)
    except StoreError as error:
        yield Check("database", "wrong", str(error), "`bandexa verify` reports more")


def _servers(leases: list[tuple[str, str]]) -> Iterator[Check]:
    """Say which servers share the database, and which of them is the keeper."""
    keeper = dict(leases).get("keeper")
    servers = {
        int(name.removeprefix("server/")) + 1: holder
        for name, holder in leases
        if name.startswith("server/")
    }
    if not servers:
        return
    text = "; ".join(
        f"{number}{' (keeper)' * (holder == keeper)}: {holder}"
        for number, holder in sorted(servers.items())
    )
    if keeper in servers.values():
        yield Check("servers", "ok", text)
    else:
        yield Check("servers", "note", f"no server is the keeper now; {text}", "one takes it over")


def _database(settings: Settings, stored: Stored) -> Iterator[Check]:
    from service.store.opening import NEWEST_SCHEMA, as_current, format_of, migrates

    try:
        version = format_of(settings.database)
        if version > NEWEST_SCHEMA:
            found = f"written by a newer release (format {version}, this one reads {NEWEST_SCHEMA})"
            yield Check("database", "wrong", found, "upgrade bandexa, or restore an older backup")
            return
        if version < NEWEST_SCHEMA and migrates(version):
            found = f"of an older release (format {version}, this one writes {NEWEST_SCHEMA})"
            yield Check("format", "note", found, "back it up; the next start migrates it")
        elif version < NEWEST_SCHEMA:
            found = f"written by an older build (format {version}, this one reads {NEWEST_SCHEMA})"
            yield Check("database", "wrong", found, "use that build, or another data_dir")
            return
        with as_current(settings.database) as database:
            yield from _content(settings, database, stored)
    except StoreError as error:
        remedy = "`bandexa verify`, then restore a backup"
        yield Check("database", "wrong", f"cannot be read: {error}", remedy)


def _content(settings: Settings, database: StoreAddress, stored: Stored) -> Iterator[Check]:
    """Check what a database of this release's format holds."""
    from bandexa_core.errors import SnapshotError
    from service.serving.files import snapshots_at
    from service.store.opening import open_reader
    from service.store.snapshots import DIRECTORY, place_of

    with open_reader(database) as reader:
        records, stored.name = reader.bandits(), reader.ids.store
    try:
        place = place_of(database)
        for record in records[:1]:
            snapshots_at(settings, record.uid)
    except SnapshotError as error:
        yield Check("snapshots", "wrong", str(error), "no bandit is served without its models")
        return
    num_snapshots = num_bytes = 0
    for record in records:
        snapshots = snapshots_at(settings, record.uid)
        sizes = [snapshots.num_bytes(version) for version in snapshots.versions()]
        num_snapshots, num_bytes = num_snapshots + len(sizes), num_bytes + sum(sizes)
        try:
            newest = snapshots.versions()[-1]
            snapshots.load(newest, ())
        except (SnapshotError, IndexError) as error:
            remedy = "an older one is used instead; `bandexa verify` reports more"
            why = str(error) if isinstance(error, SnapshotError) else "it has none"
            yield Check("snapshots", "wrong", f"of {record.name}: {why}", remedy)
    size = f", {in_bytes(database.stat().st_size)}" if isinstance(database, Path) else ""
    yield Check("database", "ok", f"{len(records)} bandits{size}")
    found = f"{num_snapshots} stored, {in_bytes(num_bytes)}"
    if place != DIRECTORY:
        yield Check("snapshots", "ok", f"snapshots are shared, in {place}")
    yield Check("stored snapshots", "ok", found)
    yield from _models(settings, database, records, stored)


def _models(
    settings: Settings, database: StoreAddress, records: Sequence[BanditRecord], stored: Stored
) -> Iterator[Check]:
    """Build the model of each bandit, as a start does: one that cannot be built is set aside."""
    from bandexa_core.encoders import EncoderRegistry
    from service.serving.failed_bandits import build_model, failure_of
    from service.serving.files import snapshots_at
    from service.store.opening import open_reader

    try:
        registry = EncoderRegistry(settings.encoders, settings.weights)
    except ValueError:
        return  # reported above
    with open_reader(database) as reader:
        for record in records:
            snapshots = snapshots_at(settings, record.uid)
            try:
                stored.models[record.name] = build_model(reader, registry, record, snapshots)
            except Exception as error:  # own encoders raise anything
                failure = failure_of(error)
                row = f" at log row {failure.position}" if failure.position else ""
                found = f"{record.name} cannot be served{row}: {failure.reason}"
                remedy = "the others are served; `bandexa verify` reports more, a backup has it"
                yield Check("models", "wrong", found, remedy)


def _is_locked(lock: Path) -> bool:
    """Return whether a process holds the lock, according to the kernel; it is not touched."""
    try:
        inode = lock.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any("FLOCK" in line and f":{inode} " in line for line in lines)
