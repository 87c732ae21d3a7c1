"""Owns the Gaussian posterior over weights in square-root form, with its noise state.

It is used in the serving process (one row at a time, on the event loop) and in the trainer
(rebuilds). It has scratch arrays, so it is single-threaded. `sample` and `mean_std` change nothing.
After a crash its state comes from a snapshot: `to_tensors` and `from_tensors` contain every bit, so
a loaded copy continues bit for bit.

Model, for features z of shape (D,) and a value r (squared reward units for every variance):

    r = z.w + noise,   noise ~ N(0, s2),   w ~ N(mean, s2 S S^T),   s2 ~ inverse-gamma(a, b)

with s2 = noise_var, known, when noise is "fixed". S is called root, Sigma = S S^T is in units of
s2, and the prior is Sigma = (prior_var / noise_var) I = I / ridge. One row moves it by Potter's
square-root update (Bierman, Factorization Methods for Discrete Sequential Estimation, 1977, V.2):

    f = S^T z    beta = 1 / (f.f + 1)    gamma = beta / (1 + sqrt(beta))    e = r - z.mean
    mean += beta e S f    S -= gamma (S f) f^T    a += 1/2    b += beta e^2 / 2

in O(D^2), and Sigma stays positive semidefinite whatever the rounding does. `state` implements it,
and `blocks` the form for several rows at once.
Shapes: N rows, K candidates, M draws, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.blocks import learn_block
from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.factor import NotPositiveDefiniteError, inverse_root
from bandexa_core.posterior.frame import (
    Frame,
    doubles,
    frame_tensors,
    read_frame,
    rows_to_doubling,
)
from bandexa_core.posterior.noise import noise_of_one
from bandexa_core.posterior.panels import draw_panels
from bandexa_core.posterior.rows import FloatArray, as_row, as_rows, as_value, as_values
from bandexa_core.posterior.state import PENDING, UNMOVED, IntArray, State, fastest_state
from bandexa_core.posterior.statistics import RowStatistics, Statistics
from bandexa_core.posterior.tensors import read_scalar, read_tensor

# Learned rows and corrections after which mean, root and b are recomputed from the statistics.
REFRESH_EVERY = 10_000
_BLOCK_ROWS = 64
NEARLY = 1e-3  # rescaled inputs can cancel digits of products down to this, by their size


class GaussianPosterior:
    """The posterior over D weights after some rows, ready for the next one.

    Create one with `prior`, `from_statistics` or `from_tensors`.

    Attributes:
        config: the prior.
        frame: where the values lie. Means and draws are of values less its centre; statistics are
            of whole values.
        a: shape of the inverse-gamma law of s2; stays at its prior value when noise is fixed.
        b: rate of that law, in squared reward units; likewise.
        updates_since_refresh: rows and corrections since mean and root came from the statistics.
        refresh_every: the number of them between two refreshes.
    """

    __slots__ = (
        "_prior_mean", "_rows", "_state", "a", "b", "config", "frame", "refresh_every",
        "updates_since_refresh",
    )  # fmt: skip

    _state: State
    _new_state = staticmethod(fastest_state)
    _moves_frame = True  # where the configuration has it learned

    def __init__(
        self,
        rows: RowStatistics,
        config: PosteriorConfig,
        *,
        prior_mean: FloatArray,
        refresh_every: int,
        frame: Frame | None = None,
    ) -> None:
        """Take ownership of `rows`, in the frame, and `prior_mean`; the caller sets the state."""
        if refresh_every < 1:
            raise ValueError(f"refresh_every must be at least 1, got {refresh_every}")
        self.config = config
        self.refresh_every = refresh_every
        self.updates_since_refresh = 0
        self.a = float(config.noise_shape)
        self.frame = Frame.first(config) if frame is None else frame
        self.b = self.prior_rate
        self._prior_mean = prior_mean
        self._rows = rows

    @classmethod
    def prior(
        cls,
        dim: int,
        config: PosteriorConfig,
        *,
        refresh_every: int = REFRESH_EVERY,
        frame: Frame | None = None,
    ) -> Self:
        """Return the posterior of no rows over `dim` weights.

        Raises:
            ValueError: dim or refresh_every is below 1.
        """
        rows, zeros = RowStatistics(Statistics(dim)), np.zeros(dim)
        posterior = cls(rows, config, prior_mean=zeros, refresh_every=refresh_every, frame=frame)
        posterior._state = cls._new_state(np.eye(dim) / math.sqrt(config.ridge), np.zeros(dim))
        return posterior

    @classmethod
    def from_statistics(
        cls,
        statistics: Statistics,
        config: PosteriorConfig,
        prior_mean: npt.ArrayLike | None = None,
        *,
        refresh_every: int = REFRESH_EVERY,
        frame: Frame | None = None,
        moves: bool = True,
    ) -> Self:
        """Return the posterior of the summed rows, by one factorisation.

        Args:
            statistics: the sums, of whole values; copied.
            config: the prior.
            prior_mean: prior mean of the weights, shape (D,); zero when None.
            refresh_every: see the class.
            frame: the frame so far; None: the first one.
            moves: whether the frame moves to the sums, where it is learned.

        Raises:
            ValueError: prior_mean has a wrong shape or is not finite.
            NotPositiveDefiniteError: the statistics come from no finite rows.
        """
        dim = statistics.dim
        start = np.zeros(dim) if prior_mean is None else as_row(prior_mean, dim).copy()
        rows = RowStatistics(statistics.copy())
        known = Frame.first(config) if frame is None else frame
        rows.sums.shift(known.center)
        posterior = cls(rows, config, prior_mean=start, refresh_every=refresh_every, frame=known)
        if moves:
            posterior.refresh()
        else:
            posterior.recompute()
        return posterior

    def from_own_sums(self, *, mend: bool = False) -> Self:
        """Return the posterior that the sums of this one give under the configured prior.

        Its `zz` is symmetric, and its sum of squares at least what the other sums allow: extreme
        rewards that were corrected leave a smaller one behind, by rounding.

        Args:
            mend: Whether `zz` is made positive semidefinite as well, where it is nearly so.

        Raises:
            NotPositiveDefiniteError: The sums come from no finite rows.
        """
        sums = self.statistics()
        sums.zz = 0.5 * (sums.zz + sums.zz.T)
        if mend and not sums.is_semidefinite():
            if not sums.is_semidefinite(NEARLY):
                raise NotPositiveDefiniteError("products of features are not those of rows")
            sums = sums.mended()
        own = self.from_statistics(sums, self.config, frame=self.frame, moves=False)
        lacking = -own._squares()
        if lacking > 0.0:
            own._rows.sums.rr += lacking
        return own

    @property
    def dim(self) -> int:
        """Number of weights D."""
        return len(self._prior_mean)

    @property
    def mean(self) -> FloatArray:
        """Posterior mean, shape (D,), read-only: a view, or computed if moves are pending."""
        return self._state.mean

    @property
    def root(self) -> FloatArray:
        """S, shape (D, D), with Sigma = S S^T; read-only."""
        return self._state.root

    @property
    def matrix(self) -> FloatArray | None:
        """[S mean], (D, D + 1), read-only; None where moves may be pending."""
        return self._state.whole

    @property
    def noise_law(self) -> tuple[float, float] | float:
        """A and b of the law of s2, or s2 where it is known."""
        return (self.a, self.b) if self.config.noise == "nig" else self.noise_var

    @property
    def num_rows(self) -> float:
        """Number of rows learned (a correction is not a row), less what was forgotten."""
        return self._rows.sums.n

    @property
    def noise_mean(self) -> float:
        """Expected noise variance E[s2], in squared reward units.

        Fixed: noise_var. Nig: b / (a - 1) when a > 1; else the mean is infinite, and b / a (the
        guess, before any row) stands in.
        """
        if self.config.noise == "fixed":
            return self.noise_var
        return self.b / (self.a - 1.0 if self.a > 1.0 else self.a)

    @property
    def noise_var(self) -> float:
        """The known noise variance, in squared reward units; of "nig" the first guess."""
        return self.config.noise_var * self.frame.unit**2

    @property
    def prior_rate(self) -> float:
        """Rate b before any row, in squared reward units."""
        return self.config.prior_rate * self.frame.unit**2

    def statistics(self) -> Statistics:
        """Return a copy of the exact sums over all rows learned, of whole values."""
        sums = self.centered_statistics()
        sums.shift(-self.frame.center)
        return sums

    def centered_statistics(self) -> Statistics:
        """Return a copy of the exact sums over all rows learned, of values less the centre."""
        rows = self._rows.copy()
        rows.fold()
        return rows.sums

    def update(self, z: npt.ArrayLike, r: float) -> None:
        """Learn one row: features z of shape (D,), the value r in reward units.

        Raises:
            ValueError: z or r is not finite or has a wrong shape; nothing has changed then.
        """
        z = as_row(z, len(self._prior_mean))
        r = as_value(r) - self.frame.center
        self._update_row(z, r)
        self._rows.add_row(z, r)
        self._count(1, rows=1)

    def _update_row(self, z: FloatArray, r: float) -> None:
        beta, error = self._state.learn(z, r)
        if self.config.noise == "nig":
            self.a += 0.5
            self.b += 0.5 * beta * error * error

    def update_batch(self, z_ND: npt.ArrayLike, r_N: npt.ArrayLike) -> None:
        """Learn N rows, z of shape (N, D) and r of shape (N,): as N updates do, to rounding.

        From N = D rows on the posterior is refreshed from the sums (measured: this becomes faster
        between N = D/2 and N = D for D = 32 ... 785, and is 3 to 5 times faster at N = 4 D). Fewer
        rows go in blocks of 64 (`learn_block`). The bits differ from those of single updates, so a
        run that must repeat bit for bit has to learn in the same way each time.

        Raises:
            ValueError: wrong shapes or numbers that are not finite; nothing has changed then.
        """
        rows = as_rows(z_ND, self.dim)
        values = as_values(r_N, len(rows))
        if (
            self._moves_frame and self.config.learns_frame
        ):  # it moves between the same rows as alone
            while 0 < (num := rows_to_doubling(self.num_rows)) < len(rows):
                self._learn_rows(rows[:num], values[:num])
                rows, values = rows[num:], values[num:]
        self._learn_rows(rows, values)

    def _learn_rows(self, rows: FloatArray, values: FloatArray) -> None:
        values = values - self.frame.center
        self._rows.sums.add(rows, values)
        if len(rows) >= self.dim:
            self.recompute()
            self._count(0, rows=len(rows))
            return
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            self._update_block(rows[block], values[block])
        self._count(len(rows), rows=len(rows))

    def _update_block(self, z_BD: FloatArray, r_B: FloatArray) -> None:
        error = learn_block(*self._state.settled(), z_BD, r_B)
        if error is None:
            for z, r in zip(z_BD, r_B, strict=True):
                self._update_row(z, float(r))
        elif self.config.noise == "nig":
            self.a += 0.5 * len(z_BD)
            self.b += 0.5 * error

    def correct(self, z: npt.ArrayLike, before: float, after: float, weight: float = 1.0) -> None:
        """Change the value of a row learned earlier; exact, as if only `after` had been seen.

            d = after - before    e = before - z.mean (before the change)    w = weight
            mean += w d Sigma z    b += w d e + w d^2 (1 - w z^T Sigma z) / 2    Sigma unchanged

        since 2 b - 2 b0 = r.r + m0.m0 ridge - g.Sigma g with g = Z^T r + ridge m0, and g moves by
        w d z. The posterior does not store rows: the caller is responsible for z, shape (D,), for
        `before` and for `weight`, the weight of the row after forgetting.

        Raises:
            ValueError: wrong shape or numbers that are not finite; nothing has changed then.
        """
        z = as_row(z, self.dim)
        before, after = as_value(before), as_value(after)
        change = after - before
        before, after = before - self.frame.center, after - self.frame.center
        root, mean = self._state.settled()
        error = before - float(z @ mean)
        f = z @ root
        mean += weight * change * (root @ f)
        if self.config.noise == "nig":
            half = 0.5 * change * (1.0 - weight * float(f @ f))
            b = self.b + weight * change * (error + half)
            # b >= b0 holds for any rows; rounding must not break it.
            self.b = max(b, self.prior_rate)
        self._rows.sums.correct(z, before, after, weight)
        self._count(1)

    def remove(self, z_ND: npt.ArrayLike, r_N: npt.ArrayLike, weights_N: FloatArray) -> None:
        """Take rows out again, as if they had never been learned; one factorisation, O(D^3).

        The posterior does not store rows: the caller is responsible for z, shape (N, D), for their
        values and for the weights that they have after forgetting, both (N,).

        Raises:
            ValueError: wrong shapes or numbers that are not finite; nothing has changed then.
        """
        rows = as_rows(z_ND, self.dim)
        values = as_values(r_N, len(rows)) - self.frame.center
        self._rows.fold()
        sums = self._rows.sums
        sums.remove(rows, values, weights_N)
        try:
            self.recompute()
        except NotPositiveDefiniteError:  # too many digits have cancelled
            self._rows = RowStatistics(sums.mended())
            self.recompute()

    def begin_frame_again(self, *, center: bool) -> None:
        """Learn the unit, and where asked for the centre, from all rows, and `refresh`."""
        self.frame = self.frame.begun_again(center=center)
        self.refresh()

    def forget(self, factor: float) -> None:
        """Multiply the weight of every row by `factor`, from 0 to 1, in O(D^3); the prior stays."""
        self._rows.fold()
        self._rows.sums.scale(factor)
        self.refresh()

    def refresh(self) -> None:
        """Move the frame to the rows, where it is learned, and `recompute`.

        It also happens after every `refresh_every` rows and corrections. The law changes only by
        rounding, but the bits change, so both sides of a comparison must refresh at the same rows.

        Raises:
            NotPositiveDefiniteError: the statistics come from no finite rows.
        """
        self._rows.fold()
        if self._moves_frame and self.config.learns_frame:
            sums = self._rows.sums
            count, total = float(sums.zz[-1, -1]), float(sums.zr[-1])
            self._take(self.frame.moved(self.config, count, total, sums.rr))
        self.recompute()

    def reframe(self, frame: Frame) -> None:
        """Move to another frame, and `recompute`.

        Raises:
            NotPositiveDefiniteError: the statistics come from no finite rows.
        """
        self._rows.fold()
        self._take(frame)
        self.recompute()

    def _take(self, frame: Frame) -> None:
        self._rows.sums.shift(frame.center - self.frame.center)
        self.frame = frame

    def recompute(self) -> None:
        """Recompute mean, root, a and b from the statistics, in O(D^3).

        Raises:
            NotPositiveDefiniteError: the statistics come from no finite rows.
        """
        self._rows.fold()
        sums, ridge, start = self._rows.sums, self.config.ridge, self._prior_mean
        root = inverse_root(sums.zz, ridge)
        shift = root @ ((sums.zr - sums.zz @ start) @ root)
        mean = start + shift
        self._state = self._new_state(root, mean)
        if self.config.noise == "nig":
            self.a = self.config.noise_shape + 0.5 * sums.n
            self.b = self.prior_rate + 0.5 * max(self._squares(), 0.0)
        self.updates_since_refresh = 0

    def _squares(self) -> float:
        """Return the sum of squares at its minimum: errors of the mean enter it squared only."""
        shift = self.mean - self._prior_mean
        return self._rows.sums.squares(self.mean) + self.config.ridge * float(shift @ shift)

    def mean_std(self, z_KD: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of z.w of each candidate: of values less the centre.

        With unknown noise z.w is Student-t with 2a degrees of freedom and scale
        sqrt(b/a z^T Sigma z); its variance is E[s2] z^T Sigma z with E[s2] = b / (a - 1). For
        a <= 1 the variance is infinite and b / a stands in for E[s2] (see `noise_mean`).

        Args:
            z_KD: features, shape (K, D).

        Returns:
            Two arrays of shape (K,), in reward units.

        Raises:
            ValueError: wrong shape or numbers that are not finite.
        """
        rows = as_rows(z_KD, self.dim)
        f_KD = self._state.spans(rows)
        spread = np.sqrt(np.einsum("kd,kd->k", f_KD, f_KD))
        return rows @ self.mean, math.sqrt(self.noise_mean) * spread

    def project(self, z_D: FloatArray, rows_Z: IntArray | None = None) -> tuple[float, float]:
        """Return z.mean (reward units) and z^T Sigma z (units of s2); see `State.project`."""
        f_D, value = self._state.project(z_D, rows_Z)
        return value, float(f_D.dot(f_D))

    def std_of(self, z_D: FloatArray) -> float:
        """Return the standard deviation of one candidate's expected reward: see `mean_std`."""
        f_D, _ = self._state.project(z_D)
        return math.sqrt(self.noise_mean * float(f_D.dot(f_D)))

    def stds_of(self, z_BD: FloatArray) -> FloatArray:
        """Return `std_of` for several candidates, (B,); each is independent of the others."""
        f_BD = self._state.each_span(z_BD)
        stds_B: FloatArray = np.sqrt(self.noise_mean * np.einsum("bd,bd->b", f_BD, f_BD))
        return stds_B

    def sample(self, rng: np.random.Generator, num: int, scale: float = 1.0) -> FloatArray:
        """Draw weights, shape (M, D), each with its own s2: w = mean + scale sqrt(s2) S eps.

        A `scale` below 1 draws from a tempered posterior, which explores less.

        Where M is even, members i and i + M/2 share eps up to its sign (antithetic variates:
        Hammersley & Morton, "A new Monte Carlo technique", 1956): each has the posterior's law, at
        half the random numbers, and any permutation of pairs and within pairs has the same law.
        An odd number is drawn independently: a member without mirror would differ from the others.
        """
        if num == 1:
            return self.sample_one(rng, scale)[None]
        weights_MD: FloatArray = self.sample_many([rng], num, scale)[0]
        return weights_MD

    def sample_one(self, rng: np.random.Generator, scale: float = 1.0) -> FloatArray:
        """Draw one w, shape (D,), in a third of the time that arrays of draws take."""
        if self.config.noise == "nig":
            noise = noise_of_one(rng.standard_gamma(self.a), self.b)
        else:
            noise = self.noise_var
        state = self._state
        rng.standard_normal(out=state.eps_D)
        state.eps_D *= scale * math.sqrt(noise)
        return state.drawn()

    def sample_many(
        self, rngs: Sequence[np.random.Generator], num: int, scale: float = 1.0
    ) -> FloatArray:
        """Draw bit for bit what `sample` draws with each generator: (B, M, D)."""
        if num == 1:
            return np.stack([self.sample_one(rng, scale)[None] for rng in rngs])
        return draw_panels(self._state, rngs, num, self.noise_law, scale)

    def copy(self) -> Self:
        """Return an independent copy that continues bit for bit."""
        other = type(self)(
            self._rows.copy(),
            self.config,
            prior_mean=self._prior_mean.copy(),
            refresh_every=self.refresh_every,
            frame=self.frame,
        )
        other._state = self._state.copy()
        other.a, other.b = self.a, self.b
        other.updates_since_refresh = self.updates_since_refresh
        return other

    def to_tensors(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the whole state as float64 arrays (copies; scalars have shape ()).

        While moves are pending, `unmoved_mean`, `unmoved_root` and the moves replace mean and root.
        """
        return (
            self._state.to_tensors()
            | self._rows.sums.to_tensors()
            | {
                "prior_mean": self._prior_mean.copy(),
                "a": np.array(self.a),
                "b": np.array(self.b),
                "waiting": self._rows.waiting.copy(),
                "updates_since_refresh": np.array(float(self.updates_since_refresh)),
                "refresh_every": np.array(float(self.refresh_every)),
            }
            | frame_tensors(self.frame, self.config)
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.ArrayLike], config: PosteriorConfig) -> Self:
        """Return the posterior that `to_tensors` wrote, given the config it was made with.

        Raises:
            ValueError: a tensor is missing, has a wrong shape or is not finite; it is named.
        """
        pending = {name: read_tensor(tensors, name, None) for name in PENDING if name in tensors}
        before = UNMOVED if pending else ""
        mean = read_tensor(tensors, f"{before}mean", None)
        if mean.ndim != 1 or mean.shape[0] < 1:
            raise ValueError(f"tensor 'mean' must have shape (D,), got {mean.shape}")
        dim = mean.shape[0]
        sums = Statistics.from_tensors(tensors, dim)
        posterior = cls(
            RowStatistics(sums, read_tensor(tensors, "waiting", None)),
            config,
            prior_mean=read_tensor(tensors, "prior_mean", (dim,)),
            refresh_every=int(read_scalar(tensors, "refresh_every", 1.0)),
            frame=read_frame(tensors, config),
        )
        root = read_tensor(tensors, f"{before}root", (dim, dim))
        posterior._state = cls._new_state(root, mean, pending)
        posterior.a = read_scalar(tensors, "a", np.finfo(np.float64).tiny)
        posterior.b = read_scalar(tensors, "b", np.finfo(np.float64).tiny)
        posterior.updates_since_refresh = int(read_scalar(tensors, "updates_since_refresh", 0.0))
        return posterior

    def _count(self, num: int, *, rows: int = 0) -> None:
        self.updates_since_refresh += num
        moves = self._moves_frame and self.config.learns_frame and rows > 0
        if self.updates_since_refresh >= self.refresh_every or (
            moves and doubles(self.num_rows - rows, self.num_rows)
        ):
            self.refresh()
