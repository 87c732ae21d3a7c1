"""Simulated worlds with a known expected reward; see `protocol.py` for what each must offer."""

from simulators.environments.mnist import Digits, MnistEnvironment, shipped_digits
from simulators.environments.protocol import Environment
from simulators.environments.synthetic import SyntheticEnvironment
from simulators.environments.two_tower import TwoTowerEnvironment

__all__ = [
    "Digits",
    "Environment",
    "MnistEnvironment",
    "SyntheticEnvironment",
    "TwoTowerEnvironment",
    "shipped_digits",
]
