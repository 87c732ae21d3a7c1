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

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.frame import Frame, doubles, frame_tensors, read_frame
from bandexa_core.posterior.gaussian import REFRESH_EVERY, GaussianPosterior
from bandexa_core.posterior.rows import FloatArray
from bandexa_core.posterior.slot_queries import SlotQueries
from bandexa_core.posterior.slots import POOL_ROUNDING, Pool, SlotPosterior, checked, frame_of
from bandexa_core.posterior.statistics import Statistics
from bandexa_core.posterior.tensors import read_scalar, read_tensor


class DisjointPosterior(SlotQueries):
    """Independent posteriors per action slot; a slot that has learned nothing takes no memory.

    Create one with `prior`, `from_statistics` or `from_tensors`.
    """

    __slots__ = ()

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
            frame = frame_of({0: total}, frame, config)
        posterior = cls(dims.pop(), config, refresh_every=refresh_every, frame=frame)
        for slot, sums in known.items():
            posterior._slots[checked(slot)] = SlotPosterior.from_statistics(
                sums, config, refresh_every=refresh_every, frame=frame, moves=False
            )
        posterior._slots_changed()
        return posterior

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
            posterior = SlotPosterior.prior(
                self.dim, self.config, refresh_every=self.refresh_every, frame=self.frame
            )
            before = Pool()
            posterior.update(z, r)
            self._slots[checked(slot)] = posterior
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
            self.frame = frame_of(sums, self.frame, self.config)
        self.reframe(self.frame)

    def reframe(self, frame: Frame) -> None:
        """Move all slots to a frame; see GaussianPosterior.reframe."""
        self.frame = frame
        for posterior in self._slots.values():
            posterior.reframe(frame)
        self._slots_changed()

    def _put(self, slot: int, posterior: SlotPosterior) -> None:
        if self._stacked is not None:
            self._stacked.put(slot, posterior.matrix_DW)

    def _slots_changed(self) -> None:
        """Bring up to date what follows from the slots."""
        self._pool = Pool()
        for slot in self.slots:
            posterior = self._slots[slot]
            self._pool = self._pool.changed(Pool(), Pool.of(posterior))
            self._put(slot, posterior)

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
            loaded = SlotPosterior.from_tensors(state, config)
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
