"""Linear Thompson sampling on a fixed feature map: the baseline for the neural policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.fixed import FixedEncoder
from bandexa_core.features.robust import LEAST_DEVIATION, Scale
from bandexa_core.features.scaling import InputScaling
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.protocol import RowWeights
from bandexa_core.policies.schedule import FIRST_SCALING
from bandexa_core.policies.standardizing import InputRows, catalogue_scale, scanned_inputs
from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    NotPositiveDefiniteError,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.replay import LearnedRows

# Between the deviations of two scales. Sums that are moved by it and by its square stay finite.
_LARGEST_FACTOR = 1e25


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
        """See `Policy.refresh`.

        From all rows the posterior is built again. Where some have left the log, their sums are
        moved: features of rescaled inputs are linear in those of the old ones, up to the bounds,
        and so are the sums behind the posterior.
        """
        scaling = self.scaling
        if scaling is None or not (changed or scaling.is_old or self.scaling_due(num_rows)):
            super().refresh(num_rows, actions_KA)
            return
        inputs = None if rows is None else scanned_inputs(rows, chunk, weights, num_rows)
        renewed = scaling.updated(num_rows, *self._scales(inputs, actions_KA))
        if rows is not None and rows.are_all:
            self.scaling = renewed
            try:
                self.rebuild(rows, chunk, weights)
            except Exception:
                self.scaling = scaling
                raise
        else:
            self.rescale(renewed)

    def _scales(
        self, inputs: InputRows | None, actions_KA: NDArray[np.float32]
    ) -> tuple[Scale | None, Scale | None]:
        """Return new scales of contexts and of actions; None where nothing is known.

        Sums contain mean and deviation of every input. They are used where the log has no rows.
        """
        if inputs is not None and len(inputs.actions) >= FIRST_SCALING:
            x, a = inputs.scale(of_context=True), inputs.scale(of_context=False)
        else:
            x, a = self._scales_of_sums()
        return x, catalogue_scale(actions_KA) or a

    def _scales_of_sums(self) -> tuple[Scale | None, Scale | None]:
        old, total = self.scaling, Statistics(self.posterior.dim)
        assert old is not None, "no scaling is due without one"
        for each in self._by_slot().values():
            total.merge(each)
        count, size = float(total.zz[-1, -1]), len(old.x.mean)
        if not count > 0.0:
            return None, None
        mean = total.zz[:-1, -1] / count
        squares = np.diagonal(total.zz)[:-1] / count
        std = np.sqrt(np.maximum(squares - mean**2, 0.0))
        x = old.x.of_moments(mean[:size], std[:size])
        if isinstance(self.posterior, DisjointPosterior):
            return x, None
        end = size + len(old.a.mean)
        return x, old.a.of_moments(mean[size:end], std[size:end])

    def scale_actions(self, actions_KA: NDArray[np.float32]) -> bool:
        """Standardise actions alone, as long as nothing was learned; returns whether it did."""
        scaling, a = self.scaling, catalogue_scale(actions_KA)
        if scaling is None or scaling.num_rows or a is None or not self.encoder.uses_action:
            return False
        if self.posterior.num_rows:
            return False
        self.scaling = scaling.updated(1, None, a)
        return True

    def rescale(self, scaling: InputScaling) -> None:
        """Move the posterior to another scaling, without reading a row."""
        assert self.scaling is not None, "inputs are not standardised"
        by_slot = self._by_slot()
        with np.errstate(over="ignore", invalid="ignore"):
            matrix_DD = self.encoder.features_under(self.scaling.change_to(scaling))
        self.scaling = scaling
        # The rows so far say nothing of a feature if more digits would cancel than float64 has, or
        # if the scales have nothing in common: an imported one may be any.
        known_D = np.abs(matrix_DD[:, -1]) <= 1.0 / LEAST_DEVIATION
        known_D &= (np.abs(matrix_DD) <= _LARGEST_FACTOR).all(axis=1)
        matrix_DD[~known_D] = 0.0
        moved = {slot: each.mapped(matrix_DD) for slot, each in by_slot.items()}
        try:
            self.posterior = self._from_statistics(moved)
        except NotPositiveDefiniteError:  # features are collinear, and too many digits cancelled
            mended = {slot: each.mended() for slot, each in moved.items()}
            self.posterior = self._from_statistics(mended)

    def _by_slot(self) -> dict[int, Statistics]:
        sums = self.posterior.statistics()
        return sums if isinstance(sums, dict) else {0: sums}

    def _from_statistics(
        self, by_slot: dict[int, Statistics]
    ) -> GaussianPosterior | DisjointPosterior:
        if isinstance(self.posterior, DisjointPosterior):
            dim = self.encoder.feature_dim
            return DisjointPosterior.from_statistics(
                by_slot, self.config, dim=dim, frame=self.posterior.frame
            )
        return GaussianPosterior.from_statistics(
            by_slot[0], self.config, frame=self.posterior.frame
        )
