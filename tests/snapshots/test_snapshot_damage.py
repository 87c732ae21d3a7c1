"""Damaged snapshots are found when they are loaded, named with a reason, and skipped."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.snapshots.manifest import TensorEntry

FILES = ("encoder.safetensors", "posterior.safetensors", "manifest.json")


@pytest.fixture
def damaged(store, publish, root):
    """Publish versions 1 and 2; return the directory of 2 and a check that it is skipped."""
    publish(store, 1)
    publish(store, 2)

    def _assert_skipped(file_name: str, reason: str = "") -> None:
        snapshot, skipped = store.newest(lambda manifest: True)
        assert snapshot.manifest.version == 1
        assert [version for version, _ in skipped] == [2]
        assert file_name in skipped[0][1]
        assert reason in skipped[0][1]

    return root / "v00000002", _assert_skipped


@pytest.mark.parametrize("file_name", FILES)
def test_a_flipped_bit_anywhere_is_found(damaged, store, file_name):
    directory, assert_skipped = damaged
    path = directory / file_name
    data = path.read_bytes()
    for offset in range(len(data)):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << (offset % 8)
        path.write_bytes(flipped)
        with pytest.raises(SnapshotCorrupt, match=file_name):
            store.load(2)
    assert_skipped(file_name)
    path.write_bytes(data)
    assert store.newest(lambda manifest: True)[0].manifest.version == 2


@pytest.mark.parametrize("file_name", FILES)
def test_a_file_of_another_length_is_found(damaged, store, file_name):
    directory, assert_skipped = damaged
    path = directory / file_name
    data = path.read_bytes()
    for num_bytes in range(len(data)):
        path.write_bytes(data[:num_bytes])
        with pytest.raises(SnapshotCorrupt, match=file_name):
            store.load(2)
    for tail in (b"\0", b"\n", b" ", data):
        path.write_bytes(data + tail)
        with pytest.raises(SnapshotCorrupt, match=file_name):
            store.load(2)
    assert_skipped(file_name)


@pytest.mark.parametrize("file_name", FILES)
def test_a_missing_file_is_found_even_when_it_is_not_loaded(damaged, store, file_name):
    directory, assert_skipped = damaged
    (directory / file_name).unlink()
    assert_skipped(file_name, "No such file")
    with pytest.raises(SnapshotCorrupt, match=file_name):
        store.load(2, [])


@pytest.mark.parametrize("file_name", FILES)
def test_a_directory_in_place_of_a_file_is_found(damaged, file_name):
    directory, assert_skipped = damaged
    (directory / file_name).unlink()
    (directory / file_name).mkdir()
    assert_skipped(file_name)


def test_files_of_another_snapshot_are_found(damaged, root):
    directory, assert_skipped = damaged
    shutil.copy(root / "v00000001" / "posterior.safetensors", directory)
    assert_skipped("posterior.safetensors", "its sha256 differs from the published one")


def test_a_snapshot_under_another_version_is_found(damaged, root):
    directory, assert_skipped = damaged
    shutil.rmtree(directory)
    shutil.copytree(root / "v00000001", directory)
    assert_skipped("manifest.json", "it belongs to version 1")


@pytest.mark.parametrize(
    "entry",
    [
        {"layer.weight": TensorEntry("float32", (2, 3))},
        {"layer.weight": TensorEntry("int32", (3, 2))},
        {"layer.bias": TensorEntry("float32", (3, 2))},
        {},
    ],
    ids=str,
)
def test_tensors_that_differ_from_their_description_are_refused(damaged, store, entry):
    """Manifest and file agree in their hashes, as if both had been written wrong."""
    directory, assert_skipped = damaged
    manifest = store.manifest(2)
    described = dataclasses.replace(manifest.files["encoder"], tensors=entry)
    changed = dataclasses.replace(manifest, files={**manifest.files, "encoder": described})
    (directory / "manifest.json").write_bytes(changed.to_bytes())
    assert_skipped("encoder.safetensors", "names, dtypes or shapes")


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"parent": "1"},
        {"position": 1.0},
        {"epoch": True},
        {"created_at": 3},
        {"metrics": {"loss": "low"}},
        {"libraries": {"numpy": 2}},
        {"meta": []},
        {"files": {"encoder": {"sha256": "", "num_bytes": 1}}},
        {"files": {"encoder": []}},
        {"files": {"encoder": {"sha256": "", "num_bytes": 1, "tensors": {"w": {}}}}},
        {
            "files": {
                "encoder": {
                    "sha256": "",
                    "num_bytes": 1,
                    "tensors": {"w": {"dtype": "float32", "shape": [-1]}},
                }
            }
        },
    ],
    ids=str,
)
def test_a_manifest_of_another_form_is_refused(damaged, store, changes):
    directory, assert_skipped = damaged
    changed = dataclasses.replace(store.manifest(2), **changes)
    (directory / "manifest.json").write_bytes(changed.to_bytes())
    assert_skipped("manifest.json", "not a valid manifest")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "[" * 100_000, '{"manifest": {}}', "\xff"],
    ids=lambda text: repr(text[:20]),
)
def test_bytes_that_are_not_a_manifest_are_refused(damaged, text):
    directory, assert_skipped = damaged
    (directory / "manifest.json").write_bytes(text.encode("latin-1"))
    assert_skipped("manifest.json", "not a valid manifest")


def test_a_truncated_file_is_found_even_when_it_is_not_loaded(damaged, store):
    path = damaged[0] / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SnapshotCorrupt, match=r"encoder\.safetensors: it has \d+ bytes"):
        store.load(2, ["posterior"])


def test_flipped_bits_in_a_file_that_is_not_loaded_do_not_matter(damaged, store):
    directory, _ = damaged
    path = directory / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    np.testing.assert_array_equal(
        store.load(2, ["posterior"]).tensors["posterior"]["0/root"], 2 * np.eye(2)
    )
