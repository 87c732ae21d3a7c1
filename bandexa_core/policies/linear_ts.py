"""Linear Thompson sampling on a fixed feature map: the baseline for the neural policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.fixed import FixedEncoder
from bandexa_core.features.scaling import LEAST_DEVIATION, InputScaling, Moments
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.schedule import LEAST_ACTIONS
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    NotPositiveDefiniteError,
    PosteriorConfig,
    Statistics,
)


class LinearTS(LinearHead):
    """Thompson sampling with a Bayesian linear model on fixed features."""

    encoder: FixedEncoder

    def __init__(
        self,
        encoder: FixedEncoder,
        config: PosteriorConfig,
        *,
        greedy: bool = False,
        action_chunk: int | None = None,
        scaling: InputScaling | None = None,
    ) -> None:
        super().__init__(encoder, config, greedy=greedy, action_chunk=action_chunk, scaling=scaling)

    def refresh(self, num_rows: int, actions_KA: NDArray[np.float32]) -> None:
        """See `Policy.refresh`.

        No row is read again: features of rescaled inputs are linear in those of the old ones, and
        so are the sums behind the posterior. The sums also contain mean and deviation of every
        input.
        """
        if not self.scaling_due(num_rows):
            super().refresh(num_rows, actions_KA)
            return
        posterior, old = self.posterior, self.scaling
        assert old is not None, "no scaling is due without one"
        disjoint = isinstance(posterior, DisjointPosterior)
        sums = posterior.statistics()
        by_slot = sums if isinstance(sums, dict) else {0: sums}
        total = Statistics(posterior.dim)
        for each in by_slot.values():
            total.merge(each)
        size = len(old.x_mean)
        x = _moments(total, slice(0, size))
        a = None if disjoint else _moments(total, slice(size, size + len(old.a_mean)))
        raw_x = None if x is None else old.raw_moments(x, of_context=True)
        raw_a = None if a is None else old.raw_moments(a, of_context=False)
        if len(actions_KA) >= LEAST_ACTIONS:
            raw_a = Moments.of([(actions_KA, None)])
        self.scaling = old.updated(num_rows, raw_x, raw_a)
        matrix_DD = self.encoder.features_under(old.change_to(self.scaling))
        # If more digits would cancel than float64 has, the rows so far carry no information.
        matrix_DD[np.abs(matrix_DD[:, -1]) > 1.0 / LEAST_DEVIATION] = 0.0
        moved = {slot: each.mapped(matrix_DD) for slot, each in by_slot.items()}
        try:
            self.posterior = self._from_statistics(moved)
        except NotPositiveDefiniteError:  # features are collinear, and too many digits cancelled
            mended = {slot: each.mended() for slot, each in moved.items()}
            self.posterior = self._from_statistics(mended)

    def _from_statistics(
        self, by_slot: dict[int, Statistics]
    ) -> GaussianPosterior | DisjointPosterior:
        if isinstance(self.posterior, DisjointPosterior):
            dim = self.encoder.feature_dim
            return DisjointPosterior.from_statistics(by_slot, self.config, dim=dim)
        return GaussianPosterior.from_statistics(by_slot[0], self.config)


def _moments(sums: Statistics, features: slice) -> Moments | None:
    """Return moments of some features, from their products with the last one, the constant 1."""
    count = float(sums.zz[-1, -1])
    if not count > 0.0:
        return None
    mean = sums.zz[features, -1] / count
    squares = np.diagonal(sums.zz)[features] / count
    return Moments(count, mean, np.sqrt(np.maximum(squares - mean**2, 0.0)))
