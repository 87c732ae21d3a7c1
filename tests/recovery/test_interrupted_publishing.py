"""Files are written before the rows that name them: what a kill in between leaves is cleaned up."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.ids import UNPLACED, SnapshotVersion
from bandexa_core.snapshots.store import SnapshotStore
from tests.fixtures.servers import Server


def snapshots_of(server: Server) -> SnapshotStore:
    (directory,) = (server.data_dir / "snapshots").iterdir()
    return SnapshotStore(directory)


@pytest.fixture
def taught(start_server, api_of) -> tuple[Server, str, bytes, Any]:
    """A stopped server whose bandit has imported its own model, with the scores it had then."""
    server = start_server()
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions()
        for number in range(6):
            api.teach(name, [number / 5, 1.0], "xy"[number % 2], number / 6)
        export = client.get(f"/bandits/{name}/snapshot").content
        api.teach(name, [3.0, 1.0], "x", 0.9)
        assert client.put(f"/bandits/{name}/snapshot", content=export).status_code == 200
        scores = api.scores(name, [1.0, 0.5])
    assert server.stop() == 0
    return server, name, export, scores


def test_an_import_that_was_logged_gets_its_place_at_the_next_start(taught, api_of) -> None:
    server, name, _, scores = taught
    snapshots = snapshots_of(server)
    placed = snapshots.manifest(1)
    assert placed.position == 9
    snapshots.place(SnapshotVersion(1), UNPLACED, b"")  # as before the kill
    server.start()
    with server.client() as client:
        assert api_of(client).scores(name, [1.0, 0.5]) == scores
    assert server.stop() == 0
    found = snapshots.manifest(1)
    assert (found.position, found.log_hash) == (placed.position, placed.log_hash)


def test_a_round_starts_from_an_import_that_has_not_got_its_place_yet(taught, api_of) -> None:
    server, name, _, scores = taught
    snapshots = snapshots_of(server)
    server.start()
    with server.client() as client:
        snapshots.place(SnapshotVersion(1), UNPLACED, b"")  # as just after its row's commit
        api = api_of(client)
        assert api.train(name)["snapshot"] == 2
        means = [row["mean"] for row in scores["scores"]]
        assert api.means(name, [1.0, 0.5]) == pytest.approx(means, rel=1e-9)
    assert server.stop() == 0
    assert snapshots.manifest(2).parent == 1


def test_an_import_that_was_not_logged_leaves_nothing(taught, api_of) -> None:
    server, name, export, scores = taught
    snapshots = snapshots_of(server)
    root = next((server.data_dir / "snapshots").iterdir())
    shutil.copytree(root / "v00000001", root / "v00000002")
    manifest = root / "v00000002" / "manifest.json"
    _renumber(manifest, snapshots)
    assert snapshots.manifest(2).position == UNPLACED
    server.start()
    with server.client() as client:
        api = api_of(client)
        assert api.scores(name, [1.0, 0.5]) == scores
        assert snapshots.versions() == [0, 1]
        assert client.put(f"/bandits/{name}/snapshot", content=export).status_code == 200
        assert snapshots.versions() == [0, 1, 2]
    assert server.stop() == 0


def _renumber(manifest: Path, snapshots: SnapshotStore) -> None:
    """Make a copied snapshot one of version 2 that no log row names."""
    original = snapshots.manifest(1)
    copy = dataclasses.replace(original, version=SnapshotVersion(2), position=UNPLACED, log_hash="")
    manifest.write_bytes(copy.to_bytes())


def test_the_files_of_a_bandit_that_was_never_stored_are_removed(taught, api_of) -> None:
    server, name, _, scores = taught
    known = next((server.data_dir / "snapshots").iterdir())
    orphan = known.with_name("never-stored")
    (orphan).mkdir()
    shutil.copytree(known / "v00000000", orphan / "v00000000")
    server.start()
    with server.client() as client:
        assert api_of(client).scores(name, [1.0, 0.5]) == scores
    assert server.stop() == 0
    assert not orphan.exists()
    assert known.exists()
