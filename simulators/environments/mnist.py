"""Digit problem: a 28x28 image is the context, ten digits are the actions, the right one pays 1.

The seed shuffles the images; a horizon beyond their number goes round again in a new order. There
is no noise, so regret counts mistakes. The shipped 10,000 images are read from the package; where
they come from stands in `simulators/data/README.md`.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams

_NUM_DIGITS = 10


class Digits(NamedTuple):
    """Labelled images: uint8 of shape (n, 28, 28) and uint8 of shape (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def shipped_digits() -> Digits:
    """Return the 10,000 images that come with the package."""
    with (
        resources.files("simulators").joinpath("data/mnist-10k.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return Digits(arrays["images"], arrays["labels"])


class MnistEnvironment:
    """Recognise digits; `seed` fixes their order.

    Args:
        digits: the images to draw from.
        horizon: number of steps.
        seed: fixes the order of the images.
    """

    context_shape = (28, 28)
    context_dtype = "uint8"
    reward_range = (0.0, 1.0)
    retrieve = None
    action_ids = tuple(str(digit) for digit in range(_NUM_DIGITS))
    action_features = None

    def __init__(self, digits: Digits, *, horizon: int = 5000, seed: int = 0) -> None:
        streams = Streams.of(seed)
        num_images = len(digits.labels)
        rounds = [
            streams.contexts.permutation(num_images) for _ in range(-(-horizon // num_images))
        ]
        self.horizon = horizon
        self._digits = digits
        self._order = np.concatenate(rounds)[:horizon]
        self._probes = streams.probes

    def context(self, t: int) -> NDArray[np.generic]:
        """Return the image of step t, uint8 of shape (28, 28)."""
        image: NDArray[np.uint8] = self._digits.images[self._order[t]]
        return image

    def candidates(self, t: int) -> None:
        """Offer all ten digits at every step."""
        return

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 1 for the right digit and 0 for the others, shape (K,)."""
        right: NDArray[np.bool_] = actions == self._digits.labels[self._order[t]]
        return right.astype(np.float64)

    def best(self, t: int) -> float:
        """Return 1: some digit is always right."""
        return 1.0

    def reward(self, t: int, action: int) -> float:
        """Return 1.0 for the right digit, else 0.0."""
        return float(action == self._digits.labels[self._order[t]])

    def probes(self, num: int) -> NDArray[np.generic]:
        """Return `num` images drawn at random; the steps may show them too."""
        picks = np.random.default_rng(self._probes).integers(len(self._digits.labels), size=num)
        return self._digits.images[picks]
