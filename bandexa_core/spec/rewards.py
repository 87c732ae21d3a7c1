"""How the rewards of a decision become its value, and until when they count."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

RewardAggregate = Literal["first", "last", "sum", "mean", "median", "min", "max"]
MAX_REWARD = 1e20  # a posterior could not learn a larger value
MAX_WINDOW_S = 1e9
MAX_METRICS = 16  # of a bandit
METRIC_NAME = r"[A-Za-z0-9._:-]{1,64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec:
    """How the rewards reported for one decision become its value, and until when they count.

    Attributes:
        aggregate: "first" takes the first reward, "last" the newest; "sum", "mean", "median", "min"
            and "max" take all of them, distinguished by their `reward_id`.
        reward_window_s: Seconds after the decision in which rewards count; None: always.
        default_reward: The value learned when the window closes without a reward; None: no value.
        maturity: When a value is learned: "report", with its first reward; "close", when the
            window is over, a reward and its absence alike; a number, so many seconds after the
            decision; or "auto", at the age by which most rewards have come. Later rewards within
            the window correct it. None: "auto" where there is a default_reward, so that nothing
            looks better because only its successes are known; in edition 1 "report".
        outside: What happens to a value outside of the reward_range: "clip" learns it as the end of
            the range that it is beyond; "refuse" refuses the reward; "keep" learns it as it is,
            like any other. None: "clip" for new bandits; left out of a change, it stays.
        clip_outliers: Learn a value that is far beyond all others as if it were at the bound of
            what is usual; None: true, but for sums, for values of metrics, and false in edition 1.
        learn: What is learned of the metrics of a decision: their weights. The value is the sum of
            the metrics times their weights; None: rewards are single numbers.
        metrics: The names of all metrics; others are refused. None: others are stored and reported.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    aggregate: RewardAggregate = "first"
    reward_window_s: float | None = None
    default_reward: float | None = None
    maturity: Literal["auto", "report", "close"] | float | None = None
    outside: Literal["clip", "refuse", "keep"] | None = None
    clip_outliers: bool | None = None
    learn: dict[str, float] | None = None
    metrics: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._check_metrics()
        if self.aggregate not in get_args(RewardAggregate):
            known = ", ".join(get_args(RewardAggregate))
            raise ValueError(f"aggregate: must be one of {known}")
        window = self.reward_window_s
        if window is not None and not 1.0 <= window <= MAX_WINDOW_S:
            raise ValueError(f"reward_window_s: must be 1 to {MAX_WINDOW_S:g}")
        if self.outside not in (None, "clip", "refuse", "keep"):
            raise ValueError("outside: must be clip, refuse or keep")
        self._check_maturity(window)
        default = self.default_reward
        if default is None:
            return
        if window is None:
            raise ValueError("default_reward: needs a reward_window_s to close")
        if not abs(default) <= MAX_REWARD:
            raise ValueError(f"default_reward: must be -{MAX_REWARD:g} to {MAX_REWARD:g}")

    def _check_maturity(self, window: float | None) -> None:
        at = self.maturity
        if isinstance(at, str):
            if at not in ("auto", "report", "close"):
                raise ValueError("maturity: must be auto, report, close or seconds")
        elif at is not None and not at > 0:
            raise ValueError("maturity: must be more than 0 seconds")
        if self.waits and window is None:
            raise ValueError("maturity: needs a reward_window_s to close")
        if isinstance(at, int | float) and window is not None and at > window:
            raise ValueError(f"maturity: must be at most reward_window_s, {window:g}")

    @property
    def waits(self) -> bool:
        """Whether a value is learned at an age of its decision, and not with its first reward."""
        return self.maturity not in (None, "report")

    def _check_metrics(self) -> None:
        for field_name, names in (("learn", self.learn), ("metrics", self.metrics)):
            if names is None:
                continue
            if not 1 <= len(names) <= MAX_METRICS or len(set(names)) < len(names):
                raise ValueError(f"{field_name}: must name 1 to {MAX_METRICS} different metrics")
            for name in names:
                if not re.fullmatch(METRIC_NAME, name):
                    raise ValueError(
                        f"{field_name}: {name!r} is no name: it takes 1 to 64 of A-Za-z0-9._:-"
                    )
        weights = (self.learn or {}).items()
        for name, weight in weights:
            if not abs(weight) <= MAX_REWARD:
                raise ValueError(f"learn.{name}: must be -{MAX_REWARD:g} to {MAX_REWARD:g}")
        if self.learn is not None and not any(weight for _, weight in weights):
            raise ValueError("learn: one of the weights must not be 0")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RewardSpec:
        """Return the section whose `dataclasses.asdict` went through JSON."""
        names = value.get("metrics")
        return cls(**value | ({} if names is None else {"metrics": tuple(names)}))

    def check_learn(self) -> None:
        """Check `learn` against the other keys, which may change before it.

        Raises:
            ValueError: They do not fit; the message begins with the key.
        """
        if self.learn is None:
            if self.metrics is not None:
                raise ValueError("rewards.metrics: needs rewards.learn, which says what is learned")
            return
        if self.clip_outliers:
            raise ValueError("rewards.clip_outliers: not with rewards.learn")
        unknown = [name for name in self.learn if name not in (self.metrics or self.learn)]
        if unknown:
            raise ValueError(f"rewards.learn: {unknown[0]!r} is none of rewards.metrics")

    def matured(self) -> RewardSpec:
        """Return the section with its maturity named."""
        if self.maturity is not None:
            return self
        return replace(self, maturity="report" if self.default_reward is None else "auto")
