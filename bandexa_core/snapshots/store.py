"""Snapshots of one bandit on disk: publish, load, prune.

The trainer publishes and prunes, the server publishes imports and cleans at start, and any process
reads. A snapshot is a directory that appears under its name complete and never changes:

    v00000012/manifest.json           origin; hashes, dtypes and shapes of all other files
    v00000012/<name>.safetensors      tensors
    v00000013.tmp-1f2e3d4c/           being written, or left behind by a crash
    v00000003.trash-5a6b7c8d/         being deleted, or left behind by a crash

After a crash at any moment each version is complete or absent, and every version that `publish`
returned survives a power loss. Any other damage is found when a snapshot is loaded; the caller then
uses the version before.
"""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from numpy.typing import NDArray

from bandexa_core.errors import SnapshotCorrupt, SnapshotError, SnapshotRefused
from bandexa_core.filesystem import (
    FileSystem,
    LocalFileSystem,
    make_dirs,
    remove_tree,
    write_synced,
)
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.snapshots.manifest import Manifest, parse_manifest
from bandexa_core.snapshots.tensors import Tensors, check_size, decode_file, encode_file

MANIFEST_FILE = "manifest.json"
_VERSION_NAME = re.compile(r"v(\d{8,})")
_LEFTOVER_NAME = re.compile(r"v\d{8,}\.(tmp|trash)-[0-9a-f]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A loaded snapshot.

    Attributes:
        manifest: Its manifest.
        tensors: For each loaded file, its tensors by name. The arrays belong to the caller.
    """

    manifest: Manifest
    tensors: dict[str, Tensors]


class SnapshotStore:
    """The snapshots of one bandit in a directory. It has no state and no open files.

    Args:
        root: The directory; `publish` creates it.
        fs: The file system for writes; the local one by default.
        clock: Returns the Unix time in seconds.
    """

    def __init__(
        self,
        root: Path,
        *,
        fs: FileSystem | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._fs = fs or LocalFileSystem()
        self._clock = clock

    def publish(
        self,
        draft: Manifest,
        files: Mapping[str, Mapping[str, NDArray[Any]]],
        before_rename: Callable[[], None] | None = None,
    ) -> Manifest:
        """Write a snapshot durably and return its manifest.

        Args:
            draft: The manifest; `created_at`, `libraries` and `files` are filled in here.
            files: For each file name, without extension, its tensors by name. Tensor names may
                contain "/"; a file may have no tensors, and a tensor no elements.
            before_rename: Called when everything is on disk and nothing is visible yet, as the
                caller's last check. Its exception passes through, and nothing is published.

        Raises:
            ValueError: A name, dtype, metric or `meta` cannot be written.
            SnapshotRefused: The version exists.
            SnapshotError: The disk failed. If it failed at the last step, syncing the directory,
                the snapshot is complete and visible.
        """
        draft = replace(draft, created_at=float(self._clock()), libraries=_libraries())
        target = self._path(draft.version)
        if self._is_taken(draft.version):
            raise SnapshotRefused(f"{target} exists")
        temporary = target.with_name(f"{target.name}.tmp-{secrets.token_hex(4)}")
        try:
            manifest = self._write(temporary, draft, files)
            if before_rename is not None:
                before_rename()
            self._reveal(temporary, target)
        except BaseException:
            with suppress(OSError):
                remove_tree(self._fs, temporary)
            raise
        return manifest

    def place(self, version: SnapshotVersion, position: LogPosition, log_hash: bytes) -> None:
        """Give an imported snapshot the position of its log row, and the hash of the log there.

        The manifest is replaced as a whole. Doing it again changes nothing.

        Raises:
            SnapshotCorrupt: The manifest is missing or damaged.
            SnapshotError: The disk failed.
        """
        placed = self._placed(version, position, log_hash)
        directory = self._path(version)
        new = directory / f"{MANIFEST_FILE}.new"
        with self._disk("write", directory):
            write_synced(self._fs, new, placed.to_bytes())
            self._fs.rename(new, directory / MANIFEST_FILE)
            self._fs.sync_dir(directory)

    def _placed(self, version: SnapshotVersion, position: LogPosition, log_hash: bytes) -> Manifest:
        return replace(self.manifest(version), position=position, log_hash=log_hash.hex())

    def _is_taken(self, version: SnapshotVersion) -> bool:
        return self._path(version).exists()

    def fetch(self, version: int) -> Path:
        """Return the directory with all files of a version: it is where it was written.

        Raises:
            SnapshotError: It is not there.
        """
        return self._path(version)

    def adopt(self) -> list[SnapshotVersion]:
        """Publish what was in the directory before the snapshots were shared: here nothing."""
        return []

    def collect(self) -> list[str]:
        """Delete what publishers left that died elsewhere: here `clean` does, at the start."""
        return []

    def remove_all(self) -> None:
        """Remove all snapshots of a bandit that was deleted, or never stored."""
        shutil.rmtree(self._root, ignore_errors=True)

    def remove(self, version: SnapshotVersion) -> None:
        """Delete a version: of an import that was not committed.

        Raises:
            SnapshotError: The disk failed.
        """
        path = self._path(version)
        trash = path.with_name(f"{path.name}.trash-{secrets.token_hex(4)}")
        with self._disk("remove", path):
            self._fs.rename(path, trash)
            self._fs.sync_dir(self._root)
            remove_tree(self._fs, trash)

    def versions(self) -> list[SnapshotVersion]:
        """Return the existing versions, damaged ones included, in ascending order."""
        with self._disk("list", self._root):
            names = self._names()
        found = (_VERSION_NAME.fullmatch(name) for name in names)
        return sorted(SnapshotVersion(int(match[1])) for match in found if match)

    def next_version(self) -> SnapshotVersion:
        """Return the version after the highest existing one; 0 when there is none."""
        return SnapshotVersion(max(self.versions(), default=-1) + 1)

    def manifest(self, version: int) -> Manifest:
        """Read one manifest; the files that it describes are not checked.

        Raises:
            SnapshotCorrupt: The manifest is missing or damaged.
        """
        path = self._path(version) / MANIFEST_FILE
        try:
            manifest = parse_manifest(path.read_bytes())
        except OSError as error:
            raise SnapshotCorrupt(f"{path}: {error.strerror}") from error
        except SnapshotCorrupt as error:
            raise SnapshotCorrupt(f"{path}: {error}") from error
        if manifest.version != version:
            raise SnapshotCorrupt(f"{path}: it belongs to version {manifest.version}")
        return manifest

    def load(self, version: int, names: Collection[str] | None = None) -> Snapshot:
        """Read and check one snapshot.

        Args:
            version: The version.
            names: The files to load; None loads all. Of other files, existence and size are
                checked.

        Raises:
            SnapshotCorrupt: A file is missing, or differs from what was published.
        """
        return self._load(self.manifest(version), names)

    def _load(self, manifest: Manifest, names: Collection[str] | None) -> Snapshot:
        """Read and check the files of a manifest; see `load`."""
        version = manifest.version
        for name in names or ():
            if name not in manifest.files:
                raise SnapshotCorrupt(f"{self._path(version)}: its manifest has no file {name!r}")
        tensors = {}
        for name, entry in manifest.files.items():
            path = self._path(version) / f"{name}.safetensors"
            try:
                check_size(path.stat().st_size, entry)
                if names is None or name in names:
                    tensors[name] = decode_file(path.read_bytes(), entry)
            except OSError as error:
                raise SnapshotCorrupt(f"{path}: {error.strerror}") from error
            except SnapshotCorrupt as error:
                raise SnapshotCorrupt(f"{path}: {error}") from error
        return Snapshot(manifest, tensors)

    def newest(
        self, accept: Callable[[Manifest], bool], names: Collection[str] | None = None
    ) -> tuple[Snapshot, list[tuple[SnapshotVersion, str]]]:
        """Load the newest snapshot that is undamaged and accepted.

        Args:
            accept: Receives each undamaged manifest, newest first; returns whether to use it.
            names: The files to load; None loads all.

        Returns:
            The snapshot, and (version, reason) of each newer one that was skipped.

        Raises:
            SnapshotError: There is none; the message has the reason for each version.
        """
        skipped: list[tuple[SnapshotVersion, str]] = []
        for version in reversed(self.versions()):
            try:
                manifest = self.manifest(version)
                if accept(manifest):
                    return self._load(manifest, names), skipped
                skipped.append((version, "not accepted"))
            except SnapshotCorrupt as error:
                skipped.append((version, str(error)))
        reasons = "; ".join(f"{version}: {reason}" for version, reason in skipped)
        raise SnapshotError(f"no usable snapshot in {self._root} ({reasons or 'it holds none'})")

    def num_bytes(self, version: int) -> int:
        """Return the size of one version's files; 0 where it was deleted meanwhile."""
        try:
            return sum(file.stat().st_size for file in self._path(version).iterdir())
        except FileNotFoundError:
            return 0

    def prune(
        self,
        keep: int,
        pinned: Collection[int] = (),
        *,
        keep_s: float = 0.0,
        most_bytes: int = 0,
    ) -> list[SnapshotVersion]:
        """Delete old versions; return those deleted.

        The newest `keep` and the pinned ones stay. Of the others, those that decisions of the last
        `keep_s` seconds may refer to stay as well, the newest first, while all versions together
        have at most `most_bytes`. A version is served until the next one is swapped in, and that
        is before the one after that was written: a round begins after the swap of the one before.

        Each directory is renamed before it is deleted, so that no reader finds a part of one.
        Another process may prune at the same time.

        Raises:
            ValueError: `keep` is below 1.
            SnapshotError: The disk failed. `clean` removes the directories that were renamed.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        removed = self._unneeded(keep, pinned, keep_s, most_bytes)
        self._drop(removed)
        return removed

    def _drop(self, versions: Collection[SnapshotVersion]) -> None:
        """Delete versions, each in one step; those that are gone already are passed over."""
        with self._disk("prune", self._root):
            trash = []
            for version in versions:
                path = self._path(version)
                renamed = path.with_name(f"{path.name}.trash-{secrets.token_hex(4)}")
                with suppress(FileNotFoundError):  # another process prunes it
                    self._fs.rename(path, renamed)
                    trash.append(renamed)
            if trash:
                # Without this sync, a power loss could restore a name whose files are deleted.
                self._fs.sync_dir(self._root)
            for path in trash:
                remove_tree(self._fs, path)

    def _unneeded(
        self, keep: int, pinned: Collection[int], keep_s: float, most_bytes: int
    ) -> list[SnapshotVersion]:
        versions = self.versions()
        old = [version for version in versions[:-keep] if version not in pinned]
        if not old or keep_s <= 0.0:
            return old
        sizes = {version: self.num_bytes(version) for version in versions}
        total, since, removed = sum(sizes.values()), self._clock() - keep_s, []
        for version in old:
            if total <= most_bytes and self._served_until(version, versions) > since:
                break  # so are all later ones
            removed.append(version)
            total -= sizes[version]
        return removed

    def _served_until(self, version: SnapshotVersion, versions: list[SnapshotVersion]) -> float:
        """Return a time at which a version was not served any more; infinity: it may still be."""
        for later in versions[versions.index(version) + 2 :]:
            with suppress(SnapshotCorrupt):
                return self.manifest(later).created_at
        return math.inf

    def clean(self) -> list[str]:
        """Remove what crashes left of `publish` and `prune`; return the names of the directories.

        It must not run beside `publish` or `prune`, whose unfinished directories are alike.
        """
        with self._disk("clean", self._root):
            names = [name for name in self._names() if _LEFTOVER_NAME.fullmatch(name)]
            leftovers = [self._root / name for name in sorted(names)]
            for path in leftovers:
                remove_tree(self._fs, path)
        return [path.name for path in leftovers]

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._root)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _path(self, version: int) -> Path:
        if version < 0:
            raise ValueError(f"a snapshot's version is 0 or more, not {version}")
        return self._root / f"v{version:08d}"

    def _write(
        self, directory: Path, draft: Manifest, files: Mapping[str, Mapping[str, NDArray[Any]]]
    ) -> Manifest:
        """Write all files of a snapshot into a new directory; sync the files and their names."""
        entries = {}
        with self._disk("write", directory):
            make_dirs(self._fs, self._root)
            self._fs.make_dir(directory)
            for name, tensors in sorted(files.items()):
                if not _FILE_NAME.fullmatch(name):
                    raise ValueError(f"{name!r} cannot be the name of a snapshot's file")
                data, entries[name] = encode_file(tensors)
                write_synced(self._fs, directory / f"{name}.safetensors", data)
            data = replace(draft, files=entries).to_bytes()
            write_synced(self._fs, directory / MANIFEST_FILE, data)
            self._fs.sync_dir(directory)
        return parse_manifest(data)

    def _reveal(self, temporary: Path, target: Path) -> None:
        """Rename a written snapshot to its final name and sync the name."""
        with self._disk("publish", target):
            try:
                self._fs.rename(temporary, target)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    raise SnapshotRefused(f"{target} was published meanwhile") from error
                raise
            self._fs.sync_dir(self._root)

    @contextmanager
    def _disk(self, what: str, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SnapshotError(f"cannot {what} {path}: {error}") from error


@cache
def _libraries() -> dict[str, str]:
    versions = {"python": python_version()}
    for name in ("bandexa", "numpy", "safetensors", "torch"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
