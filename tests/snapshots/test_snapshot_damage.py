"""Damaged snapshots are found at load, with the file and the reason, and passed over."""

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
    """Publish versions 1 and 2; return the directory of 2 and a check that it is passed over."""
    publish(store, 1)
    publish(store, 2)

    def _assert_passed_over(file_name: str, reason: str = "") -> None:
        snapshot, skipped = store.newest(lambda manifest: True)
        assert snapshot.manifest.version == 1
        assert [version for version, _ in skipped] == [2]
        assert file_name in skipped[0][1]
        assert reason in skipped[0][1]

    return root / "v00000002", _assert_passed_over


@pytest.mark.parametrize("file_name", FILES)
def test_a_flipped_bit_anywhere_is_found(damaged, store, file_name):
    directory, assert_passed_over = damaged
    path = directory / file_name
    data = path.read_bytes()
    for offset in range(len(data)):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << (offset % 8)
        path.write_bytes(flipped)
        with pytest.raises(SnapshotCorrupt, match=file_name):
            store.load(2)
    assert_passed_over(file_name)
    path.write_bytes(data)
    assert store.newest(lambda manifest: True)[0].manifest.version == 2


@pytest.mark.parametrize("file_name", FILES)
def test_a_file_of_another_length_is_found(damaged, store, file_name):
    directory, assert_passed_over = damaged
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
    assert_passed_over(file_name)


@pytest.mark.parametrize("file_name", FILES)
def test_a_missing_file_is_found_even_when_not_asked_for(damaged, store, file_name):
    directory, assert_passed_over = damaged
    (directory / file_name).unlink()
    assert_passed_over(file_name, "No such file")
    with pytest.raises(SnapshotCorrupt, match=file_name):
        store.load(2, [])


@pytest.mark.parametrize("file_name", FILES)
def test_a_directory_in_place_of_a_file_is_found(damaged, file_name):
    directory, assert_passed_over = damaged
    (directory / file_name).unlink()
    (directory / file_name).mkdir()
    assert_passed_over(file_name)


def test_files_of_another_snapshot_are_found(damaged, root):
    directory, assert_passed_over = damaged
    shutil.copy(root / "v00000001" / "posterior.safetensors", directory)
    assert_passed_over("posterior.safetensors", "its sha256 is not the published one")


def test_a_snapshot_under_another_version_is_found(damaged, root):
    directory, assert_passed_over = damaged
    shutil.rmtree(directory)
    shutil.copytree(root / "v00000001", directory)
    assert_passed_over("manifest.json", "it is that of version 1")


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
def test_tensors_that_the_manifest_describes_otherwise_are_refused(damaged, store, entry):
    """The manifest is whole and the file's hash right: they were written wrong together."""
    directory, assert_passed_over = damaged
    manifest = store.manifest(2)
    described = dataclasses.replace(manifest.files["encoder"], tensors=entry)
    changed = dataclasses.replace(manifest, files={**manifest.files, "encoder": described})
    (directory / "manifest.json").write_bytes(changed.to_bytes())
    assert_passed_over("encoder.safetensors", "names, dtypes or shapes")


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
    directory, assert_passed_over = damaged
    changed = dataclasses.replace(store.manifest(2), **changes)
    (directory / "manifest.json").write_bytes(changed.to_bytes())
    assert_passed_over("manifest.json", "not a valid manifest")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "[" * 100_000, '{"manifest": {}}', "\xff"],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_manifest_is_refused(damaged, text):
    directory, assert_passed_over = damaged
    (directory / "manifest.json").write_bytes(text.encode("latin-1"))
    assert_passed_over("manifest.json", "not a valid manifest")


def test_a_file_cut_short_is_found_even_when_not_asked_for(damaged, store):
    path = damaged[0] / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SnapshotCorrupt, match=r"encoder\.safetensors: it has \d+ bytes"):
        store.load(2, ["posterior"])


def test_flipped_bits_in_a_file_that_is_not_asked_for_do_not_matter(damaged, store):
    directory, _ = damaged
    path = directory / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    np.testing.assert_array_equal(
        store.load(2, ["posterior"]).tensors["posterior"]["0/root"], 2 * np.eye(2)
    )
