"""Answers about decisions: selects, rewards, activations, scores, imported decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

from bandexa_client.answers.sent import SENT


@dataclass(frozen=True, slots=True)
class Action:
    """A chosen action.

    Attributes:
        id: Its id.
        index: Its place among the candidates that were sent, else its slot in the catalogue.
    """

    id: str
    index: int


@dataclass(frozen=True, slots=True)
class CandidatePropensity:
    """The probability that a candidate is chosen first.

    Attributes:
        id: Its id.
        index: Its place among the candidates that were sent, else its slot in the catalogue.
        propensity: The probability.
    """

    id: str
    index: int
    propensity: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer to a select.

    With `fallback` the service did not answer, and the action is the caller's own: without score
    and propensity, at snapshot and position -1. The service does not know this decision.

    Attributes:
        decision_id: The id to report rewards for.
        action: The first chosen action.
        actions: All k chosen actions, best first.
        score: The sampled value of the first action.
        propensity: The probability that the first action was chosen; None while the service has
            not computed it.
        propensities: With k above 1, for each action the probability that it stands at its place,
            whatever stands at the others; None for k = 1, and for very many candidates.
        snapshot: The version of the snapshot behind the served model.
        position: The log position of the served model.
        fallback: Whether the action is the caller's own.
        all_propensities: Where the select asks for them, the probability of each candidate, in
            their order; they sum to 1.
        arm: Where the bandit has arms, the one that decided; None where one of them cannot serve
            the request, which is the bandit's then.
    """

    decision_id: str
    action: Action
    actions: tuple[Action, ...]
    score: float | None
    propensity: float | None
    snapshot: int
    position: int
    fallback: bool = False
    propensities: tuple[float, ...] | None = field(default=None, metadata=SENT)
    all_propensities: tuple[CandidatePropensity, ...] | None = field(default=None, metadata=SENT)
    arm: str | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class RewardStatus:
    """What became of a reward.

    Attributes:
        status: applied, duplicate, ignored, aggregated or late; pending, when it is learned at the
            close of the decision's window; void, when an administrator has voided the value, and
            nothing is learned of it; stored, when the bandit has failed and learns it once it
            is recovered; or fallback, when the decision was the caller's own,
            which the service does not know.
        train_due: Whether a training round is due.
    """

    status: str
    train_due: bool


@dataclass(frozen=True, slots=True)
class ActivationStatus:
    """What became of an activation.

    Attributes:
        status: applied, duplicate, or late when the decision's reward window was closed; or
            fallback, when the decision was the caller's own.
    """

    status: str


@dataclass(frozen=True, slots=True)
class ActionScore:
    """Mean and standard deviation of an action's value under the served model."""

    id: str
    index: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one context, with the snapshot and position of the model that gave them."""

    scores: tuple[ActionScore, ...]
    snapshot: int
    position: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a decision that was imported.

    Attributes:
        status: imported; duplicate: it was there; updated: its value came or changed since.
        decision_id: Its id in this service.
    """

    status: str
    decision_id: str
