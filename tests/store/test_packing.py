"""The bytes that the store packs are those of the msgpack package, which wrote earlier logs."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.packing import pack, unpacker

_PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
_NESTED = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.lists(inner, max_size=20).map(tuple)
        | st.dictionaries(st.text() | st.integers(-40, 300), inner, max_size=20)
    ),
    max_leaves=40,
)


@given(_NESTED)
def test_packed_bytes_are_those_of_msgpack(value: Any) -> None:
    assert pack(value) == msgpack.packb(value)


@pytest.mark.parametrize("num", [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_long_values_have_the_same_length_prefix(num: int) -> None:
    for value in ("a" * num, b"a" * num, [0] * num):
        assert pack(value) == msgpack.packb(value)


def test_a_number_of_numpy_is_packed_as_one_of_python() -> None:
    assert pack((np.float64(0.25), np.str_("a"))) == msgpack.packb((0.25, "a"))


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError, match="int64 cannot be stored"):
        pack((np.int64(3),))


def test_values_of_another_form_are_not_unpacked() -> None:
    summed = unpacker(tuple[int, int, bytes])
    assert summed.decode(msgpack.packb((1, 2, b"a"))) == (1, 2, b"a")
    for damaged in (msgpack.packb((1, 2)), msgpack.packb((1, 2, "a")), b"\xc1", b""):
        with pytest.raises(msgspec.DecodeError):
            summed.decode(damaged)
