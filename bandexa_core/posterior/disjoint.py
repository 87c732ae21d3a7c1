"""Owns the disjoint posterior: one Gaussian posterior per action slot over a shared z(x).

It is used where GaussianPosterior is used, with the same guarantees: it is single-threaded, reads
change nothing, and a loaded copy continues bit for bit.

It equals the dense posterior over per-action blocks [e_k (x) z] (D weights per slot), whose
covariance is block diagonal: exact, at K (D, D) roots instead of one (K D, K D). Learned noise is
that of all slots where it is pooled; else each slot has its own s2, and one that saw nothing but
zeros is sure of them. All slots have one frame.
Shapes: K requested slots, M draws, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.blas import prepare
from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.exceedances import LEAST_CANDIDATES, SparsePanel
from bandexa_core.posterior.frame import Frame, doubles, frame_tensors, read_frame
from bandexa_core.posterior.gaussian import REFRESH_EVERY, GaussianPosterior
from bandexa_core.posterior.noise import expected_noise, expected_noise_of_one
from bandexa_core.posterior.panels import OfEach, Shared, draw_scores
from bandexa_core.posterior.rows import FloatArray, as_row
from bandexa_core.posterior.stacked import STACKED_DIM, Found, Stacked
from bandexa_core.posterior.state import IntArray, immediate_state, nonzero_rows
from bandexa_core.posterior.statistics import Statistics
from bandexa_core.posterior.tensors import read_scalar, read_tensor


class _SlotPosterior(GaussianPosterior):
    """The posterior of one slot: each decision queries every slot, each reward updates one."""

    __slots__ = ()
    _new_state = staticmethod(immediate_state)
    _moves_frame = False

    @property
    def matrix_DW(self) -> FloatArray:
        """[S mean], (D, D + 1), not to be written."""
        return self._state.matrix_DW


POOL_ROUNDING = 1e-6  # beyond, the sum of the slots is taken


class Pool(NamedTuple):
    """What all slots together have learned of the noise, beyond its prior.

    Attributes:
        shape, rate: The sums over the slots of a and of b, less those of the prior.
        num_rows: The weight of the rows.
    """

    shape: float = 0.0
    rate: float = 0.0
    num_rows: float = 0.0

    @classmethod
    def of(cls, posterior: GaussianPosterior) -> Pool:
        """Return the part of one slot."""
        shape = posterior.a - posterior.config.noise_shape
        return cls(shape, posterior.b - posterior.prior_rate, posterior.num_rows)

    def changed(self, before: Pool, after: Pool) -> Pool:
        """Return the pool when the part of a slot has changed."""
        return Pool(
            max(self.shape + (after.shape - before.shape), 0.0),
            max(self.rate + (after.rate - before.rate), 0.0),
            max(self.num_rows + (after.num_rows - before.num_rows), 0.0),
        )


class _Asked(NamedTuple):
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


_NOTHING = _Asked((), np.empty(0, np.intp), True, None, -1)


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


class DisjointPosterior:
    """Independent posteriors per action slot; a slot that has learned nothing takes no memory.

    Create one with `prior`, `from_statistics` or `from_tensors`.

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
        self._slots: dict[int, _SlotPosterior] = {}
        self._stacked = Stacked(dim) if dim <= STACKED_DIM else None
        self._last_asked = _NOTHING
        self._pool = Pool()

    @classmethod
    def prior(
        cls, dim: int, config: PosteriorConfig, *, refresh_every: int = REFRESH_EVERY
    ) -> DisjointPosterior:
        """Return the posterior of no rows.

        Raises:
            ValueError: dim or refresh_every is below 1.
        """
        return cls(dim, config, refresh_every=refresh_every)

    @classmethod
    def from_statistics(
        cls,
        statistics: Mapping[int, Statistics],
        config: PosteriorConfig,
        *,
        dim: int | None = None,
        refresh_every: int = REFRESH_EVERY,
        frame: Frame | None = None,
    ) -> DisjointPosterior:
        """Return the posterior of summed rows per slot, by one factorisation for each.

        Args:
            statistics: sums per slot, of whole values; copied. Slots without rows stay at the
                prior.
            config: the prior of every slot.
            dim: number of features D; needed only when `statistics` is empty.
            refresh_every: see the class.
            frame: the frame so far; None: the first one. It moves to the sums, where it is learned.

        Raises:
            ValueError: a slot is negative, or the dimensions disagree or are unknown.
            NotPositiveDefiniteError: some statistics come from no finite rows.
        """
        dims = {sums.dim for sums in statistics.values()} | ({dim} if dim is not None else set())
        if len(dims) != 1:
            raise ValueError(f"the dimension must be known and one for all slots, got {dims}")
        known = {slot: sums for slot, sums in statistics.items() if sums.n}
        frame = Frame.first(config) if frame is None else frame
        if config.learns_frame and known:
            total = Statistics(next(iter(known.values())).dim)
            for slot in sorted(known):
                total.merge(known[slot])
            total.shift(frame.center)
            frame = _frame_of({0: total}, frame, config)
        posterior = cls(dims.pop(), config, refresh_every=refresh_every, frame=frame)
        for slot, sums in known.items():
            posterior._slots[_checked(slot)] = _SlotPosterior.from_statistics(
                sums, config, refresh_every=refresh_every, frame=frame, moves=False
            )
        posterior._slots_changed()
        return posterior

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

    def statistics(self) -> dict[int, Statistics]:
        """Return copies of the exact sums of the slots that have learned something."""
        return {slot: self._slots[slot].statistics() for slot in self.slots}

    def slot(self, slot: int) -> GaussianPosterior | None:
        """Return the live posterior of one slot, or None while it is still the prior."""
        return self._slots.get(slot)

    def update(self, slot: int, z: npt.ArrayLike, r: float) -> None:
        """Learn one row of a slot.

        Args:
            slot: the action slot, 0 or above.
            z: features, shape (D,).
            r: the value, in reward units.

        Raises:
            ValueError: slot, z or r is invalid; nothing has changed then.
        """
        posterior = self._slots.get(slot)
        if posterior is None:
            posterior = _SlotPosterior.prior(
                self.dim, self.config, refresh_every=self.refresh_every, frame=self.frame
            )
            before = Pool()
            posterior.update(z, r)
            self._slots[_checked(slot)] = posterior
        else:
            before = Pool.of(posterior)
            posterior.update(z, r)
        self._put(slot, posterior)
        num_rows = self._pool.num_rows
        self._pool = self._pool.changed(before, Pool.of(posterior))
        if self.config.learns_frame and doubles(num_rows, self._pool.num_rows):
            self.refresh()

    def correct(
        self, slot: int, z: npt.ArrayLike, before: float, after: float, weight: float = 1.0
    ) -> None:
        """Change the value of a row the slot learned earlier; see GaussianPosterior.correct.

        Raises:
            ValueError: the slot has learned nothing, or a number is invalid; nothing has changed
                then.
        """
        posterior = self._slots.get(slot)
        if posterior is None:
            raise ValueError(f"slot {slot} has learned no row that could be corrected")
        old = Pool.of(posterior)
        posterior.correct(z, before, after, weight)
        self._put(slot, posterior)
        self._pool = self._pool.changed(old, Pool.of(posterior))

    def remove(
        self, slot: int, z_ND: npt.ArrayLike, r_N: npt.ArrayLike, weights_N: FloatArray
    ) -> None:
        """Take rows of a slot out again; see GaussianPosterior.remove.

        Raises:
            ValueError: the slot has learned nothing, or rows are invalid; nothing has changed then.
        """
        posterior = self._slots.get(slot)
        if posterior is None:
            raise ValueError(f"slot {slot} has learned no row that could be removed")
        posterior.remove(z_ND, r_N, weights_N)
        self._slots_changed()

    def begin_frame_again(self, *, center: bool) -> None:
        """See GaussianPosterior.begin_frame_again."""
        self.frame = self.frame.begun_again(center=center)
        self.refresh()

    def forget(self, factor: float) -> None:
        """Multiply the weight of every row of every slot; see GaussianPosterior.forget."""
        for posterior in self._slots.values():
            posterior.forget(factor)
        self._slots_changed()

    def refresh(self) -> None:
        """Recompute every slot from its statistics; see GaussianPosterior.refresh."""
        if self.config.learns_frame:
            sums = {slot: self._slots[slot].centered_statistics() for slot in self.slots}
            self.frame = _frame_of(sums, self.frame, self.config)
        self.reframe(self.frame)

    def reframe(self, frame: Frame) -> None:
        """Move all slots to a frame; see GaussianPosterior.reframe."""
        self.frame = frame
        for posterior in self._slots.values():
            posterior.reframe(frame)
        self._slots_changed()

    def _put(self, slot: int, posterior: _SlotPosterior) -> None:
        if self._stacked is not None:
            self._stacked.put(slot, posterior.matrix_DW)

    def _slots_changed(self) -> None:
        """Bring up to date what follows from the slots."""
        self._pool = Pool()
        for slot in self.slots:
            posterior = self._slots[slot]
            self._pool = self._pool.changed(Pool(), Pool.of(posterior))
            self._put(slot, posterior)

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

    def copy(self) -> DisjointPosterior:
        """Return an independent copy that continues bit for bit."""
        other = DisjointPosterior(
            self.dim, self.config, refresh_every=self.refresh_every, frame=self.frame
        )
        other._slots = {slot: posterior.copy() for slot, posterior in self._slots.items()}
        other._stacked = None if self._stacked is None else self._stacked.copy()
        other._pool = self._pool
        return other

    def to_tensors(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the whole state as float64 arrays; those of slot 12 are named "12/root" etc."""
        tensors: dict[str, npt.NDArray[np.float64]] = {
            "dim": np.array(float(self.dim)),
            "refresh_every": np.array(float(self.refresh_every)),
            **frame_tensors(self.frame, self.config),
        }
        if self.config.pooled or self.config.learns_frame:
            tensors["pool"] = np.array(self._pool)
        for slot in self.slots:
            for name, tensor in self._slots[slot].to_tensors().items():
                tensors[f"{slot}/{name}"] = tensor
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, npt.ArrayLike], config: PosteriorConfig
    ) -> DisjointPosterior:
        """Return the posterior that `to_tensors` wrote, given the config it was made with.

        Raises:
            ValueError: a tensor is missing, unknown or invalid.
        """
        per_slot: dict[int, dict[str, npt.ArrayLike]] = {}
        for key, tensor in tensors.items():
            slot, _, name = key.partition("/")
            if name and slot.isdecimal():
                per_slot.setdefault(int(slot), {})[name] = tensor
            elif key not in ("dim", "refresh_every", "frame", "pool"):
                raise ValueError(f"unknown tensor {key!r}")
        posterior = cls(
            int(read_scalar(tensors, "dim", 1.0)),
            config,
            refresh_every=int(read_scalar(tensors, "refresh_every", 1.0)),
            frame=read_frame(tensors, config),
        )
        for slot_index, state in sorted(per_slot.items()):
            loaded = _SlotPosterior.from_tensors(state, config)
            if loaded.dim != posterior.dim:
                raise ValueError(f"slot {slot_index} has dimension {loaded.dim}")
            if loaded.frame != posterior.frame:
                raise ValueError(f"slot {slot_index} has a frame of its own")
            posterior._slots[slot_index] = loaded
        posterior._slots_changed()
        if "pool" in tensors:  # it differs from the sum of the slots by rounding at most
            stored = read_tensor(tensors, "pool", (3,))
            if np.allclose(stored, posterior._pool, rtol=POOL_ROUNDING, atol=0.0):
                posterior._pool = Pool._make(stored.tolist())
        return posterior

    @staticmethod
    def renumbered(
        tensors: Mapping[str, npt.NDArray[Any]], slots: Mapping[int, int]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return what `to_tensors` returned, with other numbers for its slots.

        Args:
            tensors: The tensors.
            slots: The new number of each slot that has learned something.

        Raises:
            KeyError: One of these has no new number; its argument is the slot.
        """
        out = {}
        for key, tensor in tensors.items():
            slot, _, name = key.partition("/")
            if name and slot.isdecimal():
                key = f"{slots[int(slot)]}/{name}"
            out[key] = tensor
        return out

    def from_own_sums(self, *, mend: bool = False) -> DisjointPosterior:
        """See `GaussianPosterior.from_own_sums`."""
        own = DisjointPosterior(self.dim, self.config, frame=self.frame)
        own._slots = {
            slot: posterior.from_own_sums(mend=mend)
            for slot, posterior in self._slots.items()
            if posterior.num_rows  # others are the prior
        }
        own._slots_changed()
        return own

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

    def _asked(self, slots: Sequence[int] | npt.NDArray[np.integer]) -> _Asked:
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
        asked = _Asked(slots, slots_K, are_distinct, found, len(self._slots))
        if isinstance(slots, np.ndarray) and not slots.flags.writeable:
            self._last_asked = asked
        return asked

    def _moments(self, z_BD: FloatArray, asked: _Asked) -> tuple[FloatArray, FloatArray]:
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


def _frame_of(sums: Mapping[int, Statistics], frame: Frame, config: PosteriorConfig) -> Frame:
    """Return the frame of the rows of all slots; `sums` are of values in `frame`."""
    count = total = squares = 0.0
    for each in sums.values():
        count += float(each.zz[-1, -1])
        total += float(each.zr[-1])
        squares += each.rr
    return frame.moved(config, count, total, squares)


def _checked(slot: int | np.integer) -> int:
    if slot < 0:
        raise ValueError(f"a slot must be 0 or above, got {slot}")
    return int(slot)
