"""The whole configuration of a bandit: its sections, what they demand of each other, what follows.

Whoever builds one has checked it: a value that exists is valid. `BanditSpec.model_hash` is what a
snapshot must have been made under.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from hashlib import blake2b
from json import dumps
from typing import Any, ClassVar, Literal

from bandexa_core.limits import LimitSpec, check_limits
from bandexa_core.posterior.config import PosteriorConfig, clipped
from bandexa_core.replay.protocol import RowLayout
from bandexa_core.spec.arms import ArmSpec, GuardSpec, Mode, check_arms
from bandexa_core.spec.encoder import AUTO, EncoderSpec
from bandexa_core.spec.forgetting import ForgettingSpec
from bandexa_core.spec.inputs import (
    MAX_FEATURES,
    OBJECT_BYTES,
    ActionsSpec,
    ContextSpec,
    stored_action,
)
from bandexa_core.spec.posterior import PosteriorSpec
from bandexa_core.spec.rewards import RewardSpec
from bandexa_core.spec.selection import EPSILON, NAMED_EPSILON, SelectionSpec
from bandexa_core.spec.training import ReplaySpec, TrainingSpec

PolicyName = Literal["linear_ts", "neural_linear_ts", "greedy", "uniform"]

# Of the rules by which values that a configuration leaves out are derived. A bandit has those of
# the release that created it: 1 up to 0.3, 2 since 0.4.
EDITION = 2

DRAW_SCALES = {1: 1.0, 2: 0.2}
# Of the kernel encoder, whose deviations are not too small: nothing is fitted to rewards by steps.
KERNEL_DRAW_SCALE = 0.4


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
        sticky: "unit": one user or session (the `unit` of selects) stays in one arm; "action": and
            has one draw for all its decisions, so that an action repeats until the bandit has
            learned otherwise. None: arm and action are drawn anew for each decision.
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
    sticky: Literal["unit", "action"] | None = None
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
        if self.sticky not in (None, "unit", "action"):
            raise ValueError("sticky: must be unit or action, or left out")
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
    def has_kernel(self) -> bool:
        """Whether features are those of a kernel: by name, or where both sides have names."""
        named = self.context.features is not None and self.actions.features is not None
        is_default = self.encoder.name == AUTO and self.policy != "linear_ts"
        is_default &= not self.context.has_image
        return self.encoder.name == "kernel" or (is_default and named)

    @property
    def reward_width(self) -> float:
        """The width of the reward range; 1, in the unit of the posterior, where none is given."""
        low, high = self.reward_range or (0.0, 1.0)
        return high - low

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
