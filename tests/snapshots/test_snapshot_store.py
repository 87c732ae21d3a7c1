"""Publishing, loading, choosing and pruning snapshots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.errors import SnapshotCorrupt, SnapshotError, SnapshotRefused
from bandexa_core.snapshots.manifest import FileEntry, TensorEntry
from bandexa_core.snapshots.store import SnapshotStore


def _names(root) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_tensors_come_back_bit_for_bit(store, publish, odd_tensors, assert_same_tensors):
    files = {"encoder": odd_tensors, "posterior": {"w": np.ones(2)}, "nothing": {}}
    publish(store, 4, files)
    snapshot = store.load(4)
    assert snapshot.tensors.keys() == files.keys()
    for name, tensors in files.items():
        assert_same_tensors(snapshot.tensors[name], tensors)


def test_a_snapshot_without_files_can_be_published(store, publish):
    publish(store, 0, {})
    assert store.load(0).tensors == {}


def test_loaded_tensors_belong_to_the_caller(store, publish):
    publish(store, 1)
    store.load(1).tensors["posterior"]["0/root"][...] = 9
    np.testing.assert_array_equal(store.load(1).tensors["posterior"]["0/root"], np.eye(2))


def test_the_manifest_comes_back(store, publish):
    published = publish(store, 7)
    loaded = store.load(7).manifest
    assert loaded == published == store.manifest(7)
    assert (loaded.version, loaded.parent, loaded.position, loaded.epoch) == (7, 6, 700, 3)
    assert (loaded.bandit_uid, loaded.encoder, loaded.num_rows) == ("b-1", "mlp", 70)
    assert (loaded.log_hash, loaded.spec_hash) == (f"{7:064x}", "5e")
    assert (loaded.created_at, loaded.metrics) == (1234.5, {"loss": 0.1 * 7})
    assert loaded.meta == {"seed": 0, "scales": [1.5, None, {"a": "\u00e9\U0001f600"}]}
    assert {"python", "numpy", "safetensors"} <= loaded.libraries.keys()
    entry = loaded.files["posterior"]
    assert type(entry) is FileEntry
    assert entry.tensors == {
        "0/root": TensorEntry("float64", (2, 2)),
        "0/n": TensorEntry("int64", ()),
    }


def test_only_the_named_files_are_loaded(store, publish):
    publish(store, 1)
    assert store.load(1, ["posterior"]).tensors.keys() == {"posterior"}
    assert store.load(1, []).tensors == {}
    with pytest.raises(SnapshotCorrupt, match="no file 'index'"):
        store.load(1, ["index"])


def test_versions_ascend_and_the_next_follows_the_highest(store, publish, root):
    assert (store.versions(), store.next_version()) == ([], 0)
    for version in (0, 3, 2, 123456789):
        publish(store, version)
    (root / "notes").mkdir()
    (root / "v00000009.tmp-00ff").mkdir()
    (root / "v00000009.trash-00ff").mkdir()
    assert store.versions() == [0, 2, 3, 123456789]
    assert store.next_version() == 123456790


def test_an_existing_version_is_refused_and_does_not_change(store, publish, root):
    first = publish(store, 1)
    with pytest.raises(SnapshotRefused, match="v00000001 exists"):
        publish(store, 1, {"other": {}}, num_rows=999)
    assert store.manifest(1) == first
    assert _names(root) == ["v00000001"]


def test_the_second_publisher_of_a_version_is_refused(store, publish, root):
    rival = SnapshotStore(root)
    with pytest.raises(SnapshotRefused, match="published meanwhile"):
        publish(store, 1, before_rename=lambda: publish(rival, 1, num_rows=999))
    assert store.load(1).manifest.num_rows == 999
    assert _names(root) == ["v00000001"]


def test_files_are_synced_before_their_names(root, publish, stepped):
    """A name must never be durable before its content: files, their directory, rename, parent."""
    fs = stepped()
    store = SnapshotStore(root, fs=fs)
    publish(store, 0)
    fs.calls.clear()
    publish(store, 1, before_rename=lambda: fs.calls.append(("before_rename", "")))
    temporary = fs.calls[0][1]
    assert temporary.startswith("v00000001.tmp-")
    written = [
        (step, name)
        for name in ("encoder.safetensors", "posterior.safetensors", "manifest.json")
        for step in ("open_file", "truncate", "write", "sync_file")
    ]
    assert fs.calls == [
        ("make_dir", temporary),
        *written,
        ("sync_dir", temporary),
        ("before_rename", ""),
        ("rename", "v00000001"),
        ("sync_dir", "b-1"),
    ]


def test_each_level_of_a_new_root_is_synced(tmp_path, publish, stepped):
    fs = stepped()
    publish(SnapshotStore(tmp_path / "a" / "b", fs=fs), 0)
    assert fs.calls[:4] == [
        ("make_dir", "a"),
        ("sync_dir", tmp_path.name),
        ("make_dir", "b"),
        ("sync_dir", "a"),
    ]


def test_nothing_is_published_when_the_last_check_raises(store, publish, root):
    publish(store, 1)
    seen = []

    def refuse() -> None:
        seen.append((store.versions(), len(_names(root))))
        raise SnapshotRefused("the epoch is stale")

    with pytest.raises(SnapshotRefused, match="the epoch is stale"):
        publish(store, 2, before_rename=refuse)
    assert seen == [([1], 2)]  # everything is written, nothing is visible
    assert _names(root) == ["v00000001"]


def _nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


UNWRITABLE: dict[str, dict[str, Any]] = {
    "file name with a slash": {"files": {"a/b": {}}},
    "file name of the parent": {"files": {"..": {}}},
    "file name empty": {"files": {"": {}}},
    "tensor name empty": {"files": {"a": {"": np.ones(1)}}},
    "tensor name reserved": {"files": {"a": {"__metadata__": np.ones(1)}}},
    "complex tensor": {"files": {"a": {"w": np.ones(1, complex)}}},
    "text tensor": {"files": {"a": {"w": np.array(["text"])}}},
    "object tensor": {"files": {"a": {"w": np.array([object()])}}},
    "record tensor": {"files": {"a": {"w": np.zeros(1, [("x", "f4")])}}},
    "metric nan": {"metrics": {"loss": float("nan")}},
    "meta infinite": {"meta": {"x": float("inf")}},
    "meta object": {"meta": {"x": object()}},
    "meta half a surrogate pair": {"meta": {"x": "\ud800"}},
    "meta nested too deeply": {"meta": {"x": _nested(100_000)}},
    "meta numpy": {"meta": {"x": np.float32(1)}},
    "version negative": {"version": -1},
}


@pytest.mark.parametrize("reason", UNWRITABLE)
def test_unwritable_values_are_refused_and_leave_nothing(store, publish, root, reason):
    publish(store, 1)
    with pytest.raises(ValueError, match=r"name|dtype|JSON|version"):
        publish(store, **{"version": 2, **UNWRITABLE[reason]})
    assert _names(root) == ["v00000001"]


def test_the_newest_accepted_snapshot_is_loaded(store, publish):
    for version in range(4):
        publish(store, version)
    snapshot, skipped = store.newest(lambda manifest: True)
    assert (snapshot.manifest.version, skipped) == (3, [])
    snapshot, skipped = store.newest(lambda manifest: manifest.position <= 150, ["encoder"])
    assert (snapshot.manifest.version, snapshot.tensors.keys()) == (1, {"encoder"})
    assert skipped == [(3, "not accepted"), (2, "not accepted")]


def test_without_a_usable_snapshot_the_error_names_the_reasons(store, publish, root):
    with pytest.raises(SnapshotError, match="it holds none"):
        store.newest(lambda manifest: True)
    publish(store, 0)
    publish(store, 1)
    (root / "v00000001" / "encoder.safetensors").unlink()
    with pytest.raises(SnapshotError, match=r"1: .*encoder.safetensors.*No such.*; 0: not acc"):
        store.newest(lambda manifest: manifest.version != 0)


def test_a_missing_version_is_reported_with_its_path(store):
    with pytest.raises(SnapshotCorrupt, match=r"v00000005.manifest\.json: No such file"):
        store.load(5)


def test_pruning_spares_the_newest_and_the_pinned(store, publish, root):
    for version in range(7):
        publish(store, version)
    assert store.prune(2, pinned=[1, 99]) == [0, 2, 3, 4]
    assert store.versions() == [1, 5, 6]
    assert _names(root) == ["v00000001", "v00000005", "v00000006"]
    assert store.prune(2, pinned={1}) == []
    assert store.prune(9) == []
    assert store.prune(1) == [1, 5]


def _at(root, publish, times):
    """Publish a version at each time; return the store at the last of them."""
    now = [0.0]
    store = SnapshotStore(root, clock=lambda: now[0])
    for version, time in enumerate(times):
        now[0] = time
        publish(store, version)
    return store


def test_what_decisions_of_the_last_hours_refer_to_is_spared(root, publish):
    """By hand, at 100 with 30 s: what was served after 70. Version 4 was served until 5 was swapped
    in: after 65, when 5 was written, and before 75, when 6 was. Version 3 was replaced before 65.
    """
    store = _at(root, publish, [0, 20, 40, 50, 60, 65, 75, 85, 95, 100])
    assert store.prune(2, keep_s=30.0, most_bytes=1 << 30) == [0, 1, 2, 3]
    assert store.versions() == [4, 5, 6, 7, 8, 9]
    assert store.prune(2, keep_s=30.0, most_bytes=1 << 30) == []
    assert store.prune(2, keep_s=0.0, most_bytes=1 << 30) == [4, 5, 6, 7]


def test_snapshots_of_the_last_hours_have_a_bound_in_bytes(root, publish):
    store = _at(root, publish, range(6))
    size = store.num_bytes(0)
    assert size == sum(path.stat().st_size for path in (root / "v00000000").iterdir()) > 0
    sizes = [store.num_bytes(version) for version in range(6)]
    assert store.prune(2, [1], keep_s=1e6, most_bytes=sum(sizes[2:]) + sizes[1]) == [0]
    assert store.prune(2, [1], keep_s=1e6, most_bytes=sum(sizes) - sizes[0]) == []
    assert store.prune(2, [1], keep_s=1e6, most_bytes=0) == [2, 3]
    assert store.versions() == [1, 4, 5], "the newest and the pinned stay, whatever they take"


def test_a_damaged_manifest_removes_nothing_that_may_be_needed(root, publish):
    store = _at(root, publish, [0, 1, 2, 3, 1000])
    (root / "v00000003" / "manifest.json").write_text("{")
    assert store.prune(2, keep_s=500.0, most_bytes=1 << 30) == [0]


def test_pruning_everything_is_refused(store, publish):
    publish(store, 0)
    with pytest.raises(ValueError, match="keep"):
        store.prune(0)
    assert store.versions() == [0]


def test_pruning_renames_before_it_deletes(root, publish, stepped):
    fs = stepped()
    store = SnapshotStore(root, fs=fs)
    for version in range(3):
        publish(store, version)
    fs.calls.clear()
    store.prune(1)
    steps = [step for step, _ in fs.calls]
    assert steps == ["rename"] * 2 + ["sync_dir"] + (["remove_file"] * 3 + ["remove_dir"]) * 2


def test_cleaning_removes_unfinished_directories_alone(store, publish, root):
    assert store.clean() == []
    publish(store, 1)
    for name in ("v00000002.tmp-0a1b", "v00000000.trash-0a1b", "other.tmp-1", "v3.tmp"):
        (root / name).mkdir()
        (root / name / "file").write_text("x")
    assert store.clean() == ["v00000000.trash-0a1b", "v00000002.tmp-0a1b"]
    assert _names(root) == ["other.tmp-1", "v00000001", "v3.tmp"]


def test_a_failing_disk_is_a_snapshot_error(root, publish, stepped):
    fs = stepped(stop_at=5)
    with pytest.raises(SnapshotError, match=r"cannot write .*stopped"):
        publish(SnapshotStore(root, fs=fs), 0)
