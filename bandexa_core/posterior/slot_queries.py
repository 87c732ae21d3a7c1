"""Reads of the disjoint posterior: means, deviations and draws of the scores of slots.

A read changes nothing but what is remembered of the slots that were asked for.
Shapes: B vectors, K requested slots, M draws, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.blas import prepare
from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.exceedances import LEAST_CANDIDATES, SparsePanel
from bandexa_core.posterior.frame import Frame
from bandexa_core.posterior.gaussian import REFRESH_EVERY
from bandexa_core.posterior.noise import expected_noise, expected_noise_of_one
from bandexa_core.posterior.panels import OfEach, Shared, draw_scores
from bandexa_core.posterior.rows import FloatArray, as_row
from bandexa_core.posterior.slots import Pool, SlotPosterior
from bandexa_core.posterior.stacked import STACKED_DIM, Found, Stacked
from bandexa_core.posterior.state import IntArray, nonzero_rows


class Asked(NamedTuple):
    """The K slots of a query.

    Attributes:
        given: As the caller gave them.
        slots_K: As an array, (K,).
        are_distinct: Whether none of them occurs twice.
        found: Where their matrices are, if they are stacked.
        num_learned: How many slots had learned something.
    """

    given: Sequence[int] | npt.NDArray[np.integer]
    slots_K: IntArray
    are_distinct: bool
    found: Found | None
    num_learned: int


NOTHING = Asked((), np.empty(0, np.intp), True, None, -1)


class SampledScores(NamedTuple):
    """Draws of the scores of K slots for each of B vectors.

    Attributes:
        scores: Less the centre, (B, M, K).
        means: What they have as mean, (B, K).
        spreads: Their deviations in units of s where they are not scaled, (B, K).
        noise: E[s2], of all of them or of each, (K,).
    """

    scores: FloatArray
    means: FloatArray
    spreads: FloatArray
    noise: FloatArray | float

    def std(self, row: int, index: int) -> float:
        """Return the deviation of one of K, where it is not scaled; most are never asked for."""
        noise = self.noise if isinstance(self.noise, float) else float(self.noise[index])
        return math.sqrt(noise) * float(self.spreads[row, index])


class SlotQueries:
    """The posteriors of action slots, as they are read; `DisjointPosterior` changes them.

    Attributes:
        config: the prior of every slot.
        dim: number of weights D of a slot.
        frame: where the values lie; see GaussianPosterior.
        refresh_every: rows and corrections of one slot between two refreshes.
    """

    __slots__ = (
        "_last_asked", "_pool", "_slots", "_stacked", "config", "dim", "frame", "refresh_every"
    )  # fmt: skip

    def __init__(
        self,
        dim: int,
        config: PosteriorConfig,
        *,
        refresh_every: int = REFRESH_EVERY,
        frame: Frame | None = None,
    ) -> None:
        """Start with every slot at the prior.

        Raises:
            ValueError: dim or refresh_every is below 1.
        """
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {refresh_every}")
        prepare(dim)
        self.dim = dim
        self.config = config
        self.refresh_every = refresh_every
        self.frame = Frame.first(config) if frame is None else frame
        self._slots: dict[int, SlotPosterior] = {}
        self._stacked = Stacked(dim) if dim <= STACKED_DIM else None
        self._last_asked = NOTHING
        self._pool = Pool()

    @property
    def num_rows(self) -> float:
        """Number of rows learned, over all slots, less what was forgotten."""
        return sum(posterior.num_rows for posterior in self._slots.values())

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots that have learned something, in ascending order."""
        return tuple(sorted(self._slots))

    @property
    def noise_mean(self) -> float:
        """Expected noise variance that all slots share, where it is pooled or fixed."""
        if self.config.noise == "fixed":
            return self._noise_var
        return expected_noise_of_one(*self._pooled_noise())

    def mean_std(
        self, z: npt.ArrayLike, slots: Sequence[int] | npt.NDArray[np.integer]
    ) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of z.w_k of each slot: of values less the centre.

        Args:
            z: features, shape (D,).
            slots: K action slots.

        Returns:
            Two arrays of shape (K,), in reward units; see GaussianPosterior.mean_std.

        Raises:
            ValueError: z or a slot is invalid.
        """
        mean_1K, spread_1K = self._moments(as_row(z, self.dim)[None], self._asked(slots))
        return mean_1K[0], np.sqrt(self._expected_noise(slots)) * spread_1K[0]

    def sample_scores(
        self,
        rng: np.random.Generator,
        z: npt.ArrayLike,
        slots: Sequence[int] | npt.NDArray[np.integer],
        num: int,
        scale: float = 1.0,
    ) -> FloatArray:
        """Draw the scores z.w_k of K slots under M draws of all weights.

        This is exactly the law of drawing every slot's weights and scoring them. Given s2_k,
        z.w_k = mean_k.z + sqrt(s2_k) (S_k^T z).eps with eps ~ N(0, I_D), and (S_k^T z).eps is
        N(0, |S_k^T z|^2): one normal number stands for D. Slots are independent of each other, so
        the joint law is the product, and each draw uses its weights for this one z only.

        Args:
            rng: source of the noise.
            z: features, shape (D,).
            slots: K distinct action slots.
            num: number of draws M.
            scale: what deviations from the mean are multiplied by.

        Returns:
            Scores of shape (M, K), in reward units, less the centre.

        Raises:
            ValueError: z or a slot is invalid, or a slot occurs twice (its scores would be drawn
                as if independent).
        """
        z_1D, rngs = as_row(z, self.dim)[None], [rng]
        scores_MK: FloatArray = self.sample_many(rngs, z_1D, slots, num, scale).scores[0]
        return scores_MK

    def sample_many(
        self,
        rngs: Sequence[np.random.Generator],
        z_BD: FloatArray,
        slots: Sequence[int] | npt.NDArray[np.integer],
        num: int,
        scale: float = 1.0,
        *,
        mirrored: bool = False,
    ) -> SampledScores:
        """Return the results of `sample_scores` and `mean_std` for several z, each as alone.

        Args:
            rngs: One generator for each z.
            z_BD: features, shape (B, D); scores of those that are not finite are not, either.
            slots: See `sample_scores`.
            num: likewise.
            scale: likewise.
            mirrored: see `draw_scores`.

        Raises:
            ValueError: z has a wrong shape, or slots are as in `sample_scores`.
        """
        if z_BD.shape != (len(rngs), self.dim):
            raise ValueError(f"z must have shape {len(rngs), self.dim}, got {z_BD.shape}")
        asked = self._asked(slots)
        if not asked.are_distinct:
            raise ValueError("slots must be distinct")
        mean_BK, spread_BK = self._moments(np.ascontiguousarray(z_BD), asked)
        noise: OfEach | Shared
        expected: FloatArray | float
        if self.config.noise == "fixed":
            noise = expected = self._noise_var
        elif self.config.pooled:
            shape, rate = noise = self._pooled_noise()
            expected = expected_noise_of_one(shape, rate)
        else:
            noise = self._noise_of_each(asked.slots_K)
            expected = expected_noise(*noise)
        scores_BMK = draw_scores(rngs, num, noise, spread_BK, scale, mirrors=mirrored)
        scores_BMK += mean_BK[:, None]
        return SampledScores(scores_BMK, mean_BK, spread_BK, expected)

    def sample_sparse(
        self,
        rng: np.random.Generator,
        z_1D: FloatArray,
        slots: Sequence[int] | npt.NDArray[np.integer],
        num: int,
        scale: float,
    ) -> tuple[SparsePanel, FloatArray, FloatArray] | None:
        """Return a panel of thousands of slots, and the results of `mean_std`, (K,) each.

        None, and no number is taken, where drawing all of it is as cheap; see `SparsePanel`.
        """
        is_shared = self.config.pooled or self.config.noise == "fixed"
        if len(slots) < LEAST_CANDIDATES or not is_shared:
            return None
        asked = self._asked(slots)
        if not asked.are_distinct:
            raise ValueError("slots must be distinct")
        mean_1K, spread_1K = self._moments(np.ascontiguousarray(z_1D), asked)
        law = self._noise_var if self.config.noise == "fixed" else self._pooled_noise()
        panel = SparsePanel.drawn(rng, mean_1K[0], spread_1K[0], num, law, scale)
        if panel is None:
            return None
        return panel, mean_1K[0], np.sqrt(self.noise_mean) * spread_1K[0]

    @property
    def _noise_var(self) -> float:
        return self.config.noise_var * self.frame.unit**2

    def _prior_noise(self) -> tuple[float, float]:
        """Return a and b of the prior."""
        return float(self.config.noise_shape), self.config.prior_rate * self.frame.unit**2

    def _pooled_noise(self) -> tuple[float, float]:
        """Return a and b of all slots together."""
        shape, rate = self._prior_noise()
        return shape + self._pool.shape, rate + self._pool.rate

    def _noise_of_each(self, slots_K: IntArray) -> OfEach:
        """Return a and b of each slot, (K,), where noise is not pooled."""
        found = [self._slots.get(slot) for slot in slots_K.tolist()]
        prior = self._prior_noise()
        pairs = [prior if each is None else (each.a, each.b) for each in found]
        a_K, b_K = np.array(pairs).reshape(-1, 2).T
        return OfEach(a_K, b_K)

    def _expected_noise(self, slots: Sequence[int] | npt.NDArray[np.integer]) -> FloatArray | float:
        """Return E[s2]: of each slot, (K,), or of all together."""
        if self.config.pooled or self.config.noise == "fixed":
            return self.noise_mean
        return expected_noise(*self._noise_of_each(np.asarray(slots)))

    def _asked(self, slots: Sequence[int] | npt.NDArray[np.integer]) -> Asked:
        """Return slots as they are needed; those of an array that cannot change are remembered.

        These are the enabled actions of a catalogue, which nearly all selects ask for.
        """
        last = self._last_asked
        if slots is last.given and len(self._slots) == last.num_learned:
            return last
        slots_K = np.asarray(slots, dtype=np.intp)
        if len(slots_K) and slots_K.min() < 0:
            raise ValueError(f"a slot must be 0 or above, got {slots_K.min()}")
        are_distinct = bool((slots_K[1:] > slots_K[:-1]).all()) or (
            len(np.unique(slots_K)) == len(slots_K)
        )
        found = None if self._stacked is None else self._stacked.found(slots_K)
        asked = Asked(slots, slots_K, are_distinct, found, len(self._slots))
        if isinstance(slots, np.ndarray) and not slots.flags.writeable:
            self._last_asked = asked
        return asked

    def _moments(self, z_BD: FloatArray, asked: Asked) -> tuple[FloatArray, FloatArray]:
        """Return z.mean_k and |S_k^T z|, (B, K) each."""
        default = z_BD[:, :1]
        if asked.found is None or asked.found.learned_K is not None:
            default = (np.vecdot(z_BD, z_BD) / self.config.ridge)[:, None]
        if self._stacked is not None and asked.found is not None:
            mean_BK, square_BK = self._stacked.project(z_BD, asked.found, default)
            return mean_BK, np.sqrt(square_BK)
        mean_BK = np.zeros((len(z_BD), len(asked.slots_K)))
        square_BK = np.empty_like(mean_BK)
        square_BK[:] = default
        for z_D, mean_K, square_K in zip(z_BD, mean_BK, square_BK, strict=True):
            rows_Z = nonzero_rows(z_D)
            for index, slot in enumerate(asked.slots_K.tolist()):
                posterior = self._slots.get(slot)
                if posterior is not None:
                    mean_K[index], square_K[index] = posterior.project(z_D, rows_Z)
        return mean_BK, np.sqrt(square_BK)
