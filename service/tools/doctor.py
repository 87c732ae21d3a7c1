"""`bandexa doctor`: what is wrong with the machine, settings and data directory, and what helps.

Runs beside a server or before its first start. It changes nothing: it writes one small file to
measure the disk, and removes it. A database of an older release is migrated in a temporary copy.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import httpx

from service.settings import Settings
from service.store.address import PostgresUrl, StoreAddress
from service.store.errors import StoreError
from service.store.placing import require_unmixed, store_of
from service.store.records import BanditRecord

if TYPE_CHECKING:
    from bandexa_core.model import ServingModel

State = Literal["ok", "note", "wrong"]
Models: TypeAlias = "dict[str, ServingModel]"  # by the bandit's name
PACKAGES = ("bandexa", "torch", "torchvision", "numpy", "safetensors", "fastapi", "uvicorn")
MEMORY = frozenset({"tmpfs", "ramfs"})
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})
SYNCS = 100
SYNC_TIME_S = 2.0
IMPLAUSIBLE_SYNC_S = 30e-6
SLOW_SYNC_S = 0.02
LITTLE_BYTES, VERY_LITTLE_BYTES = 5 << 30, 200 << 20
LONG_TRANSACTION_S = 300.0
SPARE_CONNECTIONS = 20
LARGE_WAL_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked.

    Attributes:
        state: `wrong` means that the service does not work, or not as documented.
        told: What was found; `--json` has it under this name.
        remedy: What helps.
    """

    name: str
    state: State
    told: str
    remedy: str = ""


def examine(
    settings: Settings,
    keys_needed: Callable[[Settings], bool],
    try_bandits: Callable[[Settings, Iterable[tuple[str, ServingModel]]], int],
) -> Iterator[Check]:
    """Check everything; the slowest (the disk) last.

    Args:
        settings: The server's settings.
        keys_needed: Returns whether callers need an API key; ValueError where a server would
            refuse these settings.
        try_bandits: Tries the bandits of the settings beside those stored, and returns how many
            they are; ValueError where a server would refuse them.
    """
    models: Models = {}

    def access(settings: Settings) -> Iterator[Check]:
        yield _access(settings, keys_needed)

    def data(settings: Settings) -> Iterator[Check]:
        yield from _data_directory(settings, models)

    def bandits(settings: Settings) -> Iterator[Check]:
        yield from _bandits(settings, models, try_bandits)

    checks: tuple[Callable[[Settings], Iterator[Check]], ...] = (
        _versions, _processors, _device, _encoders, access, _port, data, bandits, _disk,
    )  # fmt: skip
    for check in checks:
        yield from check(settings)


def _versions(_: Settings) -> Iterator[Check]:
    found = [f"Python {platform.python_version()}"]
    missing = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if not missing:
        from service.store.opening import ENGINE  # it needs the packages

        found.insert(1, ENGINE)
    yield Check("versions", "ok", ", ".join(found))
    if missing:
        names = ", ".join(missing)
        yield Check("packages", "wrong", f"{names}: not installed", "pip install bandexa")


def _processors(settings: Settings) -> Iterator[Check]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    usable = cpus if quota is None else min(float(cpus), quota)
    workers = settings.workers
    processes = 1 if workers == 1 else workers + 1  # and the one that writes the store
    wanted = processes * settings.service_threads + settings.trainer_threads
    found = f"{usable:g} processors; {settings.service_threads} service and"
    found += f" {settings.trainer_threads} trainer threads"
    found += "" if workers == 1 else f", of {workers} workers and the process that writes for them"
    if wanted > max(2.0, usable):
        lower = "service_threads or trainer_threads"
        lower = lower if workers == 1 else f"workers, {lower}"
        remedy = f"lower {lower}, or add processors"
        yield Check("processors", "note", f"{found}: they compete", remedy)
    elif usable < 2:
        remedy = "the trainer yields to requests, but selects are slower while it trains"
        yield Check("processors", "note", found, remedy)
    else:
        yield Check("processors", "ok", found)


def _cpu_quota() -> float | None:
    """Return how many processors this container may use, None for all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _device(settings: Settings) -> Iterator[Check]:
    from service.training.worker.device import built_for_cuda, cuda_name

    name = cuda_name()
    if name is not None:
        used = "not used: device = cpu" if settings.device == "cpu" else "encoders train on it"
        yield Check("device", "ok", f"{name}: {used}")
    elif settings.device == "cuda":
        built = "" if built_for_cuda() else "; this torch is built without CUDA"
        yield Check(
            "device", "wrong", f"device = cuda, but none can be used{built}",
            "install the driver and torch's CUDA build, give the container the GPU, or set auto",
        )  # fmt: skip
    else:
        yield Check("device", "ok", "no GPU: encoders train on the CPU")


def _encoders(settings: Settings) -> Iterator[Check]:
    from bandexa_core.encoders import EncoderRegistry

    try:
        EncoderRegistry(settings.encoders, settings.weights)
    except ValueError as error:
        yield Check("encoders", "wrong", str(error), "correct [encoders] or [weights]")
        return
    if settings.encoders or settings.weights:
        names = ", ".join([*settings.encoders, *settings.weights])
        yield Check("encoders", "ok", f"registered: {names}")


def _access(settings: Settings, keys_needed: Callable[[Settings], bool]) -> Check:
    try:
        needed = keys_needed(settings)
    except ValueError as error:
        return Check("access", "wrong", str(error), "see docs/security.md")
    if needed:
        return Check("access", "ok", "callers need an API key")
    if settings.allow_anonymous:
        return Check(
            "access", "note", "every caller may do everything", "`bandexa keygen` makes keys"
        )
    return Check("access", "ok", "no keys, so it listens on loopback only")


def _port(settings: Settings) -> Iterator[Check]:
    if settings.port == 0:
        yield Check("port", "ok", "the server takes a free one")
        return
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            yield _taken(settings, where, error)
            return
    yield Check("port", "ok", f"{where} is free: no server runs there")


def _taken(settings: Settings, where: str, error: OSError) -> Check:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_certificate is None else "https"
    url = f"{scheme}://{shown}:{settings.port}/healthz"
    try:
        # Its certificate may be for another name: nothing is sent, and only who answers is asked.
        answer = httpx.get(url, timeout=2, trust_env=False, verify=False).json()
        if (
            isinstance(answer, dict)
            and {"status": "alive", "trainer": None}.items() <= answer.items()
        ):
            return Check("port", "ok", f"{where}: a bandexa server answers there")
    except (httpx.HTTPError, ValueError):
        pass
    remedy = "use another port (port = ...), or end the program that has it"
    return Check("port", "wrong", f"{where} is not available: {error.strerror}", remedy)


def _bandits(
    settings: Settings,
    models: Models,
    try_bandits: Callable[[Settings, Iterable[tuple[str, ServingModel]]], int],
) -> Iterator[Check]:
    try:
        num = try_bandits(settings, models.items())
    except ValueError as error:
        yield Check("bandits", "wrong", str(error), "correct [bandits]: a server refuses to start")
        return
    if num:
        yield Check("bandits", "ok", f"configured: {', '.join(settings.bandits)}")


def _data_directory(settings: Settings, models: Models) -> Iterator[Check]:
    root, database = settings.data_dir, settings.database
    try:
        address = store_of(root, settings.store)
        require_unmixed(root, settings.store)
    except StoreError as error:
        yield Check("data", "wrong", str(error))
        return
    if isinstance(address, PostgresUrl):
        yield from _postgres(settings, address, models)
        return
    if not database.exists():
        parent = _existing(root)
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
    yield from _database(settings, models)
    wal = database.with_name(f"{database.name}-wal")
    if wal.exists() and wal.stat().st_size > LARGE_WAL_BYTES:
        found = f"{wal} has {_bytes(wal.stat().st_size)}"
        remedy = "a reader (a backup, a shell) blocks checkpoints; it shrinks once that ends"
        yield Check("write-ahead log", "note", found, remedy)


def _postgres(settings: Settings, url: PostgresUrl, models: Models) -> Iterator[Check]:
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
    if settings.durability == "commit" and not found.syncs:
        remedy = "set fsync and synchronous_commit to on, or durability to os"
        yield Check("durability", "wrong", f"{where} acknowledges before its disk has it", remedy)
    elif settings.durability == "commit" and not found.num_synchronous:
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
    yield Check("data", "ok", f"{where} is {state}, {_bytes(found.num_bytes)}")
    try:
        with as_current(url) as database:
            yield from _content(settings, database, models)
    except StoreError as error:
        yield Check("database", "wrong", str(error), "`bandexa verify` reports more")


def _database(settings: Settings, models: Models) -> Iterator[Check]:
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
            yield from _content(settings, database, models)
    except StoreError as error:
        remedy = "`bandexa verify`, then restore a backup"
        yield Check("database", "wrong", f"cannot be read: {error}", remedy)


def _content(settings: Settings, database: StoreAddress, models: Models) -> Iterator[Check]:
    """Check what a database of this release's format holds."""
    from bandexa_core.errors import SnapshotError
    from bandexa_core.snapshots.store import SnapshotStore
    from service.store.opening import open_reader

    with open_reader(database) as reader:
        records = reader.bandits()
    num_snapshots = num_bytes = 0
    for record in records:
        snapshots = SnapshotStore(settings.snapshots / record.uid)
        sizes = [snapshots.num_bytes(version) for version in snapshots.versions()]
        num_snapshots, num_bytes = num_snapshots + len(sizes), num_bytes + sum(sizes)
        try:
            newest = snapshots.versions()[-1]
            snapshots.load(newest, ())
        except (SnapshotError, IndexError) as error:
            remedy = "an older one is used instead; `bandexa verify` reports more"
            why = str(error) if isinstance(error, SnapshotError) else "it has none"
            yield Check("snapshots", "wrong", f"of {record.name}: {why}", remedy)
    size = f", {_bytes(database.stat().st_size)}" if isinstance(database, Path) else ""
    yield Check("database", "ok", f"{len(records)} bandits{size}")
    found = f"{num_snapshots} stored, {_bytes(num_bytes)}"
    yield Check("stored snapshots", "ok", found)
    yield from _models(settings, database, records, models)


def _models(
    settings: Settings, database: StoreAddress, records: Sequence[BanditRecord], models: Models
) -> Iterator[Check]:
    """Build the model of each bandit, as a start does: one that cannot be built is set aside."""
    from bandexa_core.encoders import EncoderRegistry
    from bandexa_core.snapshots.store import SnapshotStore
    from service.serving.recovery import build_model, failure_of
    from service.store.opening import open_reader

    try:
        registry = EncoderRegistry(settings.encoders, settings.weights)
    except ValueError:
        return  # reported above
    with open_reader(database) as reader:
        for record in records:
            snapshots = SnapshotStore(settings.snapshots / record.uid)
            try:
                models[record.name] = build_model(reader, registry, record, snapshots)
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


def _disk(settings: Settings) -> Iterator[Check]:
    folder = _existing(settings.data_dir)
    kind = _file_system(folder)
    if kind in NETWORK:
        found = f"{folder} is on a network file system ({kind}): SQLite's log does not work there"
        yield Check("disk", "wrong", found, "put data_dir on a local disk")
    elif kind in MEMORY:
        found = f"{folder} is in memory ({kind}): nothing survives a restart of the machine"
        yield Check("disk", "note", found, "put data_dir on a disk")
    elif kind == "overlay":
        found = f"{folder} is in the container itself and is deleted with it"
        yield Check("disk", "note", found, "mount a volume")
    free = shutil.disk_usage(folder).free
    remedy = "free some space; max_store_bytes and max_age_days remove old decisions"
    state: State = "ok" if free > LITTLE_BYTES else "note" if free > VERY_LITTLE_BYTES else "wrong"
    yield Check("room", state, f"{_bytes(free)} free in {folder}", "" if state == "ok" else remedy)
    if not os.access(folder, os.W_OK):
        return
    synced, plain = _sync_times(folder)
    found = f"a sync takes {1e3 * synced:.2f} ms (median), a write {1e3 * plain:.3f} ms"
    if settings.durability == "os":
        yield Check("sync", "ok", f"{found}; durability = os does not wait for it")
    elif kind in MEMORY or synced < max(IMPLAUSIBLE_SYNC_S, 2 * plain):
        remedy = (
            "a cache with a battery, or a disk that ignores syncs and loses data in a power cut"
        )
        yield Check("sync", "note", f"{found}: too quick for a disk", remedy)
    elif synced > SLOW_SYNC_S:
        remedy = "every answer waits for it: use a faster disk, or durability = os"
        yield Check("sync", "note", f"{found}: slow", remedy)
    else:
        yield Check("sync", "ok", found)


def _sync_times(folder: Path) -> tuple[float, float]:
    """Return the median seconds of writing a page with a sync, and without."""
    block, synced, plain = os.urandom(4096), [], []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        until = time.perf_counter() + SYNC_TIME_S
        for number in range(SYNCS):
            started = time.perf_counter()
            file.write(block)
            written = time.perf_counter()
            os.fsync(file.fileno())
            ended = time.perf_counter()
            if number:  # the first write creates the file as well
                plain.append(written - started)
                synced.append(ended - started)
            if number > 2 and ended > until:
                break
    return statistics.median(synced), statistics.median(plain)


def _file_system(folder: Path) -> str:
    """Return the kind of a folder's file system, "" where it is unknown."""
    best, kind = -1, ""
    path = str(folder.resolve())
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mounted, found, *_rest = line.split()
        mounted = mounted.replace("\\040", " ")
        inside = path == mounted or path.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= best:
            best, kind = len(mounted), found
    return kind


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _bytes(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
