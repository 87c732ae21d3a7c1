"""The posterior over weights: Gaussian in square-root form, shared or one per action slot."""

from bandexa_core.posterior.config import PosteriorConfig
from bandexa_core.posterior.disjoint import DisjointPosterior
from bandexa_core.posterior.factor import NotPositiveDefiniteError
from bandexa_core.posterior.gaussian import REFRESH_EVERY, GaussianPosterior
from bandexa_core.posterior.statistics import Statistics

__all__ = [
    "REFRESH_EVERY",
    "DisjointPosterior",
    "GaussianPosterior",
    "NotPositiveDefiniteError",
    "PosteriorConfig",
    "Statistics",
]
