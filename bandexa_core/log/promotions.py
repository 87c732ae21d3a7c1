"""Why a config row was logged, where nobody put a configuration: a guard, or a challenger.

A challenger is another configuration that learned the log of a bandit beside it. Three rows tell
what became of one:

- a *candidacy* has the configuration of a challenger that is to be tried out. Its row names a
  generation, whose model is built as that of a change is, and nothing is switched to it;
- a *promotion* wants the configuration of a challenger served, and says what it replaces;
- a *trial's end* takes away the arm of a challenger, and says why.
"""

from __future__ import annotations

from typing import NamedTuple

TRIP, CANDIDATE, PROMOTION, TRIAL_END = "trip", "candidate", "promotion", "trial_end"


class Trip(NamedTuple):
    """Why a guard made an arm serve everything.

    Attributes:
        arm: The arm.
        margin: By how much the bandit might have been worse.
        low, high: The interval of its lift over the arm.
        num: How many values are behind that.
        time: When it was, seconds since the epoch; 0 while it is not a row of the log.
        metric: Which metric is worse; None: what is learned is.
    """

    arm: str
    margin: float
    low: float
    high: float
    num: int
    time: float = 0.0
    metric: str | None = None


class Candidacy(NamedTuple):
    """A challenger is to be tried out."""

    challenger: str


class Promotion(NamedTuple):
    """A challenger is to be the bandit.

    Attributes:
        challenger: The challenger.
        generation: What was served before.
        version: The snapshot that was served before; it is retained, so that it can be restored.
        position, time: Of its row; 0 while it is none.
    """

    challenger: str
    generation: int
    version: int
    position: int = 0
    time: float = 0.0


class TrialEnd(NamedTuple):
    """The trial of a challenger has ended.

    Attributes:
        challenger: The challenger.
        why: "worse": its guard ended it; "promoted": it is the bandit; "stopped": somebody did;
            "lost": its model was, and could not be learned anew.
        low, high: The interval of its lift over the bandit; None: there was none.
        num: How many values are behind that.
        position, time: Of its row; 0 while it is none.
    """

    challenger: str
    why: str
    low: float | None = None
    high: float | None = None
    num: int = 0
    position: int = 0
    time: float = 0.0


Why = Trip | Candidacy | Promotion | TrialEnd
KEYS: dict[type[Why], str] = {
    Trip: TRIP, Candidacy: CANDIDATE, Promotion: PROMOTION, TrialEnd: TRIAL_END,
}  # fmt: skip
