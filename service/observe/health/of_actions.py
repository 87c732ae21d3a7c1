"""Findings of what was served: a worse action, one action alone, and predictions that are off.

All are of recent values: see `service.observe.evidence`.
"""

from __future__ import annotations

from collections.abc import Iterator

from service.observe.evidence import DECILES, GAPS, PULLS, SURE, Evidence
from service.observe.health.findings import ALARM, NOTICE, Finding
from service.observe.health.observed import BanditState

RIVALS_SHOWN = 99  # of whom it is known what they earned


def check_worse(state: BanditState) -> Iterator[Finding]:
    """Yield that another action would surely have earned more than what was served."""
    worse = state.evidence.worse
    if worse is None or not state.enabled(worse.better):
        return
    reach = SURE * worse.error
    yield Finding(
        "worse-action", ALARM,
        f"{worse.served!r} has {worse.share:.0%} of the last {worse.rows} decisions, and"
        f" {worse.better!r} in all of them would have earned {worse.gain:.3g} more each"
        f" ({worse.gain - reach:.3g} to {worse.gain + reach:.3g}, by inverse propensities of the"
        f" {worse.num} times that it was chosen)",
        "did rewards or contexts change? Forgetting (forgetting.half_life) unlearns the past, and"
        f' {{"serve": "{worse.better}"}} serves the better one at once (docs/arms.md)',
    )  # fmt: skip


def check_one_sided(state: BanditState) -> Finding | None:
    """Return that one action has nearly all decisions while others may be as good."""
    found = state.evidence
    if not found.rivals or found.rivals[0].name != found.top or found.worse is not None:
        return None
    own, *others = found.rivals
    others = [each for each in others if state.enabled(each.name)]
    if own.high is None or state.num_enabled < 2 or found.top is None:
        return None
    unsure = [r for r in others if r.num >= PULLS and r.high is not None and r.high > own.high]
    few = [r for r in others if r.num < PULLS]
    untried = state.num_enabled - 1 - len(others) if len(others) < RIVALS_SHOWN else 0
    if not unsure and not few and untried <= 0:
        return None
    if unsure:
        most = max(unsure, key=lambda rival: rival.high or 0.0)
        why = (
            f"{most.name!r} may be better: it earned up to {most.high:.3g} in {most.num} values,"
            f" and {own.name!r} {own.low:.3g} to {own.high:.3g}"
        )
    else:
        num = len(few) + max(0, untried)
        why = f"{num} other actions have fewer than {PULLS} values: too few to say that it is best"
    return Finding(
        "one-sided", NOTICE,
        f"{found.top!r} has {found.share:.1%} of the last {found.num} decisions, and {why}",
        "nobody can say yet that this is right: a higher selection.epsilon, or limits.floor of"
        " single actions, tells sooner; where you know that it is, nothing has to be done",
    )  # fmt: skip


def check_predictions(state: BanditState) -> Iterator[Finding]:
    """Yield that what was expected of actions is not what came."""
    gaps = state.evidence.gaps
    if len(gaps) < GAPS:
        return
    worst = max(gaps, key=lambda d: abs(d.observed - d.predicted))
    num = sum(d.num for d in state.evidence.deciles)
    yield Finding(
        "miscalibrated", NOTICE,
        f"predictions are off in {len(gaps)} of {DECILES} deciles of the last {num}: where"
        f" {worst.predicted:.3g} was expected, {worst.observed:.3g} came, within {worst.error:.2g}",
        "the model does not describe these rewards: did the world change (forgetting), is"
        " reward_range right, would another encoder suit the inputs (docs/encoders.md)?",
    )  # fmt: skip


def check_days(found: Evidence) -> Iterator[Finding]:
    """Yield how the last day differs from those before: the join rate, and the delays."""
    if found.joins is not None:
        was, now, _ = found.joins
        yield Finding(
            "join-rate-moved", NOTICE,
            f"values per chosen action: {now:.3g} in the last day, {was:.3g} in the days before",
            "does a part of the callers report more or less than before? A reward that some do not"
            " report makes what they show look bad",
        )  # fmt: skip
    if found.delays is not None:
        was, now, apart = found.delays
        yield Finding(
            "delays-moved", NOTICE,
            f"half of the values come within {now:g} s in the last day, and came within {was:g} s"
            f" in the days before (population stability index {apart:.2f})",
            "is a queue behind? reward_window_s and a fixed maturity have to fit the delays",
        )  # fmt: skip
