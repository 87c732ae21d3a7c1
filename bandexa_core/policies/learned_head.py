"""A Bayesian linear head over a frozen encoder as rows teach it: its posterior, and its tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.protocol import Encoder
from bandexa_core.features.scaling import InputScaling
from bandexa_core.ids import ActionSlot
from bandexa_core.policies.calibration import Calibration
from bandexa_core.policies.inputs import EncodedInputs
from bandexa_core.policies.named_inputs import NamedInputs
from bandexa_core.policies.protocol import RowWeights
from bandexa_core.policies.schedule import next_scaling
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.posterior.frame import Frame
from bandexa_core.posterior.rows import learnable
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.replay import LearnedRows, Rows, TrainingRows
from bandexa_core.training.plan import ReportProgress
from bandexa_core.training.ranks import ALONE, Ranks, summed

Array64 = NDArray[np.float64]
BLOCK_ROWS = 8  # a block of fewer rows takes as long as the rows one by one
MAX_WEIGHTS = 8193  # 8192 features and the constant: a posterior of 0.5 GB, and its statistics


class LearnedHead(EncodedInputs):
    """The posterior over the weights of encoded features, and how rows change it.

    Where the encoder ignores the action the posteriors are disjoint, one per catalogue slot.

    Args:
        encoder: The frozen feature map.
        config: Prior and noise of the head.
        greedy: Act on the posterior mean instead of a draw.
        action_chunk: Encode at most this many candidates at once (None: all).
        scaling: Standardises inputs before they are encoded; None: they are encoded as they are.
        named: Makes numbers of objects with named features; None: all inputs are numbers.

    Raises:
        ValueError: The encoder has more features than a posterior can hold.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PosteriorConfig,
        *,
        greedy: bool = False,
        action_chunk: int | None = None,
        scaling: InputScaling | None = None,
        named: NamedInputs | None = None,
    ) -> None:
        if encoder.feature_dim > MAX_WEIGHTS:
            raise ValueError(f"encoder: {encoder.feature_dim} features, at most {MAX_WEIGHTS} fit")
        super().__init__(encoder, action_chunk, scaling, named)
        self.config = config
        self.greedy = greedy
        self.calibration = Calibration()
        self.posterior: GaussianPosterior | DisjointPosterior = (
            GaussianPosterior.prior(encoder.feature_dim, config)
            if encoder.uses_action
            else DisjointPosterior.prior(encoder.feature_dim, config)
        )

    def scaling_due(self, num_rows: int) -> bool:
        """See `Policy.scaling_due`: the scaling is due when the data has doubled."""
        return self.scaling is not None and num_rows >= next_scaling(self.scaling.num_rows)

    def learn(
        self,
        context: NDArray[Any],
        action: NDArray[np.float32],
        slot: ActionSlot,
        before: float | None,
        after: float,
        weight: float = 1.0,
        z_1D: Array64 | None = None,
    ) -> None:
        """See `Policy.learn`."""
        if z_1D is None:
            z_1D = self.features(context[None], action[None])
        if not learnable(z_1D)[0]:
            return  # a row without finite features is skipped: it must not stop the bandit
        posterior, z_D = self.posterior, z_1D[0]
        after = self.config.clipped_one(after)
        before = None if before is None else self.config.clipped_one(before)
        if isinstance(posterior, DisjointPosterior):
            if before is None:
                posterior.update(slot, z_D, after)
            elif posterior.slot(slot) is not None:  # else the row was imported or evicted
                posterior.correct(slot, z_D, before, after, weight)
        elif before is None:
            posterior.update(z_D, after)
        else:
            posterior.correct(z_D, before, after, weight)

    def learn_many(
        self, z_ND: Array64, slots: Sequence[ActionSlot], values: Sequence[float]
    ) -> None:
        """See `Policy.learn_many`; from 8 rows on a joint posterior learns them as a block."""
        good_N = learnable(z_ND)
        posterior = self.posterior
        if isinstance(posterior, GaussianPosterior) and len(z_ND) >= BLOCK_ROWS:
            if good_N.any():
                values_N = self.config.clipped(np.array(values))
                posterior.update_batch(z_ND[good_N], values_N[good_N])
            return
        for z_D, slot, value, good in zip(z_ND, slots, values, good_N, strict=True):
            if not good:
                continue  # as above
            if isinstance(posterior, DisjointPosterior):
                posterior.update(slot, z_D, self.config.clipped_one(value))
            else:
                posterior.update(z_D, self.config.clipped_one(value))

    def remove(self, rows: Rows, weights_N: Array64) -> None:
        """Take learned rows out of the posterior, with their values and what they weigh now."""
        z_ND = self.features(rows.contexts, rows.actions)
        good_N = learnable(z_ND)  # the others were never learned
        values_N = self.config.clipped(rows.rewards)[good_N]
        z_ND, weights_N = z_ND[good_N], weights_N[good_N]
        posterior = self.posterior
        for slot, mask in self._groups(rows.slots[good_N]):
            if isinstance(posterior, GaussianPosterior):
                posterior.remove(z_ND[mask], values_N[mask], weights_N[mask])
            elif posterior.slot(slot) is not None:  # else the rows were imported or evicted
                posterior.remove(slot, z_ND[mask], values_N[mask], weights_N[mask])

    def copy(self) -> Self:
        """See `Policy.copy`."""
        other = copy.copy(self)
        other.posterior = self.posterior.copy()
        return other

    def forgotten(self, factor: float) -> GaussianPosterior | DisjointPosterior:
        """See `Policy.forgotten`."""
        posterior = self.posterior.copy()
        posterior.forget(factor)
        return posterior

    def adopt(self, posterior: GaussianPosterior | DisjointPosterior | None) -> None:
        """See `Policy.adopt`."""
        assert posterior is not None
        self.posterior = posterior

    def rebuild(
        self,
        replay: TrainingRows | LearnedRows,
        chunk: int,
        weights: RowWeights | None = None,
        report: ReportProgress | None = None,
        frame: Frame | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """See `Policy.rebuild`: sums over chunks in float64, one factorisation per posterior.

        `report` is called after each chunk. `frame`: the one of the values so far; None: that of
        the posterior. With several `ranks`, each reads its share of the rows.
        """
        frame = self.posterior.frame if frame is None else frame
        dim = self.encoder.feature_dim
        num_read, whole = 0, max(1, len(replay))
        by_slot: dict[int, Statistics] = {}
        for rows in replay.scan(chunk):
            z_ND = self.features(rows.contexts, rows.actions)
            good = learnable(z_ND)
            z_ND, rewards = z_ND[good], self.config.clipped(rows.rewards)[good]
            weights_N = None if weights is None else weights(rows.positions[good])
            for slot, mask in self._groups(rows.slots[good]):
                share = None if weights_N is None else weights_N[mask]
                by_slot.setdefault(slot, Statistics(dim)).add(z_ND[mask], rewards[mask], share)
            if report is not None:
                num_read += len(rows)
                report("rebuild", min(1.0, ranks.size * num_read / whole))
        by_slot = summed(by_slot, dim, ranks)
        if isinstance(self.posterior, DisjointPosterior):
            self.posterior = DisjointPosterior.from_statistics(
                by_slot, self.config, dim=dim, frame=frame
            )
        else:
            total = by_slot.get(0, Statistics(dim))
            self.posterior = GaussianPosterior.from_statistics(total, self.config, frame=frame)

    def _groups(self, slots: NDArray[np.int64]) -> Iterator[tuple[int, slice | NDArray[np.bool_]]]:
        if self.encoder.uses_action:
            yield 0, slice(None)
            return
        for slot in np.unique(slots):
            yield int(slot), slots == slot

    def refresh(
        self,
        num_rows: int,
        actions_KA: NDArray[np.float32],
        rows: LearnedRows | None = None,
        weights: RowWeights | None = None,
        *,
        changed: bool = False,
        chunk: int = 4096,
    ) -> None:
        """See `Policy.refresh`."""
        self.posterior.refresh()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Policy.tensors`; under "posterior/" and, where there is one, "scaling/"."""
        own = {f"posterior/{name}": t for name, t in self.posterior.to_tensors().items()}
        if self.scaling is not None:
            own |= {f"scaling/{name}": t for name, t in self.scaling.tensors().items()}
        return own

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """See `Policy.load_tensors`."""
        mine = take_prefix(tensors, "posterior/")
        loaded = type(self.posterior).from_tensors(mine, self.config)
        if loaded.dim != self.encoder.feature_dim:
            raise ValueError(
                f"posterior: {loaded.dim} weights for {self.encoder.feature_dim} features"
            )
        if self.scaling is not None:
            self.scaling = self.scaling.loaded(take_prefix(tensors, "scaling/"))
        self.posterior = loaded
