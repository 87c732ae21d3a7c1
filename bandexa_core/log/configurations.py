"""The configurations of a bandit: a pure function of its creation and of the log's config rows.

A config row is one of two things.

- A *change* has the sections that hold from its position on (`training`, `replay`, `selection`,
  `rewards` but for `rewards.learn`, arms and mode, and `max_bytes` of both sides). It may also have
  `wanted`, a whole configuration: what has to be relearned from the log before it can be served.
  `wanted: null` takes back what was wanted before. A change that a guard makes says why, in `trip`.
  One that promotes a challenger, or ends its trial, says so: see `bandexa_core.log.promotions`.
- A *switch* says that the model which was relearned under the configuration wanted at row
  `switched` is served from its position on, and which snapshot that model began as.

A *generation* is what was learned under one configuration: 0 is the one of the creation, and every
other one has the position of the row that wanted it. Snapshots say their generation. A model is a
function of a snapshot and of the rows behind it, all of one generation; so a switch changes no
model, it says which one is served.

A decision follows the reward rules that hold at its own position.
"""

from __future__ import annotations

import dataclasses
import json
from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal, NamedTuple

from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.promotions import (
    CANDIDATE,
    KEYS,
    PROMOTION,
    TRIAL_END,
    TRIP,
    Promotion,
    TrialEnd,
    Trip,
    Why,
)
from bandexa_core.log.rows import ConfigRow
from bandexa_core.replay.protocol import RowLayout
from bandexa_core.spec import (
    ArmSpec,
    BanditSpec,
    ForgettingSpec,
    GuardSpec,
    ReplaySpec,
    RewardSpec,
    SelectionSpec,
    TrainingSpec,
)
from bandexa_core.spec.bandit import limits_from_json
from bandexa_core.spec.changes import ARM_KEYS, MAX_BYTES, SIDES, changeable_part

WANTED, SWITCHED, VERSION = "wanted", "switched", "version"


class Wanted(NamedTuple):
    """A configuration that is to be served once it is relearned.

    Attributes:
        position: The row that wanted it, and the generation of what is learned under it.
        time: That of the row.
        spec: The configuration.
    """

    position: LogPosition
    time: float
    spec: BanditSpec


class Switch(NamedTuple):
    """A generation is served from a row on.

    Attributes:
        position: The row.
        time: That of the row.
        generation: What is served.
        version: The snapshot that the served model was loaded from.
    """

    position: LogPosition
    time: float
    generation: LogPosition
    version: SnapshotVersion


class Configurations:
    """The configurations of one bandit, up to some position; immutable.

    Args:
        created: The configuration as the bandit was created.
        rows: Its config rows, oldest first.
    """

    def __init__(self, created: BanditSpec, rows: Iterable[ConfigRow] = ()) -> None:
        self.created = created
        self._rows = tuple(rows)

    def with_row(self, row: ConfigRow) -> Configurations:
        """Return the configurations with one more row, a newer one."""
        return Configurations(self.created, (*self._rows, row))

    @cached_property
    def switches(self) -> tuple[Switch, ...]:
        """All switches, oldest first."""
        return tuple(
            Switch(
                row.position,
                row.time,
                LogPosition(row.spec[SWITCHED]),
                SnapshotVersion(row.spec[VERSION]),
            )
            for row in self._rows
            if SWITCHED in row.spec
        )

    @property
    def positions(self) -> tuple[LogPosition, ...]:
        """The positions of all config rows, oldest first."""
        return tuple(row.position for row in self._rows)

    def generation(self, position: int) -> LogPosition:
        """Return the generation that is served at a position."""
        served = [each.generation for each in self.switches if each.position <= position]
        return served[-1] if served else LogPosition(0)

    @cached_property
    def pending(self) -> Wanted | None:
        """What is wanted and not served yet; None where nothing is."""
        rows = (row for row in reversed(self._rows) if CANDIDATE not in row.spec)
        row = next((row for row in rows if WANTED in row.spec), None)
        if row is None or row.spec[WANTED] is None:
            return None
        if any(each.generation == row.position for each in self.switches):
            return None
        return Wanted(row.position, row.time, self.spec(row.position, row.position))

    @cached_property
    def awaited(self) -> BanditSpec | None:
        """The configuration of `pending` with all that was changed since, such as the mode."""
        if self.pending is None:
            return None
        return self.spec(self._rows[-1].position, self.pending.position)

    @cached_property
    def trip(self) -> Trip | None:
        """Why a guard made an arm serve everything; None where none did, or a person changed it."""
        for row in reversed(self._rows):
            if row.spec.get("mode", "control_only") != "control_only":
                return None
            if TRIP in row.spec:
                return Trip(**row.spec[TRIP] | {"time": row.time})
        return None

    def candidate(self, generation: int) -> Wanted | None:
        """Return the configuration of a challenger that is to be tried out, by its generation."""
        for row in self._rows:
            if row.position == generation and CANDIDATE in row.spec:
                return Wanted(row.position, row.time, self.spec(row.position, row.position))
        return None

    @cached_property
    def has_candidates(self) -> bool:
        """Whether there ever was a challenger to be tried out."""
        return any(CANDIDATE in row.spec for row in self._rows)

    @cached_property
    def promotions(self) -> tuple[Promotion, ...]:
        """The challengers that were promoted to be the bandit, oldest first."""
        return tuple(
            Promotion(**row.spec[PROMOTION] | {"position": row.position, "time": row.time})
            for row in self._rows
            if PROMOTION in row.spec
        )

    @cached_property
    def promotion(self) -> Promotion | None:
        """The challenger whose configuration is served, or is wanted; None: it is no challenger's.

        What it replaced can be restored.
        """
        pending = self.pending
        at = self.switches[-1].generation if self.switches else 0
        if pending is not None:
            at = pending.position
        return next((each for each in self.promotions if each.position == at), None)

    @cached_property
    def trial_ends(self) -> tuple[TrialEnd, ...]:
        """The trials of challengers that were ended, oldest first."""
        return tuple(
            TrialEnd(**row.spec[TRIAL_END] | {"position": row.position, "time": row.time})
            for row in self._rows
            if TRIAL_END in row.spec
        )

    def requested_by(self, switch: Switch) -> ConfigRow:
        """Return the row that wanted what a switch serves; its own, where it was served before."""
        before = (each for each in self.switches if each.position < switch.position)
        restores = not switch.generation or any(e.generation == switch.generation for e in before)
        at = switch.position if restores else switch.generation
        return next(row for row in self._rows if row.position == at)

    def spec(self, position: int, generation: int | None = None) -> BanditSpec:
        """Return the configuration of a generation as of a position; None: of the one served there.

        That of a generation does not reach back before the row that wanted it.

        Raises:
            KeyError: No row wanted such a generation.
        """
        if generation is None:
            generation = self.generation(position)
        if generation and all(row.position != generation for row in self._rows):
            raise KeyError(f"generation {generation}")
        spec = self.created
        for row in self._rows:
            if row.position == generation:
                spec = BanditSpec.from_json(row.spec[WANTED])
            elif generation < row.position <= position:
                spec = changed_spec(spec, row.spec)
        return spec

    @cached_property
    def specs(self) -> tuple[BanditSpec, ...]:
        """The configurations that were served at 0 and at each of `positions`, in one pass."""
        found = [self.created]
        for row in self._rows:
            switches = SWITCHED in row.spec
            found.append(self.spec(row.position) if switches else changed_spec(found[-1], row.spec))
        return tuple(found)

    def row_layout(self, spec: BanditSpec) -> RowLayout:
        """Return the layout of all rows that were logged, to be learned under a configuration.

        Objects are as long as any of the configurations allowed.
        """
        layout, created = spec.row_layout, self.created
        limits = [row.spec[MAX_BYTES] for row in self._rows if MAX_BYTES in row.spec]
        widest = {
            side: max(getattr(created, side).max_bytes, *(limit[side] for limit in limits), 0)
            for side in SIDES
        }
        if spec.context.features is not None:
            layout = dataclasses.replace(layout, context_shape=(widest["context"],))
        if spec.actions.features is not None:
            layout = dataclasses.replace(layout, action_dim=widest["actions"])
        return layout

    # -- rewards ------------------------------------------------------------------------------

    @cached_property
    def _rules(self) -> list[tuple[int, RewardSpec]]:
        rules = [(0, self.created.rewards)]
        for row in self._rows:
            new = rules[-1][1]
            if "rewards" in row.spec:
                section = RewardSpec.from_json(row.spec["rewards"])
                outside = section.outside
                if WANTED not in row.spec and "clip" in (outside, new.outside):
                    outside = new.outside  # a change of that is wanted: this one is of other keys
                new = dataclasses.replace(section, learn=new.learn, outside=outside)
            elif SWITCHED in row.spec:
                served = self._wanted_at(row.spec[SWITCHED])
                new = dataclasses.replace(new, learn=served.rewards.learn)
            if new != rules[-1][1]:
                rules.append((row.position, new))
        return rules

    def _wanted_at(self, generation: int) -> BanditSpec:
        return self.spec(generation, generation)

    @cached_property
    def learn(self) -> dict[str, float] | None:
        """The weights of metrics that are served, or else wanted; None: rewards are numbers."""
        served = self._rules[-1][1].learn
        if served is None and self.pending is not None:
            return self.pending.spec.rewards.learn
        return served

    @cached_property
    def any_learn(self) -> dict[str, float] | None:
        """The newest weights of metrics that there were; None where there never were any."""
        known = (rules.learn for _, rules in reversed(self._rules))
        return self.learn or next((each for each in known if each is not None), None)

    def rules(self, position: int) -> RewardSpec:
        """Return the reward rules of the decisions that were made at a position."""
        known = self._rules
        if len(known) == 1:
            return known[0][1]
        return known[bisect_right(known, position, key=lambda pair: pair[0]) - 1][1]

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """The names of metrics that the newest configuration declares; None: it declares none."""
        return self._rules[-1][1].metrics

    @property
    def rules_changed(self) -> bool:
        """Whether decisions may follow other reward rules than those of the creation."""
        return len(self._rules) > 1

    @cached_property
    def ever_had_windows(self) -> bool:
        """Whether some decisions may have a reward window."""
        return any(rules.reward_window_s is not None for _, rules in self._rules)

    def bounding(self, position: int) -> BanditSpec:
        """Return by which configuration the next value of a decision is bounded.

        That is the newest one, with the reward rules of the decision's position.
        """
        if not self._rows:
            return self.created
        rules = self.rules(position)
        newest = self._newest
        return newest if newest.rewards == rules else dataclasses.replace(newest, rewards=rules)

    @cached_property
    def _newest(self) -> BanditSpec:
        return self.spec(self._rows[-1].position if self._rows else 0)


def changed_spec(spec: BanditSpec, changes: dict[str, Any]) -> BanditSpec:
    """Return `spec` with the sections of a config row in place of its own; a switch has none.

    Whether values are clipped to the reward range stays: a model has learned them one way.
    """
    if SWITCHED in changes:
        return spec
    new: dict[str, Any] = {
        "training": TrainingSpec(**changes["training"]),
        "replay": ReplaySpec(**changes["replay"]),
        "selection": SelectionSpec(**changes["selection"]),
    }
    if "forgetting" in changes:  # earlier releases changed it without relearning
        new["forgetting"] = ForgettingSpec(**changes["forgetting"])
    if "rewards" in changes:
        rewards = RewardSpec.from_json(changes["rewards"])
        kept: dict[str, Any] = {"learn": spec.rewards.learn}
        if "clip" in (rewards.outside, spec.rewards.outside):  # what is learned is relearned first
            kept["outside"] = spec.rewards.outside
        new["rewards"] = dataclasses.replace(rewards, **kept)
    if "arms" in changes:
        new |= {key: changes[key] for key in ARM_KEYS}
        new["arms"] = tuple(ArmSpec(**arm) for arm in changes["arms"])
        new["guard"] = GuardSpec.from_json(changes["guard"])
    if "segment" in changes:
        new["segment"] = changes["segment"]
    if "limits" in changes:
        new["limits"] = limits_from_json(changes["limits"])
    for side, size in changes.get(MAX_BYTES, {}).items():
        known = getattr(spec, side)
        if known.max_bytes != size and known.features is not None:
            new[side] = dataclasses.replace(known, max_bytes=size)
    return dataclasses.replace(spec, **new)


def change_payload(
    spec: BanditSpec,
    wanted: BanditSpec | Literal["nothing"] | None = None,
    why: Why | None = None,
) -> dict[str, Any]:
    """Return the `spec` of the config row of a change; for `wanted` and `why` see `EventStore`."""
    payload = changeable_part(spec)
    if why is not None:
        payload[KEYS[type(why)]] = why._asdict()
    if wanted is not None:
        payload[WANTED] = None if wanted == "nothing" else dataclasses.asdict(wanted)
    found: dict[str, Any] = json.loads(json.dumps(payload))  # as every reader of the log has it
    return found


def switch_payload(generation: LogPosition, version: SnapshotVersion) -> dict[str, Any]:
    """Return the `spec` of the config row of a switch."""
    return {SWITCHED: int(generation), VERSION: int(version)}
