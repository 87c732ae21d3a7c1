"""Fits the kernel of a Gaussian process to rewards, by the evidence of few rows.

The kernel of two pairs of context and action is a sum of products (Krause and Ong, "Contextual
Gaussian Process Bandit Optimization", NIPS 2011):

    k = b s(x, x') + c s(a, a') + d e(a, a') + s(x, x') (f s(a, a') + g e(a, a'))
        + h v(x, a) v(x', a')

s is the inner product of scaled columns, e is 1 where two actions have the same features, else 0,
and v is how much a field of the context and one of the action have in common (`encoders.sharing`);
the last term is there for each pair of such fields. So rewards may depend on the context, on the
action's features, on the action itself, and on products of them. A field's columns share a scale,
which is learned: one that says nothing fades (automatic relevance determination; Rasmussen and
Williams, "Gaussian Processes for Machine Learning", 2006, section 5.1). Scales and weights maximise
the evidence (eq. 5.8) under a prior that expects little: most of what varies in clicks is chance,
and a prior that expects much of thousands of products learns it by heart.

Legend: N rows, X and A columns of a context and an action, P pairs of fields with common values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Array64 = NDArray[np.float64]

MOST_ROWS = 400  # of which the evidence is computed; its time grows with their cube
STEPS = 15
# The median of each weight, as a share of the variance of rewards, and the deviation of its
# logarithm; a field's scale has the median 1.
WEIGHTS = (0.02, 0.03, 0.02, 0.06, 0.01)
NUM_WEIGHTS = len(WEIGHTS)
SHARED_WEIGHT = 0.04  # of all pairs of fields with common values together
WEIGHT_STD, SCALE_STD = 0.5, 0.3
NOISE, LEAST_NOISE, MOST_NOISE = 0.9, 1e-3, 2.0
_LEAST_LOG, _MOST_LOG = -9.0, 4.0
_JITTER = 1e-6


class Columns(NamedTuple):
    """How the columns of one side are centred and scaled, (columns,) each."""

    mean: Array64
    scale: Array64

    def scaled(self, values: Array64) -> Array64:
        """Return rows (N, columns) as the kernel takes them."""
        return (values - self.mean) * self.scale


class Kernel(NamedTuple):
    """A fitted kernel.

    Attributes:
        x, a: The columns of contexts and of actions.
        weights: b, c, d, f, g and the P of h, as shares of the variance of rewards, (5 + P,).
        noise: The share that is noise.
    """

    x: Columns
    a: Columns
    weights: Array64
    noise: float


def fit_kernel(
    x_NX: Array64,
    a_NA: Array64,
    shared_NP: Array64,
    rewards_N: Array64,
    offered_KA: Array64,
    fields: tuple[NDArray[np.intp], NDArray[np.intp]],
    rng: np.random.Generator,
) -> Kernel:
    """Return the kernel of most evidence.

    Args:
        x_NX: Encoded contexts.
        a_NA: Encoded actions.
        shared_NP: What they have in common.
        rewards_N: Their rewards; where all are equal, the kernel is that of the prior.
        offered_KA: Actions by which those columns are centred and scaled; those that were chosen
            are hardly different where one is chosen most of the time.
        fields: For each column of contexts and of actions, the number of its field.
        rng: Draws the rows that are looked at, where there are many.
    """
    x, groups_x = usual_columns(x_NX, fields[0])
    a, groups_a = usual_columns(offered_KA, fields[1])
    weights = _usual_weights(shared_NP.shape[1])
    spread = float(rewards_N.std())
    if not spread > 0.0:
        return Kernel(x, a, weights, NOISE)
    some = np.arange(len(rewards_N))
    if len(some) > MOST_ROWS:
        some = rng.choice(len(some), MOST_ROWS, replace=False)
    rewards = (rewards_N[some] - rewards_N.mean()) / spread
    pairs = a.scaled(a_NA[some]), a_NA[some], shared_NP[some]
    evidence = _Evidence(x.scaled(x_NX[some]), *pairs, rewards, groups_x, groups_a)
    found = evidence.fitted()
    logs_x, logs_a, logs, noise = evidence.parts(found)
    return Kernel(
        Columns(x.mean, x.scale * np.exp(0.5 * logs_x)[groups_x]),
        Columns(a.mean, a.scale * np.exp(0.5 * logs_a)[groups_a]),
        weights * np.exp(logs),
        float(np.exp(noise)),
    )


def _usual_weights(num_pairs: int) -> Array64:
    return np.append(WEIGHTS, np.full(num_pairs, SHARED_WEIGHT / max(1, num_pairs)))


def usual_columns(rows: Array64, fields: NDArray[np.intp]) -> tuple[Columns, NDArray[np.intp]]:
    """Return the columns before scales are learned: all fields vary alike, by 1 together.

    And each column's field as an index; the last one is that of columns which do not vary.
    """
    mean = rows.mean(axis=0)
    squares = ((rows - mean) ** 2).mean(axis=0)
    known, index = np.unique(fields, return_inverse=True)
    total = np.bincount(index, squares, len(known))
    vary = total > 1e-9
    scale = np.zeros(len(known))
    scale[vary] = 1.0 / np.sqrt(total[vary] * max(1, int(vary.sum())))
    place = np.where(vary, np.cumsum(vary) - 1, int(vary.sum()))
    return Columns(mean, scale[index]), place[index].astype(np.intp)


class _Evidence:
    """The negative log evidence and its gradient, at logarithms of scales, weights and noise."""

    def __init__(
        self,
        x_NX: Array64,
        a_NA: Array64,
        raw_NA: Array64,
        shared_NP: Array64,
        rewards_N: Array64,
        groups_x: NDArray[np.intp],
        groups_a: NDArray[np.intp],
    ) -> None:
        self._x, self._a, self._shared, self._rewards = x_NX, a_NA, shared_NP, rewards_N
        self._weights = _usual_weights(shared_NP.shape[1])
        self._groups_x, self._groups_a = groups_x, groups_a
        self._num_x, self._num_a = int(groups_x.max()) + 1, int(groups_a.max()) + 1
        _, same = np.unique(raw_NA, axis=0, return_inverse=True)
        same = same.reshape(-1)
        self._equal = (same[:, None] == same[None, :]).astype(np.float64)

    def parts(self, logs: Array64) -> tuple[Array64, Array64, Array64, float]:
        """Split a vector of logarithms: of both sides' scales, of the weights, of the noise."""
        num_x, num_a = self._num_x, self._num_a
        return logs[:num_x], logs[num_x : num_x + num_a], logs[num_x + num_a : -1], float(logs[-1])

    def fitted(self) -> Array64:
        """Return the logarithms of most evidence."""
        num = self._num_x + self._num_a
        num += len(self._weights)
        start = np.append(np.zeros(num), np.log(NOISE))
        noise = (np.log(LEAST_NOISE), np.log(MOST_NOISE))
        bounds = [(_LEAST_LOG, _MOST_LOG)] * num + [noise]
        options = {"maxiter": STEPS}
        found = minimize(self, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return np.asarray(found.x, np.float64)

    def __call__(self, logs: Array64) -> tuple[float, Array64]:
        """Return the value and the gradient."""
        logs_x, logs_a, logs_w, log_noise = self.parts(logs)
        x = self._x * np.exp(0.5 * logs_x)[self._groups_x]
        a = self._a * np.exp(0.5 * logs_a)[self._groups_a]
        weights = self._weights * np.exp(logs_w)
        b, c, d, f, g = weights[:NUM_WEIGHTS]
        of_shared = weights[NUM_WEIGHTS:]
        noise = np.exp(log_noise)
        of_x, of_a, equal = x @ x.T, a @ a.T, self._equal
        of_pairs = f * of_a + g * equal
        whole = b * of_x + c * of_a + d * equal + of_x * of_pairs
        whole += (self._shared * of_shared) @ self._shared.T
        whole[np.diag_indices(len(whole))] += noise + _JITTER
        factor = cho_factor(whole, lower=True)
        solved = cho_solve(factor, self._rewards)
        inner = 0.5 * (cho_solve(factor, np.eye(len(whole))) - np.outer(solved, solved))
        value = 0.5 * float(self._rewards @ solved) + float(np.log(np.diag(factor[0])).sum())
        per_x, per_a = inner * (b + of_pairs), inner * (c + f * of_x)
        slope_x = np.bincount(self._groups_x, ((per_x @ x) * x).sum(axis=0), self._num_x)
        slope_a = np.bincount(self._groups_a, ((per_a @ a) * a).sum(axis=0), self._num_a)
        slope_w = [
            b * (inner * of_x).sum(),
            c * (inner * of_a).sum(),
            d * (inner * equal).sum(),
            f * (inner * of_x * of_a).sum(),
            g * (inner * of_x * equal).sum(),
            *(of_shared * ((inner @ self._shared) * self._shared).sum(axis=0)),
        ]
        slope = np.concatenate([slope_x, slope_a, slope_w, [noise * np.trace(inner)]])
        scales = np.concatenate([logs_x, logs_a])
        num = len(scales)
        value += 0.5 * float((scales**2).sum()) / SCALE_STD**2
        value += 0.5 * float((logs_w**2).sum()) / WEIGHT_STD**2
        slope[:num] += scales / SCALE_STD**2
        slope[num:-1] += logs_w / WEIGHT_STD**2
        return value, slope
