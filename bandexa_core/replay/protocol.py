"""The protocol of a replay: the rewarded decisions of one bandit as training rows.

A replay is derived from the log and disposable. It belongs to the trainer process, and one thread
at a time uses it. After a crash it contains the whole log up to `followed`, less the rows that its
capacity evicted. It may contain later rows and parts of later corrections, too. The caller
therefore follows the log from `followed` before it uses the rows; applying a row twice changes
nothing.

Shapes: N rows, X the context shape, A the number of action features per row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.byte_rows import longest, resized
from bandexa_core.ids import LogPosition

ContextDtype = Literal["uint8", "float32", "float64"]
ActionDtype = Literal["uint8", "float32"]
# From the positions of rows, (N,), to their weights, (N,).
RowWeights = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The fixed shapes and dtypes of the rows of a replay.

    Attributes:
        context_shape: X, every size at least 1; () stands for scalar contexts.
        context_dtype: The dtype in which contexts arrive and are stored.
        action_dim: A, the number of features of an action, or of the bytes of an object that
            names them; may be 0.
        action_dtype: The dtype of actions.
    """

    context_shape: tuple[int, ...]
    context_dtype: ContextDtype
    action_dim: int
    action_dtype: ActionDtype = "float32"

    def __post_init__(self) -> None:
        """Raise ValueError for sizes and dtypes that no replay can store."""
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
        if self.action_dtype not in get_args(ActionDtype):
            raise ValueError(f"action_dtype must be uint8 or float32, not {self.action_dtype!r}")

    @property
    def context_bytes(self) -> int:
        """Size of one context in bytes."""
        return math.prod(self.context_shape) * np.dtype(self.context_dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes: position, slot, reward, checksums, features and context."""
        return 32 + self.action_dim * np.dtype(self.action_dtype).itemsize + self.context_bytes


@dataclass(frozen=True, slots=True)
class RowBuffers:
    """Arrays that receive a batch of N rows, so that batches can share one allocation.

    Attributes:
        actions: (N, A) in the layout's dtype, C-contiguous.
        contexts: (N, *X) in the layout's dtype, C-contiguous.
    """

    actions: NDArray[Any]
    contexts: NDArray[np.generic]

    @classmethod
    def for_rows(
        cls,
        layout: RowLayout,
        num_rows: int,
        allocate: Callable[[tuple[int, ...], str], NDArray[Any]] = np.empty,
    ) -> RowBuffers:
        """Return buffers for rows; `allocate` returns an array of a shape and dtype name."""
        return cls(
            allocate((num_rows, layout.action_dim), layout.action_dtype),
            allocate((num_rows, *layout.context_shape), layout.context_dtype),
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of training rows.

    Attributes:
        positions: The log positions of the rows' first learn rows, int64 (N,). They identify the
            rows and strictly increase in the order of appending.
        slots: The catalogue slots of the chosen actions, int64 (N,); -1 for an inline action
            outside the catalogue.
        rewards: The values of the decisions, corrections included, float64 (N,).
        actions: The features of the chosen actions, (N, A), float32 or the bytes of objects.
        contexts: The contexts, (N, *X), in the dtype in which they arrived.
    """

    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    rewards: NDArray[np.float64]
    actions: NDArray[Any]
    contexts: NDArray[np.generic]

    def __len__(self) -> int:
        """Return N."""
        return len(self.positions)

    def part(self, numbers: slice) -> Rows:
        """Return a slice of the rows; it shares their memory."""
        return Rows(
            self.positions[numbers],
            self.slots[numbers],
            self.rewards[numbers],
            self.actions[numbers],
            self.contexts[numbers],
        )


class LearnedRows(Protocol):
    """The learned rows of a log that are still there, to be read in order."""

    @property
    def are_all(self) -> bool:
        """Whether these are all rows that the model has learned."""

    def scan(self, chunk: int) -> Iterator[Rows]:
        """Yield the rows in order, `chunk` at a time, with their present values."""

    def __len__(self) -> int:
        """Return the number of rows."""


class TrainingRows(Protocol):
    """The rows of a training round, which trains on them and rebuilds the posterior from them."""

    @property
    def layout(self) -> RowLayout:
        """The shapes of the rows."""

    @property
    def is_on_disk(self) -> bool:
        """Whether reading rows may wait for a disk, so that reading ahead saves time."""

    def positions(self) -> NDArray[np.int64]:
        """Return the positions of all rows in order, (N,), as a copy."""

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        cumulative_N: NDArray[np.float64] | None = None,
        out: RowBuffers | None = None,
    ) -> Rows:
        """Draw rows with replacement and return them in the order in which they are stored.

        Args:
            rng: Source of the draws.
            batch_size: Number of rows.
            cumulative_N: Running sums of the weights of all rows, which are drawn in proportion to
                their weights; None draws uniformly.
            out: Receives actions and contexts instead of new arrays; the returned rows share its
                memory.

        Raises:
            ValueError: There are no rows, `batch_size` is below 1, `cumulative_N` does not have one
                sum per row and a positive total, or `out` has another shape, dtype or memory order.
        """

    def newest(self, num: int) -> Rows:
        """Return the newest rows, `num` at most, in order."""

    def take(self, numbers: NDArray[np.int64], out: RowBuffers | None = None) -> Rows:
        """Return rows by sorted number, where 0 is the oldest row; see `sample` for `out`."""

    def scan(self, chunk: int, of: tuple[int, int] = (0, 1)) -> Iterator[Rows]:
        """Yield the rows that exist at the time of the call, in order, `chunk` at a time.

        Rows that are evicted during the scan are omitted. Rewards are those at the time of reading.
        `of`, (k, n): only each n-th chunk, from number k; the others are not read.
        """

    def __len__(self) -> int:
        """Return the number of rows, which never exceeds the capacity."""


class Replay(TrainingRows, Protocol):
    """A replay as the trainer sees it. It must not be used by several threads at once.

    Every method raises ClosedError after `close`, and ReplayError when the backend fails to read or
    write. A wrong argument is a ValueError and changes nothing.
    """

    @property
    def followed(self) -> LogPosition:
        """The log position up to which all rows are applied; 0 at first."""

    @property
    def num_bytes(self) -> int:
        """Bytes that the rows take, in memory or in shard files."""

    def append(self, rows: Rows) -> None:
        """Append rows; rows whose positions are stored already are overwritten in place.

        Rows at or before the last evicted position are skipped: they would be evicted again.

        Raises:
            ValueError: A shape or dtype differs from the layout, a reward is not finite, positions
                do not increase, or a new position lies before the last stored row.
        """

    def correct(self, positions: NDArray[np.int64], rewards: NDArray[np.float64]) -> int:
        """Rewrite the rewards of the given rows, and return how many of them exist.

        When a position is given twice, its last reward holds.
        """

    @property
    def evicted_through(self) -> int:
        """The log position up to which rows are evicted; -1 when none was evicted."""

    def evict_through(self, position: int) -> None:
        """Evict the rows up to a log position; `append` skips such rows from now on."""

    def mark_followed(self, position: int) -> None:
        """Record that the log is applied up to `position`; a lower one changes nothing."""

    def flush(self) -> None:
        """Return when rows, corrections and `followed` survive a power loss."""

    def close(self) -> None:
        """Flush and close all files; a second call does nothing."""

    def __enter__(self) -> Self:
        """Return the replay."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the replay."""


def drawn_rows(
    rng: np.random.Generator,
    num_rows: int,
    batch_size: int,
    cumulative_N: NDArray[np.float64] | None,
) -> NDArray[np.int64]:
    """Return the sorted numbers of rows drawn with replacement; see `TrainingRows.sample`.

    Raises:
        ValueError: There are no rows, `batch_size` is below 1, or `cumulative_N` does not have one
            sum per row and a positive total.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if not num_rows:
        raise ValueError("the replay is empty, so no row can be drawn")
    if cumulative_N is None:
        numbers = rng.integers(0, num_rows, batch_size)
    else:
        if cumulative_N.shape != (num_rows,) or not cumulative_N[-1] > 0.0:
            raise ValueError(
                "cumulative_N must have one sum per row, and the last one must be above 0"
            )
        marks = rng.random(batch_size) * cumulative_N[-1]
        rows = np.searchsorted(cumulative_N, marks, side="right")
        numbers = np.minimum(rows, num_rows - 1)
    numbers.sort()
    return numbers


def check_buffers(layout: RowLayout, num_rows: int, buffers: RowBuffers) -> None:
    """Raise ValueError unless `buffers` can receive so many rows of the layout."""
    expected: dict[str, tuple[NDArray[np.generic], str, tuple[int, ...]]] = {
        "actions": (buffers.actions, layout.action_dtype, (num_rows, layout.action_dim)),
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
    """Raise ValueError unless shapes, dtypes and values of `rows` allow to append them."""
    if rows.positions.ndim != 1:
        raise ValueError(f"positions have shape {rows.positions.shape}, not (N,)")
    num_rows = len(rows)
    expected: dict[str, tuple[NDArray[np.generic], str, tuple[int, ...]]] = {
        "positions": (rows.positions, "int64", (num_rows,)),
        "slots": (rows.slots, "int64", (num_rows,)),
        "rewards": (rows.rewards, "float64", (num_rows,)),
        "actions": (rows.actions, layout.action_dtype, (num_rows, layout.action_dim)),
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
    """Raise ValueError unless positions are int64 (N,) and rewards finite float64 (N,)."""
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


def laid_out(rows: Rows, layout: RowLayout) -> Rows:
    """Return rows whose objects have as many bytes as a layout has; see `byte_rows`.

    Raises:
        ValueError: An object is longer.
    """
    contexts, actions = rows.contexts, rows.actions
    if contexts.dtype == np.uint8 and contexts.ndim == 2:
        contexts = resized(contexts, layout.context_shape[0])
    if actions.dtype == np.uint8:
        actions = resized(actions, layout.action_dim)
    return replace(rows, contexts=contexts, actions=actions)


def wide_enough(layout: RowLayout, rows: Rows) -> RowLayout:
    """Return a layout for rows: with more bytes for objects, where theirs are longer."""
    if rows.contexts.dtype == np.uint8 and rows.contexts.ndim == 2:
        layout = replace(
            layout, context_shape=(max(layout.context_shape[0], longest(rows.contexts)),)
        )
    if rows.actions.dtype == np.uint8:
        layout = replace(layout, action_dim=max(layout.action_dim, longest(rows.actions)))
    return layout
