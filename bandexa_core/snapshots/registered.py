"""Snapshots that several machines share: a register, blobs, and a local cache.

The register has a row for each published snapshot, with its manifest. A snapshot is published when
its row is there: its files are stored as blobs before, under a prefix that nobody else uses. The
local directory has the format of `store`, so that whoever reads one finds the files as they are;
every file is compared with the hash in its manifest. What a crash leaves behind is blobs without a
row, which `collect` deletes once they are old enough that no publisher can be at work on them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

from bandexa_core.errors import SnapshotCorrupt, SnapshotError, SnapshotRefused
from bandexa_core.filesystem import make_dirs, remove_tree, write_synced
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.snapshots.blobs import SnapshotBlobs
from bandexa_core.snapshots.manifest import Manifest, parse_manifest
from bandexa_core.snapshots.store import MANIFEST_FILE, Snapshot, SnapshotStore

ORPHAN_S = 3600.0  # no publisher takes longer from its first blob to its row


class Fence(NamedTuple):
    """A lease that a publisher must still have.

    Attributes:
        lease: Its name.
        epoch: The epoch at which it was taken.
    """

    lease: str
    epoch: int


class Registered(NamedTuple):
    """A row of the register.

    Attributes:
        manifest: The text of `manifest.json`.
        prefix: What the names of its blobs begin with.
    """

    manifest: bytes
    prefix: str


class SnapshotRegister(Protocol):
    """The published snapshots of all bandits. Every method raises SnapshotError where it fails."""

    def versions(self, uid: str) -> list[SnapshotVersion]:
        """Return the published versions in ascending order."""

    def find(self, uid: str, version: int) -> Registered | None:
        """Return a row; None: there is none."""

    def add(self, manifest: Manifest, text: bytes, prefix: str, fence: Fence | None) -> bool:
        """Publish, unless the version is there, or the lease is lost; returns whether it did."""

    def replace(self, manifest: Manifest, text: bytes) -> bool:
        """Replace the manifest of a version; False: it is gone."""

    def remove(self, uid: str, versions: Collection[int] | None) -> list[str]:
        """Remove rows, None: all of a bandit; returns the prefixes of their blobs."""

    def prefixes(self, uid: str) -> list[str]:
        """Return the prefixes of all rows of a bandit."""


class RegisteredSnapshots(SnapshotStore):
    """The snapshots of one bandit, in a register; see `SnapshotStore`.

    Args:
        root: The local cache of the bandit.
        register: Which snapshots are published.
        blobs: Their files.
        fence: The lease without which nothing is published; None: none is needed.
    """

    def __init__(
        self,
        root: Path,
        register: SnapshotRegister,
        blobs: SnapshotBlobs,
        fence: Fence | None = None,
    ) -> None:
        super().__init__(root)
        self._uid = root.name
        self._register = register
        self._blobs = blobs
        self._fence = fence

    # -- publishing -----------------------------------------------------------------------------

    def _is_taken(self, version: SnapshotVersion) -> bool:
        return self._register.find(self._uid, version) is not None

    def _reveal(self, temporary: Path, target: Path) -> None:
        """Store the blobs of a written snapshot, and then its row."""
        with self._disk("read", temporary):
            text = (temporary / MANIFEST_FILE).read_bytes()
            manifest = parse_manifest(text)
            prefix = self._put(temporary, manifest)
        if not self._register.add(manifest, text, prefix, self._fence):
            self._delete_blobs(prefix)
            if self._is_taken(manifest.version):
                raise SnapshotRefused(f"{target.name} of {self._uid} was published meanwhile")
            raise SnapshotRefused(
                f"{target.name} of {self._uid}: another process trains this bandit by now"
            )
        with self._disk("publish", target):
            if target.exists():  # of a version that was removed elsewhere
                remove_tree(self._fs, target)
            self._fs.rename(temporary, target)
            self._fs.sync_dir(self._root)

    def _put(self, directory: Path, manifest: Manifest) -> str:
        """Store the files of a snapshot; returns their prefix."""
        prefix = f"{self._uid}/v{manifest.version:08d}-{secrets.token_hex(8)}"
        for name in sorted(manifest.files):
            data = (directory / f"{name}.safetensors").read_bytes()
            self._blobs.put(f"{prefix}/{name}.safetensors", data)
        return prefix

    def place(self, version: SnapshotVersion, position: LogPosition, log_hash: bytes) -> None:
        """See `SnapshotStore.place`."""
        placed = self._placed(version, position, log_hash)
        if not self._register.replace(placed, placed.to_bytes()):
            raise SnapshotCorrupt(f"snapshot {version} of {self._uid} is not in the register")

    def adopt(self) -> list[SnapshotVersion]:
        """Publish what the local directory has, where nothing is registered; returns the versions.

        So a bandit whose snapshots were in a directory alone goes on with shared ones.
        """
        if self.versions():
            return []
        local = super().versions()
        for version in local:
            directory = self._path(version)
            with self._disk("read", directory):
                text = (directory / MANIFEST_FILE).read_bytes()
                manifest = parse_manifest(text)
                prefix = self._put(directory, manifest)
            if not self._register.add(manifest, text, prefix, None):
                raise SnapshotRefused(f"snapshot {version} of {self._uid} was published meanwhile")
        return local

    # -- removing -------------------------------------------------------------------------------

    def remove(self, version: SnapshotVersion) -> None:
        """See `SnapshotStore.remove`."""
        self._drop([version])

    def remove_all(self) -> None:
        """Remove all snapshots of a bandit that was deleted, or never stored."""
        for prefix in self._register.remove(self._uid, None):
            self._delete_blobs(prefix)
        for blob in self._blobs.list(self._uid):
            self._blobs.delete(blob.name)
        super().remove_all()

    def _drop(self, versions: Collection[SnapshotVersion]) -> None:
        if versions:
            for prefix in self._register.remove(self._uid, versions):
                self._delete_blobs(prefix)
            super()._drop([each for each in versions if self._path(each).exists()])

    def _delete_blobs(self, prefix: str) -> None:
        for blob in self._blobs.list(prefix):
            self._blobs.delete(blob.name)

    def clean(self) -> list[str]:
        """See `SnapshotStore.clean`; versions that were removed elsewhere leave the cache, too."""
        cleaned = super().clean()
        self._forget_removed()
        return cleaned

    def collect(self, older_s: float = ORPHAN_S) -> list[str]:
        """Delete the blobs without a row that publishers left; returns their names."""
        limit = time.time() - older_s
        old = [each.name for each in self._blobs.list(self._uid) if each.written_at <= limit]
        known = set(self._register.prefixes(self._uid)) if old else set()
        orphans = [name for name in old if name.rpartition("/")[0] not in known]
        for name in orphans:
            self._blobs.delete(name)
        return orphans

    # -- reading --------------------------------------------------------------------------------

    def versions(self) -> list[SnapshotVersion]:
        """See `SnapshotStore.versions`."""
        return self._register.versions(self._uid)

    def manifest(self, version: int) -> Manifest:
        """See `SnapshotStore.manifest`."""
        return self._found(version)[0]

    def num_bytes(self, version: int) -> int:
        """See `SnapshotStore.num_bytes`."""
        row = self._register.find(self._uid, version)
        if row is None:
            return 0
        files = parse_manifest(row.manifest).files.values()
        return len(row.manifest) + sum(each.num_bytes for each in files)

    def fetch(self, version: int) -> Path:
        """See `SnapshotStore.fetch`: the files that are not in the cache are copied into it."""
        manifest, row = self._found(version)
        directory, is_new = self._path(version), False
        with self._disk("write", directory):
            make_dirs(self._fs, directory)
            for name, entry in manifest.files.items():
                path = directory / f"{name}.safetensors"
                if not _has(path, entry.sha256):
                    data = self._blobs.get(f"{row.prefix}/{name}.safetensors")
                    if sha256(data).hexdigest() != entry.sha256:
                        raise SnapshotCorrupt(
                            f"{row.prefix}/{name}: its hash is not the manifest's"
                        )
                    self._replace(path, data)
                    is_new = True
            if not _is(directory / MANIFEST_FILE, row.manifest):
                self._replace(directory / MANIFEST_FILE, row.manifest)
        if is_new:
            self._forget_removed()
        return directory

    def _replace(self, path: Path, data: bytes) -> None:
        """Replace a file of the cache; other processes may do the same at the same time."""
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        write_synced(self._fs, temporary, data)
        self._fs.rename(temporary, path)
        self._fs.sync_dir(path.parent)

    def _forget_removed(self) -> None:
        """Drop what was removed elsewhere from the cache."""
        known = set(self.versions())
        super()._drop([version for version in super().versions() if version not in known])

    def _found(self, version: int) -> tuple[Manifest, Registered]:
        row = self._register.find(self._uid, version)
        if row is None:
            raise SnapshotCorrupt(f"snapshot {version} of {self._uid} is not in the register")
        try:
            manifest = parse_manifest(row.manifest)
        except SnapshotCorrupt as error:
            raise SnapshotCorrupt(f"snapshot {version} of {self._uid}: {error}") from error
        if manifest.version != version:
            raise SnapshotCorrupt(f"snapshot {version} of {self._uid} is {manifest.version}")
        return manifest, row

    def _load(self, manifest: Manifest, names: Collection[str] | None) -> Snapshot:
        try:
            self.fetch(manifest.version)
        except SnapshotCorrupt:
            raise
        except SnapshotError as error:  # a blob is gone: the version before may be there
            raise SnapshotCorrupt(str(error)) from error
        return super()._load(manifest, names)


def _has(path: Path, digest: str) -> bool:
    try:
        return sha256(path.read_bytes()).hexdigest() == digest
    except FileNotFoundError:
        return False


def _is(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False
