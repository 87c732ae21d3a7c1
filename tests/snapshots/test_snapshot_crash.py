"""A crash at every step of publishing, pruning and cleaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bandexa_core.errors import SnapshotError
from bandexa_core.snapshots.store import SnapshotStore


def _state(root) -> dict[int, int]:
    """Return the number of rows of each version; every existing version must load."""
    store = SnapshotStore(root)
    shown: dict[int, int] = {}
    for version in store.versions():
        snapshot = store.load(version)
        assert snapshot.tensors["posterior"]["0/n"] == version
        shown[version] = snapshot.manifest.num_rows
    return shown


def _crash_everywhere(
    tmp_path,
    publish,
    stepped,
    num_before: int,
    action: Callable[[SnapshotStore, Path], object],
    allowed: Callable[[dict[int, int]], bool],
) -> int:
    """Stop `action` before each of its steps in turn; return the number of runs."""
    stop_at = 0
    while True:
        stop_at += 1
        root = tmp_path / f"root-{stop_at}"
        for version in range(num_before):
            publish(SnapshotStore(root, fs=stepped()), version)
        fs = stepped(stop_at)
        failure = ""
        try:
            action(SnapshotStore(root, fs=fs), root)
        except SnapshotError as error:
            failure = str(error)
        if not failure:
            return stop_at
        assert "stopped" in failure
        shown = _state(root)
        assert allowed(shown), (stop_at, shown)
        SnapshotStore(root).clean()
        assert _state(root) == shown
        left = sorted(path.name for path in root.iterdir()) if root.exists() else []
        assert left == [f"v{version:08d}" for version in shown]


@pytest.mark.parametrize("num_before", [0, 2])
def test_a_crash_leaves_all_of_a_published_version_or_nothing(
    tmp_path, publish, stepped, num_before
):
    old = {version: 10 * version for version in range(num_before)}
    new = old | {num_before: 10 * num_before}
    num_steps = _crash_everywhere(
        tmp_path,
        publish,
        stepped,
        num_before,
        lambda store, _: publish(store, num_before),
        lambda shown: shown in (old, new),
    )
    assert num_steps > 15


def test_a_crashed_publish_can_be_repeated(tmp_path, publish, stepped):
    store = SnapshotStore(tmp_path)
    with pytest.raises(SnapshotError):
        publish(SnapshotStore(tmp_path, fs=stepped(8)), 0)
    assert store.next_version() == 0
    publish(store, 0)
    assert _state(tmp_path) == {0: 0}


def test_a_crash_while_pruning_leaves_each_version_complete_or_absent(tmp_path, publish, stepped):
    num_steps = _crash_everywhere(
        tmp_path,
        publish,
        stepped,
        4,
        lambda store, _: store.prune(2),
        lambda shown: (
            {2: 20, 3: 30}.items() <= shown.items() <= {0: 0, 1: 10, 2: 20, 3: 30}.items()
        ),
    )
    assert (
        num_steps == 12
    )  # two renames, a sync, twice three files and a directory; the last run is not stopped


def test_an_interrupted_cleaning_can_be_repeated(tmp_path, publish, stepped):
    def leave_and_clean(store: SnapshotStore, root: Path) -> None:
        leftover = root / "v00000007.tmp-00"
        leftover.mkdir(exist_ok=True)
        (leftover / "a").touch()
        (leftover / "b").touch()
        store.clean()

    num_steps = _crash_everywhere(
        tmp_path, publish, stepped, 1, leave_and_clean, lambda shown: shown == {0: 0}
    )
    assert num_steps == 4


def test_what_a_killed_publisher_leaves_is_never_loaded(tmp_path, publish, stepped):
    """Every call fails, so that the publisher cannot remove its own files either."""
    with pytest.raises(SnapshotError):
        publish(SnapshotStore(tmp_path, fs=stepped(9)), 0)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 1
    assert names[0].startswith("v00000000.tmp-")
    assert SnapshotStore(tmp_path).versions() == []
    assert SnapshotStore(tmp_path).clean() == names
