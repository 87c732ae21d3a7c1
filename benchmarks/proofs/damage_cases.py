"""The damages of `damage`: which files are cut, changed or deleted, on a copy of a directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Origin:
    """A directory to be damaged, and the answers of a server on it while it is whole."""

    data: Path
    said: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One damage; `group` and `how` name its row of the table."""

    origin: str
    group: str
    path: str
    how: str
    apply: Callable[[Path], None]


def _cut(num_bytes: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        size = path.stat().st_size
        left = num_bytes if num_bytes >= 0 else size + num_bytes
        path.write_bytes(path.read_bytes()[:left])

    return apply


def _half(path: Path) -> None:
    _cut(path.stat().st_size // 2)(path)


def _flip(place: float, bit: int) -> Callable[[Path], None]:
    """Change one bit at a relative place of a file."""

    def apply(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(len(data) - 1, int(place * len(data)))] ^= 1 << bit
        path.write_bytes(data)

    return apply


def damage_cases(origins: dict[str, Origin], rng: np.random.Generator) -> Iterator[Case]:
    """Yield every damage, file by file."""

    def both(origin: str, group: str, path: str, cuts: Sequence[int], flips: int) -> Iterator[Case]:
        for cut in (*cuts, None):
            how = _half if cut is None else _cut(cut)
            yield Case(origin, group, path, "cut", how)
        for number in range(flips):
            place = (number + rng.random()) / flips
            yield Case(origin, group, path, "bit", _flip(place, int(rng.integers(8))))
        if "." in Path(path).name:
            yield Case(origin, group, path, "deleted", _deleted)

    stopped = origins["stopped"].data
    for name in ("linear", "neural"):
        newest = sorted(_snapshots(stopped, origins["stopped"].said[name]["uid"]))[-1]
        folder = str(newest.relative_to(stopped))
        for file in ("manifest.json", "model.safetensors", "training.safetensors"):
            group = f"snapshot {file.partition('.')[0]}"
            yield from both("stopped", group, f"{folder}/{file}", (0, -1), 4)
        yield Case("stopped", "snapshot, whole", folder, "deleted", _deleted)
        yield Case(
            "stopped", "snapshots, all", str(newest.parent.relative_to(stopped)), "bit", _all
        )
    replay = f"replay/{origins['stopped'].said['neural']['uid']}"
    shards = sorted((stopped / replay).glob("shard-*.rows"))
    for shard in (shards[0], shards[-1]):
        yield from both("stopped", "replay rows", f"{replay}/{shard.name}", (0, -1), 4)
    yield from both("stopped", "replay state", f"{replay}/replay.json", (0, -1), 4)
    yield from both("stopped", "database", "bandexa.db", (0, 100, 4096, -1), 30)
    for cut in (0, 20, 32, 4000, -1, -5000):
        yield Case("killed", "write-ahead log", "bandexa.db-wal", "cut", _cut(cut))
    for number in range(8):
        place = (number + rng.random()) / 8
        yield Case("killed", "write-ahead log", "bandexa.db-wal", "bit", _flip(place, 3))
    yield Case("killed", "shared memory", "bandexa.db-shm", "bit", _flip(0.01, 0))
    yield Case("killed", "shared memory", "bandexa.db-shm", "cut", _cut(100))
    yield Case("killed", "lock", "bandexa.db.lock", "cut", _cut(0))
    yield Case("killed", "lock", "bandexa.db.lock", "bit", _flip(0.5, 1))


def _deleted(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _all(path: Path) -> None:
    for file in path.rglob("model.safetensors"):
        _flip(0.5, 0)(file)


def _snapshots(data: Path, uid: str) -> list[Path]:
    return [path for path in (data / "snapshots" / uid).iterdir() if path.is_dir()]
