"""The metrics of single bandits, in Prometheus' text format.

With ten thousand bandits they are hundreds of thousands of lines. So the lines are written here, a
bandit at a time, and the event loop serves requests in between: the numbers of one bandit belong
together, those of two are some milliseconds apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from bandexa_core.schema import FieldCounts
from service.observe.counters import PROPENSITIES
from service.observe.health import ALARM, Finding, bandit_findings, failed_finding, server_findings
from service.observe.slices import in_slices
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.observed import SideCounts
from service.serving.standing import Agreement, Estimated

_LE = [f'",le="{bound}"}} ' for bound in (*map(repr, PROPENSITIES), "+Inf")]


class _Family:
    """A metric and its lines; labels are names that need no escapes, or are escaped."""

    def __init__(self, name: str, text: str, kind: str = "gauge") -> None:
        self.name = f"{name}_total" if kind == "counter" else name
        self.lines = [f"# HELP {self.name} {text}\n# TYPE {self.name} {kind}\n"]

    def add(self, labels: str, value: float) -> None:
        """Add a sample."""
        self.lines.append(f"{self.name}{{{labels}}} {float(value)!r}\n")


async def bandit_metrics(engine: Engine, *, histograms: bool) -> list[bytes]:
    """Return the metrics of all bandits, one part per metric.

    Args:
        engine: The engine.
        histograms: Whether histograms are among them, which are most of the lines.
    """
    traffic, models, learning = _Traffic(), _Models(engine), _Learning(engine)
    async for bandit in in_slices(engine.bandits()):
        label = f'bandit="{bandit.record.name}"'
        maturity_s = engine.rewards.maturity_s(bandit)
        traffic.add(bandit, label, maturity_s, histograms=histograms)
        models.add(bandit, label)
        learning.add(bandit.record.name, bandit_findings(engine, bandit))
    learning.finish(engine)
    parts = []
    for family in (*traffic.families(), *models.families(), *learning.families()):
        parts.append("".join(family.lines).encode())
        await asyncio.sleep(0)
    return parts


_OF_ARMS = (
    ("share", "The probability that an arm decides; of the bandit itself under its name."),
    ("values", "Learned values behind the comparison of arms."),
    ("reward_mean", "The mean of these."),
    ("lift", "What the bandit earns more than an arm, per decision."),
    ("lift_low", "Lower end of that lift's interval, valid at every moment."),
    ("lift_high", "Upper end of that interval."),
)


_OF_AGREEMENT = (
    ("agreement", "The share of values in whose decisions an arm and the bandit chose alike."),
    ("agreement_low", "Lower end of that share's interval, valid at every moment."),
    ("agreement_high", "Upper end of that interval."),
)
_REWARD_SHARE = "The share of all that was earned that was earned where both chose alike."


_OF_METRICS = (
    ("lift", "What the bandit earns more than an arm of a reported metric, per decision."),
    ("lift_low", "Lower end of that lift's interval, valid at every moment."),
    ("lift_high", "Upper end of that interval."),
)


_OF_SEGMENTS = (
    ("lift", "What the bandit earns more than an arm in a segment, per decision."),
    *_OF_METRICS[1:],
)


_OF_ACTIONS = (
    ("values", "Learned values of an action, where it was chosen first."),
    ("reward_mean", "The mean of these; of the ten actions of a bandit that have most of them."),
    ("reward_low", "Lower end of that mean's interval, valid at every moment."),
    ("reward_high", "Upper end of that interval."),
)


_OF_CHALLENGERS = (
    ("share", "The probability that a challenger decides."),
    ("decisions", "Decisions of the log that a challenger was compared on."),
    ("lift", "What a challenger would have earned more than what was served, per decision."),
    ("lift_low", "Lower end of that lift's interval, valid at every moment."),
    ("lift_high", "Upper end of that interval."),
)


class _Traffic:
    """What has happened to bandits."""

    def __init__(self) -> None:
        self._selects = _Family(
            "bandexa_selects", "Answered selects, repeated ones included.", "counter"
        )
        self._rewards = _Family("bandexa_rewards", "Rewards by status.", "counter")
        self._propensity = _Family(
            "bandexa_propensity",
            "Propensity of the chosen action, for decisions answered with one.", "histogram",
        )  # fmt: skip
        self._mean = _Family("bandexa_reward_mean", "Mean of about the last 1,000 learned values.")
        self._clipped = _Family(
            "bandexa_clipped_values",
            "Values learned as the bound of usual ones, which they were beyond.", "counter",
        )  # fmt: skip
        self._maturity = _Family(
            "bandexa_maturity_seconds",
            "Age at which the next decisions are learned, where rewards wait for one.",
        )
        self._reported = _Family(
            "bandexa_reported_metric_values", "Values that a reported metric is a part of."
        )
        self._means = _Family(
            "bandexa_reported_metric_mean", "Mean of a reported metric over these values."
        )
        self._arms = [_Family(f"bandexa_arm_{name}", text) for name, text in _OF_ARMS]
        self._agreements = [_Family(f"bandexa_arm_{name}", text) for name, text in _OF_AGREEMENT]
        self._reward_share = _Family("bandexa_arm_agreement_reward_share", _REWARD_SHARE)
        self._arm_metrics = [
            _Family(f"bandexa_arm_metric_{name}", text) for name, text in _OF_METRICS
        ]
        self._arm_segments = [
            _Family(f"bandexa_arm_segment_{name}", text) for name, text in _OF_SEGMENTS
        ]
        self._actions = [_Family(f"bandexa_action_{name}", text) for name, text in _OF_ACTIONS]
        self._challengers = [
            _Family(f"bandexa_challenger_{name}", text) for name, text in _OF_CHALLENGERS
        ]
        self._join = _Family(
            "bandexa_join_rate", "Rewarded per chosen actions, over about the last 1,000."
        )
        self._objects = _Family(
            "bandexa_feature_objects",
            "Counted objects with named features, since their encoding is served.",
        )
        self._values = _Family(
            "bandexa_feature_values",
            "Those of them whose value of a field is missing, converted, unseen, wrong or extreme.",
        )
        self._hashes = _Family(
            "bandexa_feature_hashes",
            "Values and words of a field that share places by a hash, and those that collided.",
        )
        self._drift = _Family(
            "bandexa_feature_drift",
            "Population stability index of a field's recent values against its encoding's rows.",
        )

    def add(
        self, bandit: Bandit, label: str, maturity_s: float | None, *, histograms: bool
    ) -> None:
        """Add the lines of a bandit; `maturity_s`: see `Rewards.maturity_s`."""
        vitals = bandit.vitals
        self._selects.add(label, vitals.selects)
        for status, count in vitals.rewards.items():
            self._rewards.add(f'{label},status="{status}"', count)
        if histograms:
            self._add_propensity(bandit, label)
        if vitals.reward_mean is not None:
            self._mean.add(f'{label},policy="{bandit.model.spec.policy}"', vitals.reward_mean)
        self._clipped.add(label, vitals.num_clipped)
        if maturity_s is not None:
            self._maturity.add(label, maturity_s)
        for name, (num, total) in bandit.metrics.totals.items():
            metric = f'{label},metric="{_escaped(name)}"'
            self._reported.add(metric, num)
            if num:
                self._means.add(metric, total / num)
        if (rate := vitals.join_rate()) is not None:
            self._join.add(label, rate)
        for arm in bandit.current_standing():
            numbers = [arm.share, arm.reward.num, arm.reward.mean]
            if arm.lift is not None:
                numbers += [arm.lift.mean, *(arm.lift.interval or ())]
            for family, number in zip(self._arms, numbers, strict=False):
                if number is not None:
                    family.add(f'{label},arm="{arm.name}"', number)
            if arm.agreement is not None:
                self._add_agreement(f'{label},arm="{arm.name}"', arm.agreement)
            for metric, by in arm.metrics.items():
                name = f'{label},arm="{arm.name}",metric="{_escaped(metric)}"'
                _add_ends(self._arm_metrics, name, by.lift)
            for segment, by in arm.segments.items():
                name = f'{label},arm="{arm.name}",segment="{_escaped(segment)}"'
                _add_ends(self._arm_segments, name, by.lift)
        if histograms:
            for action in bandit.earned:
                name = f'{label},action="{_escaped(action.name)}"'
                self._actions[0].add(name, action.reward.num)
                _add_ends(self._actions[1:], name, action.reward)
        shares = {arm.challenger: arm.share for arm in bandit.model.spec.arms}
        for name, challenger in bandit.challengers.items():
            found: list[float | None] = [shares.get(name, 0.0)]
            if (score := challenger.score) is not None:
                found += [score.num, score.lift, score.low, score.high]
            for family, value in zip(self._challengers, found, strict=False):
                if value is not None:
                    family.add(f'{label},challenger="{name}"', value)
        for side, counts in (
            ("context", bandit.inputs.contexts),
            ("actions", bandit.inputs.actions),
        ):
            if counts.observed.rows:
                self._add_features(f'{label},side="{side}"', counts)

    def _add_agreement(self, label: str, found: Agreement) -> None:
        _add_ends(self._agreements, label, found.share)
        if found.reward_share is not None:
            self._reward_share.add(label, found.reward_share)

    def _add_features(self, label: str, counts: SideCounts) -> None:
        """Add the counts of the fields that an encoding has; of each only those above zero."""
        encoding, observed = counts.encoding, counts.observed
        self._objects.add(label, observed.rows)
        for path in () if encoding is None else encoding.fields:
            seen = observed.fields.get(path, FieldCounts())
            numbers = {"missing": observed.missing(path)} | {
                kind: getattr(seen, kind) for kind in ("converted", "unseen", "wrong", "extreme")
            }
            for kind, num in numbers.items():
                if num:
                    self._values.add(f'{label},field="{_escaped(path)}",kind="{kind}"', num)
            if seen.hashed:
                name = f'{label},field="{_escaped(path)}"'
                self._hashes.add(f'{name},kind="hashed"', seen.hashed)
                self._hashes.add(f'{name},kind="collided"', seen.collided)
        for path, drift in (counts.recent.drift() if counts.recent is not None else {}).items():
            self._drift.add(f'{label},field="{_escaped(path)}"', round(drift, 4))

    def _add_propensity(self, bandit: Bandit, label: str) -> None:
        name, tally, seen = self._propensity.name, bandit.vitals.propensities, 0
        start, lines = f"{name}_bucket{{{label[:-1]}", []
        for le, count in zip(_LE, tally.counts, strict=True):
            seen += count
            lines.append(f"{start}{le}{seen}.0\n")
        lines.append(f"{name}_count{{{label}}} {seen}.0\n{name}_sum{{{label}}} {tally.total}\n")
        self._propensity.lines.append("".join(lines))

    def families(self) -> list[_Family]:
        """Return the metrics."""
        return [
            self._selects, self._rewards, self._propensity, self._mean, self._clipped,
            self._maturity, self._reported, self._means, self._join, *self._arms,
            *self._agreements, self._reward_share, *self._arm_metrics, *self._arm_segments,
            *self._actions, *self._challengers, self._objects, self._values, self._hashes,
            self._drift,
        ]  # fmt: skip


def _add_ends(families: Sequence[_Family], label: str, found: Estimated | None) -> None:
    """Add a mean and the ends of its interval, as far as they are known."""
    if found is None:
        return
    for family, number in zip(families, [found.mean, *(found.interval or ())], strict=False):
        if number is not None:
            family.add(label, number)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Models:
    """What bandits serve, and what their last rounds used."""

    def __init__(self, engine: Engine) -> None:
        self._families = [(_Family(name, text), value) for name, text, value in _OF_A_MODEL]
        self._replays = engine.rounds.supervisor.replays
        self._rows = _Family("bandexa_replay_rows", "Rows that the bandit's last round used.")
        self._bytes = _Family("bandexa_replay_bytes", "Bytes of those rows.")

    def add(self, bandit: Bandit, label: str) -> None:
        """Add the lines of a bandit."""
        for family, value in self._families:
            family.add(label, value(bandit))
        if (replay := self._replays.get(bandit.record.uid)) is not None:
            rows, num_bytes = replay
            self._rows.add(label, rows)
            self._bytes.add(label, num_bytes)

    def families(self) -> list[_Family]:
        """Return the metrics."""
        return [*(family for family, _ in self._families), self._rows, self._bytes]


class _Learning:
    """The findings of `/learnz`."""

    def __init__(self, engine: Engine) -> None:
        self._alarmed = False
        self._learning = _Family("bandexa_learning", "Whether /learnz answers 200.")
        self._finding = _Family(
            "bandexa_finding",
            "A finding of /learnz; 1 while it holds. Without a bandit: of the whole server.",
        )
        self.add("", server_findings(engine))

    def add(self, name: str, findings: list[Finding]) -> None:
        """Add the findings of a bandit."""
        for one in findings:
            self._alarmed |= one.severity == ALARM
            labels = f'bandit="{name}",finding="{one.name}",severity="{one.severity}"'
            self._finding.add(labels, 1.0)

    def finish(self, engine: Engine) -> None:
        """Add the bandits that are not served."""
        for aside in engine.live.aside():
            self.add(aside.record.name, [failed_finding(aside.failure)])
        self._learning.lines.append(f"{self._learning.name} {float(not self._alarmed)!r}\n")

    def families(self) -> list[_Family]:
        """Return the metrics."""
        return [self._learning, self._finding]


def _untrained(bandit: Bandit) -> float:
    progress = bandit.model.progress
    return progress.num_learned - progress.trained_rows if bandit.model.learns_features else 0


_OF_A_MODEL: tuple[tuple[str, str, Callable[[Bandit], float]], ...] = (
    ("bandexa_snapshot", "Version of the served snapshot.", lambda b: b.model.version),
    (
        "bandexa_snapshot_age_seconds", "Age of the served snapshot.",
        lambda b: max(0.0, time.time() - b.model.created_at),
    ),
    ("bandexa_position", "Log position of the served model.", lambda b: b.model.position),
    (
        "bandexa_position_lag", "Log rows applied since the served snapshot.",
        lambda b: b.model.position - b.model.base_position,
    ),
    (
        "bandexa_rows_waiting", "Committed rows that wait to be applied.",
        lambda b: b.applier.rows_waiting,
    ),
    (
        "bandexa_failed", "Whether a log row cannot be applied; 1 until it is recovered.",
        lambda b: b.applier.failure is not None,
    ),
    (
        "bandexa_learned_values", "Values learned since the bandit was created.",
        lambda b: b.model.progress.num_learned,
    ),
    ("bandexa_untrained_values", "Values learned since the last round.", _untrained),
    (
        "bandexa_actions", "Actions that are offered.",
        lambda b: len(b.model.catalogue.enabled_slots),
    ),
)  # fmt: skip
