"""How the arms of a bandit stand, from the sums that are stored of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from bandexa_core.arms import shares
from bandexa_core.evaluation.sequences import ALPHA
from bandexa_core.log.configurations import Configurations
from bandexa_core.spec.arms import BANDIT, ArmSpec
from service.observe.dashboard.comparing import Definitions, compared_metrics
from service.observe.dashboard.sums import (
    AGREES,
    MATCHED,
    METRIC,
    SEGMENT,
    WHOLE,
    Key,
    Kind,
    estimated_of,
    unpacked,
)
from service.serving.standing import Agreement, ArmStanding, Compared, Estimated, Standing


def standing(known: Configurations, stored: Mapping[Key, str]) -> Standing:
    """Return how the arms of a bandit stand, by the sums of their newest definition.

    Args:
        known: The configurations of the bandit.
        stored: The sums of its arms and lifts.
    """
    definitions = Definitions(known)
    spec, end = definitions.newest, definitions.end
    nothing = Estimated(0, None, None)

    def of(key: Key, alpha: float | None = None) -> Estimated:
        text = stored.get(key)
        sums = None if text is None else unpacked(key.kind, text)
        if sums is None or sums.since != definitions.since(end, key):
            return nothing
        if alpha is not None:
            return estimated_of(replace(sums.state, alpha=alpha))
        return sums.estimated()

    def agreement(arm: ArmSpec | None) -> Agreement | None:
        """Return how often an arm and the bandit choose alike."""
        if arm is None or not (arm.shadow or arm.has_rule):
            return None
        whole, matched = of(Key("arm", arm.name, WHOLE)), of(Key("arm", arm.name, MATCHED))
        share = None
        if whole.mean is not None and matched.mean is not None and whole.mean > 0.0:
            share = matched.mean / whole.mean
        return Agreement(of(Key("arm", arm.name, AGREES)), share)

    def compared(name: str, part: str) -> Compared:
        lift = None if name == BANDIT else of(Key("lift", name, part))
        return Compared(of(Key("arm", name, part)), lift)

    chances = shares(spec)
    known_arms = {arm.name: arm for arm in spec.arms}
    names = [*known_arms, BANDIT]
    metrics = compared_metrics(spec)
    segments: list[str] = []
    if spec.segment is not None:
        found = {k.of.removeprefix(SEGMENT) for k in stored if k.of.startswith(SEGMENT)}
        segments = [  # not those of an earlier definition
            value
            for value in sorted(found)
            if any(of(Key("arm", name, SEGMENT + value)).num for name in names)
        ]
    watched = [*([""] if spec.guard.margin is not None else []), *spec.guard.metrics]

    def guarded(name: str) -> dict[str, Estimated]:
        if name != spec.guard.arm:
            return {}
        alpha = ALPHA / max(1, len(watched))
        return {m: of(Key("lift", name, METRIC + m if m else ""), alpha) for m in watched}

    arms = tuple(
        ArmStanding(
            name, chances.get(name, 0.0), of(Key("arm", name)),
            None if name == BANDIT else of(Key("lift", name)),
            {metric: compared(name, METRIC + metric) for metric in metrics},
            {value: compared(name, SEGMENT + value) for value in segments}, guarded(name),
            agreement(known_arms.get(name)),
        )
        for name in names
    )  # fmt: skip
    return Standing(arms if spec.arms else (), spec)


def by_bandit(found: Iterable[tuple[str, Kind, str, str]]) -> dict[str, dict[Key, str]]:
    """Return stored rows (bandit, kind, name, sums) by bandit."""
    rows: dict[str, dict[Key, str]] = defaultdict(dict)
    for uid, kind, name, text in found:
        rows[uid][Key.of_stored(kind, name)] = text
    return rows
