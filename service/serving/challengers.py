"""The challengers of a bandit: other configurations that learn its log beside it.

What is declared and what was found out of each is a row of the store, and is here as a value.
Their trials and promotions are rows of the log (see `bandexa_core.log.promotions`): whatever a kill
interrupts, the log says how far it came.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import msgspec

from bandexa_core.log.configurations import Configurations, changed_spec
from bandexa_core.spec import BanditSpec, EncoderSpec
from bandexa_core.spec.arms import GuardSpec
from bandexa_core.spec.changes import changeable_part, completed_spec
from service.store.reading import LogReader

ALPHA = 0.05  # of all challengers of a bandit together
OFFERED: dict[str, dict[str, Any]] = {
    "linear": {"policy": "linear_ts"}, "greedy": {"policy": "greedy"},
}  # fmt: skip
State = Literal["learning", "trial", "promoting", "served", "returned"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How a challenger is promoted.

    Attributes:
        rule: By a person, or by itself once the log says that it is better.
        margin: Its trial ends where it is worse than the bandit by more than this, for certain.
        steps: The shares of its trial; the last one is 1, where it becomes the bandit.
        step_values: Values of the two after which the next step is taken.
        least: Values of the log before which nothing is concluded.
    """

    rule: Literal["person", "auto"] = "person"
    margin: float = 0.0
    steps: tuple[float, ...] = (0.05, 0.25, 1.0)
    step_values: int = 1000
    least: int = 1000


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How a challenger compares with what was served, by the log.

    Attributes:
        num: How many decisions are behind it.
        left_out: How many were learned and not counted: with `sticky: action`, those that were not
            the first of their units.
        learned: How many values the bandit had learned then.
        time: When that was, seconds since the epoch.
        seconds: How long it took.
        lift, low, high: What it would have earned more than what was served, and the interval;
            None without decisions, or before 100 of them.
        value, served: What it would have earned, and what was served did.
        effective, mean_weight: Of its weights; see `docs/evaluation.md`.
        reasons: Why nothing should be concluded; empty: it can be.
        error: Why it could not be compared; None: it could.
    """

    num: int = 0
    left_out: int = 0
    learned: int = 0
    time: float = 0.0
    seconds: float = 0.0
    lift: float | None = None
    low: float | None = None
    high: float | None = None
    value: float | None = None
    served: float | None = None
    effective: float = 0.0
    mean_weight: float | None = None
    reasons: tuple[str, ...] = ()
    error: str | None = None

    @property
    def is_better(self) -> bool:
        """Whether the log says that it is better."""
        return not self.reasons and self.error is None and self.low is not None and self.low > 0.0


class Challenger(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger.

    Attributes:
        name: Its name.
        created: When it was declared, seconds since the epoch.
        position: The position of the log then.
        given: The sections in which its configuration differs from the bandit's, as JSON.
        rule: How it is promoted.
        score: How it compares; None before the first comparison.
    """

    name: str
    created: float
    position: int
    given: dict[str, Any]
    rule: Rule = Rule()
    score: Score | None = None

    def spec(self, served: BanditSpec) -> BanditSpec:
        """Return its configuration: the bandit's, with its own sections in place of these.

        It has no arms, and what a change takes at once is the bandit's.

        Raises:
            ValueError: They do not fit each other; the message begins with the key.
        """
        plain = dataclasses.replace(served, arms=(), guard=GuardSpec(), mode="learn", serve=None)
        whole = spec_json(plain)
        policy = self.given.get("policy", served.policy)
        if policy not in (served.policy, "greedy") and "encoder" not in self.given:
            whole["encoder"] = dataclasses.asdict(EncoderSpec())  # the one of that policy
        if "encoder" in self.given and "policy" not in self.given:
            whole["policy"] = None
        mine = BanditSpec.from_json(whole | self.given)
        return completed_spec(mine, 0, plain, {*self.given, "reward_range"})

    def state(self, known: Configurations, served: BanditSpec) -> State:
        """Return what has become of it, by the log."""
        promotion = known.promotion
        if promotion is not None and promotion.challenger == self.name:
            return "served" if known.pending is None else "promoting"
        if any(arm.challenger == self.name for arm in served.arms):
            return "trial"
        return "returned" if self.was_worse(known) else "learning"

    def was_worse(self, known: Configurations) -> bool:
        """Whether its last trial was ended because it was worse."""
        mine = [each for each in known.trial_ends if each.challenger == self.name]
        return bool(mine) and mine[-1].why == "worse" and mine[-1].position > self.position

    def was_tried(self, known: Configurations) -> bool:
        """Whether it had its chance since it was declared: a rule does not begin a second one."""
        tried = [(each.challenger, each.position) for each in known.trial_ends]
        tried += [(each.challenger, each.position) for each in known.promotions]
        return any(name == self.name and position > self.position for name, position in tried)


def promoted_spec(spec: BanditSpec, served: BanditSpec) -> BanditSpec:
    """Return the configuration of a bandit that a challenger's becomes: arms and rules stay.

    What is learned of the metrics is no rule of rewards, but a part of what is learned anew.
    """
    return changed_spec(spec, changeable_part(served))


def spec_json(spec: BanditSpec) -> dict[str, Any]:
    """Return a configuration as JSON."""
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    return found


def stored_challengers(reader: LogReader, bandit: int) -> dict[str, Challenger]:
    """Return the challengers of a bandit by name."""
    found = reader.challengers(bandit)
    return {name: msgspec.json.decode(text, type=Challenger) for name, text in found.items()}


def packed(challenger: Challenger) -> str:
    """Return a challenger as the store has it."""
    return msgspec.json.encode(challenger).decode()
