"""Digit problem: a 28x28 image is the context, ten labels are the actions, the right one pays 1.

The seed shuffles the images; a horizon beyond their number goes round again in a new order. There
is no noise, so regret counts mistakes. The shipped 10,000 images are read from the package; where
they come from stands in `simulators/data/README.md`. Any other set of ten labels will do as well.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.environments.protocol import Streams

_NUM_LABELS = 10


class LabelledImages(NamedTuple):
    """Images, uint8 of shape (n, 28, 28), and their labels from 0 to 9, uint8 of shape (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class ImagesUnavailableError(Exception):
    """A set of images could not be had; the message says in one line what to do."""


def shipped_digits() -> LabelledImages:
    """Return the 10,000 images that come with the package."""
    with (
        resources.files("simulators").joinpath("data/mnist-10k.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return LabelledImages(arrays["images"], arrays["labels"])


class MnistEnvironment:
    """Recognise digits, or whatever the images show; `seed` fixes their order.

    Args:
        images: the images to draw from.
        horizon: number of steps.
        seed: fixes the order of the images.
    """

    context_shape = (28, 28)
    context_dtype = "uint8"
    reward_range = (0.0, 1.0)
    retrieve = None
    action_ids = tuple(str(label) for label in range(_NUM_LABELS))
    action_features = None

    def __init__(self, images: LabelledImages, *, horizon: int = 5000, seed: int = 0) -> None:
        streams = Streams.of(seed)
        num_images = len(images.labels)
        rounds = [
            streams.contexts.permutation(num_images) for _ in range(-(-horizon // num_images))
        ]
        self.horizon = horizon
        self._images = images
        self._order = np.concatenate(rounds)[:horizon]
        self._probes = streams.probes

    def context(self, t: int) -> NDArray[np.generic]:
        """Return the image of step t, uint8 of shape (28, 28)."""
        image: NDArray[np.uint8] = self._images.images[self._order[t]]
        return image

    def candidates(self, t: int) -> None:
        """Offer all ten labels at every step."""
        return

    def expected(self, t: int, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 1 for the right label and 0 for the others, shape (K,)."""
        right: NDArray[np.bool_] = actions == self._images.labels[self._order[t]]
        return right.astype(np.float64)

    def reward(self, t: int, action: int) -> float:
        """Return 1.0 for the right label, else 0.0."""
        return float(action == self._images.labels[self._order[t]])

    def probes(self, num: int) -> NDArray[np.generic]:
        """Return `num` images drawn at random; the steps may show them too."""
        picks = np.random.default_rng(self._probes).integers(len(self._images.labels), size=num)
        return self._images.images[picks]
