"""Shared by the snapshot tests: publish with defaults, compare tensors, stop a file system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandexa_core.filesystem import LocalFileSystem
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.store import SnapshotStore


class SteppedFileSystem(LocalFileSystem):
    """The real file system without its slow syncs; it records each step.

    From call number `stop_at` on, every call fails, as if the process had died. A write that fails
    has written half of its bytes.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.calls: list[tuple[str, str]] = []
        self._open: dict[int, Path] = {}

    def _step(self, name: str, path: Path) -> None:
        if self.stop_at is not None and len(self.calls) + 1 >= self.stop_at:
            raise OSError(28, f"stopped before {name}", path.name)
        self.calls.append((name, path.name))

    def make_dir(self, path: Path) -> None:
        self._step("make_dir", path)
        super().make_dir(path)

    def open_file(self, path: Path, *, create: bool) -> int:
        self._step("open_file", path)
        fd = super().open_file(path, create=create)
        self._open[fd] = path
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        try:
            self._step("write", self._open[fd])
        except OSError:
            super().write(fd, data[: len(data) // 2], offset)
            raise
        super().write(fd, data, offset)

    def truncate(self, fd: int, num_bytes: int) -> None:
        self._step("truncate", self._open[fd])
        super().truncate(fd, num_bytes)

    def sync_file(self, fd: int) -> None:
        self._step("sync_file", self._open[fd])

    def sync_dir(self, path: Path) -> None:
        self._step("sync_dir", path)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target)
        super().rename(source, target)

    def remove_file(self, path: Path) -> None:
        self._step("remove_file", path)
        super().remove_file(path)

    def remove_dir(self, path: Path) -> None:
        self._step("remove_dir", path)
        super().remove_dir(path)


def _publish(
    store: SnapshotStore, version: int, files=None, before_rename=None, **changes: Any
) -> Manifest:
    """Publish a snapshot; tensors and manifest derive from the version unless they are given."""
    if files is None:
        files = {
            "encoder": {"layer.weight": np.full((3, 2), version, np.float32)},
            "posterior": {"0/root": np.eye(2) * version, "0/n": np.array(version)},
        }
    values: dict[str, Any] = {
        "version": version,
        "parent": version - 1 if version else None,
        "bandit_uid": "b-1",
        "position": 100 * version,
        "log_hash": f"{version:064x}",
        "spec_hash": "5e",
        "num_rows": 10 * version,
        "epoch": 3,
        "encoder": "mlp",
        "metrics": {"loss": 0.1 * version},
        "meta": {"seed": 0, "scales": [1.5, None, {"a": "\u00e9\U0001f600"}]},
    }
    return store.publish(Manifest(**{**values, **changes}), files, before_rename)


def _assert_same_tensors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        assert found[name].shape == array.shape, name
        little = array.astype(array.dtype.newbyteorder("<"))
        assert found[name].tobytes() == little.tobytes(), name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bandits" / "b-1"


@pytest.fixture
def store(root: Path) -> SnapshotStore:
    return SnapshotStore(root, fs=SteppedFileSystem(), clock=lambda: 1234.5)


@pytest.fixture(scope="session")
def publish():
    return _publish


@pytest.fixture(scope="session")
def stepped():
    return SteppedFileSystem


@pytest.fixture(scope="session")
def assert_same_tensors():
    return _assert_same_tensors


@pytest.fixture(scope="session")
def odd_tensors() -> dict[str, Any]:
    """Return arrays of every storable dtype, and of memory layouts that are easy to get wrong."""
    rng = np.random.default_rng(0)
    tensors = {
        f"plain/{np.dtype(code).name}": (rng.normal(size=(3, 4)) * 9).astype(code)
        for code in "dfeqihbQIHB?"
    }
    square = np.arange(12.0).reshape(3, 4)
    return tensors | {
        "0-d": np.array(-2.5),
        "0-d bool": np.array(True),
        "empty": np.zeros((0, 5), np.float32),
        "empty/inner": np.zeros((2, 0, 3), np.int64),
        "transposed": square.T,
        "strided": square[::2, ::-3],
        "broadcast": np.broadcast_to(np.float32(7), (2, 3)),
        "big endian": square.astype(">f8"),
        "fortran": np.asfortranarray(square),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324]),
        "12/root/\u00e9": np.array([1], np.uint8),
    }
