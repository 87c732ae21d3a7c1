"""Contextual bandit problems whose expected rewards are known; see `protocol.py`."""

from simulators.environments.idx_images import FASHION_FOLDER, fashion_images
from simulators.environments.mnist import (
    ImagesUnavailableError,
    LabelledImages,
    MnistEnvironment,
    shipped_digits,
)
from simulators.environments.protocol import Environment
from simulators.environments.synthetic import SyntheticEnvironment
from simulators.environments.two_tower import TwoTowerEnvironment
from simulators.environments.wheel import WheelEnvironment

__all__ = [
    "FASHION_FOLDER",
    "Environment",
    "ImagesUnavailableError",
    "LabelledImages",
    "MnistEnvironment",
    "SyntheticEnvironment",
    "TwoTowerEnvironment",
    "WheelEnvironment",
    "fashion_images",
    "shipped_digits",
]
