"""A recorded disk, and the states that a power loss may leave of it.

`shim/recorded_disk.c` records what a process does to its files. Here the records are replayed into
a model that stores, for every file, what was synced and what was only written since, and for every
directory which of its names were synced. `Disk.lose_power` then writes one of the states that
POSIX allows after a power loss at that moment: everything synced, and a random part of the rest.
Unsynced writes of a file survive or are lost one by one, whole or torn. Unsynced names of a
directory survive up to a random one, each directory by itself. A sync of a file does not save its
name, which is stricter than most file systems are.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

SHIM = Path(__file__).with_name("shim") / "recorded_disk.c"
_HEAD = struct.Struct("=IIQQQQ")
_SECTOR = 512

Keep = Literal["nothing", "everything", "some", "torn"]


def build_shim(folder: Path) -> Path:
    """Compile the recorder into a folder; returns the library to preload.

    Raises:
        RuntimeError: There is no gcc, or it failed.
    """
    library = folder / "recorded_disk.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl", "-lpthread"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"the recorder cannot be built: {error}") from error
    return library


def recording(library: Path, root: Path, trace: Path) -> dict[str, str]:
    """Return the environment under which a process records what it does below `root`."""
    return {
        "LD_PRELOAD": str(library), "RECORDED_ROOT": str(root), "RECORDED_TRACE": str(trace),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One operation. `number` is its inode, `offset` that of a write (see the shim)."""

    op: str
    time_ns: int
    number: int
    offset: int
    path: str
    target: str
    data: bytes


def read_trace(path: Path) -> list[Record]:
    """Return all records, in the order of their effects."""
    raw = memoryview(path.read_bytes())
    found, at = [], 0
    while at < len(raw):
        op, num_paths, time_ns, number, offset, size = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        name, _, target = bytes(raw[at : at + num_paths]).decode().partition("\0")
        at += num_paths
        data = bytes(raw[at : at + size])
        at += size
        found.append(Record(chr(op), time_ns, number, offset, name, target, data))
    return found


@dataclass(slots=True)
class _File:
    """What was synced, and the writes since: (record, offset, bytes); None: a cut to offset."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, int, bytes | None]] = field(default_factory=list)


@dataclass(slots=True)
class _Directory:
    """Synced names, present names, and the changes since: (record, removed, added, node)."""

    synced: dict[str, _Node] = field(default_factory=dict)
    now: dict[str, _Node] = field(default_factory=dict)
    since: list[tuple[int, str | None, str | None, _Node | None]] = field(default_factory=list)


_Node = _File | _Directory


class Disk:
    """The files below one directory after the records so far.

    Args:
        root: The recorded directory, which exists, is empty and is synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = _Directory()
        self._inodes: dict[int, _File] = {}
        self._syncs: dict[int, int] = {}  # by token: how many records there were
        self._count = 0

    def apply(self, record: Record) -> None:
        """Apply one more operation."""
        self._count += 1
        getattr(self, f"_apply_{record.op}")(record)

    # -- files --------------------------------------------------------------------------------

    def _file(self, record: Record) -> _File:
        """Return the file of a record; a file that existed at the start is found by its path."""
        known = self._inodes.get(record.number)
        if known is None:
            found = self._find(record.path)
            assert isinstance(found, _File), record.path
            known = self._inodes[record.number] = found
        return known

    def _apply_C(self, record: Record) -> None:
        self._inodes[record.number] = made = _File()
        self._add(record.path, made)

    def _apply_W(self, record: Record) -> None:
        self._file(record).since.append((self._count, record.offset, record.data))

    def _apply_T(self, record: Record) -> None:
        self._file(record).since.append((self._count, record.offset, None))

    def _apply_B(self, record: Record) -> None:
        self._syncs[record.offset] = self._count

    def _apply_E(self, record: Record) -> None:
        """Mark as synced what had been written when the sync began."""
        begun = self._syncs.pop(record.offset)
        found = self._find(record.path)
        if isinstance(found, _Directory):
            while found.since and found.since[0][0] < begun:
                _rename(found.synced, *found.since.pop(0)[1:])
            return
        file = self._file(record)
        while file.since and file.since[0][0] < begun:
            _, offset, data = file.since.pop(0)
            _write(file.synced, offset, data)

    # -- names --------------------------------------------------------------------------------

    def _apply_M(self, record: Record) -> None:
        self._add(record.path, _Directory())

    def _apply_U(self, record: Record) -> None:
        parent, name = self._parent(record.path)
        del parent.now[name]  # a process that has it open may write on; a C reuses its number
        parent.since.append((self._count, name, None, None))

    _apply_D = _apply_U

    def _apply_R(self, record: Record) -> None:
        parent, name = self._parent(record.path)
        other, new_name = self._parent(record.target)
        assert other is parent, "nothing here moves between directories"
        moved = parent.now.pop(name)
        parent.now[new_name] = moved
        parent.since.append((self._count, name, new_name, moved))

    def _add(self, path: str, node: _Node) -> None:
        parent, name = self._parent(path)
        parent.now[name] = node
        parent.since.append((self._count, None, name, node))

    def _parent(self, path: str) -> tuple[_Directory, str]:
        before, _, name = path.rpartition("/")
        parent = self._find(before)
        assert isinstance(parent, _Directory), path
        return parent, name

    def _find(self, path: str) -> _Node | None:
        found: _Node | None = self._top
        for part in path.removeprefix(self._root).split("/"):
            if part:
                found = found.now.get(part) if isinstance(found, _Directory) else None
        return found

    # -- power loss -----------------------------------------------------------------------------

    def lose_power(self, target: Path, keep: Keep, rng: np.random.Generator) -> None:
        """Write one of the possible states after a power loss now into a new directory."""
        _write_out(self._top, target, keep, rng)


def _rename(
    names: dict[str, _Node], removed: str | None, added: str | None, node: _Node | None
) -> None:
    if removed is not None:
        names.pop(removed, None)
    if added is not None:
        assert node is not None
        names[added] = node


def _write(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    end = offset if data is None else offset + len(data)
    content.extend(bytes(max(0, end - len(content))))
    if data is not None:
        content[offset:end] = data


def _write_out(node: _Directory, target: Path, keep: Keep, rng: np.random.Generator) -> None:
    target.mkdir()
    names, num = dict(node.synced), len(node.since)
    num_kept = {"nothing": 0, "everything": num}.get(keep)
    for _, removed, added, what in node.since[
        : rng.integers(num + 1) if num_kept is None else num_kept
    ]:
        _rename(names, removed, added, what)
    for name, entry in sorted(names.items()):
        if isinstance(entry, _Directory):
            _write_out(entry, target / name, keep, rng)
        else:
            (target / name).write_bytes(_content(entry, keep, rng))


def _content(file: _File, keep: Keep, rng: np.random.Generator) -> bytes:
    content = bytearray(file.synced)
    if keep == "nothing":
        return bytes(content)
    share = 1.0 if keep == "everything" else rng.random()
    for _, offset, data in file.since:
        if rng.random() >= share:
            continue
        pieces = _pieces(offset, data, rng) if keep == "torn" and data else [(offset, data)]
        for start, piece in pieces:
            _write(content, start, piece)
    return bytes(content)


def _pieces(
    offset: int, data: bytes, rng: np.random.Generator
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the sectors of a write that reached the disk; the others have their old content."""
    first = 0
    while first < len(data):
        end = min(len(data), (offset + first) // _SECTOR * _SECTOR + _SECTOR - offset)
        if rng.random() < 0.5:
            yield offset + first, data[first:end]
        first = end


def same_tree(first: Path, second: Path, *, but: str) -> list[str]:
    """Return the paths that differ between two directories, except names that end in `but`."""

    def content(root: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
            for path in root.rglob("*")
            if not path.name.endswith(but)
        }

    one, two = content(first), content(second)
    return sorted(path for path in one.keys() | two.keys() if one.get(path, 0) != two.get(path, 0))
