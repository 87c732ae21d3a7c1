"""Findings of inputs: extreme ones, and named features that are unseen, wrong, moved or shared."""

from __future__ import annotations

from collections.abc import Iterator

from bandexa_core.features.robust import BOUND, FAR
from service.observe.health.findings import NOTICE, Finding
from service.observe.health.observed import BanditState, Misfit
from service.serving.observed import InputCounts

LEAST_COUNTED = 100  # requests before the shares of unseen and wrong values count
MISFIT = 0.2
DRIFT = 0.25  # of the population stability index; by common usage such a field has moved
EXTREME = FAR * BOUND


def misfits(inputs: InputCounts) -> Iterator[Misfit]:
    """Yield the named features that are unseen or wrong in many of the counted requests."""
    for side, counts in (("context", inputs.contexts), ("actions", inputs.actions)):
        observed = counts.observed
        if observed.rows < LEAST_COUNTED:
            continue
        for path, seen in observed.fields.items():
            num, what = max((seen.unseen, "unseen"), (seen.wrong, "wrong"))
            if num > MISFIT * observed.rows:
                yield Misfit(f"{side}.{path}", what, num / observed.rows, observed.rows)


def drifts(inputs: InputCounts) -> list[tuple[str, float]]:
    """Return the fields of contexts whose recent values differ much from those that were learned.

    Chosen actions differ as a bandit learns, and the hour of a time as the day goes by.
    """
    counts = inputs.contexts
    if counts.recent is None or counts.encoding is None:
        return []
    fields = counts.encoding.fields
    found = [
        (f"context.{path}", index)
        for path, index in counts.recent.drift().items()
        if index >= DRIFT and path in fields and fields[path].type != "time"
    ]
    return sorted(found, key=lambda each: -each[1])


def collisions(inputs: InputCounts) -> list[tuple[str, float]]:
    """Return the hashed ids of which many fall on a place that another one had before."""
    found = []
    for side, counts in (("context", inputs.contexts), ("actions", inputs.actions)):
        known = {} if counts.encoding is None else counts.encoding.fields
        for path, seen in counts.observed.fields.items():
            is_id = path in known and known[path].type == "hash"
            if is_id and seen.hashed >= LEAST_COUNTED and seen.collided > MISFIT * seen.hashed:
                found.append((f"{side}.{path}", seen.collided / seen.hashed))
    return sorted(found, key=lambda each: -each[1])


def and_more(num: int, what: str) -> str:
    """Return ", and so with 2 more fields" where there are more, else ""."""
    return f", and so with {num} more {what}{'s' * (num > 1)}" if num else ""


def check_inputs(state: BanditState) -> Iterator[Finding]:
    """Yield the inputs that are so far from all others that nothing is learned from them."""
    if state.extremes:
        column, num, last = max(state.extremes, key=lambda extreme: extreme[1])
        more = and_more(len(state.extremes) - 1, "column")
        yield Finding(
            "extreme-inputs", NOTICE,
            f"context column {column} was beyond {EXTREME:g} deviations of its usual values in"
            f" {num} of {state.num_contexts} learned contexts, the last time with {last:g}{more}",
            "is that a code for missing, another unit, or an error of the caller? Such a value is"
            " taken as missing; send the mean, or a column of its own that says so",
        )  # fmt: skip
    if state.extreme_action is not None:
        action, feature, value = state.extreme_action
        yield Finding(
            "extreme-action", NOTICE,
            f"feature {feature} of action {action!r} is {value:g}, beyond {EXTREME:g} deviations of"
            " the other enabled actions",
            "correct the feature; until then it is taken as missing",
        )  # fmt: skip
    if state.misfits:
        worst = max(state.misfits, key=lambda misfit: misfit.share)
        more = and_more(len(state.misfits) - 1, "field")
        kind = "an unseen value" if worst.what == "unseen" else "a value of a wrong type"
        yield Finding(
            "features-misfit", NOTICE,
            f"{worst.path} has {kind} in {worst.share:.0%} of the last {worst.num_rows} counted"
            f" requests{more}",
            "does the caller send something else since the last round? The next one fits the"
            " encoding to it; `GET /bandits/{name}` shows all fields under `features`",
        )  # fmt: skip

    misfits = {misfit.path for misfit in state.misfits}
    moved = [each for each in state.drifts if each[0] not in misfits]  # those have their notice
    if moved:
        path, index = moved[0]
        more = and_more(len(moved) - 1, "field")
        yield Finding(
            "features-drift", NOTICE,
            f"recent values of {path} are distributed otherwise than those that were learned:"
            f" population stability index {index:.2f}{more}",
            "is that a change of the world, or of the caller? A change of the world is learned, the"
            " faster with `forgetting`; GET /bandits/{name} shows the index of each field",
        )  # fmt: skip
    if state.collisions:
        path, share = state.collisions[0]
        more = and_more(len(state.collisions) - 1, "field")
        yield Finding(
            "features-collide", NOTICE,
            f"{share:.0%} of the counted values of {path} share a place with another value{more}",
            "the model takes them for one; a PUT with a larger `width` of the field, or with a"
            " coarser field in its place, learns the log anew (docs/features.md)",
        )  # fmt: skip
