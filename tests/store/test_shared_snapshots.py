"""Snapshots that several machines share: the same files everywhere, whole or not there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.errors import SnapshotCorrupt, SnapshotRefused
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.snapshots.registered import Fence, RegisteredSnapshots
from bandexa_core.snapshots.store import SnapshotStore
from service.store.address import PostgresUrl
from service.store.errors import StoreError
from service.store.postgres.connection import Session
from service.store.postgres.leases import Leases
from service.store.postgres.schema import open_writer
from service.store.snapshots import settled_place, snapshots_of
from tests.fixtures.buckets import NAME, s3
from tests.fixtures.postgres import Cluster
from tests.store.publishing import FILES, STEPS, UID, draft

__all__ = ["s3"]
pytestmark = pytest.mark.needs("postgres")
KINDS = ("folder", "database", "bucket")


@pytest.fixture
def empty(postgres: Cluster) -> Iterator[PostgresUrl]:
    with postgres.empty() as text:
        open_writer(PostgresUrl(text)).close()
        yield PostgresUrl(text)


@pytest.fixture(params=KINDS)
def url(request, tmp_path, empty: PostgresUrl) -> PostgresUrl:
    if request.param == "bucket":
        request.getfixturevalue("s3")
    place = {
        "folder": f"file://{tmp_path}/shared",
        "database": "postgresql",
        "bucket": f"s3://{NAME}/{tmp_path.name}",
    }[request.param]
    assert settled_place(empty, place) == place
    return empty


def at(url: PostgresUrl, root: Path, fence: Fence | None = None) -> RegisteredSnapshots:
    found = snapshots_of(root, url, UID, fence)
    assert isinstance(found, RegisteredSnapshots)
    return found


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_files_are_those_of_a_directory_byte_by_byte(url, tmp_path) -> None:
    a, b = at(url, tmp_path / "a"), at(url, tmp_path / "b")
    for version in range(2):
        a.publish(draft(version, version), FILES)
    assert b.versions() == [0, 1] == a.versions()
    assert b.next_version() == 2
    assert b.manifest(1) == a.manifest(1)
    loaded = b.load(1)
    np.testing.assert_array_equal(loaded.tensors["model"]["S"], FILES["model"]["S"])
    plain = SnapshotStore(tmp_path / "plain" / UID, clock=lambda: loaded.manifest.created_at)
    plain.publish(draft(1, 1), FILES)
    assert files_of(b.fetch(1)) == files_of(a.fetch(1)) == files_of(plain.fetch(1))
    assert b.num_bytes(1) == plain.num_bytes(1)
    b.place(SnapshotVersion(1), LogPosition(9), b"\x01")
    assert (a.manifest(1).position, a.load(1).manifest.log_hash) == (9, "01")
    assert SnapshotStore(tmp_path / "a" / UID).load(1).manifest.position == 9
    b.remove(SnapshotVersion(1))
    assert a.versions() == [0]
    with pytest.raises(SnapshotCorrupt, match="not in the register"):
        a.load(1)
    assert a.clean() == []
    assert SnapshotStore(tmp_path / "a" / UID).versions() == [0]
    a.remove_all()
    assert b.versions() == []
    assert b._blobs.list(UID) == []


def test_a_version_is_published_once_and_by_the_holder_of_the_lease(url, tmp_path) -> None:
    with closing(Session(url, own_loop=True)) as session:
        old, new = Leases(session, "old"), Leases(session, "new")
        stale = Fence("train/shop", old.lease("train/shop", 0.0) or 0)
        held = Fence("train/shop", new.lease("train/shop", 60.0) or 0)
    a, b = at(url, tmp_path / "a", held), at(url, tmp_path / "b", stale)
    with pytest.raises(SnapshotRefused, match="another process trains"):
        b.publish(draft(0), FILES)
    assert a.versions() == []
    assert a._blobs.list(UID) == []
    a.publish(draft(0), FILES)
    with pytest.raises(SnapshotRefused):
        at(url, tmp_path / "b").publish(draft(0), FILES)
    assert len(a._blobs.list(UID)) == len(FILES)


def test_what_is_damaged_is_copied_again_or_passed_over(url, tmp_path) -> None:
    a = at(url, tmp_path / "a")
    for version in range(2):
        a.publish(draft(version), FILES)
    file = a.fetch(1) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    a.load(1)
    assert file.read_bytes() == whole
    for blob in a._blobs.list(UID):
        if "/v00000001-" in blob.name:
            a._blobs.delete(blob.name)
    b = at(url, tmp_path / "b")
    found, skipped = b.newest(lambda manifest: True)
    assert found.manifest.version == 0
    assert [version for version, _ in skipped] == [1]


def test_processes_that_share_a_cache_fill_it_at_once(empty, tmp_path) -> None:
    """As the workers of a server do, when a round has published."""
    settled_place(empty, "postgresql")
    a = at(empty, tmp_path / "a")
    for version in range(10):
        a.publish(draft(version), FILES)
    with ThreadPoolExecutor(4) as threads:
        for version in range(10):
            calls = [threads.submit(at(empty, tmp_path / "b").fetch, version) for _ in range(4)]
            (found,) = {call.result() for call in calls}
            assert files_of(found) == files_of(a.fetch(version))


def test_pruning_removes_rows_files_and_orphans(url, tmp_path) -> None:
    a = at(url, tmp_path / "a")
    b = at(url, tmp_path / "b")
    for version in range(4):
        a.publish(draft(version), FILES)
        if version < 3:
            b.fetch(version)
    assert a.prune(2, {0}) == [1]
    assert b.versions() == [0, 2, 3] == a.versions()
    b.fetch(3)  # its cache forgets what is gone
    assert SnapshotStore(tmp_path / "b" / UID).versions() == [0, 2, 3]
    assert len(a._blobs.list(UID)) == 3 * len(FILES)
    a._blobs.put(f"{UID}/v00000009-0/model.safetensors", b"left")
    assert a.collect() == []  # a publisher may be at work on it
    assert a.collect(-5.0) == [f"{UID}/v00000009-0/model.safetensors"]
    assert len(a._blobs.list(UID)) == 3 * len(FILES)


@pytest.mark.parametrize("step", STEPS)
def test_a_publisher_that_is_killed_publishes_a_whole_snapshot_or_none(
    empty, tmp_path, step
) -> None:
    settled_place(empty, "postgresql")
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.publishing", empty.url, tmp_path / "a", step],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    other = at(empty, tmp_path / "b")
    published = step in ("row", "renamed")
    assert other.versions() == ([SnapshotVersion(0)] if published else [])
    if published:
        np.testing.assert_array_equal(other.load(0).tensors["model"]["S"], FILES["model"]["S"])
    again = at(empty, tmp_path / "a")  # the machine comes back
    again.clean()
    again.collect(-5.0)
    assert len(again._blobs.list(UID)) == published * len(FILES)
    version = again.next_version()
    again.publish(draft(version), FILES)
    assert files_of(other.fetch(version)) == files_of(again.fetch(version))


def test_a_directory_of_before_is_taken_over_once(empty, tmp_path) -> None:
    plain = snapshots_of(tmp_path / "a", empty, UID)
    assert type(plain) is SnapshotStore
    for version in range(2):
        plain.publish(draft(version), FILES)
    settled_place(empty, "postgresql")
    a, b = at(empty, tmp_path / "a"), at(empty, tmp_path / "b")
    assert a.adopt() == [0, 1]
    assert a.adopt() == []
    assert files_of(b.fetch(1)) == files_of(plain.fetch(1))


def test_one_store_has_one_place_of_snapshots(empty) -> None:
    assert settled_place(empty, None) == "directory" == settled_place(empty, "directory")
    assert settled_place(empty, "postgresql") == "postgresql"
    assert settled_place(empty, None) == "postgresql"
    with pytest.raises(StoreError, match="are in postgresql, not in directory"):
        settled_place(empty, "directory")


def test_a_bucket_that_is_not_there_is_refused(s3, empty) -> None:
    with pytest.raises(StoreError, match="s3://missing/models") as refused:
        settled_place(empty, "s3://missing/models")
    assert "\n" not in str(refused.value)
    assert settled_place(empty, None) == "directory"  # it is not noted
