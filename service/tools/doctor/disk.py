"""Checks of the disk that has the data directory: its kind, its room, and how long a sync takes."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from service.settings import Settings
from service.tools.doctor.check import Check, State, existing, in_bytes

MEMORY = frozenset({"tmpfs", "ramfs"})
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})
SYNCS = 100
SYNC_TIME_S = 2.0
IMPLAUSIBLE_SYNC_S = 30e-6
SLOW_SYNC_S = 0.02
LITTLE_BYTES, VERY_LITTLE_BYTES = 5 << 30, 200 << 20


def disk(settings: Settings) -> Iterator[Check]:
    """Check the disk that the data directory is on."""
    folder = existing(settings.data_dir)
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
    yield Check(
        "room", state, f"{in_bytes(free)} free in {folder}", "" if state == "ok" else remedy
    )
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
