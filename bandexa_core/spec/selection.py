"""How an action is selected under a given posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

SelectionMethod = Literal["thompson", "squarecb", "greedy", "uniform"]
LoggedPropensities = Literal["chosen", "all"]
DRAWS = 2
EPSILON_ROWS = 1000
# With named features, few of many columns are not 0. A network may then be sure that an action does
# not suit some contexts, and never try it there.
EPSILON, NAMED_EPSILON = 0.005, 0.02
MAX_GAMMA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSpec:
    """How an action is selected under a given posterior.

    Attributes:
        action_chunk: Encode at most this many candidates at once; None encodes all of them at once.
        warmup_random: Choose uniformly at random until this many values were learned.
        panel: Number of posterior draws behind a propensity.
        epsilon: Probability of a uniform choice; None: 0.005, with named features 0.02. It falls
            beyond 1,000 learned values.
        posterior_scale: What deviations of a draw from the posterior mean are multiplied by. 1 is
            plain Thompson sampling, less explores less, 0 is greedy; None: 0.2, with the encoder
            `kernel` 0.4.
        method: "thompson" takes the best by a draw from the posterior; "squarecb" draws by the gaps
            between the posterior means (inverse-gap weighting), "greedy" takes the best mean, and
            "uniform" any candidate. Policies without a posterior, and greedy, ignore it.
        gamma: Of "squarecb": how fast probabilities fall with the gap, times the root of the number
            of learned values.
        log_propensities: "chosen": the probability of the chosen action is stored with a decision,
            and those of all candidates where the request asks for them; "all": those of all, of up
            to 10,000.
        draws: Which random numbers a draw is made of. 2 takes fewer and cheaper ones, by the same
            law; 1 are those of releases up to 0.4. None: 2 in a new bandit, else as it was.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    action_chunk: int | None = None
    warmup_random: int = 0
    panel: int = 64
    epsilon: float | None = None
    posterior_scale: float | None = None
    method: SelectionMethod = "thompson"
    gamma: float = 10.0
    log_propensities: LoggedPropensities = "chosen"
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.log_propensities not in get_args(LoggedPropensities):
            known = ", ".join(get_args(LoggedPropensities))
            raise ValueError(f"log_propensities: must be one of {known}")
        if self.draws not in (None, *range(1, DRAWS + 1)):
            raise ValueError(f"draws: must be 1 to {DRAWS}")
        if self.method not in get_args(SelectionMethod):
            raise ValueError(f"method: must be one of {', '.join(get_args(SelectionMethod))}")
        if not 0.0 < self.gamma <= MAX_GAMMA:
            raise ValueError(f"gamma: must be above 0 and at most {MAX_GAMMA:g}")
        if self.posterior_scale is not None and not 0.0 <= self.posterior_scale <= 10.0:
            raise ValueError("posterior_scale: must be 0 to 10")
        if self.action_chunk is not None and self.action_chunk < 1:
            raise ValueError("action_chunk: must be at least 1")
        if self.warmup_random < 0:
            raise ValueError("warmup_random: must be 0 or above")
        if not 1 <= self.panel <= 4096:
            raise ValueError("panel: must be 1 to 4096")
        if self.epsilon is not None and not 0.0 <= self.epsilon <= 1.0:
            raise ValueError("epsilon: must be 0 to 1")

    @property
    def version(self) -> int:
        """The version of the draws: 1 where a release that had no other made the bandit."""
        return self.draws or 1

    def completed(self, draws: int) -> SelectionSpec:
        """Return it with this version of the draws, unless it names one."""
        return self if self.draws is not None else replace(self, draws=draws)

    def epsilon_at(self, num_learned: int, default: float = EPSILON) -> float:
        """Return the probability of a uniform choice after `num_learned` learned values.

        `default`: What it is at first where the configuration does not say.

        It falls with 1/sqrt(n) beyond `EPSILON_ROWS`. Its cost is then a vanishing share of the
        regret, while every action retains support.
        """
        epsilon = default if self.epsilon is None else self.epsilon
        return epsilon * min(1.0, math.sqrt(EPSILON_ROWS / max(num_learned, 1)))

    def gamma_at(self, num_learned: int) -> float:
        """Return gamma of inverse-gap weighting after `num_learned` learned values.

        It grows with sqrt(n), as the theory of the law asks for: what is explored has a share of
        the regret that vanishes. Vowpal Wabbit has the same default, 10 sqrt(n).
        """
        return self.gamma * math.sqrt(num_learned)
