"""An exported snapshot: one safetensors file that carries its manifest in its header.

The header of a safetensors file is a JSON object. The header of an export begins with

    {"__metadata__":{"manifest":"..."},

where the text is that of `manifest.json` in a snapshot directory. The manifest describes one file,
`tensors`, which consists of the export's bytes without this metadata. Any safetensors reader can
therefore read the tensors, and `unpack` uses the checks of a snapshot directory. Pure functions on
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.snapshots.manifest import Manifest, parse_manifest
from bandexa_core.snapshots.tensors import Tensors, decode_file, encode_file

_FILE = "tensors"
_METADATA = b'{"__metadata__":'
_LENGTH_BYTES = 8  # the length of the header, little endian, precedes it
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


def pack(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return named arrays and a manifest in exported form.

    Args:
        manifest: The manifest; its `files` are filled in here.
        tensors: The arrays.

    Raises:
        ValueError: The manifest is not JSON, or an array cannot be stored.
    """
    data, entry = encode_file(tensors)
    text = replace(manifest, files={_FILE: entry}).to_bytes().decode()
    header, buffer = _split(data)
    return _joined(_with_manifest(header, text), buffer)


def unpack(data: bytes) -> tuple[Manifest, Tensors]:
    """Return manifest and arrays of an export.

    Raises:
        SnapshotCorrupt: The bytes are malformed or were changed. The hashes find accidents; they do
            not prove who wrote the bytes.
    """
    try:
        header, buffer = _split(data)
        text = _manifest_text(header)
        manifest = parse_manifest(text.encode())
        if manifest.files.keys() != {_FILE}:
            raise ValueError(f"its manifest does not describe one file {_FILE!r}")
        entry = manifest.files[_FILE]
        plain = _without_manifest(header, text, entry.num_bytes - _LENGTH_BYTES - len(buffer))
    except (ValueError, RecursionError, SnapshotCorrupt) as error:
        raise SnapshotCorrupt(f"not a packed snapshot: {error}") from error
    return manifest, decode_file(_joined(plain, buffer), entry)


def _split(data: bytes) -> tuple[bytes, memoryview]:
    """Return the header and the tensors' bytes of a safetensors file."""
    num_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    end = _LENGTH_BYTES + num_bytes
    if num_bytes > _MAX_HEADER_BYTES or end > len(data):
        raise ValueError(f"it has {len(data)} bytes and declares a header of {num_bytes}")
    return data[_LENGTH_BYTES:end], memoryview(data)[end:]


def _joined(header: bytes, buffer: memoryview) -> bytes:
    return b"".join([len(header).to_bytes(_LENGTH_BYTES, "little"), header, buffer])


def _with_manifest(header: bytes, text: str) -> bytes:
    """Return a safetensors header with the text of a manifest before its tensors."""
    metadata = json.dumps({"manifest": text}, separators=(",", ":")).encode()
    comma = b"" if header.startswith(b"{}") else b","
    whole = b"".join([_METADATA, metadata, comma, header[1:]])
    return whole + b" " * (-len(whole) % 8)  # the tensors' bytes are aligned to 8


def _manifest_text(header: bytes) -> str:
    """Return the text of the manifest in a header, unchecked."""
    if header.startswith(_METADATA):
        # One character per byte: the decoder's offsets are then those of the bytes.
        metadata, _ = json.JSONDecoder().raw_decode(header.decode("latin-1"), len(_METADATA))
        if isinstance(metadata, dict) and isinstance(metadata.get("manifest"), str):
            return str(metadata["manifest"])
    raise ValueError("it carries no manifest")


def _without_manifest(header: bytes, text: str, num_bytes: int) -> bytes:
    """Return the header, `num_bytes` long, from which `_with_manifest` made `header`."""
    start = len(_with_manifest(b"{}", text).rstrip(b" ")) - len(b"}")
    plain = (b"{" + header[start:].removeprefix(b","))[:num_bytes]
    if _with_manifest(plain, text) != header:
        raise ValueError("its header differs from the one that was written")
    return plain
