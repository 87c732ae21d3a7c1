"""The configuration of a bandit: frozen values, checked when they are created, stored as JSON.

These are plain dataclasses, so the core needs no validation library. The service lets pydantic
build them from requests, where `__pydantic_config__` refuses unknown keys. The docstrings of the
classes appear in the API documentation.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from json import dumps
from typing import Any, ClassVar, Literal, get_args

from bandexa_core.arms_spec import ArmSpec as ArmSpec  # sections of the configuration
from bandexa_core.arms_spec import GuardSpec as GuardSpec
from bandexa_core.arms_spec import Mode, check_arms
from bandexa_core.inputs_spec import MAX_FEATURES, OBJECT_BYTES, stored_action
from bandexa_core.inputs_spec import ActionsSpec as ActionsSpec
from bandexa_core.inputs_spec import ContextSpec as ContextSpec
from bandexa_core.limits import LimitSpec as LimitSpec
from bandexa_core.limits import check_limits
from bandexa_core.posterior.config import PosteriorConfig, clipped
from bandexa_core.replay.protocol import RowLayout

PolicyName = Literal["linear_ts", "neural_linear_ts", "greedy", "uniform"]
SelectionMethod = Literal["thompson", "squarecb", "greedy", "uniform"]
LoggedPropensities = Literal["chosen", "all"]
RewardAggregate = Literal["first", "last", "sum", "mean", "median", "min", "max"]
# Of the rules by which values that a configuration leaves out are derived. A bandit has those of
# the release that created it: 1 up to 0.3, 2 since 0.4.
EDITION = 2
DRAWS = 2
DRAW_SCALES = {1: 1.0, 2: 0.2}
# Of the kernel encoder, whose deviations are not too small: nothing is fitted to rewards by steps.
KERNEL_DRAW_SCALE = 0.4
# The limits of one round: a bandit must not block the rounds of the others for hours.
TRAINING_LIMITS = {
    "train_every": 1 << 40,
    "optimizer_steps": 100_000,
    "batch_size": 1 << 16,
    "rebuild_chunk": 1 << 20,
}
ARM_KEYS = frozenset({"arms", "sticky", "guard", "mode", "serve"})
SIDES = ("context", "actions")
MAX_BYTES = "max_bytes"  # of both sides: the part of a config row that has them
EPSILON_ROWS = 1000
# With named features, few of many columns are not 0. A network may then be sure that an action does
# not suit some contexts, and never try it there.
EPSILON, NAMED_EPSILON = 0.005, 0.02
AUTO = "auto"
CROSSES = "crosses"  # the encoder of linear policies with named features
MAX_PARAMS_DEPTH = 8
# The number of forgetting steps per half-life (2.2 % each).
FORGETTING_CELLS = 32
MAX_REWARD = 1e20  # a posterior could not learn a larger value
MAX_WINDOW_S = 1e9
MAX_METRICS = 16  # of a bandit
METRIC_NAME = r"[A-Za-z0-9._:-]{1,64}"
LEAST_HALF_LIFE = {"count": 32.0, "time": 60.0}
MAX_GAMMA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """An encoder by its registered name, with that encoder's parameters.

    Attributes:
        name: A fixed map, a built-in learned encoder, or one that the server registers; "auto" is
            chosen by policy and shape at creation, and is named from then on.
        params: The keyword parameters of a learned encoder; fixed maps take none.
        standardize: Subtract the mean of every float input and divide by its standard deviation.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str = AUTO
    params: dict[str, Any] = field(default_factory=dict)
    standardize: bool = True

    def __post_init__(self) -> None:
        _check_json("params", self.params, MAX_PARAMS_DEPTH)


def _check_json(field_name: str, value: Any, depth: int) -> None:
    """Refuse a value that JSON cannot represent, or that nests deeper than `depth` (ValueError)."""
    if depth < 0:
        raise ValueError(f"{field_name}: nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_json(field_name, str(key), depth)
            _check_json(field_name, item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(field_name, item, depth - 1)
    elif isinstance(value, str):
        if any(0xD800 <= ord(character) < 0xE000 for character in value):
            raise ValueError(f"{field_name}: must hold valid text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{field_name}: must hold finite numbers")
    elif value is not None and not isinstance(value, bool | int):
        raise ValueError(f"{field_name}: must hold JSON values, not {type(value).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorSpec:
    """Prior and noise of the Bayesian linear head. None derives a value from the reward range.

    Attributes:
        prior_var: Prior variance of each weight, in squared reward units.
        noise: "nig" learns the noise variance (normal-inverse-gamma); "fixed" takes it as known.
        noise_var: Noise variance in squared reward units: the known one, or the initial guess.
        noise_shape: Weight of that guess: it counts as twice as many rows. Unused when fixed.
        prior_mean: What is expected of an action that nothing is known of, in reward units; None:
            the mean of the first 64 values.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    prior_var: float | None = None
    noise: Literal["nig", "fixed"] = "nig"
    noise_var: float | None = None
    noise_shape: float = 0.1
    prior_mean: float | None = None

    def __post_init__(self) -> None:
        for name in ("prior_var", "noise_var", "noise_shape"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: must be a finite number above 0")
        if self.prior_mean is not None and not abs(self.prior_mean) <= MAX_REWARD:
            raise ValueError(f"prior_mean: must be -{MAX_REWARD:g} to {MAX_REWARD:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """When and how much the encoder is trained. None selects the built-in schedule.

    Attributes:
        mode: "background" trains beside the requests; in "lockstep" rounds wait for the client, so
            that a run repeats exactly.
        train_every: Learned values between two rounds.
        optimizer_steps: Optimizer steps of a round.
        batch_size: Rows of an optimizer step.
        lr: Learning rate of a round's first step; it falls linearly to a tenth.
        weight_decay: Weight decay of AdamW; None: 300 over the number of rows, 0.01 to 1. With
            named features it rises where noise is learned by heart.
        rebuild_chunk: Rows that are encoded at once when the posterior is rebuilt.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Literal["background", "lockstep"] = "background"
    train_every: int | None = None
    optimizer_steps: int | None = None
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float | None = None
    rebuild_chunk: int = 4096

    def __post_init__(self) -> None:
        for name, most in TRAINING_LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name}: must be 1 to {most}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError("lr: must be a finite number above 0")
        decay = self.weight_decay
        if decay is not None and not (math.isfinite(decay) and decay >= 0):
            raise ValueError("weight_decay: must be a finite number, 0 or above")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpec:
    """Where training rows are stored, and how many.

    Attributes:
        backend: "memory" or "disk"; "auto" chooses by the size of the rows.
        shard_size: Rows of a file, on disk.
        cache_shards: Files that stay open.
        flush_every: Rows between two syncs, on disk.
        capacity: The most rows that are stored.
        capacity_bytes: The most bytes that stored rows take; the lower of the two limits holds.
        evicted_sample: How many evicted rows (removed by a capacity or by the retention of the
            store) are stored to represent all of them, 64 MiB at most; 0: none.
        activation_bytes: The most bytes of frozen activations stored beside the rows; 0: none.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    backend: Literal["auto", "memory", "disk"] = "auto"
    shard_size: int = 2048
    cache_shards: int = 16
    flush_every: int = 256
    capacity: int | None = None
    capacity_bytes: int | None = None
    evicted_sample: int = 2000
    activation_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("shard_size", "cache_shards", "flush_every", "capacity", "capacity_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1")
        for name in ("evicted_sample", "activation_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or above")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingSpec:
    """How fast old rewards lose weight, for rewards that drift.

    Attributes:
        by: "count": the half-life is in log rows (one per learned value); "time": in seconds.
        half_life: A reward of this age has half its initial weight; None: nothing is forgotten.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    by: Literal["count", "time"] = "count"
    half_life: float | None = None

    def __post_init__(self) -> None:
        if self.by not in LEAST_HALF_LIFE:
            raise ValueError("by: must be count or time")
        least = LEAST_HALF_LIFE[self.by]
        if self.half_life is not None and not least <= self.half_life <= 1e12:
            raise ValueError(f"half_life: must be {least:g} to 1e12 where by is {self.by}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditSpec:
    """The whole configuration of one bandit.

    Attributes:
        policy: "linear_ts" runs on fixed maps and on crosses of named features, "neural_linear_ts"
            on learned encoders; "greedy" and "uniform" are baselines. None: that of the encoder,
            "neural_linear_ts" without one.
        context: What every context is: an array of a shape, or an object with named features.
        action_dim: Number of features of an action; 0: actions are known by their id alone, or
            have named features.
        actions: The named features of actions.
        reward_range: The scale of rewards, lowest and highest; for those beyond it see
            `rewards.outside`. None: it is learned.
        arms: What else decides some of the decisions, each a share of them; the bandit itself
            decides the rest.
        sticky: "unit": one user or session (the `unit` of selects) stays in one arm; None: the arm
            is drawn anew for each decision.
        guard: When an arm takes over from the bandit.
        mode: "learn"; "frozen" decides with the model as it is and stores rewards, which are
            learned once it learns again; in "control_only" the arm `guard.arm` serves every
            decision. None: as it was.
        serve: One action that is served in every decision; None: as it was, or none where `mode` is
            named.
        segment: A named feature of contexts: arms are compared for each of its values, too. None:
            for none.
        limits: By the id of an action: when it is offered, and how probable its choice is at least
            and at most. None: as they were.
        seed: Key of every draw; None: the server draws a seed at creation.
        edition: Of the rules by which left-out values are derived; None: the newest at creation,
            and the bandit's own from then on.

    Raises:
        ValueError: A value is out of its range; the message names the field.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    # The sections that a change takes at once; others have to be relearned from the log.
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset(
        {"training", "replay", "selection", "rewards", "limits", "segment"} | ARM_KEYS
    )

    policy: PolicyName | None = None
    context: ContextSpec
    action_dim: int = 0
    actions: ActionsSpec = field(default_factory=ActionsSpec)
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    posterior: PosteriorSpec = field(default_factory=PosteriorSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    replay: ReplaySpec = field(default_factory=ReplaySpec)
    selection: SelectionSpec = field(default_factory=SelectionSpec)
    forgetting: ForgettingSpec = field(default_factory=ForgettingSpec)
    rewards: RewardSpec = field(default_factory=RewardSpec)
    reward_range: tuple[float, float] | None = None
    arms: tuple[ArmSpec, ...] = ()
    sticky: Literal["unit"] | None = None
    guard: GuardSpec = field(default_factory=GuardSpec)
    mode: Mode | None = None
    serve: str | None = None
    segment: str | None = None
    limits: dict[str, LimitSpec] | None = None
    seed: int | None = None
    edition: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.action_dim <= MAX_FEATURES:
            raise ValueError(f"action_dim: must be 0 to {MAX_FEATURES}")
        if self.action_dim and self.actions.features is not None:
            raise ValueError("action_dim: actions have numbers or named features, not both")
        if self.edition not in (None, *DRAW_SCALES):
            raise ValueError(f"edition: must be 1 to {EDITION}")
        if self.reward_range is not None:
            low, high = self.reward_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError("reward_range: needs two finite numbers, the lower one first")
        elif self.edition == 1:
            raise ValueError("reward_range: needed in edition 1")
        if self.edition == 1 and self.rewards.outside == "clip":
            raise ValueError("rewards.outside: clip is not in edition 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError("seed: must be 0 to 2**63 - 1")
        if self.sticky not in (None, "unit"):
            raise ValueError("sticky: must be unit, or left out")
        check_arms(self.arms, self.guard, self.mode, self.serve)
        check_limits(self.limits or {})
        if self.segment is not None and self.context.features is None:
            raise ValueError("segment: needs contexts with named features")
        row_bytes = self.row_layout.row_bytes
        capacity_bytes = self.replay.capacity_bytes
        if capacity_bytes is not None and capacity_bytes < row_bytes:
            raise ValueError(f"replay: capacity_bytes must hold a row, {row_bytes} bytes")
        try:
            self.posterior_config()
        except ValueError as error:
            raise ValueError(f"posterior: {error} (left out, it follows reward_range)") from error

    def check_together(self) -> None:
        """Check what keys that change at once demand of keys that are relearned first.

        A change of both is served in two steps, and what is served in between need not fit.

        Raises:
            ValueError: They do not fit; the message begins with the key.
        """
        if self.edition == 1 and self.rewards.clip_outliers:
            raise ValueError("rewards.clip_outliers: not in edition 1")
        for number, arm in enumerate(self.arms):
            if self.policy in ("greedy", "uniform") and arm.has_method and arm.policy != "uniform":
                raise ValueError(
                    f"arms.{number}.policy: a {self.policy} bandit has no {arm.policy}"
                )
        self._check_default()

    def _check_default(self) -> None:
        default, bounds = self.rewards.default_reward, self.reward_range
        if default is None or bounds is None or self.rewards.outside not in ("clip", "refuse"):
            return
        low, high = bounds
        if not low <= default <= high:
            raise ValueError(
                f"rewards.default_reward: {default} is outside of reward_range, {low} to {high};"
                " with rewards.outside keep it may be"
            )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BanditSpec:
        """Return the spec whose `dataclasses.asdict` went through JSON."""
        shape = value["context"]["shape"]
        sections = {
            "context": ContextSpec(
                **value["context"] | {"shape": None if shape is None else tuple(shape)}
            ),
            "actions": ActionsSpec(**value.get("actions", {})),
            "encoder": EncoderSpec(**value["encoder"]),
            "posterior": PosteriorSpec(**value["posterior"]),
            "training": TrainingSpec(**value["training"]),
            "replay": ReplaySpec(**value["replay"]),
            "selection": SelectionSpec(**value["selection"]),
            "forgetting": ForgettingSpec(**value.get("forgetting", {})),
            "rewards": RewardSpec.from_json(value.get("rewards", {})),
            "reward_range": None if (bounds := value["reward_range"]) is None else tuple(bounds),
            "arms": tuple(ArmSpec(**arm) for arm in value.get("arms", ())),
            "guard": GuardSpec.from_json(value.get("guard", {})),
            "limits": limits_from_json(value.get("limits")),
            "edition": value.get("edition", 1),
        }
        return cls(**value | sections)

    def posterior_config(self) -> PosteriorConfig:
        """Return prior and noise, derived from the reward range where the spec names none.

        The noise variance is guessed at a tenth of the squared reward range: 0.1 for 0/1 rewards,
        where a Bernoulli of mean 1/2 has 0.25 and a confident one far less. The prior expects the
        mean of the first values (0 in edition 1). Without a range, and numbers in its unit, the
        deviation of the values takes the place of its width.
        """
        spec, first = self.posterior, self.edition == 1
        low, high = self.reward_range or (0.0, 1.0)
        span = high - low
        undeclared = all(x is None for x in (self.reward_range, spec.prior_var, spec.noise_var))
        return PosteriorConfig(
            prior_var=spec.prior_var if spec.prior_var is not None else span * span,
            noise=spec.noise,
            noise_var=spec.noise_var if spec.noise_var is not None else 0.1 * span * span,
            noise_shape=spec.noise_shape,
            pooled=not first,
            calibrated=not first and spec.noise == "nig",
            center=0.0 if spec.prior_mean is None else spec.prior_mean,
            learns_center=spec.prior_mean is None and not first,
            learns_unit=undeclared and not first,
            clipped_to=self.clipped_to,
        )

    def epsilon_at(self, num_learned: int) -> float:
        """Return the probability of a uniform choice after `num_learned` learned values."""
        default = NAMED_EPSILON if self.has_named_features else EPSILON
        return self.selection.epsilon_at(num_learned, default)

    @property
    def posterior_scale(self) -> float:
        """What deviations of a draw from the posterior mean are multiplied by."""
        scale = self.selection.posterior_scale
        if scale is not None:
            return scale
        return KERNEL_DRAW_SCALE if self.has_kernel else DRAW_SCALES[self.edition or EDITION]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps the bandit from learning which action suits which context."""
        if self.policy == "uniform" or self.encoder.name != "concat":
            return ()
        return (
            "encoder.name: concat adds up context and action, so that the same action is the best"
            " for every context; bilinear has their products, per_action a model for each action",
        )

    @property
    def has_kernel(self) -> bool:
        """Whether features are those of a kernel: by name, or where both sides have names."""
        named = self.context.features is not None and self.actions.features is not None
        is_default = self.encoder.name == AUTO and self.policy != "linear_ts"
        return self.encoder.name == "kernel" or (is_default and named)

    @property
    def reward_width(self) -> float:
        """The width of the reward range; 1, in the unit of the posterior, where none is given."""
        low, high = self.reward_range or (0.0, 1.0)
        return high - low

    def completed(
        self, seed: int, known: BanditSpec | None = None, given: Collection[str] = ()
    ) -> BanditSpec:
        """Return the spec of a new bandit, or of a change of a `known` one.

        What may be left out, and is a value of its own from the creation on, is filled in. `given`:
        the keys that a change names, so that a `reward_range` of null is not one that is left out.

        Raises:
            ValueError: The reward rules do not fit each other.
        """
        self.rewards.check_learn()
        if known is None:
            if any(arm.challenger is not None for arm in self.arms):
                raise ValueError("arms: a new bandit has no challengers")
            edition = EDITION if self.edition is None else self.edition
            return replace(
                self,
                seed=seed if self.seed is None else self.seed,
                edition=edition,
                mode=self.mode or "learn",
                limits=self.limits or {},
                rewards=self.rewards if edition == 1 else self._new_rewards(),
                selection=self.selection.completed(DRAWS),
            )
        edition = (known.edition or EDITION) if self.edition is None else self.edition
        arms = self._completed_arms(known)
        bounds = self.reward_range
        if bounds is None and "reward_range" not in given:
            bounds = known.reward_range
        policy, encoder = self._completed_policy(known)
        return replace(
            self,
            policy=policy,
            encoder=encoder,
            rewards=self._completed_rewards(known, edition),
            selection=self.selection.completed(known.selection.version),
            seed=known.seed if self.seed is None else self.seed,
            edition=edition,
            reward_range=bounds,
            arms=arms,
            mode=self.mode or known.mode,
            serve=known.serve if self.mode is None and self.serve is None else self.serve,
            limits=known.limits if self.limits is None else self.limits,
        )

    def _completed_arms(self, known: BanditSpec) -> tuple[ArmSpec, ...]:
        """Return the arms of a change: a configuration neither makes nor ends those of challengers.

        Raises:
            ValueError: It would make one.
        """
        trials = tuple(arm for arm in known.arms if arm.challenger is not None)
        names = {arm.name for arm in trials}
        for number, arm in enumerate(self.arms):
            if arm.challenger is not None and arm.name not in names:
                raise ValueError(
                    f"arms.{number}.challenger: is made by promoting a challenger, not by a"
                    " configuration"
                )
        return (*(arm for arm in self.arms if arm.challenger is None), *trials)

    def _completed_policy(self, known: BanditSpec) -> tuple[PolicyName | None, EncoderSpec]:
        """Return policy and encoder of a change; None and "auto": they follow from the other one.

        A change of one of them, without a word on the other, leaves the other to its default.
        """
        policy, encoder = self.policy, self.encoder
        if encoder == EncoderSpec():
            same = policy in (None, known.policy)
            return (known.policy, known.encoder) if same else (policy, encoder)
        if encoder.name == AUTO and not encoder.params and policy in (None, known.policy):
            return known.policy, replace(known.encoder, standardize=encoder.standardize)
        if policy is None and encoder.name == known.encoder.name:
            policy = known.policy
        return policy, encoder

    def _new_rewards(self) -> RewardSpec:
        rewards = self.rewards.matured()
        return replace(rewards, outside="clip") if rewards.outside is None else rewards

    def _completed_rewards(self, known: BanditSpec, edition: int) -> RewardSpec:
        rewards, before = self.rewards, known.rewards
        if rewards.outside is None:
            rewards = replace(rewards, outside=before.outside)
        if edition == 1:  # it has no other maturity than "report", which goes without saying
            return replace(rewards, maturity=None) if rewards.maturity == "report" else rewards
        return self._kept_maturity(rewards, before).matured()

    @staticmethod
    def _kept_maturity(rewards: RewardSpec, before: RewardSpec) -> RewardSpec:
        """Return rules with the maturity of those before, where they leave it out.

        With a default_reward that comes or goes, or without a window, it follows from the rules.
        """
        derived = (rewards.default_reward is None) != (before.default_reward is None)
        waits = before.waits and rewards.reward_window_s is None
        if rewards.maturity is not None or derived or waits:
            return rewards
        try:
            return replace(rewards, maturity=before.maturity)
        except ValueError as error:  # seconds that are longer than another window
            raise ValueError(f"rewards.{error}") from error

    @property
    def has_arms(self) -> bool:
        """Whether something else than the bandit may decide, or decides in its shadow."""
        return bool(self.arms) or self.serve is not None

    @property
    def has_named_features(self) -> bool:
        """Whether contexts or actions are objects with named features."""
        return self.context.features is not None or self.actions.features is not None

    @property
    def has_action_features(self) -> bool:
        """Whether actions have features, and not only ids."""
        return self.action_dim > 0 or self.actions.features is not None

    @property
    def row_layout(self) -> RowLayout:
        """The shapes and dtypes in which contexts and actions are logged."""
        context = self.context
        action_dim, action_dtype = stored_action(self.actions, self.action_dim)
        return RowLayout(context.stored_shape, context.stored_dtype, action_dim, action_dtype)

    @property
    def clips_outliers(self) -> bool:
        """Whether values are clipped to what is usual before they are learned.

        A sum grows reward by reward, a value of metrics metric by metric, and the last reward may
        be of another kind than the first. The bounds would be those of the first ones, so such
        values are clipped only where that was asked for.
        """
        asked, edition = self.rewards.clip_outliers, self.edition or EDITION
        is_final = self.rewards.aggregate not in ("last", "sum") and self.rewards.learn is None
        return (is_final if asked is None else asked) and edition > 1

    @property
    def clipped_to(self) -> tuple[float, float] | None:
        """Where values outside of the reward range are clipped to; None where they are not."""
        return self.reward_range if self.rewards.outside == "clip" else None

    def learned_as(self, value: float) -> float:
        """Return as which value one is learned that is within the bounds of usual ones."""
        return clipped(value, self.clipped_to)

    @property
    def expected_rewards(self) -> tuple[float, float]:
        """The lowest and the highest reward that are expected; infinite where none are declared."""
        return self.reward_range or (-math.inf, math.inf)

    def fixed_part(self) -> dict[str, Any]:
        """Return what the log cannot answer for another value of: the form of what it stores."""
        return {
            "context": _stored_form(self.context) | {"dtype": self.context.dtype},
            "action_dim": self.action_dim,
            "actions": _stored_form(self.actions),
        }

    def relearned_part(self) -> dict[str, Any]:
        """Return the sections that a model learns under, as JSON-able values."""
        whole = dataclasses.asdict(self)
        relearned = {key: value for key, value in whole.items() if key not in self.CHANGEABLE}
        for side in SIDES:  # a limit of requests: no model depends on it
            del relearned[side]["max_bytes"]
        rewards = self.rewards
        outside = "clip" if rewards.outside == "clip" else None
        return relearned | {"rewards": {"learn": rewards.learn, "outside": outside}}

    def changeable_part(self) -> dict[str, Any]:
        """Return the sections that a change takes at once, as JSON-able values."""
        whole = dataclasses.asdict(self)
        del whole["rewards"]["learn"]  # what is learned of the log's metrics is learned anew
        found = {key: whole[key] for key in sorted(self.CHANGEABLE)}
        if self.has_named_features:
            found[MAX_BYTES] = {side: whole[side]["max_bytes"] for side in SIDES}
        return found

    def _posterior_part(self) -> dict[str, Any]:
        whole = dataclasses.asdict(self.posterior_config())
        if self.edition == 1 and self.posterior.prior_mean is None:  # release 0.3 had no others
            return {key: whole[key] for key in ("prior_var", "noise", "noise_var", "noise_shape")}
        if self.clipped_to is None:
            del whole["clipped_to"]
        return whole

    def model_hash(self) -> str:
        """Return a hex digest of the fields that shape the model.

        A snapshot with another digest is refused.
        """
        context, actions = self.context, self.actions
        shape = {
            "policy": self.policy,
            "context": {"shape": context.shape, "dtype": context.dtype},
            "action_dim": self.action_dim,
            "encoder": dataclasses.asdict(self.encoder),
            "posterior": self._posterior_part(),
        }
        if self.has_named_features:  # before release 0.4 there were none
            limit = {"max_bytes": OBJECT_BYTES}  # whatever it is: it shapes no model, and changes
            shape |= {"context": dataclasses.asdict(context) | limit}
            shape |= {"actions": dataclasses.asdict(actions) | limit}
        return blake2b(dumps(shape, sort_keys=True).encode(), digest_size=16).hexdigest()


def limits_from_json(value: dict[str, Any] | None) -> dict[str, LimitSpec] | None:
    """Return the limits of actions whose `dataclasses.asdict` went through JSON."""
    return None if value is None else {name: LimitSpec(**limit) for name, limit in value.items()}


def _stored_form(side: ContextSpec | ActionsSpec) -> dict[str, Any]:
    """Return in which form the log has contexts or actions, apart from the type of numbers."""
    form: dict[str, Any] = {"features": "named" if side.features is not None else None}
    if isinstance(side, ContextSpec):
        form["shape"] = side.shape
    return form
