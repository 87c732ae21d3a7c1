"""Image problem: a 28x28 image x with label y is the context and ten labels are the actions.

    r = m(x, a) = 1 if a = y, else 0

There is no noise, so cumulative regret counts mistakes. The policy learns only whether its label
was right: classification from bandit feedback (Beygelzimer and Langford, "The Offset Tree for
Learning with Partial Labels", KDD 2009). The seed shuffles the images; a horizon beyond their
number shows them all again in a new order. `simulators/data/README.md` states the origin of the
10,000 digits in the package. Any other set of 28x28 images with ten labels serves as well. Pure
computation in the simulator's process.
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
    """A set of images is not available; the message is one line that says what to do."""


def shipped_digits() -> LabelledImages:
    """Return the 10,000 digits in the package."""
    with (
        resources.files("simulators").joinpath("data/mnist-10k.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return LabelledImages(arrays["images"], arrays["labels"])


class MnistEnvironment:
    """The problem of the module docstring for a set of images.

    Args:
        images: the images and their labels.
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
        """Return `num` images drawn at random; steps may show the same images."""
        picks = np.random.default_rng(self._probes).integers(len(self._images.labels), size=num)
        return self._images.images[picks]
