"""Measures random batches of the disk replay against other ways to read the same bytes.

For each size of row, one temporary directory holds a replay, one flat file for np.memmap and shards
written by torch.save. All ways read random batches in turn, so that they share the machine's noise;
the figures are medians. Hot: after everything was read once. Cold: after fsync and
posix_fadvise(DONTNEED) of every file, which drops it from the page cache of this machine; caches
beyond it (of a virtual disk's host, of the disk) stay warm. Everything runs in one process with the
replay's reading threads.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bandexa_core.replay import DiskReplay, RowBuffers, RowLayout, Rows
from benchmarks.report import Target, arguments, report

_SHAPES = ((3, 224, 224), (28, 28))
_BATCH, _ROWS, _SHARD_ROWS = 256, 20_000, 2048
_LRU_SHARDS = 2
_THREADS = 8  # of the replay, and of preadv
_WRITE_BYTES = 64 * 2**20
_ROUNDS, _QUICK_ROUNDS = 9, 3
_HOT_ROUNDS = 3  # for each cold one
_BLOCK_S = 0.01  # a hot measurement runs about so long: less than another process is let run
_SLOW_S = 20.0  # a way that took so long in all is not measured again
_ROOM = 1.1  # of the bytes written, to be free before


@dataclass(frozen=True)
class _Way:
    """A way to read: `read(indices)` at sorted or drawn rows, and how to drop its caches."""

    name: str
    read: Callable[[NDArray[np.int64]], object]
    forget: Callable[[], None] = lambda: None


class _Preadv:
    """One preadv for each row, offsets sorted, by some threads, into one buffer."""

    def __init__(self, root: Path, layout: RowLayout, threads: int) -> None:
        paths = sorted(root.glob("shard-*.rows"))
        self._fds = [os.open(path, os.O_RDONLY) for path in paths]
        self._size = layout.context_bytes
        self._row_bytes = layout.row_bytes
        self._target = memoryview(np.zeros(_BATCH * self._size, np.uint8).data)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def read(self, indices: NDArray[np.int64]) -> None:
        rows = list(enumerate(np.sort(indices).tolist()))
        if self._threads == 1:
            self._part(rows)
            return
        step = math.ceil(len(rows) / self._threads)
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        for _ in self._pool.map(self._part, parts):
            pass

    def _part(self, rows: list[tuple[int, int]]) -> None:
        size, header = self._size, self._row_bytes - self._size
        for place, index in rows:
            shard, row = divmod(index, _SHARD_ROWS)
            into = self._target[place * size : place * size + size]
            if os.preadv(self._fds[shard], [into], row * self._row_bytes + header) != size:
                raise EOFError(f"row {index} is not there")

    def close(self) -> None:
        self._pool.shutdown()
        for fd in self._fds:
            os.close(fd)


class _Memmap:
    """Fancy indexing of one flat file mapped into memory, offsets sorted."""

    def __init__(self, path: Path, layout: RowLayout, num_rows: int) -> None:
        self._path = path
        self._shape = (num_rows, *layout.context_shape)
        self._map: NDArray[np.uint8] | None = None

    def read(self, indices: NDArray[np.int64]) -> object:
        if self._map is None:
            self._map = np.memmap(self._path, np.uint8, "r", shape=self._shape)
        return np.asarray(self._map[np.sort(indices)])

    def forget(self) -> None:
        """Unmap: pages that are mapped are not dropped from the cache."""
        self._map = None


class _TorchShards:
    """Shards that torch.load loads whole; the last two stay in memory; rows in the order drawn.

    Each row is copied at once: a view of it would hold its whole shard in memory, and a batch would
    take tens of gigabytes.
    """

    def __init__(self, root: Path, layout: RowLayout) -> None:
        self._paths = sorted(root.glob("*.pt"))
        self._loaded: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._target = torch.zeros((_BATCH, *layout.context_shape), dtype=torch.uint8)

    def read(self, indices: NDArray[np.int64]) -> None:
        for place, index in enumerate(indices.tolist()):
            self._target[place] = self._row(*divmod(index, _SHARD_ROWS))

    def _row(self, shard: int, row: int) -> torch.Tensor:
        contexts = self._loaded.pop(shard, None)
        if contexts is None:
            contexts = torch.load(self._paths[shard], weights_only=True)["contexts"]
        self._loaded[shard] = contexts
        while len(self._loaded) > _LRU_SHARDS:
            self._loaded.popitem(last=False)
        return contexts[row]

    def forget(self) -> None:
        self._loaded.clear()


def _fill(folder: Path, layout: RowLayout, num_rows: int) -> DiskReplay:
    """Write the same random rows as a replay, a flat file and torch shards."""
    replay = DiskReplay(folder / "replay", layout, shard_size=_SHARD_ROWS, read_threads=_THREADS)
    rng = np.random.default_rng(0)
    step = max(1, _WRITE_BYTES // layout.row_bytes)
    with (folder / "flat.bin").open("wb") as flat:
        for start in range(0, num_rows, _SHARD_ROWS):
            shard = rng.integers(
                0, 256, (min(_SHARD_ROWS, num_rows - start), *layout.context_shape), np.uint8
            )
            shard.tofile(flat)
            torch.save({"contexts": torch.from_numpy(shard)}, folder / f"{start:08d}.pt")
            for low in range(0, len(shard), step):
                contexts = shard[low : low + step]
                num = len(contexts)
                replay.append(
                    Rows(
                        positions=np.arange(start + low + 1, start + low + 1 + num),
                        slots=np.zeros(num, np.int64),
                        rewards=np.zeros(num),
                        actions=np.zeros((num, 0), np.float32),
                        contexts=contexts,
                    )
                )
    replay.flush()
    return replay


def _drop(folder: Path) -> None:
    """Drop every file below `folder` from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)  # what is not written yet would stay
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def _warm(folder: Path) -> None:
    """Read every file below `folder`, so that the page cache holds what it has room for."""
    buffer = bytearray(_WRITE_BYTES)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def _medians_s(
    ways: Sequence[_Way], num_rows: int, rounds: int, folder: Path, *, cold: bool
) -> dict[str, float]:
    """Return the median seconds of a batch for each way, one after the other in every round."""
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    repeats = dict.fromkeys(times, 1)
    if not cold:
        rounds *= _HOT_ROUNDS
        _warm(folder)
    for number in range(rounds + 1):  # the first warms up
        for way in ways:
            taken = times[way.name]
            if taken and (number == 0 or sum(taken) * repeats[way.name] > _SLOW_S):
                continue
            if cold:
                way.forget()
                _drop(folder)
            num = repeats[way.name]
            batches = [rng.integers(0, num_rows, _BATCH) for _ in range(num)]
            started = time.perf_counter()
            for indices in batches:
                way.read(indices)
            batch_s = (time.perf_counter() - started) / num
            if number or batch_s > _SLOW_S:
                taken.append(batch_s)
            elif not cold:
                repeats[way.name] = max(1, int(_BLOCK_S / batch_s))
    return {name: float(np.median(taken)) for name, taken in times.items()}


def _measure(folder: Path, layout: RowLayout, num_rows: int, rounds: int) -> dict[str, Any]:
    """Return the megabytes per second of every way for one size of row."""
    mega = _BATCH * layout.context_bytes / 1e6
    rng = np.random.default_rng(2)
    with _fill(folder, layout, num_rows) as replay:
        out = RowBuffers.for_rows(layout, _BATCH)
        one = _Preadv(folder / "replay", layout, 1)
        several = _Preadv(folder / "replay", layout, _THREADS)
        memmap = _Memmap(folder / "flat.bin", layout, num_rows)
        shards = _TorchShards(folder, layout)
        ways = [
            _Way("replay", lambda _: replay.sample(rng, _BATCH, out=out)),
            _Way("preadv_1_thread", one.read),
            _Way(f"preadv_{_THREADS}_threads", several.read),
            _Way("memmap", memmap.read, memmap.forget),
            _Way("torch_shards", shards.read, shards.forget),
        ]
        try:
            found = {
                state: _medians_s(ways, num_rows, rounds, folder, cold=state == "cold")
                for state in ("cold", "hot")
            }
        finally:
            one.close()
            several.close()
    return {
        state: {name: mega / seconds for name, seconds in medians.items()}
        for state, medians in found.items()
    }


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _print(shape: tuple[int, ...], num_rows: int, found: dict[str, Any]) -> None:
    total = num_rows * math.prod(shape) / 1e6
    print(f"\n{num_rows} rows of {_name(shape)} uint8 ({total:.0f} MB), batches of {_BATCH}, MB/s")
    print(f"{'':>18} {'hot':>10} {'cold':>10}")
    for way in found["hot"]:
        print(f"{way:>18} {found['hot'][way]:>10.1f} {found['cold'][way]:>10.1f}")


def _run(num_rows: int, rounds: int, directory: Path | None) -> dict[str, float]:
    """Measure every size of row and return the figures."""
    results: dict[str, float] = {"rows": num_rows, "batch": _BATCH, "threads": _THREADS}
    for shape in _SHAPES:
        layout = RowLayout(shape, "uint8", 0)
        with tempfile.TemporaryDirectory(prefix="bandexa-replay-", dir=directory) as name:
            found = _measure(Path(name), layout, num_rows, rounds)
        _print(shape, num_rows, found)
        for state, speed in found.items():
            key = f"{_name(shape)}_{state}"
            results |= {f"{key}_{way}_mb_s": mb_s for way, mb_s in speed.items()}
            results[f"{key}_of_preadv"] = speed["replay"] / speed[f"preadv_{_THREADS}_threads"]
            results[f"{key}_over_torch_shards"] = speed["replay"] / speed["torch_shards"]
    return results


def _targets() -> dict[str, Target]:
    return {
        f"{_name(shape)}_{state}_{name}": Target(least, at_most=False, unit=unit)
        for shape in _SHAPES
        for state in ("hot", "cold")
        for name, least, unit in (
            ("of_preadv", 0.7, "of preadv's speed"),
            ("over_torch_shards", 20.0, "times torch shards"),
        )
    }


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status, which is 2 when the disk is too small."""
    parser = arguments("replay", __doc__)
    parser.add_argument("--rows", type=int, default=_ROWS, help="rows of each replay")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--dir", type=Path, help="where the temporary directory is made")
    given = parser.parse_args(argv)
    if given.rows < 1:
        parser.error("--rows must be at least 1")
    directory = given.dir or Path(tempfile.gettempdir())
    needed = int(3 * given.rows * math.prod(_SHAPES[0]) * _ROOM)
    free = shutil.disk_usage(directory).free
    if free < needed:
        print(
            f"benchmarks replay: {directory} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB "
            f"are needed; give fewer --rows, or another directory",
            file=sys.stderr,
        )
        return 2
    print("cold: after fsync and posix_fadvise(DONTNEED) of every file; a host's cache stays")
    results = _run(given.rows, _QUICK_ROUNDS if given.quick else _ROUNDS, directory)
    return report("replay", results, given.json, targets=_targets())
