"""A snapshot as one byte string: what pack gives, unpack takes; anything else it refuses."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.snapshots.tensors import _digest, encode_tensors, pack, unpack

META = {"version": 3, "files": ["a"], "nested": {"x": [1.5, None, True, "\u00e9"]}}
TENSORS = {"12/root": np.eye(2), "n": np.array(5), "flags": np.array([True, False])}


def _bytes(header: Any, data: bytes = b"") -> bytes:
    """Return a safetensors string with a header of our own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _repacked(meta_text: str, tensors=TENSORS) -> bytes:
    """Pack any text as the manifest, with the hash that belongs to it."""
    return encode_tensors(tensors, {"manifest": meta_text, "sha256": _digest(meta_text, tensors)})


def test_odd_tensors_come_back_bit_for_bit(odd_tensors, assert_same_tensors):
    meta, tensors = unpack(pack(META, odd_tensors))
    assert meta == META
    assert_same_tensors(tensors, odd_tensors)


def test_any_safetensors_reader_can_read_the_tensors(assert_same_tensors):
    assert_same_tensors(safetensors.numpy.load(pack(META, TENSORS)), TENSORS)


def test_unpacked_tensors_can_be_written_to():
    unpack(pack(META, TENSORS))[1]["12/root"][0, 0] = 7


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


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(), JSON, max_size=3),
    st.dictionaries(st.text(min_size=1).filter(lambda n: n != "__metadata__"), ARRAYS, max_size=4),
)
def test_anything_packed_comes_back(assert_same_tensors, meta, arrays):
    found, tensors = unpack(pack(meta, arrays))
    assert found == meta
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
def test_what_cannot_be_packed_is_a_value_error(meta, tensors):
    with pytest.raises(ValueError, match=r"JSON|name|dtype"):
        pack(meta, tensors)


def test_every_flipped_bit_is_found():
    data = pack({"version": 1, "x": [0.25, "y"]}, {"w/a": np.arange(3.0), "b": np.array([True])})
    for offset in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << bit
            with pytest.raises(SnapshotCorrupt):
                unpack(bytes(flipped))


def test_every_other_length_is_found():
    data = pack(META, TENSORS)
    for num_bytes in range(len(data)):
        with pytest.raises(SnapshotCorrupt):
            unpack(data[:num_bytes])
    with pytest.raises(SnapshotCorrupt):
        unpack(data + b"\0")


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
def test_a_header_that_lies_is_refused(reason):
    header, _ = _header(pack(META, {}))
    with pytest.raises(SnapshotCorrupt):
        unpack(_bytes({**header, "w": BAD_TENSORS[reason]}, b"\x07" * 8))


@pytest.mark.parametrize(
    "array", [np.full(8, 7, np.uint8).view(bool), np.ones(2, np.complex64)], ids=["bool", "complex"]
)
def test_values_no_tensor_may_have_are_refused_though_their_hash_is_right(array):
    tensors = {"w": array}
    metadata = {"manifest": "{}", "sha256": _digest("{}", tensors)}
    with pytest.raises(SnapshotCorrupt, match="tensor 'w'"):
        unpack(safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: {},
        lambda metadata: {**metadata, "more": "x"},
        lambda metadata: {"manifest": metadata["manifest"]},
        lambda metadata: {**metadata, "sha256": ""},
        lambda metadata: {**metadata, "sha256": metadata["sha256"].upper()},
        lambda metadata: {**metadata, "manifest": metadata["manifest"] + " "},
        lambda metadata: {**metadata, "manifest": 5},
        lambda metadata: "text",
        lambda metadata: None,
    ],
)
def test_metadata_that_is_not_ours_is_refused(change):
    header, data = _header(pack(META, TENSORS))
    header["__metadata__"] = change(header["__metadata__"])
    with pytest.raises(SnapshotCorrupt):
        unpack(_bytes(header, data))


def test_bytes_of_another_program_are_refused():
    with pytest.raises(SnapshotCorrupt, match="no manifest"):
        unpack(safetensors.numpy.save(TENSORS))
    with pytest.raises(SnapshotCorrupt, match="no manifest"):
        unpack(safetensors.numpy.save(TENSORS, {"format": "pt"}))


def test_swapped_tensors_are_found():
    """Same names, shapes and data area; only the offsets in the header trade places."""
    header, data = _header(pack({}, {"a": np.array([1.0]), "b": np.array([2.0])}))
    a, b = header["a"], header["b"]
    with pytest.raises(SnapshotCorrupt, match="hash"):
        unpack(_bytes({**header, "a": b, "b": a}, data))


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
def test_a_manifest_that_is_no_json_object_is_refused_though_its_hash_is_right(text):
    with pytest.raises(SnapshotCorrupt, match="not a packed snapshot"):
        unpack(_repacked(text))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(SnapshotCorrupt):
        unpack(data)


@settings(max_examples=300, deadline=None)
@given(JSON | st.dictionaries(st.sampled_from(["__metadata__", "w"]), JSON), st.binary(max_size=9))
def test_random_headers_are_refused(header, data):
    with pytest.raises(SnapshotCorrupt):
        unpack(_bytes(header, data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mangled_pack_is_refused_unless_it_says_the_same(assert_same_tensors, data):
    """Cut, insert, repeat and overwrite pieces of a good one. (White space says nothing.)"""
    good = pack(META, TENSORS)
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, min(len(good), start + 40)))
    middle = data.draw(st.binary(max_size=40) | st.just(good[start:stop] * 2))
    try:
        meta, tensors = unpack(good[:start] + middle + good[stop:])
    except SnapshotCorrupt:
        return
    assert meta == META
    assert_same_tensors(tensors, TENSORS)
