"""A decision, explained: what was sent, what the model computed, what was reported and learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bandexa_client.answers.sent import SENT


@dataclass(frozen=True, slots=True)
class SentContext:
    """A context as it was sent.

    Attributes:
        dtype: Element type; "json" for a dict with named features.
        shape: Length of each axis.
        data: The elements in C order, little endian; `numpy.frombuffer` reads them. The bytes of
            the JSON, where features are named.
        values: The same as numbers; None for contexts of more than 1,024 elements.
        object: The dict with named features; None where contexts are arrays.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    values: tuple[float, ...] | None
    object: Mapping[str, Any] | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class ReportedReward:
    """A reward as it was reported.

    Attributes:
        time: Seconds since the epoch.
        reward: The number; None where `metrics` were reported.
        reward_id: The caller's id of the outcome.
        status: What became of it; see `RewardStatus`.
        metrics: Several numbers by name; None: a single one.
    """

    time: float
    reward: float | None
    reward_id: str | None
    status: str
    metrics: Mapping[str, float] | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class LearnRow:
    """A row of the log that changed the model.

    Attributes:
        position: Its log position.
        time: Seconds since the epoch.
        before: The value before; None for the first.
        after: The value since.
        learned: What was learned for `after` where that is beyond the bounds of usual values; None:
            `after` itself.
        metrics: What `after` was made of, by the weights of that time; None: of no metrics.
    """

    position: int
    time: float
    before: float | None
    after: float
    learned: float | None
    metrics: Mapping[str, float] | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class Amendment:
    """What an administrator did to a value.

    Attributes:
        time: Seconds since the epoch.
        before: The value before; None where it was void, or had no reward.
        after: The value since; None: it became void.
        position: The log row that says so; None where nothing was learned.
    """

    time: float
    before: float | None
    after: float | None
    position: int | None


@dataclass(frozen=True, slots=True)
class ExplainedAction:
    """A chosen action.

    Attributes:
        id: Its id.
        index: Its place among the candidates that were sent, else its slot in the catalogue.
        score: Its sampled value.
        propensity: With k above 1, the probability that it stands at its place; else None.
        value: The value learned from its rewards; None before the first.
        rewards: All rewards that were reported.
        learned: All rows of the log that changed the model.
        features: Its named features; None where the bandit's actions have none.
        void: Whether its value is void; None where the service does not say so.
        amendments: What administrators changed, oldest first; None as above.
        metrics: The metrics that `value` is made of, as learned so far; None: of none.
    """

    id: str
    index: int
    score: float
    value: float | None
    rewards: tuple[ReportedReward, ...]
    learned: tuple[LearnRow, ...]
    propensity: float | None = None
    features: Mapping[str, Any] | None = field(default=None, metadata=SENT)
    void: bool | None = field(default=None, metadata=SENT)
    amendments: tuple[Amendment, ...] | None = field(default=None, metadata=SENT)
    metrics: Mapping[str, float] | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class ExplainedCandidate:
    """What the model computed for a candidate when it decided.

    Attributes:
        id: Its id.
        index: Its place among all candidates.
        mean: Mean of its expected reward under the posterior.
        std: Standard deviation of its expected reward.
        sampled: The sampled value by which it was ranked.
        propensity: The probability that it was chosen first.
        chosen: Whether it was chosen.
    """

    id: str
    index: int
    mean: float
    std: float
    sampled: float
    propensity: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Whether the decision, drawn again, gives the recorded results.

    None: nobody can say. The candidates were retrieved from a list of the request, of which only
    they are stored, and other numbers came out.

    Attributes:
        action: The same actions.
        score: The same sampled value.
        propensity: The same propensity; None, too, where none was recorded.
    """

    action: bool | None
    score: bool | None
    propensity: bool | None


@dataclass(frozen=True, slots=True)
class Added:
    """What a named feature added to what was expected of the first chosen action.

    Attributes:
        side: context or action.
        path: The feature.
        value: What it was, as the log has it.
        added: The posterior mean less that without the feature.
    """

    side: str
    path: str
    value: object
    added: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, explained.

    Attributes:
        decision_id: Its id.
        bandit: The bandit's name.
        time: Seconds since the epoch.
        snapshot: The version of the snapshot behind the model that decided.
        position: The log position of that model.
        propensity: The probability that the first action was chosen; None where none was computed.
        explored: Whether another action had the best mean.
        std: Standard deviation of the first action's expected reward.
        activated: Whether the decision counts.
        activated_at: When it was activated, in seconds since the epoch.
        window_closes: When its reward window closes.
        window_closed: When its reward window was closed.
        context: The context as it was sent.
        chosen: The chosen actions, best first.
        explained: Whether the model that decided could be loaded again.
        reason: Why it could not.
        candidates: What that model computed for up to 200 candidates; of more, for those with the
            best means and the chosen ones.
        num_candidates: How many candidates were offered; with `retrieve`, before it.
        reproduced: Whether drawing again gives the recorded decision.
        matured: When its values were learned at an age within its window.
        imported: The id that it had where it was made; None: it was made by this service.
        arm: The arm that decided; None without arms, or where none could.
        added: What each named feature added to the mean of the first action, the most first.
        shadows: The action that each shadow would have served, by its name; None without any.
    """

    decision_id: str
    bandit: str
    time: float
    snapshot: int
    position: int
    propensity: float | None
    explored: bool | None
    std: float | None
    activated: bool
    activated_at: float | None
    window_closes: float | None
    window_closed: float | None
    context: SentContext
    chosen: tuple[ExplainedAction, ...]
    explained: bool
    reason: str | None
    candidates: tuple[ExplainedCandidate, ...]
    num_candidates: int | None
    reproduced: Reproduction | None
    matured: float | None = field(default=None, metadata=SENT)
    imported: str | None = field(default=None, metadata=SENT)
    arm: str | None = field(default=None, metadata=SENT)
    added: tuple[Added, ...] | None = field(default=None, metadata=SENT)
    shadows: Mapping[str, str] | None = field(default=None, metadata=SENT)
