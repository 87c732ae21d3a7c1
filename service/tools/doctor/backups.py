"""Checks of scheduled backups: whether they can be written, how old the newest is, and where."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from service.observe.backups import BackupStanding
from service.settings import Settings
from service.tools.doctor.check import Check, existing, in_bytes
from service.tools.stored_backups import backups_of, newest_time, num_bytes


def backups(settings: Settings, store: str | None, now: float) -> Iterator[Check]:
    """Check the scheduled backups, where the settings have them.

    Args:
        settings: The server's settings.
        store: The name of its store; None: there is none, or it cannot be read.
        now: The time.
    """
    folder = settings.backup.folder
    if folder is None:
        return
    place = existing(folder)
    needed = os.R_OK | os.W_OK | os.X_OK
    if not place.is_dir() or not os.access(place, needed):
        what = "cannot be read and written" if place.is_dir() else "is no folder"
        remedy = f"chown it to uid {os.getuid()}, or use another backup.folder"
        yield Check("backups", "wrong", f"{place} {what}: no backup can be made", remedy)
        return
    if place.stat().st_dev == existing(settings.data_dir).stat().st_dev:
        found = f"{folder} is on the disk of the data directory: a lost disk takes both"
        yield Check("place of backups", "note", found, "put backup.folder on another disk")
    try:
        mine = backups_of(settings.data_dir, store, folder, now)
        size = num_bytes(mine[-1].path) if mine else 0
    except OSError as error:
        yield Check("backups", "wrong", f"{folder} cannot be read: {error}", "see to its rights")
        return
    hours = settings.backup.every_h or 24.0
    standing = BackupStanding(str(folder), hours * 3600.0, now, newest_time(mine, now))
    if store is None and standing.last_good is None:
        yield Check("backups", "ok", f"the first start makes one in {folder}")
        return
    if standing.last_good is None:
        remedy = "a running server makes one, and its log says why it could not"
        yield Check("backups", "note", f"{folder} has none of this data directory", remedy)
        return
    age = f"{len(mine)} in {folder}, the newest begun {standing.age_s(now) / 3600:.1f} h ago"
    if store is None:  # it is new, damaged or away: perhaps they are what is left
        remedy = "`bandexa backups` lists them, `bandexa restore` puts one back"
        yield Check("backups", "note", f"{age}, of what was in {settings.data_dir} then", remedy)
    elif standing.late_s(now):
        found = f"{age}; one is to be made every {hours:g} h"
        remedy = "start the server, or see in its log why a backup failed (`backup-failing`)"
        yield Check("backups", "wrong", found, remedy)
    else:
        yield Check("backups", "ok", age)
    free = shutil.disk_usage(folder).free
    if free < size:
        found = f"{in_bytes(free)} free in {folder}, and the newest backup has {in_bytes(size)}"
        yield Check("room for backups", "wrong", found, "make room, or lower backup.keep")
