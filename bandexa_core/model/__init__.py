"""The serving model: a snapshot plus the log rows after it, and what a round makes of it."""

from bandexa_core.model.progress import Progress
from bandexa_core.model.rounds import plan_round, relearn
from bandexa_core.model.serving import (
    CATALOGUE,
    FORGETTING,
    GENERATION,
    MANY_OBJECTS,
    MODEL_FILE,
    TRAINING_FILE,
    ServingModel,
    load_model,
)
from bandexa_core.model.trials import loads_trials

__all__ = [
    "CATALOGUE",
    "FORGETTING",
    "GENERATION",
    "MANY_OBJECTS",
    "MODEL_FILE",
    "TRAINING_FILE",
    "Progress",
    "ServingModel",
    "load_model",
    "loads_trials",
    "plan_round",
    "relearn",
]
