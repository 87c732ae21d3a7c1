"""Findings of a server: its store, its trainer, its clock, its backups and its disk."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from service.observe.backups import BackupStanding
from service.observe.health.findings import ALARM, NOTICE, Finding
from service.observe.health.observed import ServerState
from service.store.clock import JUMP_S

WAL_PINNED_S = 60.0
DAY_S = 86400.0
DISK_DAYS = 7.0  # that a disk lasts, at least


def check_server(state: ServerState) -> Iterator[Finding]:
    """Yield what is wrong with a server."""
    if state.store_failure is not None:
        yield Finding(
            "store-down", ALARM, f"the store takes no writes: {state.store_failure}",
            "see docs/operations.md, When the disk fails",
        )  # fmt: skip
    if state.wal_pinned_s > WAL_PINNED_S:
        yield Finding(
            "wal-pinned", ALARM,
            f"the write-ahead log takes {state.wal_bytes / 2**20:.0f} MiB: for"
            f" {state.wal_pinned_s:.0f} s it could not be emptied, because a program reads an old"
            " state of the database",
            "end that program: a shell of SQLite with an open transaction, or a backup or check"
            " that hangs (`fuser -v bandexa.db` lists who has it open)",
        )  # fmt: skip
    if state.trainer_down_s > state.stale_s:
        yield Finding(
            "trainer-down", ALARM,
            f"there has been no trainer process for {state.trainer_down_s:.0f} s",
            "the log shows how it ends; memory and own encoders are the usual causes",
        )  # fmt: skip
    if state.trainer_silent_s > state.stale_s:
        yield Finding(
            "trainer-stuck", ALARM,
            f"the trainer has sent no heartbeat for {state.trainer_silent_s:.0f} s in a round",
            "end the trainer process; the server restarts it, and nothing is lost",
        )  # fmt: skip
    yield from _check_clock(state.clock_offset_s)
    if state.backups is not None:
        yield from _check_backups(*state.backups)
    if state.disk_full_in_s is not None and state.disk_full_in_s < DISK_DAYS * DAY_S:
        yield Finding(
            "disk-fills", NOTICE,
            f"the disk has {state.disk_free_bytes / 2**30:.1f} GiB left, and is full in"
            f" {state.disk_full_in_s / DAY_S:.1f} days at the growth of the database",
            "set max_age_days or max_store_bytes (docs/retention.md), or take a larger disk",
        )  # fmt: skip


def _check_clock(offset_s: float) -> Iterator[Finding]:
    """Yield what an operator has to know of a wall clock that jumped."""
    if offset_s > JUMP_S:
        yield Finding(
            "clock-ahead", ALARM,
            f"the wall clock is {offset_s:.0f} s ahead of service time: it jumped, and reward"
            " windows, forgetting and retention do not follow it",
            "set the clock right; if that time has really passed, `bandexa clock accept`",
        )  # fmt: skip
    elif offset_s < -JUMP_S:
        yield Finding(
            "clock-behind", NOTICE,
            f"the wall clock is {-offset_s:.0f} s behind service time: it was set back, and reward"
            " windows, forgetting and retention go on as before",
            "check the clock; if it is right now, nothing has to be done",
        )  # fmt: skip


def _check_backups(backups: BackupStanding, now: float) -> Iterator[Finding]:
    """Yield what is wrong with the scheduled backups."""
    last = "there is none"
    if backups.last_good is not None:
        moment = datetime.fromtimestamp(backups.last_good, UTC).isoformat(timespec="seconds")
        last = f"the newest one is of {moment}"
    if backups.error is not None:
        yield Finding(
            "backup-failing", ALARM, f"the last backup failed, and {last}: {backups.error}",
            f"make room in {backups.folder}, or see to its rights; it is tried again",
        )  # fmt: skip
    elif late_s := backups.late_s(now):
        yield Finding(
            "backup-late", ALARM,
            f"for {late_s / 3600:.1f} h no backup was begun that was complete, and {last}",
            f"does a copy take longer than the time between two, or does {backups.folder} hang?",
        )  # fmt: skip
