"""Evaluation: what a policy would earn, by a log; and intervals that hold at any time."""

from bandexa_core.evaluation.asymptotic import Asymptotic
from bandexa_core.evaluation.betting import Betting
from bandexa_core.evaluation.estimates import (
    Estimate,
    Switched,
    doubly_robust,
    ips,
    robust_values,
    snips,
    switch,
)
from bandexa_core.evaluation.mixture import Mixture, mixture_bound
from bandexa_core.evaluation.plug_in import PlugIn
from bandexa_core.evaluation.precision import MOST_ROWS, Needed, lasting, needed, rows_of_falling
from bandexa_core.evaluation.sequences import (
    Interval,
    LiftSequence,
    MeanSequence,
    Method,
    RobustSequence,
    WeightedLiftSequence,
    WeightedSequence,
)
from bandexa_core.evaluation.weights import WeightSums

__all__ = [
    "MOST_ROWS",
    "Asymptotic",
    "Betting",
    "Estimate",
    "Interval",
    "LiftSequence",
    "MeanSequence",
    "Method",
    "Mixture",
    "Needed",
    "PlugIn",
    "RobustSequence",
    "Switched",
    "WeightSums",
    "WeightedLiftSequence",
    "WeightedSequence",
    "doubly_robust",
    "ips",
    "lasting",
    "mixture_bound",
    "needed",
    "robust_values",
    "rows_of_falling",
    "snips",
    "switch",
]
