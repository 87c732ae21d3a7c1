"""Rewards that wait, in files: what a process could not deliver, a later one does.

Each queue appends to a file of its own and holds a lock on it, which ends with the process. A queue
that begins adopts the files that nobody holds: it copies their rewards into its own file, then
deletes them. A kill in between leaves both, and the rewards are sent twice: they have a `reward_id`
and count once.

A line is one reward as JSON. It is written with one system call and not synced: it survives the
process, also by SIGKILL, but not a power loss. A line that cannot be read is reported, appended to
`damaged.txt`, and stops no other.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from bandexa_client.requests import RewardReport

log = logging.getLogger(__name__)
_SUFFIX = ".rewards"
_DAMAGED = "damaged.txt"
_COMPACT_ABOVE = 10_000  # lines of delivered rewards


class Spool:
    """The file of one queue in a folder that queues of any number of processes share.

    Args:
        folder: Is created where it is missing.

    Attributes:
        num_damaged: Lines that were found damaged in adopted files.

    Raises:
        OSError: The folder cannot be written.
        ValueError: The system has no file locks that end with a process (Windows).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.num_damaged = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._file = self._new_file()
        self._num_lines = 0
        self._is_torn = False

    def add(self, report: RewardReport) -> None:
        """Append a reward.

        Raises:
            OSError: It is not written.
        """
        start = b"\n" if self._is_torn else b""  # the rest of a line that was not written whole
        line = start + _line(report)
        self._is_torn = True
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path}: a reward was not written whole")
        self._is_torn = False
        self._num_lines += 1

    def settled(self, waiting: Collection[RewardReport]) -> None:
        """Drop the rewards that wait no longer, now or when they are many.

        Raises:
            OSError: The folder cannot be written; no reward is lost.
        """
        if not waiting:
            os.ftruncate(self._file, 0)
            self._num_lines, self._is_torn = 0, False
        elif self._num_lines > 2 * len(waiting) + _COMPACT_ABOVE:
            old_path, old_file = self._path, self._file
            self._path, self._file = self._new_file()
            self._num_lines, self._is_torn = 0, False
            for report in waiting:
                self.add(report)
            old_path.unlink()
            os.close(old_file)

    def adopt(self) -> list[RewardReport]:
        """Take over the rewards of queues that have ended; they are in this queue's file then.

        Raises:
            OSError: The folder cannot be read or written; no reward is lost.
        """
        found = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}"), key=_age):
            if path == self._path:
                continue
            try:
                file = os.open(path, os.O_RDWR)
            except (FileNotFoundError, IsADirectoryError):  # another queue adopted it
                continue
            try:
                if _locked(file):
                    reports = list(self._read(path))
                    for report in reports:
                        self.add(report)
                    path.unlink()
                    found += reports
            finally:
                os.close(file)
        if found:
            log.warning("%d rewards of an earlier process are delivered now", len(found))
        return found

    def close(self) -> None:
        """Release the file to other queues; an empty one is deleted."""
        if not os.fstat(self._file).st_size:
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def abandon(self) -> None:
        """Let go of the file in a forked child: it is the parent's."""
        with suppress(OSError):  # nothing of it is needed here
            os.close(self._file)

    def _new_file(self) -> tuple[Path, int]:
        while True:
            path = self._folder / f"{secrets.token_hex(8)}{_SUFFIX}"
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
            if _locked(file):
                return path, file
            os.close(file)  # another queue adopts it, empty as it is

    def _read(self, path: Path) -> Iterator[RewardReport]:
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if not line:
                continue
            try:
                yield _report(line)
            except (ValueError, TypeError, RecursionError) as error:
                self.num_damaged += 1
                log.error("%s: line %d is no reward, see %s: %s", path, number, _DAMAGED, error)
                with (self._folder / _DAMAGED).open("ab") as damaged:
                    damaged.write(line + b"\n")


def _locked(file: int) -> bool:
    """Lock a file that no other process holds and that still has its name; or return False."""
    try:
        import fcntl
    except ImportError:
        raise ValueError("spool: this system has no file locks that end with a process") from None
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(file).st_nlink > 0
    return False


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _line(report: RewardReport) -> bytes:
    fields: list[object] = [report.decision_id, report.reward, report.reward_id, report.action]
    if report.metrics is not None:
        fields.append(report.metrics)
    return json.dumps(fields).encode() + b"\n"


def _report(line: bytes) -> RewardReport:
    """Return the reward of a line.

    Raises:
        ValueError, TypeError, RecursionError: It is none.
    """
    decision_id, reward, reward_id, action, *rest = json.loads(line)
    texts = (decision_id, reward_id, "" if action is None else action)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("an id is no text")
    metrics: dict[str, float] | None = None
    if rest:
        (metrics,) = rest
    if (reward is None) != isinstance(metrics, dict):
        raise TypeError("it is neither a reward nor metrics")
    numbers = [reward] if metrics is None else list(metrics.values())
    if not all(type(number) is float and math.isfinite(number) for number in numbers):
        raise TypeError("the reward is no number")
    return RewardReport(decision_id, reward, reward_id, action, metrics=metrics)
