"""When and how much an encoder is trained, and where its training rows are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

# The limits of one round: a bandit must not block the rounds of the others for hours.
TRAINING_LIMITS = {
    "train_every": 1 << 40,
    "optimizer_steps": 100_000,
    "batch_size": 1 << 16,
    "rebuild_chunk": 1 << 20,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """When and how much the encoder is trained. None selects the built-in schedule.

    Attributes:
        mode: "background" trains beside the requests; in "lockstep" rounds wait for the client, so
            that a run repeats exactly.
        train_every: Learned values between two rounds.
        optimizer_steps: Optimizer steps of a round.
        batch_size: Rows of an optimizer step.
        lr: Learning rate of a round's first step; it falls linearly to a tenth.
        weight_decay: Weight decay of AdamW; None: 300 over the number of rows, 0.01 to 1; it
            rises where noise is learned by heart, but not of images.
        rebuild_chunk: Rows that are encoded at once when the posterior is rebuilt.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Literal["background", "lockstep"] = "background"
    train_every: int | None = None
    optimizer_steps: int | None = None
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float | None = None
    rebuild_chunk: int = 4096

    def __post_init__(self) -> None:
        for name, most in TRAINING_LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name}: must be 1 to {most}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError("lr: must be a finite number above 0")
        decay = self.weight_decay
        if decay is not None and not (math.isfinite(decay) and decay >= 0):
            raise ValueError("weight_decay: must be a finite number, 0 or above")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpec:
    """Where training rows are stored, and how many.

    Attributes:
        backend: "memory" or "disk"; "auto" chooses by the size of the rows.
        shard_size: Rows of a file, on disk.
        cache_shards: Files that stay open.
        flush_every: Rows between two syncs, on disk.
        capacity: The most rows that are stored.
        capacity_bytes: The most bytes that stored rows take; the lower of the two limits holds.
        evicted_sample: How many evicted rows (removed by a capacity or by the retention of the
            store) are stored to represent all of them, 64 MiB at most; 0: none.
        activation_bytes: The most bytes of frozen activations stored beside the rows; 0: none.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    backend: Literal["auto", "memory", "disk"] = "auto"
    shard_size: int = 2048
    cache_shards: int = 16
    flush_every: int = 256
    capacity: int | None = None
    capacity_bytes: int | None = None
    evicted_sample: int = 2000
    activation_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("shard_size", "cache_shards", "flush_every", "capacity", "capacity_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1")
        for name in ("evicted_sample", "activation_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or above")
