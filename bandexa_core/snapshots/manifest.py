"""The manifest of a snapshot: where it comes from, and which files with which hashes it has.

`manifest.json` holds the manifest and its sha256; an exported snapshot carries the same text. The
text is read strictly: it must be, byte for byte, what writing the parsed manifest gives, so that a
flipped bit anywhere is found. Pure values, used by any process. `store` writes them to disk,
`packing` exports them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from types import NoneType
from typing import Any

from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The description of one tensor: the name of its numpy dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """The description of one safetensors file: its sha256, its size, and its tensors by name."""

    sha256: str
    num_bytes: int
    tensors: dict[str, TensorEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a snapshot is and what it was built from.

    Attributes:
        version: Number of the snapshot within its bandit.
        parent: The version that training started from; None for the first and for imports.
        bandit_uid: The bandit that the snapshot belongs to.
        position: The log position that the snapshot was built at.
        log_hash: Hash of the log up to `position`, in hex; empty in an export, which has no log.
        spec_hash: Hash of the part of the bandit's configuration that shapes the model.
        num_rows: Number of values learned up to `position`.
        epoch: Lock epoch of the publishing server.
        encoder: Registered name of the encoder.
        metrics: Measurements of the training round; finite.
        meta: A JSON object of the publisher's choice.
        created_at: Unix time of publishing, in seconds.
        libraries: Versions of the libraries in use, for people; loading ignores them.
        files: The safetensors files by name, without extension.
        format_version: Version of the format; any other one is refused.
    """

    version: SnapshotVersion
    parent: SnapshotVersion | None
    bandit_uid: BanditUid
    position: LogPosition
    log_hash: str
    spec_hash: str
    num_rows: int
    epoch: int
    encoder: str
    metrics: dict[str, float]
    meta: dict[str, Any]
    created_at: float = 0.0
    libraries: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """Return the content of `manifest.json`.

        Raises:
            ValueError: A metric or `meta` is not JSON, such as NaN, infinity and half a surrogate
                pair.
        """
        return _written(asdict(self))


def _written(body: dict[str, Any]) -> bytes:
    """Return the text of a manifest's members; ValueError where they are not JSON."""
    try:
        json.dumps(body, ensure_ascii=False).encode()  # refuses half a surrogate pair
        compact = json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":"))
        document = {"manifest": body, "sha256": sha256(compact.encode()).hexdigest()}
        return json.dumps(document, sort_keys=True, allow_nan=False, indent=1).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metrics and meta must be JSON values: {error}") from error


_KINDS: dict[str, tuple[type, ...]] = {
    "format_version": (int,),
    "version": (int,),
    "parent": (int, NoneType),
    "bandit_uid": (str,),
    "position": (int,),
    "log_hash": (str,),
    "spec_hash": (str,),
    "num_rows": (int,),
    "epoch": (int,),
    "created_at": (float,),
    "encoder": (str,),
    "metrics": (dict,),
    "libraries": (dict,),
    "meta": (dict,),
    "files": (dict,),
}


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest that `Manifest.to_bytes` wrote.

    Raises:
        SnapshotCorrupt: `to_bytes` cannot have written these bytes. The message names no file.
    """
    try:
        document = json.loads(data)
        body = _members(document, {"manifest": (dict,), "sha256": (str,)})["manifest"]
        found = body.get("format_version")
        if found != FORMAT_VERSION:
            raise ValueError(f"format version {found!r} instead of {FORMAT_VERSION}")
        values = _members(body, _KINDS)
        _check_values(values["metrics"], float)
        _check_values(values["libraries"], str)
        _check_values(values["files"], dict)
        values["files"] = {name: _file_entry(entry) for name, entry in values["files"].items()}
        manifest = Manifest(**values)
        written = _written(body)  # its members are those of the manifest, by now
    except (ValueError, RecursionError) as error:
        raise SnapshotCorrupt(f"not a valid manifest: {error}") from error
    if written != data:
        raise SnapshotCorrupt("its hash or its bytes differ from those that were written")
    return manifest


def _file_entry(entry: dict[str, Any]) -> FileEntry:
    values = _members(entry, {"sha256": (str,), "num_bytes": (int,), "tensors": (dict,)})
    _check_values(values["tensors"], dict)
    tensors = {}
    for name, tensor in values["tensors"].items():
        members = _members(tensor, {"dtype": (str,), "shape": (list,)})
        if not all(type(size) is int and size >= 0 for size in members["shape"]):
            raise ValueError(f"shape of {name!r} is {members['shape']!r}")
        tensors[name] = TensorEntry(members["dtype"], tuple(members["shape"]))
    return FileEntry(values["sha256"], values["num_bytes"], tensors)


def _members(value: object, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the members of a JSON object; they must be exactly those of `kinds`, in type, too."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ValueError(f"expected an object with the members {sorted(kinds)}")
    for name, kind in kinds.items():
        if type(value[name]) not in kind:
            raise ValueError(f"{name} is {value[name]!r:.80}")
    return dict(value)


def _check_values(mapping: dict[str, object], kind: type) -> None:
    for name, value in mapping.items():
        if type(value) is not kind:
            raise ValueError(f"{name} is {value!r:.80}")


assert _KINDS.keys() == {each.name for each in fields(Manifest)}
