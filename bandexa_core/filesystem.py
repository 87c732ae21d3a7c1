"""The writes of the core to the file system: each step that a crash can separate is one call.

A snapshot store or a disk replay receives a `FileSystem`, so that tests can observe the order of
syncs and renames and stop at any of them. Reads do not go through it. After a crash, everything
that `sync_file` and `sync_dir` returned for is on disk. A failed sync is final: the kernel may have
dropped the pages, so a second sync could succeed although the data is lost.

A lock file marks the one owner of a directory. The kernel releases the lock when the process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


class FileSystem(Protocol):
    """The writes of the core. Each method raises OSError when it fails."""

    def make_dir(self, path: Path) -> None:
        """Create one directory; raise FileExistsError when the path exists."""

    def open_file(self, path: Path, *, create: bool) -> int:
        """Open a file for reading and writing and return its descriptor.

        With `create`, a missing file is created. The caller closes the descriptor with os.close.
        """

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""

    def truncate(self, fd: int, num_bytes: int) -> None:
        """Cut the file to `num_bytes`."""

    def sync_file(self, fd: int) -> None:
        """Return when the file's bytes and size survive a power loss."""

    def sync_dir(self, path: Path) -> None:
        """Return when the names in the directory survive a power loss."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source` in one step."""

    def remove_file(self, path: Path) -> None:
        """Remove one file."""

    def remove_dir(self, path: Path) -> None:
        """Remove one empty directory."""


class LocalFileSystem:
    """The POSIX file system of this machine."""

    def make_dir(self, path: Path) -> None:
        """Create one directory; raise FileExistsError when the path exists."""
        path.mkdir()

    def open_file(self, path: Path, *, create: bool) -> int:
        """Open a file for reading and writing; child processes do not inherit the descriptor."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        rest = memoryview(data).cast("B")
        while rest:
            written = os.pwrite(fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def truncate(self, fd: int, num_bytes: int) -> None:
        """Cut the file to `num_bytes`."""
        os.ftruncate(fd, num_bytes)

    def sync_file(self, fd: int) -> None:
        """Return when the file's bytes and size survive a power loss."""
        os.fsync(fd)

    def sync_dir(self, path: Path) -> None:
        """Return when the names in the directory survive a power loss."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source` in one step."""
        source.rename(target)

    def remove_file(self, path: Path) -> None:
        """Remove one file."""
        path.unlink()

    def remove_dir(self, path: Path) -> None:
        """Remove one empty directory."""
        path.rmdir()


def make_dirs(fs: FileSystem, path: Path) -> None:
    """Create `path` and its missing parents, and sync the name of each."""
    if path.is_dir():
        return
    make_dirs(fs, path.parent)
    try:
        fs.make_dir(path)
    except FileExistsError:
        if not path.is_dir():  # a directory is fine: another process may have created it meanwhile
            raise
    fs.sync_dir(path.parent)


def write_synced(fs: FileSystem, path: Path, data: bytes) -> None:
    """Write a whole file and sync it. Its name is durable once the directory is synced, too."""
    fd = fs.open_file(path, create=True)
    try:
        fs.truncate(fd, 0)
        fs.write(fd, data, 0)
        fs.sync_file(fd)
    finally:
        os.close(fd)


def replace_file(fs: FileSystem, path: Path, data: bytes) -> None:
    """Replace a whole file; after a crash it holds either the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    write_synced(fs, temporary, data)
    fs.rename(temporary, path)
    fs.sync_dir(path.parent)


def remove_tree(fs: FileSystem, path: Path) -> None:
    """Remove a directory and its content; symbolic links are removed, not followed."""
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(fs, entry)
        else:
            fs.remove_file(entry)
    fs.remove_dir(path)


def lock_file(path: Path) -> int:
    """Lock a file until the returned descriptor is closed, and write the holder's name into it.

    The file is never removed: a process that locks a removed file would not exclude anybody.

    Raises:
        BlockingIOError: Another process holds the lock; the text names it.
        OSError: The file cannot be opened, locked or written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        note_holder(fd)
    except BlockingIOError:
        holder = _holder(fd)
        os.close(fd)
        raise BlockingIOError(holder) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def note_holder(fd: int, **more: str | int) -> None:
    """Write this process, the time and the fields of `more` into a lock file that it holds."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, **more}
    text = json.dumps(holder).encode() + b"\n"
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))


def _holder(fd: int) -> str:
    """Return who holds a lock, according to its file."""
    try:
        found = json.loads(os.pread(fd, 4096, 0))
        return f"held by pid {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "its holder is unknown"
