"""The replay: the rewarded decisions of one bandit as training rows, as every backend keeps them.

A replay is derived from the log and disposable. It runs in the process that trains, used by one
thread at a time. It makes one promise across a crash: all of the log up to `followed` is in it
(less what capacity evicted). Some of what comes after may be too, corrections even in part; so the
caller follows the log from `followed` before it uses the rows, and applying twice changes nothing.

Shapes: N rows, X the context shape, A the action features per row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import LogPosition

ContextDtype = Literal["uint8", "float32", "float64"]
# Positions of rows (N,) to their weights (N,).
RowWeights = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The fixed shapes of one replay.

    Attributes:
        context_shape: X, every size at least 1; () is a scalar context.
        context_dtype: the dtype contexts arrived in, kept as it is.
        action_dim: A, the float32 features of an action; 0 when actions have none.
    """

    context_shape: tuple[int, ...]
    context_dtype: ContextDtype
    action_dim: int

    def __post_init__(self) -> None:
        """Refuse sizes and dtypes that no replay can hold."""
        if not isinstance(self.context_shape, tuple) or not all(
            _is_count(size, least=1) for size in self.context_shape
        ):
            raise ValueError(f"context_shape must be a tuple of sizes >= 1: {self.context_shape!r}")
        if self.context_dtype not in get_args(ContextDtype):
            raise ValueError(
                f"context_dtype must be uint8, float32 or float64, not {self.context_dtype!r}"
            )
        if not _is_count(self.action_dim, least=0):
            raise ValueError(f"action_dim must be an integer >= 0, not {self.action_dim!r}")

    @property
    def context_bytes(self) -> int:
        """Bytes of one context."""
        return math.prod(self.context_shape) * np.dtype(self.context_dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: position, slot, reward, checksums, action features and context."""
        return 32 + 4 * self.action_dim + self.context_bytes


@dataclass(frozen=True, slots=True)
class RowBuffers:
    """Arrays that a batch of N rows is read into, so that its memory is taken once.

    Attributes:
        actions: float32 (N, A), C-contiguous.
        contexts: (N, *X) in the layout's dtype, C-contiguous.
    """

    actions: NDArray[np.float32]
    contexts: NDArray[np.generic]

    @classmethod
    def for_rows(
        cls,
        layout: RowLayout,
        num_rows: int,
        allocate: Callable[[tuple[int, ...], str], NDArray[Any]] = np.empty,
    ) -> RowBuffers:
        """Return buffers for so many rows; `allocate` makes an array of a shape and dtype name."""
        return cls(
            allocate((num_rows, layout.action_dim), "float32"),
            allocate((num_rows, *layout.context_shape), layout.context_dtype),
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of training rows.

    Attributes:
        positions: int64 (N,), the log position of the row's first learn row: the row's identity,
            strictly increasing in the order rows are appended.
        slots: int64 (N,), the catalogue slot of the chosen action; -1 for an inline action that
            is not in the catalogue.
        rewards: float64 (N,), the value of the decision, corrections included.
        actions: float32 (N, A), the features of the chosen action.
        contexts: (N, *X) in the dtype they arrived in.
    """

    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    rewards: NDArray[np.float64]
    actions: NDArray[np.float32]
    contexts: NDArray[np.generic]

    def __len__(self) -> int:
        """Return N."""
        return len(self.positions)

    def part(self, numbers: slice) -> Rows:
        """Return the rows of those numbers, sharing memory."""
        return Rows(
            self.positions[numbers],
            self.slots[numbers],
            self.rewards[numbers],
            self.actions[numbers],
            self.contexts[numbers],
        )


class TrainingRows(Protocol):
    """Rows that a round trains on and rebuilds from."""

    @property
    def layout(self) -> RowLayout:
        """The shapes of the rows."""

    @property
    def is_on_disk(self) -> bool:
        """Whether reading rows may wait for a disk, so that it pays to read ahead."""

    def positions(self) -> NDArray[np.int64]:
        """Return the positions of the rows kept, in order: a copy, (N,)."""

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        cumulative_N: NDArray[np.float64] | None = None,
        out: RowBuffers | None = None,
    ) -> Rows:
        """Draw rows with replacement, returned in the order they are stored in.

        Args:
            rng: source of the draws.
            batch_size: how many rows.
            cumulative_N: running sums of the weights of all rows kept, by which they are drawn;
                None: uniformly.
            out: where actions and contexts are read to, instead of new arrays; the rows returned
                share its memory.

        Raises:
            ValueError: there are no rows, `batch_size` is below 1, the sums are not one for
                each row with a positive total, or `out` has another shape, dtype or memory order.
        """

    def scan(self, chunk: int) -> Iterator[Rows]:
        """Yield the rows kept at the time of the call in order, `chunk` at a time.

        Rows evicted while the scan runs are left out; rewards are those at the time of reading.
        """

    def __len__(self) -> int:
        """Return the number of rows kept; never above the capacity."""


class Replay(TrainingRows, Protocol):
    """What the trainer knows of a replay. Not safe for use from several threads at once.

    Every method raises ClosedError after close, and ReplayError when the backend fails to read or
    write; a wrong argument is a ValueError, and then nothing has changed.
    """

    @property
    def followed(self) -> LogPosition:
        """The log position up to which everything has been applied; 0 at first."""

    @property
    def num_bytes(self) -> int:
        """Bytes that the rows take: memory for the memory backend, shard files for the disk one."""

    def append(self, rows: Rows) -> None:
        """Add rows at the end; rows whose position is stored already are overwritten in place.

        Rows at or before the last evicted one are passed over: they would be evicted again.

        Raises:
            ValueError: a shape or dtype is not the layout's, a reward is not finite, positions do
                not increase, or one lies before the last stored row without being stored.
        """

    def correct(self, positions: NDArray[np.int64], rewards: NDArray[np.float64]) -> int:
        """Rewrite the rewards of those rows that are still kept and return how many those are.

        Where a position is given twice, the later reward holds.
        """

    @property
    def evicted_through(self) -> int:
        """The position of the last evicted row, or of `evict_through`; -1 when none was."""

    def evict_through(self, position: int) -> None:
        """Evict the rows up to a log position, and pass them over from now on."""

    def take(self, numbers: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        """Return the kept rows of sorted numbers, 0 being the oldest one; `out`: see `sample`."""

    def mark_followed(self, position: int) -> None:
        """Say that the log is applied up to `position`; a lower one than before changes nothing."""

    def flush(self) -> None:
        """Return when all rows, corrections and `followed` survive a power loss."""

    def close(self) -> None:
        """Flush and let go of all files; a second call does nothing."""

    def __enter__(self) -> Self:
        """Return the replay itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""


def drawn_rows(
    rng: np.random.Generator,
    num_rows: int,
    batch_size: int,
    cumulative_N: NDArray[np.float64] | None,
) -> NDArray[np.int64]:
    """Return the sorted numbers of rows drawn with replacement; see `TrainingRows.sample`.

    Raises:
        ValueError: as there.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if not num_rows:
        raise ValueError("the replay is empty: there is nothing to sample")
    if cumulative_N is None:
        numbers = rng.integers(0, num_rows, batch_size)
    else:
        if cumulative_N.shape != (num_rows,) or not cumulative_N[-1] > 0.0:
            raise ValueError("cumulative_N must hold a sum for each row, the last above 0")
        marks = rng.random(batch_size) * cumulative_N[-1]
        rows = np.searchsorted(cumulative_N, marks, side="right")
        numbers = np.minimum(rows, num_rows - 1)
    numbers.sort()
    return numbers


def check_buffers(layout: RowLayout, num_rows: int, buffers: RowBuffers) -> None:
    """Raise ValueError unless so many rows of the layout can be read into `buffers`."""
    expected: dict[str, tuple[NDArray[np.generic], str, tuple[int, ...]]] = {
        "actions": (buffers.actions, "float32", (num_rows, layout.action_dim)),
        "contexts": (buffers.contexts, layout.context_dtype, (num_rows, *layout.context_shape)),
    }
    for name, (array, dtype, shape) in expected.items():
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise ValueError(
                f"out.{name}: expected {dtype} {shape}, got {array.dtype} {array.shape}"
            )
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(f"out.{name}: must be C-contiguous and writeable")


def check_rows(layout: RowLayout, rows: Rows) -> None:
    """Raise ValueError unless `rows` have the layout's shapes and dtypes and can be appended."""
    if rows.positions.ndim != 1:
        raise ValueError(f"positions have shape {rows.positions.shape}, not (N,)")
    num_rows = len(rows)
    expected: dict[str, tuple[NDArray[np.generic], str, tuple[int, ...]]] = {
        "positions": (rows.positions, "int64", (num_rows,)),
        "slots": (rows.slots, "int64", (num_rows,)),
        "rewards": (rows.rewards, "float64", (num_rows,)),
        "actions": (rows.actions, "float32", (num_rows, layout.action_dim)),
        "contexts": (rows.contexts, layout.context_dtype, (num_rows, *layout.context_shape)),
    }
    for name, (array, dtype, shape) in expected.items():
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise ValueError(f"{name}: expected {dtype} {shape}, got {array.dtype} {array.shape}")
    if num_rows and (rows.positions[0] < 0 or (np.diff(rows.positions) <= 0).any()):
        raise ValueError("positions must be >= 0 and strictly increasing")
    if not np.isfinite(rows.rewards).all():
        raise ValueError("rewards must be finite")


def check_corrections(positions: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
    """Raise ValueError unless both are (N,) of int64 and float64, the rewards finite."""
    if positions.dtype != np.int64 or positions.ndim != 1:
        raise ValueError(f"positions: expected int64 (N,), got {positions.dtype} {positions.shape}")
    if rewards.dtype != np.float64 or rewards.shape != positions.shape:
        raise ValueError(
            f"rewards: expected float64 {positions.shape}, got {rewards.dtype} {rewards.shape}"
        )
    if not np.isfinite(rewards).all():
        raise ValueError("rewards must be finite")


def _is_count(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
