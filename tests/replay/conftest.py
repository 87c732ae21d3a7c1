"""Shared by the replay tests: rows derived from positions, a plain model, a lossy disk."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.filesystem import LocalFileSystem
from bandexa_core.replay import Replay, RowLayout, Rows


def _make_rows(layout: RowLayout, positions, salt: int = 0) -> Rows:
    """Return rows whose values all derive from position and salt."""
    positions = np.asarray(positions, np.int64)
    seeds = positions.reshape(-1, 1) * 31 + salt
    size = int(np.prod(layout.context_shape))
    contexts = (seeds * 7 + np.arange(size) * 13) % 251
    if layout.context_dtype != "uint8":
        contexts = contexts / 7 - 11
    return Rows(
        positions=positions,
        slots=positions % 5 - 1,
        rewards=positions / 3 + salt,
        actions=((seeds + np.arange(layout.action_dim)) / 9).astype(np.float32),
        contexts=contexts.astype(layout.context_dtype).reshape(-1, *layout.context_shape),
    )


def _join(batches: list[Rows], layout: RowLayout) -> Rows:
    batches = [*batches, _make_rows(layout, [])]
    names = Rows.__dataclass_fields__
    return Rows(*(np.concatenate([getattr(rows, name) for rows in batches]) for name in names))


def _assert_same(found: Rows, expected: Rows) -> None:
    for name in Rows.__dataclass_fields__:
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        assert left.shape == right.shape, name
        assert left.tobytes() == right.tobytes(), name


class PlainModel:
    """The expected rows of a replay: a dictionary of batches of one row, ordered by position."""

    def __init__(self, layout: RowLayout, capacity: int | None = None) -> None:
        self.layout = layout
        self.capacity = capacity
        self.rows: OrderedDict[int, Rows] = OrderedDict()
        self.evicted_through = -1

    def append(self, rows: Rows) -> None:
        for number in range(len(rows)):
            position = int(rows.positions[number])
            if position <= self.evicted_through:
                continue
            fields = (getattr(rows, name) for name in Rows.__dataclass_fields__)
            self.rows[position] = Rows(*(field[number : number + 1].copy() for field in fields))
            if self.capacity is not None and len(self.rows) > self.capacity:
                self.evicted_through, _ = self.rows.popitem(last=False)

    def correct(self, positions, rewards) -> int:
        found = {int(p) for p in positions} & self.rows.keys()
        for position, reward in zip(positions, rewards, strict=True):
            if int(position) in found:
                self.rows[int(position)].rewards[0] = reward
        return len(found)

    def all(self) -> Rows:
        return _join(list(self.rows.values()), self.layout)

    def assert_equals(self, replay: Replay, chunk: int = 3) -> None:
        assert len(replay) == len(self.rows)
        _assert_same(_join(list(replay.scan(chunk)), self.layout), self.all())


class LossyFileSystem(LocalFileSystem):
    """The real file system, with a record of what a power loss would leave, and a way to stop.

    From call number `stop_at` on, every call fails, as if the process had died. A write that fails
    has written half of its bytes. Nothing is really synced: the record replaces it and is faster.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.calls: list[tuple[str, str]] = []
        self._live: dict[Path, object] = {}  # names now, and the file behind each
        self._synced_names: dict[Path, object] = {}
        self._synced_bytes: dict[object, bytes] = {}
        self._open: dict[int, tuple[Path, object]] = {}

    def _step(self, name: str, path: Path) -> None:
        if self.stop_at is not None and len(self.calls) + 1 >= self.stop_at:
            raise OSError(f"stopped before {name} of {path.name}")
        self.calls.append((name, path.name))

    def make_dir(self, path: Path) -> None:
        self._step("make_dir", path)
        super().make_dir(path)

    def open_file(self, path: Path, *, create: bool) -> int:
        if path not in self._live:
            self._step("create", path)
            self._live[path] = object()
        fd = super().open_file(path, create=create)
        self._open[fd] = (path, self._live[path])
        return fd

    def write(self, fd: int, data, offset: int) -> None:
        try:
            self._step("write", self._open[fd][0])
        except OSError:
            super().write(fd, data[: len(data) // 2], offset)
            raise
        super().write(fd, data, offset)

    def truncate(self, fd: int, num_bytes: int) -> None:
        self._step("truncate", self._open[fd][0])
        super().truncate(fd, num_bytes)

    def sync_file(self, fd: int) -> None:
        path, file = self._open[fd]
        self._step("sync_file", path)
        self._synced_bytes[file] = os.pread(fd, os.fstat(fd).st_size, 0)

    def sync_dir(self, path: Path) -> None:
        self._step("sync_dir", path)
        names = {name: file for name, file in self._synced_names.items() if name.parent != path}
        names.update((name, file) for name, file in self._live.items() if name.parent == path)
        self._synced_names = names

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target)
        super().rename(source, target)
        self._live[target] = self._live.pop(source)

    def remove_file(self, path: Path) -> None:
        self._step("remove_file", path)
        super().remove_file(path)
        self._live.pop(path)

    def survivors(self, root: Path, target: Path, how: str) -> None:
        """Write to `target` what is left of `root` after a crash of the given kind."""
        target.mkdir()
        # process: only the process died, and the kernel wrote everything later.
        # lost: the power failed, and only synced names and bytes reached the disk.
        # zeroed: the power failed, and names and sizes reached the disk, but only synced bytes.
        names = self._synced_names if how == "lost" else self._live
        for path, file in names.items():
            data = self._synced_bytes.get(file, b"")
            if how == "process":
                data = path.read_bytes()
            elif how == "zeroed":
                size = path.stat().st_size
                data = data[:size].ljust(size, b"\0")
            (target / path.name).write_bytes(data)


class NoSyncFileSystem(LocalFileSystem):
    """The real file system without its slow syncs, for tests without a power loss."""

    def sync_file(self, fd: int) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


@pytest.fixture
def layout() -> RowLayout:
    return RowLayout((3,), "uint8", 2)


@pytest.fixture(scope="session")
def make_rows():
    return _make_rows


@pytest.fixture(scope="session")
def join():
    return _join


@pytest.fixture(scope="session")
def assert_same():
    return _assert_same


@pytest.fixture(scope="session")
def plain_model():
    return PlainModel


@pytest.fixture(scope="session")
def lossy_file_system():
    return LossyFileSystem


@pytest.fixture(scope="session")
def no_sync() -> NoSyncFileSystem:
    return NoSyncFileSystem()
