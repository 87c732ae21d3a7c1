"""Named arrays as safetensors bytes, and the check of such bytes against a manifest's entry.

Pure functions on bytes. Reading raises SnapshotCorrupt for anything malformed. It runs no code from
the bytes and takes memory in proportion to their number, whatever sizes they declare.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.snapshots.manifest import FileEntry, TensorEntry

Tensors = dict[str, NDArray[Any]]

_DTYPES = frozenset(np.dtype(code).name for code in "dfeqihbQIHB?")  # float64 ... uint8, bool


def encode_file(tensors: Mapping[str, NDArray[Any]]) -> tuple[bytes, FileEntry]:
    """Return arrays as the bytes of a snapshot's file, and the manifest's entry for it.

    Raises:
        ValueError: A name is empty or reserved, or a dtype is not that of plain real numbers.
    """
    data = encode_tensors(tensors)
    return data, FileEntry(sha256(data).hexdigest(), len(data), _entries(tensors))


def decode_file(data: bytes, entry: FileEntry) -> Tensors:
    """Return the arrays of a snapshot's file.

    Raises:
        SnapshotCorrupt: Size, hash or tensors differ from the manifest's entry.
    """
    check_size(len(data), entry)
    if sha256(data).hexdigest() != entry.sha256:
        raise SnapshotCorrupt("its sha256 differs from the published one")
    tensors = decode_tensors(data)
    if _entries(tensors) != entry.tensors:
        raise SnapshotCorrupt("its tensors' names, dtypes or shapes differ from the published ones")
    return tensors


def check_size(num_bytes: int, entry: FileEntry) -> None:
    """Raise SnapshotCorrupt when `num_bytes` is not the size that the entry has."""
    if num_bytes != entry.num_bytes:
        raise SnapshotCorrupt(f"it has {num_bytes} bytes instead of {entry.num_bytes}")


def encode_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays of any memory layout as safetensors bytes.

    Raises:
        ValueError: A name is empty or reserved, or a dtype is not that of plain real numbers.
    """
    flat = {}
    for name, array in tensors.items():
        if not name or name == "__metadata__":
            raise ValueError(f"{name!r} cannot name a tensor")
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"tensor {name!r}: dtype {array.dtype} cannot be stored")
        # safetensors writes the memory of an array and ignores its strides, so a transposed array
        # would be stored scrambled. (np.ascontiguousarray would turn a 0-d array into a 1-d one.)
        flat[name] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return safetensors.numpy.save(flat)


def decode_tensors(data: bytes) -> Tensors:
    """Return the arrays of safetensors bytes, as writable copies.

    Raises:
        SnapshotCorrupt: The bytes are not complete, well-formed safetensors of known dtypes.
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


def _entries(tensors: Mapping[str, NDArray[Any]]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(a.dtype.name, a.shape) for name, a in tensors.items()}
