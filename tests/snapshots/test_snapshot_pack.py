"""A snapshot as one byte string: `unpack` takes what `pack` returns and refuses anything else."""

from __future__ import annotations

import dataclasses
import json
import struct
import tracemalloc
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.snapshots.manifest import FileEntry, Manifest, TensorEntry
from bandexa_core.snapshots.packing import _joined, _split, _with_manifest, pack, unpack
from bandexa_core.snapshots.tensors import encode_file

MANIFEST = Manifest(
    version=SnapshotVersion(3),
    parent=SnapshotVersion(2),
    bandit_uid=BanditUid("b-1"),
    position=LogPosition(300),
    log_hash="",
    spec_hash="5e",
    num_rows=30,
    epoch=4,
    created_at=1234.5,
    encoder="mlp",
    metrics={"loss": 0.3},
    libraries={"numpy": "2"},
    meta={"actions": ["a"], "nested": {"x": [1.5, None, True, "\u00e9"]}},
)
TENSORS = {"12/root": np.eye(2), "n": np.array(5), "flags": np.array([True, False])}


def _bytes(header: Any, data: bytes = b"") -> bytes:
    """Return safetensors bytes with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _under(text: str, plain: bytes) -> bytes:
    """Return the safetensors bytes `plain` with any text as their manifest."""
    header, buffer = _split(plain)
    return _joined(_with_manifest(header, text), buffer)


def _with_meta(meta: dict[str, Any]) -> Manifest:
    return dataclasses.replace(MANIFEST, meta=meta)


def test_odd_tensors_come_back_bit_for_bit(odd_tensors, assert_same_tensors):
    _, tensors = unpack(pack(MANIFEST, odd_tensors))
    assert_same_tensors(tensors, odd_tensors)


def test_the_manifest_comes_back_with_the_entry_of_its_one_file():
    manifest, _ = unpack(pack(MANIFEST, TENSORS))
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert manifest.files == {"tensors": encode_file(TENSORS)[1]}


def test_an_export_carries_the_text_of_a_manifest_file():
    data = pack(MANIFEST, TENSORS)
    header, _ = _header(data)
    assert header["__metadata__"] == {"manifest": unpack(data)[0].to_bytes().decode()}


def test_any_safetensors_reader_can_read_the_tensors(assert_same_tensors):
    assert_same_tensors(safetensors.numpy.load(pack(MANIFEST, TENSORS)), TENSORS)


def test_unpacked_tensors_can_be_written_to():
    unpack(pack(MANIFEST, TENSORS))[1]["12/root"][0, 0] = 7


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in "dfeqihbQIHB?"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.text(), JSON, max_size=3),
    st.dictionaries(st.text(min_size=1).filter(lambda n: n != "__metadata__"), ARRAYS, max_size=4),
)
def test_anything_packed_comes_back(assert_same_tensors, meta, arrays):
    found, tensors = unpack(pack(_with_meta(meta), arrays))
    assert found.meta == meta
    assert_same_tensors(tensors, arrays)


@pytest.mark.parametrize(
    ("meta", "tensors"),
    [
        ({"x": float("nan")}, {}),
        ({"x": object()}, {}),
        ({"x": "\ud800"}, {}),
        ({}, {"": np.ones(1)}),
        ({}, {"__metadata__": np.ones(1)}),
        ({}, {"z": np.ones(1, complex)}),
        ({}, {"t": np.array(["text"])}),
    ],
)
def test_unwritable_values_are_a_value_error(meta, tensors):
    with pytest.raises(ValueError, match=r"JSON|name|dtype"):
        pack(_with_meta(meta), tensors)


def test_every_flipped_bit_is_found():
    data = pack(MANIFEST, {"w/a": np.arange(3.0), "b": np.array([True])})
    for offset in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << bit
            with pytest.raises(SnapshotCorrupt):
                unpack(bytes(flipped))


def test_every_other_length_is_found():
    data = pack(MANIFEST, TENSORS)
    for num_bytes in range(len(data)):
        with pytest.raises(SnapshotCorrupt):
            unpack(data[:num_bytes])
    with pytest.raises(SnapshotCorrupt):
        unpack(data + b"\0")


def test_added_white_space_is_found():
    """No hash covers the header around the manifest and its padding."""
    data = pack(MANIFEST, TENSORS)
    length = int.from_bytes(data[:8], "little")
    header, buffer = data[8 : 8 + length], data[8 + length :]
    spaced = header.replace(b'"},"', b'"}, "', 1)
    assert spaced != header
    for other in (header + b" ", header + b" " * 8, header + b"\n" * 8, spaced):
        with pytest.raises(SnapshotCorrupt, match="header"):
            unpack(_bytes(other, buffer))


@pytest.mark.parametrize("length", [0, 1, 2, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_false_header_length_is_refused_without_allocating(length):
    data = struct.pack("<Q", length) + b"{}" * 40
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotCorrupt):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


BAD_TENSORS = {
    "shape larger than the data": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 8]},
    "shape that overflows": {"dtype": "F64", "shape": [2**32, 2**32], "data_offsets": [0, 8]},
    "shape beyond 64 bits": {"dtype": "F64", "shape": [2**70, 0], "data_offsets": [0, 8]},
    "negative size": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]},
    "fractional size": {"dtype": "F64", "shape": [1.0], "data_offsets": [0, 8]},
    "offsets beyond the data": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]},
    "offsets reversed": {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]},
    "offsets with a hole": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
    "offsets negative": {"dtype": "F64", "shape": [1], "data_offsets": [-8, 0]},
    "unknown dtype": {"dtype": "F99", "shape": [1], "data_offsets": [0, 8]},
    "dtype numpy lacks": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
    "8-bit float": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]},
    "4-bit float": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]},
    "complex": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]},
    "no boolean": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]},
    "no dtype": {"shape": [1], "data_offsets": [0, 8]},
    "no object": [],
}


@pytest.mark.parametrize("reason", BAD_TENSORS)
def test_a_malformed_header_is_refused(reason):
    """Hash and description are right, as if the header had been written so."""
    malformed = _bytes({"w": BAD_TENSORS[reason]}, b"\x07" * 8)
    entry = FileEntry(
        sha256(malformed).hexdigest(), len(malformed), encode_file({"w": np.ones(1)})[1].tensors
    )
    text = dataclasses.replace(MANIFEST, files={"tensors": entry}).to_bytes().decode()
    with pytest.raises(SnapshotCorrupt, match=r"not valid safetensors|dtype|not a boolean"):
        unpack(_under(text, malformed))


@pytest.mark.parametrize(
    "array", [np.full(8, 7, np.uint8).view(bool), np.ones(2, np.complex64)], ids=["bool", "complex"]
)
def test_forbidden_values_are_refused_even_under_a_right_hash(array):
    plain = safetensors.numpy.save({"w": array})
    described = {"w": TensorEntry(array.dtype.name, array.shape)}
    entry = FileEntry(sha256(plain).hexdigest(), len(plain), described)
    text = dataclasses.replace(MANIFEST, files={"tensors": entry}).to_bytes().decode()
    with pytest.raises(SnapshotCorrupt, match="tensor 'w'"):
        unpack(_under(text, plain))


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: {},
        lambda metadata: {**metadata, "more": "x"},
        lambda metadata: {"Manifest": metadata["manifest"]},
        lambda metadata: {**metadata, "manifest": metadata["manifest"].upper()},
        lambda metadata: {**metadata, "manifest": metadata["manifest"] + " "},
        lambda metadata: {**metadata, "manifest": "\ud800" + metadata["manifest"]},
        lambda metadata: {**metadata, "manifest": 5},
        lambda metadata: "text",
        lambda metadata: None,
    ],
)
def test_other_metadata_is_refused(change):
    """The bytes are otherwise those that `pack` writes."""
    good = pack(MANIFEST, TENSORS)
    header, data = _header(good)

    def changed(metadata: Any) -> bytes:
        text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
        return _bytes(text + b" " * (-len(text) % 8), data)

    assert changed(header["__metadata__"]) == good
    with pytest.raises(SnapshotCorrupt, match="not a packed snapshot"):
        unpack(changed(change(header["__metadata__"])))


def test_safetensors_of_another_program_are_refused():
    with pytest.raises(SnapshotCorrupt, match="no manifest"):
        unpack(safetensors.numpy.save(TENSORS))
    with pytest.raises(SnapshotCorrupt, match="no manifest"):
        unpack(safetensors.numpy.save(TENSORS, {"format": "pt"}))


def test_swapped_tensors_are_found():
    """Names, shapes and data are the same; the offsets in the header are exchanged."""
    good = pack(MANIFEST, {"a": np.array([1.0]), "b": np.array([2.0])})
    swapped = good.replace(b'"data_offsets":[0,8]', b"SWAP")
    swapped = swapped.replace(b'"data_offsets":[8,16]', b'"data_offsets":[0,8]')
    swapped = swapped.replace(b"SWAP", b'"data_offsets":[8,16]')
    assert safetensors.numpy.load(swapped)["a"] == 2.0
    with pytest.raises(SnapshotCorrupt, match="sha256"):
        unpack(swapped)


def test_the_manifest_of_other_tensors_is_found():
    """Both exports are complete and have the same shapes and sizes."""
    other = unpack(pack(MANIFEST, {"a": np.array([1.0])}))[0].to_bytes().decode()
    with pytest.raises(SnapshotCorrupt, match="sha256"):
        unpack(_under(other, encode_file({"a": np.array([2.0])})[0]))


@pytest.mark.parametrize("names", [[], ["model"], ["tensors", "more"]], ids=str)
def test_a_manifest_that_describes_other_files_is_refused(names):
    data, entry = encode_file(TENSORS)
    text = dataclasses.replace(MANIFEST, files=dict.fromkeys(names, entry)).to_bytes().decode()
    with pytest.raises(SnapshotCorrupt, match="does not describe one file"):
        unpack(_under(text, data))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "null",
        '{"x": NaN}',
        '{"x": -Infinity}',
        '{"x": 1e999}',
        '{"x": "\\ud800"}',
        '{"x": ' + "9" * 5000 + "}",
        '{"x": ' + "[" * 100_000,
        '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"x": 1} {"y": 2}',
    ],
    ids=lambda text: text[:20],
)
def test_text_that_is_not_a_manifest_is_refused(text):
    with pytest.raises(SnapshotCorrupt, match="not a packed snapshot"):
        unpack(_under(text, encode_file(TENSORS)[0]))


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"'])
def test_values_that_are_not_json_are_refused_even_under_a_right_hash(value):
    whole = unpack(pack(_with_meta({"x": "VALUE"}), TENSORS))[0]
    body = json.dumps(dataclasses.asdict(whole), sort_keys=True, separators=(",", ":"))
    body = body.replace('"VALUE"', value)
    pretty = json.loads(whole.to_bytes())
    pretty["sha256"] = sha256(body.encode()).hexdigest()
    text = json.dumps(pretty, sort_keys=True, indent=1).replace('"VALUE"', value)
    with pytest.raises(SnapshotCorrupt, match="JSON values"):
        unpack(_under(text, encode_file(TENSORS)[0]))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(SnapshotCorrupt):
        unpack(data)


@settings(max_examples=50, deadline=None)
@given(JSON | st.dictionaries(st.sampled_from(["__metadata__", "w"]), JSON), st.binary(max_size=9))
def test_random_headers_are_refused(header, data):
    with pytest.raises(SnapshotCorrupt):
        unpack(_bytes(header, data))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_mangled_export_is_refused(data):
    """Pieces of a good export are cut, inserted, repeated and overwritten."""
    good = pack(MANIFEST, TENSORS)
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, min(len(good), start + 40)))
    middle = data.draw(st.binary(max_size=40) | st.just(good[start:stop] * 2))
    mangled = good[:start] + middle + good[stop:]
    assume(mangled != good)
    with pytest.raises(SnapshotCorrupt):
        unpack(mangled)
