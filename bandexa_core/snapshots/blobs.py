"""Where the files of published snapshots lie when several machines share them.

A blob is written once under a name that nobody else uses, and never changed. So a store of blobs
needs no rename and no condition: that a snapshot is published is said by a row of the register (see
`registered`), which is written after its blobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from bandexa_core.errors import SnapshotError
from bandexa_core.filesystem import FileSystem, LocalFileSystem, make_dirs, write_synced


class Blob(NamedTuple):
    """A stored blob.

    Attributes:
        name: Parts that are separated by "/".
        written_at: Unix time in seconds, by the clock of the store.
    """

    name: str
    written_at: float


class SnapshotBlobs(Protocol):
    """Stores bytes by name. Every method raises SnapshotError where it fails."""

    def put(self, name: str, data: bytes) -> None:
        """Store a blob; it is durable on return. The name was never used before."""

    def get(self, name: str) -> bytes:
        """Return a blob."""

    def list(self, prefix: str) -> list[Blob]:
        """Return the blobs whose names begin with `prefix` and "/"."""

    def delete(self, name: str) -> None:
        """Delete a blob; one that is gone is no error."""


class DirectoryBlobs:
    """Blobs as files below a directory, which all machines have mounted.

    Args:
        root: The directory; it is created when the first blob is stored.
        fs: The file system for writes.
    """

    def __init__(self, root: Path, fs: FileSystem | None = None) -> None:
        self._root = root
        self._fs = fs or LocalFileSystem()

    def put(self, name: str, data: bytes) -> None:
        """See `SnapshotBlobs.put`: nobody reads it before the register names it."""
        path = self._root / name
        try:
            make_dirs(self._fs, path.parent)
            write_synced(self._fs, path, data)
            self._fs.sync_dir(path.parent)
        except OSError as error:
            raise SnapshotError(f"cannot write {path}: {error}") from error

    def get(self, name: str) -> bytes:
        """See `SnapshotBlobs.get`."""
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise SnapshotError(f"cannot read {self._root / name}: {error}") from error

    def list(self, prefix: str) -> list[Blob]:
        """See `SnapshotBlobs.list`."""
        found = []
        try:
            for path in sorted((self._root / prefix).rglob("*")):
                if path.is_file():
                    name = path.relative_to(self._root).as_posix()
                    found.append(Blob(name, path.stat().st_mtime))
        except FileNotFoundError:  # another process deletes it
            return self.list(prefix)
        except OSError as error:
            raise SnapshotError(f"cannot list {self._root / prefix}: {error}") from error
        return found

    def delete(self, name: str) -> None:
        """See `SnapshotBlobs.delete`; a folder goes with its last blob."""
        path = self._root / name
        try:
            path.unlink(missing_ok=True)
            while path.parent != self._root and not any(path.parent.iterdir()):
                path = path.parent
                path.rmdir()
        except FileNotFoundError:  # so did another process
            return
        except OSError as error:
            raise SnapshotError(f"cannot delete {path}: {error}") from error
