"""Named arrays as safetensors bytes, for snapshot files and for snapshots that travel over HTTP.

Pure functions on bytes. Reading raises SnapshotCorrupt for anything malformed, whoever made it: no
code is ever run from the bytes, and memory taken is in proportion to their number, whatever sizes
they declare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from bandexa_core.errors import SnapshotCorrupt

_DTYPES = frozenset(np.dtype(code).name for code in "dfeqihbQIHB?")  # float64 ... uint8, bool
_HEADER_LENGTH_BYTES = 8


def encode_tensors(
    tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None
) -> bytes:
    """Return arrays of any memory layout as safetensors bytes.

    Raises:
        ValueError: a name is empty or reserved, or a dtype is not a plain real number's.
    """
    flat = {}
    for name, array in tensors.items():
        if not name or name == "__metadata__":
            raise ValueError(f"{name!r} cannot name a tensor")
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"tensor {name!r}: dtype {array.dtype} cannot be stored")
        # safetensors writes an array's memory as it lies, whatever its strides: a transposed one
        # would come back scrambled. (np.ascontiguousarray would turn a 0-d array into a 1-d one.)
        flat[name] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return safetensors.numpy.save(flat, metadata)


def decode_tensors(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of safetensors bytes: copies that may be written to.

    Raises:
        SnapshotCorrupt: these are not whole, well-formed safetensors bytes of known dtypes.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError) as error:
        raise SnapshotCorrupt(f"not valid safetensors: {error}") from error
    except KeyError as error:
        raise SnapshotCorrupt(f"dtype {error} cannot be read") from error
    for name, array in tensors.items():
        if array.dtype.name not in _DTYPES:
            raise SnapshotCorrupt(f"tensor {name!r}: dtype {array.dtype} cannot be read")
        if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
            raise SnapshotCorrupt(f"tensor {name!r}: not a boolean")
    return tensors


def pack(meta: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return one self-contained safetensors byte string of a JSON object and named arrays.

    Its `__metadata__` carries `manifest`, the object as JSON, and `sha256` over that text and over
    name, dtype, shape and bytes of every array.

    Raises:
        ValueError: `meta` is not JSON (NaN and infinity included), or an array cannot be stored.
    """
    text = _json_text(meta)
    return encode_tensors(tensors, {"manifest": text, "sha256": _digest(text, tensors)})


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the JSON object and the arrays that `pack` was given.

    Raises:
        SnapshotCorrupt: the bytes are malformed or were changed. The hash finds accidents; it does
            not prove who made them.
    """
    tensors = decode_tensors(data)  # first: it accepts nothing but a well-formed header
    length = int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    try:
        header = json.loads(data[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
        metadata = header.get("__metadata__")
        if not isinstance(metadata, dict) or metadata.keys() != {"manifest", "sha256"}:
            raise ValueError("it carries no manifest and sha256")
        meta = json.loads(metadata["manifest"])
        if not isinstance(meta, dict):
            raise ValueError("its manifest is no object")
        _json_text(meta)  # Python reads NaN, 1e999 and half a surrogate pair, which are not JSON
        digest = _digest(metadata["manifest"], tensors)
    except (ValueError, RecursionError) as error:
        raise SnapshotCorrupt(f"not a packed snapshot: {error}") from error
    if digest != metadata["sha256"]:
        raise SnapshotCorrupt("the packed snapshot's bytes do not have the hash it names")
    return meta, tensors


def _digest(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Hash the manifest text and all tensors; each part is preceded by a line that delimits it."""
    encoded = text.encode()
    digest = sha256(f"{len(encoded)}\n".encode() + encoded)
    for name in sorted(tensors):
        array = tensors[name]
        line = json.dumps([name, array.dtype.name, list(array.shape)])
        digest.update(f"\n{line}\n".encode())
        digest.update(np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").tobytes())
    return digest.hexdigest()


def _json_text(meta: dict[str, Any]) -> str:
    """Return the one JSON text of an object; ValueError when it has none."""
    try:
        text = json.dumps(meta, sort_keys=True, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"meta must be JSON values: {error}") from error
    return text
