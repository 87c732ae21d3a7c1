"""The plan of one training round, and how its progress is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ReportProgress = Callable[[str, float], None]  # receives the phase of a round and its done share


def no_progress(phase: str, share: float) -> None:
    """Ignore a report of a round's progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRound:
    """One round's plan.

    Attributes:
        num_rows: Learned values so far.
        actions: Features of the enabled actions of the catalogue, (K, A).
        steps: Optimizer steps.
        lr: Learning rate of a round's first step.
        most_decay: The most that `weight_decay` may become, when later rows say that the network
            learns noise by heart; see `policies.calibration`. None: it stays as it is.
        since: Position of the snapshot that the round starts from: its posterior has learned the
            rows up to there, and is tested on those after it.
        reward_center, reward_scale: Rewards less the one are divided by the other. What is learned
            takes their place; see `posterior.frame`.
        clipped_to: Where rewards are clipped to; None: they are not.
        seed: Keys the round's random numbers (head initialisation, batches, dropout).
        num_heads: H, one linear reward head per action slot, or 1 shared by all.
        device: Where the steps run, "cpu" or "cuda".
    """

    num_rows: int
    actions: NDArray[np.float32]
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    rebuild_chunk: int
    reward_scale: float
    seed: int
    num_heads: int
    device: str = "cpu"
    reward_center: float = 0.0
    since: int = 0
    most_decay: float | None = None
    clipped_to: tuple[float, float] | None = None
